// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"testing"

	"panal/internal/feed"
	"panal/internal/feed/feedtest"
	"panal/internal/feed/webhookfeed"
	"panal/internal/lake"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
)

// TestWebhookFeed holds the feed to its port's contract on the queue that it has in production.
func TestWebhookFeed(t *testing.T) {
	sqlstoretest.Each(t, func(t *testing.T, db *sqlstore.DB) {
		index := sqlstore.NewLake(db, plat.SystemClock)
		feedtest.Run(t, feedtest.Harness{New: func(t *testing.T) (feed.Source, func([]byte)) {
			c := lake.Channel{ID: plat.ChannelID(plat.NewDecimalID()), Org: "org"}
			if err := index.CreateChannel(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			src := webhookfeed.New(sqlstore.NewLinks(index), c.ID, feedtest.Lease)
			return src, func(body []byte) {
				if err := src.Push(t.Context(), body); err != nil {
					t.Error(err)
				}
			}
		}})
	})
}
