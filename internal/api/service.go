// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"
	"time"

	"panal/internal/api/compat"
	"panal/internal/authz"
	"panal/internal/deploy"
	"panal/internal/plat"
)

// Service is the wire's service (compute.md §6).
type Service struct {
	ServiceID          string           `json:"service_id" example:"ser-7be2d1904c3f4a58"`
	DeploymentID       string           `json:"deployment_id"`
	ModelVersion       string           `json:"model_version" doc:"label of the code version"`
	ModelVersionID     string           `json:"model_version_id" doc:"id of the code version"`
	Models             compat.StringMap `json:"models" doc:"alias to training model id"`
	Status             string           `json:"status" doc:"IN_PROGRESS, READY, FAILED or STOPPED"`
	StatusMessage      *string          `json:"status_message" doc:"why it is not READY: the traceback, for one that does not start"`
	InstanceType       string           `json:"instance_type" example:"cpu-0.25"`
	InstanceNumber     int              `json:"instance_number"`
	MinInstanceNumber  int              `json:"min_instance_number"`
	MaxInstanceNumber  int              `json:"max_instance_number"`
	EnableAutoscale    bool             `json:"enable_autoscale"`
	TargetConcurrency  *float64         `json:"target_concurrency" doc:"requests at a time per instance that the scaler aims at; null: 0.7 of its workers"`
	IdleTimeout        *float64         `json:"idle_timeout" doc:"seconds without a request after which it sleeps, with min_instance_number 0; null: the installation's"`
	DesiredNumber      int              `json:"desired_instance_number" doc:"instances that are meant to be up; 0: asleep, the next request wakes it"`
	ScaleMessage       *string          `json:"scale_message" doc:"why so many"`
	RateLimit          *float64         `json:"rate_limit" doc:"calls a second that it takes; what is over it is 429; null: no limit"`
	ConcurrencyLimit   *int             `json:"concurrency_limit" doc:"calls that may be under way, those that wait for an instance included; null: no limit"`
	RecordChannelID    *string          `json:"record_channel_id"`
	RecordOutputs      bool             `json:"record_outputs" doc:"whether the channel gets the answers too"`
	UserEnvVars        compat.StringMap `json:"user_env_vars"`
	MergedEnvVars      compat.StringMap `json:"merged_env_vars"`
	MetricsURL         *string          `json:"metrics_url"`
	ServiceProcessType string           `json:"service_process_type"`
	Disruptable        bool             `json:"disruptable"`
	Creator            *User            `json:"creator"`
	CreatedAt          string           `json:"created_at"`
	ModifiedAt         string           `json:"modified_at"`
}

// ServicePath is the path parameters of everything below a service.
type ServicePath struct {
	DeploymentPath
	Service string `path:"service_id"`
}

func (p ServicePath) service() plat.ServiceID { return plat.ServiceID(p.Service) }

const (
	pathServices = pathDeployment + "/services"
	pathService  = pathServices + "/{service_id}"
)

func wireService(s deploy.Service, u *users) (Service, error) {
	creator, err := u.get(s.Creator)
	models := make(compat.StringMap, len(s.Models))
	for alias, id := range s.Models {
		models[alias] = string(id)
	}
	target, idle := s.Target, s.IdleTimeout.Seconds()
	desired := s.Goal()
	if s.Status == deploy.Stopped {
		desired = 0
	}
	return Service{
		ServiceID: string(s.ID), DeploymentID: string(s.Deployment), ModelVersion: s.VersionLabel, ModelVersionID: string(s.Version),
		Models: models, Status: string(s.Status), StatusMessage: orNull(s.StatusMessage), InstanceType: s.InstanceType,
		InstanceNumber: s.Number, MinInstanceNumber: s.Min, MaxInstanceNumber: s.Max, EnableAutoscale: s.Autoscale,
		TargetConcurrency: numberOrNull(target), IdleTimeout: numberOrNull(idle), DesiredNumber: desired, ScaleMessage: orNull(s.ScaleMessage),
		RateLimit: numberOrNull(s.RateLimit), ConcurrencyLimit: numberOrNull(s.CallLimit), RecordChannelID: orNull(string(s.RecordChannel)), RecordOutputs: s.RecordOutputs, UserEnvVars: s.Environment, MergedEnvVars: s.Merged,
		ServiceProcessType: "multi", Disruptable: true, Creator: creator, CreatedAt: micro(s.CreatedAt), ModifiedAt: micro(s.ModifiedAt),
	}, err
}

// numberOrNull is null for 0.
func numberOrNull[T int | float64](v T) *T {
	if v == 0 {
		return nil
	}
	return &v
}

// serviceBody is what creates and changes a service; nil is absent.
type serviceBody struct {
	VersionID         *string                `json:"version_id" doc:"required to create, ignored later"`
	Models            compat.StringMap       `json:"models" doc:"alias to training model id; at most one"`
	Environment       compat.StringMap       `json:"environment"`
	InstanceType      *string                `json:"instance_type" doc:"default cpu-0.25"`
	InstanceNumber    *int                   `json:"instance_number" doc:"1 to 300, default 1"`
	MinInstanceNumber *int                   `json:"min_instance_number" doc:"0 to 300, default instance_number; 0: it sleeps without requests"`
	MaxInstanceNumber *int                   `json:"max_instance_number" doc:"default 2 x instance_number"`
	EnableAutoscale   *compat.Bool           `json:"enable_autoscale" doc:"default true; false: always instance_number"`
	TargetConcurrency compat.Number[float64] `json:"target_concurrency" doc:"requests at a time per instance, 0.01 to 10000; 0 or null, the default: 0.7 of its workers"`
	IdleTimeout       compat.Number[float64] `json:"idle_timeout" doc:"seconds without a request before it sleeps, 1 to 2592000; 0 or null, the default: the installation's"`
	RateLimit         compat.Number[float64] `json:"rate_limit" doc:"calls a second, 0.001 to 1000000; 0 or null, the default: no limit"`
	ConcurrencyLimit  compat.Number[int]     `json:"concurrency_limit" doc:"calls under way, 1 to 1000000; 0 or null, the default: no limit"`
	RecordChannelID   *string                `json:"record_channel_id" doc:"channel that gets a copy of each input; PANAL_RECORD_PERCENT in the environment takes a sample"`
	RecordOutputs     *compat.Bool           `json:"record_outputs" doc:"true: the channel gets a copy of each recorded input's answer too; default false"`
}

func (b serviceBody) spec() deploy.ServiceSpec {
	s := deploy.ServiceSpec{
		Environment: b.Environment, InstanceType: b.InstanceType, Number: b.InstanceNumber, Min: b.MinInstanceNumber,
		Max: b.MaxInstanceNumber, Autoscale: (*bool)(b.EnableAutoscale), RecordChannel: (*plat.ChannelID)(b.RecordChannelID),
		RecordOutputs: (*bool)(b.RecordOutputs), Target: b.TargetConcurrency.Value, RateLimit: b.RateLimit.Value, CallLimit: b.ConcurrencyLimit.Value,
	}
	if v := b.IdleTimeout.Value; v != nil {
		idle := seconds(*v)
		s.IdleTimeout = &idle
	}
	if b.Models != nil {
		s.Models = make(map[string]plat.ModelID, len(b.Models))
		for alias, id := range b.Models {
			s.Models[alias] = plat.ModelID(id)
		}
	}
	return s
}

// seconds reads a number of seconds; what a Duration can't hold is out of every bound.
func seconds(v float64) time.Duration {
	return time.Duration(min(max(v, -1), 1e9) * float64(time.Second))
}

// Instance is an instance of a service, an extension.
type Instance struct {
	InstanceID string  `json:"instance_id" example:"wl-0f3a9c51d2e84b76"`
	State      string  `json:"state" doc:"starting, ready, unhealthy, draining or stopping"`
	Generation int64   `json:"generation" doc:"counts the changes of the service that need new instances"`
	Current    bool    `json:"current" doc:"of the generation that the service is meant to be"`
	CreatedAt  string  `json:"created_at"`
	ReadyAt    *string `json:"ready_at"`
}

func wireInstance(i deploy.Seen) Instance {
	return Instance{
		InstanceID: string(i.Workload), State: string(i.Health), Generation: i.Generation, Current: i.Current,
		CreatedAt: micro(i.CreatedAt), ReadyAt: timeOrNull(i.ReadyAt),
	}
}

func (a *API) addServices() {
	op := func(id, method, path, summary string, row authz.Op) operation {
		return operation{ID: id, Method: method, Path: path, Summary: summary, Tag: "service", Family: familyCompute, Op: row}
	}
	type createInput struct {
		DeploymentPath
		Body *serviceBody
	}
	register(a, op("create-service", http.MethodPost, pathServices, "Create a service; it starts at once", authz.ServiceCreate),
		func(ctx context.Context, in *createInput) (*Service, error) {
			b, id := value(in.Body), caller(ctx)
			s, err := a.Deploy.CreateService(ctx, id.Org, id.User, in.id(), plat.VersionID(value(b.VersionID)), b.spec())
			touched(ctx, "service_id", string(s.ID))
			if err != nil {
				return nil, err
			}
			out, err := wireService(s, a.users(ctx))
			return &out, err
		})

	register(a, op("list-services", http.MethodGet, pathServices, "List a deployment's services", authz.ServiceRead),
		func(ctx context.Context, in *DeploymentPath) (*entries[Service], error) {
			all, err := a.Deploy.Services(ctx, caller(ctx).Org, in.id())
			if err != nil {
				return nil, err
			}
			u := a.users(ctx)
			out, err := wireAll(all, func(s deploy.Service) (Service, error) { return wireService(s, u) })
			return &entries[Service]{out}, err
		})

	register(a, op("get-service", http.MethodGet, pathService, "Get a service", authz.ServiceRead),
		func(ctx context.Context, in *ServicePath) (*Service, error) {
			s, err := a.Deploy.Service(ctx, caller(ctx).Org, in.id(), in.service())
			if err != nil {
				return nil, err
			}
			out, err := wireService(s, a.users(ctx))
			return &out, err
		})

	register(a, op("list-service-instances", http.MethodGet, pathService+"/instances", "List a service's instances and their health", authz.ServiceRead),
		func(ctx context.Context, in *ServicePath) (*entries[Instance], error) {
			all, err := a.Deploy.Instances(ctx, caller(ctx).Org, in.id(), in.service())
			if err != nil {
				return nil, err
			}
			out := &entries[Instance]{Entries: make([]Instance, 0, len(all))}
			for _, i := range all {
				out.Entries = append(out.Entries, wireInstance(i))
			}
			return out, nil
		})

	type patchInput struct {
		ServicePath
		Body *serviceBody
	}
	register(a, op("update-service", http.MethodPatch, pathService,
		"Change a service: its instances are replaced while capacity is kept; one that is STOPPED stays so", authz.ServiceUpdate),
		func(ctx context.Context, in *patchInput) (*Service, error) {
			s, err := a.Deploy.PatchService(ctx, caller(ctx).Org, in.id(), in.service(), value(in.Body).spec())
			if err != nil {
				return nil, err
			}
			out, err := wireService(s, a.users(ctx))
			return &out, err
		})

	register(a, op("delete-service", http.MethodDelete, pathService, "Delete a service that no endpoint points to", authz.ServiceDelete),
		func(ctx context.Context, in *ServicePath) (*Message, error) {
			return &Message{in.Service + " deleted"}, a.Deploy.DeleteService(ctx, caller(ctx).Org, in.id(), in.service())
		})

	register(a, op("stop-service", http.MethodPost, pathService+"/stop", "Stop a service once its requests are answered", authz.ServiceUpdate),
		func(ctx context.Context, in *ServicePath) (*Message, error) {
			return &Message{in.Service + " stopped"}, a.Deploy.StopService(ctx, caller(ctx).Org, in.id(), in.service())
		})

	register(a, op("start-service", http.MethodPost, pathService+"/start", "Start a stopped or failed service", authz.ServiceUpdate),
		func(ctx context.Context, in *ServicePath) (*Message, error) {
			return &Message{in.Service + " started"}, a.Deploy.StartService(ctx, caller(ctx).Org, in.id(), in.service())
		})
}
