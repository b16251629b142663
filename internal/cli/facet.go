// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"strings"
)

type fileFacetsCmd struct {
	channelArg
	Key   string `arg:"" help:"A metadata name, or content_type."`
	Query string `arg:"" optional:"" help:"As for find; absent counts among all files."`
	Limit int    `help:"At most so many values, the most frequent first; up to 1000." default:"20"`
}

// Help implements kong's interface.
func (*fileFacetsCmd) Help() string {
	return `The counts are exact. For example, how the test split is labelled:

  panal file facets digits label 'split:test'`
}

// barWidth is the length of a value that all files have.
const barWidth = 30

// Run counts files by the values of a key.
func (c *fileFacetsCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	f, err := e.api.Facets(e.ctx, id, c.Key, fileQuery(c.Query), c.Limit)
	if err != nil {
		return err
	}
	rows := make([][]string, len(f.Values))
	for i, v := range f.Values {
		share := float64(v.Count) / float64(max(f.Files, 1))
		bar := strings.Repeat("█", int(share*barWidth+0.5))
		rows[i] = []string{v.Value, fmt.Sprint(v.Count), fmt.Sprintf("%.1f%%", 100*share), bar}
	}
	if err := e.print(f, []string{"VALUE", "FILES", "SHARE", ""}, rows); err != nil {
		return err
	}
	if more := f.Distinct - int64(len(f.Values)); more > 0 {
		e.say("%d more values; see --limit", more)
	}
	return nil
}
