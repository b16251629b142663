// SPDX-License-Identifier: Apache-2.0

package cli

import "testing"

// TestGlobs: what --include and --exclude take.
func TestGlobs(t *testing.T) {
	for _, tt := range []struct {
		include, exclude, name string
		want                   bool
	}{
		{"", "", "a/b.jpg", true},
		{"*.jpg", "", "b.jpg", true},
		{"*.jpg", "", "a/b.jpg", false},
		{"**/*.jpg", "", "a/c/b.jpg", true},
		{"", ".git", ".git/config", false},
		{"", ".git", "a/c/.git/x/config", false},
		{"", ".git", "a/c/.gitignore", true},
		{"", "*.tmp", "a/b.tmp", false},
		{"", "a/*.tmp", "a/b.tmp", false},
		{"", "a/*.tmp", "c/a/b.tmp", true},
		{"", "a/c", "a/c/b.jpg", false},
		{"", "a/c", "d/a/c/b.jpg", true},
		{"**/*.jpg", "c", "a/c/b.jpg", false},
	} {
		g := globs{}
		if tt.include != "" {
			g.Include = []string{tt.include}
		}
		if tt.exclude != "" {
			g.Exclude = []string{tt.exclude}
		}
		if got := g.takes(tt.name); got != tt.want {
			t.Errorf("include %q, exclude %q: %q is taken: %v", tt.include, tt.exclude, tt.name, got)
		}
	}
	for _, g := range []globs{{Include: []string{"{a"}}, {Exclude: []string{""}}} {
		if g.check() == nil {
			t.Errorf("%+v is taken for globs", g)
		}
	}
}
