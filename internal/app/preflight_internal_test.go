// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"panal/internal/config"
	"panal/internal/plat"
)

// A database, or a bucket, that takes the call and never answers is given up in time: the
// server before this one goes on.
func TestPreflightOfWhatHangs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes the connection, nobody reads
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for what, cfg := range map[string]config.Server{
		"database": {Database: "postgres://u:secret@" + l.Addr().String() + "/d"},
		"bucket":   {Blob: "s3://bucket?endpoint=http://" + l.Addr().String(), S3AccessKey: "a", S3SecretKey: "secret"},
	} {
		t.Run(what, func(t *testing.T) {
			cfg.Data, cfg.LockWait = t.TempDir(), time.Minute
			cfg.KeyFile = filepath.Join(cfg.Data, "keys")
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			a := &App{cfg: cfg, log: slog.New(slog.DiscardHandler), now: time.Now}
			if err := a.preflight(ctx); plat.KindOf(err) != plat.ErrUnavailable { //nolint:errorlint // KindOf returns the sentinel itself
				t.Errorf("%v, want one of kind unavailable", err)
			}
		})
	}
}
