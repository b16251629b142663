// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"panal/internal/api"
	"panal/internal/audit"
	"panal/internal/lake"
	"panal/internal/plat"
	"panal/internal/sqlstore"
)

// TestEveryMutatingOperationIsAudited walks the API: each call that could change
// something leaves a row before it is answered, also when it is refused its
// credentials, or is on the list of exemptions with a reason.
func TestEveryMutatingOperationIsAudited(t *testing.T) {
	w := newWorld(t, withData(nil, plat.SystemClock), withAudit)
	exempt := api.AuditExempt()
	walked := 0
	for _, o := range api.Operations() {
		reason, free := exempt[o.ID]
		delete(exempt, o.ID)
		if o.Method == http.MethodGet || o.Method == http.MethodHead {
			continue
		}
		if free {
			if reason == "" {
				t.Errorf("%s is exempt without a reason", o.ID)
			}
			continue
		}
		walked++
		path := o.Path
		for name, v := range map[string]string{
			"{organization_id}": "acme", "{version}": "1", "{key}": "lake/" + string(w.orgs["acme"].ID) + "/x", "{file_id}": "20240315T081502-5f0d9c1e-7a43-4b7e-9f53-0c2e6a1d8b11",
		} {
			path = strings.ReplaceAll(path, name, v)
		}
		for strings.Contains(path, "{") {
			i, j := strings.IndexByte(path, '{'), strings.IndexByte(path, '}')
			path = path[:i] + "1700000000001" + path[j+1:]
		}
		for _, as := range []string{"acme/admin", ""} {
			req, err := http.NewRequestWithContext(t.Context(), o.Method, w.srv.URL+path, strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			if as != "" {
				user, pass, _ := strings.Cut(w.token[as], ":")
				req.SetBasicAuth(user, pass)
			}
			res, err := w.srv.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			// As soon as the answer's head is there, so is the row.
			row, ok := rowOf(t, w, res.Header.Get(api.HeaderRequestID))
			if !ok {
				t.Errorf("%s (%s %s) as %q = %d left no row; audit it, or add it to AuditExempt with the reason", o.ID, o.Method, path, as, res.StatusCode)
				continue
			}
			if row.Operation != o.ID || row.Method != o.Method || row.Status != res.StatusCode || row.Source != "127.0.0.1" || row.Path != path {
				t.Errorf("%s as %q = %d: the row is %+v", o.ID, as, res.StatusCode, row)
			}
			if as != "" && !o.Public && (row.Actor != "user" || row.ActorID == "") || as == "" && row.Actor != audit.ActorNone {
				t.Errorf("%s as %q: the row's actor is %s %q", o.ID, as, row.Actor, row.ActorID)
			}
		}
	}
	if walked < 20 {
		t.Errorf("only %d operations were walked", walked)
	}
	for id := range exempt {
		t.Errorf("AuditExempt names %s, which is no operation", id)
	}
}

// rowOf finds a request's row in whichever organization it is.
func rowOf(t *testing.T, w *world, requestID string) (audit.Row, bool) {
	t.Helper()
	for _, o := range w.orgs {
		rows, _, err := w.deps.Audit.List(t.Context(), audit.Query{Org: o.ID, Limit: 5})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			if r.ID == requestID {
				return r, true
			}
		}
	}
	return audit.Row{}, false
}

// An upload by a signed URL is in the audit of the organization that it is for.
func TestAuditOfSignedUpload(t *testing.T) {
	w := newWorld(t, withData(nil, plat.SystemClock), withAudit)
	channel, err := w.deps.Lake.CreateChannel(t.Context(), w.orgs["other"].ID, lake.NewChannel{})
	if err != nil {
		t.Fatal(err)
	}
	status, body := w.do("POST", "/channels/"+string(channel.ID), "other/admin", nil)
	var promised struct {
		FileID string `json:"file_id"`
		URL    string `json:"upload_url"`
	}
	if err := json.Unmarshal([]byte(body), &promised); err != nil || status != 200 {
		t.Fatalf("promise: %d %s", status, body)
	}
	for _, want := range []int{200, 409} {
		if status, body = w.do("PUT", strings.TrimPrefix(promised.URL, w.srv.URL), "", strings.NewReader("x")); status != want {
			t.Fatalf("PUT upload_url = %d %s, want %d", status, body, want)
		}
		rows, _, err := w.deps.Audit.List(t.Context(), audit.Query{Org: w.orgs["other"].ID, Limit: 1})
		if err != nil || len(rows) != 1 {
			t.Fatal(rows, err)
		}
		if r := rows[0]; r.Operation != "put-file" || r.Actor != "signed_url" || r.Status != want || r.Targets["file_id"] != promised.FileID {
			t.Errorf("the row of the upload: %+v", r)
		}
	}
}

// A row says what the call made, also where no path names it.
func TestAuditNamesWhatWasMade(t *testing.T) {
	w := newWorld(t, withData(nil, plat.SystemClock), withSecrets(plat.SystemClock), withAudit)
	const org, secrets = "/organizations/acme", "/secret-manager/organizations/acme/secrets"
	made := func(method, path, body, where string, header ...string) (id string, targets map[string]string) {
		t.Helper()
		status, answer := w.do(method, path, "acme/admin", strings.NewReader(body), append(header, "Content-Type", "application/json")...)
		var o any
		if err := json.Unmarshal([]byte(answer), &o); err != nil || status != 200 {
			t.Fatalf("%s %s = %d %s", method, path, status, answer)
		}
		for name := range strings.SplitSeq(where, ".") {
			if m, ok := o.(map[string]any); ok {
				o = m[name]
			}
		}
		id, ok := o.(string)
		if n, isNumber := o.(float64); isNumber {
			id, ok = strconv.Itoa(int(n)), true
		}
		if !ok && where != "" {
			t.Fatalf("%s %s has no %s: %s", method, path, where, answer)
		}
		rows, _, err := w.deps.Audit.List(t.Context(), audit.Query{Org: w.orgs["acme"].ID, Limit: 1})
		if err != nil || len(rows) != 1 {
			t.Fatal(rows, err)
		}
		return id, rows[0].Targets
	}
	names := func(target string) func(id string, targets map[string]string) string {
		return func(id string, targets map[string]string) string {
			t.Helper()
			if id == "" || targets[target] != id {
				t.Errorf("%s = %q is not in the row's targets: %v", target, id, targets)
			}
			return id
		}
	}
	channel := names("channel_id")(made("POST", org+"/channels", "{}", "channel.channel_id"))
	names("bucket_id")(made("POST", org+"/buckets", "{}", "bucket.bucket_id"))
	names("datasource_id")(made("POST", org+"/datasources", "{}", "datasource.datasource_id"))
	user := names("user_id")(made("POST", org+"/users", `{"email":"new@acme.example","role":"regular"}`, "id"))
	names("role")(made("PATCH", org+"/users/"+user, `{"role":"developer"}`, "role"))
	names("token_id")(made("POST", "/users/"+user+"/tokens", `{"name":"hush"}`, "id"))
	dataset := names("dataset_id")(made("POST", org+"/datasets", `{"name":"d","type":"custom","props":{}}`, "dataset_id"))
	item := `{"source_data":[{"data_uri":"http://x/y"}],"attributes":{}}`
	names("dataset_item_id")(made("POST", org+"/datasets/"+dataset+"/items", item, "dataset_item_id"))
	if _, targets := made("POST", org+"/datasets/"+dataset+"/items", "["+item+","+item+"]", ""); targets["items"] != "2" {
		t.Errorf("two items: %v", targets)
	}
	secret := names("secret_id")(made("POST", secrets, `{"name":"hush","value":"aHVzaA=="}`, "id"))
	_, targets := made("POST", secrets+"/"+secret+"/versions", `{"value":"aHVzaA=="}`, "id")
	names("secret_version_id")(targets["secret_version_id"], targets)
	for k, v := range targets {
		if strings.Contains(v, "hush") || strings.Contains(v, "aHVz") {
			t.Errorf("a secret is in the audit: %s: %s", k, v)
		}
	}
	names("repository_id")(made("POST", org+"/registry/repositories", `{"name":"r"}`, "id"))
	names("file_id")(made("POST", "/channels/"+channel+"/upload", "{}", "file_id"))
	names("file_id")(made("POST", "/channels/"+channel, "", "file_id"))
	confirm, targets := made("POST", "/channels/"+channel+"/delete", `{"q":"file_id:*"}`, "confirm")
	if targets["query"] != "file_id:*" || targets["dry_run"] != "true" || targets["deleted"] != "" {
		t.Errorf("dry run: %v", targets)
	}
	_, targets = made("POST", "/channels/"+channel+"/delete", `{"q":"file_id:*","dry_run":false,"confirm":"`+confirm+`"}`, "deleted")
	if targets["query"] != "file_id:*" || targets["deleted"] != "1" || targets["dry_run"] != "" {
		t.Errorf("deletion: %v", targets)
	}
	names("key")("a/b.txt", func() map[string]string {
		bucket, _ := made("POST", org+"/buckets", "{}", "bucket.bucket_id")
		form := "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a/b.txt\"\r\n\r\nx\r\n--b--\r\n"
		status, answer := w.do("POST", org+"/buckets/"+bucket+"/files", "acme/admin", strings.NewReader(form), "Content-Type", "multipart/form-data; boundary=b")
		rows, _, err := w.deps.Audit.List(t.Context(), audit.Query{Org: w.orgs["acme"].ID, Limit: 1})
		if status != 200 || err != nil {
			t.Fatal(answer, err)
		}
		return rows[0].Targets
	}())
}

func TestAuditList(t *testing.T) {
	w := newWorld(t, withData(nil, plat.SystemClock), withAudit)
	start := time.Now()
	const list = "/organizations/acme/audit"
	for range 3 {
		w.do(http.MethodPost, "/organizations/acme/channels?secret=hush", "acme/developer", strings.NewReader(`{"name":"hush"}`), "Content-Type", "application/json")
	}
	w.do(http.MethodDelete, "/channels/1/2", "acme/regular", nil)
	w.do(http.MethodPost, "/organizations/acme/channels", "other/admin", nil)
	w.do(http.MethodGet, "/organizations/acme/channels", "acme/admin", nil)
	w.do(http.MethodPost, "/organizations/acme/suspend", "operator/admin", nil)
	if _, err := w.deps.Orgs.Resume(t.Context(), w.orgs["acme"].ID); err != nil {
		t.Fatal(err)
	}
	type answer struct {
		Rows []api.AuditRow `json:"rows"`
		Next *string        `json:"next_page_token"`
	}
	ask := func(as, path string) answer {
		t.Helper()
		status, body := w.do(http.MethodGet, path, as, nil)
		var a answer
		if err := json.Unmarshal([]byte(body), &a); status != 200 || err != nil {
			t.Fatalf("GET %s = %d %s", path, status, body)
		}
		if strings.Contains(body, "hush") {
			t.Errorf("a query or a body is in the audit: %s", body)
		}
		return a
	}
	ops := func(rows []api.AuditRow) (out []string) {
		for _, r := range rows {
			out = append(out, r.Operation)
		}
		return out
	}
	all := ask("acme/admin", list)
	if got, want := ops(all.Rows), []string{"delete-file", "create-channel", "create-channel", "create-channel"}; !slices.Equal(got, want) || all.Next != nil {
		t.Fatalf("rows = %v, want %v", got, want)
	}
	if r := all.Rows[0]; r.Status != 403 || r.Targets["channel_id"] != "1" || r.Targets["file_id"] != "2" || r.Path != "/channels/1/2" {
		t.Errorf("a refused call = %+v", r)
	}
	// A call on another organization is a row of its actor's, and so is an operator's.
	if got := ask("other/admin", "/organizations/other/audit").Rows; len(got) != 1 || got[0].Status != 403 {
		t.Errorf("the intruder's organization = %+v", got)
	}
	if got := ask("operator/admin", "/organizations/operator/audit").Rows; len(got) != 1 || got[0].Operation != "suspend-organization" || got[0].Targets["organization_id"] != "acme" {
		t.Errorf("the operator's = %+v", got)
	}
	if got := ask("operator/admin", list).Rows; len(got) != 4 {
		t.Errorf("acme's for the operator = %+v", got)
	}

	// Pages by stable tokens: what comes meanwhile neither repeats nor hides rows.
	page := ask("acme/admin", list+"?limit=3&operation=create-channel")
	w.do(http.MethodPost, "/organizations/acme/channels", "acme/developer", nil)
	if page.Next != nil || len(page.Rows) != 3 {
		t.Errorf("a page that just fits = %+v", page)
	}
	page = ask("acme/admin", list+"?limit=2&operation=create-channel")
	w.do(http.MethodPost, "/organizations/acme/channels", "acme/developer", nil)
	if page.Next == nil {
		t.Fatal("no token")
	}
	rest := ask("acme/admin", list+"?next_page_token="+*page.Next)
	if len(page.Rows) != 2 || len(rest.Rows) != 2 || rest.Next != nil || page.Rows[1].RequestID == rest.Rows[0].RequestID {
		t.Errorf("pages = %v, %v", ops(page.Rows), ops(rest.Rows))
	}
	dev, _, _ := strings.Cut(w.token["acme/developer"], ":")
	if got := ask("acme/admin", list+"?actor="+dev).Rows; len(got) != 5 {
		t.Errorf("by actor: %v", ops(got))
	}
	if got := ask("acme/admin", list+"?end="+start.UTC().Format("2006-01-02T15:04:05Z")).Rows; len(got) != 0 {
		t.Errorf("before it began: %v", ops(got))
	}
	if got := ask("acme/admin", list+"?limit=1000&start="+start.UTC().Format("2006-01-02T15:04:05Z")).Rows; len(got) != 6 {
		t.Errorf("since it began: %v", ops(got))
	}

	for _, as := range []string{"acme/developer", "acme/regular", "other/admin"} {
		status, body := w.do(http.MethodGet, list, as, nil)
		isError(t, as, status, body, 403, "forbidden")
	}
	for _, q := range []string{"?limit=0", "?start=yesterday", "?end=x", "?next_page_token=x", "?next_page_token=e30", "?actor=%00", "?actor=%ff", "?operation=%ff"} {
		status, body := w.do(http.MethodGet, list+q, "acme/admin", nil)
		isError(t, q, status, body, 400, "bad_request")
	}
	// A token is its organization's.
	status, body := w.do(http.MethodGet, "/organizations/other/audit?next_page_token="+*page.Next, "other/admin", nil)
	isError(t, "a foreign token", status, body, 400, "bad_request")
	for _, m := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		status, body := w.do(m, list, "acme/admin", nil)
		isError(t, m, status, body, 405, "method_not_allowed")
	}
}

// TestAuditNamesDatasourcesAndClients: a datasource is named by its id, and a call
// that comes through a trusted proxy by the client's address.
func TestAuditNamesDatasourcesAndClients(t *testing.T) {
	world := newWorld(t, withData(nil, plat.SystemClock), withAudit, func(w *world, _ *sqlstore.DB) {
		w.deps.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	})
	w := &wire{world: world, as: "acme/admin", org: "/organizations/acme"}
	d := w.call("POST", w.org+"/datasources", nil)["datasource"].(obj)
	id := d["datasource_id"].(string)
	w.token["camera"] = "datasource-" + id + ":" + d["secret"].(string)
	w.do(http.MethodPost, "/channels/2290000000456/upload", "camera", strings.NewReader("x"), "X-Forwarded-For", "198.51.100.7, 203.0.113.9")
	rows, _, err := w.deps.Audit.List(t.Context(), audit.Query{Org: w.orgs["acme"].ID, Limit: 10, Operation: "upload-file"})
	if err != nil || len(rows) != 1 {
		t.Fatalf("rows = %+v, %v", rows, err)
	}
	if r := rows[0]; r.Actor != "datasource" || r.ActorID != id || r.Source != "203.0.113.9" {
		t.Errorf("the row is %+v", r)
	}
}

// TestRefusedCallsAreBounded: what nobody has to be anybody for leaves a burst of
// rows and then few; the next says how many it missed, and others' are not used up.
func TestRefusedCallsAreBounded(t *testing.T) {
	store := &memStore{}
	now := time.Unix(1_700_000_000, 0)
	svc := audit.New(audit.Config{Store: store, Now: func() time.Time { return now }})
	refuse := func(org plat.OrgID, actor string) {
		svc.Refused(t.Context(), audit.Row{Org: org, Time: now, Actor: actor})
	}
	for range 1000 {
		refuse("o", audit.ActorNone)
	}
	if n := len(store.rows); n != 100 {
		t.Errorf("%d rows of 1000 refused calls in one moment, want 100", n)
	}
	refuse("o", "user")
	if n := len(store.rows); n != 101 {
		t.Errorf("calls without credentials use up a member's rows")
	}
	now = now.Add(2500 * time.Millisecond)
	for range 10 {
		refuse("p", audit.ActorNone)
	}
	if rows := store.rows[101:]; len(rows) != 2 || rows[0].Missed != 900 || rows[1].Missed != 0 {
		t.Errorf("2.5 s later: %+v", rows)
	}
}

// TestAuditThatCannotBeStored: the call has happened, so it is answered as it went.
func TestAuditThatCannotBeStored(t *testing.T) {
	w := newWorld(t, withData(nil, plat.SystemClock))
	w.deps.Audit = audit.New(audit.Config{Store: &memStore{err: errors.New("planted")}})
	w.srv.Config.Handler = api.New(w.deps).Handler()
	if status, body := w.do(http.MethodPost, "/organizations/acme/channels", "acme/admin", nil); status != 200 {
		t.Errorf("= %d %s", status, body)
	}
}

type memStore struct {
	audit.Store
	rows []audit.Row
	err  error
}

func (m *memStore) Append(_ context.Context, rows []audit.Row) error {
	m.rows = append(m.rows, rows...)
	return m.err
}
