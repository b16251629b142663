// SPDX-License-Identifier: Apache-2.0

package plat_test

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"panal/internal/plat"
)

func TestIDForms(t *testing.T) {
	for range 100 {
		if id := plat.NewDecimalID(); !regexp.MustCompile(`^[1-9]\d{12}$`).MatchString(id) {
			t.Errorf("NewDecimalID() = %s", id)
		}
		if id := plat.NewHexID("ser"); !regexp.MustCompile(`^ser-[0-9a-f]{16}$`).MatchString(id) {
			t.Errorf("NewHexID() = %s", id)
		}
		if tok := plat.NewToken(); !regexp.MustCompile(`^[0-9a-f]{40}$`).MatchString(tok) {
			t.Errorf("NewToken() = %s", tok)
		}
	}
	early, late := plat.NewFileID(time.Unix(100, 0)), plat.NewFileID(time.Unix(101, 0))
	if !plat.ValidFileID(string(early)) || early >= late {
		t.Errorf("file ids %s, %s: invalid, or not in the order of time", early, late)
	}
	for _, bad := range []string{"", "x", "../" + string(early), string(early) + "x"} {
		if plat.ValidFileID(bad) {
			t.Errorf("ValidFileID(%q)", bad)
		}
	}
}

func TestHideTokens(t *testing.T) {
	token := plat.NewToken()
	for in, want := range map[string]string{
		"":                              "",
		token:                           "(token)",
		"/users/1/tokens/" + token:      "/users/1/tokens/(token)",
		token + "/" + token + "?":       "(token)/(token)?",
		"user-12:" + token + "g":        "user-12:(token)g",
		token[1:]:                       token[1:],
		token + "0":                     token + "0", // a longer sum
		"channel 1712345678901 is gone": "channel 1712345678901 is gone",
	} {
		if got := plat.HideTokens(in); got != want {
			t.Errorf("HideTokens(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestInstanceTypes(t *testing.T) {
	for name, want := range map[string]plat.Resources{
		"cpu-0.25": {MilliCPU: 250, Memory: 512 << 20},
		"cpu-1":    {MilliCPU: 1000, Memory: 2 << 30},
		"cpu-16":   {MilliCPU: 16000, Memory: 32 << 30},
		"gpu-1":    {MilliCPU: 4000, Memory: 8 << 30, GPUs: 1},
		"gpu:b-4":  {MilliCPU: 16000, Memory: 32 << 30, GPUs: 4},
	} {
		got, err := plat.ParseInstanceType(name)
		if err != nil || got.Resources != want {
			t.Errorf("%s = %+v, %v, want %+v", name, got.Resources, err, want)
		}
	}
	for _, bad := range []string{"", "cpu", "cpu-", "cpu-0", "cpu-10", "gpu:a-20", "gpu:e-1", "h200-1", "cpu--1", "gpu-0.5", "cpu-1e9", "cpu-99999", "CPU-1", "cpu-1 "} {
		if _, err := plat.ParseInstanceType(bad); !errors.Is(err, plat.ErrInvalid) {
			t.Errorf("%q = %v, want ErrInvalid", bad, err)
		}
	}
}

// The clients cut a count's trailing zeros, so that none of the offered may have any.
func TestInstanceTypesAreOffered(t *testing.T) {
	all := plat.InstanceTypes()
	if len(all) != 11 {
		t.Errorf("%d instance types, want the 11 of the document", len(all))
	}
	for _, it := range all {
		if again, err := plat.ParseInstanceType(it.Name); err != nil || again != it || strings.HasSuffix(it.Name, "0") {
			t.Errorf("%s = %+v, %v", it.Name, again, err)
		}
	}
}

func TestParseTime(t *testing.T) {
	want := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, s := range []string{"2026-01-02T03:04:05Z", "2026-01-02T03:04:05", "2026-01-02 03:04:05", "2026-01-02T12:04:05+09:00", "2026-01-02T03:04:05.000000Z"} {
		if got, err := plat.ParseTime(s); err != nil || !got.Equal(want) {
			t.Errorf("ParseTime(%s) = %v, %v", s, got, err)
		}
	}
	if _, err := plat.ParseTime("yesterday"); !errors.Is(err, plat.ErrInvalid) {
		t.Errorf("yesterday = %v", err)
	}
}

func TestErrorsMatchKindAndCause(t *testing.T) {
	cause := errors.New("disk on fire")
	err := fmt.Errorf("put x: %w", &plat.Error{Kind: plat.ErrExhausted, Public: "full", Err: cause})
	if !errors.Is(err, plat.ErrExhausted) || !errors.Is(err, cause) || !errors.Is(plat.KindOf(err), plat.ErrExhausted) {
		t.Errorf("%v", err)
	}
	if plat.KindOf(cause) != nil {
		t.Error("an internal error has a kind")
	}
}

// TestFileIDsSortByTime: data.md §4, to a quarter of a microsecond, in the form of a UUID of version 4.
func TestFileIDsSortByTime(t *testing.T) {
	form := regexp.MustCompile(`^\d{8}T\d{6}-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	at := time.Date(2026, 11, 26, 23, 59, 59, 998_999_000, time.UTC)
	last := plat.FileID("")
	for range 5000 {
		id := plat.NewFileID(at)
		if !form.MatchString(string(id)) {
			t.Fatalf("%s is not of the form %s", id, form)
		}
		if id <= last {
			t.Fatalf("%s of %s does not sort after %s", id, at, last)
		}
		last, at = id, at.Add(time.Microsecond)
	}
}
