// SPDX-License-Identifier: Apache-2.0

package httpx_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"panal/internal/x/httpx"
)

func TestPeerOf(t *testing.T) {
	const proxies = "10.0.0.0/8, 127.0.0.1, 2001:db8:1::/48, ::ffff:192.0.2.0/120"
	for _, c := range []struct {
		what, remote string
		forwarded    []string
		want         string // "" is an address that nobody can tell
		local        bool
	}{
		{"direct", "203.0.113.7:1", nil, "203.0.113.7", false},
		{"loopback", "127.0.0.1:1", nil, "127.0.0.1", true},
		{"loopback, IPv6", "[::1]:1", nil, "::1", true},
		{"loopback, mapped", "[::ffff:127.0.0.1]:1", nil, "127.0.0.1", true},
		{"another loopback address", "127.9.9.9:1", nil, "127.9.9.9", true},
		{"the machine's own address", "198.51.100.1:1", nil, "198.51.100.1", true},
		{"zone", "[fe80::1%eth0]:1", nil, "fe80::1", false},
		{"no address", "@", nil, "", false},

		{"not a proxy of ours", "203.0.113.7:1", []string{"198.51.100.9"}, "203.0.113.7", false},
		{"undeclared proxy on this machine", "[::1]:1", []string{"198.51.100.9"}, "::1", false},
		{"undeclared proxy, empty header", "[::1]:1", []string{""}, "::1", false},
		{"proxy", "10.1.2.3:1", []string{"198.51.100.9"}, "198.51.100.9", false},
		{"proxy, mapped", "[::ffff:10.1.2.3]:1", []string{"::ffff:198.51.100.9"}, "198.51.100.9", false},
		{"proxy given as a mapped prefix", "192.0.2.9:1", []string{"198.51.100.9"}, "198.51.100.9", false},
		{"proxy, IPv6", "[2001:db8:1::5]:1", []string{"2001:db8:9::1"}, "2001:db8:9::1", false},
		{"two proxies", "10.1.2.3:1", []string{"198.51.100.9, 10.9.9.9"}, "198.51.100.9", false},
		{"two proxies, two lines", "10.1.2.3:1", []string{"198.51.100.9", "10.9.9.9"}, "198.51.100.9", false},
		{"forged entries stand left", "10.1.2.3:1", []string{"10.0.0.1, 127.0.0.1, 198.51.100.9, 10.9.9.9"}, "198.51.100.9", false},
		{"forged garbage stands left", "10.1.2.3:1", []string{"'; DROP TABLE, \x00, 198.51.100.9"}, "198.51.100.9", false},
		{"a forged line before", "10.1.2.3:1", []string{"127.0.0.1", "198.51.100.9"}, "198.51.100.9", false},
		{"proxies only", "10.1.2.3:1", []string{"10.7.7.7, 10.9.9.9"}, "10.7.7.7", false},
		{"ports and brackets", "10.1.2.3:1", []string{"[2001:db8:9::1]:443, 10.9.9.9:80"}, "2001:db8:9::1", false},
		{"brackets without port", "10.1.2.3:1", []string{"[2001:db8:9::1]"}, "2001:db8:9::1", false},
		{"garbage where the proxy writes", "10.1.2.3:1", []string{"198.51.100.9, unknown"}, "", false},
		{"nothing where the proxy writes", "10.1.2.3:1", []string{"198.51.100.9,"}, "", false},
		{"an empty header", "10.1.2.3:1", []string{""}, "", false},
		{"octal is no address", "10.1.2.3:1", []string{"0177.0.0.1"}, "", false},
		{"a number is no address", "10.1.2.3:1", []string{"2130706433"}, "", false},
		{"endless", "10.1.2.3:1", []string{strings.Repeat("10.0.0.1,", 10_000) + "10.0.0.1"}, "10.0.0.1", false},
		{"a proxy that says nothing", "127.0.0.1:1", nil, "127.0.0.1", true},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.ParseIP("198.51.100.1"), Port: 80}))
		r.RemoteAddr = c.remote
		if c.forwarded != nil {
			r.Header["X-Forwarded-For"] = c.forwarded
		}
		trusted, bad := httpx.ParsePrefixes(proxies)
		if bad != "" {
			t.Fatal(bad)
		}
		got := httpx.PeerOf(r, trusted)
		if text := got.Addr.String(); got.Local != c.local || got.Addr.IsValid() != (c.want != "") || c.want != "" && text != c.want {
			t.Errorf("%s: %+v, want %q, local %v", c.what, got, c.want, c.local)
		}
	}
	for _, h := range []string{"Forwarded", "Via", "X-Real-Ip"} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = "127.0.0.1:1"
		r.Header.Set(h, "for=198.51.100.9")
		if httpx.PeerOf(r, nil).Local {
			t.Errorf("a request with %s counts as local", h)
		}
	}
}

func TestParsePrefixes(t *testing.T) {
	for in, want := range map[string]string{
		"": "", " , ": "", "10.0.0.0/8,::1": "", "10.0.0.0/33": "10.0.0.0/33", "10.0.0.0/8, proxy.example": "proxy.example", "fe80::1%eth0": "fe80::1%eth0",
	} {
		if _, bad := httpx.ParsePrefixes(in); bad != want {
			t.Errorf("%q: bad = %q, want %q", in, bad, want)
		}
	}
}
