// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"

	"panal/internal/client"
	"panal/internal/plat"
)

// queryFlags choose files by a query, which does nothing until it is confirmed.
type queryFlags struct {
	Query string `help:"All files that this finds, instead of ids; \"*\" for everything. Says how many there are, and does nothing without --yes." short:"q"`
	Yes   bool   `help:"Really do it."`
}

// everything is the query that matches every file.
const everything = "file_id:*"

func (q queryFlags) text() string { return fileQuery(q.Query) }

// fileQuery is what the server is asked for a query as it was typed: every command takes "*".
func fileQuery(q string) string {
	if q == "*" {
		return everything
	}
	return q
}

// oneOf wants either ids or a query.
func (q queryFlags) oneOf(ids []string) error {
	if (len(ids) == 0) == (q.Query == "") {
		return plat.Errorf(plat.ErrInvalid, "name the files, or say which with --query (\"*\" for all)")
	}
	return nil
}

// dryRun tells what a query is about.
func (e *env) dryRun(channel, q, what string) error {
	plan, err := e.api.PlanDeletion(e.ctx, channel, q)
	if err != nil {
		return err
	}
	return e.printPlan(plan, what)
}

func (e *env) printPlan(plan client.FileDeletion, what string) error {
	rows := make([][]string, len(plan.Sample))
	for i, f := range plan.Sample {
		rows[i] = fileRow(f)
	}
	err := e.print(map[string]any{"dry_run": true, "count": plan.Count, "sample": plan.Sample}, fileHeader(), rows)
	if more := plan.Count - int64(len(rows)); more > 0 && !e.json {
		e.say("… and %d more", more)
	}
	e.say("%d files would be %s; nothing was done. Add --yes to do it.", plan.Count, what)
	return err
}

type fileDeleteCmd struct {
	channelArg
	Files []string `arg:"" optional:"" help:"File ids."`
	queryFlags
}

// Help implements kong's interface.
func (*fileDeleteCmd) Help() string {
	return `  panal file delete digits -q 'split:test AND label:7'        says what would go
  panal file delete digits -q 'split:test AND label:7' --yes  deletes it

What is uploaded after the command has begun stays. After an interruption, run it again.`
}

// Run deletes files.
func (c *fileDeleteCmd) Run(e *env) error {
	if err := c.oneOf(c.Files); err != nil {
		return err
	}
	id, err := c.id(e)
	if err != nil {
		return err
	}
	if c.Query != "" {
		return c.byQuery(e, id)
	}
	deleted, failed := []string{}, (*filesError)(nil)
	for i, f := range c.Files {
		err := e.api.DeleteFile(e.ctx, id, f)
		switch {
		case err == nil:
			deleted = append(deleted, f)
			continue
		case failed == nil:
			failed = &filesError{first: err}
		}
		failed.failed++
		e.say("panal: %s: %v", clean(f), err)
		if fatal(err) {
			if left := len(c.Files) - i - 1; left > 0 {
				e.say("%d not tried", left)
			}
			break
		}
	}
	if err := e.print(map[string][]string{"deleted": deleted}, []string{"DELETED"}, [][]string{{fmt.Sprint(len(deleted))}}); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	return nil
}

func (c *fileDeleteCmd) byQuery(e *env, channel string) error {
	q := c.text()
	plan, err := e.api.PlanDeletion(e.ctx, channel, q)
	if err != nil {
		return err
	}
	if !c.Yes {
		return e.printPlan(plan, "deleted")
	}
	bar := e.progress(int(plan.Count), "deleting", "files")
	var files, bytes int64
	for confirm := plan.Confirm; confirm != nil && err == nil; {
		var step client.FileDeletion
		err = again(e.ctx, passing, func() error {
			var err error
			step, err = e.api.DeleteFiles(e.ctx, channel, q, *confirm)
			return err
		})
		if err == nil {
			files, bytes, confirm = files+step.Deleted, bytes+step.DeletedBytes, step.Confirm
			bar.add(int(step.Deleted))
		}
	}
	bar.done()
	perr := e.print(map[string]any{"dry_run": false, "deleted": files, "deleted_bytes": bytes}, []string{"DELETED", "BYTES"}, [][]string{{fmt.Sprint(files), fmt.Sprint(bytes)}})
	return errors.Join(err, perr)
}

// changeFiles does something to each of the files, or to all that a query finds.
func (e *env) changeFiles(channel string, ids []string, q queryFlags, flags reportFlags, change func(ctx context.Context, id string) error) error {
	total := len(ids)
	if q.Query != "" {
		total = -1
	}
	r := e.newTransfer(flags, globs{}, "changed", total, e.progress(total, "changing", "files"))
	one := func(ctx context.Context, id string) (outcome, error) {
		defer r.bar.add(1)
		return outcome{FileID: id}, again(ctx, passing, func() error { return change(ctx, id) })
	}
	if q.Query == "" {
		return r.finish(r.all(len(ids), func(ctx context.Context, i int) (outcome, error) { return one(ctx, ids[i]) }))
	}
	// In the order of the upload, which no change alters: none is met twice.
	return r.finish(e.api.Files(e.ctx, channel, q.text(), false, 1000, func(f client.File) error {
		return r.do(func(ctx context.Context) (outcome, error) { return one(ctx, f.ID) })
	}))
}

type fileSetMetadataCmd struct {
	channelArg
	Files    []string          `arg:"" optional:"" help:"File ids."`
	Metadata map[string]string `help:"Set this name; give it once per name." short:"m" aliases:"meta" mapsep:"none" placeholder:"KEY=VALUE"`
	Remove   []string          `help:"Remove this name; give it once per name." placeholder:"KEY" sep:"none"`
	queryFlags
	reportFlags
}

// Help implements kong's interface.
func (*fileSetMetadataCmd) Help() string {
	return `Names that are not mentioned stay as they are.

  panal file set-metadata digits 20240315T081502-… -m label=7 --remove draft
  panal file set-metadata digits -q 'NOT split:train' -m split=test --yes`
}

// Run changes metadata.
func (c *fileSetMetadataCmd) Run(e *env) error {
	if err := c.oneOf(c.Files); err != nil {
		return err
	}
	patch := map[string]*string{}
	for k, v := range c.Metadata {
		patch[k] = &v
	}
	for _, k := range c.Remove {
		if _, both := patch[k]; both {
			return plat.InvalidField("remove", "%q is set too", k)
		}
		patch[k] = nil
	}
	if len(patch) == 0 {
		return plat.Errorf(plat.ErrInvalid, "say what to change with --metadata KEY=VALUE or --remove KEY")
	}
	id, err := c.id(e)
	if err != nil {
		return err
	}
	if c.Query != "" && !c.Yes {
		return e.dryRun(id, c.text(), "changed")
	}
	return e.changeFiles(id, c.Files, c.queryFlags, c.reportFlags, func(ctx context.Context, file string) error {
		_, err := e.api.PatchFileMetadata(ctx, id, file, patch)
		return err
	})
}

type fileSetLifetimeCmd struct {
	channelArg
	Lifetime lifetime `arg:"" help:"1day, 1week, 1month, 6months or 1year, from the upload on. What is older than that ends at once."`
	Files    []string `arg:"" optional:"" help:"File ids."`
	queryFlags
	reportFlags
}

// Run changes lifetimes.
func (c *fileSetLifetimeCmd) Run(e *env) error {
	if err := c.oneOf(c.Files); err != nil {
		return err
	}
	id, err := c.id(e)
	if err != nil {
		return err
	}
	if c.Query != "" && !c.Yes {
		return e.dryRun(id, c.text(), "given a lifetime of "+string(c.Lifetime))
	}
	return e.changeFiles(id, c.Files, c.queryFlags, c.reportFlags, func(ctx context.Context, file string) error {
		return e.api.SetFileLifetime(ctx, id, file, string(c.Lifetime))
	})
}
