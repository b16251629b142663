// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"panal/internal/feed"
	"panal/internal/plat"
)

// observer looks at keys of a link and writes what it finds.
type observer struct {
	channel plat.ChannelID
	rows    Rows
	bucket  Bucket
	looks   int // at a time
	// write does Rows.Write, possibly later.
	write func(ctx context.Context, all []Observation) ([]Outcome, error)
}

// tries bounds how often a key is looked at again because another wrote it meanwhile.
// Each time somebody got on, so this many is a key that changes all the time.
const tries = 8

// result is what became of the keys of one observe.
type result struct {
	failed  map[string]error // keys that are not in step for sure
	looked  int
	changed int
}

// observe brings keys in step. Each has the newest sequencer of its events, or none: then
// it's looked at in any case.
func (o *observer) observe(ctx context.Context, keys map[string]feed.Sequencer) result {
	res := result{failed: map[string]error{}}
	left := make([]string, 0, len(keys))
	for k := range keys {
		left = append(left, k)
	}
	slices.Sort(left) // writers that lock several rows do it in one order
	for some := range slices.Chunk(left, atOnce) {
		o.some(ctx, some, keys, &res)
	}
	return res
}

// atOnce is how many objects are in memory at a time, with their metadata. A batch seldom
// has more, but one message may name thousands.
const atOnce = 1000

func (o *observer) some(ctx context.Context, left []string, keys map[string]feed.Sequencer, res *result) {
	for try := 0; len(left) > 0; try++ {
		if try == tries {
			for _, k := range left {
				res.failed[k] = plat.Errorf(plat.ErrConflict, "the object changed each of %d times it was looked at", tries)
			}
			return
		}
		left = o.once(ctx, left, keys, res)
	}
}

// once looks at keys and returns those that another wrote meanwhile.
func (o *observer) once(ctx context.Context, keys []string, seqs map[string]feed.Sequencer, res *result) (again []string) {
	// Before the look: see the package's comment.
	rows, err := o.rows.Rows(ctx, o.channel, keys)
	if err != nil {
		return res.fail(keys, err)
	}
	all := make([]Observation, 0, len(keys))
	for _, k := range keys {
		row, there := rows[k]
		if seq := seqs[k]; there && seq != "" && row.Sequencer.Compare(seq) >= 0 {
			continue // somebody looked after this event happened
		}
		row.Key = k
		all = append(all, Observation{Was: row, Sequencer: seqs[k]})
	}
	res.looked += len(all)
	all = o.look(ctx, all, res)
	return o.put(ctx, all, res)
}

func (r *result) fail(keys []string, err error) []string {
	for _, k := range keys {
		r.failed[k] = err
	}
	return nil
}

// look fills in what is there, and leaves out what can't be looked at.
func (o *observer) look(ctx context.Context, all []Observation, res *result) []Observation {
	errs := make([]error, len(all))
	var g errgroup.Group
	g.SetLimit(o.looks)
	for i := range all {
		g.Go(func() error {
			obj, err := o.bucket.Look(ctx, all[i].Was.Key)
			switch {
			case err == nil:
				if len(obj.ETag) > maxETag {
					errs[i] = plat.Errorf(plat.ErrInvalid, "the object's ETag has %d bytes", len(obj.ETag))
				}
				obj.Key = all[i].Was.Key
				all[i].Object = &obj
			case !errors.Is(err, plat.ErrNotFound):
				errs[i] = fmt.Errorf("look at object: %w", err)
			}
			return nil
		})
	}
	_ = g.Wait() // none returns one
	seen := all[:0:0]
	for i := range all {
		if errs[i] != nil {
			res.failed[all[i].Was.Key] = errs[i]
			continue
		}
		seen = append(seen, all[i])
	}
	return seen
}

// put writes observations and returns the keys that are to be looked at again. What the
// database refuses for a reason of its own is found by halves: it must not take others with it.
func (o *observer) put(ctx context.Context, all []Observation, res *result) (again []string) {
	if len(all) == 0 {
		return nil
	}
	out, err := o.write(ctx, all)
	switch {
	case err == nil:
	case len(all) > 1 && (plat.KindOf(err) == nil || errors.Is(err, plat.ErrInvalid)) && ctx.Err() == nil:
		half := len(all) / 2
		return append(o.put(ctx, all[:half], res), o.put(ctx, all[half:], res)...)
	default:
		for _, ob := range all {
			res.failed[ob.Was.Key] = fmt.Errorf("write: %w", err)
		}
		return nil
	}
	for i, done := range out {
		switch {
		case !done.Written:
			again = append(again, all[i].Was.Key)
		case done.Changed:
			res.changed++
		}
	}
	return again
}

// within tells whether a link has to do with an object.
func (p Place) within(bucket, key string) bool {
	return bucket == p.Bucket && strings.HasPrefix(key, p.Prefix)
}
