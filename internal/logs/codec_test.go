// SPDX-License-Identifier: Apache-2.0

package logs

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func anyLines(rt *rapid.T, first Pos) []Line {
	n := rapid.IntRange(1, 50).Draw(rt, "n")
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "a", "\x00", "epoch 1"}))
	lines, pos := make([]Line, n), first
	for i := range lines {
		lines[i] = Line{
			Pos: pos, Stream: rapid.SampledFrom([]string{"o/a", "o/b", "p/a"}).Draw(rt, "stream"),
			Workload: rapid.SampledFrom([]string{"w1", "w2"}).Draw(rt, "workload"),
			Time:     rapid.Int64Range(0, 1<<55).Draw(rt, "time"), Level: rapid.SampledFrom([]string{"", "info", "error"}).Draw(rt, "level"),
			Message: text.Draw(rt, "message"), RequestID: rapid.SampledFrom([]string{"", "r1", "r2", "r3"}).Draw(rt, "request"),
		}
		pos += 1 + Pos(rapid.SampledFrom([]int64{0, 0, 0, 1, 7, 1 << 39}).Draw(rt, "step"))
	}
	return lines
}

func TestCodecRoundTrip(t *testing.T) {
	c, err := newCodec()
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		first := Pos(rapid.Int64Range(0, 1<<60).Draw(rt, "first"))
		lines := anyLines(rt, first)
		data, err := c.encode(lines, first, rapid.Bool().Draw(rt, "small"))
		if err != nil {
			rt.Fatal(err)
		}
		got, err := c.decode(data, first)
		if err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(lines, got); diff != "" {
			rt.Fatal(diff)
		}
		// A byte less, or another version, is noticed.
		if _, err := c.decode(data[:len(data)-1], first); !errors.Is(err, errRecord) {
			rt.Fatalf("a cut record: %v", err)
		}
		data[0]++
		if _, err := c.decode(data, first); !errors.Is(err, errRecord) {
			rt.Fatalf("another version: %v", err)
		}
	})
}

func TestCodecRefusesDescendingPositions(t *testing.T) {
	c, err := newCodec()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.encode([]Line{{Pos: 2}, {Pos: 1}}, 0, false); err == nil {
		t.Error("descending positions were packed")
	}
}

// FuzzDecode feeds hostile columns: nothing may panic, or give lines that do not
// fit the bounds. The fuzzer writes what is inside the zstd frame, too.
func FuzzDecode(f *testing.F) {
	c, err := newCodec()
	if err != nil {
		f.Fatal(err)
	}
	seed, err := c.encode([]Line{
		{Pos: 5, Stream: "o/a", Workload: "w", Time: 9, Level: "info", Message: "hello"},
		{Pos: 6, Stream: "o/a", Workload: "w", Time: 8, Level: "error", Message: "", RequestID: "r"},
		{Pos: 9, Stream: "o/b", Workload: "v", Time: 10, Level: "info", Message: "é"},
	}, 5, false)
	if err != nil {
		f.Fatal(err)
	}
	raw, err := c.dec.DecodeAll(seed[1:], nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw, true)
	f.Add(seed, false)
	f.Add([]byte{}, true)
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, true)
	f.Fuzz(func(t *testing.T, data []byte, inside bool) {
		if inside {
			data = c.fast.EncodeAll(data, []byte{codecVersion})
		}
		lines, err := c.decode(data, 5)
		if err != nil {
			return
		}
		last := Pos(4)
		for _, l := range lines {
			if l.Pos <= last {
				t.Fatalf("position %d after %d", l.Pos, last)
			}
			last = l.Pos
		}
		if len(lines) == 0 {
			return
		}
		again, err := c.encode(lines, 5, false)
		if err != nil {
			t.Fatal(err)
		}
		back, err := c.decode(again, 5)
		if err != nil || !cmp.Equal(lines, back) {
			t.Fatalf("what was decoded does not survive a round trip: %v", err)
		}
	})
}

func TestTokens(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := cursor{
			kind: rapid.SampledFrom([]byte{kindNext, kindForward, kindBackward}).Draw(rt, "kind"),
			pos:  Pos(rapid.Int64Range(0, 1<<62).Draw(rt, "pos")),
			from: rapid.Int64().Draw(rt, "from"), to: rapid.Int64().Draw(rt, "to"),
			contains: rapid.StringN(0, 20, 100).Draw(rt, "text"),
		}
		s := c.token("o/job/1")
		if got, err := openToken(s, "o/job/1"); err != nil || got != c {
			rt.Fatalf("%+v, %v", got, err)
		}
		if _, err := openToken(s, "o/job/2"); err == nil {
			rt.Fatal("a token of another stream opens")
		}
		b := []byte(s)
		i := rapid.IntRange(0, len(b)-1).Draw(rt, "where")
		if b[i] = rapid.SampledFrom([]byte("AZaz09-_!")).Draw(rt, "byte"); string(b) != s {
			if _, err := openToken(string(b), "o/job/1"); err == nil {
				rt.Fatal("a damaged token opens")
			}
		}
	})
	for _, s := range []string{"!", "AA", "n/0", string(bytes.Repeat([]byte("A"), 5000))} {
		if _, err := openToken(s, "o/job/1"); err == nil {
			t.Errorf("%.10q opens", s)
		}
	}
}
