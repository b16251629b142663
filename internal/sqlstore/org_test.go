// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"panal/internal/authn"
	"panal/internal/dataset"
	"panal/internal/lake"
	"panal/internal/org"
	"panal/internal/org/orgtest"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
	"panal/internal/train"
)

func TestOrganizationLifecycle(t *testing.T) {
	sqlstoretest.Each(t, func(t *testing.T, db *sqlstore.DB) {
		ctx, s := t.Context(), sqlstore.NewOrgs(db)
		svc := org.NewService(s, s, plat.SystemClock, "")
		other := org.NewService(s, s, plat.SystemClock, "") // as another server
		is := func(what string, err, want error) {
			t.Helper()
			if !errors.Is(err, want) {
				t.Errorf("%s = %v, want %v", what, err, want)
			}
		}
		first, err := svc.Create(ctx, "first")
		if err != nil || !first.Operator || first.State != org.Active {
			t.Fatalf("the first = %+v, %v", first, err)
		}
		f, err := svc.Found(ctx, "acme", "", "", 1000)
		if err != nil || f.Organization.Operator || f.Organization.Quota != 1000 || f.Token == "" || f.Admin.Email != "admin@acme.localdomain" {
			t.Fatalf("the second = %+v, %v", f, err)
		}
		acme := f.Organization.ID
		if id, err := svc.Operator(ctx); err != nil || id != first.ID {
			t.Errorf("operator = %s, %v", id, err)
		}
		_, err = svc.Found(ctx, "acme", "", "", 0)
		is("the name again", err, plat.ErrExists)
		_, err = svc.Found(ctx, "x", "", "", -1)
		is("a negative quota", err, plat.ErrInvalid)
		taken := "first"
		_, err = svc.Change(ctx, acme, org.Edit{Name: &taken})
		is("a name that is taken", err, plat.ErrExists)

		_, err = svc.Suspend(ctx, first.ID)
		is("suspend the operator's", err, plat.ErrConflict)
		_, err = svc.Delete(ctx, first.ID, "first")
		is("delete the operator's", err, plat.ErrConflict)
		_, err = svc.Delete(ctx, acme, "acme")
		is("delete an active one", err, plat.ErrConflict)
		is("remove one that isn't deleting", s.DeleteOrganization(ctx, acme, plat.SystemClock()), plat.ErrConflict)
		_, err = svc.Suspend(ctx, "1234567890123")
		is("suspend nobody", err, plat.ErrNotFound)

		var back atomic.Int64 // a third server, whose clock is set back
		leaping := org.NewService(s, s, func() time.Time { return plat.SystemClock().Add(-time.Duration(back.Load())) }, "")
		for _, svc := range []*org.Service{other, leaping} {
			if _, err := svc.Standing(ctx, acme); err != nil {
				t.Fatal(err)
			}
		}
		back.Store(int64(5 * time.Hour))
		o, err := svc.Suspend(ctx, acme)
		if err != nil || o.State != org.Suspended {
			t.Fatalf("suspend = %+v, %v", o, err)
		}
		o, err = svc.Standing(ctx, acme)
		is("served here, at once", errors.Join(err, o.Served()), plat.ErrForbidden)
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if o, err = other.Standing(ctx, acme); err == nil && o.Served() != nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("another server never noticed")
			}
		}
		if o, err = leaping.Standing(ctx, acme); err != nil || o.Served() == nil {
			t.Errorf("with its clock set back, a server goes by what it knew: %+v, %v", o, err)
		}
		_, err = svc.Delete(ctx, acme, "acm")
		is("delete by a wrong name", err, plat.ErrInvalid)
		if _, err = svc.Resume(ctx, acme); err != nil {
			t.Fatal(err)
		}
		_, _ = svc.Suspend(ctx, acme)
		if o, err = svc.Delete(ctx, acme, "acme"); err != nil || o.State != org.Deleting {
			t.Fatalf("delete = %+v, %v", o, err)
		}
		_, err = svc.Resume(ctx, acme)
		is("resume one that is deleted", err, plat.ErrConflict)
		_, err = svc.Delete(ctx, acme, "acme")
		is("delete twice", err, nil)

		// Purges run in order, each once those before are through; whatever stops
		// them, the next look goes on.
		var ran []string
		var waits, breaks atomic.Bool
		waits.Store(true)
		breaks.Store(true)
		purge := func(name string, stop *atomic.Bool, kind error) {
			svc.OnDelete(org.Purge{Name: name, Run: func(_ context.Context, id plat.OrgID) error {
				if ran = append(ran, name); id != acme {
					t.Errorf("purge of %s", id)
				}
				if stop != nil && stop.CompareAndSwap(true, false) {
					return kind
				}
				return nil
			}})
		}
		purge("a", nil, nil)
		purge("b", &waits, plat.ErrUnavailable)
		purge("c", &breaks, errors.New("planted"))
		for i, want := range []struct {
			left   int
			failed bool
		}{{1, false}, {1, true}, {0, false}, {0, false}} {
			left, err := svc.PurgeDeleted(ctx)
			if left != want.left || (err != nil) != want.failed {
				t.Errorf("look %d = %d, %v", i, left, err)
			}
		}
		if want := []string{"a", "b", "a", "b", "c", "a", "b", "c"}; !slices.Equal(ran, want) {
			t.Errorf("purges ran %v, want %v", ran, want)
		}
		_, err = svc.Get(ctx, "acme")
		is("get what is deleted", err, plat.ErrNotFound)
		_, err = svc.User(ctx, f.Admin.ID)
		is("its user", err, plat.ErrNotFound)
		is("remove it again", s.DeleteOrganization(ctx, acme, plat.SystemClock()), nil)
	})
}

// TestSweepOrg: whatever table has a column org_id is emptied of one organization,
// also one that no domain deletes from.
func TestSweepOrg(t *testing.T) {
	sqlstoretest.Each(t, func(t *testing.T, db *sqlstore.DB) {
		ctx := t.Context()
		orgs := sqlstore.NewOrgs(db)
		svc := org.NewService(orgs, orgs, plat.SystemClock, "")
		lakes, sets, training := sqlstore.NewLake(db, plat.SystemClock), dataset.NewService(sqlstore.NewDatasets(db), plat.SystemClock), sqlstore.NewTraining(db)
		var ids []plat.OrgID
		var sources []plat.DatasourceID
		for _, name := range []string{"goes", "stays"} {
			o, err := svc.Create(ctx, name)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, o.ID)
			if err := lakes.CreateChannel(ctx, lake.Channel{ID: plat.ChannelID(plat.NewDecimalID()), Org: o.ID, Storage: lake.StorageDatalake}); err != nil {
				t.Fatal(err)
			}
			if _, err := sets.Create(ctx, o.ID, "bolts", "classification", []byte(`{}`)); err != nil {
				t.Fatal(err)
			}
			// A link has no organization of its own, and holds its datasource.
			source := org.Datasource{ID: plat.DatasourceID(plat.NewDecimalID()), Org: o.ID, DisplayName: "door", Sealed: []byte{1}, KeyID: "k"}
			if err := orgs.CreateDatasource(ctx, source, authn.HashToken(string(source.ID))); err != nil {
				t.Fatal(err)
			}
			if _, err := orgs.Link(ctx, o.ID, "2290000000456", source.ID, plat.SystemClock()); err != nil {
				t.Fatal(err)
			}
			sources = append(sources, source.ID)
			// A version refers to its definition: the tables are emptied in whatever
			// order that allows.
			d := train.Definition{ID: plat.JobDefinitionID(plat.NewDecimalID()), Org: o.ID, Name: "leaf"}
			if err := training.CreateDefinition(ctx, d); err != nil {
				t.Fatal(err)
			}
			if err := training.CreateVersion(ctx, train.Version{Org: o.ID, Definition: d.ID, Number: 1}); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if err := sqlstore.SweepOrg(ctx, db, ids[0]); err != nil {
				t.Fatal(err)
			}
		}
		for i, want := range []int{0, 1} {
			channels, _, err := lakes.Channels(ctx, ids[i], lake.ChannelPage{IncludeArchived: true, Limit: 10})
			if err != nil || len(channels) != want {
				t.Errorf("channels = %v, %v", channels, err)
			}
			all, err := sets.List(ctx, ids[i], "", 0)
			if err != nil || len(all) != want {
				t.Errorf("datasets = %v, %v", all, err)
			}
			_, n, err := training.Definitions(ctx, ids[i], train.Page{})
			if _, err := orgs.Datasource(ctx, ids[i], sources[i]); (err == nil) != (want == 1) {
				t.Errorf("datasource = %v", err)
			}
			if err != nil || n != want {
				t.Errorf("definitions = %d, %v", n, err)
			}
		}
	})
}

func TestIdentitySQLite(t *testing.T) {
	orgtest.Run(t, func(t *testing.T) orgtest.Store { return sqlstore.NewOrgs(sqlstoretest.SQLite(t)) })
}

func TestIdentityPostgres(t *testing.T) {
	orgtest.Run(t, func(t *testing.T) orgtest.Store { return sqlstore.NewOrgs(sqlstoretest.Postgres(t)) })
}
