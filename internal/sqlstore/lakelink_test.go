// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"panal/internal/lake"
	"panal/internal/lake/link"
	"panal/internal/lake/link/linktest"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
)

func TestLinks(t *testing.T) {
	sqlstoretest.Each(t, func(t *testing.T, db *sqlstore.DB) {
		linktest.Run(t, linktest.Harness{New: func(t *testing.T, now plat.Clock) linktest.World {
			// One database for all cases: opening one costs more than a case does.
			err := db.Write(t.Context(), func(tx *sqlstore.Tx) error {
				for _, table := range []string{"channel", "channel_gone", "file", "posting", "file_delta", "link", "link_object", "feed_letter", "feed_message"} {
					if _, err := tx.ExecContext(t.Context(), `DELETE FROM `+table); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return linkWorld(t, sqlstore.NewLake(db, now), now)
		}})
	})
}

func linkWorld(t *testing.T, index *sqlstore.Lake, now plat.Clock) linktest.World {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	return linktest.World{
		Store: sqlstore.NewLinks(index),
		AddChannel: func(id plat.ChannelID, full bool) {
			must(index.CreateChannel(t.Context(), lake.Channel{ID: id, Org: "org", CreatedAt: now(), UpdatedAt: now()}))
			if full {
				out, err := index.Commit(t.Context(), []lake.NewFile{{File: lake.File{ID: plat.NewFileID(now()), Channel: id}}})
				must(err)
				must(out[0].Err)
			}
		},
		// What a reader finds, and every figure about it, must be of one mind.
		Files: func(id plat.ChannelID) []lake.File {
			far := now().Add(time.Hour)
			all, more, err := index.Files(t.Context(), lake.Search{Filter: lake.Filter{Channel: id}, Limit: 5000}, far)
			must(err)
			u, err := index.Usage(t.Context(), id, far)
			must(err)
			var bytes int64
			for i, f := range all {
				bytes += f.Size
				if i >= 10 {
					continue
				}
				if _, err := index.FileWith(t.Context(), id, "s3-key", decoded(f, "s3-key"), far); err != nil {
					t.Errorf("search for the key of %s: %v", f.ID, err)
				}
			}
			if more || u.Files != int64(len(all)) || u.Bytes != bytes {
				t.Errorf("usage %+v, listed %d files with %d bytes", u, len(all), bytes)
			}
			o, err := index.OrgUsage(t.Context(), "org")
			must(err)
			if o != (lake.Usage{}) {
				t.Errorf("the organization's own storage is %+v; linked files are none of it", o)
			}
			return all
		},
		Drop: func(id plat.ChannelID) { must(index.DropChannel(t.Context(), id, now())) },
	}
}

func decoded(f lake.File, key string) string {
	v, _ := f.Metadata.Get(key)
	return v
}

// What a link leaves is swept like what a deleted channel leaves, and nothing of what the channel has
// by then goes with it.
func TestUnlinkedIsSwept(t *testing.T) {
	db := sqlstoretest.SQLite(t)
	clock := time.Now().UTC().Truncate(time.Microsecond)
	now := func() time.Time { clock = clock.Add(time.Microsecond); return clock }
	index := sqlstore.NewLake(db, now)
	links := sqlstore.NewLinks(index)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	name := "kept"
	c := lake.Channel{ID: "1000000000001", Org: "org", Name: name, Description: &name, Storage: lake.StorageDatalake, Archived: true, CreatedAt: now(), UpdatedAt: now()}
	must(index.CreateChannel(t.Context(), c))
	must(links.CreateLink(t.Context(), link.Link{Channel: c.ID, Org: "org", CreatedAt: now(), Place: link.Place{Credentials: "sealed"}, Feed: link.Feed{Kind: link.FeedWebhook}}))
	var all []link.Observation
	for i := range 50 {
		key := fmt.Sprint("k", i)
		all = append(all, link.Observation{Was: link.Row{Key: key}, Object: &link.Object{Key: key, ETag: "e", Size: 1, Modified: clock, Metadata: map[string]string{"Label": "cat"}}})
	}
	_, err := links.Write(t.Context(), c.ID, all)
	must(err)
	must(links.Push(t.Context(), c.ID, []byte("{}")))
	must(links.Bury(t.Context(), []link.Letter{{Channel: c.ID, Reason: "r", At: clock}}))
	before, err := index.Total(t.Context())
	must(err)
	must(links.Unlink(t.Context(), c.ID, now()))
	after, err := index.Total(t.Context())
	if must(err); before.Files != 50 || after.Files != 0 {
		t.Errorf("total %+v, then %+v", before, after)
	}
	got, err := index.Channel(t.Context(), c.ID)
	if d := cmp.Diff(c, got); err != nil || d != "" {
		t.Errorf("the channel: %v\n%s", err, d)
	}
	unarchived := c
	unarchived.Archived = false
	must(index.UpdateChannel(t.Context(), unarchived))
	own, err := index.Commit(t.Context(), []lake.NewFile{{File: lake.File{ID: "own", Channel: c.ID, Size: 7, Metadata: lake.Metadata{"label": "cat"}}}})
	must(err)
	must(own[0].Err)

	gone, err := index.Gone(t.Context(), now())
	if must(err); len(gone) != 1 || gone[0].ID == c.ID || gone[0].Org != "org" {
		t.Fatalf("gone %+v", gone)
	}
	sweeps := 1
	for ; ; sweeps++ {
		clean, err := index.Sweep(t.Context(), gone[0].ID, 20)
		must(err)
		if clean {
			break
		}
	}
	must(index.Forget(t.Context(), gone[0].ID))
	if sweeps < 10 {
		t.Errorf("%d sweeps of 20 rows", sweeps)
	}
	n, err := index.Count(t.Context(), lake.Filter{Channel: c.ID}, now())
	u, uerr := index.Usage(t.Context(), c.ID, now())
	if err != nil || uerr != nil || n != 1 || u != (lake.Usage{Files: 1, Bytes: 7}) {
		t.Errorf("the channel's own: %d, %+v, %v, %v", n, u, err, uerr)
	}
	for _, table := range []string{"file", "posting", "file_delta", "link", "link_object", "feed_letter", "feed_message"} {
		var left int
		must(db.Read().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM `+table+` WHERE channel NOT IN (SELECT num FROM channel)`).Scan(&left))
		if left != 0 {
			t.Errorf("%d rows of %s are left", left, table)
		}
	}
	must(index.DropChannel(t.Context(), c.ID, now())) // its id was never taken
}
