// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"panal/internal/api"
	"panal/internal/authn"
	"panal/internal/authz"
	"panal/internal/control/service"
	"panal/internal/dataplane"
	"panal/internal/deploy"
	"panal/internal/logs"
	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/fakerunner"
	"panal/internal/sqlstore"
	"panal/internal/train"
)

// The authorisation matrix: every operation by every kind of caller, as a real request
// through the handler. What is expected is read off the table alone.

// matrixWorld is an API with all that it stands on.
type matrixWorld struct {
	*wire
	own, alien         map[string]string // path parameters of a container's own work, and of another's
	linked, unlinked   string            // channels, as the datasource sees them
	homeAddr, awayAddr string
}

func newMatrixWorld(t *testing.T) *matrixWorld {
	t.Helper()
	run := fakerunner.New(fakerunner.Config{})
	t.Cleanup(func() { _ = run.Close() })
	base := newWorld(t, withData(nil, plat.SystemClock), withLogs(logs.Config{}), func(w *world, db *sqlstore.DB) {
		w.deps.TempDir = t.TempDir()
		w.deps.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
		w.deps.Train = train.NewService(train.Options{Store: sqlstore.NewTraining(db), Blobs: w.deps.Blobs, Now: plat.SystemClock})
		store, table := sqlstore.NewDeploys(db), dataplane.NewTable()
		ctl := service.New(service.Config{
			Log: slog.New(slog.DiscardHandler), Now: plat.SystemClock, Store: store, Models: oneModel{w}, Runner: run, Tokens: w.orgStore, Routes: table,
			APIURL: "http://127.0.0.1:1", IngestSpool: func(context.Context, runner.Status, []runner.SpoolBatch) error { return nil },
		})
		w.deps.Deploy = deploy.NewManager(deploy.Config{Store: store, Blobs: w.deps.Blobs, Models: oneModel{w}, Publisher: ctl, Now: plat.SystemClock})
		w.deps.Gateway = dataplane.NewProxy(table, dataplane.Options{Hold: time.Nanosecond})
		w.deps.Capacity = run.Capacity
	})
	w := &matrixWorld{wire: &wire{world: base, as: "acme/admin", org: "/organizations/acme"}, homeAddr: "203.0.113.7", awayAddr: "198.51.100.9"}

	w.linked, w.unlinked = w.channel(), w.channel()
	d := w.call("POST", w.org+"/datasources", nil)["datasource"].(obj)
	w.token["camera"] = "datasource-" + d["datasource_id"].(string) + ":" + d["secret"].(string)
	w.call("PUT", w.org+"/channels/"+w.linked+"/datasources/"+d["datasource_id"].(string), nil)
	w.token["wrong"] = "user-" + w.id("acme/admin") + ":" + strings.Repeat("0", 40)

	definition := func(name string) string {
		d, err := w.deps.Train.CreateDefinition(t.Context(), w.orgs["acme"].ID, name)
		if err != nil {
			t.Fatal(err)
		}
		return string(d.ID)
	}
	w.own = map[string]string{
		"workload_id": "wl-0000000000000001", "job_definition": definition("leaf"), "version": "1", "training_job_id": "1700000000001", "model_id": "1720000000055",
		"deployment_id": "1740000000001", "version_id": "ver-0000000000000001", "service_id": "ser-0000000000000001",
	}
	w.alien = map[string]string{
		"workload_id": "wl-0000000000000002", "job_definition": definition("root"), "version": "2", "training_job_id": "1700000000002", "model_id": "1720000000002",
		"deployment_id": "1740000000002", "version_id": "ver-0000000000000002", "service_id": "ser-0000000000000002",
	}
	// One container that is a training job and a service at once: whatever a path
	// names, there is something of its own to name.
	scope := authn.Scope{
		Workload: "wl-0000000000000001", Definition: plat.JobDefinitionID(w.own["job_definition"]), DefinitionName: "leaf", Version: 1, Job: "1700000000001",
		Deployment: "1740000000001", CodeVersion: "ver-0000000000000001", Service: "ser-0000000000000001", Models: []plat.ModelID{"1720000000055"},
	}
	for name, ended := range map[string]time.Time{"work": {}, "ended work": time.Now()} {
		tok := authn.Token{Hash: authn.HashToken(name), Kind: authn.KindContainer, Org: w.orgs["acme"].ID, User: plat.UserID(w.id("acme/admin")), Scope: scope, CreatedAt: time.Now(), EndedAt: ended}
		if err := w.orgStore.CreateToken(t.Context(), tok); err != nil {
			t.Fatal(err)
		}
		w.bearer[name] = name
	}
	w.call("POST", w.org+"/security/cidrs", obj{"cidr": "203.0.113.0/24"}, from(w.homeAddr)...)
	return w
}

var parameter = regexp.MustCompile(`\{(\w+)\}|\*`)

// fill writes a path of an operation; a parameter that ids does not know becomes the
// id of nothing.
func fill(path string, ids ...map[string]string) string {
	return parameter.ReplaceAllStringFunc(path, func(p string) string {
		for _, m := range ids {
			if v, ok := m[strings.Trim(p, "{}")]; ok {
				return v
			}
		}
		switch p {
		case "{organization_id}":
			return "acme"
		case "{version}":
			return "7"
		}
		return "2999999999999"
	})
}

// column is a kind of caller.
type column struct {
	name, as, addr string
	ids            []map[string]string
	// refused is the status that the table promises; 0 when it lets the caller in.
	refused func(o api.OperationInfo, row authz.Row) int
}

func forbiddenUnless(ok bool) int {
	if ok {
		return 0
	}
	return http.StatusForbidden
}

func (w *matrixWorld) columns() []column {
	role := func(r authn.Role) func(api.OperationInfo, authz.Row) int {
		return func(_ api.OperationInfo, row authz.Row) int { return forbiddenUnless(slices.Contains(row.Roles, r)) }
	}
	always := func(status int) func(api.OperationInfo, authz.Row) int {
		return func(api.OperationInfo, authz.Row) int { return status }
	}
	// reach is what the table promises a container whose path names its own work.
	namesOwn := func(o api.OperationInfo) bool {
		return slices.ContainsFunc(slices.Collect(maps.Keys(w.own)), func(p string) bool { return strings.Contains(o.Path, "{"+p+"}") })
	}
	channel := func(id string) []map[string]string { return []map[string]string{{"channel_id": id}} }
	below := map[string]string{"job_definition": w.own["job_definition"], "deployment_id": w.own["deployment_id"]}
	home, away := w.homeAddr, w.awayAddr
	return []column{
		{"none", "", home, nil, always(http.StatusUnauthorized)},
		{"wrong token", "wrong", home, nil, always(http.StatusUnauthorized)},
		{"admin", "acme/admin", home, nil, role(authn.RoleAdmin)},
		{"developer", "acme/developer", home, nil, role(authn.RoleDeveloper)},
		{"regular", "acme/regular", home, nil, role(authn.RoleRegular)},
		{"regular, on itself", "acme/regular", home, []map[string]string{{"user_id": w.id("acme/regular")}}, func(o api.OperationInfo, row authz.Row) int {
			return forbiddenUnless(slices.Contains(row.Roles, authn.RoleRegular) || row.Self && strings.Contains(o.Path, "{user_id}"))
		}},
		{"datasource, linked", "camera", home, channel(w.linked), func(o api.OperationInfo, row authz.Row) int {
			return forbiddenUnless(row.Datasource && strings.Contains(o.Path, "{channel_id}"))
		}},
		{"datasource, not linked", "camera", home, channel(w.unlinked), always(http.StatusForbidden)},
		{"container, its own", "work", home, []map[string]string{w.own}, func(o api.OperationInfo, row authz.Row) int {
			return forbiddenUnless(row.Container == authz.InOrg || (row.Container == authz.OwnWork || row.Container == authz.OwnWorkEnd) && namesOwn(o))
		}},
		{"container, another's", "work", home, []map[string]string{w.alien}, func(_ api.OperationInfo, row authz.Row) int {
			return forbiddenUnless(row.Container == authz.InOrg)
		}},
		{"container, another's below its own", "work", home, []map[string]string{below, w.alien}, func(o api.OperationInfo, row authz.Row) int {
			deeper := slices.ContainsFunc(slices.Collect(maps.Keys(w.own)), func(p string) bool { return below[p] == "" && strings.Contains(o.Path, "{"+p+"}") })
			return forbiddenUnless(row.Container == authz.InOrg || (row.Container == authz.OwnWork || row.Container == authz.OwnWorkEnd) && namesOwn(o) && !deeper)
		}},
		{"ended container, its own", "ended work", home, []map[string]string{w.own}, func(o api.OperationInfo, row authz.Row) int {
			return forbiddenUnless(row.Container == authz.OwnWorkEnd && namesOwn(o))
		}},
		{"admin, blocked IP", "acme/admin", away, nil, always(http.StatusForbidden)},
		{"regular, blocked IP", "acme/regular", away, []map[string]string{{"user_id": w.id("acme/regular")}}, always(http.StatusForbidden)},
		{"datasource, blocked IP", "camera", away, channel(w.linked), always(http.StatusForbidden)},
		{"container, blocked IP", "work", away, []map[string]string{w.own}, always(http.StatusForbidden)},
	}
}

// TestAuthorizationMatrix asserts every cell of operation × caller.
func TestAuthorizationMatrix(t *testing.T) {
	w := newMatrixWorld(t)
	table, cells := authz.Table(), 0
	for _, o := range append(api.Operations(), api.NotBuilt()...) {
		if o.Public {
			continue // TestEveryOperationHasARow says which may be
		}
		row, ok := table[o.Op]
		if !ok {
			t.Errorf("%s names %q, which is no row of the table", o.ID, o.Op)
			continue
		}
		for _, c := range w.columns() {
			cells++
			path := fill(o.Path, c.ids...)
			status, body := w.do(o.Method, path, c.as, nil, from(c.addr)...)
			want := c.refused(o, row)
			denied := status == http.StatusUnauthorized || status == http.StatusForbidden
			if want == 0 && denied || want != 0 && status != want {
				t.Errorf("%s (%s, %s %s) by %s = %d %.200s; the table says %s", o.ID, o.Op, o.Method, path, c.name, status, body, promise(want))
			}
			if strings.Contains(c.name, "blocked") && !strings.Contains(body, "IP rules") && o.Method != http.MethodHead {
				t.Errorf("%s by %s was refused for something else: %s", o.ID, c.name, body)
			}
		}
		w.elsewhere(o)
	}
	t.Logf("%d cells", cells)
}

// elsewhere asks as the admin of another organization: what a path places in acme is
// forbidden, and what it places by an id alone does not exist there.
func (w *matrixWorld) elsewhere(o api.OperationInfo) {
	w.t.Helper()
	path := fill(o.Path, map[string]string{"channel_id": w.linked, "user_id": w.id("acme/regular")}, w.own)
	status, body := w.do(o.Method, path, "other/admin", nil, from(w.awayAddr)...)
	switch {
	case strings.Contains(o.Path, "{organization_id}"):
		if status != http.StatusForbidden {
			w.t.Errorf("%s (%s %s) by another organization = %d %.200s, want 403", o.ID, o.Method, path, status, body)
		}
	case strings.Contains(o.Path, "{") && status < 400:
		w.t.Errorf("%s (%s %s) by another organization = %d %.200s", o.ID, o.Method, path, status, body)
	}
}

func promise(status int) string {
	if status == 0 {
		return "let in"
	}
	return fmt.Sprint(status)
}

// TestEveryMethodOfInferenceIsGuarded: the gateway takes methods that the
// specification does not list.
func TestEveryMethodOfInferenceIsGuarded(t *testing.T) {
	w := newMatrixWorld(t)
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, "PURGE", "VERSION-CONTROL"} {
		for _, path := range []string{"/deployments/1740000000001", "/deployments/1740000000001/default", "/deployments/1740000000001/services/ser-0000000000000001/a/b", "/deployments/1740000000001/alias/x"} {
			for as, want := range map[string]int{"": 401, "wrong": 401, "camera": 403, "work": 403} {
				if status, _ := w.do(method, path, as, io.LimitReader(strings.NewReader(""), 0), from(w.homeAddr)...); status != want {
					t.Errorf("%s %s by %q = %d, want %d", method, path, as, status, want)
				}
			}
			if status, _ := w.do(method, path, "acme/admin", nil, from(w.awayAddr)...); status != 403 {
				t.Errorf("%s %s from a blocked address = %d, want 403", method, path, status)
			}
		}
	}
}
