// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"encoding/binary"
	"strings"
)

// frames follows the frames of one direction of a WebSocket (RFC 6455 §5.2), of which it
// reads no more than their heads, so that a frame of our own can be put between two.
type frames struct {
	head   [14]byte // of a frame that has begun
	have   int      // bytes of it
	left   uint64   // of the frame's payload
	closed bool     // a close frame has gone by: nothing may follow it
}

func (f *frames) between() bool { return f.have == 0 && f.left == 0 }

// pass takes up a piece, and returns the last place in it that is between two frames,
// -1 for none.
func (f *frames) pass(b []byte) int {
	last := -1
	if f.between() {
		last = 0
	}
	for i := 0; i < len(b); {
		if f.left > 0 {
			n := min(f.left, uint64(len(b)-i))
			f.left -= n
			i += int(n)
		} else {
			f.head[f.have] = b[i]
			f.have++
			i++
			f.read()
		}
		if f.between() {
			last = i
		}
	}
	return last
}

// read reads the head, once it is there.
func (f *frames) read() {
	if f.have < 2 {
		return
	}
	extra, size := 0, uint64(f.head[1]&0x7f)
	switch size {
	case 126:
		extra = 2
	case 127:
		extra = 8
	}
	need := 2 + extra
	if f.head[1]&0x80 != 0 { // masked, which a server's are not
		need += 4
	}
	if f.have < need {
		return
	}
	switch extra {
	case 2:
		size = uint64(binary.BigEndian.Uint16(f.head[2:]))
	case 8:
		size = binary.BigEndian.Uint64(f.head[2:])
	}
	f.closed = f.closed || f.head[0]&0x0f == 8
	f.have, f.left = 0, size
}

// goingAway is the close frame that a server sends when it ends: status 1001 and a reason.
func goingAway(reason string) []byte {
	const most = 125 - 2 // a control frame's payload, less the status
	reason = strings.ToValidUTF8(reason[:min(len(reason), most)], "")
	b := []byte{0x88, byte(2 + len(reason)), 1001 >> 8, 1001 & 0xff}
	return append(b, reason...)
}
