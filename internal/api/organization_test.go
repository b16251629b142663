// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"panal/internal/audit"
	"panal/internal/authn"
	"panal/internal/org"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/x/quota"
)

// withAudit adds the audit.
func withAudit(w *world, db *sqlstore.DB) {
	w.deps.Audit = audit.New(audit.Config{Store: sqlstore.NewAudit(db), Burst: 10_000})
}

// TestOrganizations: data.md §3.1 has GET alone; the rest is ours, in its style.
func TestOrganizations(t *testing.T) {
	w := newWorld(t, withData(nil, plat.SystemClock))
	const root, acme = "operator/admin", "acme/admin"
	call := func(as, method, path, in string, status int, code string) map[string]any {
		t.Helper()
		got, body := w.do(method, path, as, strings.NewReader(in), "Content-Type", "application/json")
		var out map[string]any
		if err := json.Unmarshal([]byte(body), &out); err != nil {
			t.Fatalf("%s %s: no JSON object: %s", method, path, body)
		}
		if got != status || code != "" && out["error"] != code {
			t.Fatalf("%s %s as %s = %d %s, want %d %s", method, path, as, got, body, status, code)
		}
		return out
	}
	ok := func(as, method, path, in string) map[string]any {
		t.Helper()
		return call(as, method, path, in, 200, "")
	}

	// Only the operator's admins manage; everybody reads their own.
	for _, as := range []string{acme, "acme/developer", "operator/developer", "operator/regular"} {
		call(as, http.MethodGet, "/organizations", "", 403, "forbidden")
		call(as, http.MethodPost, "/organizations", `{"name":"x"}`, 403, "forbidden")
		for _, m := range []string{"POST acme/suspend", "POST acme/resume", "PATCH acme", "DELETE acme?confirm=acme"} {
			method, path, _ := strings.Cut(m, " ")
			call(as, method, "/organizations/"+path, "", 403, "forbidden")
		}
	}
	call("acme/developer", http.MethodGet, "/organizations/acme/usage", "", 403, "forbidden")
	call(acme, http.MethodGet, "/organizations/other", "", 403, "forbidden")
	call(acme, http.MethodGet, "/organizations/nobody", "", 403, "forbidden")
	call(root, http.MethodGet, "/organizations/nobody", "", 404, "not_found")
	if o := ok(root, http.MethodGet, "/organizations/acme", ""); o["name"] != "acme" || o["state"] != "active" {
		t.Errorf("acme, for the operator = %v", o)
	}
	call(root, http.MethodGet, "/organizations/acme/channels", "", 403, "forbidden") // managing is not reading

	// Made with an admin, whose token works; listed in pages; changed.
	made := ok(root, http.MethodPost, "/organizations", `{"name":"new","storage_quota_bytes":10}`)
	call(root, http.MethodPost, "/organizations", `{"name":"new"}`, 409, "conflict")
	call(root, http.MethodPost, "/organizations", `{"name":"Not it"}`, 400, "bad_request")
	call(root, http.MethodPost, "/organizations", "", 400, "bad_request")
	call(root, http.MethodPost, "/organizations", `{"name":"x","storage_quota_bytes":-1}`, 400, "bad_request")
	w.token["new/admin"] = "user-" + made["admin"].(map[string]any)["id"].(string) + ":" + made["personal_access_token"].(string)
	if o := ok("new/admin", http.MethodGet, "/organizations/new", ""); o["storage_quota_bytes"] != 10.0 || o["personal_access_token"] != nil {
		t.Errorf("new = %v", o)
	}
	page := ok(root, http.MethodGet, "/organizations?limit=2&offset=1", "")
	if list := page["organizations"].([]any); len(list) != 2 || page["has_next"] != true || list[0].(map[string]any)["name"] != "acme" {
		t.Errorf("a page = %v", page)
	}
	if page := ok(root, http.MethodGet, "/organizations?limit=1000&offset=99", ""); len(page["organizations"].([]any)) != 0 || page["has_next"] != false {
		t.Errorf("past the end = %v", page)
	}
	if o := ok(root, http.MethodPatch, "/organizations/new", `{"name":"newer","storage_quota_bytes":null}`); o["name"] != "newer" || o["storage_quota_bytes"] != 10.0 {
		t.Errorf("changed = %v", o)
	}

	// Suspended: 403 with the reason, for all; resumed: as before.
	ch := ok(acme, http.MethodPost, "/organizations/acme/channels", `{"name":"c"}`)["channel"].(map[string]any)["channel_id"].(string)
	id := ok(acme, http.MethodPost, "/channels/"+ch+"/upload", "bytes")["file_id"].(string)
	uri := ok(acme, http.MethodGet, "/channels/"+ch+"/"+id, "")["download_uri"].(string)
	path := "/blobs/" + strings.SplitN(uri, "/blobs/", 2)[1]
	call(root, http.MethodDelete, "/organizations/acme?confirm=acme", "", 409, "conflict")
	call(root, http.MethodPost, "/organizations/operator/suspend", "", 409, "conflict")
	ok(root, http.MethodPost, "/organizations/acme/suspend", "")
	for _, as := range []string{acme, "acme/regular"} {
		for _, p := range []string{"/organizations/acme", "/organizations/acme/channels", "/channels/" + ch + "/" + id, "/deployments/1700000000001"} {
			if e := call(as, http.MethodGet, p, "", 403, "forbidden"); !strings.Contains(e["error_description"].(string), "suspended") {
				t.Errorf("%s: %v", p, e)
			}
		}
	}
	call("", http.MethodGet, path, "", 403, "forbidden")
	call("other/admin", http.MethodGet, "/channels/"+ch+"/"+id, "", 403, "forbidden")
	ok(root, http.MethodPost, "/organizations/acme/resume", "")
	ok(acme, http.MethodGet, "/channels/"+ch+"/"+id, "")
	if status, body := w.do(http.MethodGet, path, "", nil); status != 200 || body != "bytes" {
		t.Errorf("the signed URL after resume = %d %s", status, body)
	}

	// Deleted: by name, and final.
	ok(root, http.MethodPost, "/organizations/acme/suspend", "")
	call(root, http.MethodDelete, "/organizations/acme", "", 400, "bad_request")
	call(root, http.MethodDelete, "/organizations/acme?confirm=other", "", 400, "bad_request")
	if o := ok(root, http.MethodDelete, "/organizations/acme?confirm=acme", ""); o["state"] != "deleting" {
		t.Errorf("deleted = %v", o)
	}
	call(root, http.MethodPost, "/organizations/acme/resume", "", 409, "conflict")
	call(acme, http.MethodGet, "/organizations/acme", "", 403, "forbidden")
}

// TestSuspendedWorkloadsFinish: what a workload needs for its own work goes on, so
// that nothing of it is lost; the organization's data is closed to it as to people.
func TestSuspendedWorkloadsFinish(t *testing.T) {
	tw := newTrainWorld(t)
	w := tw.world
	tw.call(http.MethodPost, tw.defs, `{"name":"leaf"}`)
	d, err := w.deps.Train.Definition(t.Context(), w.orgs["acme"].ID, "leaf")
	if err != nil {
		t.Fatal(err)
	}
	secret := plat.NewToken()
	err = tw.toks.CreateToken(t.Context(), authn.Token{
		Hash: authn.HashToken(secret), Kind: authn.KindContainer, Org: d.Org, CreatedAt: plat.SystemClock(),
		Scope: authn.Scope{Workload: "wl-1", Definition: d.ID, DefinitionName: "leaf", Version: 1, Job: "1712000000044"},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.bearer["job"] = secret
	if _, err := w.deps.Orgs.Suspend(t.Context(), d.Org); err != nil {
		t.Fatal(err)
	}
	// 404: it was admitted, and there is no such job.
	if status, body := w.do(http.MethodGet, tw.defs+"/leaf/jobs/1712000000044", "job", nil); status != 404 {
		t.Errorf("its own job = %d %s", status, body)
	}
	status, body := w.do(http.MethodGet, "/organizations/acme/channels", "job", nil)
	isError(t, "the organization's channels", status, body, 403, "forbidden")
}

func TestOneOrganizationWithoutIsolation(t *testing.T) {
	w := newWorld(t, func(w *world, db *sqlstore.DB) {
		s := sqlstore.NewOrgs(db)
		w.deps.Orgs = org.NewService(s, s, plat.SystemClock, "nothing holds here")
	})
	status, body := w.do(http.MethodPost, "/organizations", "operator/admin", strings.NewReader(`{"name":"second"}`), "Content-Type", "application/json")
	isError(t, "a second organization", status, body, 403, "forbidden")
	if !strings.Contains(body, "nothing holds here") {
		t.Errorf("no reason: %s", body)
	}
}

// TestOneOrganizationWhile: some things that run allow no second organization.
func TestOneOrganizationWhile(t *testing.T) {
	why := "the port of a command is open here"
	w := newWorld(t, func(w *world, _ *sqlstore.DB) {
		w.deps.Orgs.OneWhile(func(context.Context) (string, error) { return why, nil })
	})
	body := func() io.Reader { return strings.NewReader(`{"name":"second"}`) }
	status, text := w.do(http.MethodPost, "/organizations", "operator/admin", body(), "Content-Type", "application/json")
	isError(t, "a second organization", status, text, 403, "forbidden")
	if !strings.Contains(text, why) {
		t.Errorf("no reason: %s", text)
	}
	why = ""
	if status, text := w.do(http.MethodPost, "/organizations", "operator/admin", body(), "Content-Type", "application/json"); status != 200 {
		t.Errorf("later: %d %s", status, text)
	}
}

// TestStorageQuota: 507 with the quota's name, before a body of known length is read
// (data.md §5.2 has no class for it; design §6.9).
func TestStorageQuota(t *testing.T) {
	w := newWorld(t, withData(nil, plat.SystemClock), func(w *world, _ *sqlstore.DB) {
		w.deps.Lake.LimitBy(quota.New(plat.SystemClock,
			func(ctx context.Context, id plat.OrgID) (int64, error) {
				o, err := w.deps.Orgs.Standing(ctx, id)
				return o.Quota, err
			},
			func(ctx context.Context, id plat.OrgID) (int64, error) {
				u, err := w.deps.Lake.OrgUsage(ctx, id)
				return u.Bytes, err
			}))
	})
	limit := int64(100)
	if _, err := w.deps.Orgs.Change(t.Context(), w.orgs["acme"].ID, org.Edit{Quota: &limit}); err != nil {
		t.Fatal(err)
	}
	_, body := w.do(http.MethodPost, "/organizations/acme/channels", "acme/admin", nil)
	var made struct {
		Channel struct {
			ID string `json:"channel_id"`
		}
	}
	if err := json.Unmarshal([]byte(body), &made); err != nil {
		t.Fatal(err)
	}
	path := "/channels/" + made.Channel.ID + "/upload"
	up := func(n int, chunked bool) (int, string) {
		t.Helper()
		var r io.Reader = strings.NewReader(strings.Repeat("x", n))
		if chunked {
			r = struct{ io.Reader }{r}
		}
		return w.do(http.MethodPost, path, "acme/admin", r)
	}
	refused := func(what string, n int, chunked bool) {
		t.Helper()
		status, body := up(n, chunked)
		isError(t, what, status, body, 507, "insufficient_storage")
		if !strings.Contains(body, "storage quota of 100 bytes") {
			t.Errorf("%s: the text does not name the quota: %s", what, body)
		}
	}
	refused("larger than the quota", 101, false)
	refused("larger than the quota, of unknown length", 5000, true)
	if status, body := up(60, true); status != 200 {
		t.Fatalf("60 of 100 bytes = %d %s", status, body)
	}
	refused("the second 60", 60, false)
	refused("the second 60, of unknown length", 60, true)
	if status, _ := up(40, false); status != 200 {
		t.Errorf("what just fits = %d", status)
	}
	// A declared length that is refused is not read: the server answers first.
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, w.srv.URL+path, struct{ io.Reader }{neverReader{}})
	req.ContentLength = 1 << 30
	req.Header.Set("Expect", "100-continue")
	user, pass, _ := strings.Cut(w.token["acme/admin"], ":")
	req.SetBasicAuth(user, pass)
	tr := &http.Transport{ExpectContinueTimeout: time.Minute}
	defer tr.CloseIdleConnections()
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 507 {
		t.Errorf("1 GiB declared = %d", res.StatusCode)
	}
}

type neverReader struct{}

func (neverReader) Read([]byte) (int, error) { return 0, errors.New("the body was read") }
