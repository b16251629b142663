// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// Repository is the record of an image repository.
type Repository struct {
	ID          string          `json:"id"`
	Name        string          `json:"name"`
	Description *string         `json:"description"`
	CreatedAt   string          `json:"created_at"`
	UpdatedAt   string          `json:"updated_at"`
	Tags        []RepositoryTag `json:"tags,omitempty"`
}

// RepositoryTag names an image.
type RepositoryTag struct {
	ID        int64  `json:"id"`
	Name      string `json:"name"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
	MediaType string `json:"media_type"`
	UpdatedAt string `json:"updated_at"`
}

func (c *Client) repositoryPath(segments ...string) string {
	return c.OrgPath(append([]string{"registry", "repositories"}, segments...)...)
}

// CreateRepository makes a repository.
func (c *Client) CreateRepository(ctx context.Context, name string, description *string) (Repository, error) {
	var out Repository
	err := c.JSON(ctx, http.MethodPost, c.repositoryPath(), nil, map[string]any{"name": name, "description": description}, &out)
	return out, err
}

// Repositories returns all repositories, in order of the name.
func (c *Client) Repositories(ctx context.Context) ([]Repository, error) {
	const limit = 1000
	all := []Repository{}
	for {
		var page struct {
			Repositories []Repository `json:"registry_repositories"`
			HasNext      bool         `json:"has_next"`
		}
		q := url.Values{"limit": {strconv.Itoa(limit)}, "offset": {strconv.Itoa(len(all))}}
		if err := c.JSON(ctx, http.MethodGet, c.repositoryPath(), q, nil, &page); err != nil {
			return nil, err
		}
		if all = append(all, page.Repositories...); !page.HasNext || len(page.Repositories) == 0 {
			return all, nil
		}
	}
}

// Repository returns a repository with its tags.
func (c *Client) Repository(ctx context.Context, id string) (Repository, error) {
	var out Repository
	err := c.JSON(ctx, http.MethodGet, c.repositoryPath(id), nil, nil, &out)
	return out, err
}

// DeleteRepository removes a repository's record.
func (c *Client) DeleteRepository(ctx context.Context, id string) error {
	return c.JSON(ctx, http.MethodDelete, c.repositoryPath(id), nil, nil, nil)
}

// PutRepositoryTag records which image a tag names.
func (c *Client) PutRepositoryTag(ctx context.Context, id string, t RepositoryTag) (RepositoryTag, error) {
	var out RepositoryTag
	err := c.JSON(ctx, http.MethodPut, c.repositoryPath(id, "tags", t.Name), nil, map[string]any{"digest": t.Digest, "size": t.Size, "media_type": t.MediaType}, &out)
	return out, err
}

// DeleteRepositoryTag forgets a tag.
func (c *Client) DeleteRepositoryTag(ctx context.Context, id, tag string) error {
	return c.JSON(ctx, http.MethodDelete, c.repositoryPath(id, "tags", tag), nil, nil, nil)
}
