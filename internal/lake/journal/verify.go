// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"panal/internal/blob"
	"panal/internal/lake"
	"panal/internal/plat"
	"panal/internal/x/etag"
)

// Kind is what can be wrong with a channel.
type Kind string

// Kinds of damage.
const (
	KindObjectMissing Kind = "object_missing" // a row whose object is not there
	KindObjectSize    Kind = "object_size"    // an object of another size than its row's
	KindObjectContent Kind = "object_content" // an object whose bytes don't hash to the ETag (deep only)
	KindRowMissing    Kind = "row_missing"    // the journal has the file and its object is there: the row is not
	KindRowDeleted    Kind = "row_deleted"    // the journal says deleted, the row is there
	KindRowOld        Kind = "row_old"        // a row of an earlier state than the journal's: of a restored dump
	KindJournal       Kind = "journal"        // a row that the journal has not, or not as it is
	KindOrphan        Kind = "orphan"         // an object that is nobody's and past its grace
	KindCount         Kind = "count"          // the kept sums are not what the rows add up to
	KindTerms         Kind = "terms"          // the search index does not hold a row as it is
	KindStrayTerms    Kind = "stray_terms"    // the search index holds what is no row's
)

// Finding is how often a kind was found.
type Finding struct {
	Kind     Kind     `json:"kind"`
	Found    int64    `json:"found"`
	Repaired int64    `json:"repaired"`
	Examples []string `json:"examples"` // ids of some
}

// Report is what Verify found, by kind; empty when all is well.
type Report struct {
	Files    int64     `json:"files"` // rows that were looked at
	Young    int64     `json:"young"` // objects that are nobody's and within their grace, rows and entries on the way: not judged
	Findings []Finding `json:"findings"`
}

// Left is how much is wrong still.
func (r Report) Left() int64 {
	n := int64(0)
	for _, f := range r.Findings {
		n += f.Found - f.Repaired
	}
	return n
}

func (r *Report) add(kind Kind, example string, repaired bool) {
	i := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.Kind == kind })
	if i < 0 {
		i = len(r.Findings)
		r.Findings = append(r.Findings, Finding{Kind: kind, Examples: []string{}})
	}
	f := &r.Findings[i]
	f.Found++
	if repaired {
		f.Repaired++
	}
	if example != "" && len(f.Examples) < 10 {
		f.Examples = append(f.Examples, example)
	}
}

// VerifyOptions says how far Verify goes.
type VerifyOptions struct {
	Deep   bool // read every object and hash it
	Repair bool // mend what can be mended without losing data
}

// Verify compares a channel's rows, objects, journal, counts and search index, in one
// pass over three listings in one order; memory does not depend on their length. It may
// run beside changes: what looks wrong is looked at again before it counts.
//
// Repair recounts, re-indexes, journals rows as they are, brings back rows that the
// journal has and whose objects are there, and removes objects that are nobody's. A row
// without its whole object stays, for its metadata: only people can decide about it. So
// does a row that the journal says was deleted.
func (j *Journal) Verify(ctx context.Context, index Index, c lake.Channel, opt VerifyOptions) (Report, error) {
	v := &verify{j: j, index: index, c: c, opt: opt, out: Report{Findings: []Finding{}}}
	if err := v.run(ctx); err != nil {
		return v.out, fmt.Errorf("verify channel %s: %w", c.ID, err)
	}
	return v.out, nil
}

type verify struct {
	j     *Journal
	index Index
	c     lake.Channel
	opt   VerifyOptions
	out   Report

	rows  []lake.File
	after plat.FileID
	end   bool

	doubts []plat.FileID // to be judged
	swept  bool          // of stray terms, on the way
	strays int64         // which were that many
}

func (v *verify) run(ctx context.Context) error {
	prefix := lake.ChannelPrefix(v.c.Org, v.c.ID)
	mine := func(key string) bool { return strings.HasPrefix(key, prefix) }
	m, err := snapshot(ctx, v.j.blobs, mine)
	if err != nil {
		return err
	}
	defer func() { _ = m.close() }()
	objects := &objects{b: v.j.blobs, prefix: prefix}
	entry, err := nextOf(m, mine)
	for ; err == nil; entry, err = nextOf(m, mine) {
		if entry == nil {
			break
		}
		if entry.File == "" {
			continue
		}
		if err := v.until(ctx, objects, entry); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	if err := v.until(ctx, objects, nil); err != nil {
		return err
	}
	if err := v.judge(ctx); err != nil {
		return err
	}
	return v.sums(ctx)
}

// nextOf returns the next entry that is wanted, or nil.
func nextOf(m source, want func(string) bool) (*Entry, error) {
	for {
		e, err := m.next()
		if errors.Is(err, io.EOF) {
			return nil, nil //nolint:nilnil // there is none
		}
		if err != nil {
			return nil, err
		}
		if want(e.key()) {
			return &e, nil
		}
	}
}

// until checks every row up to an entry's file, and that one; nil is the end.
func (v *verify) until(ctx context.Context, o *objects, e *Entry) error {
	for {
		if len(v.rows) == 0 && !v.end {
			if err := v.page(ctx); err != nil {
				return err
			}
		}
		if len(v.rows) == 0 || e != nil && v.rows[0].ID > e.File {
			break
		}
		f := v.rows[0]
		v.rows = v.rows[1:]
		with := e
		if e != nil && e.File != f.ID {
			with = nil
		}
		if err := v.row(ctx, o, f, with); err != nil {
			return err
		}
		if with != nil {
			return nil
		}
	}
	if e == nil {
		_, err := v.object(ctx, o, "")
		return err
	}
	return v.noRow(ctx, o, e)
}

func (v *verify) page(ctx context.Context) error {
	rows, err := v.index.Rows(ctx, v.c.ID, v.after, 500)
	if err != nil {
		return err
	}
	v.rows, v.end = rows, len(rows) < 500
	if len(rows) == 0 {
		return nil
	}
	v.after = rows[len(rows)-1].ID
	v.out.Files += int64(len(rows))
	bad, err := v.badTerms(ctx, rows)
	if err != nil || len(bad) == 0 {
		return err
	}
	if v.opt.Repair {
		if err := v.index.RepairTerms(ctx, v.c.ID, bad); err != nil {
			return err
		}
	}
	for _, id := range bad {
		v.out.add(KindTerms, string(id), v.opt.Repair)
	}
	return nil
}

// badTerms returns the rows whose terms are not theirs. Terms are read after rows: what counts
// is whose row is still the same then.
func (v *verify) badTerms(ctx context.Context, rows []lake.File) (bad []plat.FileID, err error) {
	for len(rows) > 0 {
		odd, err := v.index.CheckTerms(ctx, v.c.ID, rows)
		if err != nil || len(odd) == 0 {
			return bad, err
		}
		rev := make(map[plat.FileID]int64, len(rows))
		for _, f := range rows {
			rev[f.ID] = f.Rev
		}
		now, err := v.index.RowsOf(ctx, v.c.ID, odd)
		if err != nil {
			return nil, err
		}
		rows = nil
		for _, f := range now {
			if f.Rev == rev[f.ID] {
				bad = append(bad, f.ID)
			} else {
				rows = append(rows, f)
			}
		}
	}
	return bad, nil
}

// object goes to a key's object; what it passes by has neither row nor entry.
func (v *verify) object(ctx context.Context, o *objects, key string) (*blob.Info, error) {
	var passed []string
	info, err := o.find(ctx, key, func(i blob.Info) {
		if v.young(i) {
			return
		}
		passed = append(passed, i.Key)
	})
	if err != nil {
		return nil, err
	}
	for _, k := range passed {
		if err := v.orphan(ctx, k); err != nil {
			return nil, err
		}
	}
	return info, nil
}

// young tells, and counts, whether an object is too young to be nobody's.
func (v *verify) young(i blob.Info) bool {
	if v.j.now().Sub(i.ModTime) >= lake.Grace {
		return false
	}
	v.out.Young++
	return true
}

func (v *verify) orphan(ctx context.Context, key string) error {
	id := plat.FileID(key[strings.LastIndexByte(key, '/')+1:])
	known, err := v.index.Known(ctx, v.c.ID, []plat.FileID{id})
	if err != nil || known[id] {
		return err
	}
	if v.opt.Repair {
		if err := v.j.blobs.Delete(ctx, key); err != nil {
			return err
		}
	}
	v.out.add(KindOrphan, string(id), v.opt.Repair)
	return nil
}

// row checks a row with its object and its entry, which may be nil.
func (v *verify) row(ctx context.Context, o *objects, f lake.File, e *Entry) error {
	key := lake.BlobKey(v.c.Org, v.c.ID, f.ID)
	info, err := v.object(ctx, o, key)
	if err != nil {
		return err
	}
	wrongObject := info == nil || info.Size != f.Size
	if wrongObject || v.opt.Deep {
		// Committed or deleted since the listings were read?
		now, err := v.index.RowsOf(ctx, v.c.ID, []plat.FileID{f.ID})
		if err != nil || len(now) == 0 {
			return err
		}
		f = now[0]
	}
	if wrongObject {
		at, err := v.j.blobs.Stat(ctx, key)
		switch {
		case errors.Is(err, plat.ErrNotFound):
			v.out.add(KindObjectMissing, string(f.ID), false)
		case err != nil:
			return err
		case at.Size != f.Size:
			v.out.add(KindObjectSize, string(f.ID), false)
		}
	} else if v.opt.Deep {
		same, err := v.hash(ctx, key, f.ETag)
		if err != nil {
			return err
		}
		if !same {
			v.out.add(KindObjectContent, string(f.ID), false)
		}
	}
	if !agree(&f, e) {
		return v.doubt(ctx, f.ID)
	}
	return nil
}

// noRow checks an entry that no row stands beside.
func (v *verify) noRow(ctx context.Context, o *objects, e *Entry) error {
	key := e.key()
	info, err := v.object(ctx, o, key)
	if err != nil || info == nil {
		return err
	}
	f := e.file()
	if e.Gone != 0 || !f.Live(v.j.now()) || info.Size != e.Size {
		if v.young(*info) {
			return nil
		}
		return v.orphan(ctx, key)
	}
	return v.doubt(ctx, e.File)
}

// Alive implements lake.Record.
func (j *Journal) Alive(ctx context.Context, keys []string) (map[string]bool, error) {
	wanted := map[string]bool{}
	for _, key := range keys {
		if parts := strings.SplitN(key, "/", 4); len(parts) == 4 {
			wanted[lake.ChannelPrefix(plat.OrgID(parts[1]), plat.ChannelID(parts[2]))] = true
		}
		wanted[key] = true
	}
	want := func(key string) bool { return wanted[key] }
	m, err := snapshot(ctx, j.blobs, want)
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	alive, home := map[string]bool{}, ""
	for {
		e, err := nextOf(m, want)
		if err != nil || e == nil {
			if err = errors.Join(err, m.close()); err != nil {
				err = fmt.Errorf("read the journal: %w", err)
			}
			return alive, err
		}
		k := e.key()
		switch {
		case e.Gone != 0:
			if e.File == "" {
				home = ""
			}
		case e.File == "":
			home = k
		case home != "" && strings.HasPrefix(k, home) && e.file().Live(j.now()):
			alive[k] = true
		}
	}
}

func (v *verify) hash(ctx context.Context, key, want string) (bool, error) {
	rc, _, err := v.j.blobs.Open(ctx, key, 0, -1)
	if errors.Is(err, plat.ErrNotFound) { // deleted this moment
		return true, nil
	}
	h := etag.New()
	if err == nil {
		_, err = io.Copy(h, rc)
		_ = rc.Close() // it was only read
	}
	if errors.Is(err, blob.ErrDamaged) { // the storage's own word for it
		return false, nil
	}
	return h.ETag() == want, err
}

// sums checks counts and what the search index holds too much.
func (v *verify) sums(ctx context.Context) error {
	strays, err := v.index.StrayTerms(ctx, v.c.ID, v.opt.Repair)
	if err != nil {
		return err
	}
	for range strays + v.strays {
		v.out.add(KindStrayTerms, "", v.opt.Repair)
	}
	rows, sums, err := v.index.CheckCounts(ctx, v.c.ID)
	if err != nil || rows == sums {
		return err
	}
	if v.opt.Repair {
		if err := v.index.Recount(ctx, v.c.ID); err != nil {
			return err
		}
	}
	v.out.add(KindCount, fmt.Sprintf("%d files, %d bytes; counted %d, %d", rows.Files, rows.Bytes, sums.Files, sums.Bytes), v.opt.Repair)
	return nil
}
