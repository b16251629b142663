// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"strings"
	"unicode/utf8"

	"panal/internal/plat"
)

// Bounds of a command.
const (
	maxCommandWords = 256
	maxCommandBytes = 16 << 10
	maxHealthPath   = 1024
)

// checkCommand checks what makes a version a command, and fills in its default.
func (in *NewVersion) checkCommand() error {
	if len(in.Command) == 0 {
		if in.HealthPath != "" {
			return plat.InvalidField("health_path", "belongs to a version with a command; a handler's health is its runtime's")
		}
		return nil
	}
	if in.Handler != "" {
		return plat.InvalidField("command", "a version has either a handler or a command; leave one out")
	}
	if in.HealthPath == "" {
		in.HealthPath = DefaultHealthPath
	}
	total := 0
	for _, w := range in.Command {
		if !utf8.ValidString(w) || strings.ContainsRune(w, 0) {
			return plat.InvalidField("command", "must be UTF-8 without NUL")
		}
		total += len(w)
	}
	switch {
	case strings.TrimSpace(in.Command[0]) == "":
		return plat.InvalidField("command", `names no program: write ["python3", "server.py", "--port", "$PORT"]`)
	case len(in.Command) > maxCommandWords || total > maxCommandBytes:
		return plat.InvalidField("command", "must be at most %d words of %d bytes together", maxCommandWords, maxCommandBytes)
	case len(in.HealthPath) > maxHealthPath || in.HealthPath[0] != '/' || strings.ContainsFunc(in.HealthPath, notInPath):
		return plat.InvalidField("health_path", "must be a path that begins with /, such as /v2/health/ready")
	}
	return nil
}

// notInPath tells what can't stand in the target of a request as it is.
func notInPath(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' }
