// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

type fileFacetsCmd struct {
	channelArg
	Key   string `arg:"" help:"A metadata name (label), or content_type."`
	Query string `arg:"" optional:"" help:"Only files that match, as for find; absent counts all."`
	Limit int    `help:"At most so many values (1 to 1000)." default:"20"`
}

// Help implements kong.HelpProvider.
func (*fileFacetsCmd) Help() string {
	return `Says which values a key has and how many files have each, most first. The counts
are exact: files that are deleted or have expired are not in them.

  panal file facets photos label
  panal file facets photos label 'split:train AND NOT camera:3' --limit 5`
}

// Run counts by value.
func (c *fileFacetsCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	all, more, err := e.api.Facets(e.ctx, id, c.Key, c.Query, c.Limit)
	if err != nil {
		return err
	}
	var rows [][]string
	for _, f := range all {
		// The first one has the most files.
		bar := strings.Repeat("█", max(1, int(f.Count*facetBar/max(1, all[0].Count))))
		rows = append(rows, []string{facetLabel(f.Value), strconv.FormatInt(f.Count, 10), bar})
	}
	return e.print(map[string]any{"key": c.Key, "facets": all, "has_more": more}, []string{"VALUE", "FILES", ""}, rows)
}

const facetBar = 40

// facetLabel makes a value fit a line of the terminal: quoted where it holds what
// does not print, or nothing.
func facetLabel(v string) string {
	if q := strconv.Quote(v); v == "" || q != `"`+v+`"` && !strconv.CanBackquote(v) {
		v = q
	}
	if utf8.RuneCountInString(v) > 60 {
		v = fmt.Sprintf("%s…", string([]rune(v)[:59]))
	}
	return v
}
