// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"panal/internal/authn"
	"panal/internal/plat"
	"panal/internal/sqlstore"
)

// newAdmin is newWire as acme's admin, behind a trusted proxy on loopback.
func newAdmin(t *testing.T) *wire {
	t.Helper()
	w := newWorld(t, withData(nil, plat.SystemClock), func(w *world, _ *sqlstore.DB) {
		w.deps.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	})
	return &wire{world: w, as: "acme/admin", org: "/organizations/" + string(w.orgs["acme"].ID)}
}

// id is the user id of a name that do takes.
func (w *wire) id(as string) string {
	user, _, _ := strings.Cut(w.token[as], ":")
	return strings.TrimPrefix(user, "user-")
}

const secondsZ = `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`

// data.md §3: the user object, its times by §4, and users by API.
func TestWireUsers(t *testing.T) {
	w := newAdmin(t)
	base := w.org + "/users"
	u := w.call("POST", base, obj{"email": "mika@example.com", "display_name": "Mika ü", "role": "developer", "preferred_language": "ja"})
	w.hasKeys("user", u, "id", "email", "preferred_language", "display_name", "role", "is_registered", "profile_icon", "created_at", "updated_at")
	w.matches("id", `^[1-9]\d{12}$`, u["id"])
	w.matches("created_at", secondsZ, u["created_at"])
	w.matches("updated_at", secondsZ, u["updated_at"])
	if u["email"] != "mika@example.com" || u["display_name"] != "Mika ü" || u["role"] != "developer" || u["preferred_language"] != "ja" || u["is_registered"] != true || u["profile_icon"] != nil {
		t.Errorf("user = %v", u)
	}
	one := base + "/" + u["id"].(string)
	if got := w.call("GET", one, nil); fmt.Sprint(got) != fmt.Sprint(u) {
		t.Errorf("GET = %v, want %v", got, u)
	}
	list := w.call("GET", base+"?limit=2&offset=1", nil)
	w.hasKeys("list", list, "organization_id", "organization_name", "created_at", "updated_at", "users", "limit", "offset", "has_next")
	if n := len(list["users"].([]any)); n != 2 || list["has_next"] != true || list["limit"] != 2.0 || list["offset"] != 1.0 {
		t.Errorf("page = %v", list)
	}
	if n := len(w.call("GET", base, nil)["users"].([]any)); n != 4 {
		t.Errorf("%d users, want 4", n)
	}
	changed := w.call("PATCH", one, obj{"role": "regular", "display_name": "", "preferred_language": nil})
	if changed["role"] != "regular" || changed["display_name"] != nil || changed["preferred_language"] != "ja" || changed["email"] != "mika@example.com" {
		t.Errorf("changed = %v", changed)
	}
	if got := w.refused("address taken", 409, "POST", base, obj{"email": "mika@example.com", "role": "regular"}); got["error_detail"].(obj)["email"] == nil {
		t.Errorf("address taken: %v", got)
	}
	w.refused("address taken by PATCH", 409, "PATCH", one, obj{"email": "admin@acme.example"})
	for what, body := range map[string]any{
		"no body": nil, "no e-mail": obj{"role": "regular"}, "no role": obj{"email": "x@y"}, "unknown role": obj{"email": "x@y", "role": "owner"},
		"role in capitals": obj{"email": "x@y", "role": "Admin"}, "no @": obj{"email": "xy", "role": "regular"}, "line in e-mail": obj{"email": "x@y\nBcc: z", "role": "regular"},
		"endless e-mail": obj{"email": strings.Repeat("x", 300) + "@y", "role": "regular"}, "endless name": obj{"email": "x@y", "role": "regular", "display_name": strings.Repeat("x", 256)},
		"control character": obj{"email": "x@y", "role": "regular", "display_name": "a\x00b"}, "language": obj{"email": "x@y", "role": "regular", "preferred_language": "fr"},
		"number": obj{"email": 1, "role": "regular"}, "array": []int{},
	} {
		w.refused(what, 400, "POST", base, body)
	}
	w.refused("unknown user", 404, "GET", base+"/1999999999999", nil)
	w.refused("another organization's user", 404, "GET", base+"/"+w.id("other/admin"), nil)
	w.refused("change of another organization's user", 404, "PATCH", base+"/"+w.id("other/regular"), obj{"role": "admin"})
	w.refused("delete of another organization's user", 404, "DELETE", base+"/"+w.id("other/regular"), nil)
	w.refused("limit", 400, "GET", base+"?limit=0", nil)

	// Who may: data.md §3, "user add / delete; user role change".
	for _, as := range []string{"acme/developer", "acme/regular"} {
		w.as = as
		w.call("GET", base, nil)
		w.refused(as+" adds", 403, "POST", base, obj{"email": "z@z", "role": "admin"})
		w.refused(as+" promotes itself", 403, "PATCH", base+"/"+w.id(as), obj{"role": "admin"})
		w.refused(as+" deletes", 403, "DELETE", one, nil)
	}
	w.as = "acme/admin"
	if got := w.call("DELETE", one, nil); got["id"] != u["id"] {
		t.Errorf("DELETE = %v", got)
	}
	w.refused("deleted", 404, "GET", one, nil)
}

// data.md §2 and §3: tokens of 40 lower-case hex digits, shown once; each user manages
// its own, an admin everybody's of the organization.
func TestWireTokens(t *testing.T) {
	w := newAdmin(t)
	u := w.call("POST", w.org+"/users", obj{"email": "mika@example.com", "role": "regular"})["id"].(string)
	base := "/users/" + u + "/tokens"
	issued := w.call("POST", base, obj{"name": "laptop"})
	w.hasKeys("issued", issued, "id", "name", "user_id", "created_at", "expires_at", "token")
	w.matches("token", `^[0-9a-f]{40}$`, issued["token"])
	w.matches("created_at", secondsZ, issued["created_at"])
	if issued["expires_at"] != nil || issued["name"] != "laptop" || issued["user_id"] != u {
		t.Errorf("issued = %v", issued)
	}
	w.token["mika"] = "user-" + u + ":" + issued["token"].(string)
	w.as = "mika"
	w.call("GET", w.org, nil)
	second := w.call("POST", base, nil) // its own, with the header of a CLI that sends no body
	expires := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	third := w.call("POST", base, obj{"expires_at": expires})
	if third["expires_at"] != expires {
		t.Errorf("expires_at = %v, want %s", third["expires_at"], expires)
	}
	list := w.call("GET", base, nil)
	if raw := fmt.Sprint(list); len(list["tokens"].([]any)) != 3 || strings.Contains(raw, issued["token"].(string)) || strings.Contains(raw, second["token"].(string)) {
		t.Errorf("list = %v", list)
	}
	w.hasKeys("listed", list["tokens"].([]any)[0].(obj), "id", "name", "user_id", "created_at", "expires_at")
	w.refused("past", 400, "POST", base, obj{"expires_at": "2001-01-01T00:00:00Z"})
	w.refused("no time", 400, "POST", base, obj{"expires_at": "tomorrow"})
	w.refused("two lines", 400, "POST", base, obj{"name": "a\nb"})
	w.refused("another's list", 403, "GET", "/users/"+w.id("acme/admin")+"/tokens", nil)
	w.refused("a token for another", 403, "POST", "/users/"+w.id("acme/admin")+"/tokens", nil)
	w.refused("end of another's", 403, "DELETE", "/users/"+w.id("acme/admin")+"/tokens/x", nil)
	w.refused("a token for an unknown user", 403, "POST", "/users/1999999999999/tokens", nil)
	w.refused("unknown token", 404, "DELETE", base+"/tok-0000000000000000", nil)

	// Ended at once: the next request is refused, though it was cached.
	w.call("DELETE", base+"/"+issued["id"].(string), nil)
	w.refused("revoked", 401, "GET", w.org, nil)
	w.refused("revoked, creates another", 401, "POST", base, nil)
	w.token["mika"] = "user-" + u + ":" + second["token"].(string)
	w.call("GET", w.org, nil)

	for as, want := range map[string]int{"other/admin": 404, "acme/developer": 403, "": 401} {
		w.as = as
		w.refused(as+" lists", want, "GET", base, nil)
		w.refused(as+" issues", want, "POST", base, nil)
		w.refused(as+" revokes", want, "DELETE", base+"/"+second["id"].(string), nil)
	}
	w.as = "acme/admin"
	for range 98 {
		w.call("POST", base, nil)
	}
	w.refused("more than 100 tokens", 400, "POST", base, nil)

	// Deleting a user ends its tokens at once.
	w.call("DELETE", w.org+"/users/"+u, nil)
	w.refused("of a deleted user", 404, "GET", base, nil)
	w.as = "mika"
	w.refused("deleted", 401, "GET", w.org, nil)
}

// A role counts for the next request, and nobody locks everybody out (data.md §3, §20
// asks the same of addresses).
func TestWireLastAdmin(t *testing.T) {
	w := newAdmin(t)
	me := w.id("acme/admin")
	tokens := w.call("GET", "/users/"+me+"/tokens", nil)["tokens"].([]any)
	if len(tokens) != 1 {
		t.Fatalf("tokens = %v", tokens)
	}
	mine := "/users/" + me + "/tokens/" + tokens[0].(obj)["id"].(string)
	refused := func() {
		t.Helper()
		for _, c := range []struct {
			method, path string
			body         any
		}{{"DELETE", w.org + "/users/" + me, nil}, {"PATCH", w.org + "/users/" + me, obj{"role": "developer"}}, {"DELETE", mine, nil}} {
			if e := w.refused(c.method+" "+c.path, 409, c.method, c.path, c.body); !strings.Contains(e["error_description"].(string), "last admin") {
				t.Errorf("%s: %v", c.method, e)
			}
		}
	}
	refused()
	second := w.id("acme/developer")
	w.call("PATCH", w.org+"/users/"+second, obj{"role": "admin"})
	w.as = "acme/developer" // an admin from the next request on
	w.call("PATCH", w.org+"/users/"+me, obj{"role": "regular"})
	w.as = "acme/admin" // no longer one
	w.refused("demoted", 403, "PATCH", w.org+"/users/"+me, obj{"role": "admin"})
	w.call("GET", w.org, nil)
	w.as, me = "acme/developer", second
	mine = "/users/" + me + "/tokens/" + w.call("GET", "/users/"+me+"/tokens", nil)["tokens"].([]any)[0].(obj)["id"].(string)
	refused()
}

// data.md §9: datasources and their links.
func TestWireDatasources(t *testing.T) {
	w := newAdmin(t)
	base, ch := w.org+"/datasources", w.channel()
	linked := w.org + "/channels/" + ch + "/datasources"
	answer := w.call("POST", base, obj{"display_name": "line 3 ü"})
	w.hasKeys("answer", answer, "organization_id", "organization_name", "created_at", "updated_at", "datasource")
	d := answer["datasource"].(obj)
	w.hasKeys("datasource", d, "datasource_id", "display_name", "secret", "created_at", "updated_at")
	w.matches("datasource_id", `^[1-9]\d{12}$`, d["datasource_id"])
	w.matches("secret", `^[0-9a-f]{40}$`, d["secret"])
	w.matches("created_at", secondsZ, d["created_at"])
	id := d["datasource_id"].(string)
	one := base + "/" + id
	if got := w.call("GET", one, nil)["datasource"].(obj); fmt.Sprint(got) != fmt.Sprint(d) {
		t.Errorf("GET = %v, want %v: the secret can be shown again", got, d)
	}
	list := w.call("GET", base, nil)
	w.hasKeys("list", list, "organization_id", "organization_name", "created_at", "updated_at", "datasources", "limit", "offset", "has_next")
	if list["limit"] != 50.0 || list["has_next"] != false || fmt.Sprint(list["datasources"].([]any)[0]) != fmt.Sprint(d) {
		t.Errorf("list = %v", list)
	}
	if got := w.call("PATCH", one, obj{"display_name": "door"})["datasource"].(obj); got["display_name"] != "door" || got["secret"] != d["secret"] {
		t.Errorf("PATCH = %v", got)
	}
	if got := w.call("PATCH", one, nil)["datasource"].(obj); got["display_name"] != "door" {
		t.Errorf("PATCH without a body = %v", got)
	}
	w.refused("name", 400, "PATCH", one, obj{"display_name": strings.Repeat("x", 256)})
	w.refused("name is a number", 400, "POST", base, obj{"display_name": 7})

	// Links: PUT and DELETE carry Content-Type: application/json and no body (data.md §1).
	put := w.call("PUT", linked+"/"+id, nil, "Content-Type", "application/json")
	w.hasKeys("link", put, "organization_id", "organization_name", "created_at", "updated_at", "datasource")
	w.refused("linked already", 409, "PUT", linked+"/"+id, nil)
	if got := w.call("GET", linked, nil)["datasources"].([]any); len(got) != 1 || got[0].(obj)["secret"] != d["secret"] {
		t.Errorf("linked = %v", got)
	}
	for what, path := range map[string]string{"unknown channel": w.org + "/channels/2999999999999/datasources", "unknown datasource": linked} {
		w.refused(what, 404, "PUT", path+"/3999999999999", nil)
		w.refused(what, 404, "DELETE", path+"/3999999999999", nil)
	}
	w.refused("list of an unknown channel", 404, "GET", w.org+"/channels/2999999999999/datasources", nil)
	if got := w.call("DELETE", linked+"/"+id, nil)["datasource"].(obj); got["datasource_id"] != id {
		t.Errorf("unlink = %v", got)
	}
	w.refused("not linked", 404, "DELETE", linked+"/"+id, nil)

	// The secret is for who may manage it; reading is for everyone (data.md §3).
	w.call("PUT", linked+"/"+id, nil)
	for _, as := range []string{"acme/developer", "acme/regular"} {
		w.as = as
		for _, path := range []string{one, base, linked} {
			if raw, err := json.Marshal(w.call("GET", path, nil)); err != nil || strings.Contains(string(raw), "secret") {
				t.Errorf("%s reads %s: %s", as, path, raw)
			}
		}
		w.refused(as+" creates", 403, "POST", base, obj{})
		w.refused(as+" renames", 403, "PATCH", one, obj{"display_name": "x"})
		w.refused(as+" links", 403, "PUT", linked+"/"+id, nil)
		w.refused(as+" unlinks", 403, "DELETE", linked+"/"+id, nil)
		w.refused(as+" deletes", 403, "DELETE", one, nil)
	}
	w.as, w.org = "other/admin", "/organizations/other"
	foreign := w.channel()
	w.refused("another organization's", 404, "GET", "/organizations/other/datasources/"+id, nil)
	w.refused("another organization's delete", 404, "DELETE", "/organizations/other/datasources/"+id, nil)
	w.refused("another organization's link", 404, "PUT", "/organizations/other/channels/"+foreign+"/datasources/"+id, nil)
}

// data.md §2: what a datasource may do, by its credential.
func TestWireDatasourceCredential(t *testing.T) {
	w := newAdmin(t)
	ch, unlinked := w.channel(), w.channel()
	mine := w.upload(ch, "by the admin")["file_id"].(string)
	d := w.call("POST", w.org+"/datasources", obj{"display_name": "camera"})["datasource"].(obj)
	id, secret := d["datasource_id"].(string), d["secret"].(string)
	w.token["camera"] = "datasource-" + id + ":" + secret
	link := w.org + "/channels/" + ch + "/datasources/" + id

	w.as = "camera"
	w.refused("not linked yet", 403, "POST", "/channels/"+ch+"/upload", "x")
	w.as = "acme/admin"
	w.call("PUT", link, nil)
	w.as = "camera" // linked from the next request on
	f := w.upload(ch, "frame", "X-Abeja-Meta-Filename", "f.jpg")["file_id"].(string)
	if n := len(w.call("GET", "/channels/"+ch+"?q=filename:f.jpg", nil)["files"].([]any)); n != 1 {
		t.Errorf("%d files, want 1", n)
	}
	if n := w.call("GET", "/channels/"+ch+"/count", nil)["count"]; n != 2.0 {
		t.Errorf("count = %v", n)
	}
	for _, file := range []string{f, mine} {
		uri := w.call("GET", "/channels/"+ch+"/"+file, nil)["download_uri"].(string)
		if status, _ := w.do("GET", strings.TrimPrefix(uri, w.srv.URL), "", nil); status != 200 {
			t.Errorf("download = %d", status)
		}
	}
	for _, c := range [][2]string{
		{"POST", "/channels/" + unlinked + "/upload"},
		{"GET", "/channels/" + unlinked},
		{"GET", "/channels/2999999999999"},
		{"DELETE", "/channels/" + ch + "/" + f},
		{"PUT", "/channels/" + ch + "/" + f + "/metadata"},
		{"PUT", "/channels/" + ch + "/" + f + "/lifetime"},
		{"GET", w.org},
		{"GET", w.org + "/channels"},
		{"GET", w.org + "/channels/" + ch},
		{"GET", w.org + "/datasources"},
		{"GET", w.org + "/users"},
		{"GET", "/users/" + w.id("acme/admin") + "/tokens"},
		{"POST", w.org + "/channels"},
		{"GET", w.org + "/buckets"},
		{"POST", "/deployments/1740000000088"},
	} {
		w.refused(c[0]+" "+c[1], 403, c[0], c[1], nil)
	}
	// It can't look an id up by a name, so it is told; but of no channel that is not its own.
	for named, says := range map[string]string{ch: "line 3", unlinked: "line 4"} {
		w.as = "acme/admin"
		w.call("PATCH", w.org+"/channels/"+named, obj{"name": says})
	}
	w.as = "camera"
	for path, says := range map[string]string{
		"line%203/upload": `"line 3" is a channel's name; a datasource names it by its id, ` + ch,
		"line%204/upload": `no channel with the id "line 4"`, "nothing/upload": `no channel with the id "nothing"`, unlinked + "/upload": "is not linked to the channel",
	} {
		if got := w.refused(path, 403, "POST", "/channels/"+path, "x")["error_description"].(string); !strings.Contains(got, says) {
			t.Errorf("%s: %s", path, got)
		}
	}
	w.bearer["bearer"] = secret
	w.token["as user"], w.token["by id alone"] = "user-"+id+":"+secret, id+":"+secret
	w.token["other id"], w.token["wrong secret"] = "datasource-3999999999999:"+secret, "datasource-"+id+":"+strings.Repeat("0", 40)
	_, pat, _ := strings.Cut(w.token["acme/admin"], ":")
	w.token["a user's token"], w.token["no secret"] = "datasource-"+w.id("acme/admin")+":"+pat, "datasource-"+id+":"
	for _, as := range []string{"bearer", "as user", "by id alone", "other id", "wrong secret", "a user's token", "no secret"} {
		w.as = as
		w.refused(as, 401, "GET", "/channels/"+ch, nil)
	}
	w.as = "acme/admin"
	w.call("DELETE", link, nil)
	w.as = "camera"
	w.refused("unlinked", 403, "GET", "/channels/"+ch, nil)
	w.as = "acme/admin"
	w.call("DELETE", w.org+"/datasources/"+id, nil)
	w.as = "camera"
	w.refused("deleted", 401, "GET", "/channels/"+ch, nil)
}

// from is the header of the proxy in front.
func from(addr string) []string { return []string{"X-Forwarded-For", addr} }

// data.md §20: the allow-list.
func TestWireIPRules(t *testing.T) {
	w := newAdmin(t)
	base := w.org + "/security/cidrs"
	home, away := from("203.0.113.7"), from("198.51.100.9")
	w.call("GET", w.org, nil, away...) // no rules: everyone
	r := w.call("POST", base, obj{"cidr": "203.0.113.0/24", "description": "office"}, home...)
	w.hasKeys("rule", r, "id", "description", "cidr", "created_at", "updated_at")
	w.matches("id", `^\d{1,12}$`, r["id"])
	w.matches("created_at", secondsZ, r["created_at"])
	one := base + "/" + r["id"].(string)
	list := w.call("GET", base, nil, home...)
	w.hasKeys("list", list, "organization_id", "organization_name", "created_at", "updated_at", "cidrs", "entries", "offset", "limit", "has_next")
	if fmt.Sprint(list["cidrs"]) != "[203.0.113.0/24]" || fmt.Sprint(list["entries"].([]any)[0]) != fmt.Sprint(r) {
		t.Errorf("list = %v", list)
	}
	if got := w.call("GET", one, nil, home...); fmt.Sprint(got) != fmt.Sprint(r) {
		t.Errorf("GET = %v, want %v", got, r)
	}
	w.refused("unknown rule", 404, "GET", base+"/999999", nil, home...)
	w.refused("no number", 404, "GET", base+"/x", nil, home...)
	for addr, want := range map[string]bool{"203.0.113.7": true, "::ffff:203.0.113.9": true, "203.0.114.1": false, "2001:db8::1": false} {
		if got := w.call("POST", base+"/check", obj{"ip_address": addr}, home...); got["accessible"] != want || got["ip_address"] != addr {
			t.Errorf("check %s = %v, want %v", addr, got, want)
		}
	}
	for _, bad := range []any{"", "example.com", "203.0.113.0/24", "1.2.3", "fe80::1%eth0", 7, nil} {
		w.refused(fmt.Sprint("check ", bad), 400, "POST", base+"/check", obj{"ip_address": bad}, home...)
	}
	for _, bad := range []any{"", "203.0.113.0/33", "203.0.113.7/24", "::ffff:0:0/90", "example.com", "10/8", "fe80::1%eth0/64", "2001:db8::/-1", 7, nil, []string{"10.0.0.0/8"}} {
		w.refused(fmt.Sprint("create ", bad), 400, "POST", base, obj{"cidr": bad}, home...)
		if bad != nil { // which leaves it unchanged
			w.refused(fmt.Sprint("change to ", bad), 400, "PATCH", one, obj{"cidr": bad}, home...)
		}
	}
	w.refused("no body", 400, "POST", base, nil, home...)
	w.refused("description", 400, "PATCH", one, obj{"description": strings.Repeat("x", 256)}, home...)
	for in, want := range map[string]string{"192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.128/121": "192.0.2.128/25", "2001:DB8::/32": "2001:db8::/32", "::ffff:192.0.2.2": "192.0.2.2/32"} {
		if got := w.call("POST", base, obj{"cidr": in}, home...); got["cidr"] != want || got["description"] != "" {
			t.Errorf("%s = %v", in, got)
		}
	}
	if page := w.call("GET", base+"?limit=2&offset=2", nil, home...); len(page["cidrs"].([]any)) != 2 || page["has_next"] != true || page["offset"] != 2.0 {
		t.Errorf("page = %v", page)
	}
	if got := w.call("PATCH", one, obj{"description": "the office"}, home...); got["description"] != "the office" || got["cidr"] != "203.0.113.0/24" {
		t.Errorf("PATCH = %v", got)
	}
	for _, as := range []string{"acme/developer", "acme/regular"} { // data.md §3: CIDR rules are the admin's
		w.as = as
		for _, c := range [][2]string{{"GET", base}, {"POST", base}, {"GET", one}, {"PATCH", one}, {"DELETE", one}, {"POST", base + "/check"}} {
			w.refused(as+" "+c[0]+" "+c[1], 403, c[0], c[1], nil, home...)
		}
	}
	w.as = "other/admin"
	w.refused("another organization's rule", 404, "GET", "/organizations/other/security/cidrs/"+r["id"].(string), nil, home...)
	w.call("GET", "/organizations/other", nil, away...) // the rules are acme's alone
}

// data.md §20: enforcement on every authenticated request of the organization, and the
// hatch through which an admin gets out of a lock-out.
func TestWireIPRulesEnforced(t *testing.T) {
	w := newAdmin(t)
	base, ch := w.org+"/security/cidrs", w.channel()
	home, away := from("203.0.113.7"), from("198.51.100.9")
	d := w.call("POST", w.org+"/datasources", nil)["datasource"].(obj)
	w.token["camera"] = "datasource-" + d["datasource_id"].(string) + ":" + d["secret"].(string)
	w.call("PUT", w.org+"/channels/"+ch+"/datasources/"+d["datasource_id"].(string), nil)
	toks := authn.Token{Hash: authn.HashToken("job"), Kind: authn.KindContainer, Org: w.orgs["acme"].ID, Scope: authn.Scope{Workload: "wl-1"}, CreatedAt: time.Now()}
	if err := w.orgStore.CreateToken(t.Context(), toks); err != nil {
		t.Fatal(err)
	}
	w.bearer["job"] = "job"

	// What would shut its maker out is refused, and nothing of it stays.
	e := w.refused("shuts out its maker", 400, "POST", base, obj{"cidr": "203.0.113.0/24"}, away...)
	if text := e["error_description"].(string); !strings.Contains(text, "198.51.100.9") || !strings.Contains(text, "force=true") {
		t.Errorf("refusal = %v", e)
	}
	w.refused("from nowhere", 400, "POST", base, obj{"cidr": "203.0.113.0/24"}, from("unknown")...)
	w.call("GET", w.org, nil, away...)
	one := base + "/" + w.call("POST", base, obj{"cidr": "203.0.113.0/24"}, home...)["id"].(string)
	w.refused("change that shuts out", 400, "PATCH", one, obj{"cidr": "10.0.0.0/8"}, home...)
	two := base + "/" + w.call("POST", base, obj{"cidr": "2001:db8::/32"}, home...)["id"].(string)
	w.refused("delete that shuts out", 400, "DELETE", one, nil, home...)
	w.call("GET", w.org, nil, from("2001:db8::9")...)
	w.refused("delete of the other, from there", 400, "DELETE", two, nil, from("2001:db8::9")...)

	requests := [][2]string{
		{"GET", w.org},
		{"GET", w.org + "/channels"},
		{"GET", "/channels/" + ch},
		{"POST", "/channels/" + ch + "/upload"},
		{"POST", "/deployments/1740000000088"},
		{"GET", "/users/" + w.id("acme/admin") + "/tokens"},
		{"GET", w.org + "/buckets"},
		{"GET", "/organizations/other"},
	}
	for _, as := range []string{"acme/admin", "acme/developer", "acme/regular", "camera", "job"} {
		w.as = as
		for what, header := range map[string][]string{
			"away": away, "away, forged": from("203.0.113.7, 198.51.100.9"), "away, by a chain": from("203.0.113.7, 198.51.100.9, 127.0.0.9"),
			"away, IPv6": from("2001:db9::1"), "away, mapped": from("::ffff:198.51.100.9"), "garbage": from("203.0.113.7 OR 1=1"), "empty": from(""), "nul": from("203.0.113.7,"),
		} {
			for _, c := range requests {
				if e := w.refused(as+" from "+what+": "+c[1], 403, c[0], c[1], nil, header...); !strings.Contains(e["error_description"].(string), "IP rules") {
					t.Errorf("%s from %s: %s %s: %v", as, what, c[0], c[1], e)
				}
			}
		}
		if as != "job" && as != "camera" {
			w.call("GET", w.org, nil, home...)
			w.call("GET", w.org, nil, from("203.0.113.7:443")...)
			w.call("GET", w.org, nil, from("::ffff:203.0.113.7")...)
		}
		// Without a proxy's header the request comes from loopback, directly.
		wantStatus := map[string]int{"acme/admin": 200, "job": 200}[as]
		if wantStatus == 0 {
			wantStatus = 403
		}
		if status, body := w.do("GET", "/channels/"+ch, as, nil); status != wantStatus {
			t.Errorf("%s on loopback = %d %s, want %d", as, status, body, wantStatus)
		}
	}
	w.as = ""
	w.refused("nobody", 401, "GET", w.org, nil, away...)

	// Out of a lock-out: by force into it, over loopback out of it.
	w.as = "acme/admin"
	w.call("PATCH", one+"?force=true", obj{"cidr": "10.0.0.0/8"}, home...)
	w.refused("locked out", 403, "DELETE", one, nil, home...)
	w.call("DELETE", one, nil)
	w.call("DELETE", two, nil)
	w.call("GET", w.org, nil, away...)
}
