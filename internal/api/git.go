// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"

	"panal/internal/gitsource"
	"panal/internal/plat"
	"panal/internal/train"
)

// GitSource is what a body says of a repository.
type GitSource struct {
	GitURL    string  `json:"git_url" example:"https://git.example.com/team/project.git" doc:"https only; credentials as https://USER:TOKEN@HOST/… are used for this fetch and not kept"`
	GitBranch *string `json:"git_branch" doc:"branch, default master (and without that the repository's HEAD); extension: a tag, or the id of a commit"`
}

// fetching returns how to fetch a repository, and what drops the files afterwards.
func (a *API) fetching(b GitSource) (fetch train.Fetch, done func()) {
	var src *gitsource.Source
	fetch = func(ctx context.Context) (plat.Git, train.Upload, error) {
		var err error
		if src, err = a.Git.Fetch(ctx, b.GitURL, value(b.GitBranch)); err != nil {
			return plat.Git{}, nil, err
		}
		return src.Git, src, nil
	}
	return fetch, func() {
		if src != nil {
			_ = src.Close() // the directory is emptied at the next start, too
		}
	}
}
