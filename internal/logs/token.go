// SPDX-License-Identifier: Apache-2.0

package logs

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"

	"panal/internal/plat"
)

// Kinds of token: where reading goes on.
const (
	kindNext     = 'n' // ascending, after the position
	kindForward  = 'f' // newer than the position
	kindBackward = 'b' // older than the position
)

const tokenVersion = 1

// cursor is what a token holds: a place in the stream and the query that it
// belongs to, so that a token alone goes on as the first call began.
type cursor struct {
	kind     byte
	pos      Pos
	from, to int64
	contains string
}

// token seals a cursor for one stream. The checksum covers the stream's key, so a
// token of another stream does not open. It guards against mistakes, not against
// forgers: a forged token reads nothing that its bearer may not read anyway.
func (c cursor) token(key string) string {
	b := []byte{tokenVersion, c.kind}
	b = binary.AppendUvarint(b, uint64(c.pos))
	b = binary.AppendVarint(b, c.from)
	b = binary.AppendVarint(b, c.to)
	b = append(b, c.contains...)
	b = binary.BigEndian.AppendUint32(b, c.sum(b, key))
	return base64.RawURLEncoding.EncodeToString(b)
}

func (cursor) sum(b []byte, key string) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(b, table), table, []byte(key))
}

// openToken reads what token wrote for the same stream; ErrInvalid for anything else.
func openToken(s, key string) (cursor, error) {
	bad := plat.Errorf(plat.ErrInvalid, "the token is not one of this stream; start again without a token")
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) < 9 || len(b) > 1024 {
		return cursor{}, bad
	}
	b, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	var c cursor
	if b[0] != tokenVersion || c.sum(b, key) != sum {
		return cursor{}, bad
	}
	r := &reader{b: b[2:]}
	c = cursor{kind: b[1], pos: Pos(r.uint()), from: r.int(), to: r.int(), contains: string(r.b)}
	if r.bad || c.pos < 0 || c.kind != kindNext && c.kind != kindForward && c.kind != kindBackward {
		return cursor{}, bad
	}
	return c, nil
}
