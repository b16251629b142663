// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"panal/internal/api/compat"
	"panal/internal/authn"
	"panal/internal/authz"
	"panal/internal/dataplane"
	"panal/internal/plat"
)

// addInference mounts the gateway (compute.md §8.1): the same paths on every
// host, for every method. Bodies are streamed, never held here.
func (a *API) addInference() {
	a.inferBy = map[string]http.HandlerFunc{}
	for _, p := range []struct{ path, id, summary string }{
		{inferDefault, "default", "by the endpoint default"},
		{inferAlias, "alias", "by an endpoint"},
		{inferService, "service", "by a service"},
	} {
		infer := a.metrics.counting("infer-"+p.id, a.infer)
		a.inferBy[p.path] = infer
		a.router.HandleFunc(p.path, infer)
		if p.path != inferDefault {
			a.router.HandleFunc(p.path+"/*", infer)
		}
		for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut} {
			o := operation{
				ID: "infer-" + p.id + "-" + strings.ToLower(m), Method: m, Path: p.path, Tag: "inference",
				Summary: "Call a model " + p.summary, Family: familyCompute, Op: authz.Infer,
			}
			a.ops = append(a.ops, o)
			op := a.describe(o)
			for _, name := range pathParams(o.Path) {
				op.Parameters = append(op.Parameters, &huma.Param{Name: name, In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeString}})
			}
			op.Responses = map[string]*huma.Response{"default": {Description: "whatever user code answers; the gateway's own errors have the API's error body"}}
			a.huma.OpenAPI().AddOperation(&op)
		}
	}
}

// The router's three patterns of calls.
const (
	inferDefault = "/deployments/{deployment_id}"
	inferAlias   = "/deployments/{deployment_id}/{custom_alias}"
	inferService = "/deployments/{deployment_id}/services/{service_id}"
)

// inferencePattern returns the pattern that the router would find for the path of most
// calls, and "" for whatever it should look at itself.
func inferencePattern(r *http.Request) string {
	path, ok := strings.CutPrefix(r.URL.Path, "/deployments/")
	if !ok || r.URL.RawPath != "" || r.Method != http.MethodPost && r.Method != http.MethodGet && r.Method != http.MethodPut {
		return ""
	}
	dep, path, more := strings.Cut(path, "/")
	alias, path, _ := strings.Cut(path, "/")
	service, _, _ := strings.Cut(path, "/")
	switch {
	case dep == "" || more && alias == "" || alias == "results" || alias == "services" && service == "":
		return ""
	case !more:
		return inferDefault
	case alias == "services":
		return inferService
	default:
		return inferAlias
	}
}

// infer authenticates and authorises a call and hands it to the gateway.
func (a *API) infer(w http.ResponseWriter, r *http.Request) {
	id, err := a.Auth.Request(r)
	if err == nil {
		acts(r.Context(), id)
		err = a.reachable(r.Context(), id)
	}
	if err == nil {
		id, err = a.standing(r.Context(), id, authz.Infer)
	}
	if err == nil {
		err = a.restrict(r, id)
	}
	if err == nil {
		err = authz.Check(id, authz.Infer, authz.Target{Org: id.Org})
	}
	if err != nil {
		a.fail(w, r, familyCompute, err)
		return
	}
	to, rest, ok := inferenceTarget(r.URL.EscapedPath())
	if !ok {
		writeError(w, newError(http.StatusNotFound, "the deployment, service or endpoint was not found", nil))
		return
	}
	to.Org = id.Org
	call := dataplane.Call{Target: to, User: id.User, Credential: id.Credential, RequestID: requestID(r.Context()), Path: rest}
	if info := infoOf(r.Context()); info != nil && len(r.Header["Upgrade"]) > 0 {
		call.Switched = info.tunnelled
	}
	var async compat.Bool
	if h := r.Header.Get("X-Abeja-Arms-Async"); h != "" && async.UnmarshalText([]byte(h)) == nil && bool(async) {
		a.inferAsync(w, r, call)
		return
	}
	a.Gateway.ServeCall(w, r, call)
}

// inferenceTarget reads /deployments/{id}[/services/{service}|/{alias}][rest] out
// of an escaped path; rest stays escaped.
func inferenceTarget(path string) (to dataplane.Target, rest string, ok bool) {
	next := func() string {
		seg := strings.TrimPrefix(rest, "/")
		end := strings.IndexByte(seg, '/')
		if end < 0 {
			end = len(seg)
		}
		seg, rest = seg[:end], seg[end:]
		s, err := url.PathUnescape(seg)
		if err != nil {
			return ""
		}
		return s
	}
	rest = strings.TrimPrefix(path, "/deployments")
	if to.Deployment = plat.DeploymentID(next()); to.Deployment == "" {
		return to, "", false
	}
	if rest == "" || rest == "/" {
		return to, "", true
	}
	to.Alias = next()
	if to.Alias == "services" {
		to.Alias, to.Service = "", plat.ServiceID(next())
		return to, rest, to.Service != ""
	}
	return to, rest, to.Alias != ""
}

// restrict returns ErrForbidden when the request's host names another
// organization: <organization>.<API host>, by id or name (compute.md §1.1).
// Without a public URL the API's host is not known; then the first label counts
// where it has the form of an id or is an organization's name.
func (a *API) restrict(r *http.Request, id authn.Identity) error {
	label, sure := a.orgLabel(r.Host)
	if label == "" || label == string(id.Org) {
		return nil
	}
	found, err := a.names.lookup(r.Context(), a, label)
	switch {
	case errors.Is(err, plat.ErrNotFound) && !sure:
		return nil
	case err != nil && !errors.Is(err, plat.ErrNotFound):
		return err
	case err != nil || found != id.Org:
		return plat.Errorf(plat.ErrForbidden, "these credentials belong to another organization than %q, which the host names", label)
	}
	return nil
}

// orgLabel returns the part of a host that names an organization; sure tells that
// it can be nothing else.
func (a *API) orgLabel(host string) (label string, sure bool) {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if a.apiHost != "" {
		label, ok := strings.CutSuffix(host, "."+a.apiHost)
		if !ok || strings.Contains(label, ".") {
			return "", false
		}
		return label, true
	}
	label, rest, ok := strings.Cut(host, ".")
	if !ok || rest == "" || len(label) > 63 || net.ParseIP(host) != nil {
		return "", false
	}
	return label, len(label) == 13 && strings.Trim(label, "0123456789") == ""
}

// publicHost is the host of the public URL, or "".
func publicHost(public string) string {
	u, err := url.Parse(public)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Hostname())
}

// orgNames remembers which organization a host's label names, so that a call
// needs no database. Names are few; the bound is against nonsense.
type orgNames struct {
	mu   sync.Mutex
	seen map[string]orgName
}

type orgName struct {
	org plat.OrgID // "" for no organization
	at  time.Time
}

const (
	orgNameLife = time.Minute
	// orgNamePatience is how long a call waits for a database that hangs.
	orgNamePatience = 2 * time.Second
	maxOrgNames     = 10_000
)

// lookup returns the organization with that name or id. While the database is
// down, what was known goes on.
func (n *orgNames) lookup(ctx context.Context, a *API, label string) (plat.OrgID, error) {
	now := a.Now()
	n.mu.Lock()
	have, ok := n.seen[label]
	n.mu.Unlock()
	if !ok || now.Sub(have.at).Abs() >= orgNameLife {
		asking, cancel := context.WithTimeout(ctx, orgNamePatience)
		found, err := a.Orgs.Get(asking, label)
		cancel()
		switch {
		case err == nil:
			have = orgName{found.ID, now}
		case errors.Is(err, plat.ErrNotFound):
			have = orgName{"", now}
		case !ok:
			return "", err
		}
		n.mu.Lock()
		if n.seen == nil || len(n.seen) >= maxOrgNames {
			n.seen = map[string]orgName{}
		}
		n.seen[label] = have
		n.mu.Unlock()
	}
	if have.org == "" {
		return "", plat.NotFound("organization", label)
	}
	return have.org, nil
}
