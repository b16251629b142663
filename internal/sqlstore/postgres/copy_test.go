// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCopyBody: the format is PostgreSQL's, byte for byte; what has no form in it is refused.
func TestCopyBody(t *testing.T) {
	got, err := copyBody([]any{[]int64{1, -1}, []string{"é", ""}, []bool{true, false}})
	if err != nil {
		t.Fatal(err)
	}
	want := "PGCOPY\n\xff\r\n\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00" +
		"\x00\x03" + "\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x01" + "\x00\x00\x00\x02\xc3\xa9" + "\x00\x00\x00\x01\x01" +
		"\x00\x03" + "\x00\x00\x00\x08\xff\xff\xff\xff\xff\xff\xff\xff" + "\x00\x00\x00\x00" + "\x00\x00\x00\x01\x00" + "\xff\xff"
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Error(d)
	}
	for want, cols := range map[string][]any{
		"columns of 1 and 2 rows": {[]int64{1}, []string{"a", "b"}},
		"column is a []float64":   {[]float64{1}},
	} {
		if _, err := copyBody(cols); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("copyBody(%v): %v, want %q", cols, err, want)
		}
	}
}
