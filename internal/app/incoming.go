// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"panal/internal/api"
	"panal/internal/config"
	"panal/internal/feed"
	"panal/internal/feed/sqsfeed"
	"panal/internal/lake"
	"panal/internal/lake/incoming"
	"panal/internal/plat"
)

// addIncoming runs what finds the bodies that clients put straight into our bucket.
func (a *App) addIncoming(deps *api.Deps, files *lake.Service) error {
	files.ServeOnly(func(ctx context.Context, id plat.OrgID) error {
		switch o, err := a.orgs.Standing(ctx, id); {
		case errors.Is(err, plat.ErrNotFound):
			return plat.Errorf(plat.ErrForbidden, "the organization is deleted")
		case err != nil:
			return err
		default:
			return o.Served()
		}
	})
	count := func(name, help string, of func(taken, refused int64) int64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "panal", Name: name, Help: help}, func() float64 { return float64(of(files.Intake().Figures())) })
	}
	a.metrics.MustRegister(
		count("uploads_taken_total", "Bodies that clients put straight into the storage and that became files.", func(taken, _ int64) int64 { return taken }),
		count("uploads_refused_total", "Bodies that clients put straight into the storage and that were refused.", func(_, refused int64) int64 { return refused }),
	)
	where, err := config.ParseBlob(a.cfg.Blob)
	if err != nil || where.Bucket == "" {
		return err
	}
	var queue feed.Source // nil, not a nil *sqsfeed.Source
	if a.cfg.UploadQueue != "" {
		q, err := sqsfeed.Open(sqsfeed.Options{
			Queue: a.cfg.UploadQueue, Region: where.Region, AccessKey: a.cfg.S3AccessKey, SecretKey: a.cfg.S3SecretKey, SessionToken: a.cfg.S3Session, Lease: time.Minute,
		})
		if err != nil {
			return err
		}
		a.closers = append(a.closers, q.Close)
		queue = q
	}
	deps.Incoming = incoming.New(incoming.Options{
		Lake: files, Bucket: where.Bucket, Prefix: where.Prefix, Queue: queue, Secret: a.cfg.UploadSecret,
		Now: a.now, Log: a.log.With(slog.String(plat.LogComponent, "uploads")),
	})
	a.group.Add("uploads", deps.Incoming.Run)
	return nil
}
