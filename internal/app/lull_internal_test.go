// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// TestLull: a server that leaves waits for a moment without long requests, those that came
// meanwhile included, among any number of short ones; and for no longer than it may.
func TestLull(t *testing.T) {
	for what, tt := range map[string]struct {
		limit       time.Duration
		least, most time.Duration
	}{
		"with time enough": {time.Hour, 35 * time.Second, 36 * time.Second},
		"with less":        {12 * time.Second, 12 * time.Second, 13 * time.Second},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := leaving{carried: func(uint32) int64 { return 0 }, countRound: func(uint32) {}}
				h := l.counted(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					d, err := time.ParseDuration(r.URL.Query().Get("takes"))
					if err != nil {
						t.Error(err)
					}
					time.Sleep(d)
				}))
				request := func(takes string) {
					h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/?takes="+takes, http.NoBody))
				}
				go request("20s")
				stop := make(chan struct{})
				for range 3 {
					go func() {
						for {
							select {
							case <-stop:
								return
							default:
								request("130ms")
							}
						}
					}()
				}
				go func() {
					time.Sleep(15 * time.Second)
					request("20s")
				}()
				time.Sleep(time.Millisecond)
				l.next()
				ctx, cancel := context.WithTimeout(t.Context(), tt.limit)
				defer cancel()
				begun := time.Now()
				l.lull(ctx)
				if took := time.Since(begun); took < tt.least || took > tt.most {
					t.Errorf("it waited for %v, want %v to %v", took, tt.least, tt.most)
				}
				close(stop)
				time.Sleep(time.Minute)
				if l.active[0].Load() != 0 || l.active[1].Load() != 0 {
					t.Errorf("requests that have ended are still counted: %d, %d", l.active[0].Load(), l.active[1].Load())
				}
			})
		})
	}
}
