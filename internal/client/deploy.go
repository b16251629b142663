// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"panal/internal/plat"
)

// Deployment groups code versions, services and endpoints.
type Deployment struct {
	ID          string            `json:"deployment_id"`
	Name        string            `json:"name"`
	Description string            `json:"description"`
	Environment map[string]string `json:"default_environment"`
	Services    []Service         `json:"services"`
	Endpoints   []Endpoint        `json:"endpoints"`
	CreatedAt   string            `json:"created_at"`
	ModifiedAt  string            `json:"modified_at"`
}

// DeploymentParams describes a deployment; nil is absent.
type DeploymentParams struct {
	Name        *string           `json:"name,omitempty"`
	Description *string           `json:"description,omitempty"`
	Environment map[string]string `json:"default_environment,omitempty"`
}

// Code is a code version of a deployment.
type Code struct {
	ID          string            `json:"version_id"`
	Label       string            `json:"version"`
	Deployment  string            `json:"deployment_id"`
	Handler     string            `json:"handler"`
	Image       string            `json:"image"`
	Environment map[string]string `json:"user_parameters"`
	Command     []string          `json:"command"`
	HealthPath  string            `json:"health_path"`
	GitURL      string            `json:"git_url,omitempty"`
	GitRef      string            `json:"git_branch,omitempty"`
	GitCommit   string            `json:"git_commit,omitempty"`
	CreatedAt   string            `json:"created_at"`
	ModifiedAt  string            `json:"modified_at"`
	UploadURL   string            `json:"upload_url,omitempty"`
}

// Git names a repository and what of it; the URL may hold credentials.
type Git struct {
	URL string `json:"git_url"`
	Ref string `json:"git_branch,omitempty"`
}

// CodeParams describes a new code version.
type CodeParams struct {
	Label       string            `json:"version"`
	Handler     string            `json:"handler,omitempty"`
	Image       string            `json:"image"`
	Environment map[string]string `json:"user_parameters,omitempty"`
	Command     []string          `json:"command,omitempty"`
	HealthPath  string            `json:"health_path,omitempty"`
}

// Service is a number of instances of a code version.
type Service struct {
	ID            string            `json:"service_id"`
	Deployment    string            `json:"deployment_id"`
	Label         string            `json:"model_version"`
	Version       string            `json:"model_version_id"`
	Models        map[string]string `json:"models"`
	Status        string            `json:"status"`
	StatusMessage string            `json:"status_message"`
	InstanceType  string            `json:"instance_type"`
	Number        int               `json:"instance_number"`
	Min           int               `json:"min_instance_number"`
	Max           int               `json:"max_instance_number"`
	RateLimit     float64           `json:"rate_limit"`        // calls a second; 0: no limit
	CallLimit     int               `json:"concurrency_limit"` // calls under way; 0: no limit
	RecordChannel string            `json:"record_channel_id,omitempty"`
	RecordOutputs bool              `json:"record_outputs"`
	Autoscale     bool              `json:"enable_autoscale"`
	Target        float64           `json:"target_concurrency"`
	IdleTimeout   float64           `json:"idle_timeout"` // seconds
	Desired       int               `json:"desired_instance_number"`
	ScaleMessage  string            `json:"scale_message"`
	Environment   map[string]string `json:"user_env_vars"`
	Merged        map[string]string `json:"merged_env_vars"`
	CreatedAt     string            `json:"created_at"`
	ModifiedAt    string            `json:"modified_at"`
}

// ServiceParams describes a service or a change of one; what is empty stays, or
// takes its default.
type ServiceParams struct {
	Version      string            `json:"version_id,omitempty"`
	Models       map[string]string `json:"models,omitempty"`
	Environment  map[string]string `json:"environment,omitzero"` // all of its own; an empty one takes them away
	InstanceType string            `json:"instance_type,omitempty"`
	Number       *int              `json:"instance_number,omitempty"`
	Min          *int              `json:"min_instance_number,omitempty"`
	Max          *int              `json:"max_instance_number,omitempty"`
	Record       *string           `json:"record_channel_id,omitempty"` // "" ends recording
	RecordOutput *bool             `json:"record_outputs,omitempty"`
	RateLimit    *float64          `json:"rate_limit,omitempty"`        // 0 ends it
	CallLimit    *int              `json:"concurrency_limit,omitempty"` // 0 ends it
	Autoscale    *bool             `json:"enable_autoscale,omitempty"`
	Target       *float64          `json:"target_concurrency,omitempty"`
	IdleTimeout  *float64          `json:"idle_timeout,omitempty"` // seconds
}

// Instance is one of a service's instances.
type Instance struct {
	ID         string `json:"instance_id"`
	State      string `json:"state"`
	Generation int64  `json:"generation"`
	Current    bool   `json:"current"`
	CreatedAt  string `json:"created_at"`
	ReadyAt    string `json:"ready_at"`
}

// Instances lists a service's instances.
func (c *Client) Instances(ctx context.Context, dep, id string) ([]Instance, error) {
	return entries[Instance](ctx, c, c.deployments(dep, "services", id, "instances"))
}

// Endpoint is a stable alias in front of a service.
type Endpoint struct {
	ID            string   `json:"endpoint_id"`
	Alias         string   `json:"custom_alias"`
	Service       string   `json:"service_id"`
	Split         []Part   `json:"split,omitempty"`
	Pending       string   `json:"pending_service_id"`
	StatusMessage string   `json:"status_message"`
	RateLimit     float64  `json:"rate_limit"`        // calls a second; 0: no limit
	CallLimit     int      `json:"concurrency_limit"` // calls under way; 0: no limit
	History       []Switch `json:"history,omitempty"`
	CreatedAt     string   `json:"created_at"`
	ModifiedAt    string   `json:"modified_at"`
}

// Switch is a line of the short history in an endpoint.
type Switch struct {
	From string `json:"from_service_id"`
	To   string `json:"to_service_id"`
	By   string `json:"user_id"`
	At   string `json:"switched_at"`
}

// Part is a service's share of an endpoint's requests, in percent.
type Part struct {
	Service string `json:"service_id"`
	Weight  int    `json:"weight"`
}

// EndpointChange is a line of the history of an alias.
type EndpointChange struct {
	Number   int64  `json:"number"`
	Endpoint string `json:"endpoint_id"`
	Kind     string `json:"kind"`
	From     string `json:"from_service_id"`
	To       string `json:"to_service_id"`
	Split    []Part `json:"split,omitempty"`
	By       string `json:"user_id"`
	At       string `json:"changed_at"`
}

func (c *Client) deployments(segments ...string) string {
	return c.OrgPath(append([]string{"deployments"}, segments...)...)
}

// entries reads a list without paging.
func entries[T any](ctx context.Context, c *Client, path string) ([]T, error) {
	var out struct {
		Entries []T `json:"entries"`
	}
	err := c.JSON(ctx, http.MethodGet, path, nil, nil, &out)
	return out.Entries, err
}

// call sends in and decodes the answer.
func call[T any](ctx context.Context, c *Client, method, path string, in any) (T, error) {
	var out T
	err := c.JSON(ctx, method, path, nil, in, &out)
	return out, err
}

// CreateDeployment makes a deployment.
func (c *Client) CreateDeployment(ctx context.Context, p DeploymentParams) (Deployment, error) {
	return call[Deployment](ctx, c, http.MethodPost, c.deployments(), p)
}

// Deployments lists all deployments, oldest first.
func (c *Client) Deployments(ctx context.Context) ([]Deployment, error) {
	return entries[Deployment](ctx, c, c.deployments())
}

// Deployment returns one deployment.
func (c *Client) Deployment(ctx context.Context, id string) (Deployment, error) {
	return call[Deployment](ctx, c, http.MethodGet, c.deployments(id), nil)
}

// FindDeployment returns the deployment with that id, or else the only one with
// that name.
func (c *Client) FindDeployment(ctx context.Context, idOrName string) (Deployment, error) {
	all, err := c.Deployments(ctx)
	if err != nil {
		return Deployment{}, err
	}
	var named []Deployment
	for _, d := range all {
		switch idOrName {
		case d.ID:
			return d, nil
		case d.Name:
			named = append(named, d)
		}
	}
	switch len(named) {
	case 0:
		return Deployment{}, plat.NotFound("deployment", idOrName)
	case 1:
		return named[0], nil
	}
	return Deployment{}, plat.Errorf(plat.ErrConflict, "%d deployments are named %s (%s, %s, …); use an id", len(named), idOrName, named[0].ID, named[1].ID)
}

// UpdateDeployment changes a deployment.
func (c *Client) UpdateDeployment(ctx context.Context, id string, p DeploymentParams) (Deployment, error) {
	return call[Deployment](ctx, c, http.MethodPatch, c.deployments(id), p)
}

// DeleteDeployment deletes a deployment without services.
func (c *Client) DeleteDeployment(ctx context.Context, id string) error {
	return c.JSON(ctx, http.MethodDelete, c.deployments(id), nil, nil, nil)
}

// CreateCode makes a code version and uploads its source: size bytes of tar.gz or
// zip. When the upload fails the version is deleted again.
func (c *Client) CreateCode(ctx context.Context, dep string, p CodeParams, src io.Reader, size int64) (Code, error) {
	v, err := call[Code](ctx, c, http.MethodPost, c.deployments(dep, "versions"), p)
	if err != nil {
		return Code{}, err
	}
	res, err := c.Do(ctx, Request{Method: http.MethodPut, Path: v.UploadURL, Body: src, Size: size})
	if err != nil {
		_ = c.DeleteCode(context.WithoutCancel(ctx), dep, v.ID) // the upload's error is the one to tell
		return Code{}, err
	}
	v.UploadURL = ""
	return v, res.Body.Close()
}

// CodeFromGit makes a code version from a repository.
func (c *Client) CodeFromGit(ctx context.Context, dep string, git Git, p CodeParams) (Code, error) {
	return call[Code](ctx, c, http.MethodPost, c.deployments(dep, "git", "versions"), struct {
		Git
		CodeParams
	}{git, p})
}

// Template is code that the platform brings along.
type Template struct {
	ID          int    `json:"template_id"`
	Name        string `json:"name"`
	Description string `json:"description"`
	Handler     string `json:"handler"`
}

// Templates lists the templates of code versions.
func (c *Client) Templates(ctx context.Context, dep string) ([]Template, error) {
	return entries[Template](ctx, c, c.deployments(dep, "code_templates"))
}

// CodeFromTemplate makes a code version from a template.
func (c *Client) CodeFromTemplate(ctx context.Context, dep string, template int, p CodeParams) (Code, error) {
	return call[Code](ctx, c, http.MethodPost, c.deployments(dep, "code_templates"), struct {
		Template int `json:"template_id"`
		CodeParams
	}{template, p})
}

// Codes lists a deployment's code versions, oldest first.
func (c *Client) Codes(ctx context.Context, dep string) ([]Code, error) {
	return entries[Code](ctx, c, c.deployments(dep, "versions"))
}

// FindCode returns the code version with that label or id.
func (c *Client) FindCode(ctx context.Context, dep, labelOrID string) (Code, error) {
	all, err := c.Codes(ctx, dep)
	if err != nil {
		return Code{}, err
	}
	for _, v := range all {
		if v.ID == labelOrID || v.Label == labelOrID {
			return v, nil
		}
	}
	return Code{}, plat.NotFound("version", labelOrID)
}

// DeleteCode deletes a code version that no service uses.
func (c *Client) DeleteCode(ctx context.Context, dep, id string) error {
	return c.JSON(ctx, http.MethodDelete, c.deployments(dep, "versions", id), nil, nil, nil)
}

// DownloadCode opens a code version's source. size is -1 when unknown.
func (c *Client) DownloadCode(ctx context.Context, dep, id string) (body io.ReadCloser, size int64, err error) {
	d, err := call[struct {
		URI string `json:"download_uri"`
	}](ctx, c, http.MethodGet, c.deployments(dep, "versions", id, "download"), nil)
	if err != nil {
		return nil, 0, err
	}
	res, err := c.Do(ctx, Request{Method: http.MethodGet, Path: d.URI})
	if err != nil {
		return nil, 0, err
	}
	return res.Body, res.ContentLength, nil
}

// CreateService makes a service; it starts at once.
func (c *Client) CreateService(ctx context.Context, dep string, p ServiceParams) (Service, error) {
	return call[Service](ctx, c, http.MethodPost, c.deployments(dep, "services"), p)
}

// Services lists a deployment's services, oldest first.
func (c *Client) Services(ctx context.Context, dep string) ([]Service, error) {
	return entries[Service](ctx, c, c.deployments(dep, "services"))
}

// Service returns one service.
func (c *Client) Service(ctx context.Context, dep, id string) (Service, error) {
	return call[Service](ctx, c, http.MethodGet, c.ServicePath(dep, id), nil)
}

// UpdateService changes a service; its instances are replaced one by one.
func (c *Client) UpdateService(ctx context.Context, dep, id string, p ServiceParams) (Service, error) {
	return call[Service](ctx, c, http.MethodPatch, c.ServicePath(dep, id), p)
}

// StartService starts a stopped or failed service.
func (c *Client) StartService(ctx context.Context, dep, id string) error {
	return c.JSON(ctx, http.MethodPost, c.deployments(dep, "services", id, "start"), nil, nil, nil)
}

// StopService stops a service once its requests are answered.
func (c *Client) StopService(ctx context.Context, dep, id string) error {
	return c.JSON(ctx, http.MethodPost, c.deployments(dep, "services", id, "stop"), nil, nil, nil)
}

// DeleteService deletes a service that no endpoint points to.
func (c *Client) DeleteService(ctx context.Context, dep, id string) error {
	return c.JSON(ctx, http.MethodDelete, c.ServicePath(dep, id), nil, nil, nil)
}

// EndpointLimits are those of an endpoint that change; nil keeps, 0 ends one.
type EndpointLimits struct {
	Rate  *float64 `json:"rate_limit,omitempty"`
	Calls *int     `json:"concurrency_limit,omitempty"`
}

// CreateEndpoint makes an alias in front of a service.
func (c *Client) CreateEndpoint(ctx context.Context, dep, alias, service string, limits EndpointLimits) (Endpoint, error) {
	return call[Endpoint](ctx, c, http.MethodPost, c.deployments(dep, "endpoints"), struct {
		Alias   string `json:"custom_alias"`
		Service string `json:"service_id"`
		EndpointLimits
	}{alias, service, limits})
}

// LimitEndpoint changes what an endpoint takes.
func (c *Client) LimitEndpoint(ctx context.Context, dep, idOrAlias string, limits EndpointLimits) error {
	return c.JSON(ctx, http.MethodPatch, c.deployments(dep, "endpoints", idOrAlias), nil, limits, nil)
}

// Endpoints lists a deployment's endpoints, oldest first.
func (c *Client) Endpoints(ctx context.Context, dep string) ([]Endpoint, error) {
	return entries[Endpoint](ctx, c, c.deployments(dep, "endpoints"))
}

// Endpoint returns an endpoint by id or alias, with the history of its switches.
func (c *Client) Endpoint(ctx context.Context, dep, idOrAlias string) (Endpoint, error) {
	return call[Endpoint](ctx, c, http.MethodGet, c.deployments(dep, "endpoints", idOrAlias), nil)
}

// SwitchEndpoint points an endpoint to another service: at once when that
// answers, else when it is READY.
func (c *Client) SwitchEndpoint(ctx context.Context, dep, idOrAlias, service string) error {
	return c.JSON(ctx, http.MethodPatch, c.deployments(dep, "endpoints", idOrAlias), nil, map[string]string{"service_id": service}, nil)
}

// SplitEndpoint shares an endpoint's requests among services that are READY.
func (c *Client) SplitEndpoint(ctx context.Context, dep, idOrAlias string, parts []Part) error {
	return c.JSON(ctx, http.MethodPatch, c.deployments(dep, "endpoints", idOrAlias), nil, map[string][]Part{"split": parts}, nil)
}

// RollBackEndpoint points an endpoint to what it pointed to before its last change,
// or after the change with that number (0: none).
func (c *Client) RollBackEndpoint(ctx context.Context, dep, idOrAlias string, number int64) error {
	body := map[string]int64{}
	if number != 0 {
		body["number"] = number
	}
	return c.JSON(ctx, http.MethodPost, c.deployments(dep, "endpoints", idOrAlias, "rollback"), nil, body, nil)
}

// EndpointHistory returns a page of an alias' changes, newest first, and the token
// of the next one ("": none). With at (RFC 3339) it is the change in force then.
func (c *Client) EndpointHistory(ctx context.Context, dep, idOrAlias, at, page string, limit int) ([]EndpointChange, string, error) {
	q := url.Values{}
	for k, v := range map[string]string{"at": at, "next_page_token": page} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	var out struct {
		Entries []EndpointChange `json:"entries"`
		Next    string           `json:"next_page_token"`
	}
	err := c.JSON(ctx, http.MethodGet, c.deployments(dep, "endpoints", idOrAlias, "history"), q, nil, &out)
	return out.Entries, out.Next, err
}

// DeleteEndpoint deletes an endpoint.
func (c *Client) DeleteEndpoint(ctx context.Context, dep, idOrAlias string) error {
	return c.JSON(ctx, http.MethodDelete, c.deployments(dep, "endpoints", idOrAlias), nil, nil, nil)
}

// Call is a request to a model.
type Call struct {
	Deployment  string
	Service     string // its service, or
	Alias       string // its endpoint; "" is the endpoint default
	Path        string // what follows in the URL, escaped; for services that run a command
	ContentType string
	Query       url.Values
	Body        io.Reader
	Size        int64
}

// Infer calls a model and returns its answer, whose body the caller closes.
func (c *Client) Infer(ctx context.Context, q Call) (*http.Response, error) {
	return c.infer(ctx, q, http.Header{"Content-Type": {q.ContentType}})
}

// InferLater has a model called, and returns the id to fetch the result by.
func (c *Client) InferLater(ctx context.Context, q Call) (request string, err error) {
	res, err := c.infer(ctx, q, http.Header{"Content-Type": {q.ContentType}, "X-Abeja-Arms-Async": {"true"}})
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	var out struct {
		ID string `json:"request_id"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&out); err != nil || res.StatusCode != http.StatusAccepted || out.ID == "" {
		return "", plat.Errorf(plat.ErrUnsupported, "the server took no asynchronous call: it answered %s", res.Status)
	}
	return out.ID, nil
}

// Result fetches the result of an asynchronous call, whose body the caller closes; nil
// while there is none. A result of 400 or more is an *Error, as from Infer; stored
// tells it from an error of the server.
func (c *Client) Result(ctx context.Context, dep, request string) (res *http.Response, stored bool, err error) {
	const mark = "X-Panal-Result"
	res, err = c.Do(ctx, Request{Method: http.MethodGet, Path: Path("deployments", dep, "results", request)})
	if err != nil {
		e, ok := errors.AsType[*Error](err)
		return nil, ok && e.Header.Get(mark) != "", modelSaid(err)
	}
	if res.Header.Get(mark) == "" {
		return nil, false, res.Body.Close()
	}
	return res, true, nil
}

func (c *Client) infer(ctx context.Context, q Call, header http.Header) (*http.Response, error) {
	segs := []string{"deployments", q.Deployment}
	switch {
	case q.Service != "":
		segs = append(segs, "services", q.Service)
	case q.Alias != "":
		segs = append(segs, q.Alias)
	case q.Path != "": // the address without an alias has no room for more: it would be one
		segs = append(segs, "default")
	}
	path := Path(segs...)
	if q.Path != "" {
		path += "/" + strings.TrimPrefix(q.Path, "/")
	}
	res, err := c.Do(ctx, Request{Method: http.MethodPost, Path: path, Query: q.Query, Header: header, Body: q.Body, Size: q.Size})
	return res, modelSaid(err)
}

// maxSaid is how much of what a model says of an error is repeated.
const maxSaid = 4096

// modelSaid adds to an error that a model answered with what it said, where that is text:
// nobody else explains it.
func modelSaid(err error) error {
	e, ok := errors.AsType[*Error](err)
	if !ok || !e.foreign {
		return err
	}
	said := strings.TrimSpace(string(e.Body[:min(len(e.Body), maxSaid)]))
	if len(e.Body) > maxSaid {
		said = strings.ToValidUTF8(said, "") + "…"
	}
	control := func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }
	if said != "" && utf8.ValidString(said) && !strings.ContainsFunc(said, control) {
		e.Description += ": " + said
	}
	return err
}
