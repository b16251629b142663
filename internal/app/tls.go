// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"panal/internal/plat"
)

// certEvery is how often a handshake may look whether the files have changed.
const certEvery = time.Second

// certificate is a pair of files that is read again when either has changed. A
// renewal that can't be read yet (one file is new, the other isn't) leaves the old
// one in use and is tried again.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	now               plat.Clock

	mu     sync.Mutex
	pair   *tls.Certificate
	stamp  [2]fileStamp
	looked time.Time
	failed string // the last failure, logged once
}

// fileStamp tells one state of a file from another.
type fileStamp struct {
	size int64
	at   time.Time
}

// openCertificate reads the files.
func openCertificate(certFile, keyFile string, now plat.Clock, log *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, now: now, log: log}
	stamp, err := c.look()
	if err == nil {
		err = c.load(stamp)
	}
	if err != nil {
		return nil, plat.InvalidField("tls-cert", "%v", err)
	}
	c.looked = now()
	return c, nil
}

func (c *certificate) look() (stamp [2]fileStamp, err error) {
	for i, name := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return stamp, err
		}
		stamp[i] = fileStamp{info.Size(), info.ModTime()}
	}
	return stamp, nil
}

func (c *certificate) load(stamp [2]fileStamp) error {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("read %s and %s: %w", c.certFile, c.keyFile, err)
	}
	c.pair, c.stamp = &pair, stamp
	return nil
}

// get is tls.Config.GetCertificate.
func (c *certificate) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.now(); now.Sub(c.looked).Abs() >= certEvery {
		c.looked = now
		stamp, err := c.look()
		if err == nil && stamp != c.stamp {
			if err = c.load(stamp); err == nil {
				c.log.LogAttrs(hello.Context(), slog.LevelInfo, "the TLS certificate was read again", slog.String(plat.LogPath, c.certFile))
			}
		}
		switch {
		case err == nil:
			c.failed = ""
		case err.Error() != c.failed:
			c.failed = err.Error()
			c.log.LogAttrs(hello.Context(), slog.LevelError, "the new TLS certificate can't be used; the old one goes on", slog.String(plat.LogError, c.failed))
		}
	}
	return c.pair, nil
}

// addTLS opens the listener for the world. The other one stays for workloads and
// for people on this machine.
func (a *App) addTLS(ctx context.Context) error {
	l, err := a.open(ctx, socketHTTPS, a.cfg.TLSListen)
	if err != nil {
		return fmt.Errorf("TLS listener: %w", err)
	}
	a.group.Add("https", a.serve(func(ctx context.Context, drain func() time.Duration) error {
		return serveHTTP(ctx, a.log, a.door.limit(l, false), a.handler, a.cfg.HeaderBytes, drain, &a.draining, &tls.Config{
			MinVersion: tls.VersionTLS12, GetCertificate: a.cert.get,
		}, nil)
	}))
	a.log.LogAttrs(ctx, slog.LevelInfo, "TLS", slog.String(plat.LogAddress, "https://"+l.Addr().String()), slog.String(plat.LogPath, a.cfg.TLSCert))
	return nil
}
