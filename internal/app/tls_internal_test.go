// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"panal/internal/plat"
	"panal/internal/x/httpx/httpxtest"
)

// TestCertificate: a renewal is used when it is whole, and never before.
func TestCertificate(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := httpxtest.WriteCert(t, dir, "one")
	at := time.Unix(1_800_000_000, 0)
	touch := func() {
		at = at.Add(time.Minute)
		for _, f := range []string{certFile, keyFile} {
			if err := os.Chtimes(f, at, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	touch()
	c, err := openCertificate(certFile, keyFile, func() time.Time { return at }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	name := func() string {
		pair, err := c.get(&tls.ClientHelloInfo{})
		if err != nil {
			t.Fatal(err)
		}
		return pair.Leaf.Subject.CommonName
	}
	if name() != "one" {
		t.Error(name())
	}
	old, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	httpxtest.WriteCert(t, dir, "two")
	fresh, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keyFile, old, 0o600); err != nil {
		t.Fatal(err)
	}
	touch()
	if name() != "one" {
		t.Error("half a renewal was used")
	}
	if err := os.WriteFile(keyFile, fresh, 0o600); err != nil {
		t.Fatal(err)
	}
	touch()
	if name() != "two" {
		t.Error("the renewal was not used")
	}
	if err := os.Remove(certFile); err != nil {
		t.Fatal(err)
	}
	at = at.Add(time.Minute)
	if name() != "two" {
		t.Error("a file that is gone took the certificate with it")
	}
	if _, err := openCertificate(certFile, keyFile, plat.SystemClock, slog.New(slog.DiscardHandler)); !errors.Is(err, plat.ErrInvalid) {
		t.Errorf("start without the file: %v", err)
	}
}

// TestProtocols: HTTP/1.1 and HTTP/2, with and without TLS.
func TestProtocols(t *testing.T) {
	certFile, keyFile := httpxtest.WriteCert(t, t.TempDir(), "localhost")
	c, err := openCertificate(certFile, keyFile, plat.SystemClock, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Proto", r.Proto)
		_, _ = io.Copy(w, r.Body)
	})
	for _, secure := range []bool{false, true} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		gate := newDoor(10, 10, nil, prometheus.NewRegistry())
		l = gate.limit(l, !secure)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		var conf *tls.Config
		scheme := "http://"
		if secure {
			conf, scheme = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}, "https://"
		}
		go func() {
			var draining atomic.Bool
			done <- serveHTTP(ctx, slog.New(slog.DiscardHandler), l, echo, 0, func() time.Duration { return time.Second }, &draining, conf, isNothing)
		}()
		for _, two := range []bool{false, true} {
			tr := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
			want := "HTTP/1.1"
			if two {
				want = "HTTP/2.0"
				tr.Protocols.SetHTTP2(true)
				tr.Protocols.SetUnencryptedHTTP2(true)
			} else {
				tr.Protocols.SetHTTP1(true)
			}
			client := &http.Client{Transport: tr}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, scheme+l.Addr().String(), http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatalf("TLS %v, %s: %v", secure, want, err)
			}
			_ = resp.Body.Close()
			if got := resp.Header.Get("X-Proto"); got != want {
				t.Errorf("TLS %v: %s, want %s", secure, got, want)
			}
			tr.CloseIdleConnections()
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := gate.open.Load(); n != 0 {
			t.Errorf("TLS %v: %d connections are still counted", secure, n)
		}
	}
}
