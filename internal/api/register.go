// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"

	"panal/internal/authn"
	"panal/internal/authz"
	"panal/internal/plat"
	"panal/internal/x/httpx"
)

// operation is one row of the API.
type operation struct {
	ID      string // "list-channels"
	Method  string
	Path    string // with {parameters} as the documents name them
	Summary string
	Tag     string
	Family  Family
	Op      authz.Op // its row of the authorisation table; "" only with Public
	Public  bool     // needs no identity (signed URLs, health)
	Rest    string   // name of a last path parameter that may hold slashes
	MaxBody int64    // bytes of a JSON body; 0 = 1 MiB
}

const defaultMaxBody = 1 << 20

// body wraps what an operation answers.
type body[O any] struct{ Body *O }

// register adds an operation with typed input and output. I is a huma input
// struct (path, query, header fields and an optional Body, a pointer so that an
// empty body is allowed); O is the answer's body.
//
// The caller is authenticated, its organization resolved ({organization_id} takes
// id or name) and the table asked before h runs; h finds the identity with
// caller(ctx). Whatever h returns as an error becomes an ErrorBody.
func register[I, O any](a *API, o operation, h func(ctx context.Context, in *I) (*O, error)) {
	a.ops = append(a.ops, o)
	op := a.describe(o)
	counted := a.metrics.operation(o.ID)
	op.Middlewares = huma.Middlewares{func(ctx huma.Context, next func(huma.Context)) {
		counted.took(ctx.Context())
		if audits(o, a.exempt) {
			r, _ := humachi.Unwrap(ctx)
			a.watch(r, o, ctx.Param)
		}
		if r, _ := humachi.Unwrap(ctx); r != nil {
			if kind := r.Header.Get("Content-Type"); kind != "" { // its case means nothing, to huma it does
				r.Header.Set("Content-Type", strings.ToLower(kind))
			}
		}
		next(ctx)
	}}
	if o.Op != "" {
		op.Middlewares = append(op.Middlewares, a.humaAuth(o))
	}
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*body[O], error) {
		out, err := h(ctx, in)
		if err != nil {
			return nil, a.body(ctx, o.Family, err)
		}
		return &body[O]{Body: out}, nil
	})
}

// raw adds a plain handler: streams, and whatever huma does not fit. It is
// authenticated like any other operation and stands in the spec.
func (a *API) raw(o operation, h http.HandlerFunc) {
	a.ops = append(a.ops, o)
	op := a.describe(o)
	for _, name := range pathParams(o.Path) {
		op.Parameters = append(op.Parameters, &huma.Param{Name: name, In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeString}})
	}
	op.Responses = map[string]*huma.Response{"200": {Description: "OK"}, "default": {Description: "an error", Content: map[string]*huma.MediaType{
		"application/json": {Schema: a.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[ErrorBody](), true, "ErrorBody")},
	}}}
	a.huma.OpenAPI().AddOperation(&op)
	next := h
	if o.Op != "" {
		next = func(w http.ResponseWriter, r *http.Request) {
			id, err := a.admit(r.Context(), o, r.Header.Get("Authorization"), func(name string) string { return param(r, name) })
			if err == nil {
				err = checkQuery(r.URL.RawQuery)
			}
			if err != nil {
				a.fail(w, r, o.Family, err)
				return
			}
			h(w, r.WithContext(authn.WithIdentity(r.Context(), id)))
		}
	}
	if admitted := next; audits(o, a.exempt) {
		next = func(w http.ResponseWriter, r *http.Request) {
			a.watch(r, o, func(name string) string { return param(r, restName(o, name)) })
			admitted(w, r)
		}
	}
	a.router.Method(o.Method, routePattern(o), a.metrics.counting(o.ID, next))
}

func (a *API) describe(o operation) huma.Operation {
	if o.Op == "" && !o.Public {
		panic("BUG: api: operation " + o.ID + " names no row of the authorisation table")
	}
	op := huma.Operation{
		OperationID: o.ID, Method: o.Method, Path: o.Path, Summary: o.Summary,
		DefaultStatus: http.StatusOK, MaxBodyBytes: o.MaxBody,
		BodyReadTimeout:  -1, // bounded by idle progress instead (boundBody)
		Errors:           []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound},
		SkipValidateBody: false,
		Extensions:       map[string]any{"x-panal-operation": string(o.Op)},
	}
	if op.MaxBodyBytes == 0 {
		op.MaxBodyBytes = defaultMaxBody
	}
	if o.Tag != "" {
		op.Tags = []string{o.Tag}
	}
	if o.Public {
		op.Security = []map[string][]string{}
	}
	if o.Rest != "" {
		op.Metadata = map[string]any{"rest": o.Rest}
	}
	return op
}

// humaAuth is admit as huma middleware.
func (a *API) humaAuth(o operation) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		r, w := humachi.Unwrap(ctx)
		id, err := a.admit(ctx.Context(), o, ctx.Header("Authorization"), ctx.Param)
		if err == nil {
			err = checkQuery(r.URL.RawQuery)
		}
		if err != nil {
			writeError(w, a.body(ctx.Context(), o.Family, err))
			return
		}
		boundBody(w, r)
		next(huma.WithContext(ctx, authn.WithIdentity(ctx.Context(), id)))
	}
}

// checkQuery refuses a parameter that can't be decoded: all who read queries drop it, so
// that what was asked with it is answered as if it had been asked without.
func checkQuery(raw string) error {
	if !strings.Contains(raw, "%") {
		return nil
	}
	for pair := range strings.SplitSeq(raw, "&") {
		if _, err := url.QueryUnescape(pair); err != nil {
			name, _, _ := strings.Cut(pair, "=")
			return plat.InvalidField(name, "has a bad percent escape; a %% itself is written %%25")
		}
	}
	return nil
}

// boundBody bounds the time that a body may make no progress, and marks its errors
// as the client's.
func boundBody(w http.ResponseWriter, r *http.Request) {
	r.Body = struct {
		io.Reader
		io.Closer
	}{clientBody{httpx.ShortReader(w, r.Body, idleLimit)}, r.Body}
}

// admit authenticates a request and asks the authorisation table.
func (a *API) admit(ctx context.Context, o operation, authorization string, param func(string) string) (authn.Identity, error) {
	id, err := a.Auth.Header(ctx, authorization)
	if err != nil {
		return authn.Identity{}, err
	}
	acts(ctx, id)
	if over := a.rates.take(o.Op, authorization); over != nil {
		return authn.Identity{}, over
	}
	if err := a.reachable(ctx, id); err != nil {
		return authn.Identity{}, err
	}
	if id, err = a.standing(ctx, id, o.Op); err != nil {
		return authn.Identity{}, err
	}
	if err := nameable(o, param); err != nil {
		return authn.Identity{}, err
	}
	t := authz.Target{
		Channel:     plat.ChannelID(param("channel_id")),
		User:        plat.UserID(param("user_id")),
		Workload:    plat.WorkloadID(param("workload_id")),
		Definition:  plat.JobDefinitionID(param("job_definition")),
		Job:         plat.JobID(param("training_job_id")),
		Model:       plat.ModelID(param("model_id")),
		Deployment:  plat.DeploymentID(param("deployment_id")),
		CodeVersion: plat.VersionID(param("version_id")),
		Service:     plat.ServiceID(param("service_id")),
	}
	if v := param("version"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			return authn.Identity{}, plat.InvalidField("version", "%q is not a version number", v)
		}
		t.Version = n
	}
	if name := param("organization_id"); name != "" && name != string(id.Org) {
		found, err := a.Orgs.Get(ctx, name)
		switch {
		case errors.Is(err, plat.ErrNotFound) && authz.ReachesAll(id, o.Op):
			return authn.Identity{}, err
		case errors.Is(err, plat.ErrNotFound):
			// Nobody learns from here which organizations exist.
			return authn.Identity{}, plat.Errorf(plat.ErrForbidden, "these credentials belong to another organization")
		case err != nil:
			return authn.Identity{}, err
		}
		t.Org = found.ID
	}
	if id.Kind == authn.KindContainer && t.Definition != "" {
		// A path may name the definition by its name; the token's scope has the id.
		d, err := a.Train.Definition(ctx, id.Org, string(t.Definition))
		switch {
		case errors.Is(err, plat.ErrNotFound):
			return authn.Identity{}, plat.Errorf(plat.ErrForbidden, "a container's token may not do this (%s)", o.Op)
		case err != nil:
			return authn.Identity{}, err
		}
		t.Definition = d.ID
	}
	err = authz.Check(id, o.Op, t)
	if err != nil && id.Kind == authn.KindDatasource && (o.Op == authz.FileRead || o.Op == authz.FileUpload) {
		err = a.byName(ctx, id, t.Channel, err)
	}
	return id, err
}

// wild lets the last path parameter hold slashes on chi while the spec shows its
// name: the route gets a "*" where the spec says {key}.
type wild struct{ huma.Adapter }

// Handle implements huma.Adapter.
func (a wild) Handle(op *huma.Operation, h func(huma.Context)) {
	name, ok := op.Metadata["rest"].(string)
	if !ok {
		a.Adapter.Handle(op, h)
		return
	}
	c := *op
	c.Path = strings.TrimSuffix(op.Path, "{"+name+"}") + "*"
	a.Adapter.Handle(&c, func(x huma.Context) { h(restCtx{x, name}) })
}

type humaCtx huma.Context // an embedded field may not be called Context

type restCtx struct {
	humaCtx
	name string
}

// Unwrap lets humachi find the request.
func (c restCtx) Unwrap() huma.Context { return c.humaCtx }

// Param implements huma.Context.
func (c restCtx) Param(n string) string {
	if n == c.name {
		n = "*"
	}
	return c.humaCtx.Param(n)
}

func routePattern(o operation) string {
	if o.Rest != "" {
		return strings.TrimSuffix(o.Path, "{"+o.Rest+"}") + "*"
	}
	return o.Path
}

// restName is the router's name of a path parameter.
func restName(o operation, name string) string {
	if o.Rest != "" && name == o.Rest {
		return "*"
	}
	return name
}

// param returns a path parameter of a plain handler, decoded as huma does for the others:
// one channel can be written in several ways, and a NUL can be written at all.
func param(r *http.Request, name string) string {
	v := chi.URLParam(r, name)
	if r.URL.RawPath == "" {
		return v // the router has matched the decoded path
	}
	if decoded, err := url.PathUnescape(v); err == nil {
		return decoded
	}
	return v
}

func pathParams(path string) []string {
	var names []string
	for seg := range strings.SplitSeq(path, "/") {
		if strings.HasPrefix(seg, "{") && strings.HasSuffix(seg, "}") {
			names = append(names, seg[1:len(seg)-1])
		}
	}
	return names
}
