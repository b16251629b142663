// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"time"

	"panal/internal/blob"
	"panal/internal/plat"
	"panal/internal/train"
)

// Models tells of training models. Implemented over package train.
type Models interface {
	// ModelRef returns an organization's model; ErrNotFound when it has none such.
	ModelRef(ctx context.Context, org plat.OrgID, id plat.ModelID) (ModelRef, error)
}

// Publisher makes records count for requests.
type Publisher interface {
	// Publish routes a deployment as its records say. When it returns nil, every
	// request that is accepted from now on follows them; a deployment without
	// records is routed no more.
	Publish(ctx context.Context, dep plat.DeploymentID) error
}

// Config is what a Manager stands on.
type Config struct {
	Store     Store
	Blobs     *blob.Store
	Models    Models
	Publisher Publisher
	// RecordChannel returns ErrNotFound unless the organization has a channel that
	// can take the inputs of a service. nil: none can be recorded.
	RecordChannel func(ctx context.Context, org plat.OrgID, id plat.ChannelID) error
	// RecordResult makes the result of an asynchronous call a file of its record's channel; ErrNotFound,
	// ErrForbidden or ErrInvalid when that will never be possible.
	RecordResult func(ctx context.Context, c AsyncCall, body io.Reader) error
	// Commands returns why services can't run commands here, if they can't: their
	// port is open to every workload of the machine. nil: they always can.
	Commands func(ctx context.Context) error
	// Taking tells whether an instance takes requests right now; nil: whether it ever did.
	Taking func(w plat.WorkloadID) bool
	// Ends returns how instances of a service ended lately that were not meant to, newest
	// first; nil: that is not known.
	Ends func(id plat.ServiceID) []End
	Now  plat.Clock
	Log  *slog.Logger
}

// Manager is the rules around deployments, versions, services and endpoints. The
// edge has authorised its callers. It is safe for concurrent use.
type Manager struct {
	Config
}

// NewManager returns a Manager.
func NewManager(c Config) *Manager {
	if c.Now == nil {
		c.Now = plat.SystemClock
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Manager{Config: c}
}

// NewDeployment is what a caller gives to make a deployment.
type NewDeployment struct {
	Name        string
	Description string
	Environment map[string]string
}

// CreateDeployment makes a deployment.
func (m *Manager) CreateDeployment(ctx context.Context, org plat.OrgID, by plat.UserID, in NewDeployment) (Deployment, error) {
	now := m.Now()
	d := Deployment{
		ID: plat.DeploymentID(plat.NewDecimalID()), Org: org, Name: in.Name, Description: in.Description,
		Environment: maps.Clone(in.Environment), Creator: by, CreatedAt: now, ModifiedAt: now,
	}
	if err := checkDeployment(d); err != nil {
		return Deployment{}, err
	}
	if err := m.Store.CreateDeployment(ctx, d); err != nil {
		return Deployment{}, fmt.Errorf("create deployment: %w", err)
	}
	return d, nil
}

func checkDeployment(d Deployment) error {
	if err := checkName(d.Name); err != nil {
		return err
	}
	if err := checkText("description", d.Description, maxDescription); err != nil {
		return err
	}
	return train.CheckEnvironment("default_environment", d.Environment)
}

// Deployment returns one deployment.
func (m *Manager) Deployment(ctx context.Context, org plat.OrgID, id plat.DeploymentID) (Deployment, error) {
	return m.Store.Deployment(ctx, org, id)
}

// Deployments returns the organization's deployments, oldest first.
func (m *Manager) Deployments(ctx context.Context, org plat.OrgID) ([]Deployment, error) {
	return m.Store.Deployments(ctx, org)
}

// DeploymentPatch holds what changes; nil stays.
type DeploymentPatch struct {
	Name        *string
	Description *string
	Environment map[string]string // nil stays
}

// PatchDeployment changes a deployment. Services that exist keep the environment
// that they were made with.
func (m *Manager) PatchDeployment(ctx context.Context, org plat.OrgID, id plat.DeploymentID, p DeploymentPatch) (Deployment, error) {
	return m.Store.UpdateDeployment(ctx, org, id, func(d *Deployment) error {
		if p.Name != nil {
			d.Name = *p.Name
		}
		if p.Description != nil {
			d.Description = *p.Description
		}
		if p.Environment != nil {
			d.Environment = maps.Clone(p.Environment)
		}
		d.ModifiedAt = m.Now()
		return checkDeployment(*d)
	})
}

// DeleteDeployment deletes a deployment without services, its versions with it.
func (m *Manager) DeleteDeployment(ctx context.Context, org plat.OrgID, id plat.DeploymentID) error {
	versions, err := m.Store.DeleteDeployment(ctx, org, id)
	if err != nil {
		return err
	}
	for _, v := range versions {
		m.dropSource(ctx, v)
	}
	return nil
}

// NewVersion is what a caller gives to make a code version.
type NewVersion struct {
	Label       string
	Handler     string
	Image       string
	Environment map[string]string
	Command     []string // instead of Handler
	HealthPath  string   // of Command; "" means DefaultHealthPath
}

// CreateVersion makes a code version. Its source is to be stored under SourceKey.
func (m *Manager) CreateVersion(ctx context.Context, org plat.OrgID, by plat.UserID, dep plat.DeploymentID, in NewVersion) (Version, error) {
	v, err := m.newVersion(ctx, org, by, dep, in)
	if err != nil {
		return Version{}, err
	}
	return v, m.storeVersion(ctx, v)
}

// CreateVersionFrom makes a code version of what fetch brings, which is asked once
// all else is known to be right. The source is stored before the version is.
func (m *Manager) CreateVersionFrom(ctx context.Context, org plat.OrgID, by plat.UserID, dep plat.DeploymentID, in NewVersion, fetch train.Fetch) (Version, error) {
	v, err := m.newVersion(ctx, org, by, dep, in)
	if err != nil {
		return Version{}, err
	}
	all, err := m.Store.Versions(ctx, dep)
	if err != nil {
		return Version{}, err
	}
	if slices.ContainsFunc(all, func(o Version) bool { return o.Label == v.Label }) {
		return Version{}, labelTaken(v.Label, plat.ErrExists)
	}
	git, src, err := fetch(ctx)
	if err != nil {
		return Version{}, err
	}
	v.Git = git
	if _, err := m.Blobs.Put(ctx, v.SourceKey(), io.NewSectionReader(src, 0, src.Size()), src.Size(), blob.PutOptions{ContentType: "application/gzip"}); err != nil {
		return Version{}, fmt.Errorf("store source of %s: %w", v.ID, err)
	}
	err = m.storeVersion(ctx, v)
	if errors.Is(err, plat.ErrExists) || errors.Is(err, plat.ErrNotFound) { // there is no record; after other errors there may be
		m.dropSource(ctx, v)
	}
	return v, err
}

// newVersion checks what a caller says of a version.
func (m *Manager) newVersion(ctx context.Context, org plat.OrgID, by plat.UserID, dep plat.DeploymentID, in NewVersion) (Version, error) {
	if _, err := m.Store.Deployment(ctx, org, dep); err != nil {
		return Version{}, err
	}
	if err := in.checkCommand(); err != nil {
		return Version{}, err
	}
	if in.Handler == "" {
		in.Handler = DefaultHandler
	}
	for _, err := range []error{
		checkLabel(in.Label), train.CheckImage(in.Image, org), train.CheckHandler(in.Handler, in.Image),
		train.CheckEnvironment("user_parameters", in.Environment),
	} {
		if err != nil {
			return Version{}, err
		}
	}
	now := m.Now()
	return Version{
		ID: plat.VersionID(plat.NewHexID("ver")), Org: org, Deployment: dep, Label: in.Label, Handler: in.Handler,
		Image: in.Image, Environment: maps.Clone(in.Environment), Command: slices.Clone(in.Command), HealthPath: in.HealthPath, Creator: by, CreatedAt: now, ModifiedAt: now,
	}, nil
}

func (m *Manager) storeVersion(ctx context.Context, v Version) error {
	switch err := m.Store.CreateVersion(ctx, v); {
	case errors.Is(err, plat.ErrExists):
		return labelTaken(v.Label, err)
	case err != nil:
		return fmt.Errorf("create version: %w", err)
	}
	return nil
}

func labelTaken(label string, err error) error {
	return &plat.Error{
		Kind: plat.ErrExists, Public: fmt.Sprintf("the deployment has a version %q already; choose another label", label),
		Detail: map[string][]string{"version": {"exists already"}}, Err: err,
	}
}

// Version returns one code version.
func (m *Manager) Version(ctx context.Context, org plat.OrgID, dep plat.DeploymentID, id plat.VersionID) (Version, error) {
	if _, err := m.Store.Deployment(ctx, org, dep); err != nil {
		return Version{}, err
	}
	return m.Store.Version(ctx, dep, id)
}

// Versions returns a deployment's code versions, oldest first.
func (m *Manager) Versions(ctx context.Context, org plat.OrgID, dep plat.DeploymentID) ([]Version, error) {
	if _, err := m.Store.Deployment(ctx, org, dep); err != nil {
		return nil, err
	}
	return m.Store.Versions(ctx, dep)
}

// DeleteVersion deletes a code version that no service runs, and its source.
func (m *Manager) DeleteVersion(ctx context.Context, org plat.OrgID, dep plat.DeploymentID, id plat.VersionID) error {
	v, err := m.Version(ctx, org, dep, id)
	if err != nil {
		return err
	}
	if err := m.Store.DeleteVersion(ctx, dep, id); err != nil {
		return err
	}
	m.dropSource(ctx, v)
	return nil
}

// CheckSource returns ErrNotFound unless the version's source was uploaded.
func (m *Manager) CheckSource(ctx context.Context, v Version) error {
	switch info, err := m.Blobs.Stat(ctx, v.SourceKey()); {
	case errors.Is(err, plat.ErrNotFound):
		return plat.Errorf(plat.ErrNotFound, "the source of version %s (%s) was not uploaded yet; PUT it to the upload_url", v.ID, v.Label)
	case err != nil:
		return fmt.Errorf("find source of %s: %w", v.ID, err)
	case info.Size > MaxSourceBytes: // storage's own upload URL can't bind a length
		return plat.Errorf(plat.ErrInvalid, "the source of version %s (%s) has %d bytes; at most %d are allowed", v.ID, v.Label, info.Size, int64(MaxSourceBytes))
	}
	return nil
}

// dropSource deletes the source of a version that is gone. Without its record an
// object is garbage, so a failure is only logged.
func (m *Manager) dropSource(ctx context.Context, v Version) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := m.Blobs.Delete(ctx, v.SourceKey()); err != nil {
		m.Log.LogAttrs(ctx, slog.LevelWarn, "source of a deleted version stays behind",
			slog.String(plat.LogKey, v.SourceKey()), slog.String(plat.LogError, err.Error()))
	}
}

// publish routes the deployment. The records are committed: whatever fails here
// is mended by the next publication, so a create or delete has happened all the
// same and the caller is told so.
func (m *Manager) publish(ctx context.Context, dep plat.DeploymentID) {
	if err := m.Publisher.Publish(ctx, dep); err != nil {
		m.Log.LogAttrs(ctx, slog.LevelError, "routes are behind the records",
			slog.String("deployment_id", string(dep)), slog.String(plat.LogError, err.Error()))
	}
}
