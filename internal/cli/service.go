// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"panal/internal/client"
	"panal/internal/plat"
)

// serviceCmd is the noun for services.
type serviceCmd struct {
	Create   serviceCreateCmd   `cmd:"" help:"Create a service: instances of a code version that answer requests."`
	List     serviceListCmd     `cmd:"" help:"List the services of a deployment."`
	Get      serviceGetCmd      `cmd:"" help:"Show a service."`
	Wait     serviceWaitCmd     `cmd:"" help:"Wait until a service is READY. Exit code 0 only then."`
	Describe serviceDescribeCmd `cmd:"" help:"Show a service with its instances, how many there should be, and why."`
	Update   serviceUpdateCmd   `cmd:"" aliases:"patch" help:"Change a service; its instances are replaced while it goes on answering."`
	Start    serviceStartCmd    `cmd:"" help:"Start a stopped or failed service."`
	Stop     serviceStopCmd     `cmd:"" help:"Stop a service once its requests are answered."`
	Delete   serviceDeleteCmd   `cmd:"" help:"Delete a service that no endpoint points to."`
}

// serviceArg names a service.
type serviceArg struct {
	deploymentArg
	Service string `arg:"" help:"Service id."`
}

func serviceHeader() []string {
	return []string{"ID", "VERSION", "STATUS", "INSTANCE", "NUMBER", "MODEL", "CREATED", "MESSAGE"}
}

func serviceRow(s client.Service) []string {
	return []string{s.ID, s.Label, s.Status, s.InstanceType, strconv.Itoa(s.Number), pairs(s.Models), s.CreatedAt, firstLine(s.StatusMessage)}
}

// showService prints a service with its whole message (a traceback has many lines).
func (e *env) showService(s client.Service) error {
	if err := e.print(s, serviceHeader(), [][]string{serviceRow(s)}); err != nil {
		return err
	}
	if _, more, ok := strings.Cut(s.StatusMessage, "\n"); ok && !e.json {
		for line := range strings.SplitSeq(more, "\n") {
			if _, err := fmt.Fprintln(e.stdout, clean(line)); err != nil {
				return err
			}
		}
	}
	return nil
}

// serviceFlags are what a service is made of.
type serviceFlags struct {
	Model         string            `help:"Training model for the code, by id."`
	Env           map[string]string `help:"Variables over the deployment's and the version's: --env TOP_K=5." short:"e" mapsep:"none"`
	InstanceType  string            `name:"instance-type" help:"cpu-0.25 (the default), cpu-1, cpu-2, cpu-4, cpu-8, cpu-16, gpu-1, …"`
	Number        *int              `help:"How many instances, 1 to 300." short:"n"`
	Min           *int              `help:"Fewest instances, and how many make it READY; default: the number. 0: it sleeps while nobody calls it." aliases:"min-instances"`
	Max           *int              `help:"Most instances; default: twice the number." aliases:"max-instances"`
	Target        *float64          `name:"target-concurrency" help:"Requests at a time per instance to aim at; default (0): 0.7 of its workers."`
	Idle          *time.Duration    `name:"idle-timeout" help:"How long without a request before it sleeps; default (0s): the installation's."`
	Autoscale     *bool             `help:"Follow the load between --min and --max; --no-autoscale: always --number." negatable:""`
	Rate          *float64          `help:"Requests a second that it takes; more get 429. 0, the default: no limit."`
	Concurrency   *int              `help:"Requests that may be under way, those that wait for an instance included; more get 429. 0, the default: no limit."`
	Record        string            `help:"Channel that gets a copy of each input, by id, or none; a sample of them with --env PANAL_RECORD_PERCENT=10." placeholder:"CHANNEL"`
	RecordOutputs *bool             `name:"record-outputs" help:"The channel of --record gets a copy of each recorded input's answer too, of an asynchronous call's result when it is there; --no-record-outputs: inputs alone." negatable:""`
	Wait          bool              `help:"Wait until it is READY." short:"w"`
}

// recordNothing is the channel that ends recording.
const recordNothing = "none"

func (f serviceFlags) params() client.ServiceParams {
	p := client.ServiceParams{Environment: f.Env, InstanceType: f.InstanceType, Number: f.Number, Min: f.Min, Max: f.Max, Target: f.Target, Autoscale: f.Autoscale, RecordOutput: f.RecordOutputs, RateLimit: f.Rate, CallLimit: f.Concurrency}
	if f.Record == recordNothing {
		p.Record = new(string)
	} else if f.Record != "" {
		p.Record = &f.Record
	}
	if f.Idle != nil {
		idle := f.Idle.Seconds()
		p.IdleTimeout = &idle
	}
	if f.Model != "" {
		p.Models = map[string]string{"alias": f.Model}
	}
	return p
}

type serviceCreateCmd struct {
	codeArg
	serviceFlags
}

// Help teaches.
func (serviceCreateCmd) Help() string {
	return `  panal service create leaf-api 0.0.1 --model 1720000000055 --number 2 --wait

A service that does not start says why: 'panal service get' shows the traceback,
'panal log service' all that it wrote.`
}

// Run makes the service.
func (c serviceCreateCmd) Run(e *env) error {
	v, err := c.find(e)
	if err != nil {
		return err
	}
	p := c.params()
	p.Version = v.ID
	s, err := e.api.CreateService(e.ctx, v.Deployment, p)
	if err != nil {
		return err
	}
	if c.Wait {
		return e.waitService(s.Deployment, s.ID, 0)
	}
	return e.showService(s)
}

type serviceListCmd struct{ deploymentArg }

// Run lists services.
func (c serviceListCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	all, err := e.api.Services(e.ctx, id)
	if err != nil {
		return err
	}
	return e.print(all, serviceHeader(), table(all, serviceRow))
}

type serviceGetCmd struct{ serviceArg }

// Run shows a service.
func (c serviceGetCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	s, err := e.api.Service(e.ctx, id, c.Service)
	if err != nil {
		return err
	}
	return e.showService(s)
}

type serviceDescribeCmd struct{ serviceArg }

// Help teaches.
func (serviceDescribeCmd) Help() string {
	return `A service that is asleep has no instances and is READY: the next request wakes it.

  panal service update leaf-api ser-7be2d1904c3f4a58 --min 0 --idle-timeout 5m`
}

// Run shows the service and what the scaler thinks.
func (c serviceDescribeCmd) Run(e *env) error {
	dep, err := c.id(e)
	if err != nil {
		return err
	}
	s, err := e.api.Service(e.ctx, dep, c.Service)
	if err != nil {
		return err
	}
	all, err := e.api.Instances(e.ctx, dep, c.Service)
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(struct {
			client.Service
			Instances []client.Instance `json:"instances"`
		}{s, all})
	}
	for _, row := range scaleRows(s, all) {
		if _, err := fmt.Fprintf(e.stdout, "%-10s %s\n", row[0], clean(row[1])); err != nil {
			return err
		}
	}
	if len(all) == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(e.stdout); err != nil {
		return err
	}
	return e.print(all, instanceHeader(), table(all, instanceRow))
}

func instanceHeader() []string {
	return []string{"INSTANCE", "STATE", "GENERATION", "CREATED", "READY"}
}

func instanceRow(i client.Instance) []string {
	generation := strconv.FormatInt(i.Generation, 10)
	if !i.Current {
		generation += " (old)"
	}
	return []string{i.ID, i.State, generation, i.CreatedAt, i.ReadyAt}
}

// scaleRows say how many instances a service has and should have, and why.
func scaleRows(s client.Service, all []client.Instance) [][2]string {
	ready := 0
	for _, i := range all {
		if i.State == "ready" {
			ready++
		}
	}
	status := s.Status
	if s.Status == "READY" && s.Desired == 0 {
		status += ", asleep: the next request wakes it"
	}
	if s.StatusMessage != "" {
		status += ": " + firstLine(s.StatusMessage)
	}
	bounds := fmt.Sprintf("always %d", s.Number)
	if s.Autoscale {
		bounds = fmt.Sprintf("%d to %d", s.Min, s.Max)
	}
	why := s.ScaleMessage
	if why == "" {
		why = "as it was created or changed"
	}
	target, idle := "by its workers", "the installation's"
	if s.Target > 0 {
		target = plat.Digits(s.Target) + " requests at a time per instance"
	}
	if s.IdleTimeout > 0 {
		idle = time.Duration(s.IdleTimeout * float64(time.Second)).String()
	}
	rows := [][2]string{
		{"service", s.ID + " (version " + s.Label + ", " + s.InstanceType + ")"},
		{"status", status},
		{"ready", strconv.Itoa(ready)},
		{"desired", strconv.Itoa(s.Desired)},
		{"why", why},
		{"bounds", bounds},
	}
	if limits := limitsOf(s.RateLimit, s.CallLimit); limits != "" {
		rows = append(rows, [2]string{"limits", limits})
	}
	if s.Autoscale {
		rows = append(rows, [2]string{"target", target})
		if s.Min == 0 {
			rows = append(rows, [2]string{"sleeps", "after " + idle + " without a request"})
		}
	}
	return rows
}

// limitsOf says what requests a service or an endpoint takes at most; "" for any.
func limitsOf(rate float64, calls int) string {
	var all []string
	if rate > 0 {
		all = append(all, plat.Digits(rate)+" requests a second")
	}
	if calls > 0 {
		all = append(all, strconv.Itoa(calls)+" under way")
	}
	return strings.Join(all, ", ")
}

type serviceWaitCmd struct {
	serviceArg
	Timeout time.Duration `help:"Give up after this long; 0: never."`
}

// Run waits.
func (c serviceWaitCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	return e.waitService(id, c.Service, c.Timeout)
}

// pollService is how often a service or an endpoint is looked at.
const pollService = 250 * time.Millisecond

// poll asks until done, for at most timeout (0: for ever). A server that does not
// answer may be restarting: it is waited for.
func (e *env) poll(what string, timeout time.Duration, ask func(ctx context.Context) (done bool, err error)) error {
	ctx := e.ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, plat.Errorf(plat.ErrUnavailable, "%s within %s did not happen", what, timeout))
		defer cancel()
	}
	away := time.Time{}
	for {
		done, err := ask(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, plat.ErrUnavailable) && (away.IsZero() || time.Since(away) < serverAway):
			if away.IsZero() {
				away = time.Now()
				e.say("the server does not answer; waiting for it")
			}
		case err != nil || done:
			return err
		default:
			away = time.Time{}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pollService):
		}
	}
}

// waitService waits until the service is READY, telling each change.
func (e *env) waitService(dep, id string, timeout time.Duration) error {
	var s client.Service
	last := ""
	err := e.poll("READY", timeout, func(ctx context.Context) (done bool, err error) {
		if s, err = e.api.Service(ctx, dep, id); err != nil {
			return false, err
		}
		text := s.Status
		if s.StatusMessage != "" {
			text += ": " + firstLine(s.StatusMessage)
		}
		if text != last {
			last = text
			e.say("service %s: %s", id, clean(text))
		}
		return s.Status != "IN_PROGRESS", nil
	})
	if err != nil {
		return err
	}
	if err := e.showService(s); err != nil {
		return err
	}
	if s.Status != "READY" {
		return fmt.Errorf("service %s is %s", s.ID, s.Status)
	}
	return nil
}

type serviceUpdateCmd struct {
	serviceArg
	serviceFlags
	UnsetEnv []string `name:"unset-env" help:"Variable of the service's own to take away." placeholder:"NAME"`
}

// Help teaches.
func (serviceUpdateCmd) Help() string {
	return `What is not named stays. --env adds to the service's own variables, or changes them:

  panal service update leaf-api ser-7be2d1904c3f4a58 --env TOP_K=5 --unset-env STAGE
  panal service update leaf-api ser-7be2d1904c3f4a58 --min 0 --idle-timeout 5m

A change that needs new instances replaces them one by one; requests go on.`
}

// Run changes the service.
func (c serviceUpdateCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	p := c.params()
	if len(c.Env)+len(c.UnsetEnv) > 0 {
		if p.Environment, err = c.environment(e, id); err != nil {
			return err
		}
	}
	s, err := e.api.UpdateService(e.ctx, id, c.Service, p)
	if err != nil {
		return err
	}
	if c.Wait {
		return e.waitService(id, s.ID, 0)
	}
	return e.showService(s)
}

// environment returns the service's own variables as they are to be.
func (c serviceUpdateCmd) environment(e *env, dep string) (map[string]string, error) {
	s, err := e.api.Service(e.ctx, dep, c.Service)
	if err != nil {
		return nil, err
	}
	vars := map[string]string{}
	maps.Copy(vars, s.Environment)
	for _, name := range c.UnsetEnv {
		if _, ok := vars[name]; !ok {
			return nil, plat.InvalidField("unset-env", "%s is no variable of the service's own", name)
		}
		delete(vars, name)
	}
	maps.Copy(vars, c.Env)
	return vars, nil
}

type serviceStartCmd struct {
	serviceArg
	Wait bool `help:"Wait until it is READY." short:"w"`
}

// Run starts the service.
func (c serviceStartCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	if err := e.api.StartService(e.ctx, id, c.Service); err != nil {
		return err
	}
	if c.Wait {
		return e.waitService(id, c.Service, 0)
	}
	e.say("started %s", c.Service)
	return nil
}

type serviceStopCmd struct{ serviceArg }

// Run stops the service.
func (c serviceStopCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	if err := e.api.StopService(e.ctx, id, c.Service); err != nil {
		return err
	}
	e.say("stopped %s", c.Service)
	return nil
}

type serviceDeleteCmd struct{ serviceArg }

// Run deletes the service.
func (c serviceDeleteCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	if err := e.api.DeleteService(e.ctx, id, c.Service); err != nil {
		return err
	}
	e.say("deleted %s", c.Service)
	return nil
}
