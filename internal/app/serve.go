// SPDX-License-Identifier: Apache-2.0

package app

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"panal/internal/api"
	"panal/internal/plat"
	"panal/internal/x/front"
)

// maxHeaderBytes is where net/http cuts a request's headers off. What lies between
// the configured limit and this gets the API's own 431.
func maxHeaderBytes(limit int) int { return 4 * cmp.Or(limit, 64<<10) }

// front is the outermost handler: health and metrics beside the API.
func (a *App) front(next http.Handler) http.Handler {
	metrics := promhttp.HandlerFor(a.metrics, promhttp.HandlerOpts{})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 && (r.URL.Path == "/livez" || r.URL.Path == "/readyz" || r.URL.Path == "/metrics") {
			// Nobody wants this body, and net/http would wait for it without a limit.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(10 * time.Second)) // only HTTP/1 and HTTP/2 are here
		}
		switch r.URL.Path {
		case "/livez":
			writeStatus(w, http.StatusOK, `{"status":"ok"}`)
		case "/readyz":
			a.readyz(w, r)
		case "/metrics":
			metrics.ServeHTTP(w, r)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func (a *App) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	level, reason := a.runner.Isolation()
	isolation := `"isolation":` + quote(level)
	if reason != "" {
		isolation += `,"isolation_reason":` + quote(reason)
	}
	if a.draining.Load() {
		writeStatus(w, http.StatusServiceUnavailable, `{"status":"draining",`+isolation+`}`)
		return
	}
	if err := a.control.Ping(ctx); err != nil {
		writeStatus(w, http.StatusServiceUnavailable, `{"status":"database unavailable",`+isolation+`}`)
		return
	}
	writeStatus(w, http.StatusOK, `{"status":"ok",`+isolation+`}`)
}

func writeStatus(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body + "\n")) // the prober may be gone
}

// serveHTTP serves h on l until ctx ends, then drains: no new connections, and
// requests in flight get as long to finish as drain then says. It speaks HTTP/1.1 and HTTP/2, over
// TLS when secure is given; without, HTTP/2 is for clients that begin with it (h2c with
// prior knowledge: a proxy in front that took TLS off), and what takes says of ordinary
// requests is served without net/http (ADR 20).
func serveHTTP(ctx context.Context, log *slog.Logger, l net.Listener, h http.Handler, headers int, drain func() time.Duration, draining *atomic.Bool, secure *tls.Config, takes func(method, target string) bool) error {
	srv := &http.Server{
		Handler:           endChunked(h),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeaderBytes(headers),
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		Protocols:         new(http.Protocols),
		TLSConfig:         secure,
		// net/http bounds by itself the streams that were reset before their handler began,
		// the control frames that wait for a peer which reads nothing, and header lists
		// (MaxHeaderBytes). The rest is here, so that no upgrade of Go changes it.
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:      250,
			MaxReadFrameSize:          16 << 10,
			MaxDecoderHeaderTableSize: 4 << 10,
			// A stream that nobody reads for a while may not hold up the others: net/http's
			// own windows are of one size. (4 MiB and more it does not take.)
			MaxReceiveBufferPerConnection: 4<<20 - 1,
			MaxReceiveBufferPerStream:     512 << 10,
			// A peer that is gone, or takes nothing, is found out.
			SendPingTimeout:  30 * time.Second,
			PingTimeout:      15 * time.Second,
			WriteByteTimeout: 30 * time.Second,
		},
	}
	follow(srv)
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetHTTP2(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	var server interface { // of which srv is one
		Shutdown(ctx context.Context) error
		Close() error
	} = srv
	serve := func() error { return srv.ServeTLS(l, "", "") }
	if secure == nil {
		f := front.New(srv, takes)
		f.Refusal = api.Refusal
		server, serve = f, func() error { return f.Serve(l) }
	}
	done := make(chan error, 1)
	go func() { done <- serve() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	draining.Store(true)
	if door, ok := l.(*limitedListener); ok {
		door.pause(callPatience)
		door.lastCall()
	}
	limit := drain()
	log.LogAttrs(ctx, slog.LevelInfo, "draining", slog.Duration(plat.LogDuration, limit))
	dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	if err := server.Shutdown(dctx); err != nil {
		log.LogAttrs(ctx, slog.LevelWarn, "requests were still running when the drain ended", slog.String(plat.LogError, err.Error()))
		_ = server.Close() // cuts them; Serve's error below is the one that counts
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// endChunked has a connection end with a request whose body came in chunks. It may have
// had a length as well, which net/http hides; then what is behind the chunks is a request
// to us and may be a part of the body to a proxy in front (RFC 9112 §6.1).
func endChunked(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TransferEncoding) > 0 && r.ProtoMajor == 1 {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// isHot tells the requests that come often and whose handlers end with their calls, as
// internal/x/front wants it: calls of services, downloads by signed URL, and uploads to
// channels. Everything else is net/http's.
func isHot(method, target string) bool {
	path, _, _ := strings.Cut(target, "?")
	switch {
	case isInference(path):
		return true
	case strings.HasPrefix(path, "/blobs/"):
		return method == http.MethodGet || method == http.MethodHead
	}
	return method == http.MethodPost && strings.HasPrefix(path, "/channels/") && strings.HasSuffix(path, "/upload")
}

func isInference(path string) bool { return strings.HasPrefix(path, "/deployments/") }

func isNothing(_, _ string) bool { return false }

// pprofHandler serves the profiler, on the admin listener only.
func pprofHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}
