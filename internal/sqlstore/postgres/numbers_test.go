// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"io/fs"
	"regexp"
	"strings"
	"testing"
)

// TestNumbersAreBigint: rows that are copied have 8 bytes for each number (copyIn), and COPY
// converts nothing. So a narrower column would refuse them, but only from copyFrom rows on.
func TestNumbersAreBigint(t *testing.T) {
	narrow := regexp.MustCompile(`(?i)\b(integer|int|int2|int4|smallint|real)\b`)
	err := fs.WalkDir(migrations, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, "0020_organization.sql") { // audit's: its status is a Go int, which is never copied
			return err
		}
		text, err := fs.ReadFile(migrations, path)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			sql, _, _ := strings.Cut(line, "--")
			if m := narrow.FindString(sql); m != "" {
				t.Errorf("%s: %q in %q; use BIGINT", path, m, strings.TrimSpace(line))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
