// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strconv"
	"strings"

	"panal/internal/client"
	"panal/internal/plat"
)

type repositoryCmd struct {
	Create repositoryCreateCmd `cmd:"" help:"Create a repository."`
	List   repositoryListCmd   `cmd:"" help:"List repositories."`
	Get    repositoryGetCmd    `cmd:"" help:"Show a repository's tags."`
	Delete repositoryDeleteCmd `cmd:"" help:"Delete a repository's record with its tags; images stay where they are."`
	Tag    repositoryTagCmd    `cmd:"" help:"Record which image a tag names."`
	Untag  repositoryUntagCmd  `cmd:"" help:"Forget a tag."`
}

// repositoryArg is the argument of commands about a repository.
type repositoryArg struct {
	Repository string `arg:"" help:"Repository id or name."`
}

// id returns the repository's id.
func (a repositoryArg) id(e *env) (string, error) {
	if len(a.Repository) == 13 && strings.Trim(a.Repository, "0123456789") == "" {
		return a.Repository, nil
	}
	all, err := e.api.Repositories(e.ctx)
	if err != nil {
		return "", err
	}
	for _, r := range all {
		if r.Name == a.Repository {
			return r.ID, nil
		}
	}
	return "", plat.NotFound("repository", a.Repository)
}

func (e *env) printRepositories(v any, all ...client.Repository) error {
	rows := make([][]string, len(all))
	for i, r := range all {
		rows[i] = []string{r.ID, r.Name, r.UpdatedAt, orDash(r.Description)}
	}
	return e.print(v, []string{"REPOSITORY", "NAME", "UPDATED", "DESCRIPTION"}, rows)
}

func (e *env) printTags(v any, all ...client.RepositoryTag) error {
	rows := make([][]string, len(all))
	for i, t := range all {
		rows[i] = []string{t.Name, t.Digest, strconv.FormatInt(t.Size, 10), t.UpdatedAt}
	}
	return e.print(v, []string{"TAG", "DIGEST", "SIZE", "UPDATED"}, rows)
}

type repositoryCreateCmd struct {
	Name        string  `arg:"" help:"Name: a-z and 0-9, parts joined by . _ __ - or /."`
	Description *string `help:"Description."`
}

// Run creates a repository.
func (c *repositoryCreateCmd) Run(e *env) error {
	r, err := e.api.CreateRepository(e.ctx, c.Name, c.Description)
	if err != nil {
		return err
	}
	return e.printRepositories(r, r)
}

type repositoryListCmd struct{}

// Run lists repositories.
func (c *repositoryListCmd) Run(e *env) error {
	all, err := e.api.Repositories(e.ctx)
	if err != nil {
		return err
	}
	return e.printRepositories(all, all...)
}

type repositoryGetCmd struct{ repositoryArg }

// Run shows a repository.
func (c *repositoryGetCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	r, err := e.api.Repository(e.ctx, id)
	if err != nil {
		return err
	}
	return e.printTags(r, r.Tags...)
}

type repositoryDeleteCmd struct{ repositoryArg }

// Run deletes a repository's record.
func (c *repositoryDeleteCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	if err := e.api.DeleteRepository(e.ctx, id); err != nil {
		return err
	}
	e.say("repository %s deleted", id)
	return nil
}

type repositoryTagCmd struct {
	repositoryArg
	Tag    string `arg:"" help:"Tag, e.g. v1."`
	Digest string `arg:"" help:"Digest of the image's manifest: sha256:…"`
	Size   int64  `help:"Size of the image in bytes."`
}

// Run records a tag.
func (c *repositoryTagCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	t, err := e.api.PutRepositoryTag(e.ctx, id, client.RepositoryTag{Name: c.Tag, Digest: c.Digest, Size: c.Size})
	if err != nil {
		return err
	}
	return e.printTags(t, t)
}

type repositoryUntagCmd struct {
	repositoryArg
	Tag string `arg:"" help:"Tag."`
}

// Run forgets a tag.
func (c *repositoryUntagCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	if err := e.api.DeleteRepositoryTag(e.ctx, id, c.Tag); err != nil {
		return err
	}
	e.say("tag %s forgotten", c.Tag)
	return nil
}
