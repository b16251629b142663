// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"encoding/base64"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"panal/internal/plat"
	"panal/internal/registry"
	"panal/internal/secret"
	"panal/internal/sqlstore"
	"panal/internal/x/keyring"
)

// withSecrets adds the secret manager and the registry.
func withSecrets(now plat.Clock) func(*world, *sqlstore.DB) {
	return func(w *world, db *sqlstore.DB) {
		ring, err := keyring.Open(filepath.Join(w.t.TempDir(), "key"))
		if err != nil {
			w.t.Fatal(err)
		}
		w.deps.Now = now
		w.deps.Secrets = secret.NewService(sqlstore.NewSecrets(db), ring, now)
		w.deps.Registry = registry.NewService(sqlstore.NewRegistry(db), now)
	}
}

// newSecrets is a wire client of the secret manager and the registry, with a clock.
func newSecrets(t *testing.T, now plat.Clock) (w *wire, secrets string) {
	t.Helper()
	world := newWorld(t, withSecrets(now))
	id := string(world.orgs["acme"].ID)
	return &wire{world: world, as: "acme/developer", org: "/organizations/" + id}, "/secret-manager/organizations/" + id + "/secrets"
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func at(o obj, path string) any {
	var v any = o
	for key := range strings.SplitSeq(path, ".") {
		switch t := v.(type) {
		case obj:
			v = t[key]
		case []any:
			var i int
			_, _ = fmt.Sscan(key, &i)
			if i >= len(t) {
				return nil
			}
			v = t[i]
		}
	}
	return v
}

func wantAt(t *testing.T, o obj, pairs ...any) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if got := at(o, pairs[i].(string)); fmt.Sprint(got) != fmt.Sprint(pairs[i+1]) {
			t.Errorf("%s = %v, want %v, in %v", pairs[i], got, pairs[i+1], o)
		}
	}
}

// TestSecretRoundTrip is data.md §18 and §22.10: base64 both ways,
// return_secret_value=True, comma-joined ids.
func TestSecretRoundTrip(t *testing.T) {
	w, secrets := newSecrets(t, plat.SystemClock)
	made := w.call("POST", secrets, obj{
		"name": "db-password_1", "value": b64("hunter2 ✓"), "description": "the database's",
		"integration_service_type": "abeja-platform-labs", "integration_service_ids": []string{"11", "12"},
	})
	id := at(made, "id").(string)
	wantAt(t, made, "organization_id", w.orgs["acme"].ID, "user_id", strings.Split(strings.TrimPrefix(w.token["acme/developer"], "user-"), ":")[0],
		"provider", "aws-secret-manager", "rotation", false, "properties", nil, "expired_at", nil,
		"versions.0.version", 1, "versions.0.status", "active", "versions.0.value", b64("hunter2 ✓"), "versions.0.secret_id", id)
	if stamp := at(made, "created_at").(string); len(stamp) != len("2025-05-01T07:12:23.321625Z") || !strings.HasSuffix(stamp, "Z") { // §4
		t.Errorf("created_at %s", stamp)
	}
	wantAt(t, w.call("GET", secrets+"/"+id, nil), "versions.0.value", nil, "name", "db-password_1")
	for _, yes := range []string{"True", "true", "TRUE", "1"} {
		wantAt(t, w.call("GET", secrets+"/"+id+"?return_secret_value="+yes, nil), "versions.0.value", b64("hunter2 ✓"))
	}
	wantAt(t, w.call("GET", secrets+"/"+id+"?return_secret_value=False", nil), "versions.0.value", nil)
	wantAt(t, w.refused("yes", 400, "GET", secrets+"/"+id+"?return_secret_value=yes", nil), "error_detail.return_secret_value.0", "must be true or false")
	wantAt(t, w.call("GET", secrets+"?return_secret_value=True", nil), "secrets.0.versions.0.value", b64("hunter2 ✓"), "offset", 0, "limit", 50, "has_next", false, "organization_id", w.orgs["acme"].ID)

	// PATCH: absent stays, the CLI joins ids with commas, null takes away.
	wantAt(t, w.call("PATCH", secrets+"/"+id, obj{"integration_service_ids": "21,22, 23"}),
		"integration_service_ids", "[21 22 23]", "description", "the database's", "integration_service_type", "abeja-platform-labs")
	wantAt(t, w.call("PATCH", secrets+"/"+id, obj{"description": nil, "integration_service_ids": nil}), "integration_service_ids", nil, "description", nil)
	wantAt(t, w.call("PATCH", secrets+"/"+id, obj{}), "integration_service_type", "abeja-platform-labs")
	wantAt(t, w.call("DELETE", secrets+"/"+id, nil), "message", "secret_id "+id+" successfully deleted")
	status, body := w.send("GET", secrets+"/"+id, nil)
	isError(t, "a deleted secret", status, body, 404, "not_found")
}

// TestSecretVersions is data.md §19.
func TestSecretVersions(t *testing.T) {
	w, secrets := newSecrets(t, plat.SystemClock)
	id := at(w.call("POST", secrets, obj{"name": "n", "value": b64("one")}), "id").(string)
	versions := secrets + "/" + id + "/versions"
	v2 := w.call("POST", versions+"?return_secret_value=True", obj{"value": b64("two")}) // as the SDK
	wantAt(t, v2, "version", 2, "status", "active", "value", b64("two"))
	v3 := w.call("POST", versions, obj{"value": b64("three")}) // as the CLI
	wantAt(t, v3, "version", 3, "value", nil)
	list := w.call("GET", versions+"?limit=2&return_secret_value=True", nil)
	wantAt(t, list, "versions.0.value", b64("one"), "versions.1.version", 2, "versions.2", nil, "pagination.count", 3, "pagination.has_next", true,
		"pagination.limit", 2, "pagination.offset", 0, "has_next", true, "total", 3)
	wantAt(t, w.call("GET", versions+"?offset=2", nil), "versions.0.version", 3, "pagination.has_next", false)
	wantAt(t, w.call("GET", versions+"?offset=9", nil), "versions.0", nil)

	one := versions + "/" + at(v2, "id").(string)
	wantAt(t, w.call("PATCH", one, obj{"status": "inactive"}), "status", "inactive", "version", 2)
	wantAt(t, w.call("GET", one+"?return_secret_value=True", nil), "value", nil) // inactive: no value
	wantAt(t, w.call("PATCH", one, obj{"status": "active"}), "status", "active")
	wantAt(t, w.call("GET", one+"?return_secret_value=True", nil), "value", b64("two"))
	for _, bad := range []any{obj{"status": "gone"}, obj{}, nil} {
		status, body := w.send("PATCH", one, bad)
		isError(t, "a wrong status", status, body, 400, "bad_request")
	}
	wantAt(t, w.call("DELETE", one, nil), "message", "secret_version_id "+at(v2, "id").(string)+" successfully deleted")
	status, body := w.send("GET", one, nil)
	isError(t, "a deleted version", status, body, 404, "not_found")
	wantAt(t, w.call("POST", versions, obj{"value": b64("four")}), "version", 4) // numbers are not used again
}

// TestSecretErrors: every wrong field is named (data.md §5, §18).
func TestSecretErrors(t *testing.T) {
	w, secrets := newSecrets(t, plat.SystemClock)
	w.call("POST", secrets, obj{"name": "taken", "value": b64("x")})
	for field, c := range map[string]struct {
		status int
		body   obj
	}{
		"name":                     {400, obj{"value": b64("x")}},
		"name ":                    {400, obj{"name": "a b", "value": b64("x")}},
		"name  ":                   {400, obj{"name": "x-abc123", "value": b64("x")}}, // - and six characters
		"name   ":                  {409, obj{"name": "taken", "value": b64("x")}},
		"value":                    {400, obj{"name": "n", "value": "%%%"}},
		"value ":                   {400, obj{"name": "n", "value": ""}},
		"value  ":                  {400, obj{"name": "n", "value": base64.StdEncoding.EncodeToString([]byte{0xff})}},
		"value   ":                 {400, obj{"name": "n", "value": b64(strings.Repeat("x", 64<<10+1))}},
		"integration_service_type": {400, obj{"name": "n", "value": b64("x"), "integration_service_type": "other"}},
		"integration_service_ids":  {400, obj{"name": "n", "value": b64("x"), "integration_service_ids": 7}},
		"expired_at":               {400, obj{"name": "n", "value": b64("x"), "expired_at": "tomorrow"}},
		"description":              {400, obj{"name": "n", "value": b64("x"), "description": strings.Repeat("x", 3000)}},
	} {
		status, body := w.send("POST", secrets, c.body)
		isError(t, field, status, body, c.status, map[int]string{400: "bad_request", 409: "conflict"}[c.status])
		if !strings.Contains(body, `"error_detail":{"`+strings.TrimSpace(field)+`"`) {
			t.Errorf("%s is not named: %s", field, body)
		}
	}
	for _, q := range []string{"limit=0", "limit=101", "limit=x", "offset=-1"} {
		status, body := w.send("GET", secrets+"?"+q, nil)
		isError(t, q, status, body, 400, "bad_request")
	}
	status, body := w.send("PATCH", secrets+"/1", obj{})
	isError(t, "PATCH of none", status, body, 404, "not_found")
}

// TestSecretValuesAreForMakers: regular members see that there is a secret, not what
// it is, and another organization sees nothing (data.md §3).
func TestSecretValuesAreForMakers(t *testing.T) {
	w, secrets := newSecrets(t, plat.SystemClock)
	made := w.call("POST", secrets, obj{"name": "n", "value": b64("x")})
	id, version := at(made, "id").(string), at(made, "versions.0.id").(string)
	w.as = "acme/regular"
	for _, path := range []string{"?return_secret_value=true", "/" + id + "?return_secret_value=true", "/" + id + "/versions?return_secret_value=true", "/" + id + "/versions/" + version + "?return_secret_value=true"} {
		status, body := w.send("GET", secrets+path, nil)
		if status != 200 || strings.Contains(body, b64("x")) || strings.Contains(body, `"value"`) || !strings.Contains(body, id) {
			t.Errorf("GET %s by a regular member = %d %s", path, status, body)
		}
	}
	status, body := w.send("POST", secrets, obj{"name": "m", "value": b64("x")})
	isError(t, "POST by a regular member", status, body, 403, "forbidden")
	w.as = "other/admin"
	status, body = w.send("GET", secrets+"/"+id, nil)
	isError(t, "GET by another organization", status, body, 403, "forbidden")
	theirs := "/secret-manager/organizations/" + string(w.orgs["other"].ID) + "/secrets"
	status, body = w.send("GET", theirs+"/"+id, nil)
	isError(t, "GET under another organization", status, body, 404, "not_found")
}

// TestSecretExpires: past its time versions are inactive and give out nothing
// (data.md §18).
func TestSecretExpires(t *testing.T) {
	now := time.Date(2025, 5, 1, 0, 0, 0, 0, time.UTC)
	w, secrets := newSecrets(t, func() time.Time { return now })
	made := w.call("POST", secrets, obj{"name": "n", "value": b64("x"), "expired_at": "2025-05-01T10:00:00+09:00"})
	one := secrets + "/" + at(made, "id").(string)
	wantAt(t, made, "expired_at", "2025-05-01T01:00:00.000000Z")
	wantAt(t, w.call("GET", one+"?return_secret_value=True", nil), "versions.0.value", b64("x"))
	now = now.Add(time.Hour)
	wantAt(t, w.call("GET", one+"?return_secret_value=True", nil), "versions.0.value", nil, "versions.0.status", "inactive")
	w.call("PATCH", one, obj{"expired_at": nil})
	wantAt(t, w.call("GET", one+"?return_secret_value=True", nil), "versions.0.value", b64("x"), "expired_at", nil)
}

// TestRepositories is data.md §21.
func TestRepositories(t *testing.T) {
	w, _ := newSecrets(t, plat.SystemClock)
	base := w.org + "/registry/repositories"
	made := w.call("POST", base, obj{"name": "team/trainer"}) // the SDK leaves the description out
	wantAt(t, made, "name", "team/trainer", "description", nil, "tags", "[]", "creator.email", "developer@acme.example", "organization_id", w.orgs["acme"].ID)
	one := base + "/" + at(made, "id").(string)
	w.call("POST", base, obj{"name": "base", "description": nil}) // the CLI sends null
	list := w.call("GET", base, nil)
	wantAt(t, list, "registry_repositories.0.name", "base", "registry_repositories.1.name", "team/trainer", "limit", 10, "offset", 0, "has_next", false, "organization_name", "acme")
	if _, has := at(list, "registry_repositories.0").(obj)["tags"]; has {
		t.Error("a list shows tags")
	}
	wantAt(t, w.call("GET", base+"?limit=1&offset=0", nil), "has_next", true, "registry_repositories.1", nil)
	wantAt(t, w.call("GET", base+"?limit=1000", nil), "limit", 1000)

	digest := "sha256:" + strings.Repeat("0f", 32)
	tag := w.call("PUT", one+"/tags/v1", obj{"digest": digest, "size": 123456789012})
	if _, isNumber := at(tag, "id").(float64); !isNumber { // §4
		t.Errorf("the tag's id is %T", at(tag, "id"))
	}
	wantAt(t, w.call("GET", one+"/tags", nil), "registry_repository_id", at(made, "id"), "tags.0.name", "v1", "tags.0.digest", digest, "has_next", false, "limit", 10)
	wantAt(t, w.call("GET", one, nil), "tags.0.name", "v1", "tags.0.creator.role", "developer")
	for what, c := range map[string]struct {
		method, path string
		body         obj
		status       int
	}{
		"the same name":   {"POST", base, obj{"name": "base"}, 409},
		"no name":         {"POST", base, obj{}, 400},
		"capitals":        {"POST", base, obj{"name": "Base"}, 400},
		"traversal":       {"POST", base, obj{"name": "a/../b"}, 400},
		"bad digest":      {"PUT", one + "/tags/v1", obj{"digest": "sha256:xyz"}, 400},
		"bad tag":         {"PUT", one + "/tags/-v1", obj{"digest": digest}, 400},
		"negative size":   {"PUT", one + "/tags/v1", obj{"digest": digest, "size": -1}, 400},
		"no repository":   {"GET", base + "/1", nil, 404},
		"tags of none":    {"GET", base + "/1/tags", nil, 404},
		"tag of none":     {"PUT", base + "/1/tags/v1", obj{"digest": digest}, 404},
		"a tag not there": {"DELETE", one + "/tags/v2", nil, 404},
	} {
		if status, body := w.send(c.method, c.path, c.body); status != c.status {
			t.Errorf("%s = %d %s, want %d", what, status, body, c.status)
		}
	}
	wantAt(t, w.call("DELETE", one+"/tags/v1", nil), "name", "v1")
	wantAt(t, w.call("DELETE", one, nil), "name", "team/trainer")
	status, body := w.send("GET", one, nil)
	isError(t, "a deleted repository", status, body, 404, "not_found")
}

// A creator is the object that its user is (data.md §3, §4).
func TestRepositoryCreator(t *testing.T) {
	w, _ := newSecrets(t, plat.SystemClock)
	r := w.call("POST", w.org+"/registry/repositories", obj{"name": "r"})
	creator := r["creator"].(obj)
	if want := w.call("GET", w.org+"/users/"+creator["id"].(string), nil); !cmp.Equal(creator, want) {
		t.Errorf("creator = %v, the user is %v", creator, want)
	}
	tag := w.call("PUT", w.org+"/registry/repositories/"+r["id"].(string)+"/tags/v1", obj{"digest": "sha256:" + strings.Repeat("a", 64), "size": 1})
	if !cmp.Equal(tag["creator"], any(creator)) {
		t.Errorf("a tag's creator = %v, want %v", tag["creator"], creator)
	}
}
