// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestEndpointHistoryWire: every change is on record, can be asked for as of a
// moment and can be taken back, with the safety of a switch.
func TestEndpointHistoryWire(t *testing.T) {
	w := newDeployWorld(t)
	dep := w.deployment()
	ver := w.version(dep, "1")
	a, b, late := w.service(dep, ver, ""), w.service(dep, ver, ""), w.service(dep, ver, "hold:late")
	w.becomes(dep, a, "READY")
	w.becomes(dep, b, "READY")
	id := w.call("POST", dep+"/endpoints", `{"service_id":"`+a+`"}`)["endpoint_id"].(string)
	one := dep + "/endpoints/default"
	user, _, _ := strings.Cut(w.token["acme/admin"], ":")
	user = strings.TrimPrefix(user, "user-")

	history := func(query string) []any {
		t.Helper()
		return w.call("GET", one+"/history"+query, "")["entries"].([]any)
	}
	w.refused("roll back before any change", "POST", one+"/rollback", ``, 400)
	w.call("PATCH", one, `{"service_id":"`+b+`"}`)
	w.call("PATCH", one, fmt.Sprintf(`{"split":[{"service_id":%q,"weight":10},{"service_id":%q,"weight":90}]}`, a, b))
	got := w.call("POST", one+"/rollback", ``)
	if got["message"] != id+" updated" || got["service_id"] != b || got["split"] != nil {
		t.Errorf("rollback = %v", got)
	}
	all := history("")
	at := func(i int) string { return all[i].(map[string]any)["changed_at"].(string) }
	if len(all) != 4 {
		t.Fatalf("history = %v", all)
	}
	parts := []any{map[string]any{"service_id": a, "weight": 10.}, map[string]any{"service_id": b, "weight": 90.}}
	line := func(n float64, kind string, from any, to any, by string, at string) map[string]any {
		return map[string]any{"number": n, "endpoint_id": id, "kind": kind, "from_service_id": from, "to_service_id": to, "user_id": by, "changed_at": at}
	}
	want := []any{
		line(4, "rolled_back", b, b, all[0].(map[string]any)["user_id"].(string), at(0)),
		line(3, "split", b, b, all[1].(map[string]any)["user_id"].(string), at(1)),
		line(2, "switched", a, b, all[2].(map[string]any)["user_id"].(string), at(2)),
		line(1, "created", nil, a, all[3].(map[string]any)["user_id"].(string), at(3)),
	}
	want[1].(map[string]any)["split"] = parts
	if d := cmp.Diff(want, all); d != "" {
		t.Errorf("history (-want +got):\n%s", d)
	}
	if by := all[0].(map[string]any)["user_id"]; by == "" || user == "" {
		t.Errorf("a change without an actor: %v", all[0])
	}
	// As of a moment, by alias and by id, and page by page.
	for i := range all {
		asOf := w.call("GET", dep+"/endpoints/"+id+"/history?at="+url.QueryEscape(at(i)), "")["entries"].([]any)
		if len(asOf) != 1 || asOf[0].(map[string]any)["changed_at"] != at(i) {
			t.Errorf("as of %s = %v", at(i), asOf)
		}
	}
	w.refused("before it was", "GET", one+"/history?at=2020-01-01T00:00:00Z", ``, 404)
	w.refused("no time", "GET", one+"/history?at=yesterday", ``, 400)
	w.refused("no token", "GET", one+"/history?next_page_token=x", ``, 400)
	w.refused("no endpoint", "GET", dep+"/endpoints/nope/history", ``, 404)
	var paged []any
	for token, pages := "", 0; pages < 5; pages++ {
		page := w.call("GET", one+"/history?limit=3&next_page_token="+token, "")
		paged = append(paged, page["entries"].([]any)...)
		if page["next_page_token"] == nil {
			break
		}
		token = page["next_page_token"].(string)
	}
	if d := cmp.Diff(all, paged); d != "" {
		t.Errorf("page by page (-want +got):\n%s", d)
	}

	// To a change by its number, also to a split; never to what does not answer.
	if got := w.call("POST", one+"/rollback", `{"number":3}`); cmp.Diff(parts, got["split"]) != "" {
		t.Errorf("rollback to a split = %v", got)
	}
	for _, body := range []string{`{"number":0}`, `{"number":-1}`, `{"number":99}`, `{"number":9223372036854775807}`} {
		w.refused("rollback "+body, "POST", one+"/rollback", body, 400)
	}
	w.call("POST", dep+"/services/"+a+"/stop", "")
	w.refused("rollback to a stopped service", "POST", one+"/rollback", `{"number":1}`, 400)
	w.call("POST", one+"/rollback", ``) // b alone
	w.call("DELETE", dep+"/services/"+a, "")
	w.refused("rollback to a deleted service", "POST", one+"/rollback", `{"number":1}`, 400)

	// A switch that still waits is taken back, and nothing else.
	w.call("PATCH", one, `{"service_id":"`+late+`"}`)
	if got := w.call("POST", one+"/rollback", ``); got["pending_service_id"] != nil || got["service_id"] != b {
		t.Errorf("rollback of a waiting switch = %v", got)
	}
	close(w.held("late"))

	// Gone, but on record.
	n := len(history(""))
	w.call("DELETE", one, "")
	if last := history("?limit=1")[0].(map[string]any); last["kind"] != "deleted" || last["to_service_id"] != nil || last["number"] != float64(n+1) {
		t.Errorf("after the delete = %v", last)
	}
	w.refused("as of now", "GET", one+"/history?at=2100-01-01T00:00:00Z", ``, 404)
	w.refused("rollback of what is gone", "POST", one+"/rollback", ``, 404)
}

// TestSplitWire: what a split must be, and that an endpoint without one looks as ever.
func TestSplitWire(t *testing.T) {
	w := newDeployWorld(t)
	dep, other := w.deployment(), w.deployment()
	ver := w.version(dep, "1")
	a, b, late := w.service(dep, ver, ""), w.service(dep, ver, ""), w.service(dep, ver, "hold:late")
	foreign := w.service(other, w.version(other, "1"), "")
	for _, s := range []string{a, b} {
		w.becomes(dep, s, "READY")
	}
	w.becomes(other, foreign, "READY")
	w.call("POST", dep+"/endpoints", `{"service_id":"`+a+`"}`)
	one := dep + "/endpoints/default"
	part := func(id string, weight int) string { return fmt.Sprintf(`{"service_id":%q,"weight":%d}`, id, weight) }
	split := func(parts ...string) string { return `{"split":[` + strings.Join(parts, ",") + `]}` }
	for what, body := range map[string]string{
		"nothing": split(), "too little": split(part(a, 50), part(b, 49)), "too much": split(part(a, 50), part(b, 51)), "zero": split(part(a, 100), part(b, 0)),
		"less": split(part(a, 101), part(b, -1)), "twice": split(part(a, 50), part(a, 50)), "of another deployment": split(part(a, 50), part(foreign, 50)),
		"not READY": split(part(a, 50), part(late, 50)), "unknown": split(part(a, 50), part("ser-0", 50)), "no service": split(part(a, 50), part("", 50)),
		"both": `{"service_id":"` + a + `","split":[` + part(a, 50) + "," + part(b, 50) + `]}`,
	} {
		w.refused(what, "PATCH", one, body, 400)
	}
	w.refused("create with a split", "POST", dep+"/endpoints", `{"custom_alias":"x","service_id":"`+a+`","split":[`+part(a, 100)+`]}`, 400)
	w.call("PATCH", one, split(part(a, 25), part(b, 75)))
	got := w.call("GET", one, "")
	if got["service_id"] != b || len(got["split"].([]any)) != 2 {
		t.Errorf("split endpoint = %v", got)
	}
	count := map[any]int{}
	for range 100 {
		status, answer := w.infer("POST", "/deployments/"+dep[len(w.deps)+1:], "x", "Content-Type", "text/plain")
		if status != 200 {
			t.Fatalf("%d %v", status, answer)
		}
		count[answer["service"]]++
	}
	if count[a] != 25 || count[b] != 75 {
		t.Errorf("shares = %v", count)
	}
	// What each service got is told by service, busiest first.
	traffic := w.call("GET", "/organizations/acme/traffic", "")
	var lines []string
	for _, e := range traffic["entries"].([]any) {
		e := e.(map[string]any)
		lines = append(lines, fmt.Sprint(e["service_id"], " ", e["requests"], " ", e["errors"], " ", e["instances_ready"], "/", e["instances_wanted"]))
		if rate, n := e["requests_per_second"].(float64), e["requests"].(float64); n > 0 && (rate <= 0 || e["p99_ms"].(float64) <= 0) {
			t.Errorf("figures = %v", e)
		}
	}
	want := []string{b + " 75 0 1/1", a + " 25 0 1/1", foreign + " 0 0 1/1", late + " 0 0 0/1"}
	if d := cmp.Diff(want, lines); d != "" {
		t.Errorf("traffic (-want +got):\n%s", d)
	}
	if one := w.call("GET", "/organizations/acme/traffic?limit=1", ""); len(one["entries"].([]any)) != 1 {
		t.Errorf("limited = %v", one)
	}
	w.refused("delete of a part", "DELETE", dep+"/services/"+a, ``, 400)
	// One part with everything is a switch, and as such waits for its service.
	if got := w.call("PATCH", one, split(part(late, 100))); got["pending_service_id"] != late || got["split"] == nil {
		t.Errorf("switch while it is split = %v", got)
	}
	close(w.held("late"))
	w.becomes(dep, late, "READY")
	if got := w.call("GET", one, ""); got["service_id"] != late || got["split"] != nil {
		t.Errorf("after READY = %v", got)
	}
}

// TestEndpointLimitsWire: an endpoint's limits are set with it, with a switch or a split, and
// alone; they stay through all that says nothing of them, and are told in every answer.
func TestEndpointLimitsWire(t *testing.T) {
	w := newDeployWorld(t)
	dep := w.deployment()
	ver := w.version(dep, "1")
	a, b := w.service(dep, ver, ""), w.service(dep, ver, "")
	w.becomes(dep, a, "READY")
	w.becomes(dep, b, "READY")
	one := dep + "/endpoints/default"
	limits := func(what string, got map[string]any, rate, calls any) {
		t.Helper()
		if got["rate_limit"] != rate || got["concurrency_limit"] != calls {
			t.Errorf("%s: rate %v, calls %v; want %v and %v", what, got["rate_limit"], got["concurrency_limit"], rate, calls)
		}
	}
	w.refused("a rate too low", "POST", dep+"/endpoints", `{"service_id":"`+a+`","rate_limit":0.0001}`, 400)
	w.refused("a negative number", "POST", dep+"/endpoints", `{"service_id":"`+a+`","concurrency_limit":-1}`, 400)
	limits("created", w.call("POST", dep+"/endpoints", `{"service_id":"`+a+`","rate_limit":2.5}`), 2.5, nil)
	limits("a switch", w.call("PATCH", one, `{"service_id":"`+b+`"}`), 2.5, nil)
	limits("alone", w.call("PATCH", one, `{"concurrency_limit":7}`), 2.5, 7.)
	limits("read", w.call("GET", one, ""), 2.5, 7.)
	limits("listed", w.call("GET", dep+"/endpoints", "")["entries"].([]any)[0].(map[string]any), 2.5, 7.)
	got := w.call("PATCH", one, fmt.Sprintf(`{"split":[{"service_id":%q,"weight":10},{"service_id":%q,"weight":90}],"rate_limit":null}`, a, b))
	limits("with a split", got, nil, 7.)
	limits("a rollback", w.call("POST", one+"/rollback", ``), nil, 7.)
	if n := len(w.call("GET", one+"/history", "")["entries"].([]any)); n != 4 {
		t.Errorf("%d lines of history, want 4: limits point nowhere", n)
	}
	w.refused("a rate too high", "PATCH", one, `{"rate_limit":1e9}`, 400)
	w.refused("no endpoint", "PATCH", dep+"/endpoints/nobody", `{"rate_limit":1}`, 404)
	w.refused("nothing", "PATCH", one, `{}`, 400)
	limits("both gone", w.call("PATCH", one, `{"service_id":"`+a+`","rate_limit":0,"concurrency_limit":0}`), nil, nil)
}
