// SPDX-License-Identifier: Apache-2.0

package archtest_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// sections of data.md that bind a server; each has a test that names it.
const sections = `1 2 3 3.1 4 5.1 5.3 6 7 8 9 10.1 10.2 10.3 10.4 10.5 10.6 11 12.1 12.2 12.3 13 14 15.1 15.2 15.3 15.4 16 17 18 19 20 21 22`

// computeSections are those of compute.md that this version covers. Their numbers are
// data.md's, too, so that a test that means these writes "compute.md §…".
const computeSections = `1.1 1.3 1.4 1.5 1.6 2.1 2.2 2.3 2.4 2.5 2.6 2.7 2.8 2.10 2.11 5.1 5.2 6 6.2 7 8.1 8.2 8.3 11
	12.1 12.2 12.3 13.2 13.3 13.4 13.5 13.8 13.10 13.11 13.12 13.13 15.1 15.3 15.6 15.10`

// checks is how many there are in data.md §22: what breaks a real client.
const checks = 13

var (
	cited   = regexp.MustCompile(`§(\d+(?:\.\d+)?)`)
	checked = regexp.MustCompile(`§22 checks? ([0-9, and]+)|§22\.(\d+)`)
	number  = regexp.MustCompile(`\d+`)
	// A run of sections after the document's name, over the end of a line of a comment.
	compute = regexp.MustCompile(`compute\.md((?:(?:,| and)?\s+(?://\s+)?§\d+(?:\.\d+)?)+)`)
)

// TestEverySectionOfTheWireHasATest: comments of tests and scripts name the sections of
// data.md and compute.md that they hold the server to, and the checks of data.md §22.
func TestEverySectionOfTheWireHasATest(t *testing.T) {
	named, done, computed := map[string]bool{}, map[int]bool{}, map[string]bool{}
	for _, dir := range []string{"../../internal", "../../e2e"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Base(path) == "checks_test.go" || !strings.HasSuffix(path, "_test.go") && !strings.HasSuffix(path, ".txtar") {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, m := range cited.FindAllStringSubmatch(string(text), -1) {
				named[m[1]] = true
			}
			for _, run := range compute.FindAllStringSubmatch(string(text), -1) {
				for _, m := range cited.FindAllStringSubmatch(run[1], -1) {
					computed[m[1]] = true
				}
			}
			for _, m := range checked.FindAllStringSubmatch(string(text), -1) {
				for _, n := range number.FindAllString(m[1]+m[2], -1) {
					i, err := strconv.Atoi(n)
					if err != nil {
						return err
					}
					done[i] = true
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for s := range strings.FieldsSeq(sections) {
		if !named[s] {
			t.Errorf("no test names data.md §%s", s)
		}
	}
	for s := range strings.FieldsSeq(computeSections) {
		if !computed[s] {
			t.Errorf("no test names compute.md §%s", s)
		}
	}
	for i := 1; i <= checks; i++ {
		if !done[i] {
			t.Errorf("no test names check %d of data.md §22", i)
		}
	}
}
