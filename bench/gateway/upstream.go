// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"panal/internal/runner/agentctl"
)

// smallAnswer is what a prediction looks like: 200 bytes.
var smallAnswer = []byte(`{"label":"` + strings.Repeat("a", 188) + `"}`)

// upstream is the server behind every proxy: it answers /big?bytes=N with N bytes,
// takes whatever is PUT, and anything else with 200 bytes.
func upstream(addr string) error {
	piece := make([]byte, 64<<10)
	return serve(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			return
		}
		switch {
		case r.Method == http.MethodPut:
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprintf(w, `{"bytes":%d}`, n)
		case strings.HasSuffix(r.URL.Path, "/big"):
			left, _ := strconv.ParseInt(r.URL.Query().Get("bytes"), 10, 64)
			w.Header().Set("Content-Length", strconv.FormatInt(left, 10))
			for left > 0 {
				n, err := w.Write(piece[:min(left, int64(len(piece)))])
				if err != nil {
					return
				}
				left -= int64(n)
			}
		default:
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(smallAnswer)
		}
	}))
}

// floor is the standard library's reverse proxy, as bare as it comes.
func floor(addr string, to way) error {
	target := &url.URL{Scheme: "http", Host: "upstream"}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, to.network, to.addr)
	}
	return serve(addr, &httputil.ReverseProxy{
		Transport:     &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 1024, DisableCompression: true},
		FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Header.Set(agentctl.HeaderInstanceKey, to.key)
		},
	})
}

func serve(addr string, h http.Handler) error {
	s := &http.Server{Addr: addr, Handler: h, ReadHeaderTimeout: 10 * time.Second}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	go func() { <-stop; _ = s.Close() }()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", addr, err)
	}
	return nil
}
