// SPDX-License-Identifier: Apache-2.0

// Package orgtest holds every store of users, tokens, datasources and IP rules to its
// contract.
package orgtest

import (
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"panal/internal/authn"
	"panal/internal/org"
	"panal/internal/plat"
)

// Store is all that the suite asks.
type Store interface {
	org.Store
	org.DatasourceStore
	org.IPRuleStore
	authn.Store
}

var at = time.Date(2024, 3, 15, 8, 15, 2, 123456000, time.UTC)

const acme, other = plat.OrgID("1000000000001"), plat.OrgID("1000000000002")

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
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}), cmpopts.EquateEmpty()); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// Run runs the suite; open returns an empty store.
func Run(t *testing.T, open func(t *testing.T) Store) {
	for _, c := range []struct {
		name  string
		check func(*testing.T, Store)
	}{
		{"User/round_trip_and_pages", userRoundTrip},
		{"User/another_organization_is_not_found", userElsewhere},
		{"User/the_last_admin_stays", lastAdmin},
		{"User/two_admins_at_the_same_time_keep_one", lastAdminRace},
		{"Token/round_trip_and_limit", tokenRoundTrip},
		{"Datasource/round_trip_and_pages", datasourceRoundTrip},
		{"Datasource/links", links},
		{"Datasource/reseal", reseal},
		{"IPRule/round_trip", ipRuleRoundTrip},
		{"IPRule/guard_sees_what_would_be_and_decides", ipRuleGuard},
		{"IPRule/changes_wait_for_each_other", ipRuleRace},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			for _, o := range []plat.OrgID{acme, other} {
				_, err := s.CreateOrganization(t.Context(), org.Organization{ID: o, Name: "n" + string(o), State: org.Active, CreatedAt: at, UpdatedAt: at})
				ok(t, err)
			}
			c.check(t, s)
		})
	}
}

func user(id string, o plat.OrgID, role authn.Role) org.User {
	return org.User{
		ID: plat.UserID(id), Org: o, Email: id + "@example.com", DisplayName: "ü " + id, PreferredLanguage: "ja", Role: role,
		CreatedAt: at, UpdatedAt: at,
	}
}

func token(id string, u org.User, expires time.Time) authn.Token {
	return authn.Token{
		Hash: authn.HashToken(id), ID: plat.TokenID(id), Name: "of " + id, Kind: authn.KindUser, Org: u.Org, User: u.ID, CreatedAt: at, ExpiresAt: expires,
	}
}

// holds tells whether the store knows a token.
func holds(t *testing.T, s Store, id string) bool {
	t.Helper()
	_, _, err := s.TokenByHash(t.Context(), authn.HashToken(id))
	if err != nil && !errors.Is(err, plat.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

func userRoundTrip(t *testing.T, s Store) {
	ctx := t.Context()
	want := []org.User{user("1", acme, authn.RoleAdmin), user("2", acme, authn.RoleDeveloper), user("3", acme, authn.RoleRegular)}
	for i := range want {
		want[i].CreatedAt = at.Add(time.Duration(i) * time.Second)
		ok(t, s.CreateUser(ctx, want[i]))
	}
	ok(t, s.CreateUser(ctx, user("9", other, authn.RoleAdmin)))
	same9 := user("4", acme, authn.RoleAdmin)
	same9.Email = "1@example.com"
	is(t, "the same address", s.CreateUser(ctx, same9), plat.ErrExists)
	same9.Email = "1@Example.COM"
	is(t, "the same address in another case", s.CreateUser(ctx, same9), plat.ErrExists)
	same9.Org = other
	ok(t, s.CreateUser(ctx, same9)) // in another organization it is another user
	same9.ID, same9.Email = "5", "é@example.com"
	ok(t, s.CreateUser(ctx, same9))
	same9.ID, same9.Email = "6", "É@example.com"
	is(t, "the same address in another case of a letter beyond ASCII", s.CreateUser(ctx, same9), plat.ErrExists)
	all, err := s.Users(ctx, acme, org.Page{Limit: 10})
	ok(t, err)
	same(t, "all", all, want)
	page, err := s.Users(ctx, acme, org.Page{Limit: 1, Offset: 1})
	ok(t, err)
	same(t, "a page", page, want[1:2])

	email, name, language, role := "new@example.com", "", "en", authn.RoleAdmin
	got, err := s.UpdateUser(ctx, acme, "2", org.UserChange{Email: &email, DisplayName: &name, PreferredLanguage: &language, Role: &role}, at.Add(time.Hour))
	ok(t, err)
	changed := want[1]
	changed.Email, changed.DisplayName, changed.PreferredLanguage, changed.Role, changed.UpdatedAt = email, name, language, role, at.Add(time.Hour)
	same(t, "changed", got, changed)
	got, err = s.User(ctx, "2")
	ok(t, err)
	same(t, "changed, read again", got, changed)
	email = "New@example.com"
	got, err = s.UpdateUser(ctx, acme, "2", org.UserChange{Email: &email}, at.Add(time.Hour))
	ok(t, err) // its own in another case
	changed.Email = email
	same(t, "in another case", got, changed)
	taken := "1@EXAMPLE.com"
	_, err = s.UpdateUser(ctx, acme, "2", org.UserChange{Email: &taken}, at)
	is(t, "an address that is taken", err, plat.ErrExists)

	got, err = s.DeleteUser(ctx, acme, "2", at)
	ok(t, err)
	same(t, "deleted", got, changed)
	_, err = s.User(ctx, "2")
	is(t, "read of a deleted one", err, plat.ErrNotFound)
	_, err = s.DeleteUser(ctx, acme, "2", at)
	is(t, "delete again", err, plat.ErrNotFound)
}

func userElsewhere(t *testing.T, s Store) {
	ctx := t.Context()
	u := user("1", acme, authn.RoleDeveloper)
	ok(t, s.CreateUser(ctx, u))
	ok(t, s.CreateUserToken(ctx, token("a", u, time.Time{}), 9))
	name := "x"
	_, err := s.UpdateUser(ctx, other, "1", org.UserChange{DisplayName: &name}, at)
	is(t, "update", err, plat.ErrNotFound)
	_, err = s.DeleteUser(ctx, other, "1", at)
	is(t, "delete", err, plat.ErrNotFound)
	stray := token("b", u, time.Time{})
	stray.Org = other
	is(t, "token", s.CreateUserToken(ctx, stray, 9), plat.ErrNotFound)
	_, err = s.DeleteToken(ctx, other, "1", "a")
	is(t, "end of a token", err, plat.ErrNotFound)
	if all, err := s.UserTokens(ctx, other, "1"); err != nil || len(all) > 0 {
		t.Errorf("tokens = %v, %v", all, err)
	}
	if !holds(t, s, "a") {
		t.Error("the token is gone")
	}
}

func lastAdmin(t *testing.T, s Store) {
	ctx, regular := t.Context(), authn.RoleRegular
	one, two := user("1", acme, authn.RoleAdmin), user("2", acme, authn.RoleAdmin)
	ok(t, s.CreateUser(ctx, one))
	ok(t, s.CreateUser(ctx, two))
	ok(t, s.CreateUserToken(ctx, token("a", one, time.Time{}), 9))
	ok(t, s.CreateUserToken(ctx, token("b", two, at.Add(time.Hour)), 9)) // that ends by itself
	elsewhere := user("9", other, authn.RoleAdmin)
	ok(t, s.CreateUser(ctx, elsewhere))
	ok(t, s.CreateUserToken(ctx, token("z", elsewhere, time.Time{}), 9))

	_, err := s.UpdateUser(ctx, acme, "1", org.UserChange{Role: &regular}, at)
	is(t, "demote", err, plat.ErrConflict)
	_, err = s.DeleteUser(ctx, acme, "1", at)
	is(t, "delete", err, plat.ErrConflict)
	_, err = s.DeleteToken(ctx, acme, "1", "a")
	is(t, "end the token", err, plat.ErrConflict)
	if u, err := s.User(ctx, "1"); err != nil || u.Role != authn.RoleAdmin || !holds(t, s, "a") {
		t.Errorf("after what was refused: %+v, %v", u, err)
	}
	name := "renamed"
	if u, err := s.UpdateUser(ctx, acme, "1", org.UserChange{DisplayName: &name}, at); err != nil || u.DisplayName != name {
		t.Errorf("another change of the last admin = %+v, %v", u, err)
	}
	_, err = s.DeleteUser(ctx, acme, "2", at) // an admin who holds no lasting token
	ok(t, err)
	ok(t, s.CreateUser(ctx, two))
	ok(t, s.CreateUserToken(ctx, token("c", two, time.Time{}), 9))
	_, err = s.UpdateUser(ctx, acme, "1", org.UserChange{Role: &regular}, at)
	ok(t, err)
	_, err = s.DeleteUser(ctx, acme, "2", at)
	is(t, "delete the other", err, plat.ErrConflict)
}

// lastAdminRace demotes two admins by each other at the same time: one must stay.
func lastAdminRace(t *testing.T, s Store) {
	ctx, regular := t.Context(), authn.RoleRegular
	ids := []string{"1", "2"}
	for _, id := range ids {
		u := user(id, acme, authn.RoleAdmin)
		ok(t, s.CreateUser(ctx, u))
		ok(t, s.CreateUserToken(ctx, token(id, u, time.Time{}), 9))
	}
	errs := make([]error, len(ids))
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() {
			if i == 0 {
				_, errs[i] = s.UpdateUser(ctx, acme, plat.UserID(id), org.UserChange{Role: &regular}, at)
			} else {
				_, errs[i] = s.DeleteUser(ctx, acme, plat.UserID(id), at)
			}
		})
	}
	wg.Wait()
	if (errs[0] == nil) == (errs[1] == nil) || errors.Join(errs...) == nil || !errors.Is(errors.Join(errs...), plat.ErrConflict) {
		t.Errorf("errors = %v, want one ErrConflict", errs)
	}
}

func tokenRoundTrip(t *testing.T, s Store) {
	ctx := t.Context()
	u := user("1", acme, authn.RoleDeveloper)
	ok(t, s.CreateUser(ctx, u))
	want := []authn.Token{token("tok-a", u, time.Time{}), token("tok-b", u, at.Add(time.Hour))}
	for _, k := range want {
		ok(t, s.CreateUserToken(ctx, k, 2))
	}
	ok(t, s.CreateToken(ctx, authn.Token{Hash: "w", Kind: authn.KindContainer, Org: acme, User: u.ID, Scope: authn.Scope{Workload: "wl-1"}, CreatedAt: at}))
	is(t, "one too many", s.CreateUserToken(ctx, token("tok-c", u, time.Time{}), 2), plat.ErrInvalid)
	all, err := s.UserTokens(ctx, acme, "1")
	ok(t, err)
	same(t, "tokens", all, want)
	got, role, err := s.TokenByHash(ctx, want[1].Hash)
	ok(t, err)
	same(t, "by hash", got, want[1])
	if role != authn.RoleDeveloper {
		t.Errorf("role = %q", role)
	}
	got, err = s.DeleteToken(ctx, acme, "1", "tok-a")
	ok(t, err)
	same(t, "deleted", got, want[0])
	if holds(t, s, "tok-a") || !holds(t, s, "tok-b") {
		t.Error("another token was deleted")
	}
	_, err = s.DeleteToken(ctx, acme, "1", "tok-a")
	is(t, "delete again", err, plat.ErrNotFound)
	_, err = s.DeleteToken(ctx, acme, "1", "")
	is(t, "delete of a container's, which has no id", err, plat.ErrNotFound)
	_, err = s.DeleteUser(ctx, acme, "1", at)
	ok(t, err)
	if holds(t, s, "tok-b") {
		t.Error("a deleted user's token lives")
	}
	if _, _, err := s.TokenByHash(ctx, "w"); err != nil {
		t.Errorf("the token of a deleted user's workload: %v", err)
	}
}

func datasource(id string, o plat.OrgID, n int) org.Datasource {
	when := at.Add(time.Duration(n) * time.Second)
	return org.Datasource{ID: plat.DatasourceID(id), Org: o, DisplayName: "camera " + id, Sealed: []byte{0, 1, 255, byte(n)}, KeyID: "k1", CreatedAt: when, UpdatedAt: when}
}

func datasourceRoundTrip(t *testing.T, s Store) {
	ctx := t.Context()
	want := []org.Datasource{datasource("31", acme, 0), datasource("32", acme, 1), datasource("30", acme, 2)}
	for _, d := range want {
		ok(t, s.CreateDatasource(ctx, d, authn.HashToken(string(d.ID))))
	}
	ok(t, s.CreateDatasource(ctx, datasource("39", other, 0), authn.HashToken("39")))
	all, err := s.Datasources(ctx, acme, "", org.Page{Limit: 10})
	ok(t, err)
	same(t, "all", all, want)
	page, err := s.Datasources(ctx, acme, "", org.Page{Limit: 1, Offset: 2})
	ok(t, err)
	same(t, "a page", page, want[2:])
	for _, d := range want {
		got, err := s.Datasource(ctx, acme, d.ID)
		ok(t, err)
		same(t, "one", got, d)
	}
	_, err = s.Datasource(ctx, acme, "39")
	is(t, "of another organization", err, plat.ErrNotFound)
	_, err = s.RenameDatasource(ctx, acme, "39", "x", at)
	is(t, "rename in another organization", err, plat.ErrNotFound)
	_, err = s.DeleteDatasource(ctx, acme, "39")
	is(t, "delete in another organization", err, plat.ErrNotFound)
	got, err := s.RenameDatasource(ctx, acme, "31", "door", at.Add(time.Hour))
	ok(t, err)
	want[0].DisplayName, want[0].UpdatedAt = "door", at.Add(time.Hour)
	same(t, "renamed", got, want[0])

	tok, role, err := s.TokenByHash(ctx, authn.HashToken("31"))
	ok(t, err)
	same(t, "credential", tok, authn.Token{Hash: authn.HashToken("31"), Kind: authn.KindDatasource, Org: acme, Datasource: "31", CreatedAt: at})
	if role != "" {
		t.Errorf("a datasource has the role %q", role)
	}
	_, err = s.Link(ctx, acme, "c1", "31", at)
	ok(t, err)
	got, err = s.DeleteDatasource(ctx, acme, "31")
	ok(t, err)
	same(t, "deleted", got, want[0])
	if holds(t, s, "31") || !holds(t, s, "32") {
		t.Error("the wrong credential ended")
	}
	if all, err := s.Datasources(ctx, acme, "c1", org.Page{Limit: 10}); err != nil || len(all) > 0 {
		t.Errorf("links of a deleted one = %v, %v", all, err)
	}
}

func links(t *testing.T, s Store) {
	ctx := t.Context()
	for i, id := range []string{"31", "32"} {
		ok(t, s.CreateDatasource(ctx, datasource(id, acme, i), authn.HashToken(id)))
	}
	for _, l := range [][2]string{{"c2", "31"}, {"c10", "31"}, {"c2", "32"}} {
		got, err := s.Link(ctx, acme, plat.ChannelID(l[0]), plat.DatasourceID(l[1]), at)
		ok(t, err)
		if string(got.ID) != l[1] {
			t.Errorf("Link = %+v", got)
		}
	}
	_, err := s.Link(ctx, acme, "c2", "31", at)
	is(t, "link again", err, plat.ErrExists)
	_, err = s.Link(ctx, other, "c3", "31", at)
	is(t, "link by another organization", err, plat.ErrNotFound)
	_, err = s.Unlink(ctx, other, "c2", "31")
	is(t, "unlink by another organization", err, plat.ErrNotFound)
	tok, _, err := s.TokenByHash(ctx, authn.HashToken("31"))
	ok(t, err)
	same(t, "channels in byte order", tok.Channels, []plat.ChannelID{"c10", "c2"})
	of, err := s.Datasources(ctx, acme, "c2", org.Page{Limit: 10})
	ok(t, err)
	if len(of) != 2 || of[0].ID != "31" || of[1].ID != "32" {
		t.Errorf("linked = %+v", of)
	}
	if of, err := s.Datasources(ctx, acme, "c2", org.Page{Limit: 1, Offset: 1}); err != nil || len(of) != 1 || of[0].ID != "32" {
		t.Errorf("a page = %+v, %v", of, err)
	}
	if of, err := s.Datasources(ctx, other, "c2", org.Page{Limit: 10}); err != nil || len(of) > 0 {
		t.Errorf("linked, asked by another organization = %+v, %v", of, err)
	}
	_, err = s.Unlink(ctx, acme, "c2", "31")
	ok(t, err)
	_, err = s.Unlink(ctx, acme, "c2", "31")
	is(t, "unlink again", err, plat.ErrNotFound)
	tok, _, err = s.TokenByHash(ctx, authn.HashToken("31"))
	ok(t, err)
	same(t, "channels after", tok.Channels, []plat.ChannelID{"c10"})
}

func reseal(t *testing.T, s Store) {
	ctx := t.Context()
	for i, id := range []string{"31", "32", "33"} {
		d := datasource(id, acme, i)
		if id == "32" {
			d.KeyID = "k2"
		}
		ok(t, s.CreateDatasource(ctx, d, authn.HashToken(id)))
	}
	old, err := s.DatasourcesNotSealedBy(ctx, "k2", "", 1)
	ok(t, err)
	if len(old) != 1 || old[0].ID != "31" {
		t.Fatalf("not sealed by k2 = %+v", old)
	}
	if rest, err := s.DatasourcesNotSealedBy(ctx, "k2", "31", 9); err != nil || len(rest) != 1 || rest[0].ID != "33" {
		t.Errorf("after the first = %+v, %v", rest, err)
	}
	done, err := s.ResealDatasource(ctx, old[0], []byte("anew"), "k2")
	if err != nil || !done {
		t.Errorf("reseal = %v, %v", done, err)
	}
	if done, err := s.ResealDatasource(ctx, old[0], []byte("late"), "k2"); err != nil || done {
		t.Errorf("reseal of what has changed = %v, %v", done, err)
	}
	got, err := s.Datasource(ctx, acme, "31")
	ok(t, err)
	want := datasource("31", acme, 0)
	want.Sealed, want.KeyID = []byte("anew"), "k2"
	same(t, "resealed", got, want)
	counts, err := s.DatasourceKeys(ctx)
	ok(t, err)
	same(t, "keys", counts, map[string]int{"k1": 1, "k2": 2})
}

func anything([]org.IPRule) error { return nil }

func rule(cidr string) org.IPRule {
	return org.IPRule{Org: acme, Prefix: netip.MustParsePrefix(cidr), Description: "of " + cidr, CreatedAt: at, UpdatedAt: at}
}

func ipRuleRoundTrip(t *testing.T, s Store) {
	ctx := t.Context()
	var want []org.IPRule
	for _, cidr := range []string{"203.0.113.0/24", "2001:db8::/32", "0.0.0.0/0"} {
		r, err := s.CreateIPRule(ctx, rule(cidr), anything)
		ok(t, err)
		if len(want) > 0 && r.ID <= want[len(want)-1].ID {
			t.Errorf("id %d after %d", r.ID, want[len(want)-1].ID)
		}
		want = append(want, r)
	}
	all, err := s.IPRules(ctx, acme)
	ok(t, err)
	same(t, "all", all, want)
	if all, err := s.IPRules(ctx, other); err != nil || len(all) > 0 {
		t.Errorf("another organization's = %v, %v", all, err)
	}
	got, err := s.UpdateIPRule(ctx, acme, want[1].ID, func(r *org.IPRule) {
		r.Prefix, r.Description, r.UpdatedAt = netip.MustParsePrefix("2001:db8::1/128"), "one", at.Add(time.Hour)
	}, anything)
	ok(t, err)
	want[1].Prefix, want[1].Description, want[1].UpdatedAt = netip.MustParsePrefix("2001:db8::1/128"), "one", at.Add(time.Hour)
	same(t, "changed", got, want[1])
	_, err = s.UpdateIPRule(ctx, other, want[1].ID, func(*org.IPRule) {}, anything)
	is(t, "update by another organization", err, plat.ErrNotFound)
	_, err = s.DeleteIPRule(ctx, other, want[1].ID, anything)
	is(t, "delete by another organization", err, plat.ErrNotFound)
	got, err = s.DeleteIPRule(ctx, acme, want[2].ID, anything)
	ok(t, err)
	same(t, "deleted", got, want[2])
	_, err = s.DeleteIPRule(ctx, acme, want[2].ID, anything)
	is(t, "delete again", err, plat.ErrNotFound)
	r, err := s.CreateIPRule(ctx, rule("10.0.0.0/8"), anything)
	ok(t, err)
	if r.ID <= want[2].ID {
		t.Errorf("the id %d of a deleted rule came back as %d", want[2].ID, r.ID)
	}
	all, err = s.IPRules(ctx, acme)
	ok(t, err)
	same(t, "what is left", all, append(want[:2:2], r))
}

func ipRuleGuard(t *testing.T, s Store) {
	ctx, no := t.Context(), plat.Errorf(plat.ErrInvalid, "no")
	first, err := s.CreateIPRule(ctx, rule("203.0.113.0/24"), anything)
	ok(t, err)
	var seen []string
	guard := func(after []org.IPRule) error {
		seen = nil
		for _, r := range after {
			seen = append(seen, r.Prefix.String())
		}
		return no
	}
	_, err = s.CreateIPRule(ctx, rule("10.0.0.0/8"), guard)
	is(t, "create", err, plat.ErrInvalid)
	same(t, "create shows", seen, []string{"203.0.113.0/24", "10.0.0.0/8"})
	_, err = s.UpdateIPRule(ctx, acme, first.ID, func(r *org.IPRule) { r.Prefix = netip.MustParsePrefix("10.0.0.0/8") }, guard)
	is(t, "update", err, plat.ErrInvalid)
	same(t, "update shows", seen, []string{"10.0.0.0/8"})
	_, err = s.DeleteIPRule(ctx, acme, first.ID, guard)
	is(t, "delete", err, plat.ErrInvalid)
	same(t, "delete shows", seen, []string(nil))
	all, err := s.IPRules(ctx, acme)
	ok(t, err)
	same(t, "after what was refused", all, []org.IPRule{first})
}

// ipRuleRace deletes two rules at the same time, each only if the other stays.
func ipRuleRace(t *testing.T, s Store) {
	ctx := t.Context()
	var ids [2]int64
	for i := range ids {
		r, err := s.CreateIPRule(ctx, rule("203.0.113.0/24"), anything)
		ok(t, err)
		ids[i] = r.ID
	}
	var errs [2]error
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() {
			_, errs[i] = s.DeleteIPRule(ctx, acme, id, func(after []org.IPRule) error {
				if len(after) == 0 {
					return plat.ErrInvalid
				}
				return nil
			})
		})
	}
	wg.Wait()
	if (errs[0] == nil) == (errs[1] == nil) {
		t.Errorf("errors = %v, want one", errs)
	}
}
