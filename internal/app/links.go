// SPDX-License-Identifier: Apache-2.0

package app

import (
	"log/slog"
	"time"

	"panal/internal/api"
	"panal/internal/feed"
	"panal/internal/feed/sqsfeed"
	"panal/internal/feed/webhookfeed"
	"panal/internal/lake"
	"panal/internal/lake/link"
	"panal/internal/lake/link/s3link"
	"panal/internal/plat"
	"panal/internal/sqlstore"
)

// addLinks runs what keeps linked channels in step with their buckets.
func (a *App) addLinks(deps *api.Deps, files *lake.Service, index *sqlstore.Lake) {
	store := sqlstore.NewLinks(index)
	links := link.NewManager(link.Options{
		Store: store, Seal: a.keys, Now: a.now, Log: a.log.With(slog.String(plat.LogComponent, "link")), Endpoints: a.cfg.LinkEndpoints,
		Dial: func(p link.Place, access, secret string) (link.Bucket, error) {
			return s3link.Open(s3link.Options{Endpoint: p.Endpoint, Region: p.Region, Bucket: p.Bucket, AccessKey: access, SecretKey: secret})
		},
		Queue: func(queue, region, access, secret string, lease time.Duration) (feed.Source, error) {
			return sqsfeed.Open(sqsfeed.Options{Queue: queue, Region: region, AccessKey: access, SecretKey: secret, Lease: lease})
		},
		Posts: func(id plat.ChannelID, lease time.Duration) link.Posts { return webhookfeed.New(store, id, lease) },
	})
	files.ReadLinked(links)
	deps.Links = links
	a.metrics.MustRegister(newLinkGauges(a.log, links.Totals))
	a.group.Add("links", links.Run)
}
