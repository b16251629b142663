// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"context"
	"time"

	"panal/internal/plat"
)

// Topics of the events that the store writes with its changes. The subject is the
// id; what is "created", "changed", "deleted", a service's new status, or
// "switched".
const (
	TopicDeployment = "deployment"
	TopicVersion    = "version"
	TopicService    = "service"
	TopicEndpoint   = "endpoint"
)

// Store keeps everything of this package. Implemented by sqlstore; the suite is
// deploytest. All methods are safe for concurrent use. Lookups of what does not
// exist are ErrNotFound. Lists are oldest first. Maps are never shared with the
// caller.
//
// An Update method changes one record atomically: change gets the record as it
// is and edits it; an error of change stores nothing and is returned. Ids,
// owners, creation times and creators never change. change may be called again
// when another writer was faster; it must only edit.
type Store interface {
	DeploymentStore
	VersionStore
	ServiceStore
	InstanceStore
	EndpointStore
	RouteStore
	AsyncStore
}

// DeploymentStore keeps deployments.
type DeploymentStore interface {
	CreateDeployment(ctx context.Context, d Deployment) error
	Deployment(ctx context.Context, org plat.OrgID, id plat.DeploymentID) (Deployment, error)
	Deployments(ctx context.Context, org plat.OrgID) ([]Deployment, error)
	UpdateDeployment(ctx context.Context, org plat.OrgID, id plat.DeploymentID, change func(*Deployment) error) (Deployment, error)
	// DeleteDeployment deletes the deployment with its versions and returns those.
	// ErrConflict, naming them, while it has services.
	DeleteDeployment(ctx context.Context, org plat.OrgID, id plat.DeploymentID) ([]Version, error)
}

// VersionStore keeps code versions.
type VersionStore interface {
	// CreateVersion stores v; ErrExists when the deployment has that label,
	// ErrNotFound when the deployment is gone.
	CreateVersion(ctx context.Context, v Version) error
	Version(ctx context.Context, dep plat.DeploymentID, id plat.VersionID) (Version, error)
	Versions(ctx context.Context, dep plat.DeploymentID) ([]Version, error)
	// DeleteVersion deletes a version. ErrConflict, naming them, while services
	// run it.
	DeleteVersion(ctx context.Context, dep plat.DeploymentID, id plat.VersionID) error
}

// ServiceStore keeps services.
type ServiceStore interface {
	// CreateService stores s; ErrNotFound when its version is gone.
	CreateService(ctx context.Context, s Service) error
	// Service returns one service of any deployment.
	Service(ctx context.Context, id plat.ServiceID) (Service, error)
	// Services returns a deployment's services, or all there are for "".
	Services(ctx context.Context, dep plat.DeploymentID) ([]Service, error)
	// ServiceCounts returns how many services of all deployments are in each
	// status; one that none is in may be missing.
	ServiceCounts(ctx context.Context) (map[Status]int, error)
	// OrgServices returns an organization's newest services, at most limit.
	OrgServices(ctx context.Context, org plat.OrgID, limit int) ([]Service, error)
	// CommandServices returns up to limit services of any organization whose
	// version names a command.
	CommandServices(ctx context.Context, limit int) ([]plat.ServiceID, error)
	// CountServices returns how many services an organization has.
	CountServices(ctx context.Context, org plat.OrgID) (int64, error)
	// UpdateService changes a service. A change of the status that the state
	// machine does not have is ErrConflict. Endpoints that wait for the service
	// are settled (Endpoint.Settle) in the same transaction.
	UpdateService(ctx context.Context, id plat.ServiceID, change func(*Service) error) (Service, error)
	// DeleteService deletes the service; its instances stay, for control to end.
	// ErrConflict, naming them, while endpoints point to it or wait for it.
	DeleteService(ctx context.Context, id plat.ServiceID) error
	// ServicesOfModel returns the services that use a model.
	ServicesOfModel(ctx context.Context, org plat.OrgID, model plat.ModelID) ([]plat.ServiceID, error)
}

// InstanceStore keeps instances.
type InstanceStore interface {
	// CreateInstance stores i; ErrExists when the workload is known.
	CreateInstance(ctx context.Context, i Instance) error
	// Instance returns one instance.
	Instance(ctx context.Context, id plat.WorkloadID) (Instance, error)
	// CountInstances returns how many instances an organization has.
	CountInstances(ctx context.Context, org plat.OrgID) (int64, error)
	// Instances returns the instances of a service.
	Instances(ctx context.Context, service plat.ServiceID) ([]Instance, error)
	// UpdateInstance stores the instance's state and first ready time.
	UpdateInstance(ctx context.Context, i Instance) error
	// DeleteInstance forgets an instance; an unknown one is not an error.
	DeleteInstance(ctx context.Context, id plat.WorkloadID) error
}

// RouteStore reads what routes are made of: less of each record, of many at a time.
type RouteStore interface {
	// Routed reads one deployment, without its instances. One that is unknown has no
	// services.
	Routed(ctx context.Context, dep plat.DeploymentID) (Routed, error)
	// RoutedPage reads the deployments with ids above after, in the order of ids, until
	// they have about so many services. It returns the last id that it covers: a
	// deployment up to there that is not in the page has neither services nor instances.
	// An empty one says that there are no more.
	RoutedPage(ctx context.Context, after plat.DeploymentID, services int) ([]Routed, plat.DeploymentID, error)
}

// EndpointStore keeps endpoints and the history of their changes.
type EndpointStore interface {
	// CreateEndpoint stores e with its first history line, unless check refuses
	// its service as it is in the transaction. ErrExists when the deployment has
	// that alias; ErrNotFound when the service is not of the deployment.
	CreateEndpoint(ctx context.Context, e Endpoint, by plat.UserID, check func(Service) error) error
	// Endpoint returns the deployment's endpoint with that id or alias.
	Endpoint(ctx context.Context, dep plat.DeploymentID, idOrAlias string) (Endpoint, error)
	// Endpoints returns a deployment's endpoints, or all there are for "".
	Endpoints(ctx context.Context, dep plat.DeploymentID) ([]Endpoint, error)
	// UpdateEndpoint changes an endpoint with a view to the services that it shall
	// point to: change gets all of them as they are in the transaction, in the order
	// of targets, and the service that answers now. A history line that change
	// returns is stored with it. ErrNotFound, naming it, when a target is not of the
	// deployment.
	UpdateEndpoint(ctx context.Context, dep plat.DeploymentID, idOrAlias string, targets []plat.ServiceID,
		change func(e *Endpoint, current Service, targets []Service) (*Change, error)) (Endpoint, error)
	// DeleteEndpoint deletes an endpoint, with a last history line, and returns it.
	DeleteEndpoint(ctx context.Context, dep plat.DeploymentID, idOrAlias string, by plat.UserID, at time.Time) (Endpoint, error)
	// Changes returns the history of an alias, newest first, at most limit lines,
	// with numbers below before (0: from the newest). It is found by the id of any
	// endpoint that had the alias, too, and lasts as long as the deployment: what is
	// on record of an alias outlives its endpoint. The store keeps the newest
	// MaxChanges lines of an alias. Nothing on record is an empty list.
	Changes(ctx context.Context, dep plat.DeploymentID, idOrAlias string, before int64, limit int) ([]Change, error)
	// ChangeAt returns the newest line of that history as of a moment.
	ChangeAt(ctx context.Context, dep plat.DeploymentID, idOrAlias string, at time.Time) (Change, error)
}
