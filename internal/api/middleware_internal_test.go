// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"panal/internal/x/httpx/httpxtest"
)

// TestUnreadBodies: a body that its handler does not want and that never comes holds
// its connection for a bounded time, and one that comes late cuts nothing.
func TestUnreadBodies(t *testing.T) {
	const long = 5 * time.Minute // any answer of ours may take that
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	mux.HandleFunc("/big", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", 1<<20)) })
	mux.HandleFunc("/refuse", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	mux.HandleFunc("/part", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadFull(r.Body, make([]byte, 1))
		w.WriteHeader(http.StatusBadRequest)
	})
	mux.HandleFunc("/both", func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		_, _ = c.EnableFullDuplex(), c.Flush()
		_, _ = io.ReadFull(r.Body, make([]byte, 1))
		_, _ = io.WriteString(w, "ok")
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		select {
		case <-time.After(long):
			_, _ = io.WriteString(w, "whole")
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("/json", func(w http.ResponseWriter, r *http.Request) {
		boundBody(w, r)
		if _, err := io.ReadAll(r.Body); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		select {
		case <-time.After(long):
			_, _ = io.WriteString(w, "whole")
		case <-r.Context().Done():
			_, _ = io.WriteString(w, "cut")
		}
	})
	h := New(Deps{}).middleware(mux)
	const length, chunks, expect = "Content-Length: 100\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: 100\r\nExpect: 100-continue\r\n"
	for _, c := range []struct {
		name, path, head string
		now, later       string // of the body: at once, and after ten seconds
		status           int
		body             string
		least, most      time.Duration // until the connection ends
	}{
		{"an answer", "/ok", length, "", "", 200, "ok", 0, drainTime},
		{"an answer, chunks", "/ok", chunks, "5\r\nhel", "", 200, "ok", 0, drainTime},
		{"a long answer", "/big", length, "", "", 200, "xxx", 0, drainTime},
		{"a refusal", "/refuse", length, "", "", 401, "", 0, drainTime},
		{"a refusal, chunks", "/refuse", chunks, "", "", 401, "", 0, drainTime},
		{"a refusal of what was only asked for", "/refuse", expect, "", "", 401, "", 0, time.Second},
		{"an answer to what was only asked for", "/ok", expect, "", "", 200, "ok", 0, time.Second},
		{"a part was read", "/part", length, "x", "", 400, "", 0, drainTime},
		{"a part of what was asked for was read", "/part", expect, "x", "", 400, "", 0, drainTime},
		{"side by side", "/both", length, "x", "", 200, "ok", 0, time.Second},
		{"a body that comes late", "/slow", length, "", strings.Repeat("x", 100), 200, "whole", long, long + drainTime},
		{"a body in time, a long answer", "/json", length, strings.Repeat("x", 100), "", 200, "whole", long, long + drainTime},
		{"a body that stops", "/json", length, "x", "", 400, "", idleLimit, idleLimit * 5 / 4},
		{"a body by drops", "/json", length, "x", "drops", 400, "", 9 * idleLimit, 10 * idleLimit},
		{"chunks that end late", "/slow", chunks, "1\r\nx\r\n", "0\r\n\r\n", 200, "whole", long, long + drainTime},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, end := httpxtest.Serve(h)
				start := time.Now()
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					_, _ = io.WriteString(ours, "POST "+c.path+" HTTP/1.1\r\nHost: x\r\n"+c.head+"\r\n"+c.now)
					if c.later == "drops" {
						for range 90 {
							time.Sleep(40 * time.Second)
							if _, err := io.WriteString(ours, "x"); err != nil {
								return
							}
						}
					} else if c.later != "" {
						time.Sleep(10 * time.Second)
						_, _ = io.WriteString(ours, c.later)
					}
				}()
				br := bufio.NewReader(ours)
				res, err := http.ReadResponse(br, nil)
				for err == nil && res.StatusCode == http.StatusContinue {
					res, err = http.ReadResponse(br, nil)
				}
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(res.Body)
				if res.StatusCode != c.status || !strings.HasPrefix(string(body), c.body) || err != nil {
					t.Errorf("%d %.20q, %v", res.StatusCode, body, err)
				}
				_, _ = io.Copy(io.Discard, br) // the connection ends
				if took := time.Since(start); took < c.least || took > c.most+2*time.Second {
					t.Errorf("the connection was open for %s, want %s to %s", took, c.least, c.most)
				}
				end()
				<-sent
			})
		})
	}
}
