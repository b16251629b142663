// SPDX-License-Identifier: Apache-2.0

// Package api is the HTTP API: huma operations and plain handlers on one chi
// router, one file per resource. It turns requests into calls of the domain
// services and their results into the wire of the documents; it holds no rules of
// its own. Imported by app only.
//
// Invariants: every operation names its row of the authorisation table (a test
// walks them); success is 200 with a JSON object; an error is always an ErrorBody.
package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"panal/internal/api/compat"
	"panal/internal/audit"
	"panal/internal/authn"
	"panal/internal/authz"
	"panal/internal/blob"
	"panal/internal/dataplane"
	"panal/internal/dataset"
	"panal/internal/deploy"
	"panal/internal/gitsource"
	"panal/internal/lake"
	"panal/internal/lake/incoming"
	"panal/internal/lake/journal"
	"panal/internal/lake/link"
	"panal/internal/logs"
	"panal/internal/org"
	"panal/internal/plat"
	"panal/internal/registry"
	"panal/internal/runner"
	"panal/internal/secret"
	"panal/internal/train"
	"panal/internal/x/accesslog"
	"panal/internal/x/signedurl"
)

// Deps is what the API stands on. A zero Deps is enough to emit the spec.
type Deps struct {
	Log     *slog.Logger
	Now     plat.Clock
	Version string
	// PublicURL is the base of absolute URLs; empty means the request's Host.
	PublicURL string
	// TrustedProxies are those whose X-Forwarded-For counts.
	TrustedProxies []netip.Prefix
	Auth           *authn.Authenticator
	Orgs           *org.Service
	Datasources    *org.Datasources
	// IPRules may be nil: then everybody is let in.
	IPRules *org.IPRules
	Blobs   *blob.Store
	Signer  *signedurl.Signer
	// Metrics takes the API's figures; nil keeps them to itself.
	Metrics prometheus.Registerer
	// TempDir is where uploads that must be checked whole are held meanwhile;
	// empty means the system's.
	TempDir string
	Lake    *lake.Service
	// Links are of channels whose files are in other buckets.
	Links *link.Manager
	// Incoming hears of what was put straight into our bucket; nil without one.
	Incoming *incoming.Finder
	// Verify compares a channel's index with its storage and its journal.
	Verify func(ctx context.Context, c lake.Channel, opt journal.VerifyOptions) (journal.Report, error)
	// Backup writes a backup of the installation; flush sends what was written. It fails
	// before its first byte or leaves what can be told to be not whole.
	Backup   func(ctx context.Context, w io.Writer, flush func()) error
	Datasets *dataset.Service
	Train    *train.Service
	Secrets  *secret.Service
	Registry *registry.Service
	Deploy   *deploy.Manager
	// Git fetches the code of versions.
	Git *gitsource.Fetcher
	// Gateway answers inference calls.
	Gateway *dataplane.Proxy
	// Capacity tells what the runner has and what is taken of it.
	Capacity func(context.Context) (runner.Capacity, error)
	// Audit takes a row of each mutating call; nil: there is none.
	Audit *audit.Service
	// AccessLog takes a line of each request; nil: there is none.
	AccessLog *accesslog.Log
	// Limits bound what one caller can ask for.
	Limits Limits
	// Logs, and how to tell which streams there are.
	Logs       *logs.Service
	LogStreams LogStreams
}

// API is the HTTP API.
type API struct {
	Deps
	log    *slog.Logger
	router *chi.Mux
	huma   huma.API

	metrics *metrics
	ops     []operation
	inferBy map[string]http.HandlerFunc // by pattern
	// fullSecond is when a full disk was last logged.
	fullSecond atomic.Int64
	// apiHost is the host of PublicURL; organizations are sub-domains of it.
	apiHost string
	names   orgNames
	rates   *rates
	// exempt are the operations that leave no audit row.
	exempt map[string]string
}

// New builds the API.
func New(d Deps) *API {
	hookErrors()
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Now == nil {
		d.Now = plat.SystemClock
	}
	d.Limits = d.Limits.withDefaults()
	a := &API{rates: newRates(d.Limits, d.Now), exempt: AuditExempt(), Deps: d, log: d.Log, router: chi.NewRouter(), apiHost: publicHost(d.PublicURL), metrics: newMetrics(d.Metrics)}
	a.router.NotFound(func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, newError(http.StatusNotFound, "no such path; GET /openapi.json lists them all", nil))
	})
	a.router.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		// The router knows some methods only; a model's own server may know any.
		pattern := a.router.Find(chi.NewRouteContext(), http.MethodOptions, routed(r.URL))
		if infer := a.inferBy[strings.TrimSuffix(pattern, "/*")]; infer != nil {
			infer(w, r)
			return
		}
		w.Header().Set("Allow", a.allowed(r.URL)) // RFC 9110 wants it
		writeError(w, newError(http.StatusMethodNotAllowed, r.Method+" is not allowed on this path", nil))
	})
	cfg := huma.DefaultConfig("Panal", d.Version)
	cfg.Info.Description = "The HTTP API of Panal. Send Authorization: Basic user-<id>:<token>, Basic datasource-<id>:<secret>, or Bearer <token>."
	cfg.CreateHooks = nil // no $schema in bodies: clients reject unknown shapes
	cfg.DocsPath, cfg.SchemasPath = "", ""
	cfg.OpenAPIPath = "/openapi"
	lenient := huma.DefaultJSONFormat
	lenient.Unmarshal = compat.Decode
	cfg.Formats = map[string]huma.Format{"application/json": lenient, "json": lenient}
	cfg.AllowAdditionalPropertiesByDefault = true // unknown keys are ignored (compute.md §1.5)
	cfg.FieldsOptionalByDefault = true
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"basic":  {Type: "http", Scheme: "basic", Description: "user-<id> and a personal access token, or datasource-<id> and its secret"},
		"bearer": {Type: "http", Scheme: "bearer", Description: "a personal access token, or a container's token"},
	}
	cfg.Security = []map[string][]string{{"basic": {}}, {"bearer": {}}}
	a.huma = huma.NewAPI(cfg, wild{humachi.NewAdapter(a.router)})
	for _, add := range a.resources() {
		add()
	}
	a.addNotBuilt()
	return a
}

// resources lists the files of this package that add operations, one each.
func (a *API) resources() []func() {
	return []func(){
		a.addOrganization,
		a.addUsers,
		a.addTokens,
		a.addDatasources,
		a.addIPRules,
		a.addAudit,
		a.addBackup,
		a.addBlobs,
		a.addChannels,
		a.addVerify,
		a.addLinks,
		a.addFacets,
		a.addFiles,
		a.addPromises,
		a.addFileChanges,
		a.addBuckets,
		a.addDatasets,
		a.addSecrets,
		a.addRepositories,
		a.addDefinitions,
		a.addJobs,
		a.addModels,
		a.addDeployments,
		a.addCodes,
		a.addServices,
		a.addEndpoints,
		a.addTraffic,
		a.addWhy,
		a.addInference,
		a.addResults,
		a.addInstanceTypes,
		a.addLogs,
	}
}

// Handler returns the API with its middleware: request ids, lenient paths, panics
// turned into 500, the base URL in the context.
func (a *API) Handler() http.Handler {
	return a.middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if infer := a.inferBy[inferencePattern(r)]; infer != nil {
			infer(w, r)
			return
		}
		a.router.ServeHTTP(w, r)
	}))
}

// routed is the path that the router looks at.
func routed(u *url.URL) string { return cmp.Or(u.RawPath, u.Path) }

// allowed lists the methods of a path.
func (a *API) allowed(u *url.URL) string {
	path := routed(u)
	var methods []string
	for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if a.router.Match(chi.NewRouteContext(), m, path) {
			methods = append(methods, m)
		}
	}
	return strings.Join(methods, ", ")
}

// caller returns who is asking. The edge has authenticated and authorised.
func caller(ctx context.Context) authn.Identity {
	id, ok := authn.FromContext(ctx)
	if !ok {
		panic("BUG: api: operation without identity")
	}
	return id
}

// OperationInfo describes an operation to the tests that walk the API.
type OperationInfo struct {
	ID           string
	Method, Path string
	Op           authz.Op
	Public       bool
}

// Operations lists every operation of the API.
func Operations() []OperationInfo {
	var all []OperationInfo
	for _, o := range New(Deps{}).ops {
		all = append(all, OperationInfo{ID: o.ID, Method: o.Method, Path: o.Path, Op: o.Op, Public: o.Public})
	}
	return all
}

// NotBuilt lists the operations of the documents that answer 501, in the same form.
func NotBuilt() []OperationInfo {
	var all []OperationInfo
	for _, route := range notBuilt() {
		method, path, _ := strings.Cut(route, " ")
		all = append(all, OperationInfo{ID: "not-built " + route, Method: method, Path: path, Op: authz.NotBuilt})
	}
	return all
}

// SpecJSON returns the OpenAPI 3.1 document, indented, as GET /openapi.json serves it.
func SpecJSON() ([]byte, error) {
	raw, err := New(Deps{Version: "dev"}).huma.OpenAPI().MarshalJSON()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}
