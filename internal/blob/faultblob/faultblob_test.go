// SPDX-License-Identifier: Apache-2.0

package faultblob_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"panal/internal/blob"
	"panal/internal/blob/blobtest"
	"panal/internal/blob/faultblob"
	"panal/internal/blob/memblob"
	"panal/internal/plat"
)

func TestContract(t *testing.T) {
	blobtest.Run(t, blobtest.Harness{
		New: func(testing.TB) blob.Driver { return faultblob.New(memblob.New()) },
		Full: func(testing.TB) blob.Driver {
			return faultblob.New(memblob.New(), faultblob.Fault{Op: faultblob.OpPut, Err: plat.ErrExhausted, AfterBytes: 64 << 10})
		},
		Caps: blobtest.Caps{BuffersBody: true, NoCopy: true}, // memblob below it does
	})
}

var errBroken = errors.New("broken")

func put(t *testing.T, d blob.Driver, key, text string) error {
	t.Helper()
	return d.Put(t.Context(), key, strings.NewReader(text), -1, blob.PutOptions{})
}

func TestSkipTimesAndPrefix(t *testing.T) {
	d := faultblob.New(memblob.New(), faultblob.Fault{Op: faultblob.OpStat, Prefix: "a/", Skip: 1, Times: 2, Err: errBroken})
	for _, key := range []string{"a/1", "b"} {
		if err := put(t, d, key, "x"); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []error{nil, errBroken, errBroken, nil, nil} {
		if _, err := d.Stat(t.Context(), "b"); err != nil {
			t.Errorf("Stat(b) = %v, outside of the prefix", err)
		}
		if _, err := d.Stat(t.Context(), "a/1"); !errors.Is(err, want) {
			t.Errorf("call %d: Stat = %v, want %v", i, err, want)
		}
	}
}

func TestEveryOperationFails(t *testing.T) {
	inner := memblob.New()
	if err := put(t, inner, "k", "old"); err != nil {
		t.Fatal(err)
	}
	d := faultblob.New(inner, faultblob.Fault{Err: errBroken})
	_, _, open := d.Open(t.Context(), "k", 0, -1)
	_, stat := d.Stat(t.Context(), "k")
	_, _, list := d.List(t.Context(), "", "", 1)
	for name, err := range map[string]error{
		"Put": put(t, d, "k", "new"), "Open": open, "Stat": stat, "List": list, "Delete": d.Delete(t.Context(), "k"),
	} {
		if !errors.Is(err, errBroken) {
			t.Errorf("%s = %v", name, err)
		}
	}
	d.SetScript()
	rc, _, err := d.Open(t.Context(), "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(rc); err != nil || string(got) != "old" {
		t.Errorf("after the faults: %q, %v; want what was there before", got, err)
	}
}

func TestBodiesBreakOff(t *testing.T) {
	d := faultblob.New(memblob.New(),
		faultblob.Fault{Op: faultblob.OpPut, Times: 1, Err: plat.ErrExhausted, AfterBytes: 3},
		faultblob.Fault{Op: faultblob.OpRead, Times: 1, Err: io.ErrUnexpectedEOF, AfterBytes: 4})
	if err := put(t, d, "k", "hello"); !errors.Is(err, plat.ErrExhausted) {
		t.Errorf("Put = %v", err)
	}
	if _, err := d.Stat(t.Context(), "k"); !errors.Is(err, plat.ErrNotFound) {
		t.Errorf("Stat = %v", err)
	}
	if err := put(t, d, "k", "hello"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		text string
		err  error
	}{{"hell", io.ErrUnexpectedEOF}, {"hello", nil}} {
		rc, _, err := d.Open(t.Context(), "k", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(rc); string(got) != want.text || !errors.Is(err, want.err) {
			t.Errorf("read %q, %v; want %q, %v", got, err, want.text, want.err)
		}
	}
}

func TestDoneLosesOnlyTheAnswer(t *testing.T) {
	d := faultblob.New(memblob.New(), faultblob.Fault{Op: faultblob.OpPut, Err: plat.ErrUnavailable, Done: true})
	if err := put(t, d, "k", "x"); !errors.Is(err, plat.ErrUnavailable) {
		t.Errorf("Put = %v", err)
	}
	if _, err := d.Stat(t.Context(), "k"); err != nil {
		t.Errorf("Stat = %v", err)
	}
}

func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := faultblob.New(memblob.New(), faultblob.Fault{Op: faultblob.OpStat, Latency: time.Minute})
		start := time.Now()
		if _, err := d.Stat(t.Context(), "k"); !errors.Is(err, plat.ErrNotFound) || time.Since(start) != time.Minute {
			t.Errorf("Stat = %v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		if _, err := d.Stat(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("Stat = %v after %v", err, time.Since(start))
		}
	})
}
