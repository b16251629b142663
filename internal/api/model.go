// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"panal/internal/api/compat"
	"panal/internal/authn"
	"panal/internal/authz"
	"panal/internal/plat"
	"panal/internal/train"
)

// Model is the wire's training model (compute.md §2.10).
type Model struct {
	TrainingModelID string                `json:"training_model_id" example:"1720000000055"`
	ID              string                `json:"id" doc:"mirror of training_model_id"`
	JobDefinitionID string                `json:"job_definition_id"`
	TrainingJobID   *string               `json:"training_job_id" doc:"null for an uploaded model"`
	UserParameters  compat.StringMap      `json:"user_parameters" doc:"mirror of environment"`
	Environment     compat.StringMap      `json:"environment"`
	Metrics         map[string]compat.Any `json:"metrics" doc:"numbers, or NaN, Infinity, -Infinity as strings"`
	Description     *string               `json:"description"`
	ExecEnv         string                `json:"exec_env"`
	Archived        bool                  `json:"archived"`
	User            *User                 `json:"user"`
	CreatedAt       string                `json:"created_at"`
	ModifiedAt      string                `json:"modified_at"`
}

// ModelPath is the path parameters of everything below a model.
type ModelPath struct {
	DefinitionPath
	Model string `path:"model_id"`
}

const (
	pathModels = pathDefinition + "/models"
	pathModel  = pathModels + "/{model_id}"
)

func (a *API) wireModels(ctx context.Context, models ...train.Model) ([]Model, error) {
	who := a.users(ctx)
	out := make([]Model, len(models))
	for i, m := range models {
		user, err := who.get(m.User)
		if err != nil {
			return nil, err
		}
		out[i] = Model{
			TrainingModelID: string(m.ID), ID: string(m.ID), JobDefinitionID: string(m.Definition), TrainingJobID: orNull(string(m.Job)),
			UserParameters: m.Environment, Environment: m.Environment, Metrics: make(map[string]compat.Any, len(m.Metrics)),
			Description: orNull(m.Description), ExecEnv: string(m.ExecEnv), Archived: m.Archived, User: user,
			CreatedAt: micro(m.CreatedAt), ModifiedAt: micro(m.ModifiedAt),
		}
		for k, v := range m.Metrics {
			out[i].Metrics[k] = compat.Any(v)
		}
	}
	return out, nil
}

func (a *API) wireModel(ctx context.Context, m train.Model, err error) (*Model, error) {
	if err != nil {
		return nil, err
	}
	out, err := a.wireModels(ctx, m)
	if err != nil {
		return nil, err
	}
	return &out[0], nil
}

// modelParameters is the JSON part of a new model (compute.md §2.11).
type modelParameters struct {
	TrainingJobID  *string                    `json:"training_job_id"`
	Description    *string                    `json:"description"`
	UserParameters compat.StringMap           `json:"user_parameters"`
	Environment    compat.StringMap           `json:"environment"`
	Metrics        map[string]json.RawMessage `json:"metrics"`
}

func (a *API) addModels() {
	const tag = "training"
	type listInput struct {
		DefinitionPath
		Paging
	}
	register(a, operation{
		ID: "list-models", Method: http.MethodGet, Path: pathModels,
		Summary: "List the models of a definition, newest first: all of them, unless limit is given", Tag: tag,
		Family: familyCompute, Op: authz.ModelRead,
	}, func(ctx context.Context, in *listInput) (*page[Model], error) {
		p := train.Page{Offset: in.Offset, Limit: in.Limit, ExcludeArchived: in.exclude()}
		models, total, err := a.Train.Models(ctx, caller(ctx).Org, in.Definition, p)
		if err != nil {
			return nil, err
		}
		out, err := a.wireModels(ctx, models...)
		if err != nil {
			return nil, err
		}
		limit := p.Limit
		if limit == 0 { // total and limit must be the number of entries (§1.6); one may have come in between
			limit = len(out)
			if p.Offset == 0 {
				total = len(out)
			}
		}
		return &page[Model]{Entries: out, Offset: p.Offset, Limit: limit, Total: total}, nil
	})

	a.raw(operation{
		ID: "create-model", Method: http.MethodPost, Path: pathModels,
		Summary: "Upload a model: multipart/form-data with model_data (zip) and parameters (JSON)", Tag: tag,
		Family: familyCompute, Op: authz.ModelCreate,
	}, func(w http.ResponseWriter, r *http.Request) {
		var p modelParameters
		data, err := a.readForm(w, r, "model_data", train.MaxModelBytes, &p)
		if err != nil {
			a.fail(w, r, familyCompute, err)
			return
		}
		defer data.close()
		id := caller(r.Context())
		if id.Kind == authn.KindContainer && value(p.TrainingJobID) != "" && value(p.TrainingJobID) != string(id.Scope.Job) {
			a.fail(w, r, familyCompute, plat.Errorf(plat.ErrForbidden, "a container's token makes models of its own job only"))
			return
		}
		m, err := a.Train.CreateModel(r.Context(), id.Org, param(r, "job_definition"), id.User, train.ModelParams{
			Job: plat.JobID(value(p.TrainingJobID)), Environment: environment(p.UserParameters, p.Environment),
			Metrics: p.Metrics, Description: value(p.Description),
		}, trainUpload(data))
		touched(r.Context(), "model_id", string(m.ID))
		out, err := a.wireModel(r.Context(), m, err)
		if err != nil {
			a.fail(w, r, familyCompute, err)
			return
		}
		writeJSON(w, http.StatusOK, out)
	})

	register(a, operation{
		ID: "get-model", Method: http.MethodGet, Path: pathModel,
		Summary: "Get a model", Tag: tag, Family: familyCompute, Op: authz.ModelRead,
	}, func(ctx context.Context, in *ModelPath) (*Model, error) {
		m, err := a.Train.Model(ctx, caller(ctx).Org, in.Definition, plat.ModelID(in.Model))
		return a.wireModel(ctx, m, err)
	})

	type patchInput struct {
		ModelPath
		Body *newDescription
	}
	register(a, operation{
		ID: "update-model", Method: http.MethodPatch, Path: pathModel,
		Summary: "Change a model's description", Tag: tag, Family: familyCompute, Op: authz.ModelUpdate,
	}, func(ctx context.Context, in *patchInput) (*Model, error) {
		m, err := a.Train.UpdateModel(ctx, caller(ctx).Org, in.Definition, plat.ModelID(in.Model), in.Body.edit())
		return a.wireModel(ctx, m, err)
	})

	register(a, operation{
		ID: "download-model", Method: http.MethodGet, Path: pathModel + "/download",
		Summary: "Get a URL of a model's zip", Tag: tag, Family: familyCompute, Op: authz.ModelDownload,
	}, func(ctx context.Context, in *ModelPath) (*DownloadURI, error) {
		m, err := a.Train.Model(ctx, caller(ctx).Org, in.Definition, plat.ModelID(in.Model))
		if err != nil {
			return nil, err
		}
		u, err := a.downloadURL(ctx, m.Object, "application/zip")
		return &DownloadURI{DownloadURI: u}, err
	})

	for _, verb := range []string{"archive", "unarchive"} {
		archived := verb == "archive"
		register(a, operation{
			ID: verb + "-model", Method: http.MethodPost, Path: pathModel + "/" + verb,
			Summary: strings.ToUpper(verb[:1]) + verb[1:] + " a model", Tag: tag, Family: familyCompute, Op: authz.ModelUpdate,
		}, func(ctx context.Context, in *ModelPath) (*Message, error) {
			m, err := a.Train.UpdateModel(ctx, caller(ctx).Org, in.Definition, plat.ModelID(in.Model), train.Edit{Archived: &archived})
			if err != nil {
				return nil, err
			}
			d, err := a.Train.Definition(ctx, m.Org, in.Definition)
			return &Message{Message: d.Name + ":" + string(m.ID) + " " + verb + "d"}, err
		})
	}
}
