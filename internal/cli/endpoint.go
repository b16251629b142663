// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"time"

	"panal/internal/client"
	"panal/internal/plat"
)

// endpointCmd is the noun for endpoints.
type endpointCmd struct {
	Create   endpointCreateCmd   `cmd:"" help:"Create an alias in front of a service."`
	List     endpointListCmd     `cmd:"" help:"List the endpoints of a deployment."`
	Get      endpointGetCmd      `cmd:"" help:"Show an endpoint."`
	Switch   endpointSwitchCmd   `cmd:"" help:"Point an endpoint to another service, without a request lost."`
	Split    endpointSplitCmd    `cmd:"" help:"Share an endpoint's requests among services."`
	Limit    endpointLimitCmd    `cmd:"" help:"Bound an endpoint's requests, whichever service answers."`
	History  endpointHistoryCmd  `cmd:"" help:"List the changes of an endpoint, newest first."`
	Rollback endpointRollbackCmd `cmd:"" help:"Point an endpoint to what it pointed to before."`
	Call     endpointCallCmd     `cmd:"" help:"Send a file to a model and print its answer."`
	Result   endpointResultCmd   `cmd:"" help:"Print the result of an asynchronous call."`
	Delete   endpointDeleteCmd   `cmd:"" help:"Delete an endpoint."`
}

// endpointArg names an endpoint.
type endpointArg struct {
	deploymentArg
	Endpoint string `arg:"" help:"Endpoint, by alias or id."`
}

func endpointHeader() []string {
	return []string{"ID", "ALIAS", "SERVICE", "PENDING", "LIMITS", "MODIFIED", "MESSAGE"}
}

func endpointRow(v client.Endpoint) []string {
	return []string{v.ID, v.Alias, aim(v.Service, v.Split), v.Pending, limitsOf(v.RateLimit, v.CallLimit), v.ModifiedAt, v.StatusMessage}
}

func (e *env) showEndpoint(v client.Endpoint, err error) error {
	if err != nil {
		return err
	}
	return e.print(v, endpointHeader(), [][]string{endpointRow(v)})
}

type endpointCreateCmd struct {
	deploymentArg
	Service string `arg:"" help:"Service id; it may still be starting."`
	Alias   string `help:"Name: letters, digits, _ and -." default:"default"`
	endpointLimits
}

// endpointLimits are the flags of an endpoint's limits.
type endpointLimits struct {
	Rate        *float64 `help:"Requests a second that it takes, whichever service answers; more get 429. 0: no limit."`
	Concurrency *int     `help:"Requests by it that may be under way, those that wait for an instance included; more get 429. 0: no limit."`
}

func (l endpointLimits) api() client.EndpointLimits {
	return client.EndpointLimits{Rate: l.Rate, Calls: l.Concurrency}
}

// Run makes the endpoint.
func (c endpointCreateCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	return e.showEndpoint(e.api.CreateEndpoint(e.ctx, id, c.Alias, c.Service, c.api()))
}

type endpointListCmd struct{ deploymentArg }

// Run lists endpoints.
func (c endpointListCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	all, err := e.api.Endpoints(e.ctx, id)
	if err != nil {
		return err
	}
	return e.print(all, endpointHeader(), table(all, endpointRow))
}

type endpointGetCmd struct{ endpointArg }

// Run shows an endpoint.
func (c endpointGetCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	return e.showEndpoint(e.api.Endpoint(e.ctx, id, c.Endpoint))
}

type endpointSwitchCmd struct {
	endpointArg
	Service string        `arg:"" help:"Service id of the same deployment."`
	Wait    bool          `help:"When the service is still starting: wait until it answers, or has failed." short:"w"`
	Timeout time.Duration `help:"With --wait: give up after this long; 0: never."`
}

// Help teaches.
func (endpointSwitchCmd) Help() string {
	return `  panal endpoint switch leaf-api default ser-7be2d1904c3f4a58 --wait

When the service is READY, every request from now on goes to it, and those under
way are finished by the old one. When it is still starting, the old one goes on
answering until the new one is READY; should that fail, nothing changes. The old
service keeps running: switching back is another switch.`
}

// Run switches.
func (c endpointSwitchCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	if err := e.api.SwitchEndpoint(e.ctx, id, c.Endpoint, c.Service); err != nil {
		return err
	}
	v, err := e.api.Endpoint(e.ctx, id, c.Endpoint)
	if err == nil && c.Wait && v.Pending == c.Service {
		e.say("%s", clean(v.StatusMessage))
		err = e.poll("the switch", c.Timeout, func(ctx context.Context) (done bool, err error) {
			v, err = e.api.Endpoint(ctx, id, c.Endpoint)
			return v.Pending != c.Service, err
		})
	}
	v.History = nil
	if err := e.showEndpoint(v, err); err != nil {
		return err
	}
	if v.Service != c.Service && v.Pending != c.Service {
		return plat.Errorf(plat.ErrConflict, "%s", v.StatusMessage)
	}
	return nil
}

type endpointLimitCmd struct {
	endpointArg
	endpointLimits
}

// Help teaches.
func (endpointLimitCmd) Help() string {
	return `  panal endpoint limit leaf-api default --rate 50 --concurrency 200
  panal endpoint limit leaf-api default --rate 0

They hold for all requests by this name, through every switch and split, from the next
request on. Limits of a service ('panal service update') hold beside them.`
}

// Run changes limits.
func (c endpointLimitCmd) Run(e *env) error {
	if c.Rate == nil && c.Concurrency == nil {
		return plat.Errorf(plat.ErrInvalid, "say what to change: --rate, --concurrency")
	}
	id, err := c.id(e)
	if err != nil {
		return err
	}
	if err := e.api.LimitEndpoint(e.ctx, id, c.Endpoint, c.api()); err != nil {
		return err
	}
	return c.show(e, id)
}

type endpointDeleteCmd struct{ endpointArg }

// Run deletes the endpoint.
func (c endpointDeleteCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	if err := e.api.DeleteEndpoint(e.ctx, id, c.Endpoint); err != nil {
		return err
	}
	e.say("deleted %s", c.Endpoint)
	return nil
}
