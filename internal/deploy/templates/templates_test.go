// SPDX-License-Identifier: Apache-2.0

package templates_test

import (
	"bytes"
	"testing"

	"panal/internal/deploy/templates"
)

// TestSource: a template is the same source each time it is asked for.
func TestSource(t *testing.T) {
	seen := map[int]bool{}
	for _, tpl := range templates.All() {
		a, err := tpl.Source()
		if err != nil {
			t.Fatal(err)
		}
		b, err := tpl.Source()
		if err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s: %d and %d bytes, %v", tpl.Name, len(a), len(b), err)
		}
		if got, err := templates.Find(tpl.ID); got != tpl || err != nil || seen[tpl.ID] {
			t.Errorf("%s is found as %+v, %v", tpl.Name, got, err)
		}
		seen[tpl.ID] = true
	}
}
