// SPDX-License-Identifier: Apache-2.0

// Package registrytest holds every registry.Store to its contract.
package registrytest

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"panal/internal/plat"
	"panal/internal/registry"
)

var at = time.Date(2025, 5, 1, 7, 12, 23, 321625000, time.UTC)

// Orgs are the organizations that the store's caller has made.
const (
	Org   = plat.OrgID("1580000000123")
	Other = plat.OrgID("1580000000124")
)

func made(org plat.OrgID, id, name string) registry.Repository {
	return registry.Repository{ID: plat.RepositoryID(id), Org: org, Creator: "1650000000031", Name: name, CreatedAt: at, UpdatedAt: at}
}

func tag(repository, name, digest string) registry.Tag {
	return registry.Tag{Repository: plat.RepositoryID(repository), Creator: "1650000000031", Name: name, Digest: digest, Size: 1 << 40, MediaType: "a/b", CreatedAt: at, UpdatedAt: at}
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
func Run(t *testing.T, open func(t *testing.T) registry.Store) {
	for _, c := range []struct {
		name  string
		check func(*testing.T, registry.Store)
	}{
		{"Repository/round_trip_and_organizations", roundTrip},
		{"Repositories/pages_in_order_of_the_name", pages},
		{"PutTag/the_same_name_moves", tags},
		{"DeleteRepository/tags_go_too", remove},
	} {
		t.Run(c.name, func(t *testing.T) { c.check(t, open(t)) })
	}
}

func roundTrip(t *testing.T, s registry.Store) {
	ctx, want := t.Context(), made(Org, "1", "team/trainer")
	text := "what trains"
	want.Description = &text
	ok(t, s.CreateRepository(ctx, want))
	got, err := s.Repository(ctx, Org, "1")
	ok(t, err)
	same(t, "Repository", got, want)
	is(t, "the same name", s.CreateRepository(ctx, made(Org, "2", "team/trainer")), plat.ErrExists)
	ok(t, s.CreateRepository(ctx, made(Other, "3", "team/trainer")))
	_, err = s.Repository(ctx, Other, "1")
	is(t, "another organization's", err, plat.ErrNotFound)
	is(t, "DeleteRepository of another organization's", s.DeleteRepository(ctx, Other, "1"), plat.ErrNotFound)
}

func pages(t *testing.T, s registry.Store) {
	ctx := t.Context()
	for i, name := range []string{"b", "a-c", "a/b", "ab", "a.b"} {
		ok(t, s.CreateRepository(ctx, made(Org, string(rune('1'+i)), name)))
	}
	ok(t, s.CreateRepository(ctx, made(Other, "9", "a")))
	var names []string
	for offset := 0; ; offset += 2 {
		page, more, err := s.Repositories(ctx, Org, offset, 2)
		ok(t, err)
		for _, r := range page {
			names = append(names, r.Name)
		}
		if !more {
			break
		}
	}
	same(t, "order", names, []string{"a-c", "a.b", "a/b", "ab", "b"}) // of bytes
}

func tags(t *testing.T, s registry.Store) {
	ctx := t.Context()
	ok(t, s.CreateRepository(ctx, made(Org, "1", "a")))
	first, err := s.PutTag(ctx, tag("1", "latest", "sha256:1"))
	ok(t, err)
	_, err = s.PutTag(ctx, tag("1", "Zeta", "sha256:1"))
	ok(t, err)
	moved := tag("1", "latest", "sha256:2")
	moved.CreatedAt, moved.UpdatedAt = at.Add(time.Hour), at.Add(time.Hour)
	second, err := s.PutTag(ctx, moved)
	ok(t, err)
	moved.ID, moved.CreatedAt = first.ID, at
	same(t, "moved", second, moved)
	page, more, err := s.Tags(ctx, "1", 0, 1)
	if err != nil || !more || len(page) != 1 || page[0].Name != "Zeta" {
		t.Errorf("first page = %+v, %v, %v", page, more, err)
	}
	page, more, err = s.Tags(ctx, "1", 1, 1)
	if err != nil || more || len(page) != 1 || page[0].Name != "latest" {
		t.Errorf("second page = %+v, %v, %v", page, more, err)
	}
	_, err = s.PutTag(ctx, tag("7", "x", "sha256:1"))
	is(t, "PutTag in no repository", err, plat.ErrNotFound)
	gone, err := s.DeleteTag(ctx, "1", "latest")
	ok(t, err)
	same(t, "deleted", gone, moved)
	_, err = s.DeleteTag(ctx, "1", "latest")
	is(t, "again", err, plat.ErrNotFound)
}

func remove(t *testing.T, s registry.Store) {
	ctx := t.Context()
	ok(t, s.CreateRepository(ctx, made(Org, "1", "a")))
	_, err := s.PutTag(ctx, tag("1", "latest", "sha256:1"))
	ok(t, err)
	ok(t, s.DeleteRepository(ctx, Org, "1"))
	is(t, "again", s.DeleteRepository(ctx, Org, "1"), plat.ErrNotFound)
	ok(t, s.CreateRepository(ctx, made(Org, "1", "a")))
	page, _, err := s.Tags(ctx, "1", 0, 10)
	if err != nil || len(page) != 0 {
		t.Errorf("tags left: %+v, %v", page, err)
	}
}
