// SPDX-License-Identifier: Apache-2.0

// Package goruntime sets what the Go runtime can't know of a server (docs/adr/0029).
package goruntime

import (
	"os"
	"runtime"
	"runtime/debug"
)

// ballast is counted by the garbage collector and never touched: it takes no memory.
var ballast []byte //nolint:gochecknoglobals,unused // lives as long as the process

// Tune is for the main program of a server, once. GOMAXPROCS and GOGC in the environment
// go before it.
func Tune() {
	if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) < 2 {
		// With one, whoever waits for the disk keeps the others from running until the runtime
		// notices, and then waits behind them all: of 64 uploads at once each was committed alone.
		runtime.GOMAXPROCS(2)
	}
	if os.Getenv("GOGC") == "" {
		// The collector runs after 10 MB and half of what lives, instead of as much as lives:
		// a small server's heap is collected half as often, a large one takes less memory.
		debug.SetGCPercent(50)
		ballast = make([]byte, 20<<20)
	}
}
