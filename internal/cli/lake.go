// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"log/slog"
	"time"

	"panal/internal/app"
	"panal/internal/config"
)

type lakeCmd struct {
	Rebuild lakeRebuildCmd `cmd:"" help:"Make the index of channels and files anew from storage."`
}

type lakeRebuildCmd struct {
	config.Server `embed:""`
	Continue      bool `help:"Go on with a rebuild that broke off: what is restored stays."`
}

// Help is shown by panal lake rebuild --help.
func (lakeRebuildCmd) Help() string {
	return `For when the database is lost and the files are not: reads the change journal and
the list of objects, and writes the rows that they tell of into an empty index. Stop
the server first. On SQLite move DATA/lake.db (with -wal and -shm) away; on PostgreSQL
give an empty database. Datasets are records, not files: they are not restored.
Organizations that own files and are in no database any more are made anew under their ids,
each with an admin whose token is printed; the names, the other users, and what else was in that
database are lost.

Exit code 1 when files are named in the journal and their object is missing. Each of
those is named (the first 10,000): nothing knows of them afterwards.`
}

// Run rebuilds the index.
func (c *lakeRebuildCmd) Run(e *env) error {
	if err := c.Validate(); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	last := time.Now()
	out, err := app.RebuildLake(e.ctx, c.Server, log, c.Continue, func(channels, files, bytes int64) {
		if time.Since(last) >= time.Second {
			last = time.Now()
			_, _ = fmt.Fprintf(e.stderr, "%d channels, %d files, %d bytes\n", channels, files, bytes)
		}
	})
	if err != nil {
		return err
	}
	row := []string{fmt.Sprint(out.Channels), fmt.Sprint(out.Files), fmt.Sprint(out.Bytes), fmt.Sprint(out.Missing), fmt.Sprint(out.Unknown), fmt.Sprint(out.Homeless)}
	if err := e.print(out, []string{"CHANNELS", "FILES", "BYTES", "MISSING", "UNKNOWN", "HOMELESS"}, [][]string{row}); err != nil {
		return err
	}
	if !e.json {
		for _, f := range out.Lost {
			_, _ = fmt.Fprintf(e.stderr, "lost: channel %s file %s, %d bytes: %s\n", f.Channel, f.File, f.Size, f.Why)
		}
	}
	if !e.json {
		for _, o := range out.Organizations {
			e.say("organization %s was in no database: made anew as %s, with the admin user-%s and the token %s", o.ID, o.Name, o.Admin, o.Token)
		}
	}
	if out.Missing+out.Homeless > 0 {
		return fmt.Errorf("%d files of the journal could not be restored: their objects or channels are missing", out.Missing+out.Homeless)
	}
	return nil
}
