// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"net/http"

	"panal/internal/api/compat"
	"panal/internal/authz"
	"panal/internal/deploy"
	"panal/internal/deploy/templates"
	"panal/internal/plat"
	"panal/internal/train"
)

// CodeVersion is the wire's code version (compute.md §5.2).
type CodeVersion struct {
	VersionID            string           `json:"version_id" example:"ver-0f3a9c51d2e84b76"`
	Version              string           `json:"version" example:"0.0.1"`
	DeploymentID         string           `json:"deployment_id"`
	Handler              string           `json:"handler" example:"main:handler"`
	Image                string           `json:"image" example:"abeja-inc/all-cpu:19.10"`
	UserParameters       compat.StringMap `json:"user_parameters"`
	Description          string           `json:"description"`
	Command              compat.Words     `json:"command" doc:"extension: the words of the program that listens on $PORT; null for a handler"`
	HealthPath           *string          `json:"health_path" doc:"extension: where the command is asked whether it works; null for a handler"`
	Creator              *User            `json:"creator"`
	JobDefinitionID      *string          `json:"job_definition_id" doc:"legacy, null"`
	JobDefinitionVersion *int             `json:"job_definition_version" doc:"legacy, null"`
	TrainingJobID        *string          `json:"training_job_id" doc:"legacy, null"`
	ModelID              *string          `json:"model_id" doc:"legacy, null"`
	CreatedAt            string           `json:"created_at"`
	ModifiedAt           string           `json:"modified_at"`
	GitURL               string           `json:"git_url,omitempty" doc:"extension: the repository, for a version from git"`
	GitBranch            string           `json:"git_branch,omitempty" doc:"extension: the branch, tag or commit that was asked for"`
	GitCommit            string           `json:"git_commit,omitempty" doc:"extension: the commit that it was"`
	UploadURL            string           `json:"upload_url,omitempty" doc:"only when it was just created: PUT the source (tar.gz or zip) there, without credentials"`
}

// CodePath is the path parameters of everything below a code version.
type CodePath struct {
	DeploymentPath
	Version string `path:"version_id"`
}

const (
	pathCodes = pathDeployment + "/versions"
	pathCode  = pathCodes + "/{version_id}"
	// pathTemplates is below the deployment, as the wire has it; the templates are the same for all.
	pathTemplates = pathDeployment + "/code_templates"
)

// sourceType is what a download of a source answers with: the archive may be a
// tar.gz or a zip, and whoever unpacks it looks at its bytes.
const sourceType = "application/octet-stream"

func wireCode(v deploy.Version, u *users) (CodeVersion, error) {
	creator, err := u.get(v.Creator)
	return CodeVersion{
		VersionID: string(v.ID), Version: v.Label, DeploymentID: string(v.Deployment), Handler: v.Handler, Image: v.Image,
		UserParameters: v.Environment, Description: v.Description, Command: v.Command, HealthPath: orNull(v.HealthPath), Creator: creator, CreatedAt: micro(v.CreatedAt), ModifiedAt: micro(v.ModifiedAt),
		GitURL: v.Git.URL, GitBranch: v.Git.Ref, GitCommit: v.Git.Commit,
	}, err
}

// NewCode is the body that creates a code version.
type NewCode struct {
	Version        string           `json:"version" example:"0.0.1"`
	Image          string           `json:"image" example:"abeja-inc/all-cpu:19.10"`
	Handler        *string          `json:"handler" doc:"default main:handler"`
	UserParameters compat.StringMap `json:"user_parameters"`
	Command        compat.Words     `json:"command" doc:"instead of a handler: a program that listens on $PORT of 127.0.0.1, as words, or as a line for the shell"`
	HealthPath     *string          `json:"health_path" doc:"path that answers 200 when the command works; default /"`
}

func (b NewCode) params() deploy.NewVersion {
	return deploy.NewVersion{
		Label: b.Version, Image: b.Image, Handler: value(b.Handler), Environment: b.UserParameters,
		Command: b.Command, HealthPath: value(b.HealthPath),
	}
}

// CodeTemplate is code that the platform brings along.
type CodeTemplate struct {
	TemplateID  int    `json:"template_id" example:"1"`
	Name        string `json:"name" example:"echo"`
	Description string `json:"description"`
	Handler     string `json:"handler" example:"main:handler"`
}

func (a *API) addCodes() {
	op := func(id, method, path, summary string, row authz.Op) operation {
		return operation{ID: id, Method: method, Path: path, Summary: summary, Tag: tagDeployment, Family: familyCompute, Op: row}
	}
	type createInput struct {
		DeploymentPath
		Body *NewCode
	}
	register(a, op("create-deployment-version", http.MethodPost, pathCodes, "Create a code version; its answer says where to upload the source", authz.CodeCreate),
		func(ctx context.Context, in *createInput) (*CodeVersion, error) {
			b := value(in.Body)
			id := caller(ctx)
			v, err := a.Deploy.CreateVersion(ctx, id.Org, id.User, in.id(), b.params())
			touched(ctx, "version_id", string(v.ID))
			if err != nil {
				return nil, err
			}
			out, err := wireCode(v, a.users(ctx))
			if err != nil {
				return nil, err
			}
			out.UploadURL, err = a.uploadURL(ctx, v.SourceKey(), deploy.MaxSourceBytes, false)
			return &out, err
		})

	// from creates a version whose source is already somewhere.
	from := func(ctx context.Context, dep plat.DeploymentID, b NewCode, fetch train.Fetch) (*CodeVersion, error) {
		id := caller(ctx)
		v, err := a.Deploy.CreateVersionFrom(ctx, id.Org, id.User, dep, b.params(), fetch)
		touched(ctx, "version_id", string(v.ID))
		if err != nil {
			return nil, err
		}
		out, err := wireCode(v, a.users(ctx))
		return &out, err
	}

	type newGitCode struct {
		GitSource
		NewCode
	}
	type gitInput struct {
		DeploymentPath
		Body *newGitCode
	}
	register(a, op("create-deployment-version-from-git", http.MethodPost, pathDeployment+"/git/versions", "Create a code version from a git repository", authz.CodeCreate),
		func(ctx context.Context, in *gitInput) (*CodeVersion, error) {
			b := value(in.Body)
			fetch, done := a.fetching(b.GitSource)
			defer done()
			return from(ctx, in.id(), b.NewCode, fetch)
		})

	type newTemplateCode struct {
		TemplateID int `json:"template_id" example:"1" doc:"of GET …/code_templates"`
		NewCode
	}
	type templateInput struct {
		DeploymentPath
		Body *newTemplateCode
	}
	register(a, op("create-deployment-version-from-template", http.MethodPost, pathTemplates, "Create a code version from a template", authz.CodeCreate),
		func(ctx context.Context, in *templateInput) (*CodeVersion, error) {
			b := value(in.Body)
			t, err := templates.Find(b.TemplateID)
			if err != nil {
				return nil, err
			}
			return from(ctx, in.id(), b.NewCode, func(context.Context) (plat.Git, train.Upload, error) {
				src, err := t.Source()
				return plat.Git{}, bytes.NewReader(src), err
			})
		})

	register(a, op("list-code-templates", http.MethodGet, pathTemplates, "List the templates of code versions (extension)", authz.CodeRead),
		func(ctx context.Context, in *DeploymentPath) (*entries[CodeTemplate], error) {
			if _, err := a.Deploy.Deployment(ctx, caller(ctx).Org, in.id()); err != nil {
				return nil, err
			}
			out := &entries[CodeTemplate]{}
			for _, t := range templates.All() {
				out.Entries = append(out.Entries, CodeTemplate{TemplateID: t.ID, Name: t.Name, Description: t.Description, Handler: deploy.DefaultHandler})
			}
			return out, nil
		})

	register(a, op("list-deployment-versions", http.MethodGet, pathCodes, "List a deployment's code versions", authz.CodeRead),
		func(ctx context.Context, in *DeploymentPath) (*entries[CodeVersion], error) {
			all, err := a.Deploy.Versions(ctx, caller(ctx).Org, in.id())
			if err != nil {
				return nil, err
			}
			u := a.users(ctx)
			out, err := wireAll(all, func(v deploy.Version) (CodeVersion, error) { return wireCode(v, u) })
			return &entries[CodeVersion]{out}, err
		})

	register(a, op("get-deployment-version", http.MethodGet, pathCode, "Get a code version", authz.CodeRead),
		func(ctx context.Context, in *CodePath) (*CodeVersion, error) {
			v, err := a.Deploy.Version(ctx, caller(ctx).Org, in.id(), plat.VersionID(in.Version))
			if err != nil {
				return nil, err
			}
			out, err := wireCode(v, a.users(ctx))
			return &out, err
		})

	register(a, op("delete-deployment-version", http.MethodDelete, pathCode, "Delete a code version that no service uses", authz.CodeDelete),
		func(ctx context.Context, in *CodePath) (*Message, error) {
			return &Message{in.Version + " deleted"}, a.Deploy.DeleteVersion(ctx, caller(ctx).Org, in.id(), plat.VersionID(in.Version))
		})

	register(a, op("get-deployment-version-source", http.MethodGet, pathCode+"/download", "Get a URL of a code version's source", authz.CodeDownload),
		func(ctx context.Context, in *CodePath) (*DownloadURI, error) {
			v, err := a.Deploy.Version(ctx, caller(ctx).Org, in.id(), plat.VersionID(in.Version))
			if err != nil {
				return nil, err
			}
			if err := a.Deploy.CheckSource(ctx, v); err != nil {
				return nil, err
			}
			u, err := a.downloadURL(ctx, v.SourceKey(), sourceType)
			return &DownloadURI{u}, err
		})
}
