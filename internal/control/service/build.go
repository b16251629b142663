// SPDX-License-Identifier: Apache-2.0

package service

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"

	"panal/internal/authn"
	"panal/internal/deploy"
	"panal/internal/logs"
	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/train"
)

// Spec returns the workload of an instance (compute.md §13.2, §13.5). The user's
// variables come first: the platform's win. model is nil for a service without.
func Spec(i deploy.Instance, s deploy.Service, v deploy.Version, model *deploy.ModelRef, it plat.InstanceType, apiURL, token string) runner.Spec {
	env := maps.Clone(s.Merged)
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, map[string]string{
		"ABEJA_API_URL":                  apiURL,
		"ABEJA_ORGANIZATION_ID":          string(s.Org),
		"ABEJA_DEPLOYMENT_ID":            string(s.Deployment),
		"ABEJA_SERVICE_ID":               string(s.ID),
		"ABEJA_MODEL_ID":                 string(s.Deployment),
		"ABEJA_MODEL_VERSION":            v.Label,
		"ABEJA_MODEL_VERSION_ID":         string(v.ID),
		"ABEJA_DEPLOYMENT_CODE_DOWNLOAD": apiPath("organizations", string(s.Org), "deployments", string(s.Deployment), "versions", string(v.ID), "download"),
		"HANDLER":                        v.Handler,
		"SERVICE_TYPE":                   "HTTP",
		"PYTHONUNBUFFERED":               "x",
	})
	if _, set := env[runner.EnvHandlerStyle]; !set && train.OldStyle(v.Image) {
		env[runner.EnvHandlerStyle] = "old"
	}
	if model != nil {
		datasets := model.Datasets
		if datasets == nil {
			datasets = map[string]plat.DatasetID{}
		}
		text, err := json.Marshal(datasets)
		if err != nil {
			panic("BUG: service: datasets do not encode: " + err.Error())
		}
		env["TRAINING_JOB_DATASETS"] = string(text)
		env["ABEJA_TRAINING_MODEL_DOWNLOAD"] = apiPath("organizations", string(s.Org), "training", "definitions", model.DefinitionName, "models", string(model.ID), "download")
	}
	return runner.Spec{
		Command: v.Command, HealthPath: v.HealthPath, ID: i.Workload, Org: s.Org, Kind: runner.KindService, Image: v.Image, Resources: it.Resources,
		Env: env, Token: token, LogStream: logs.ServiceStream(string(s.ID)), Reserve: true,
	}
}

// apiPath is an API path as the agent wants it: no slash in front, no query.
func apiPath(segments ...string) string {
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	return strings.Join(segments, "/")
}

// Token returns the record of the container token of an instance.
func Token(i deploy.Instance, s deploy.Service, secret string) authn.Token {
	return authn.Token{
		Hash: authn.HashToken(secret), Kind: authn.KindContainer, Org: s.Org, User: s.Creator,
		Scope: authn.Scope{
			Workload: i.Workload, Deployment: s.Deployment, CodeVersion: s.Version, Service: s.ID,
			Models: slices.Sorted(maps.Values(s.Models)),
		},
	}
}
