// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"strings"

	"panal/internal/client"
)

type channelVerifyCmd struct {
	channelArg
	Deep   bool `help:"Read every object and compare its bytes with the ETag."`
	Repair bool `help:"Mend what can be mended without losing data."`
}

// Help is shown by panal channel verify --help.
func (channelVerifyCmd) Help() string {
	return `Compares what the index says of a channel with the objects in storage, with the
change journal, with its own counts and with the search index. Exit code 1 when
something is wrong and not repaired.

A row that is missing is told from a deletion on its way only once the file was not
changed for an hour.

--repair recounts, re-indexes, journals rows that the journal lacks, brings back rows
that the journal has and whose objects are there, and removes objects older than a day
that are nobody's. It leaves rows whose object is missing, short or altered: their
metadata is all that is left of them. Restore the object, or delete the file.`
}

// Run verifies a channel.
func (c *channelVerifyCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	out, err := e.api.VerifyChannel(e.ctx, id, c.Deep, c.Repair)
	if err != nil {
		return err
	}
	return e.printVerified("channel "+id, out)
}

func (e *env) printVerified(what string, out client.Verified) error {
	rows := make([][]string, len(out.Findings))
	for i, f := range out.Findings {
		rows[i] = []string{f.Kind, fmt.Sprint(f.Found), fmt.Sprint(f.Repaired), strings.Join(f.Examples, " ")}
	}
	if err := e.print(out, []string{"KIND", "FOUND", "REPAIRED", "EXAMPLES"}, rows); err != nil {
		return err
	}
	if len(out.Findings) == 0 {
		e.say("%d looked at, nothing wrong", out.Files)
	}
	if out.Young > 0 {
		e.say("%d not judged: too young, an upload or a deletion may still be at work on them", out.Young)
	}
	if out.Left > 0 {
		return fmt.Errorf("%s: %d of what was found is still wrong", what, out.Left)
	}
	return nil
}
