// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"panal/internal/client"
	"panal/internal/plat"
)

// topCmd is the live table of services.
type topCmd struct {
	Once  bool          `help:"Print the table once. So it is, too, with -o json and when the output is no terminal."`
	Every time.Duration `help:"How often to refresh, at least 1s." default:"2s"`
	Limit int           `help:"How many services, busiest first; 1 to 1000." default:"30"`
}

// Help teaches.
func (topCmd) Help() string {
	return `  panal top
  panal top --once -o json

Requests, errors and times are those of the last half minute on the server that is
asked. Errors are answers 5xx and answers cut off. WAIT is requests that wait for
an instance. Leave with Ctrl-C.`
}

// Run shows the table.
func (c topCmd) Run(e *env) error {
	switch {
	case c.Every < time.Second:
		return plat.InvalidField("every", "must be 1s or more")
	case c.Limit < 1:
		return plat.InvalidField("limit", "must be 1 or more")
	}
	live := !c.Once && !e.json && isTerminal(e.stdout)
	tick := time.NewTicker(c.Every)
	defer tick.Stop()
	for {
		t, err := e.api.Traffic(e.ctx, c.Limit)
		if err != nil {
			return err
		}
		if live {
			// Home, then clear: the table is drawn over itself.
			if _, err := io.WriteString(e.stdout, "\x1b[H\x1b[2J"); err != nil {
				return err
			}
		}
		if err := e.print(t, []string{"SERVICE", "DEPLOYMENT", "VERSION", "STATUS", "READY", "REQ/S", "P50", "P99", "ERRORS", "BUSY", "WAIT"}, table(t.Entries, topRow)); err != nil {
			return err
		}
		if !live {
			return nil
		}
		select {
		case <-e.ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func topRow(v client.ServiceTraffic) []string {
	took := func(ms float64) string {
		if v.Requests == 0 {
			return "-"
		}
		return strconv.FormatFloat(ms, 'f', 1, 64) + "ms"
	}
	return []string{
		v.Service, v.Deployment, v.Version, v.Status, fmt.Sprintf("%d/%d", v.Ready, v.Wanted), strconv.FormatFloat(v.PerSecond, 'f', 1, 64),
		took(v.P50), took(v.P99), strconv.Itoa(v.Errors), strconv.Itoa(v.InFlight), strconv.Itoa(v.Waiting),
	}
}
