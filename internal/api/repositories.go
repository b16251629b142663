// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"

	"panal/internal/authz"
	"panal/internal/plat"
	"panal/internal/registry"
)

// Repository is the wire's image repository (data.md §21). A list shows no tags.
type Repository struct {
	ID             string           `json:"id"`
	OrganizationID string           `json:"organization_id"`
	Name           string           `json:"name"`
	Description    *string          `json:"description"`
	Creator        *OrgUser         `json:"creator"`
	CreatedAt      string           `json:"created_at"`
	UpdatedAt      string           `json:"updated_at"`
	Tags           *[]RepositoryTag `json:"tags,omitempty"`
}

// RepositoryTag is the wire's tag. Its times have seconds, its repository's
// microseconds (data.md §4).
type RepositoryTag struct {
	ID        int64    `json:"id"`
	Name      string   `json:"name"`
	Digest    string   `json:"digest"`
	Size      int64    `json:"size"`
	MediaType string   `json:"media_type"`
	Creator   *OrgUser `json:"creator"`
	CreatedAt string   `json:"created_at"`
	UpdatedAt string   `json:"updated_at"`
}

// RepositoriesAnswer is a page of repositories in its envelope.
type RepositoriesAnswer struct {
	Envelope
	Repositories []Repository `json:"registry_repositories"`
	Offset       int          `json:"offset"`
	Limit        int          `json:"limit"`
	HasNext      bool         `json:"has_next"`
}

// TagsAnswer is a page of tags in its envelope.
type TagsAnswer struct {
	Envelope
	RepositoryID string          `json:"registry_repository_id"`
	Tags         []RepositoryTag `json:"tags"`
	Offset       int             `json:"offset"`
	Limit        int             `json:"limit"`
	HasNext      bool            `json:"has_next"`
}

func repositoryWire(u *users, r registry.Repository) (Repository, error) {
	creator, err := u.whole(r.Creator)
	return Repository{
		ID: string(r.ID), OrganizationID: string(r.Org), Name: r.Name, Description: r.Description, Creator: creator,
		CreatedAt: r.CreatedAt.Format(plat.TimeMicroZ), UpdatedAt: r.UpdatedAt.Format(plat.TimeMicroZ),
	}, err
}

func tagWire(u *users, t registry.Tag) (RepositoryTag, error) {
	creator, err := u.whole(t.Creator)
	return RepositoryTag{
		ID: t.ID, Name: t.Name, Digest: t.Digest, Size: t.Size, MediaType: t.MediaType, Creator: creator,
		CreatedAt: t.CreatedAt.Format(plat.TimeSecZ), UpdatedAt: t.UpdatedAt.Format(plat.TimeSecZ),
	}, err
}

func tagsWire(u *users, all []registry.Tag) ([]RepositoryTag, error) {
	out := make([]RepositoryTag, len(all))
	for i, t := range all {
		var err error
		if out[i], err = tagWire(u, t); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// repositoryAnswer is a repository with its tags.
func (a *API) repositoryAnswer(ctx context.Context, r registry.Repository, tags []registry.Tag, err error) (*Repository, error) {
	if err != nil {
		return nil, err
	}
	u := a.users(ctx)
	out, err := repositoryWire(u, r)
	if err != nil {
		return nil, err
	}
	wire, err := tagsWire(u, tags)
	out.Tags = &wire
	return &out, err
}

// RepositoryPath is the path parameters of everything below a repository.
type RepositoryPath struct {
	OrgPath
	Repository string `path:"repository_id"`
}

func (p RepositoryPath) id() plat.RepositoryID { return plat.RepositoryID(p.Repository) }

// RepositoryTagPath is the path parameters of one tag.
type RepositoryTagPath struct {
	RepositoryPath
	Tag string `path:"tag"`
}

// NewRepository is what a repository is made of.
type NewRepository struct {
	Name        string  `json:"name"`
	Description *string `json:"description" nullable:"true"`
}

// NewTag is the image that a tag names.
type NewTag struct {
	Digest    string `json:"digest" doc:"sha256:…"`
	Size      int64  `json:"size" doc:"bytes"`
	MediaType string `json:"media_type" doc:"default application/vnd.oci.image.manifest.v1+json"`
}

func (a *API) addRepositories() {
	const base = "/organizations/{organization_id}/registry/repositories"
	const one = base + "/{repository_id}"
	op := func(id, method, path, summary string, row authz.Op) operation {
		return operation{ID: id, Method: method, Path: path, Summary: summary, Tag: "registry", Family: familyLake, Op: row}
	}

	type createIn struct {
		OrgPath
		Body *NewRepository
	}
	register(a, op("create-repository", http.MethodPost, base, "Create an image repository", authz.RepositoryWrite), func(ctx context.Context, in *createIn) (*Repository, error) {
		if in.Body == nil {
			in.Body = &NewRepository{}
		}
		r, err := a.Registry.Create(ctx, caller(ctx).Org, caller(ctx).User, in.Body.Name, in.Body.Description)
		touched(ctx, "repository_id", string(r.ID))
		return a.repositoryAnswer(ctx, r, nil, err)
	})

	type PageIn struct {
		Offset string `query:"offset"`
		Limit  string `query:"limit" doc:"1 to 1000, default 10"`
	}
	paging := func(in PageIn) (offset, limit int, err error) {
		if offset, err = pageOffset(in.Offset); err == nil {
			limit, err = pageSize("limit", in.Limit, 10)
		}
		return offset, limit, err
	}
	type listIn struct {
		OrgPath
		PageIn
	}
	register(a, op("list-repositories", http.MethodGet, base, "List image repositories", authz.RepositoryRead), func(ctx context.Context, in *listIn) (*RepositoriesAnswer, error) {
		offset, limit, err := paging(in.PageIn)
		if err != nil {
			return nil, err
		}
		env, err := a.envelope(ctx)
		if err != nil {
			return nil, err
		}
		all, more, err := a.Registry.List(ctx, caller(ctx).Org, offset, limit)
		if err != nil {
			return nil, err
		}
		out := &RepositoriesAnswer{Envelope: env, Repositories: make([]Repository, len(all)), Offset: offset, Limit: limit, HasNext: more}
		u := a.users(ctx)
		for i, r := range all {
			if out.Repositories[i], err = repositoryWire(u, r); err != nil {
				return nil, err
			}
		}
		return out, nil
	})

	register(a, op("get-repository", http.MethodGet, one, "Get an image repository with its tags", authz.RepositoryRead), func(ctx context.Context, in *RepositoryPath) (*Repository, error) {
		r, tags, err := a.Registry.Get(ctx, caller(ctx).Org, in.id())
		return a.repositoryAnswer(ctx, r, tags, err)
	})
	register(a, op("delete-repository", http.MethodDelete, one, "Delete an image repository's record with its tags", authz.RepositoryWrite), func(ctx context.Context, in *RepositoryPath) (*Repository, error) {
		r, tags, err := a.Registry.Delete(ctx, caller(ctx).Org, in.id())
		return a.repositoryAnswer(ctx, r, tags, err)
	})

	type tagsIn struct {
		RepositoryPath
		PageIn
	}
	register(a, op("list-repository-tags", http.MethodGet, one+"/tags", "List the tags of an image repository", authz.RepositoryRead), func(ctx context.Context, in *tagsIn) (*TagsAnswer, error) {
		offset, limit, err := paging(in.PageIn)
		if err != nil {
			return nil, err
		}
		env, err := a.envelope(ctx)
		if err != nil {
			return nil, err
		}
		all, more, err := a.Registry.Tags(ctx, caller(ctx).Org, in.id(), offset, limit)
		if err != nil {
			return nil, err
		}
		tags, err := tagsWire(a.users(ctx), all)
		return &TagsAnswer{Envelope: env, RepositoryID: in.Repository, Tags: tags, Offset: offset, Limit: limit, HasNext: more}, err
	})

	type putIn struct {
		RepositoryTagPath
		Body *NewTag
	}
	tagAnswer := func(ctx context.Context, t registry.Tag, err error) (*RepositoryTag, error) {
		if err != nil {
			return nil, err
		}
		wire, err := tagWire(a.users(ctx), t)
		return &wire, err
	}
	register(a, op("put-repository-tag", http.MethodPut, one+"/tags/{tag}", "Record which image a tag names", authz.RepositoryWrite), func(ctx context.Context, in *putIn) (*RepositoryTag, error) {
		if in.Body == nil {
			in.Body = &NewTag{}
		}
		t, err := a.Registry.PutTag(ctx, caller(ctx).Org, caller(ctx).User, registry.Tag{
			Repository: in.id(), Name: in.Tag, Digest: in.Body.Digest, Size: in.Body.Size, MediaType: in.Body.MediaType,
		})
		return tagAnswer(ctx, t, err)
	})
	register(a, op("delete-repository-tag", http.MethodDelete, one+"/tags/{tag}", "Forget a tag", authz.RepositoryWrite), func(ctx context.Context, in *RepositoryTagPath) (*RepositoryTag, error) {
		t, err := a.Registry.DeleteTag(ctx, caller(ctx).Org, in.id(), in.Tag)
		return tagAnswer(ctx, t, err)
	})
}
