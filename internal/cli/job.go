// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"

	"panal/internal/client"
	"panal/internal/plat"
)

// jobCmd is the noun for training: definitions, versions and jobs.
type jobCmd struct {
	Define      jobDefineCmd      `cmd:"" help:"Create a job definition: the name under which versions, jobs and models gather."`
	Definitions jobDefinitionsCmd `cmd:"" help:"List job definitions."`
	Undefine    jobUndefineCmd    `cmd:"" help:"Delete a job definition with its versions, jobs and models."`
	Version     jobVersionCmd     `cmd:"" help:"Create a version of a definition from a directory of code."`
	Versions    jobVersionsCmd    `cmd:"" help:"List the versions of a definition."`
	Create      jobCreateCmd      `cmd:"" help:"Create a job: run a version. It starts when there is room."`
	List        jobListCmd        `cmd:"" help:"List the jobs of a definition, newest first."`
	Get         jobGetCmd         `cmd:"" help:"Show a job."`
	Wait        jobWaitCmd        `cmd:"" help:"Wait until a job ends, showing its progress. Exit code 0 only when it is Complete."`
	Statistics  jobStatisticsCmd  `cmd:"" help:"List what a job has reported of its progress, oldest first."`
	Stop        jobStopCmd        `cmd:"" help:"Stop a job."`
	Result      jobResultCmd      `cmd:"" help:"Download what a job left in its result directory, as zip."`
}

type definitionArg struct {
	Definition string `arg:"" help:"Job definition, by name or id."`
}

type jobArg struct {
	definitionArg
	Job string `arg:"" help:"Job id."`
}

type jobDefineCmd struct {
	Name string `arg:"" help:"Name: letters, digits, '.', '_' and '-'."`
}

// Help teaches.
func (jobDefineCmd) Help() string {
	return `A first training, from nothing:

  panal job define leaf
  panal job version leaf ./code --handler train:handler --image abeja-inc/all-cpu:19.10
  panal job create leaf --env EPOCHS=5 --wait
  panal model list leaf

The code's handler is called as handler(context). What it saves in the directory
named by ABEJA_TRAINING_RESULT_DIR becomes the job's result, and a model.`
}

func definitionRow(d client.Definition) []string {
	return []string{d.ID, d.Name, strconv.Itoa(d.VersionCount), strconv.Itoa(d.ModelCount), d.CreatedAt}
}

func definitionHeader() []string { return []string{"ID", "NAME", "VERSIONS", "MODELS", "CREATED"} }

// Run makes the definition.
func (c jobDefineCmd) Run(e *env) error {
	d, err := e.api.CreateDefinition(e.ctx, c.Name)
	if err != nil {
		return err
	}
	return e.print(d, definitionHeader(), [][]string{definitionRow(d)})
}

type archivedFlag struct {
	Archived bool `help:"With archived ones."`
}

type jobDefinitionsCmd struct{ archivedFlag }

// Run lists definitions.
func (c jobDefinitionsCmd) Run(e *env) error {
	all, err := e.api.Definitions(e.ctx, c.Archived)
	if err != nil {
		return err
	}
	return e.print(all, definitionHeader(), table(all, definitionRow))
}

// table makes the rows of a list.
func table[T any](all []T, row func(T) []string) [][]string {
	rows := make([][]string, len(all))
	for i, v := range all {
		rows[i] = row(v)
	}
	return rows
}

type jobUndefineCmd struct{ definitionArg }

// Run deletes the definition.
func (c jobUndefineCmd) Run(e *env) error {
	if err := e.api.DeleteDefinition(e.ctx, c.Definition); err != nil {
		return err
	}
	e.say("deleted %s", c.Definition)
	return nil
}

type jobVersionCmd struct {
	definitionArg
	Source string `arg:"" optional:"" help:"Directory of code (packed without .git and __pycache__), or a zip or tar.gz file." type:"path"`
	gitFlags
	Handler     string            `help:"module:function to call." default:"train:handler"`
	Image       string            `help:"Profile to run in: namespace/name:tag." default:"abeja-inc/all-cpu:19.10"`
	Env         map[string]string `help:"Variables: --env EPOCHS=5 --env LR=0.1." short:"e" mapsep:"none"`
	Dataset     map[string]string `help:"Datasets: --dataset ALIAS=ID." mapsep:"none"`
	Description string            `help:"At most 256 characters."`
}

// Help teaches.
func (jobVersionCmd) Help() string {
	return `The directory's own root is the root of the code: with --handler train:handler
there is a file train.py in it. A requirements.txt there is installed first.

  panal job version leaf ./code --env EPOCHS=5 --dataset train=1550000000077
  panal job version leaf --git https://git.example.com/team/leaf --ref v1.2`
}

func versionRow(v client.Version) []string {
	return []string{strconv.Itoa(v.Number), v.Handler, v.Image, pairs(v.Environment), pairs(v.Datasets), v.Description, v.GitCommit, v.CreatedAt}
}

func versionHeader() []string {
	return []string{"VERSION", "HANDLER", "IMAGE", "ENVIRONMENT", "DATASETS", "DESCRIPTION", "COMMIT", "CREATED"}
}

// pairs prints a map in the order of its keys.
func pairs(m map[string]string) string {
	out := make([]string, 0, len(m))
	for k, v := range m {
		out = append(out, k+"="+v)
	}
	sort.Strings(out)
	return strings.Join(out, ",")
}

// Run packs and uploads the code.
func (c jobVersionCmd) Run(e *env) error {
	params := client.VersionParams{Handler: c.Handler, Image: c.Image, Environment: c.Env, Datasets: c.Dataset, Description: c.Description}
	git, err := c.repository(e, c.Source)
	if err != nil {
		return err
	}
	if git != nil {
		v, err := e.api.VersionFromGit(e.ctx, c.Definition, *git, params)
		if err != nil {
			return err
		}
		return e.print(v, versionHeader(), [][]string{versionRow(v)})
	}
	write, err := source(c.Source)
	if err != nil {
		return err
	}
	v, err := e.api.CreateVersion(e.ctx, c.Definition, params, e.uploading(write))
	if err != nil {
		return err
	}
	return e.print(v, versionHeader(), [][]string{versionRow(v)})
}

// uploading shows on a terminal how many bytes have gone.
func (e *env) uploading(write func(io.Writer) error) func(io.Writer) error {
	if !isTerminal(e.stderr) {
		return write
	}
	return func(w io.Writer) error {
		bar := progressbar.NewOptions64(-1, progressbar.OptionSetWriter(e.stderr), progressbar.OptionSetDescription("uploading"),
			progressbar.OptionShowBytes(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
		defer func() { _ = bar.Finish() }() // only the looks depend on it
		return write(io.MultiWriter(w, bar))
	}
}

type jobVersionsCmd struct {
	definitionArg
	archivedFlag
}

// Run lists versions.
func (c jobVersionsCmd) Run(e *env) error {
	all, err := e.api.Versions(e.ctx, c.Definition, c.Archived)
	if err != nil {
		return err
	}
	return e.print(all, versionHeader(), table(all, versionRow))
}

type jobCreateCmd struct {
	definitionArg
	Version      int               `help:"Version number; default: the latest that is not archived."`
	Env          map[string]string `help:"Variables over the version's: --env EPOCHS=5." short:"e" mapsep:"none"`
	Dataset      map[string]string `help:"Datasets over the version's: --dataset ALIAS=ID." mapsep:"none"`
	InstanceType string            `name:"instance-type" help:"cpu-0.25, cpu-1, cpu-2, cpu-4, cpu-8, cpu-16, gpu-1, …; default: cpu-1, or gpu-1 for images named -gpu."`
	Description  string            `help:"At most 256 characters."`
	Wait         bool              `help:"Wait until it ends, as 'panal job wait' does." short:"w"`
}

// Help teaches.
func (jobCreateCmd) Help() string {
	return `  panal job create leaf --env KERNEL=rbf --wait

A job that finds no room stays Pending; 'panal job get' says what it waits for.`
}

func jobRow(j client.Job) []string {
	return []string{j.ID, strconv.Itoa(j.Version), j.Status, j.InstanceType, progressOf(j), j.Description, j.CreatedAt, firstLine(j.StatusMessage)}
}

func jobHeader() []string {
	return []string{"ID", "VERSION", "STATUS", "INSTANCE", "PROGRESS", "DESCRIPTION", "CREATED", "MESSAGE"}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// progressOf sums up a job's statistics.
func progressOf(j client.Job) string {
	s := j.Statistics
	if s == nil {
		return ""
	}
	var out []string
	if s.Progress > 0 {
		out = append(out, strconv.FormatFloat(100*s.Progress, 'f', 0, 64)+"%")
	}
	if s.Epoch > 0 {
		epoch := "epoch " + strconv.Itoa(s.Epoch)
		if s.NumEpochs > 0 {
			epoch += "/" + strconv.Itoa(s.NumEpochs)
		}
		out = append(out, epoch)
	}
	var names []string
	for name, stage := range s.Stages {
		for k := range stage {
			names = append(names, name+"."+k)
		}
	}
	sort.Strings(names)
	for _, n := range names[:min(len(names), 4)] {
		stage, k, _ := strings.Cut(n, ".")
		out = append(out, fmt.Sprintf("%s=%.6v", n, s.Stages[stage][k]))
	}
	return strings.Join(out, " ")
}

// Run creates the job.
func (c jobCreateCmd) Run(e *env) error {
	if c.Version == 0 {
		all, err := e.api.Versions(e.ctx, c.Definition, false)
		if err != nil {
			return err
		}
		for _, v := range all {
			c.Version = max(c.Version, v.Number)
		}
		if c.Version == 0 {
			return plat.Errorf(plat.ErrNotFound, "%s has no version yet; make one with: panal job version %s DIRECTORY", c.Definition, c.Definition)
		}
	}
	j, err := e.api.CreateJob(e.ctx, c.Definition, c.Version, client.JobParams{
		Environment: c.Env, Datasets: c.Dataset, InstanceType: c.InstanceType, Description: c.Description,
	})
	if err != nil {
		return err
	}
	if c.Wait {
		return e.waitJob(c.Definition, j.ID, 0)
	}
	return e.print(j, jobHeader(), [][]string{jobRow(j)})
}

type jobListCmd struct {
	definitionArg
	archivedFlag
}

// Run lists jobs.
func (c jobListCmd) Run(e *env) error {
	all, err := e.api.Jobs(e.ctx, c.Definition, c.Archived)
	if err != nil {
		return err
	}
	return e.print(all, jobHeader(), table(all, jobRow))
}

type jobGetCmd struct{ jobArg }

// Run shows a job.
func (c jobGetCmd) Run(e *env) error {
	j, err := e.api.Job(e.ctx, c.Definition, c.Job)
	if err != nil {
		return err
	}
	return e.showJob(j)
}

// showJob prints a job with its whole message (a traceback has many lines).
func (e *env) showJob(j client.Job) error {
	if err := e.print(j, jobHeader(), [][]string{jobRow(j)}); err != nil {
		return err
	}
	if _, more, ok := strings.Cut(j.StatusMessage, "\n"); ok && !e.json {
		for line := range strings.SplitSeq(more, "\n") {
			if _, err := fmt.Fprintln(e.stdout, clean(line)); err != nil {
				return err
			}
		}
	}
	return nil
}

type jobWaitCmd struct {
	jobArg
	Timeout time.Duration `help:"Give up after this long; 0: never."`
}

// Run waits.
func (c jobWaitCmd) Run(e *env) error { return e.waitJob(c.Definition, c.Job, c.Timeout) }

const (
	// pollJob is how often a job is looked at.
	pollJob = 500 * time.Millisecond
	// serverAway is how long a wait goes on while the server does not answer: it
	// may be restarting, and the job runs on meanwhile.
	serverAway = 2 * time.Minute
)

// jobEndedError makes the exit code 1: the job did not end well.
type jobEndedError struct{ job client.Job }

// Error implements error.
func (e jobEndedError) Error() string {
	s := "job " + e.job.ID + " is " + e.job.Status
	if e.job.StatusMessage != "" {
		s += ": " + firstLine(e.job.StatusMessage)
	}
	return s
}

// waitJob waits until the job ends, showing what it reports: a bar on a terminal,
// else a line for each change.
func (e *env) waitJob(def, id string, timeout time.Duration) error {
	ctx := e.ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, plat.Errorf(plat.ErrUnavailable, "job %s has not ended within %s; it goes on", id, timeout))
		defer cancel()
	}
	show := e.jobProgress(id)
	defer show.end()
	away := time.Time{}
	for {
		j, err := e.api.Job(ctx, def, id)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, plat.ErrUnavailable) && (away.IsZero() || time.Since(away) < serverAway):
			if away.IsZero() {
				away = time.Now()
				show.note("the server does not answer; waiting for it")
			}
		case err != nil:
			return err
		case j.Ended():
			show.update(j)
			show.end()
			if err := e.showJob(j); err != nil {
				return err
			}
			if j.Status != "Complete" {
				return jobEndedError{j}
			}
			return nil
		default:
			away = time.Time{}
			show.update(j)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pollJob):
		}
	}
}

// jobShow shows the progress of one job.
type jobShow struct {
	e    *env
	id   string
	bar  *progressbar.ProgressBar // nil without a terminal
	last string
}

func (e *env) jobProgress(id string) *jobShow {
	s := &jobShow{e: e, id: id}
	if isTerminal(e.stderr) {
		s.bar = progressbar.NewOptions(1000, progressbar.OptionSetWriter(e.stderr), progressbar.OptionSetPredictTime(false),
			progressbar.OptionSetWidth(30), progressbar.OptionClearOnFinish())
	}
	return s
}

func (s *jobShow) note(text string) {
	if text = clean(text); text == s.last {
		return
	}
	s.last = text
	if s.bar != nil {
		s.bar.Describe(text)
		return
	}
	s.e.say("job %s: %s", s.id, text)
}

func (s *jobShow) update(j client.Job) {
	text := j.Status
	if p := progressOf(j); p != "" {
		text += " " + p
	} else if j.StatusMessage != "" && !j.Ended() {
		text += ": " + firstLine(j.StatusMessage)
	}
	s.note(text)
	if s.bar != nil && j.Statistics != nil {
		_ = s.bar.Set(int(1000 * min(max(j.Statistics.Progress, 0), 0.999))) // only the looks depend on it
	}
}

func (s *jobShow) end() {
	if s.bar != nil {
		_ = s.bar.Finish() // only the looks depend on it
		s.bar = nil
	}
}

type jobStatisticsCmd struct{ jobArg }

// Run lists reports.
func (c jobStatisticsCmd) Run(e *env) error {
	all, err := e.api.JobReports(e.ctx, c.Definition, c.Job)
	if err != nil {
		return err
	}
	return e.print(all, []string{"TIME", "STATISTICS"}, table(all, func(r client.Report) []string {
		return []string{r.Time, string(r.Statistics)}
	}))
}

type jobStopCmd struct{ jobArg }

// Run stops the job.
func (c jobStopCmd) Run(e *env) error {
	if err := e.api.StopJob(e.ctx, c.Definition, c.Job); err != nil {
		return err
	}
	e.say("stopped %s", c.Job)
	return nil
}

type jobResultCmd struct {
	jobArg
	To string `help:"File to write; - for stdout. Default: JOB.zip." placeholder:"FILE"`
}

// Run downloads the result.
func (c jobResultCmd) Run(e *env) error {
	body, size, err := e.api.JobResult(e.ctx, c.Definition, c.Job)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	if c.To == "" {
		c.To = c.Job + ".zip"
	}
	return e.save(c.To, body, size)
}
