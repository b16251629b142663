// SPDX-License-Identifier: Apache-2.0

// Package blobtest is the suite that holds every blob.Driver to its contract:
// each sentence of the contract is a named subtest. An adapter's test is one call
// to Run, and one to Bench. Only tests import it.
package blobtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"panal/internal/blob"
	"panal/internal/plat"
)

// Harness tells the suite how to make the adapter under test.
type Harness struct {
	// New returns an empty store, released by tb.Cleanup.
	New func(tb testing.TB) blob.Driver
	// Full returns a store that is out of space for a body of more than 64 KiB.
	// Nil where the engine has no such state.
	Full func(tb testing.TB) blob.Driver
	// Caps is what the adapter declares it lacks.
	Caps Caps
}

// Caps lists what an adapter lacks. The zero value is the full contract.
type Caps struct {
	// BuffersBody: memory use grows with the body.
	BuffersBody bool
	// NoCopy: the driver is no blob.Copier.
	NoCopy bool
	// NeverFull: there is no state in which puts are ErrExhausted.
	NeverFull bool
	// Tree: the service behind the adapter keeps objects as files in directories, and refuses
	// (ErrInvalid) what these can't hold: an object below or above another, a segment of
	// more than 200 bytes (a temporary name beside it is longer).
	Tree bool
	// MaxKey is the longest key in bytes where that is less than blob.MaxKeyLen; 0: it is not.
	MaxKey int
}

// holds returns those of the keys that the adapter can hold side by side.
func (c Caps) holds(keys ...string) []string {
	var held []string
	for _, key := range keys {
		fits := c.MaxKey == 0 || len(key) <= c.MaxKey
		if c.Tree {
			fits = fits && !slices.ContainsFunc(held, func(other string) bool {
				return strings.HasPrefix(key, other+"/") || strings.HasPrefix(other, key+"/")
			})
			for seg := range strings.SplitSeq(key, "/") {
				fits = fits && len(seg) <= 200
			}
		}
		if fits {
			held = append(held, key)
		}
	}
	return held
}

// Case is one sentence of the contract.
type Case struct {
	name  string
	skip  func(Caps) bool
	check func(t *testing.T, h Harness)
}

// Run checks the whole contract.
func Run(t *testing.T, h Harness) {
	t.Helper()
	var sections []Case
	sections = append(sections, roundTripCases()...)
	sections = append(sections, keyCases()...)
	sections = append(sections, listCases()...)
	sections = append(sections, rangeCases()...)
	sections = append(sections, overwriteCases()...)
	sections = append(sections, cancelCases()...)
	sections = append(sections, concurrencyCases()...)
	sections = append(sections, copyCases()...)
	sections = append(sections, errorCases()...)
	sections = append(sections, closeCases()...)
	sections = append(sections, Case{"Model/random_calls_behave_like_a_map", nil, checkModel})
	for _, c := range sections {
		t.Run(c.name, func(t *testing.T) {
			if c.skip != nil && c.skip(h.Caps) {
				t.Skip("the adapter declares that it lacks this")
			}
			c.check(t, h)
		})
	}
}

// on adapts a check that needs nothing but a store.
func on(check func(t *testing.T, d blob.Driver)) func(*testing.T, Harness) {
	return func(t *testing.T, h Harness) {
		t.Helper()
		check(t, h.New(t))
	}
}

// unseekable hides every method of a reader but Read.
type unseekable struct{ io.Reader }

func body(s string) io.Reader { return unseekable{strings.NewReader(s)} }

func put(tb testing.TB, d blob.Driver, key, text string) {
	tb.Helper()
	if err := d.Put(tb.Context(), key, body(text), int64(len(text)), blob.PutOptions{}); err != nil {
		tb.Errorf("Put(%q) = %v", key, err)
	}
}

// get reads a range of an object.
func get(ctx context.Context, d blob.Driver, key string, off, n int64) (string, blob.Info, error) {
	rc, info, err := d.Open(ctx, key, off, n)
	if err != nil {
		return "", blob.Info{}, err
	}
	var buf bytes.Buffer
	_, err = buf.ReadFrom(rc)
	return buf.String(), info, errors.Join(err, rc.Close())
}

func wantObject(tb testing.TB, d blob.Driver, key, want string) {
	tb.Helper()
	got, info, err := get(tb.Context(), d, key, 0, -1)
	if err != nil {
		tb.Errorf("Open(%q) = %v", key, err)
		return
	}
	if got != want {
		tb.Errorf("Open(%q) read %s, want %s", key, brief(got), brief(want))
	}
	if info.Key != key || info.Size != int64(len(want)) {
		tb.Errorf("Open(%q) = info %+v, want size %d", key, info, len(want))
	}
	if info, err := d.Stat(tb.Context(), key); err != nil || info.Key != key || info.Size != int64(len(want)) {
		tb.Errorf("Stat(%q) = %+v, %v; want size %d", key, info, err, len(want))
	}
}

func wantMissing(tb testing.TB, d blob.Driver, key string) {
	tb.Helper()
	if got, _, err := get(tb.Context(), d, key, 0, -1); !errors.Is(err, plat.ErrNotFound) {
		tb.Errorf("Open(%q) = %s, %v; want ErrNotFound", key, brief(got), err)
	}
	if info, err := d.Stat(tb.Context(), key); !errors.Is(err, plat.ErrNotFound) {
		tb.Errorf("Stat(%q) = %+v, %v; want ErrNotFound", key, info, err)
	}
	for _, k := range keysOf(tb, d, key, 10) {
		if k == key {
			tb.Errorf("List shows %q, which must not exist", key)
		}
	}
}

func wantErr(tb testing.TB, what string, err, want error) {
	tb.Helper()
	if !errors.Is(err, want) {
		tb.Errorf("%s = %v, want %v", what, err, want)
	}
}

// keysOf lists all keys under prefix in pages of limit.
func keysOf(tb testing.TB, d blob.Driver, prefix string, limit int) []string {
	tb.Helper()
	var keys []string
	after := ""
	for {
		infos, more, err := d.List(tb.Context(), prefix, after, limit)
		if err != nil {
			tb.Fatalf("List(%q, %q, %d) = %v", prefix, after, limit, err)
		}
		if len(infos) > limit {
			tb.Fatalf("List(limit %d) returned %d", limit, len(infos))
		}
		for _, i := range infos {
			keys = append(keys, i.Key)
		}
		if !more {
			return keys
		}
		if len(infos) == 0 {
			tb.Fatalf("List(%q, %q) says that more follows but returned nothing", prefix, after)
		}
		after = infos[len(infos)-1].Key
	}
}

func brief(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}
