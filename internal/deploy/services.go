// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"panal/internal/plat"
	"panal/internal/train"
)

// ServiceSpec is what a caller gives to make or change a service; nil means the
// default on creation, and what is there already on a change.
type ServiceSpec struct {
	Models        map[string]plat.ModelID
	Environment   map[string]string
	InstanceType  *string
	Number        *int
	Min           *int
	Max           *int
	Autoscale     *bool
	Target        *float64
	IdleTimeout   *time.Duration
	RateLimit     *float64
	CallLimit     *int
	RecordChannel *plat.ChannelID
	RecordOutputs *bool
}

// CreateService makes a service of a code version whose source is there. It
// starts at once.
func (m *Manager) CreateService(ctx context.Context, org plat.OrgID, by plat.UserID, dep plat.DeploymentID, version plat.VersionID, in ServiceSpec) (Service, error) {
	d, err := m.Store.Deployment(ctx, org, dep)
	if err != nil {
		return Service{}, err
	}
	if version == "" {
		return Service{}, plat.InvalidField("version_id", "is required: the ver-… id of a code version")
	}
	v, err := m.Store.Version(ctx, dep, version)
	switch {
	case errors.Is(err, plat.ErrNotFound):
		return Service{}, plat.InvalidField("version_id", "version %.60s was not found in this deployment", version)
	case err != nil:
		return Service{}, err
	}
	switch err := m.CheckSource(ctx, v); {
	case errors.Is(err, plat.ErrNotFound):
		return Service{}, plat.InvalidField("version_id", "the source of version %s (%s) was not uploaded yet; PUT it to the upload_url first", v.ID, v.Label)
	case err != nil:
		return Service{}, err
	}
	if len(v.Command) > 0 && m.Commands != nil {
		if err := m.Commands(ctx); err != nil {
			return Service{}, err
		}
	}
	now := m.Now()
	s := Service{
		ID: plat.ServiceID(plat.NewHexID("ser")), Org: org, Deployment: dep, Version: v.ID, VersionLabel: v.Label, Command: len(v.Command) > 0,
		Status: InProgress, StatusMessage: "waiting for its instances to start",
		InstanceType: DefaultInstanceType, Autoscale: true, Creator: by, CreatedAt: now, ModifiedAt: now, Generation: 1,
	}
	number := DefaultNumber
	if in.Number == nil {
		in.Number = &number
	}
	in.apply(&s, d.Environment, v.Environment)
	if err := m.checkService(ctx, s); err != nil {
		return Service{}, err
	}
	switch err := m.Store.CreateService(ctx, s); {
	case errors.Is(err, plat.ErrNotFound): // deleted since
		return Service{}, plat.InvalidField("version_id", "version %s was deleted meanwhile", version)
	case err != nil:
		return Service{}, fmt.Errorf("create service: %w", err)
	}
	m.publish(ctx, dep)
	return s, nil
}

// apply lays the given values over the service.
func (in ServiceSpec) apply(s *Service, deployment, version map[string]string) {
	if in.Models != nil {
		s.Models = maps.Clone(in.Models)
	}
	if in.Environment != nil {
		s.Environment = maps.Clone(in.Environment)
	}
	s.Merged = MergeEnvironment(deployment, version, s.Environment)
	if in.InstanceType != nil && *in.InstanceType != "" {
		s.InstanceType = *in.InstanceType
	}
	if in.Number != nil { // a new number brings new defaults for its bounds
		s.Number, s.Min, s.Max, s.Desired = *in.Number, *in.Number, 2**in.Number, *in.Number
	}
	if in.Min != nil {
		s.Min = *in.Min
	}
	if in.Max != nil {
		s.Max = *in.Max
	}
	if in.Autoscale != nil {
		if *in.Autoscale && !s.Autoscale {
			s.Desired = s.Number // begin with what there is
		}
		s.Autoscale = *in.Autoscale
	}
	if in.Target != nil {
		s.Target = *in.Target
	}
	if in.IdleTimeout != nil {
		s.IdleTimeout = *in.IdleTimeout
	}
	if in.RateLimit != nil {
		s.RateLimit = *in.RateLimit
	}
	if in.CallLimit != nil {
		s.CallLimit = *in.CallLimit
	}
	if in.RecordChannel != nil {
		s.RecordChannel = *in.RecordChannel
		s.RecordOutputs = s.RecordOutputs && s.RecordChannel != ""
	}
	if in.RecordOutputs != nil {
		s.RecordOutputs = *in.RecordOutputs
	}
}

func (m *Manager) checkService(ctx context.Context, s Service) error {
	if err := checkCounts(s); err != nil {
		return err
	}
	if _, err := plat.ParseInstanceType(s.InstanceType); err != nil {
		return err
	}
	if err := train.CheckEnvironment("environment", s.Environment); err != nil {
		return err
	}
	if err := train.CheckEnvironment("environment", s.Merged); err != nil {
		return err // each part was within bounds, the whole is not
	}
	if err := m.checkRecord(ctx, s); err != nil {
		return err
	}
	if len(s.Models) > 1 {
		return plat.InvalidField("models", "names %d models; a service takes one", len(s.Models))
	}
	for alias, id := range s.Models {
		if !modelAlias.MatchString(alias) {
			return plat.InvalidField("models", "%.60q is not an alias (letters, digits, _ and -, not beginning with a digit or -)", alias)
		}
		switch _, err := m.Models.ModelRef(ctx, s.Org, id); {
		case errors.Is(err, plat.ErrNotFound):
			return plat.InvalidField("models", "%s: this organization has no model %.60s", alias, id)
		case err != nil:
			return fmt.Errorf("find model %s: %w", id, err)
		}
	}
	return nil
}

// Service returns one service.
func (m *Manager) Service(ctx context.Context, org plat.OrgID, dep plat.DeploymentID, id plat.ServiceID) (Service, error) {
	if _, err := m.Store.Deployment(ctx, org, dep); err != nil {
		return Service{}, err
	}
	s, err := m.Store.Service(ctx, id)
	if err == nil && s.Deployment != dep {
		err = plat.NotFound("service", id)
	}
	if err != nil {
		return Service{}, err
	}
	return s, nil
}

// Services returns a deployment's services, oldest first.
func (m *Manager) Services(ctx context.Context, org plat.OrgID, dep plat.DeploymentID) ([]Service, error) {
	if _, err := m.Store.Deployment(ctx, org, dep); err != nil {
		return nil, err
	}
	return m.Store.Services(ctx, dep)
}

// End is how an instance ended that was not meant to.
type End struct {
	Workload plat.WorkloadID
	At       time.Time
	Lived    time.Duration // since it was made
	// ExitCode is its agent's (137: killed); -1 for one that was ended because it did not
	// get ready, or did not answer its health check.
	ExitCode int
	// Reason says why, with the last lines of its log after a newline.
	Reason string
}

// Ends returns how instances of a service ended lately that were not meant to, newest
// first: what is known of it since the server was started.
func (m *Manager) Ends(id plat.ServiceID) []End {
	if m.Config.Ends == nil {
		return nil
	}
	return m.Config.Ends(id)
}

// Health is what an instance is seen to do.
type Health string

// What an instance does.
const (
	Starting  Health = "starting"
	Taking    Health = "ready"
	Unhealthy Health = "unhealthy"
	Draining  Health = "draining" // it finishes what it has
	Stopping  Health = "stopping"
)

// Seen is an instance as it is now.
type Seen struct {
	Instance
	Health  Health
	Current bool // of the service's generation
}

// Instances returns a service's instances, oldest first.
func (m *Manager) Instances(ctx context.Context, org plat.OrgID, dep plat.DeploymentID, id plat.ServiceID) ([]Seen, error) {
	s, err := m.Service(ctx, org, dep, id)
	if err != nil {
		return nil, err
	}
	list, err := m.Store.Instances(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read instances: %w", err)
	}
	out := make([]Seen, 0, len(list))
	for _, i := range list {
		v := Seen{Instance: i, Current: i.Generation == s.Generation}
		switch {
		case i.State == InstanceDraining:
			v.Health = Draining
		case i.State == InstanceStopping:
			v.Health = Stopping
		case i.ReadyAt.IsZero():
			v.Health = Starting
		case m.Taking != nil && !m.Taking(i.Workload):
			v.Health = Unhealthy
		default:
			v.Health = Taking
		}
		out = append(out, v)
	}
	return out, nil
}

// PatchService changes a service. What its instances are made of (models,
// environment, instance type) makes a new generation, which replaces the old one
// while capacity is kept. A FAILED service tries again; a STOPPED one stays so.
func (m *Manager) PatchService(ctx context.Context, org plat.OrgID, dep plat.DeploymentID, id plat.ServiceID, in ServiceSpec) (Service, error) {
	d, err := m.Store.Deployment(ctx, org, dep)
	if err != nil {
		return Service{}, err
	}
	s, err := m.Service(ctx, org, dep, id)
	if err != nil {
		return Service{}, err
	}
	v, err := m.Store.Version(ctx, dep, s.Version)
	if err != nil {
		return Service{}, err
	}
	// Models are looked up outside the transaction, on the result as it stands now.
	next := s
	in.apply(&next, d.Environment, v.Environment)
	if err := m.checkService(ctx, next); err != nil {
		return Service{}, err
	}
	s, err = m.Store.UpdateService(ctx, id, func(s *Service) error {
		before := *s
		in.apply(s, d.Environment, v.Environment)
		if err := checkCounts(*s); err != nil { // another patch was faster
			return err
		}
		if !s.Asleep() && (before.Number != s.Number || before.Min != s.Min || before.Max != s.Max || before.Autoscale != s.Autoscale) {
			s.ScaleMessage = "" // the scaler's reason was for other bounds
		}
		made := before.InstanceType != s.InstanceType || !maps.Equal(before.Models, s.Models) || !maps.Equal(before.Merged, s.Merged)
		if made || s.Status == Failed {
			s.renew()
		}
		if s.Status == Failed {
			s.ReadyGeneration = 0 // what it answered with may be gone
		}
		if s.Status != Stopped {
			s.Status, s.StatusMessage = InProgress, "waiting for its instances to follow the change"
		}
		s.ModifiedAt = m.Now()
		return nil
	})
	if err != nil {
		return Service{}, err
	}
	m.publish(ctx, dep)
	return s, nil
}

// renew begins a new generation with a clean slate.
func (s *Service) renew() {
	s.Generation++
	s.Failures, s.LastFailure, s.RetryAt = 0, time.Time{}, time.Time{}
}

// StartService starts a STOPPED or FAILED service; ErrConflict otherwise.
func (m *Manager) StartService(ctx context.Context, org plat.OrgID, dep plat.DeploymentID, id plat.ServiceID) error {
	return m.turn(ctx, org, dep, id, func(s *Service) error {
		if s.Status != Stopped && s.Status != Failed {
			return plat.Errorf(plat.ErrConflict, "service %s runs already (%s)", s.ID, s.Status)
		}
		s.renew()
		s.ReadyGeneration = 0
		s.Desired, s.ScaleMessage = s.Number, ""
		s.Status, s.StatusMessage = InProgress, "waiting for its instances to start"
		return nil
	})
}

// StopService stops a service: it takes no new requests, those it has are
// finished, then its instances end. ErrConflict when it is STOPPED.
func (m *Manager) StopService(ctx context.Context, org plat.OrgID, dep plat.DeploymentID, id plat.ServiceID) error {
	return m.turn(ctx, org, dep, id, func(s *Service) error {
		if s.Status == Stopped {
			return plat.Errorf(plat.ErrConflict, "service %s does not run (it is %s)", s.ID, s.Status)
		}
		s.Status, s.StatusMessage = Stopped, ""
		return nil
	})
}

func (m *Manager) turn(ctx context.Context, org plat.OrgID, dep plat.DeploymentID, id plat.ServiceID, change func(*Service) error) error {
	if _, err := m.Service(ctx, org, dep, id); err != nil {
		return err
	}
	if _, err := m.Store.UpdateService(ctx, id, func(s *Service) error {
		s.ModifiedAt = m.Now()
		return change(s)
	}); err != nil {
		return err
	}
	m.publish(ctx, dep)
	return nil
}

// MaxOrgServices is how many services OrgServices returns.
const MaxOrgServices = 1000

// OrgServices returns an organization's newest services.
func (m *Manager) OrgServices(ctx context.Context, org plat.OrgID) ([]Service, error) {
	return m.Store.OrgServices(ctx, org, MaxOrgServices)
}

// DeleteService deletes a service that no endpoint points to. Its instances end
// as on stop.
func (m *Manager) DeleteService(ctx context.Context, org plat.OrgID, dep plat.DeploymentID, id plat.ServiceID) error {
	if _, err := m.Service(ctx, org, dep, id); err != nil {
		return err
	}
	if err := m.Store.DeleteService(ctx, id); err != nil {
		return err
	}
	m.publish(ctx, dep)
	return nil
}

// ServicesOfModel returns the services that use a model, so that it is not
// deleted under them.
func (m *Manager) ServicesOfModel(ctx context.Context, org plat.OrgID, model plat.ModelID) ([]plat.ServiceID, error) {
	ids, err := m.Store.ServicesOfModel(ctx, org, model)
	slices.Sort(ids)
	return ids, err
}
