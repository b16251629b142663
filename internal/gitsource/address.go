// SPDX-License-Identifier: Apache-2.0

package gitsource

import (
	"context"
	"net/netip"
	"syscall"
)

// private are the networks that no public repository is in, beside those that
// netip.Addr knows by itself.
func private() []string {
	return []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
		"203.0.113.0/24", "240.0.0.0/4", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "fec0::/10",
	}
}

// public tells whether an address is one of the public network. Forms that carry
// an address of version 4 inside are not.
func public(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if !a.IsValid() || !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() {
		return false
	}
	for _, p := range private() {
		if netip.MustParsePrefix(p).Contains(a) {
			return false
		}
	}
	return true
}

// mayDial looks at the very address that a connection is being made to, after
// all names are resolved.
func (f *Fetcher) mayDial(_ context.Context, _, address string, _ syscall.RawConn) error {
	if f.AllowPrivate {
		return nil
	}
	a, err := netip.ParseAddrPort(address)
	if err != nil || !public(a.Addr()) {
		return errPrivate
	}
	return nil
}
