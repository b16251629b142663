// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"time"

	"panal/internal/client"
	"panal/internal/plat"
)

type logCmd struct {
	Job     logJobCmd     `cmd:"" help:"Show a training job's log."`
	Service logServiceCmd `cmd:"" help:"Show a service's log."`
}

// Help is shown by panal log --help.
func (logCmd) Help() string {
	return `Lines come oldest first. With --output json each is an object on a line of its
own (as with jsonl). --follow shows the last 100 lines (or all --since) and then what comes, until
interrupted.

  panal log job digits 1712000000044 --since 10m
  panal log service 1740000000088 ser-7be2d1904c3f4a58 --follow`
}

// logFlags select lines.
type logFlags struct {
	Since  string `help:"Earliest time (2026-01-02T15:04:05Z), or how long ago (10m, 2h)."`
	Until  string `help:"Latest time, exclusive; same forms."`
	Text   string `help:"Only lines with this text." name:"text"`
	Follow bool   `help:"Go on as lines come." short:"f"`
}

type logJobCmd struct {
	Definition string `arg:"" help:"Job definition, id or name."`
	ID         string `arg:"" help:"Job id." name:"job"`
	logFlags
}

// Run shows a job's log.
func (c *logJobCmd) Run(e *env) error { return c.show(e, e.api.JobPath(c.Definition, c.ID)) }

type logServiceCmd struct {
	Deployment string `arg:"" help:"Deployment, by id, or by name where that is unique."`
	ID         string `arg:"" help:"Service id." name:"service"`
	logFlags
}

// Run shows a service's log.
func (c *logServiceCmd) Run(e *env) error {
	id, err := deploymentArg{c.Deployment}.id(e)
	if err != nil {
		return err
	}
	return c.show(e, e.api.ServicePath(id, c.ID))
}

// followEvery is how often --follow asks for new lines.
const followEvery = time.Second

func (f logFlags) show(e *env, path string) error {
	q := client.LogQuery{Text: f.Text}
	var err error
	now := plat.SystemClock()
	if q.Since, err = timeOrAgo("since", f.Since, now); err != nil {
		return err
	}
	if q.Until, err = timeOrAgo("until", f.Until, now); err != nil {
		return err
	}
	if !f.Follow {
		return e.api.Logs(e.ctx, path, q, e.printLog)
	}
	if !q.Until.IsZero() {
		return plat.InvalidField("until", "does not go with --follow")
	}
	events, token, err := e.api.RecentLogs(e.ctx, path, q)
	if err != nil {
		return err
	}
	if err := e.printLog(events); err != nil {
		return err
	}
	for {
		if events, token, err = e.api.FollowLogs(e.ctx, path, token); err != nil {
			return err
		}
		if err := e.printLog(events); err != nil {
			return err
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-e.ctx.Done():
			return e.ctx.Err()
		case <-time.After(followEvery):
		}
	}
}

// printLog writes lines as they come: no table, whose columns would have to wait
// for the last one.
func (e *env) printLog(events []client.LogEvent) error {
	w := bufio.NewWriter(e.stdout)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for _, ev := range events {
		var err error
		if e.json {
			err = enc.Encode(ev)
		} else {
			_, err = fmt.Fprintf(w, "%s %-7s %s\n", clean(ev.Timestamp), clean(ev.Level), clean(ev.Message))
		}
		if err != nil {
			return err
		}
	}
	return w.Flush()
}

// timeOrAgo reads a time, or a duration back from now; empty is the zero time.
func timeOrAgo(field, s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	t, err := plat.ParseTime(s)
	if err != nil {
		return time.Time{}, plat.InvalidField(field, "%q is neither a time (2026-01-02T15:04:05Z) nor a duration (10m, 2h)", s)
	}
	return t, nil
}
