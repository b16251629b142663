// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"panal/internal/api"
	"panal/internal/authn"
	"panal/internal/logs"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlite"
)

const (
	logJob     = plat.JobID("1712000000044")
	logService = plat.ServiceID("ser-7be2d1904c3f4a58")
)

// withLogs adds a log service, one job, one service, and container tokens "job",
// "service" and "ended" (a job whose workload is over).
func withLogs(cfg logs.Config) func(*world, *sqlstore.DB) {
	return func(w *world, db *sqlstore.DB) {
		t := w.t
		store, err := sqlstore.OpenLogFiles(t.Context(), filepath.Join(t.TempDir(), "logs"), func(ctx context.Context, path string) (*sqlstore.DB, error) {
			return sqlite.Open(ctx, path, "logs")
		})
		if err != nil {
			t.Fatal(err)
		}
		svc, err := logs.New(store, cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = svc.Run(ctx)
		}()
		t.Cleanup(func() {
			cancel()
			<-done
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		})
		acme := w.orgs["acme"].ID
		w.deps.Logs = svc
		w.deps.LogStreams = api.LogStreams{
			Job: func(_ context.Context, org plat.OrgID, definition string, job plat.JobID) error {
				if org == acme && definition == "leaf" && job == logJob {
					return nil
				}
				return plat.NotFound("training job", job)
			},
			Service: func(_ context.Context, org plat.OrgID, deployment plat.DeploymentID, service plat.ServiceID) error {
				if org == acme && deployment == "1740000000088" && service == logService {
					return nil
				}
				return plat.NotFound("service", service)
			},
		}
		tokens := sqlstore.NewOrgs(db)
		for name, scope := range map[string]authn.Scope{
			"job":     {Workload: "wl-job", Job: logJob},
			"ended":   {Workload: "wl-ended", Job: logJob},
			"service": {Workload: "wl-service", Service: logService},
		} {
			secret := plat.NewToken()
			if err := tokens.CreateToken(t.Context(), authn.Token{Hash: authn.HashToken(secret), Kind: authn.KindContainer, Org: acme, Scope: scope, CreatedAt: plat.SystemClock()}); err != nil {
				t.Fatal(err)
			}
			w.token[name] = secret
		}
		now := plat.SystemClock()
		if err := tokens.EndWorkloadTokens(t.Context(), "wl-ended", now, now.Add(1e12)); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *world) ingest(as, path string, body io.Reader, header ...string) (int, string) {
	w.t.Helper()
	return w.do(http.MethodPost, path, "", body, append(header, "Authorization", "Bearer "+w.token[as])...)
}

func batchJSON(t *testing.T, workload, stream string, first, n int) []byte {
	t.Helper()
	b := logs.Batch{Workload: workload, Stream: stream, FirstSeq: int64(first)}
	for i := range n {
		b.Entries = append(b.Entries, logs.Entry{Time: 1_770_087_662_345_000 + int64(first+i)*1_000_000, Level: "info", Message: fmt.Sprintf("epoch %d", first+i)})
	}
	out, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestLogIngest(t *testing.T) {
	w := newWorld(t, withLogs(logs.Config{}))
	acme := string(w.orgs["acme"].ID)
	path := func(workload string) string { return "/organizations/" + acme + "/workloads/" + workload + "/logs" }
	job := logs.JobStream(string(logJob))
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	ok := func(what string, status int, body, want string) {
		t.Helper()
		if status != 200 || strings.TrimSpace(body) != want {
			t.Errorf("%s = %d %s, want %s", what, status, body, want)
		}
	}
	status, body := w.ingest("job", path("wl-job"), bytes.NewReader(batchJSON(t, "wl-job", job, 1, 3)))
	ok("first", status, body, `{"last_seq":3}`)
	status, body = w.ingest("job", path("wl-job"), bytes.NewReader(batchJSON(t, "wl-job", job, 2, 4)))
	ok("overlap", status, body, `{"last_seq":5}`)
	status, body = w.ingest("job", path("wl-job"), bytes.NewReader(enc.EncodeAll(batchJSON(t, "wl-job", job, 6, 1), nil)), "Content-Encoding", "zstd")
	ok("zstd", status, body, `{"last_seq":6}`)
	status, body = w.ingest("ended", path("wl-ended"), bytes.NewReader(batchJSON(t, "wl-ended", job, 1, 1)))
	ok("after the end", status, body, `{"last_seq":1}`)
	status, body = w.ingest("service", path("wl-service"), bytes.NewReader(batchJSON(t, "wl-service", logs.ServiceStream(string(logService)), 1, 1)))
	ok("service", status, body, `{"last_seq":1}`)

	status, body = w.ingest("job", path("wl-job"), bytes.NewReader(batchJSON(t, "wl-job", job, 9, 1)))
	isError(t, "gap", status, body, 409, "conflict")
	if !strings.Contains(body, `"last_seq":6`) {
		t.Errorf("the gap's answer lacks last_seq: %s", body)
	}
	bomb := enc.EncodeAll(bytes.Repeat([]byte(" "), 40<<20), nil)
	for _, c := range []struct {
		what, as, path string
		body           []byte
		header         []string
		status         int
		code           string
	}{
		{"another's workload", "job", path("wl-service"), batchJSON(t, "wl-service", job, 1, 1), nil, 403, "forbidden"},
		{"another's workload inside", "job", path("wl-job"), batchJSON(t, "wl-service", job, 1, 1), nil, 403, "forbidden"},
		{"another's stream", "job", path("wl-job"), batchJSON(t, "wl-job", "job/1", 7, 1), nil, 403, "forbidden"},
		{"broken JSON", "job", path("wl-job"), []byte(`{"workload_id":`), nil, 400, "bad_request"},
		{"wrong type", "job", path("wl-job"), []byte(`{"first_seq":"x"}`), nil, 400, "bad_request"},
		{"line 0", "job", path("wl-job"), batchJSON(t, "wl-job", job, 0, 1), nil, 400, "bad_request"},
		{"no zstd", "job", path("wl-job"), []byte("nonsense"), []string{"Content-Encoding", "zstd"}, 400, "bad_request"},
		{"gzip", "job", path("wl-job"), []byte("x"), []string{"Content-Encoding", "gzip"}, 415, "unsupported_media_type"},
		{"bomb", "job", path("wl-job"), bomb, []string{"Content-Encoding", "zstd"}, 413, "request_entity_too_large"},
		{"large", "job", path("wl-job"), bytes.Repeat([]byte(" "), 2<<20+1), nil, 413, "request_entity_too_large"},
		{"nobody", "nobody", path("wl-job"), batchJSON(t, "wl-job", job, 7, 1), nil, 401, "unauthorized"},
	} {
		status, body := w.ingest(c.as, c.path, bytes.NewReader(c.body), c.header...)
		isError(t, c.what, status, body, c.status, c.code)
	}
	// Without a declared length the bound holds too.
	status, body = w.ingest("job", path("wl-job"), io.MultiReader(bytes.NewReader(bytes.Repeat([]byte(" "), 3<<20))))
	isError(t, "large, chunked", status, body, 413, "request_entity_too_large")
	status, body = w.do(http.MethodPost, path("wl-job"), "acme/admin", bytes.NewReader(batchJSON(t, "wl-job", job, 7, 1)))
	isError(t, "a user", status, body, 403, "forbidden")
	// None of that changed anything.
	status, body = w.ingest("job", path("wl-job"), bytes.NewReader(batchJSON(t, "wl-job", job, 7, 1)))
	ok("next", status, body, `{"last_seq":7}`)
}

func TestLogIngestAtTheCeiling(t *testing.T) {
	w := newWorld(t, withLogs(logs.Config{Ceiling: 1}))
	path := "/organizations/acme/workloads/wl-job/logs"
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.srv.URL+path, bytes.NewReader(batchJSON(t, "wl-job", logs.JobStream(string(logJob)), 1, 1)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.token["job"])
	res, err := w.srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	isError(t, "ceiling", res.StatusCode, string(b), 503, "service_unavailable")
	if res.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

type logAnswer struct {
	Events   []map[string]string `json:"events"`
	Next     *string             `json:"next_token"`
	Forward  *string             `json:"next_forward_token"`
	Backward *string             `json:"next_backward_token"`
}

func (w *world) logs(path string) logAnswer {
	w.t.Helper()
	status, body := w.do(http.MethodGet, path, "acme/regular", nil)
	var a logAnswer
	if err := json.Unmarshal([]byte(body), &a); err != nil || status != 200 {
		w.t.Fatalf("GET %s = %d %s", path, status, body)
	}
	if a.Events == nil {
		w.t.Fatalf("GET %s: events is not a list: %s", path, body)
	}
	return a
}

// TestLogRead: compute.md §11.
func TestLogRead(t *testing.T) {
	w := newWorld(t, withLogs(logs.Config{}))
	d, p := "/organizations/acme/training/definitions/leaf/jobs/"+string(logJob), "/organizations/acme/deployments/1740000000088/services/"+string(logService)

	// Nothing yet: both tokens are there and stay good for polling.
	recent := w.logs(p + "/recentlogs")
	if recent.Forward == nil || recent.Backward == nil || len(recent.Events) != 0 {
		t.Fatalf("empty recentlogs: %+v", recent)
	}
	if a := w.logs(p + "/logs"); a.Next != nil || len(a.Events) != 0 {
		t.Errorf("empty logs: %+v", a)
	}
	job, service := logs.JobStream(string(logJob)), logs.ServiceStream(string(logService))
	w.ingest("job", "/organizations/acme/workloads/wl-job/logs", bytes.NewReader(batchJSON(t, "wl-job", job, 1, 150)))
	w.ingest("service", "/organizations/acme/workloads/wl-service/logs", bytes.NewReader(batchJSON(t, "wl-service", service, 1, 3)))

	if recent = w.logs(p + "/recentlogs?next_forward_token=" + *recent.Forward); len(recent.Events) != 3 || recent.Events[0]["message"] != "epoch 3" {
		t.Errorf("polled: %+v", recent)
	}
	if recent = w.logs(p + "/recentlogs?next_forward_token=" + *recent.Forward); len(recent.Events) != 0 || recent.Forward == nil || recent.Backward == nil {
		t.Errorf("polled again: %+v", recent)
	}

	first := w.logs(d + "/logs")
	if len(first.Events) != 100 || first.Next == nil || first.Events[0]["message"] != "epoch 1" || first.Events[0]["timestamp"] != "2026-02-03T03:01:03.345000Z" {
		t.Fatalf("first page: %d events, %v", len(first.Events), first.Events[0])
	}
	second := w.logs(d + "/logs?start_time=2099-01-01T00:00:00Z&next_token=" + *first.Next) // the token wins
	if len(second.Events) != 50 || second.Next != nil || second.Events[0]["message"] != "epoch 101" {
		t.Errorf("second page: %d events", len(second.Events))
	}
	back := w.logs(d + "/recentlogs?limit=60")
	if back = w.logs(d + "/recentlogs?limit=60&next_backward_token=" + *back.Backward); len(back.Events) != 60 || back.Events[0]["message"] != "epoch 90" {
		t.Errorf("backward: %+v", back.Events[0])
	}
	for _, q := range []string{
		"start_time=2026-02-03T03:01:03&end_time=2026-02-03T03:01:05Z",            // without a zone, as the SDK writes it
		"start_time=2026-02-03T03:01:03.345Z&end_time=2026-02-03T03:01:04.345001", // inclusive, exclusive
		"q=epoch+1&end_time=2026-02-03T03:01:12&start_time=&next_token=&limit=2",  // epoch 1 (and 10…: too late)
	} {
		want := 2
		if strings.HasPrefix(q, "q=") {
			want = 1
		}
		if a := w.logs(d + "/logs?" + q); len(a.Events) != want || a.Next != nil {
			t.Errorf("%s: %+v", q, a)
		}
	}
	for _, c := range []struct {
		what, path, as string
		status         int
		code           string
	}{
		{"bad start", d + "/logs?start_time=yesterday", "acme/regular", 400, "bad_request"},
		{"bad token", d + "/logs?next_token=abc", "acme/regular", 400, "bad_request"},
		{"token of the other order", d + "/recentlogs?next_forward_token=" + *first.Next, "acme/regular", 400, "bad_request"},
		{"token of another stream", p + "/logs?next_token=" + *first.Next, "acme/regular", 400, "bad_request"},
		{"both tokens", d + "/recentlogs?next_forward_token=x&next_backward_token=y", "acme/regular", 400, "bad_request"},
		{"limit", d + "/logs?limit=1001", "acme/regular", 400, "bad_request"},
		{"limit is no number", d + "/logs?limit=many", "acme/regular", 400, "bad_request"},
		{"unknown job", strings.Replace(d, "044", "045", 1) + "/logs", "acme/regular", 404, "not_found"},
		{"unknown definition", strings.Replace(d, "leaf", "tree", 1) + "/recentlogs", "acme/regular", 404, "not_found"},
		{"unknown service", p + "0/logs", "acme/regular", 404, "not_found"},
		{"other organization", d + "/logs", "other/admin", 403, "forbidden"},
		{"nobody", d + "/logs", "", 401, "unauthorized"},
	} {
		status, body := w.do(http.MethodGet, c.path, c.as, nil)
		isError(t, c.what, status, body, c.status, c.code)
	}
}
