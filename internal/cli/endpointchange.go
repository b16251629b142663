// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"strconv"
	"strings"

	"panal/internal/client"
	"panal/internal/plat"
)

// aim is what an endpoint points to, in the form that split takes.
func aim(service string, split []client.Part) string {
	if len(split) == 0 {
		return service
	}
	words := make([]string, len(split))
	for i, p := range split {
		words[i] = fmt.Sprintf("%s=%d", p.Service, p.Weight)
	}
	return strings.Join(words, " ")
}

type endpointSplitCmd struct {
	endpointArg
	Parts []string `arg:"" help:"SERVICE=PERCENT, adding up to 100."`
}

// Help teaches.
func (endpointSplitCmd) Help() string {
	return `  panal endpoint split leaf-api default ser-7be2d1904c3f4a58=90 ser-0f13c2aa59d1e6b7=10

Of each 100 requests from now on, 90 go to the first service and 10 to the second,
evenly mixed. All of them must be READY. While one has no ready instance, the
others share its requests. "endpoint switch" ends a split, "endpoint rollback"
takes it back.`
}

// Run splits.
func (c endpointSplitCmd) Run(e *env) error {
	parts := make([]client.Part, len(c.Parts))
	for i, word := range c.Parts {
		service, weight, _ := strings.Cut(word, "=")
		n, err := strconv.Atoi(weight)
		if err != nil || service == "" {
			return plat.InvalidField("parts", "%q is not SERVICE=PERCENT", word)
		}
		parts[i] = client.Part{Service: service, Weight: n}
	}
	id, err := c.id(e)
	if err != nil {
		return err
	}
	if err := e.api.SplitEndpoint(e.ctx, id, c.Endpoint, parts); err != nil {
		return err
	}
	return c.show(e, id)
}

// show prints an endpoint without its history.
func (c endpointArg) show(e *env, dep string) error {
	v, err := e.api.Endpoint(e.ctx, dep, c.Endpoint)
	v.History = nil
	return e.showEndpoint(v, err)
}

type endpointHistoryCmd struct {
	endpointArg
	At    string `help:"What it pointed to then, e.g. 2026-01-02T15:04:05Z."`
	Limit int    `help:"How many changes at most; 0: all." default:"100"`
}

// Run lists changes.
func (c endpointHistoryCmd) Run(e *env) error {
	if c.Limit < 0 {
		return plat.InvalidField("limit", "must be 0 or more")
	}
	id, err := c.id(e)
	if err != nil {
		return err
	}
	all := []client.EndpointChange{}
	for page := ""; ; {
		part, next, err := e.api.EndpointHistory(e.ctx, id, c.Endpoint, c.At, page, c.Limit)
		if err != nil {
			return err
		}
		all = append(all, part...)
		if page = next; page == "" || c.Limit > 0 && len(all) >= c.Limit {
			break
		}
	}
	if c.Limit > 0 {
		all = all[:min(c.Limit, len(all))]
	}
	return e.print(all, []string{"NUMBER", "TIME", "CHANGE", "FROM", "TO", "USER"}, table(all, func(v client.EndpointChange) []string {
		return []string{strconv.FormatInt(v.Number, 10), v.At, v.Kind, v.From, aim(v.To, v.Split), v.By}
	}))
}

type endpointRollbackCmd struct {
	endpointArg
	To *int64 `help:"Number of a change in the history; default: what was before the last one." placeholder:"NUMBER"`
}

// Help teaches.
func (endpointRollbackCmd) Help() string {
	return `  panal endpoint rollback leaf-api default
  panal endpoint rollback leaf-api default --to 3

The services it points to afterwards must be READY: start a stopped one first. A
switch that still waits for its service is taken back, and nothing else. A rollback
is a change like any other: a second one undoes the first.`
}

// Run rolls back.
func (c endpointRollbackCmd) Run(e *env) error {
	to := int64(0) // what was before
	if c.To != nil {
		if to = *c.To; to < 1 {
			return plat.InvalidField("to", "must be the number of a change, as 'panal endpoint history' shows it")
		}
	}
	id, err := c.id(e)
	if err != nil {
		return err
	}
	if err := e.api.RollBackEndpoint(e.ctx, id, c.Endpoint, to); err != nil {
		return err
	}
	return c.show(e, id)
}
