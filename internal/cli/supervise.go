// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"panal/internal/app"
	"panal/internal/config"
	"panal/internal/plat"
	"panal/internal/x/supervise"
)

type superviseCmd struct {
	config.Server `embed:""`
}

// Help is shown by panal supervise --help.
func (superviseCmd) Help() string {
	return `Takes the flags of panal serve, and runs that. The listening sockets are this
process': while there is no server, callers wait for the next one instead of being
refused. A server that dies is started again, at once and then ever more slowly;
a first one that can't run as it is configured is not.

  kill -HUP PID     replaces the server by the program that is at its path now, with
                    its configuration read anew: no request is lost. If the new one
                    does not start, the old one goes on. Uploads and downloads
                    under way end first, and streams go on in the old one,
                    both for up to --stream-grace.
  kill -TERM PID    ends both. So does panal stop.

Which addresses are held is settled at the start of this process.`
}

// exitError is the exit code of a command that has said itself what is wrong.
type exitError int

// Error implements error.
func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// Run keeps a server running until a signal.
func (c *superviseCmd) Run(e *env) error {
	if len(e.args) == 0 || e.args[0] != "supervise" {
		return plat.Errorf(plat.ErrInvalid, "supervise must be the first word after panal; its flags follow it")
	}
	if err := c.Validate(); err != nil {
		return err
	}
	log, err := serverLog(c.Server, e.stderr)
	if err != nil {
		return err
	}
	// By the name it was called by: a link may point to another version by then.
	program, err := exec.LookPath(os.Args[0])
	if err == nil {
		program, err = filepath.Abs(program)
	}
	if err != nil {
		return fmt.Errorf("find the program: %w", err)
	}
	replace := make(chan os.Signal, 1)
	signal.Notify(replace, syscall.SIGHUP)
	defer signal.Stop(replace)
	listen := []supervise.Address{{Name: "http", Address: c.Listen}}
	if c.TLSListen != "" {
		listen = append(listen, supervise.Address{Name: "https", Address: c.TLSListen})
	}
	if c.Admin != "" {
		listen = append(listen, supervise.Address{Name: "admin", Address: c.Admin})
	}
	limit := c.LameDuck + max(c.Drain, c.StreamGrace) + c.Drain + time.Minute
	code, err := supervise.Run(e.ctx, supervise.Config{
		Command:      append([]string{program, "serve"}, e.args[1:]...),
		Env:          append(os.Environ(), app.SupervisorEnv+"="+strconv.Itoa(os.Getpid())),
		SuccessorEnv: []string{"PANAL_LOCK_WAIT=" + (2 * limit).String()},
		Listen:       listen,
		// Of the same configuration: what is invalid stays so, and an address or directory that is
		// another server's is not going to be free by itself. (Until one has been ready.)
		GiveUp: func(code int) bool { return code == exitInvalid || code == exitConflict },
		Limit:  limit, Output: e.stderr, Log: log.With(slog.String(plat.LogComponent, "supervise")),
	}, replace)
	switch {
	case err != nil:
		return err
	case code != 0:
		return exitError(code)
	}
	return nil
}
