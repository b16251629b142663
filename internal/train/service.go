// SPDX-License-Identifier: Apache-2.0

package train

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"panal/internal/blob"
	"panal/internal/plat"
	"panal/internal/x/archive"
)

// Limits of what is uploaded.
const (
	MaxSourceBytes = 1 << 30
	MaxModelBytes  = 16 << 30
)

// Options are what a Service stands on.
type Options struct {
	Store Store
	Blobs *blob.Store
	Now   plat.Clock
	// ModelUsers tells who uses any of the models, one sentence part each
	// ("service ser-…"), so that a definition isn't deleted from under them. nil:
	// nobody does.
	ModelUsers func(ctx context.Context, org plat.OrgID, models []plat.ModelID) ([]string, error)
	// HasOrg tells whether the records have an organization. Collect leaves alone what
	// belongs to another: then the records are lost, or not those of this storage. nil:
	// all are theirs.
	HasOrg func(ctx context.Context, org plat.OrgID) (bool, error)
}

// Service is the rules around training. It is safe for concurrent use.
type Service struct {
	store Store
	blobs *blob.Store
	now   plat.Clock
	users func(ctx context.Context, org plat.OrgID, models []plat.ModelID) ([]string, error)
	orgs  func(ctx context.Context, org plat.OrgID) (bool, error) // nil: all are there
}

// NewService returns a Service.
func NewService(o Options) *Service {
	return &Service{store: o.Store, blobs: o.Blobs, now: o.Now, users: o.ModelUsers, orgs: o.HasOrg}
}

// Upload is an archive that has arrived whole.
type Upload interface {
	io.ReaderAt
	Size() int64
}

// CreateDefinition makes a definition.
func (s *Service) CreateDefinition(ctx context.Context, org plat.OrgID, name string) (Definition, error) {
	if err := CheckName(name); err != nil {
		return Definition{}, err
	}
	now := s.now()
	d := Definition{ID: plat.JobDefinitionID(plat.NewDecimalID()), Org: org, Name: name, CreatedAt: now, ModifiedAt: now}
	err := s.store.CreateDefinition(ctx, d)
	if errors.Is(err, plat.ErrExists) {
		return Definition{}, &plat.Error{
			Kind: plat.ErrExists, Public: fmt.Sprintf("job definition %q exists already", name),
			Detail: map[string][]string{"name": {"exists already"}}, Err: err,
		}
	}
	if err != nil {
		return Definition{}, fmt.Errorf("create job definition %s: %w", name, err)
	}
	return d, nil
}

// Definition returns a definition by id or name.
func (s *Service) Definition(ctx context.Context, org plat.OrgID, idOrName string) (Definition, error) {
	return s.store.Definition(ctx, org, idOrName)
}

// Definitions returns a page of definitions and how many there are.
func (s *Service) Definitions(ctx context.Context, org plat.OrgID, p Page) ([]Definition, int, error) {
	return s.store.Definitions(ctx, org, p)
}

// ArchiveDefinition sets the archived flag.
func (s *Service) ArchiveDefinition(ctx context.Context, org plat.OrgID, idOrName string, archived bool) (Definition, error) {
	d, err := s.store.Definition(ctx, org, idOrName)
	if err != nil {
		return Definition{}, err
	}
	return d, s.store.ArchiveDefinition(ctx, d.ID, archived, s.now())
}

// DeleteDefinition deletes a definition with all that it holds. Its bytes follow
// in the background.
func (s *Service) DeleteDefinition(ctx context.Context, org plat.OrgID, idOrName string) (Definition, error) {
	d, err := s.store.Definition(ctx, org, idOrName)
	if err != nil {
		return Definition{}, err
	}
	if s.users != nil {
		models, _, err := s.store.Models(ctx, d.ID, Page{})
		if err != nil {
			return Definition{}, err
		}
		ids := make([]plat.ModelID, len(models))
		for i, m := range models {
			ids[i] = m.ID
		}
		users, err := s.users(ctx, org, ids)
		if err != nil {
			return Definition{}, fmt.Errorf("find users of the models of %s: %w", d.ID, err)
		}
		if len(users) > 0 {
			return Definition{}, plat.Errorf(plat.ErrConflict, "models of job definition %s are in use by %s; delete those first", d.Name, strings.Join(users, ", "))
		}
	}
	return d, s.store.DeleteDefinition(ctx, d.ID, definitionPrefix(d.Org, d.ID), s.now())
}

// VersionParams is what a caller says of a new version.
type VersionParams struct {
	Handler     string
	Image       string
	Environment map[string]string
	Datasets    map[string]plat.DatasetID
	Premounts   Premounts
	Description string
}

// CreateVersion checks and stores the source archive (zip or tar.gz) and makes a
// version of it.
func (s *Service) CreateVersion(ctx context.Context, org plat.OrgID, idOrName string, p VersionParams, src Upload) (Version, error) {
	d, err := s.versionOf(ctx, org, idOrName, p)
	if err != nil {
		return Version{}, err
	}
	return s.createVersion(ctx, d, p, plat.Git{}, src)
}

// Fetch brings the source of a version and says where it came from. Whoever gave
// it keeps the source.
type Fetch func(ctx context.Context) (plat.Git, Upload, error)

// CreateVersionFromGit makes a version of what fetch brings, which is asked once all
// else is known to be right.
func (s *Service) CreateVersionFromGit(ctx context.Context, org plat.OrgID, idOrName string, p VersionParams, fetch Fetch) (Version, error) {
	d, err := s.versionOf(ctx, org, idOrName, p)
	if err != nil {
		return Version{}, err
	}
	git, src, err := fetch(ctx)
	if err != nil {
		return Version{}, err
	}
	return s.createVersion(ctx, d, p, git, src)
}

// versionOf returns the definition that a version is for, and checks what is said
// of it.
func (s *Service) versionOf(ctx context.Context, org plat.OrgID, idOrName string, p VersionParams) (Definition, error) {
	d, err := s.store.Definition(ctx, org, idOrName)
	if err != nil {
		return Definition{}, err
	}
	for _, err := range []error{
		CheckImage(p.Image, org), CheckHandler(p.Handler, p.Image), CheckEnvironment("environment", p.Environment),
		CheckDatasets(p.Datasets), CheckDescription(p.Description), checkPremounts(p.Premounts),
	} {
		if err != nil {
			return Definition{}, err
		}
	}
	return d, nil
}

func (s *Service) createVersion(ctx context.Context, d Definition, p VersionParams, git plat.Git, src Upload) (Version, error) {
	kind, err := checkArchive("source_code", src, archive.Limits{RefuseEmpty: true, FileBytes: 4 << 30, TotalBytes: 8 << 30})
	if err != nil {
		return Version{}, err
	}
	n, err := s.store.NextVersion(ctx, d.ID)
	if err != nil {
		return Version{}, fmt.Errorf("number a version of %s: %w", d.ID, err)
	}
	now := s.now()
	v := Version{
		Org: d.Org, Definition: d.ID, Number: n, Handler: p.Handler, Image: p.Image, Environment: p.Environment,
		Datasets: p.Datasets, Premounts: p.Premounts, Description: p.Description,
		Source: sourceKey(d.Org, d.ID, n), SourceType: kind, Git: git, CreatedAt: now, ModifiedAt: now,
	}
	if err := s.put(ctx, v.Source, kind, src); err != nil {
		return Version{}, err
	}
	if err := s.store.CreateVersion(ctx, v); err != nil {
		return Version{}, errors.Join(fmt.Errorf("create version %d of %s: %w", n, d.ID, err), s.drop(ctx, v.Source, err))
	}
	return v, nil
}

// put stores an upload. The row that follows makes it visible.
func (s *Service) put(ctx context.Context, key, contentType string, src Upload) error {
	_, err := s.blobs.Put(ctx, key, io.NewSectionReader(src, 0, src.Size()), src.Size(), blob.PutOptions{ContentType: contentType})
	return err
}

// drop deletes an object whose row was refused. After an error of unknown outcome
// (a connection lost at commit) the row may be there, so the object stays.
func (s *Service) drop(ctx context.Context, key string, why error) error {
	switch {
	case errors.Is(why, plat.ErrNotFound), errors.Is(why, plat.ErrConflict), errors.Is(why, plat.ErrExists):
		return s.blobs.Delete(ctx, key)
	}
	return nil
}

// checkArchive reads the whole archive and returns its content type, sniffed: the
// type that clients send is often wrong (compute.md §2.4).
func checkArchive(field string, src Upload, lim archive.Limits) (contentType string, err error) {
	if src == nil || src.Size() == 0 {
		return "", plat.InvalidField(field, "is required: a zip or tar.gz archive")
	}
	head := make([]byte, 4)
	if n, err := src.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read %s: %w", field, err)
	} else {
		head = head[:n]
	}
	switch {
	case bytes.HasPrefix(head, []byte("PK")):
		contentType = "application/zip"
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		contentType = "application/gzip"
	default:
		return "", plat.InvalidField(field, "is neither a zip nor a tar.gz archive")
	}
	switch err := archive.Check(src, src.Size(), lim); {
	case errors.Is(err, archive.ErrRefused):
		return "", &plat.Error{Kind: plat.ErrInvalid, Public: field + ": " + err.Error(), Detail: map[string][]string{field: {err.Error()}}}
	case err != nil:
		return "", fmt.Errorf("check %s: %w", field, err)
	}
	return contentType, nil
}

// Version returns one version.
func (s *Service) Version(ctx context.Context, org plat.OrgID, idOrName string, n int) (Version, error) {
	d, err := s.store.Definition(ctx, org, idOrName)
	if err != nil {
		return Version{}, err
	}
	return s.store.Version(ctx, d.ID, n)
}

// Versions returns all versions of the definitions.
func (s *Service) Versions(ctx context.Context, excludeArchived bool, defs ...plat.JobDefinitionID) ([]Version, error) {
	return s.store.Versions(ctx, excludeArchived, defs...)
}

// Edit is a change of what can be edited; nil keeps.
type Edit struct {
	Description *string
	Archived    *bool
}

func (e Edit) apply(description *string, archived *bool) error {
	if e.Description != nil {
		if err := CheckDescription(*e.Description); err != nil {
			return err
		}
		*description = *e.Description
	}
	if e.Archived != nil {
		*archived = *e.Archived
	}
	return nil
}

// UpdateVersion edits a version.
func (s *Service) UpdateVersion(ctx context.Context, org plat.OrgID, idOrName string, n int, e Edit) (Version, error) {
	v, err := s.Version(ctx, org, idOrName, n)
	if err != nil {
		return Version{}, err
	}
	if err := e.apply(&v.Description, &v.Archived); err != nil {
		return Version{}, err
	}
	v.ModifiedAt = s.now()
	return v, s.store.UpdateVersion(ctx, v)
}

// DeleteVersion deletes a version that no job refers to.
func (s *Service) DeleteVersion(ctx context.Context, org plat.OrgID, idOrName string, n int) error {
	v, err := s.Version(ctx, org, idOrName, n)
	if err != nil {
		return err
	}
	return s.store.DeleteVersion(ctx, v.Definition, n, v.Source, s.now())
}
