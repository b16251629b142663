// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"
	"strconv"

	"panal/internal/api/compat"
	"panal/internal/authz"
	"panal/internal/deploy"
	"panal/internal/plat"
)

// Endpoint is the wire's endpoint (compute.md §7).
type Endpoint struct {
	EndpointID       string   `json:"endpoint_id" example:"pnt-5d0e77a1b9c24f63"`
	CustomAlias      string   `json:"custom_alias" example:"default"`
	ServiceID        string   `json:"service_id" doc:"the service that answers; of a split, the one with the largest share"`
	Split            []Part   `json:"split,omitempty" doc:"how requests are shared; only while they are"`
	PendingServiceID *string  `json:"pending_service_id" doc:"the service that answers once it is READY"`
	StatusMessage    *string  `json:"status_message" doc:"what became of the last switch"`
	RateLimit        *float64 `json:"rate_limit" doc:"calls a second that it takes, whichever service answers; what is over it is 429; null: no limit"`
	ConcurrencyLimit *int     `json:"concurrency_limit" doc:"calls by it that may be under way, those that wait for an instance included; null: no limit"`
	History          []Switch `json:"history,omitempty" doc:"newest first; only in the answer to a single GET"`
	CreatedAt        string   `json:"created_at"`
	ModifiedAt       string   `json:"modified_at"`
}

// Switch is a line of an endpoint's history.
type Switch struct {
	From *string `json:"from_service_id"`
	To   string  `json:"to_service_id"`
	By   string  `json:"user_id"`
	At   string  `json:"switched_at"`
}

// Part is a service's share of an endpoint's requests.
type Part struct {
	ServiceID string `json:"service_id"`
	Weight    int    `json:"weight" doc:"percent; the weights of a split add up to 100"`
}

// EndpointChange is a line of the history of an alias.
type EndpointChange struct {
	Number     int64   `json:"number" doc:"1, 2, … of the alias in its deployment"`
	EndpointID string  `json:"endpoint_id"`
	Kind       string  `json:"kind" enum:"created,switched,split,rolled_back,deleted"`
	From       *string `json:"from_service_id"`
	To         *string `json:"to_service_id" doc:"the service that answered from then on; null: deleted"`
	Split      []Part  `json:"split,omitempty"`
	UserID     string  `json:"user_id" doc:"who did it"`
	ChangedAt  string  `json:"changed_at"`
}

// EndpointHistory is a page of changes, newest first.
type EndpointHistory struct {
	Entries       []EndpointChange `json:"entries"`
	NextPageToken *string          `json:"next_page_token" doc:"null on the last page"`
}

// EndpointUpdated is the answer to a switch.
type EndpointUpdated struct {
	Message          string   `json:"message" example:"pnt-5d0e77a1b9c24f63 updated"`
	ServiceID        string   `json:"service_id"`
	Split            []Part   `json:"split,omitempty"`
	PendingServiceID *string  `json:"pending_service_id"`
	StatusMessage    *string  `json:"status_message"`
	RateLimit        *float64 `json:"rate_limit"`
	ConcurrencyLimit *int     `json:"concurrency_limit"`
}

// EndpointPath is the path parameters of an endpoint.
type EndpointPath struct {
	DeploymentPath
	Endpoint string `path:"endpoint" doc:"endpoint id or alias"`
}

const (
	pathEndpoints = pathDeployment + "/endpoints"
	pathEndpoint  = pathEndpoints + "/{endpoint}"
)

func wireEndpoint(e deploy.Endpoint) Endpoint {
	return Endpoint{
		EndpointID: string(e.ID), CustomAlias: e.Alias, ServiceID: string(e.Service), PendingServiceID: orNull(string(e.Pending)),
		StatusMessage: orNull(e.StatusMessage), CreatedAt: micro(e.CreatedAt), ModifiedAt: micro(e.ModifiedAt), Split: wireParts(e.Split),
		RateLimit: numberOrNull(e.RateLimit), ConcurrencyLimit: numberOrNull(e.CallLimit),
	}
}

func wireParts(parts []deploy.Part) []Part {
	if len(parts) == 0 {
		return nil
	}
	out := make([]Part, len(parts))
	for i, p := range parts {
		out[i] = Part{string(p.Service), p.Weight}
	}
	return out
}

func wireChange(c deploy.Change) EndpointChange {
	return EndpointChange{
		Number: c.Number, EndpointID: string(c.Endpoint), Kind: string(c.Kind), From: orNull(string(c.From)),
		To: orNull(string(c.To)), Split: wireParts(c.Split), UserID: string(c.By), ChangedAt: micro(c.At),
	}
}

func endpointUpdated(e deploy.Endpoint, err error) (*EndpointUpdated, error) {
	return &EndpointUpdated{
		Message: string(e.ID) + " updated", ServiceID: string(e.Service), Split: wireParts(e.Split),
		PendingServiceID: orNull(string(e.Pending)), StatusMessage: orNull(e.StatusMessage),
		RateLimit: numberOrNull(e.RateLimit), ConcurrencyLimit: numberOrNull(e.CallLimit),
	}, err
}

// endpointBody is what creates and switches an endpoint.
type endpointBody struct {
	ServiceID   *string `json:"service_id"`
	CustomAlias *string `json:"custom_alias" doc:"default \"default\"; it can't be changed"`
	Split       []Part  `json:"split" doc:"instead of service_id, in a PATCH: share the requests among services that are READY"`

	RateLimit        compat.Number[float64] `json:"rate_limit" doc:"calls a second, 0.001 to 1000000; 0 or null, the default: no limit. A PATCH may change nothing else"`
	ConcurrencyLimit compat.Number[int]     `json:"concurrency_limit" doc:"calls under way, 1 to 1000000; 0 or null, the default: no limit"`
}

func (b *endpointBody) limits() deploy.Limits {
	return deploy.Limits{Rate: b.RateLimit.Value, Calls: b.ConcurrencyLimit.Value}
}

func (a *API) addEndpoints() {
	op := func(id, method, path, summary string, row authz.Op) operation {
		return operation{ID: id, Method: method, Path: path, Summary: summary, Tag: "endpoint", Family: familyCompute, Op: row}
	}
	type createInput struct {
		DeploymentPath
		Body *endpointBody
	}
	register(a, op("create-endpoint", http.MethodPost, pathEndpoints, "Create an alias in front of a service", authz.EndpointCreate),
		func(ctx context.Context, in *createInput) (*Endpoint, error) {
			b, id := value(in.Body), caller(ctx)
			if b.Split != nil {
				return nil, plat.InvalidField("split", "a new endpoint has one service; create it with service_id, then PATCH its split")
			}
			e, err := a.Deploy.CreateEndpoint(ctx, id.Org, id.User, in.id(), value(b.CustomAlias), plat.ServiceID(value(b.ServiceID)), b.limits())
			touched(ctx, "endpoint", string(e.ID))
			out := wireEndpoint(e)
			return &out, err
		})

	register(a, op("list-endpoints", http.MethodGet, pathEndpoints, "List a deployment's endpoints", authz.EndpointRead),
		func(ctx context.Context, in *DeploymentPath) (*entries[Endpoint], error) {
			all, err := a.Deploy.Endpoints(ctx, caller(ctx).Org, in.id())
			if err != nil {
				return nil, err
			}
			out := make([]Endpoint, len(all))
			for i, e := range all {
				out[i] = wireEndpoint(e)
			}
			return &entries[Endpoint]{out}, nil
		})

	register(a, op("get-endpoint", http.MethodGet, pathEndpoint, "Get an endpoint with the history of its switches", authz.EndpointRead),
		func(ctx context.Context, in *EndpointPath) (*Endpoint, error) {
			e, err := a.Deploy.Endpoint(ctx, caller(ctx).Org, in.id(), in.Endpoint)
			if err != nil {
				return nil, err
			}
			history, err := a.Deploy.Switches(ctx, e)
			if err != nil {
				return nil, err
			}
			out := wireEndpoint(e)
			for _, c := range history {
				out.History = append(out.History, Switch{From: orNull(string(c.From)), To: string(c.To), By: string(c.By), At: micro(c.At)})
			}
			return &out, nil
		})

	type patchInput struct {
		EndpointPath
		Body *endpointBody
	}
	register(a, op("update-endpoint", http.MethodPatch, pathEndpoint,
		"Switch an endpoint to another service of its deployment, at once when that answers, else when it is READY; share its requests; change its limits", authz.EndpointUpdate),
		func(ctx context.Context, in *patchInput) (*EndpointUpdated, error) {
			b, id := value(in.Body), caller(ctx)
			switch limits := b.limits(); {
			case b.Split != nil:
			case b.ServiceID == nil && limits != deploy.Limits{}:
				return endpointUpdated(a.Deploy.LimitEndpoint(ctx, id.Org, in.id(), in.Endpoint, limits))
			default:
				return endpointUpdated(a.Deploy.SwitchEndpoint(ctx, id.Org, id.User, in.id(), in.Endpoint, plat.ServiceID(value(b.ServiceID)), limits))
			}
			if b.ServiceID != nil {
				return nil, plat.InvalidField("split", "can't be given together with service_id")
			}
			parts := make([]deploy.Part, len(b.Split))
			for i, p := range b.Split {
				parts[i] = deploy.Part{Service: plat.ServiceID(p.ServiceID), Weight: p.Weight}
			}
			return endpointUpdated(a.Deploy.SplitEndpoint(ctx, id.Org, id.User, in.id(), in.Endpoint, parts, b.limits()))
		})

	a.addEndpointHistory(op)

	register(a, op("delete-endpoint", http.MethodDelete, pathEndpoint, "Delete an endpoint", authz.EndpointDelete),
		func(ctx context.Context, in *EndpointPath) (*Message, error) {
			e, err := a.Deploy.DeleteEndpoint(ctx, caller(ctx).Org, caller(ctx).User, in.id(), in.Endpoint)
			return &Message{string(e.ID) + " deleted"}, err
		})
}

// addEndpointHistory adds what an endpoint pointed to, and the way back.
func (a *API) addEndpointHistory(op func(id, method, path, summary string, row authz.Op) operation) {
	type historyInput struct {
		EndpointPath
		At        string `query:"at" doc:"only the change that was in force then, e.g. 2026-01-02T15:04:05Z"`
		Limit     string `query:"limit" doc:"1 to 1000, default 100"`
		PageToken string `query:"next_page_token" doc:"of the page before"`
	}
	register(a, op("get-endpoint-history", http.MethodGet, pathEndpoint+"/history",
		"List the changes of an endpoint, newest first, also of one that was deleted; or tell what it pointed to at a moment", authz.EndpointRead),
		func(ctx context.Context, in *historyInput) (*EndpointHistory, error) {
			org := caller(ctx).Org
			if in.At != "" {
				at, err := plat.ParseTime(in.At)
				if err != nil {
					return nil, plat.InvalidField("at", "%q is not a time; write it like 2026-01-02T15:04:05Z", in.At)
				}
				c, err := a.Deploy.ChangeAt(ctx, org, in.id(), in.Endpoint, at)
				return &EndpointHistory{Entries: []EndpointChange{wireChange(c)}}, err
			}
			limit, err := a.pageSize("limit", in.Limit, 100)
			if err != nil {
				return nil, err
			}
			var before int64
			if in.PageToken != "" {
				if before, err = strconv.ParseInt(in.PageToken, 10, 64); err != nil || before < 1 {
					return nil, plat.InvalidField("next_page_token", "is not a token of this list; begin again without it")
				}
			}
			all, err := a.Deploy.Changes(ctx, org, in.id(), in.Endpoint, before, limit+1)
			if err != nil {
				return nil, err
			}
			out := &EndpointHistory{Entries: []EndpointChange{}}
			for i, c := range all {
				if i == limit {
					next := strconv.FormatInt(all[i-1].Number, 10)
					out.NextPageToken = &next
					break
				}
				out.Entries = append(out.Entries, wireChange(c))
			}
			return out, nil
		})

	type rollbackInput struct {
		EndpointPath
		Body *struct {
			Number *int64 `json:"number" doc:"of a change in the history; default: what was before the last one"`
		}
	}
	register(a, op("rollback-endpoint", http.MethodPost, pathEndpoint+"/rollback",
		"Point an endpoint to what it pointed to before its last change, or after the one named; its services must be READY", authz.EndpointUpdate),
		func(ctx context.Context, in *rollbackInput) (*EndpointUpdated, error) {
			id := caller(ctx)
			number := int64(0)
			if n := value(in.Body).Number; n != nil {
				if number = *n; number < 1 {
					return nil, plat.InvalidField("number", "must be 1 or more: the number of a change in the endpoint's history")
				}
			}
			return endpointUpdated(a.Deploy.RollBackEndpoint(ctx, id.Org, id.User, in.id(), in.Endpoint, number))
		})
}
