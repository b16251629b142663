// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"

	"panal/internal/authz"
	"panal/internal/deploy"
	"panal/internal/plat"
)

// Endpoint is the wire's endpoint (compute.md §7).
type Endpoint struct {
	EndpointID       string   `json:"endpoint_id" example:"pnt-5d0e77a1b9c24f63"`
	CustomAlias      string   `json:"custom_alias" example:"default"`
	ServiceID        string   `json:"service_id" doc:"the service that answers"`
	PendingServiceID *string  `json:"pending_service_id" doc:"the service that answers once it is READY"`
	StatusMessage    *string  `json:"status_message" doc:"what became of the last switch"`
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

// EndpointUpdated is the answer to a switch.
type EndpointUpdated struct {
	Message          string  `json:"message" example:"pnt-5d0e77a1b9c24f63 updated"`
	ServiceID        string  `json:"service_id"`
	PendingServiceID *string `json:"pending_service_id"`
	StatusMessage    *string `json:"status_message"`
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
		StatusMessage: orNull(e.StatusMessage), CreatedAt: micro(e.CreatedAt), ModifiedAt: micro(e.ModifiedAt),
	}
}

// endpointBody is what creates and switches an endpoint.
type endpointBody struct {
	ServiceID   *string `json:"service_id"`
	CustomAlias *string `json:"custom_alias" doc:"default \"default\"; it can't be changed"`
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
			e, err := a.Deploy.CreateEndpoint(ctx, id.Org, id.User, in.id(), value(b.CustomAlias), plat.ServiceID(value(b.ServiceID)))
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
			for _, sw := range history {
				out.History = append(out.History, Switch{From: orNull(string(sw.From)), To: string(sw.To), By: string(sw.By), At: micro(sw.At)})
			}
			return &out, nil
		})

	type patchInput struct {
		EndpointPath
		Body *endpointBody
	}
	register(a, op("update-endpoint", http.MethodPatch, pathEndpoint,
		"Switch an endpoint to another service of its deployment: at once when that answers, else when it is READY", authz.EndpointUpdate),
		func(ctx context.Context, in *patchInput) (*EndpointUpdated, error) {
			b, id := value(in.Body), caller(ctx)
			e, err := a.Deploy.SwitchEndpoint(ctx, id.Org, id.User, in.id(), in.Endpoint, plat.ServiceID(value(b.ServiceID)))
			return &EndpointUpdated{
				Message: string(e.ID) + " updated", ServiceID: string(e.Service),
				PendingServiceID: orNull(string(e.Pending)), StatusMessage: orNull(e.StatusMessage),
			}, err
		})

	register(a, op("delete-endpoint", http.MethodDelete, pathEndpoint, "Delete an endpoint", authz.EndpointDelete),
		func(ctx context.Context, in *EndpointPath) (*Message, error) {
			e, err := a.Deploy.DeleteEndpoint(ctx, caller(ctx).Org, in.id(), in.Endpoint)
			return &Message{string(e.ID) + " deleted"}, err
		})
}
