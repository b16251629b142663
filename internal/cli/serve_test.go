// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"panal/internal/cli"
)

// TestNoServerHere: one clear line and the exit code of "not found", and nothing is
// made where there was nothing.
func TestNoServerHere(t *testing.T) {
	data := filepath.Join(t.TempDir(), "none")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"stop", "--data", data}, "no server runs on " + data},
		{[]string{"stop", "--data", data, "--workloads"}, "there is no data directory " + data},
		{[]string{"env", "--data", data}, "panal serve --data " + data},
	} {
		var out, errs bytes.Buffer
		code := cli.Main(t.Context(), c.args, strings.NewReader(""), &out, &errs)
		if code != 5 || !strings.Contains(errs.String(), c.want) {
			t.Errorf("%v = %d\n%s%s", c.args, code, out.String(), errs.String())
		}
	}
	if all, err := filepath.Glob(data); err != nil || len(all) != 0 {
		t.Errorf("made %v %v", all, err)
	}
}
