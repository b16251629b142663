// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"flag"
	"net/http"
	"os"
	"strings"
	"testing"

	"panal/internal/api"
	"panal/internal/authz"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestSpecGolden keeps the OpenAPI document reviewed like code.
func TestSpecGolden(t *testing.T) {
	got, err := api.SpecJSON()
	if err != nil {
		t.Fatal(err)
	}
	const golden = "openapi.golden.json"
	if *update {
		if err := os.WriteFile(golden, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Error("the OpenAPI document changed: review it with `go test ./internal/api -run TestSpecGolden -update` and git diff")
	}
}

// TestEveryOperationHasARow walks the API: an operation without a row of the
// authorisation table is one that nobody thought about.
func TestEveryOperationHasARow(t *testing.T) {
	table, used := authz.Table(), map[authz.Op]bool{authz.NotBuilt: true}
	for _, o := range api.Operations() {
		if o.Public {
			// Signed URLs; results, which show their call's own token (TestAsyncWire); and
			// storages, which show their secret (TestLinkedBucket of e2e, TestWireSignedUploadByStoragesURL).
			if !strings.HasPrefix(o.Path, "/blobs/") && !strings.HasPrefix(o.Path, "/uploads/") && o.ID != "put-result" && o.ID != "post-feed" && o.ID != "post-upload-events" {
				t.Errorf("%s %s is public", o.Method, o.Path)
			}
			continue
		}
		row, ok := table[o.Op]
		if !ok {
			t.Errorf("%s %s names %q, which is no row of the table", o.Method, o.Path, o.Op)
		}
		used[o.Op] = true
		if o.Method != http.MethodGet && o.Method != http.MethodHead && o.Op != authz.Infer && len(row.Roles) == 3 {
			t.Errorf("%s %s changes something, and the role regular may do it", o.Method, o.Path)
		}
	}
	for op := range table {
		if !used[op] {
			t.Logf("row %s is used by no operation yet", op)
		}
	}
}

func TestAuthenticationAndOrganizations(t *testing.T) {
	w := newWorld(t)
	acme, other := "/organizations/"+string(w.orgs["acme"].ID), "/organizations/"+string(w.orgs["other"].ID)
	w.token["wrong"] = "user-1:nonsense"
	userOnly, _, _ := strings.Cut(w.token["other/admin"], ":")
	_, secret, _ := strings.Cut(w.token["acme/admin"], ":")
	w.token["swapped"] = userOnly + ":" + secret
	for _, c := range []struct {
		what, path, as string
		status         int
		code           string
	}{
		{"nobody", acme, "", 401, "unauthorized"},
		{"wrong token", acme, "wrong", 401, "unauthorized"},
		{"another user's name with my token", acme, "swapped", 401, "unauthorized"},
		{"other organization", other, "acme/admin", 403, "forbidden"},
		{"other organization by name", "/organizations/other", "acme/admin", 403, "forbidden"},
		{"unknown organization", "/organizations/1234567890123", "acme/admin", 403, "forbidden"},
		{"unknown path", acme + "/nonsense", "acme/admin", 404, "not_found"},
		{"not built", acme + "/training/definitions/x/notebooks", "acme/regular", 501, "not_implemented"},
		{"not built, nobody", acme + "/training/definitions/x/notebooks", "", 401, "unauthorized"},
		{"not built, other organization", other + "/training/definitions/x/notebooks", "acme/admin", 403, "forbidden"},
	} {
		status, body := w.do(http.MethodGet, c.path, c.as, nil)
		isError(t, c.what, status, body, c.status, c.code)
	}
	for _, path := range []string{acme, acme + "/", "//organizations//acme//", "/organizations/acme"} {
		if status, body := w.do(http.MethodGet, path, "acme/regular", nil); status != 200 || !strings.Contains(body, `"name":"acme"`) {
			t.Errorf("GET %s = %d %s", path, status, body)
		}
	}
	status, body := w.do(http.MethodPut, acme, "acme/admin", nil)
	isError(t, "wrong method", status, body, 405, "method_not_allowed")
}
