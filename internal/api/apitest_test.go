// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"panal/internal/api"
	"panal/internal/authn"
	"panal/internal/org"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
	"panal/internal/x/signedurl"
)

// world is an API over a real SQLite database with two organizations, beside the
// operator's.
type world struct {
	t    *testing.T
	srv  *httptest.Server
	deps api.Deps
	orgs map[string]org.Organization
	// orgStore keeps organizations, users and tokens.
	orgStore *sqlstore.Orgs
	token    map[string]string // user name → "user-<id>:<secret>"
	// bearer holds the secrets of containers by the name that do takes.
	bearer map[string]string
}

// noSeal seals by reversing: a test sees whether what is sealed was stored.
type noSeal struct{}

func (noSeal) Seal(text []byte, _ string) []byte {
	out := slices.Clone(text)
	slices.Reverse(out)
	return out
}

func (s noSeal) Unseal(sealed []byte, place string) ([]byte, error) {
	return s.Seal(sealed, place), nil
}

func (noSeal) Active() string { return "test" }

// newWorld builds it; extend adds what a resource needs to the dependencies.
func newWorld(t *testing.T, extend ...func(*world, *sqlstore.DB)) *world {
	t.Helper()
	db := sqlstoretest.SQLite(t)
	store := sqlstore.NewOrgs(db)
	w := &world{t: t, orgStore: store, orgs: map[string]org.Organization{}, token: map[string]string{}, bearer: map[string]string{}}
	svc := org.NewService(store, store, plat.SystemClock, "")
	w.deps = api.Deps{
		Now: plat.SystemClock, Version: "test", Auth: authn.New(store, plat.SystemClock), Orgs: svc,
		Signer:      signedurl.New([]byte(strings.Repeat("k", 32))),
		Datasources: org.NewDatasources(store, noSeal{}, plat.SystemClock), IPRules: org.NewIPRules(store, plat.SystemClock),
	}
	for _, name := range []string{"operator", "acme", "other"} {
		o, err := svc.Create(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		w.orgs[name] = o
		for _, role := range []authn.Role{authn.RoleAdmin, authn.RoleDeveloper, authn.RoleRegular} {
			u, err := svc.AddUser(t.Context(), o.ID, string(role)+"@"+name+".example", name, role)
			if err != nil {
				t.Fatal(err)
			}
			secret, err := svc.NewToken(t.Context(), u)
			if err != nil {
				t.Fatal(err)
			}
			w.token[name+"/"+string(role)] = "user-" + string(u.ID) + ":" + secret
		}
	}
	for _, f := range extend {
		f(w, db)
	}
	w.srv = httptest.NewServer(api.New(w.deps).Handler())
	t.Cleanup(w.srv.Close)
	return w
}

// do sends a request as a user ("acme/admin", "" for nobody) and returns status and body.
func (w *world) do(method, path, as string, body io.Reader, header ...string) (int, string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.srv.URL+path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	if secret, ok := w.bearer[as]; ok {
		req.Header.Set("Authorization", "Bearer "+secret)
	} else if as != "" {
		user, pass, _ := strings.Cut(w.token[as], ":")
		req.SetBasicAuth(user, pass)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := w.srv.Client().Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// isError asserts the API's error body.
func isError(t *testing.T, what string, status int, body string, wantStatus int, wantCode string) {
	t.Helper()
	var e map[string]any
	if err := json.Unmarshal([]byte(body), &e); err != nil {
		t.Fatalf("%s: the error is no JSON object: %s", what, body)
	}
	if status != wantStatus || e["error"] != wantCode || e["error_description"] == "" {
		t.Errorf("%s = %d %s, want %d %s", what, status, body, wantStatus, wantCode)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("%s did not happen", what)
}
