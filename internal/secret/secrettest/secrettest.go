// SPDX-License-Identifier: Apache-2.0

// Package secrettest holds every secret.Store to its contract.
package secrettest

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"panal/internal/plat"
	"panal/internal/secret"
)

var at = time.Date(2025, 5, 1, 7, 12, 23, 321625000, time.UTC)

// Orgs are the organizations that the store's caller has made.
const (
	Org   = plat.OrgID("1580000000123")
	Other = plat.OrgID("1580000000124")
)

func made(org plat.OrgID, id, name string) secret.Secret {
	return secret.Secret{
		ID: plat.SecretID(id), Org: org, Creator: "1650000000031", Name: name, CreatedAt: at, UpdatedAt: at,
		Versions: []secret.Version{version(org, id, id+"-1", 1)},
	}
}

func version(org plat.OrgID, sec, id string, number int) secret.Version {
	return secret.Version{
		ID: plat.SecretVersionID(id), Secret: plat.SecretID(sec), Org: org, Number: number, Active: true,
		Sealed: []byte("\x01\x00\xffsealed " + id), KeyID: "aaaaaaaa", CreatedAt: at, UpdatedAt: at,
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func is(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s = %v, want %v", what, err, want)
	}
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// Run runs the suite; open returns an empty store in which the two organizations exist.
func Run(t *testing.T, open func(t *testing.T) secret.Store) {
	for _, c := range []struct {
		name  string
		check func(*testing.T, secret.Store)
	}{
		{"Secret/round_trip_and_organizations", roundTrip},
		{"Secrets/pages_oldest_first", pages},
		{"UpdateSecret/changes_what_it_says", update},
		{"DeleteSecret/versions_go_too", remove},
		{"AddVersion/numbers_ascend_and_are_never_used_again", versions},
		{"AddVersion/concurrent_calls_keep_the_limit", parallel},
		{"Reseal/only_what_is_still_so", reseal},
	} {
		t.Run(c.name, func(t *testing.T) { c.check(t, open(t)) })
	}
}

func roundTrip(t *testing.T, s secret.Store) {
	ctx, want := t.Context(), made(Org, "7700000000111", "db-password")
	text := "for the camera's database"
	want.Description, want.ExpiresAt, want.Integration, want.IntegrationIDs = &text, at.Add(time.Hour), secret.IntegrationLabs, []string{"1", "2"}
	ok(t, s.CreateSecret(ctx, want))
	got, err := s.Secret(ctx, Org, want.ID)
	ok(t, err)
	same(t, "Secret", got, want)
	is(t, "the same name", s.CreateSecret(ctx, made(Org, "2", "db-password")), plat.ErrExists)
	ok(t, s.CreateSecret(ctx, made(Other, "3", "db-password")))
	ok(t, s.CreateSecret(ctx, made(Org, "4", "DB-password")))
	for what, try := range map[string]func() error{
		"Secret": func() error { _, err := s.Secret(ctx, Other, want.ID); return err },
		"UpdateSecret": func() error {
			theirs := want
			theirs.Org = Other
			return s.UpdateSecret(ctx, theirs)
		},
		"DeleteSecret":  func() error { return s.DeleteSecret(ctx, Other, want.ID) },
		"DeleteVersion": func() error { return s.DeleteVersion(ctx, Other, want.ID, want.Versions[0].ID) },
		"SetVersion": func() error {
			v := want.Versions[0]
			v.Org = Other
			return s.SetVersion(ctx, v)
		},
		"AddVersion": func() error { _, err := s.AddVersion(ctx, version(Other, string(want.ID), "x", 0), 9); return err },
	} {
		is(t, what+" by another organization", try(), plat.ErrNotFound)
	}
}

func pages(t *testing.T, s secret.Store) {
	ctx := t.Context()
	for i := range 5 {
		sec := made(Org, fmt.Sprint(9-i), fmt.Sprint("n", i))
		sec.CreatedAt = at.Add(time.Duration(i/2) * time.Second)
		ok(t, s.CreateSecret(ctx, sec))
	}
	ok(t, s.CreateSecret(ctx, made(Other, "1", "theirs")))
	var names []string
	for offset := 0; ; offset += 2 {
		page, more, err := s.Secrets(ctx, Org, offset, 2)
		ok(t, err)
		for _, sec := range page {
			if len(sec.Versions) != 1 || sec.Versions[0].Secret != sec.ID {
				t.Errorf("%s has versions %+v", sec.Name, sec.Versions)
			}
			names = append(names, sec.Name)
		}
		if !more {
			break
		}
	}
	same(t, "order", names, []string{"n1", "n0", "n3", "n2", "n4"})
	page, more, err := s.Secrets(ctx, Org, 7, 2)
	if err != nil || more || len(page) != 0 {
		t.Errorf("past the end = %v, %v, %v", page, more, err)
	}
}

func update(t *testing.T, s secret.Store) {
	ctx, sec := t.Context(), made(Org, "1", "n")
	ok(t, s.CreateSecret(ctx, sec))
	text := "new"
	sec.Description, sec.ExpiresAt, sec.Integration, sec.IntegrationIDs, sec.UpdatedAt = &text, at.Add(1), secret.IntegrationLabs, []string{"7"}, at.Add(time.Second)
	sec.ExpiresAt = at.Add(time.Minute)
	ok(t, s.UpdateSecret(ctx, sec))
	got, err := s.Secret(ctx, Org, "1")
	ok(t, err)
	same(t, "updated", got, sec)
	v := sec.Versions[0]
	v.Active, v.UpdatedAt = false, at.Add(time.Hour)
	ok(t, s.SetVersion(ctx, v))
	got, err = s.Secret(ctx, Org, "1")
	ok(t, err)
	same(t, "version", got.Versions, []secret.Version{v})
	sec.ID = "2"
	is(t, "UpdateSecret of none", s.UpdateSecret(ctx, sec), plat.ErrNotFound)
}

func remove(t *testing.T, s secret.Store) {
	ctx := t.Context()
	ok(t, s.CreateSecret(ctx, made(Org, "1", "n")))
	ok(t, s.DeleteSecret(ctx, Org, "1"))
	is(t, "again", s.DeleteSecret(ctx, Org, "1"), plat.ErrNotFound)
	_, err := s.Secret(ctx, Org, "1")
	is(t, "Secret", err, plat.ErrNotFound)
	ok(t, s.CreateSecret(ctx, made(Org, "1", "n"))) // nothing is left in the way
}

func versions(t *testing.T, s secret.Store) {
	ctx := t.Context()
	ok(t, s.CreateSecret(ctx, made(Org, "1", "n")))
	v2, err := s.AddVersion(ctx, version(Org, "1", "v2", 0), 9)
	if err != nil || v2.Number != 2 {
		t.Fatalf("AddVersion = %+v, %v", v2, err)
	}
	ok(t, s.DeleteVersion(ctx, Org, "1", "v2"))
	is(t, "again", s.DeleteVersion(ctx, Org, "1", "v2"), plat.ErrNotFound)
	v3, err := s.AddVersion(ctx, version(Org, "1", "v3", 0), 9)
	if err != nil || v3.Number != 3 {
		t.Fatalf("AddVersion = %+v, %v", v3, err)
	}
	got, err := s.Secret(ctx, Org, "1")
	ok(t, err)
	same(t, "versions", got.Versions, []secret.Version{version(Org, "1", "1-1", 1), v3})
}

func parallel(t *testing.T, s secret.Store) {
	ctx := t.Context()
	ok(t, s.CreateSecret(ctx, made(Org, "1", "n")))
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { _, errs[i] = s.AddVersion(ctx, version(Org, "1", fmt.Sprint("p", i), 0), 5) })
	}
	wg.Wait()
	full := 0
	for _, err := range errs {
		if errors.Is(err, plat.ErrExhausted) {
			full++
		} else if err != nil {
			t.Error(err)
		}
	}
	got, err := s.Secret(ctx, Org, "1")
	ok(t, err)
	if full != 4 || len(got.Versions) != 5 {
		t.Errorf("%d refused, %d versions", full, len(got.Versions))
	}
	for i, v := range got.Versions {
		if v.Number != i+1 {
			t.Errorf("version %d has number %d", i, v.Number)
		}
	}
}

func reseal(t *testing.T, s secret.Store) {
	ctx := t.Context()
	for i := range 3 {
		ok(t, s.CreateSecret(ctx, made(Org, fmt.Sprint(i), fmt.Sprint("n", i))))
	}
	old, err := s.SealedOtherwise(ctx, "bbbbbbbb", "", 2)
	if err != nil || len(old) != 2 || old[0].ID != "0-1" || old[1].ID != "1-1" {
		t.Fatalf("SealedOtherwise = %+v, %v", old, err)
	}
	done, err := s.Reseal(ctx, old[0], []byte("anew\x00"), "bbbbbbbb")
	if err != nil || !done {
		t.Fatalf("Reseal = %v, %v", done, err)
	}
	done, err = s.Reseal(ctx, old[0], []byte("late"), "bbbbbbbb")
	if err != nil || done {
		t.Errorf("Reseal of what has changed = %v, %v", done, err)
	}
	old, err = s.SealedOtherwise(ctx, "bbbbbbbb", "", 10)
	if err != nil || len(old) != 2 {
		t.Errorf("then SealedOtherwise = %+v, %v", old, err)
	}
	old, err = s.SealedOtherwise(ctx, "bbbbbbbb", "1-1", 10)
	if err != nil || len(old) != 1 || old[0].ID != "2-1" {
		t.Errorf("SealedOtherwise after = %+v, %v", old, err)
	}
	got, err := s.Secret(ctx, Org, "0")
	ok(t, err)
	if string(got.Versions[0].Sealed) != "anew\x00" || got.Versions[0].KeyID != "bbbbbbbb" {
		t.Errorf("resealed = %+v", got.Versions[0])
	}
}
