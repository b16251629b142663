// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"strconv"
	"time"

	"panal/internal/client"
	"panal/internal/plat"
)

type auditCmd struct {
	List auditListCmd `cmd:"" help:"List who changed what, newest first."`
}

type auditListCmd struct {
	Since     time.Duration `help:"Only of the last so much time, e.g. 1h." placeholder:"DURATION"`
	Start     string        `help:"Only from this moment on, e.g. 2026-01-02T15:04:05Z." placeholder:"TIME"`
	End       string        `help:"Only before this moment." placeholder:"TIME"`
	Actor     string        `help:"Only of this user, workload or datasource (its id)."`
	Operation string        `help:"Only this operation, by its id in /openapi.json, e.g. delete-file."`
	Limit     int           `help:"At most so many rows; 0: all." default:"100"`
}

// Help is shown by panal audit list --help.
func (auditListCmd) Help() string {
	return `Every call that changes something leaves a row before it is answered: who, what, when,
from where, and how it ended; refused ones too, at a bounded rate (MISSED counts the
others). Only admins read it, nobody changes it, and the server drops rows after
--audit-ttl. Inference, log lines and jobs' statistics are not in it.

  panal audit list --since 24h --operation delete-file
  panal audit list --limit 0 -o jsonl | jq -r .path`
}

// Run lists audit rows.
func (c *auditListCmd) Run(e *env) error {
	q := client.AuditQuery{Actor: c.Actor, Operation: c.Operation}
	for _, t := range []struct {
		name, text string
		to         *time.Time
	}{{"start", c.Start, &q.Start}, {"end", c.End, &q.End}} {
		if t.text == "" {
			continue
		}
		var err error
		if *t.to, err = plat.ParseTime(t.text); err != nil {
			return plat.InvalidField(t.name, "%q is not a time; write it like 2026-01-02T15:04:05Z", t.text)
		}
	}
	if c.Since < 0 || c.Since > 0 && c.Start != "" {
		return plat.InvalidField("since", "is a positive duration, and goes without --start")
	}
	if c.Since > 0 {
		q.Start = time.Now().Add(-c.Since)
	}
	rows := newList(e, []string{"TIME", "ACTOR", "ID", "OPERATION", "STATUS", "PATH", "SOURCE", "MISSED"}, auditCells)
	if err := e.api.Audit(e.ctx, q, func(r client.AuditRow) error { return rows.add(r, c.Limit) }); err != nil && !errors.Is(err, client.ErrStop) {
		return err
	}
	return rows.end()
}

func auditCells(r client.AuditRow) []string {
	return []string{r.Time, r.Actor, r.ActorID, r.Operation, strconv.Itoa(r.Status), r.Path, r.Source, strconv.FormatInt(r.Missed, 10)}
}
