// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"

	"panal/internal/client"
	"panal/internal/plat"
)

// deploymentCmd is the noun for deployments and their code.
type deploymentCmd struct {
	Create  deploymentCreateCmd  `cmd:"" help:"Create a deployment: code versions, services and endpoints of one model API."`
	List    deploymentListCmd    `cmd:"" help:"List deployments."`
	Get     deploymentGetCmd     `cmd:"" help:"Show a deployment."`
	Update  deploymentUpdateCmd  `cmd:"" help:"Change a deployment's name, description or default variables."`
	Delete  deploymentDeleteCmd  `cmd:"" help:"Delete a deployment that has no services."`
	Version deploymentVersionCmd `cmd:"" help:"Code versions of a deployment."`
}

// deploymentArg names a deployment.
type deploymentArg struct {
	Deployment string `arg:"" help:"Deployment, by id, or by name where that is unique."`
}

// id resolves the argument. What is only digits is an id, taken as it is.
func (a deploymentArg) id(e *env) (string, error) {
	if _, err := strconv.ParseUint(a.Deployment, 10, 64); err == nil {
		return a.Deployment, nil
	}
	d, err := e.api.FindDeployment(e.ctx, a.Deployment)
	return d.ID, err
}

func deploymentHeader() []string {
	return []string{"ID", "NAME", "SERVICES", "ENDPOINTS", "ENVIRONMENT", "CREATED"}
}

func deploymentRow(d client.Deployment) []string {
	return []string{d.ID, d.Name, strconv.Itoa(len(d.Services)), strconv.Itoa(len(d.Endpoints)), pairs(d.Environment), d.CreatedAt}
}

func (e *env) showDeployment(d client.Deployment, err error) error {
	if err != nil {
		return err
	}
	return e.print(d, deploymentHeader(), [][]string{deploymentRow(d)})
}

type deploymentCreateCmd struct {
	Name        string            `arg:"" help:"Name."`
	Description string            `help:"What it is for."`
	Env         map[string]string `help:"Default variables of all its services: --env STAGE=test." short:"e" mapsep:"none"`
}

// Help teaches.
func (deploymentCreateCmd) Help() string {
	return `From a trained model to answers:

  panal deployment create leaf-api
  panal deployment version create leaf-api ./predict --label 0.0.1
  panal service create leaf-api 0.0.1 --model 1720000000055 --wait
  panal endpoint create leaf-api ser-7be2d1904c3f4a58
  panal endpoint call leaf-api picture.png

The code's handler is called as handler(request, context) for each request.`
}

// Run makes the deployment.
func (c deploymentCreateCmd) Run(e *env) error {
	return e.showDeployment(e.api.CreateDeployment(e.ctx, client.DeploymentParams{Name: &c.Name, Description: &c.Description, Environment: c.Env}))
}

type deploymentListCmd struct{}

// Run lists deployments.
func (deploymentListCmd) Run(e *env) error {
	all, err := e.api.Deployments(e.ctx)
	if err != nil {
		return err
	}
	return e.print(all, deploymentHeader(), table(all, deploymentRow))
}

type deploymentGetCmd struct{ deploymentArg }

// Run shows a deployment.
func (c deploymentGetCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	return e.showDeployment(e.api.Deployment(e.ctx, id))
}

type deploymentUpdateCmd struct {
	deploymentArg
	Name        *string           `help:"New name."`
	Description *string           `help:"New description."`
	Env         map[string]string `help:"New default variables, instead of all that there are; services keep theirs." short:"e" mapsep:"none"`
}

// Run changes the deployment.
func (c deploymentUpdateCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	return e.showDeployment(e.api.UpdateDeployment(e.ctx, id, client.DeploymentParams{Name: c.Name, Description: c.Description, Environment: c.Env}))
}

type deploymentDeleteCmd struct{ deploymentArg }

// Run deletes the deployment.
func (c deploymentDeleteCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	if err := e.api.DeleteDeployment(e.ctx, id); err != nil {
		return err
	}
	e.say("deleted %s", id)
	return nil
}

// deploymentVersionCmd is the noun for code versions.
type deploymentVersionCmd struct {
	Create    codeCreateCmd    `cmd:"" help:"Create a code version from a directory of code, a git repository or a template."`
	List      codeListCmd      `cmd:"" help:"List the code versions of a deployment."`
	Templates codeTemplatesCmd `cmd:"" help:"List the templates that code can begin with."`
	Download  codeDownloadCmd  `cmd:"" help:"Download a code version's source, as it was uploaded."`
	Delete    codeDeleteCmd    `cmd:"" help:"Delete a code version that no service uses."`
}

func codeHeader() []string {
	return []string{"ID", "VERSION", "RUNS", "IMAGE", "ENVIRONMENT", "COMMIT", "CREATED"}
}

func codeRow(v client.Code) []string {
	what := v.Handler
	if len(v.Command) > 0 {
		what = strings.Join(v.Command, " ")
	}
	return []string{v.ID, v.Label, what, v.Image, pairs(v.Environment), v.GitCommit, v.CreatedAt}
}

type codeCreateCmd struct {
	deploymentArg
	Source string `arg:"" optional:"" help:"Directory of code (packed without .git and __pycache__), or a zip or tar.gz file." type:"path"`
	gitFlags
	Template string            `help:"Take the code from this template instead: a name or id of 'deployment version templates'." placeholder:"NAME"`
	Label    string            `help:"Your name for the version, unique in the deployment, such as 0.0.1." required:"" short:"l"`
	Handler  string            `help:"module:function to call; default main:handler."`
	Image    string            `help:"Profile to run in: namespace/name:tag." default:"abeja-inc/all-cpu:19.10"`
	Env      map[string]string `help:"Default variables of this code: --env TOP_K=3." short:"e" mapsep:"none"`
	Command  string            `help:"Instead of a handler: a command line for the shell, of a program that listens on 127.0.0.1:$PORT." placeholder:"LINE"`
	Health   string            `help:"Path of the command that answers 200 when it works; default /." placeholder:"PATH"`
}

// Help teaches.
func (codeCreateCmd) Help() string {
	return `A handler is called for each request:

  panal deployment version create leaf-api ./predict --label 0.0.1

Code may also come from a git repository; the server fetches it, and the version
keeps the commit that it was:

  panal deployment version create leaf-api --git https://git.example.com/team/leaf \
    --ref v1.2 --label 1.2

With no code of your own yet, begin with a template, and download it to go on from:

  panal deployment version create leaf-api --template echo --label 0.0.1
  panal deployment version download leaf-api 0.0.1 --to echo.tgz

A command is any HTTP server. It gets the rest of the path after the service or
alias, all methods, streams and WebSockets; its port is its own, on 127.0.0.1:

  panal deployment version create leaf-api ./server --label 0.0.2 \
    --command 'exec python3 server.py --port $PORT' --health /v2/health/ready

It takes up to 64 requests at a time; set PANAL_CONCURRENCY for another number.`
}

// Run packs and uploads the code.
func (c codeCreateCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	var words []string
	if c.Command != "" {
		words = []string{"/bin/sh", "-c", c.Command}
	}
	params := client.CodeParams{Label: c.Label, Handler: c.Handler, Image: c.Image, Environment: c.Env, Command: words, HealthPath: c.Health}
	show := func(v client.Code, err error) error {
		if err != nil {
			return err
		}
		return e.print(v, codeHeader(), [][]string{codeRow(v)})
	}
	if c.Template != "" {
		t, err := c.template(e, id)
		if err != nil {
			return err
		}
		return show(e.api.CodeFromTemplate(e.ctx, id, t, params))
	}
	git, err := c.repository(e, c.Source)
	if err != nil {
		return err
	}
	if git != nil {
		return show(e.api.CodeFromGit(e.ctx, id, *git, params))
	}
	write, err := source(c.Source)
	if err != nil {
		return err
	}
	// The length of an upload to a signed URL must be known.
	tmp, err := os.CreateTemp("", "panal-source-")
	if err != nil {
		return err
	}
	defer func() { _ = errors.Join(tmp.Close(), os.Remove(tmp.Name())) }() // only read from here on
	if err := write(tmp); err != nil {
		return err
	}
	size, err := tmp.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if size == 0 {
		return plat.InvalidField("source", "%s is empty", c.Source)
	}
	if _, err := tmp.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return show(e.api.CreateCode(e.ctx, id, params, tmp, size))
}

// template returns the id of the template that is named.
func (c codeCreateCmd) template(e *env, dep string) (int, error) {
	if c.Source != "" || c.Git != "" {
		return 0, plat.InvalidField("template", "name either a directory of code, a repository or a template")
	}
	if n, err := strconv.Atoi(c.Template); err == nil {
		return n, nil
	}
	all, err := e.api.Templates(e.ctx, dep)
	if err != nil {
		return 0, err
	}
	var names []string
	for _, t := range all {
		if t.Name == c.Template {
			return t.ID, nil
		}
		names = append(names, t.Name)
	}
	return 0, plat.InvalidField("template", "%q is none; there are %s", c.Template, strings.Join(names, ", "))
}

type codeTemplatesCmd struct{ deploymentArg }

// Run lists the templates.
func (c codeTemplatesCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	all, err := e.api.Templates(e.ctx, id)
	if err != nil {
		return err
	}
	return e.print(all, []string{"ID", "NAME", "HANDLER", "WHAT IT DOES"}, table(all, func(t client.Template) []string {
		return []string{strconv.Itoa(t.ID), t.Name, t.Handler, t.Description}
	}))
}

type codeListCmd struct{ deploymentArg }

// Run lists code versions.
func (c codeListCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	all, err := e.api.Codes(e.ctx, id)
	if err != nil {
		return err
	}
	return e.print(all, codeHeader(), table(all, codeRow))
}

// codeArg names a code version.
type codeArg struct {
	deploymentArg
	Version string `arg:"" help:"Code version, by label or id."`
}

func (a codeArg) find(e *env) (client.Code, error) {
	id, err := a.id(e)
	if err != nil {
		return client.Code{}, err
	}
	return e.api.FindCode(e.ctx, id, a.Version)
}

type codeDownloadCmd struct {
	codeArg
	To string `help:"File to write; - for stdout. Default: VERSION.tar.gz." placeholder:"FILE"`
}

// Run downloads the source.
func (c codeDownloadCmd) Run(e *env) error {
	v, err := c.find(e)
	if err != nil {
		return err
	}
	body, size, err := e.api.DownloadCode(e.ctx, v.Deployment, v.ID)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	if c.To == "" {
		c.To = v.Label + ".tar.gz"
	}
	return e.save(c.To, body, size)
}

type codeDeleteCmd struct{ codeArg }

// Run deletes the code version.
func (c codeDeleteCmd) Run(e *env) error {
	v, err := c.find(e)
	if err != nil {
		return err
	}
	if err := e.api.DeleteCode(e.ctx, v.Deployment, v.ID); err != nil {
		return err
	}
	e.say("deleted %s (%s)", v.ID, v.Label)
	return nil
}
