// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"strconv"
	"strings"
	"unicode/utf8"

	"panal/internal/authn"
	"panal/internal/org"
	"panal/internal/plat"
	"panal/internal/x/httpx"
)

// peerOf returns from where the request of a context comes.
func peerOf(ctx context.Context) httpx.Peer {
	if info := infoOf(ctx); info != nil {
		return info.peer
	}
	return httpx.Peer{}
}

// exempt tells whether no allow-list holds for a caller: workloads that run on this
// machine, and admins on it, so that they can't lock themselves out for good.
func exempt(id authn.Identity, p httpx.Peer) bool {
	return p.Local && (id.Kind == authn.KindContainer || id.Kind == authn.KindUser && id.Role == authn.RoleAdmin)
}

// reachable refuses a caller whose address its organization's IP rules do not hold
// (data.md §20).
func (a *API) reachable(ctx context.Context, id authn.Identity) error {
	p := peerOf(ctx)
	if a.IPRules == nil || exempt(id, p) {
		return nil
	}
	ok, err := a.IPRules.Allowed(ctx, id.Org, p.Addr)
	switch {
	case err != nil:
		return err
	case !ok && !p.Addr.IsValid():
		return plat.Errorf(plat.ErrForbidden, "the organization's IP rules let only known addresses in, and nobody can tell from where this request comes: its X-Forwarded-For is malformed")
	case !ok:
		return plat.Errorf(plat.ErrForbidden, "the organization's IP rules do not let %s in", p.Addr)
	}
	return nil
}

// nameable refuses a path whose parameters can name nothing: text with a NUL, or no
// text at all, which PostgreSQL takes for an error and not for what is not there. The
// tail of a path that may hold anything is its operation's to check.
func nameable(o operation, param func(string) string) error {
	for rest := o.Path; ; {
		_, after, ok := strings.Cut(rest, "{")
		if !ok {
			return nil
		}
		var name string
		name, rest, _ = strings.Cut(after, "}")
		if v := param(name); name != o.Rest && (strings.IndexByte(v, 0) >= 0 || !utf8.ValidString(v)) {
			return plat.NotFound(strings.ReplaceAll(strings.TrimSuffix(name, "_id"), "_", " "), strconv.Quote(v))
		}
	}
}

// changer is the caller of a change to IP rules.
func changer(ctx context.Context, force bool) org.Caller {
	p := peerOf(ctx)
	return org.Caller{Addr: p.Addr, Exempt: exempt(caller(ctx), p), Force: force}
}
