// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"panal/internal/app"
	"panal/internal/config"
	"panal/internal/plat"
	"panal/internal/x/goruntime"
	"panal/internal/x/supervise"
)

type serveCmd struct {
	config.Server `embed:""`
}

// Help is shown by panal serve --help.
func (serveCmd) Help() string {
	return `Runs every role of the platform in this process: API, gateway, control. The
first start on a data directory makes organization "default", an admin and a
token, in DATA/admin.json; 'panal env --data DATA' prints them for a shell.

Workloads (training jobs, service instances) are processes of their own: they go
on when this process ends, and are found again when it starts. 'panal stop
--workloads' ends them too.`
}

// Run serves until a signal.
func (c *serveCmd) Run(e *env) error {
	starter, err := app.TakeStarter()
	if err != nil {
		return err
	}
	if err := c.Validate(); err != nil {
		return err
	}
	log, err := serverLog(c.Server, e.stderr)
	if err != nil {
		return err
	}
	goruntime.Tune()
	handOver := make(chan os.Signal, 1)
	signal.Notify(handOver, supervise.HandOver)
	defer signal.Stop(handOver)
	a, err := app.Build(e.ctx, c.Server, log, starter)
	if e.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		log.LogAttrs(e.ctx, slog.LevelInfo, "panal was told to end before it was up")
		return nil // as it would have been later
	}
	if err != nil {
		return err
	}
	return a.Run(e.ctx, handOver)
}

// serverLog is the log that the configuration asks for.
func serverLog(c config.Server, to io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return nil, plat.InvalidField("log-level", "%q is not a level", c.LogLevel)
	}
	opts := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(to, opts)), nil
	}
	return slog.New(slog.NewTextHandler(to, opts)), nil
}

type stopCmd struct {
	Data      string        `help:"Data directory of the server." default:"./panal-data" env:"PANAL_DATA" type:"path"`
	Workloads bool          `help:"End all jobs and service instances too."`
	Timeout   time.Duration `help:"How long to wait for the server to drain." default:"60s"`
}

// Run stops the server that owns a data directory.
func (c *stopCmd) Run(e *env) error {
	pid, stop, err := app.ServerPIDs(c.Data)
	switch {
	case err == nil:
		if err := syscall.Kill(stop, syscall.SIGTERM); err != nil {
			return fmt.Errorf("signal process %d: %w", stop, err)
		}
		for deadline := time.Now().Add(c.Timeout); ; time.Sleep(20 * time.Millisecond) {
			if _, err := app.ServerPID(c.Data); err != nil {
				break
			}
			if time.Now().After(deadline) {
				return plat.Errorf(plat.ErrUnavailable, "the server (pid %d) is still draining after %s", pid, c.Timeout)
			}
			if e.ctx.Err() != nil {
				return e.ctx.Err()
			}
		}
		e.say("server %d stopped", pid)
	case c.Workloads && plat.KindOf(err) == plat.ErrNotFound: //nolint:errorlint // KindOf returns the sentinel itself
		e.say("no server runs on %s", c.Data)
	default:
		return err
	}
	if !c.Workloads {
		return nil
	}
	n, err := app.StopWorkloads(e.ctx, c.Data, slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		return err
	}
	e.say("%d workloads ended", n)
	return nil
}

type envCmd struct {
	Data string `help:"Data directory of the server." default:"./panal-data" env:"PANAL_DATA" type:"path"`
}

// Help is shown by panal env --help.
func (envCmd) Help() string {
	return `Use it as: eval "$(panal env --data DIR)". The original clients read the same variables.`
}

// Run prints export lines for a shell.
func (c *envCmd) Run(e *env) error {
	a, err := app.ReadAdmin(c.Data)
	if err != nil {
		return err
	}
	vars := [][2]string{
		{"ABEJA_API_URL", a.APIURL},
		{"ABEJA_ORGANIZATION_ID", a.OrganizationID},
		{"ABEJA_PLATFORM_USER_ID", a.UserID},
		{"ABEJA_PLATFORM_PERSONAL_ACCESS_TOKEN", a.Token},
	}
	if e.json {
		m := map[string]string{}
		for _, v := range vars {
			m[v[0]] = v[1]
		}
		return e.printJSON(m)
	}
	for _, v := range vars {
		if _, err := fmt.Fprintf(e.stdout, "export %s='%s'\n", v[0], strings.ReplaceAll(v[1], "'", `'\''`)); err != nil {
			return err
		}
	}
	return nil
}

type configCmd struct {
	Print configPrintCmd `cmd:"" help:"Print the configuration that panal serve would use, secrets redacted."`
}

type configPrintCmd struct {
	config.Server `embed:""`
}

// Run prints the configuration as YAML.
func (c *configPrintCmd) Run(e *env) error {
	if err := c.Validate(); err != nil {
		return err
	}
	return c.Print(e.stdout)
}

// hidden dispatches the commands that a server starts for its workloads. They are
// not for people, and they must not wait for a command line parser: an agent's
// arguments and environment are its own.
func hidden(args []string) (int, bool) {
	if len(args) == 0 {
		return 0, false
	}
	switch args[0] {
	case "agent":
		return app.AgentMain(args[1:], os.Stdout, os.Stderr), true
	case "agent-init":
		return app.AgentInitMain(args[1:]), true
	}
	return 0, false
}
