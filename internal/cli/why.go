// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"slices"
	"strconv"

	"panal/internal/client"
	"panal/internal/plat"
)

// whyCmd explains a service.
type whyCmd struct {
	Service    string `arg:"" help:"Service id."`
	Deployment string `help:"Its deployment, by id or name. Needed only where the organization has more than 1000 services."`
}

// Help teaches.
func (whyCmd) Help() string {
	return `  panal why ser-7be2d1904c3f4a58

Says in sentences what a service does and why: its instances, how the last ones
ended and when the next one starts, whether there is room, what the scaler decided,
which endpoints point to it, its requests, and which limits turned some away. How
instances ended, requests and limits are those that the asked server knows of: since
it was started, of the last half minute, of the last minutes.`
}

// maxTraffic is how many services the server tells of at most.
const maxTraffic = 1000

// deployment finds where the service is.
func (c whyCmd) deployment(e *env) (string, error) {
	if c.Deployment != "" {
		return deploymentArg{c.Deployment}.id(e)
	}
	t, err := e.api.Traffic(e.ctx, maxTraffic)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(t.Entries, func(s client.ServiceTraffic) bool { return s.Service == c.Service })
	if i < 0 {
		return "", plat.Errorf(plat.ErrNotFound, "service %s was not found among the organization's newest %d; if there are more, say --deployment", c.Service, maxTraffic)
	}
	return t.Entries[i].Deployment, nil
}

// Run explains.
func (c whyCmd) Run(e *env) error {
	dep, err := c.deployment(e)
	if err != nil {
		return err
	}
	w, err := e.api.Why(e.ctx, dep, c.Service)
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(w)
	}
	for _, sentence := range w.Because {
		if _, err := fmt.Fprintln(e.stdout, clean(sentence)); err != nil {
			return err
		}
	}
	for _, t := range whyTables(w) {
		if len(t.rows) == 0 {
			continue
		}
		if _, err := fmt.Fprintln(e.stdout); err != nil {
			return err
		}
		if err := e.print(nil, t.header, t.rows); err != nil {
			return err
		}
	}
	return nil
}

type whyTable struct {
	header []string
	rows   [][]string
}

func whyTables(w client.Why) []whyTable {
	instances := whyTable{header: []string{"INSTANCE", "STATE", "GENERATION", "CREATED", "READY", "REQUESTS"}}
	for _, i := range w.Instances {
		instances.rows = append(instances.rows, []string{i.ID, i.State, strconv.FormatInt(i.Generation, 10), i.CreatedAt, i.ReadyAt, fmt.Sprintf("%d/%d", i.InFlight, i.Limit)})
	}
	ends := whyTable{header: []string{"ENDED", "AT", "CODE", "REASON"}}
	for _, v := range w.Ends {
		code := "-"
		if v.ExitCode != nil {
			code = strconv.Itoa(*v.ExitCode)
		}
		ends.rows = append(ends.rows, []string{v.Instance, v.At, code, firstLine(v.Reason)})
	}
	log := whyTable{header: []string{"LOG", "LINE"}}
	for _, l := range w.Log {
		log.rows = append(log.rows, []string{l.Timestamp, l.Message})
	}
	return []whyTable{instances, ends, log}
}
