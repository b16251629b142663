// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"testing"
	"time"

	"panal/internal/lake"
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
