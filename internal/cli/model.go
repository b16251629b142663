// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"sort"
	"strings"

	"panal/internal/client"
	"panal/internal/plat"
)

// modelCmd is the noun for training models.
type modelCmd struct {
	List      modelListCmd      `cmd:"" help:"List the models of a job definition, newest first."`
	Get       modelGetCmd       `cmd:"" help:"Show a model."`
	Create    modelCreateCmd    `cmd:"" help:"Upload a model: a zip, or a directory that becomes one."`
	Download  modelDownloadCmd  `cmd:"" help:"Download a model, as zip."`
	Describe  modelDescribeCmd  `cmd:"" help:"Change a model's description."`
	Archive   modelArchiveCmd   `cmd:"" help:"Archive a model: lists leave it out."`
	Unarchive modelUnarchiveCmd `cmd:"" help:"Take a model out of the archive."`
}

type modelArg struct {
	definitionArg
	Model string `arg:"" help:"Model id."`
}

func modelRow(m client.Model) []string {
	return []string{m.ID, m.Job, metrics(m.Metrics), m.Description, m.CreatedAt}
}

func modelHeader() []string { return []string{"ID", "JOB", "METRICS", "DESCRIPTION", "CREATED"} }

func metrics(m map[string]json.RawMessage) string {
	out := make([]string, 0, len(m))
	for k, v := range m {
		out = append(out, k+"="+strings.Trim(string(v), `"`))
	}
	sort.Strings(out)
	return strings.Join(out, ",")
}

func (e *env) showModel(m client.Model, err error) error {
	if err != nil {
		return err
	}
	return e.print(m, modelHeader(), [][]string{modelRow(m)})
}

type modelListCmd struct {
	definitionArg
	archivedFlag
}

// Run lists models.
func (c modelListCmd) Run(e *env) error {
	all, err := e.api.Models(e.ctx, c.Definition, c.Archived)
	if err != nil {
		return err
	}
	return e.print(all, modelHeader(), table(all, modelRow))
}

type modelGetCmd struct{ modelArg }

// Run shows a model.
func (c modelGetCmd) Run(e *env) error { return e.showModel(e.api.Model(e.ctx, c.Definition, c.Model)) }

type modelCreateCmd struct {
	definitionArg
	Source      string            `arg:"" help:"Zip file, or a directory." type:"path"`
	Job         string            `help:"Job that made it."`
	Env         map[string]string `help:"Variables that it was made with: --env EPOCHS=5." short:"e" mapsep:"none"`
	Metric      map[string]string `help:"Metrics: --metric accuracy=0.97; a number, NaN, Infinity or -Infinity." mapsep:"none"`
	Description string            `help:"At most 256 characters."`
}

// Help teaches.
func (modelCreateCmd) Help() string {
	return `A job that is Complete has made a model of its result already; this is for
models from elsewhere:

  panal model create leaf ./saved --metric accuracy=0.97`
}

// Run uploads the model.
func (c modelCreateCmd) Run(e *env) error {
	write, err := artifact(c.Source)
	if err != nil {
		return err
	}
	p := client.ModelParams{Job: c.Job, Environment: c.Env, Description: c.Description, Metrics: map[string]json.RawMessage{}}
	for k, v := range c.Metric {
		switch {
		case v == "NaN" || v == "Infinity" || v == "-Infinity":
			p.Metrics[k] = json.RawMessage(`"` + v + `"`)
		case json.Valid([]byte(v)) && !strings.ContainsAny(v, `"{[tfn`):
			p.Metrics[k] = json.RawMessage(v)
		default:
			return plat.InvalidField("metric", "%s=%s: %q is not a number", k, v, v)
		}
	}
	return e.showModel(e.api.CreateModel(e.ctx, c.Definition, p, e.uploading(write)))
}

type modelDownloadCmd struct {
	modelArg
	To string `help:"File to write; - for stdout. Default: MODEL.zip." placeholder:"FILE"`
}

// Run downloads the model.
func (c modelDownloadCmd) Run(e *env) error {
	body, size, err := e.api.DownloadModel(e.ctx, c.Definition, c.Model)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	if c.To == "" {
		c.To = c.Model + ".zip"
	}
	return e.save(c.To, body, size)
}

type modelDescribeCmd struct {
	modelArg
	Description string `arg:"" help:"At most 256 characters."`
}

// Run changes the description.
func (c modelDescribeCmd) Run(e *env) error {
	return e.showModel(e.api.DescribeModel(e.ctx, c.Definition, c.Model, c.Description))
}

type modelArchiveCmd struct{ modelArg }

// Run archives the model.
func (c modelArchiveCmd) Run(e *env) error {
	return e.api.ArchiveModel(e.ctx, c.Definition, c.Model, true)
}

type modelUnarchiveCmd struct{ modelArg }

// Run takes the model out of the archive.
func (c modelUnarchiveCmd) Run(e *env) error {
	return e.api.ArchiveModel(e.ctx, c.Definition, c.Model, false)
}
