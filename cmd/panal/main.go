// SPDX-License-Identifier: Apache-2.0

// Command panal is the platform: server, agent and command line in one binary.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"panal/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := cli.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
