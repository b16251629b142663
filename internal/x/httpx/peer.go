// SPDX-License-Identifier: Apache-2.0

package httpx

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Peer is from where a request comes.
type Peer struct {
	// Addr is the client's address, unmapped and without a zone; not valid when nobody
	// can tell it.
	Addr netip.Addr
	// Local is true when the client is on this machine and spoke to us directly: over
	// loopback, or from the very address that it reached, with no sign of a proxy.
	Local bool
}

// headersOfProxies are what a request that passed a proxy carries.
var headersOfProxies = [...]string{"X-Forwarded-For", "Forwarded", "X-Real-Ip", "Via"} //nolint:gochecknoglobals // a constant, as near as Go has arrays of them

// PeerOf tells from where r comes. X-Forwarded-For counts only where a trusted proxy
// wrote it: each proxy appends whom it was asked by, so the list is read from its
// right end, and the first address that is not a trusted proxy's is the client's,
// whatever stands left of it. A list that can't be read that far gives no address;
// one of trusted proxies alone gives its left end. A header that somebody else than a trusted proxy sent says nothing about
// the address, but makes the client not Local: a proxy on this machine that nobody
// declared must not make the world look local.
func PeerOf(r *http.Request, trusted []netip.Prefix) Peer {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return Peer{}
	}
	p := Peer{Addr: plainAddr(ap.Addr())}
	for _, h := range headersOfProxies {
		if len(r.Header[h]) > 0 {
			if isIn(trusted, p.Addr) {
				p.Addr = forwardedFor(r.Header["X-Forwarded-For"], p.Addr, trusted)
			}
			return p
		}
	}
	p.Local = p.Addr.IsLoopback() || p.Addr == localAddr(r)
	return p
}

// forwardedFor reads the lines of X-Forwarded-For from the right.
func forwardedFor(lines []string, a netip.Addr, trusted []netip.Prefix) netip.Addr {
	for _, line := range slices.Backward(lines) {
		for rest, more := line, true; more; {
			var entry string
			if cut := strings.LastIndexByte(rest, ','); cut >= 0 {
				rest, entry = rest[:cut], rest[cut+1:]
			} else {
				entry, more = rest, false
			}
			if a = forwardedAddr(strings.TrimSpace(entry)); !isIn(trusted, a) {
				return a
			}
		}
	}
	return a
}

// forwardedAddr reads one entry: an address, with or without brackets and port; not
// valid for anything else.
func forwardedAddr(s string) netip.Addr {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return plainAddr(a)
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return plainAddr(ap.Addr())
	}
	return netip.Addr{}
}

func plainAddr(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

func isIn(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// localAddr is the address of this machine that the client reached.
func localAddr(r *http.Request) netip.Addr {
	if l, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		return plainAddr(l.AddrPort().Addr())
	}
	return netip.Addr{}
}

// ParsePrefixes reads a comma list of CIDRs and addresses; bad is the entry that is none.
func ParsePrefixes(s string) (list []netip.Prefix, bad string) {
	for entry := range strings.SplitSeq(s, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		p, err := netip.ParsePrefix(entry)
		if a, aerr := netip.ParseAddr(entry); aerr == nil && a.Zone() == "" {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err == nil && p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		if err != nil {
			return nil, entry
		}
		list = append(list, p.Masked())
	}
	return list, ""
}
