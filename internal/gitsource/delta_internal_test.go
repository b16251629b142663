// SPDX-License-Identifier: Apache-2.0

package gitsource

import (
	"encoding/binary"
	"math"
	"net/netip"
	"testing"
)

func TestDeltaResult(t *testing.T) {
	for _, size := range []uint64{0, 1, 127, 128, 1 << 30, math.MaxUint64} {
		b := binary.AppendUvarint(binary.AppendUvarint(nil, 300), size)
		if got, ok := deltaResult(append(b, "more"...)); !ok || got != size {
			t.Errorf("%d: %d, %v", size, got, ok)
		}
	}
	for _, bad := range [][]byte{nil, {0x80}, {1}, {1, 0x80}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}} {
		if n, ok := deltaResult(bad); ok {
			t.Errorf("% x: %d", bad, n)
		}
	}
}

func TestPublic(t *testing.T) {
	for _, a := range []string{"8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "172.32.0.1"} {
		if !public(netip.MustParseAddr(a)) {
			t.Errorf("%s is not public", a)
		}
	}
	for _, a := range []string{
		"127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.1.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "192.0.0.8",
		"::1", "::", "::ffff:10.0.0.1", "::7f00:1", "fe80::1%eth0", "fc00::1", "ff02::1", "64:ff9b::a00:1", "2002:a00:1::", "2001:0:1::1", "fec0::1",
	} {
		if public(netip.MustParseAddr(a)) {
			t.Errorf("%s is public", a)
		}
	}
}
