// SPDX-License-Identifier: Apache-2.0

package lake

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"panal/internal/lake/query"
	"panal/internal/plat"
)

// Bounds of a deletion by query.
const (
	// MaxDelete is how many files one call deletes.
	MaxDelete = 1000
	// deleteBatch is how many of them go in one transaction: few, so that uploads
	// don't wait long for the only writer of SQLite.
	deleteBatch = 100
	// deletionLife is how long a dry run is worth something.
	deletionLife = time.Hour
	// deletionSample is how many files a dry run shows.
	deletionSample = 10
)

// Deletion is a deletion by query that a dry run has looked at: only what had been
// uploaded by then goes. Its text (Token, ParseDeletion) is the confirmation that
// the real call must bring; whoever hands it out signs it.
type Deletion struct {
	Filter
	Until time.Time // good until then
}

type deletionToken struct {
	Channel plat.ChannelID `json:"c"`
	Query   string         `json:"q"`
	From    int64          `json:"f,omitempty"`
	To      int64          `json:"u"`
	Until   int64          `json:"e"`
}

// Token writes the deletion down.
func (d Deletion) Token() []byte {
	t := deletionToken{Channel: d.Channel, Query: d.Query.String(), To: d.To.UnixMicro(), Until: d.Until.Unix()}
	if !d.From.IsZero() {
		t.From = d.From.UnixMicro()
	}
	b, err := json.Marshal(t)
	if err != nil {
		panic(fmt.Sprintf("BUG: lake: deletion: %v", err))
	}
	return b
}

// ParseDeletion reads what Token wrote: a deletion of want, which is what the
// caller asks for again, and not too old at now.
func ParseDeletion(token []byte, want Filter, now time.Time) (Deletion, error) {
	bad := plat.InvalidField("confirm", "is not the confirmation of a dry run of this query on this channel; do the dry run again")
	if len(token) > maxToken || want.Query == nil {
		return Deletion{}, bad
	}
	dec := json.NewDecoder(bytes.NewReader(token))
	dec.DisallowUnknownFields()
	var t deletionToken
	if dec.Decode(&t) != nil {
		return Deletion{}, bad
	}
	if _, err := dec.Token(); err != io.EOF {
		return Deletion{}, bad
	}
	d := Deletion{Filter: want, Until: time.Unix(t.Until, 0).UTC()}
	d.To = time.UnixMicro(t.To).UTC()
	from := int64(0)
	if !want.From.IsZero() {
		from = want.From.UnixMicro()
	}
	switch {
	case t.Channel != want.Channel || t.Query != want.Query.String() || t.From != from || t.To <= 0 || !want.To.IsZero() && d.To.After(want.To):
		return Deletion{}, bad
	case !now.Before(d.Until):
		return Deletion{}, plat.InvalidField("confirm", "is older than %s; do the dry run again", deletionLife)
	}
	return d, nil
}

// PlanDeletion is the dry run: how many files match now, some of them, and the
// deletion to confirm. A query is required; file_id:* matches all.
func (s *Service) PlanDeletion(ctx context.Context, org plat.OrgID, f Filter) (d Deletion, count int64, sample []File, err error) {
	if _, err := s.own(ctx, org, f.Channel); err != nil {
		return Deletion{}, 0, nil, err
	}
	if f.Query == nil {
		return Deletion{}, 0, nil, query.Invalid("is required: it says what to delete; file_id:* is everything")
	}
	now := s.now()
	until := now.Add(deletionLife)
	newest, _, err := s.store.Files(ctx, Search{Filter: f, Sort: []SortKey{{Field: FieldUploadedAt, Desc: true}}, Limit: 1}, now)
	if err != nil {
		return Deletion{}, 0, nil, fmt.Errorf("plan a deletion in channel %s: %w", f.Channel, err)
	}
	if len(newest) == 0 {
		f.To = now
		return Deletion{Filter: f, Until: until}, 0, nil, nil
	}
	last := newest[0].UploadedAt
	// What was committed before this call began is in, and nothing that begins later.
	f.To = last.Add(time.Microsecond)
	if err := waitFor(ctx, min(last.Sub(now), maxLead)); err != nil {
		return Deletion{}, 0, nil, err
	}
	if count, err = s.store.Count(ctx, f, now); err != nil {
		return Deletion{}, 0, nil, fmt.Errorf("plan a deletion in channel %s: %w", f.Channel, err)
	}
	if sample, _, err = s.store.Files(ctx, Search{Filter: f, Limit: deletionSample}, now); err != nil {
		return Deletion{}, 0, nil, fmt.Errorf("plan a deletion in channel %s: %w", f.Channel, err)
	}
	return Deletion{Filter: f, Until: until}, count, sample, nil
}

// maxLead is the longest that a dry run waits for the clock. A process gives a busy channel
// one upload time a microsecond, so the newest may be ahead of the clock; what another
// process takes meanwhile would get an earlier one, and go with what was counted.
const maxLead = time.Second

func waitFor(ctx context.Context, d time.Duration) error {
	if d < 0 {
		return nil
	}
	select {
	case <-time.After(d + time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Deleted is what one call of Delete has done.
type Deleted struct {
	Files     int64
	Bytes     int64
	Remaining int64 // that still match
	// Next is the deletion to go on with, good for another hour.
	Next Deletion
}

// Delete deletes up to limit (at most MaxDelete) of the files of a deletion and
// returns their bytes to the storage. It is called again until nothing remains; a
// call that fails half-way leaves whole files and can be repeated.
func (s *Service) Delete(ctx context.Context, org plat.OrgID, d Deletion, limit int) (Deleted, error) {
	c, err := s.own(ctx, org, d.Channel)
	if err != nil {
		return Deleted{}, err
	}
	limit = min(max(limit, 1), MaxDelete)
	out := Deleted{Next: d}
	for limit > 0 {
		now := s.now()
		page, more, err := s.store.Files(ctx, Search{Filter: d.Filter, Limit: min(limit, deleteBatch)}, now)
		if err != nil {
			return out, fmt.Errorf("delete in channel %s: %w", d.Channel, err)
		}
		ids := make([]plat.FileID, len(page))
		for i, f := range page {
			ids[i] = f.ID
		}
		if limit -= len(ids); len(ids) == 0 {
			break
		}
		gone, err := s.store.DeleteMatching(ctx, d.Filter, ids, now)
		if err != nil {
			return out, fmt.Errorf("delete in channel %s: %w", d.Channel, err)
		}
		keys := make([]string, len(gone))
		for i, f := range gone {
			keys[i] = BlobKey(c.Org, c.ID, f.ID)
			out.Files, out.Bytes = out.Files+1, out.Bytes+f.Size
		}
		// What the storage keeps now has no row any more: Collect finds it.
		if err := s.deleteObjects(ctx, keys); err != nil && !later(err) {
			return out, fmt.Errorf("delete in channel %s: %w", d.Channel, err)
		}
		if !more {
			break
		}
	}
	out.Next.Until = s.now().Add(deletionLife)
	if out.Remaining, err = s.store.Count(ctx, d.Filter, s.now()); err != nil {
		return out, fmt.Errorf("delete in channel %s: %w", d.Channel, err)
	}
	return out, nil
}

// later tells whether the storage could not delete an object for now: it is away, or its
// disk has no room to note it.
func later(err error) bool {
	return errors.Is(err, plat.ErrUnavailable) || errors.Is(err, plat.ErrExhausted)
}

// deleteObjects deletes objects, several at a time: a storage across the network
// takes a while for each.
func (s *Service) deleteObjects(ctx context.Context, keys []string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, key := range keys {
		g.Go(func() error { return s.blobs.Delete(ctx, key) })
	}
	return g.Wait()
}
