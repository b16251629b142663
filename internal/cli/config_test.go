// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"panal/internal/cli"
)

// TestConfigPrecedence: flags, then the environment, then the file, then defaults;
// and a key that means nothing is refused.
func TestConfigPrecedence(t *testing.T) {
	file := filepath.Join(t.TempDir(), "panal.yaml")
	show := func(text, env string, args ...string) (string, int) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PANAL_LISTEN", env)
		if env == "" {
			_ = os.Unsetenv("PANAL_LISTEN")
		}
		var out, errs bytes.Buffer
		code := cli.Main(t.Context(), append([]string{"--config", file, "config", "print"}, args...), strings.NewReader(""), &out, &errs)
		return out.String() + errs.String(), code
	}
	const one, two, three = "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"
	for _, c := range []struct {
		name, file, env, flag, want string
		exit                        int
	}{
		{"defaults", "", "", "", "listen: 127.0.0.1:8600\n", 0},
		{"file", "listen: " + one, "", "", "listen: " + one + "\n", 0},
		{"environment over file", "listen: " + one, two, "", "listen: " + two + "\n", 0},
		{"flag over both", "listen: " + one, two, "--listen=" + three, "listen: " + three + "\n", 0},
		{"key of another command", "api-url: http://x", "", "", "listen: 127.0.0.1:8600\n", 0},
		{"unknown key", "lissten: " + one, "", "", `no setting named "lissten"`, 2},
		{"not YAML", "listen: [", "", "", "not YAML", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			var args []string
			if c.flag != "" {
				args = []string{c.flag}
			}
			if out, exit := show(c.file, c.env, args...); exit != c.exit || !strings.Contains(out, c.want) {
				t.Errorf("exit %d, want %d with %q:\n%s", exit, c.exit, c.want, out)
			}
		})
	}
}
