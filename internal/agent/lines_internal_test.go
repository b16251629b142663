// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"testing"

	"panal/internal/logs/spool"
)

// A program that prints nothing makes nothing grow, however many requests it answers;
// of one that prints, each line belongs to the request during which it began.
func TestSpansOfASilentProgram(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	sp, err := spool.Open(root, spool.Options{Workload: "wl-1", Stream: "x/1"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLineReader(r, "info", &sink{ctx: t.Context(), spool: sp})
	if err != nil {
		t.Fatal(err)
	}
	for range 10_000 {
		l.tag("a")
		l.tag("")
	}
	if n := len(l.spans); n > 1 {
		t.Errorf("%d spans", n)
	}
	l.tag("b")
	if _, err := w.WriteString("one\ntwo"); err != nil {
		t.Fatal(err)
	}
	l.tag("")
	if _, err := w.WriteString("\nthree\n"); err != nil {
		t.Fatal(err)
	}
	l.tag("c")
	if _, err := w.WriteString("four\n"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		at   int64
		want string
	}{{0, "b"}, {4, "b"}, {8, ""}, {14, "c"}} {
		if got := l.owner(c.at); got != c.want {
			t.Errorf("byte %d belongs to %q, want %q", c.at, got, c.want)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l.run()
}
