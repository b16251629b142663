// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"

	"panal/internal/api/compat"
	"panal/internal/authz"
	"panal/internal/deploy"
	"panal/internal/plat"
)

// Deployment is the wire's deployment (compute.md §5.1).
type Deployment struct {
	DeploymentID       string           `json:"deployment_id" example:"1740000000088"`
	Name               string           `json:"name" example:"leaf-api"`
	Description        string           `json:"description"`
	DefaultEnvironment compat.StringMap `json:"default_environment"`
	Creator            *User            `json:"creator"`
	Services           []Service        `json:"services"`
	Runs               []struct{}       `json:"runs"`
	Triggers           []struct{}       `json:"triggers"`
	Endpoints          []Endpoint       `json:"endpoints"`
	Codes              []struct{}       `json:"codes" doc:"legacy, empty"`
	Daemons            []struct{}       `json:"daemons" doc:"legacy, empty"`
	ModelID            *string          `json:"model_id" doc:"legacy, null"`
	CreatedAt          string           `json:"created_at"`
	ModifiedAt         string           `json:"modified_at"`
}

// entries is a whole list without paging (compute.md §1.6).
type entries[T any] struct {
	Entries []T `json:"entries"`
}

// DeploymentPath is the path parameter of everything below a deployment.
type DeploymentPath struct {
	OrgPath
	Deployment string `path:"deployment_id"`
}

func (p DeploymentPath) id() plat.DeploymentID { return plat.DeploymentID(p.Deployment) }

const (
	pathDeployments = "/organizations/{organization_id}/deployments"
	pathDeployment  = pathDeployments + "/{deployment_id}"
	tagDeployment   = "deployment"
)

// wireDeployment fills in the deployment's children.
func (a *API) wireDeployment(ctx context.Context, d deploy.Deployment, u *users) (Deployment, error) {
	creator, err := u.get(d.Creator)
	if err != nil {
		return Deployment{}, err
	}
	services, err := a.Deploy.Services(ctx, d.Org, d.ID)
	if err != nil {
		return Deployment{}, err
	}
	endpoints, err := a.Deploy.Endpoints(ctx, d.Org, d.ID)
	if err != nil {
		return Deployment{}, err
	}
	out := Deployment{
		DeploymentID: string(d.ID), Name: d.Name, Description: d.Description, DefaultEnvironment: d.Environment, Creator: creator,
		Runs: []struct{}{}, Triggers: []struct{}{}, Codes: []struct{}{}, Daemons: []struct{}{},
		CreatedAt: micro(d.CreatedAt), ModifiedAt: micro(d.ModifiedAt),
	}
	if out.Services, err = wireAll(services, func(s deploy.Service) (Service, error) { return wireService(s, u) }); err != nil {
		return Deployment{}, err
	}
	out.Endpoints, err = wireAll(endpoints, func(e deploy.Endpoint) (Endpoint, error) { return wireEndpoint(e), nil })
	return out, err
}

// wireAll maps a list to its wire form; never null.
func wireAll[In, Out any](in []In, wire func(In) (Out, error)) ([]Out, error) {
	out := make([]Out, 0, len(in))
	for _, v := range in {
		w, err := wire(v)
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, nil
}

// deploymentBody is what creates and changes a deployment; nil is absent.
type deploymentBody struct {
	Name               *string          `json:"name" example:"leaf-api"`
	Description        *string          `json:"description"`
	DefaultEnvironment compat.StringMap `json:"default_environment"`
}

func (a *API) addDeployments() {
	op := func(id, method, path, summary string, row authz.Op) operation {
		return operation{ID: id, Method: method, Path: path, Summary: summary, Tag: tagDeployment, Family: familyCompute, Op: row}
	}
	type createInput struct {
		OrgPath
		Body *deploymentBody
	}
	register(a, op("create-deployment", http.MethodPost, pathDeployments, "Create a deployment", authz.DeploymentCreate),
		func(ctx context.Context, in *createInput) (*Deployment, error) {
			b := value(in.Body)
			id := caller(ctx)
			d, err := a.Deploy.CreateDeployment(ctx, id.Org, id.User, deploy.NewDeployment{
				Name: value(b.Name), Description: value(b.Description), Environment: b.DefaultEnvironment,
			})
			touched(ctx, "deployment_id", string(d.ID))
			if err != nil {
				return nil, err
			}
			out, err := a.wireDeployment(ctx, d, a.users(ctx))
			return &out, err
		})

	register(a, op("list-deployments", http.MethodGet, pathDeployments, "List deployments", authz.DeploymentRead),
		func(ctx context.Context, _ *OrgPath) (*entries[Deployment], error) {
			all, err := a.Deploy.Deployments(ctx, caller(ctx).Org)
			if err != nil {
				return nil, err
			}
			u := a.users(ctx)
			out, err := wireAll(all, func(d deploy.Deployment) (Deployment, error) { return a.wireDeployment(ctx, d, u) })
			return &entries[Deployment]{out}, err
		})

	register(a, op("get-deployment", http.MethodGet, pathDeployment, "Get a deployment", authz.DeploymentRead),
		func(ctx context.Context, in *DeploymentPath) (*Deployment, error) {
			d, err := a.Deploy.Deployment(ctx, caller(ctx).Org, in.id())
			if err != nil {
				return nil, err
			}
			out, err := a.wireDeployment(ctx, d, a.users(ctx))
			return &out, err
		})

	type patchInput struct {
		DeploymentPath
		Body *deploymentBody
	}
	register(a, op("update-deployment", http.MethodPatch, pathDeployment, "Change a deployment; its services keep the environment they were made with", authz.DeploymentUpdate),
		func(ctx context.Context, in *patchInput) (*Deployment, error) {
			b := value(in.Body)
			d, err := a.Deploy.PatchDeployment(ctx, caller(ctx).Org, in.id(), deploy.DeploymentPatch{
				Name: b.Name, Description: b.Description, Environment: b.DefaultEnvironment,
			})
			if err != nil {
				return nil, err
			}
			out, err := a.wireDeployment(ctx, d, a.users(ctx))
			return &out, err
		})

	register(a, op("delete-deployment", http.MethodDelete, pathDeployment, "Delete a deployment without services, its code versions with it", authz.DeploymentDelete),
		func(ctx context.Context, in *DeploymentPath) (*Message, error) {
			return &Message{in.Deployment + " deleted"}, a.Deploy.DeleteDeployment(ctx, caller(ctx).Org, in.id())
		})
}
