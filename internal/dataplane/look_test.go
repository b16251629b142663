// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"panal/internal/dataplane"
)

// TestLook: what the gateway knows of a service that explains it: which instances have
// what, which are left out, what limits turned away.
func TestLook(t *testing.T) {
	table := dataplane.NewTable()
	t.Cleanup(func() { table.Replace(dataplane.Snapshot{Version: 1 << 60}) })
	p := dataplane.NewProxy(table, dataplane.Options{Limits: dataplane.Limits{Service: dataplane.Limit{Rate: 0.001}}})
	gw := server(t, p)
	if l := p.Look(dep, svA); l.Instances != nil || l.Turned != nil {
		t.Errorf("of nobody: %+v", l)
	}
	well, _ := upstream(t, 4, say("ok"))
	dead := dataplane.Instance{ID: workload(), Network: "unix", Address: filepath.Join(t.TempDir(), "nobody"), Limit: 1}
	s := serviceOf(svA)
	s.Instances = []dataplane.Instance{dead}
	apply(t, table, 1, routes(svA, s))
	answered := make(chan int, 1)
	go func() {
		status, _ := call(t, gw.Client(), "POST", gw.URL, "x")
		answered <- status
	}()
	eventually(t, "the instance left out", func() bool {
		l := p.Look(dep, svA)
		return len(l.Instances) == 1 && l.Instances[0].Refusals > 0 && l.Instances[0].SkippedUntil.After(time.Now())
	})
	s.Instances = []dataplane.Instance{dead, well}
	apply(t, table, 2, routes(svA, s))
	if status := <-answered; status != 200 {
		t.Errorf("the call = %d", status)
	}
	if status, _ := call(t, gw.Client(), "POST", gw.URL, "x"); status != 429 {
		t.Errorf("over the limit: %d", status)
	}
	l := p.Look(dep, svA)
	if len(l.Instances) != 2 || l.Instances[1].ID != well.ID || l.Instances[1].Limit != 4 || l.Instances[1].Refusals != 0 || !l.Instances[1].SkippedUntil.IsZero() {
		t.Errorf("instances: %+v", l.Instances)
	}
	if len(l.Turned) != 1 || l.Turned["service_rate"] != 1 {
		t.Errorf("turned away: %v", l.Turned)
	}
	if f := p.Figures(dep, svA); f.Calls != 1 {
		t.Errorf("%d calls in its figures, want the one that it had", f.Calls)
	}
}

// TestFailingInstanceIsLeftOut: one of two instances takes calls and answers none, in
// whichever way. After some calls the other one gets them all, and the first is tried again later.
func TestFailingInstanceIsLeftOut(t *testing.T) {
	for how, failing := range map[string]func() dataplane.Instance{
		"its agent says so": func() dataplane.Instance {
			in, _ := upstream(t, 4, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Panal-Failed", "1")
				http.Error(w, "the command failed", http.StatusBadGateway)
			})
			return in
		},
		"it closes": func() dataplane.Instance {
			return rawUpstream(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 4096)) })
		},
		"it answers garbage": func() dataplane.Instance {
			return rawUpstream(t, func(c net.Conn) {
				_, _ = c.Read(make([]byte, 4096))
				_, _ = io.WriteString(c, "HTTP/9 yes\r\n\r\n")
			})
		},
		"it breaks off": func() dataplane.Instance {
			return rawUpstream(t, func(c net.Conn) {
				_, _ = c.Read(make([]byte, 4096))
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
			})
		},
	} {
		t.Run(how, func(t *testing.T) {
			table := dataplane.NewTable()
			t.Cleanup(func() { table.Replace(dataplane.Snapshot{Version: 1 << 60}) })
			p := dataplane.NewProxy(table, dataplane.Options{})
			gw := server(t, p)
			bad := failing()
			well, _ := upstream(t, 4, say("ok"))
			apply(t, table, 1, routes(svA, serviceOf(svA, bad, well)))
			left := func() bool {
				l := p.Look(dep, svA)
				return l.Instances[0].Failures >= 3 && l.Instances[0].SkippedUntil.After(time.Now()) && l.Instances[1].Failures == 0
			}
			failed := 0
			for !left() {
				resp, err := gw.Client().Post(gw.URL, "text/plain", strings.NewReader("x"))
				if err == nil {
					if resp.Header.Get("X-Panal-Failed") != "" {
						t.Fatal("the caller is told of the mark")
					}
					_, err = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
				if err != nil || resp.StatusCode != 200 {
					failed++
				}
				if failed > 3 {
					t.Fatalf("%d calls failed", failed)
				}
			}
			for range 20 {
				if status, body := call(t, gw.Client(), "POST", gw.URL, "x"); status != 200 || body != "ok" {
					t.Errorf("beside one that is left out: %d %s", status, body)
				}
			}
		})
	}
}
