// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"encoding/binary"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// emptyLineLast is how the standard reads a stream of events: line by line.
func emptyLineLast(s string) bool {
	s = strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n")
	return s == "" || s == "\n" || strings.HasSuffix(s, "\n\n")
}

// TestBetweenEvents: however the stream comes in pieces, the flow knows when it is
// between two events, and finds the last such place in a piece.
func TestBetweenEvents(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f := &flow{}
		f.orderly = true
		f.between.Store(true)
		sent := ""
		text := rapid.StringOfN(rapid.RuneFrom([]rune("d:\n\r")), 0, 12, -1)
		for range rapid.IntRange(1, 6).Draw(rt, "pieces") {
			b := text.Draw(rt, "piece")
			f.gave([]byte(b))
			if sent += b; f.between.Load() != emptyLineLast(sent) {
				rt.Fatalf("after %q between is %t", sent, f.between.Load())
			}
		}
		why := EndStopped
		f.why.Store(&why)
		b := text.Draw(rt, "last piece")
		want := -1
		for i := len(b); i >= 0 && want < 0; i-- {
			if emptyLineLast(sent + b[:i]) {
				want = i
			}
		}
		if got := f.endAt([]byte(b)); got != want {
			rt.Fatalf("after %q, %q ends at %d, want %d", sent, b, got, want)
		}
	})
}

// TestFrames: however frames of any size come in pieces, the last place between two of
// them is found, and a close frame is seen.
func TestFrames(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var all []byte
		ends := map[int]bool{0: true}
		closed := false
		for range rapid.IntRange(0, 6).Draw(rt, "frames") {
			op := rapid.SampledFrom([]byte{0x81, 0x02, 0x80, 0x89, 0x88}).Draw(rt, "first byte")
			size := rapid.SampledFrom([]int{0, 1, 125, 126, 300, 65535, 65536, 70000}).Draw(rt, "size")
			mask := rapid.SampledFrom([]byte{0, 0, 0x80}).Draw(rt, "mask")
			all = append(all, op)
			switch {
			case size < 126:
				all = append(all, mask|byte(size))
			case size < 65536:
				all = binary.BigEndian.AppendUint16(append(all, mask|126), uint16(size))
			default:
				all = binary.BigEndian.AppendUint64(append(all, mask|127), uint64(size))
			}
			if mask != 0 {
				all = append(all, 1, 2, 3, 4)
			}
			all = append(all, make([]byte, size)...)
			ends[len(all)] = true
			closed = closed || op&0x0f == 8
		}
		var fr frames
		for at := 0; at < len(all); {
			n := min(rapid.SampledFrom([]int{1, 2, 3, 7, 100, 50_000}).Draw(rt, "piece"), len(all)-at)
			want := -1
			for i := n; i >= 0 && want < 0; i-- {
				if ends[at+i] {
					want = i
				}
			}
			if got := fr.pass(all[at : at+n]); got != want || fr.between() != ends[at+n] {
				rt.Fatalf("bytes %d to %d: last place %d, want %d; between %t", at, at+n, got, want, fr.between())
			}
			at += n
		}
		if fr.closed != closed {
			rt.Fatalf("a close frame was seen: %t", fr.closed)
		}
	})
}

// TestGoingAway: a close frame is a control frame, whatever it has to say.
func TestGoingAway(t *testing.T) {
	for _, reason := range []string{"", "x", strings.Repeat("ü", 100)} {
		b := goingAway(reason)
		var fr frames
		if fr.pass(b) != len(b) || !fr.closed || len(b) > 127 || binary.BigEndian.Uint16(b[2:]) != 1001 || !strings.HasPrefix(reason, string(b[4:])) {
			t.Errorf("%q: %q", reason, b)
		}
	}
}
