// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"
	"strconv"

	"panal/internal/api/compat"
	"panal/internal/authz"
	"panal/internal/org"
	"panal/internal/plat"
)

// IPRule is the wire's line of an allow-list (data.md §20).
type IPRule struct {
	ID          string `json:"id" example:"305"`
	Description string `json:"description"`
	CIDR        string `json:"cidr" example:"203.0.113.0/24"`
	CreatedAt   string `json:"created_at"`
	UpdatedAt   string `json:"updated_at"`
}

// IPRulesAnswer is a page of an allow-list in its envelope: the CIDRs, and beside them the whole rules.
type IPRulesAnswer struct {
	Envelope
	CIDRs   []string `json:"cidrs"`
	Entries []IPRule `json:"entries"`
	Limit   int      `json:"limit"`
	Offset  int      `json:"offset"`
	HasNext bool     `json:"has_next"`
}

// NewIPRule is what a rule is made of.
type NewIPRule struct {
	CIDR        string  `json:"cidr"`
	Description *string `json:"description" nullable:"true"`
}

// IPRuleChange is what a PATCH changes; what is absent or null stays.
type IPRuleChange struct {
	CIDR        *string `json:"cidr" nullable:"true"`
	Description *string `json:"description" nullable:"true"`
}

// IPCheck is an address to check.
type IPCheck struct {
	IPAddress string `json:"ip_address"`
}

// IPCheckAnswer tells whether the address is let in.
type IPCheckAnswer struct {
	Accessible bool   `json:"accessible"`
	IPAddress  string `json:"ip_address"`
}

// ForceFlag is the query of changes that may shut their maker out.
type ForceFlag struct {
	Force compat.Bool `query:"force" doc:"true: also when this shuts out the address that the request comes from"`
}

// IPRulePath is the path parameters of a rule.
type IPRulePath struct {
	OrgPath
	Rule string `path:"cidr_id"`
}

func ipRuleWire(r org.IPRule) IPRule {
	return IPRule{
		ID: strconv.FormatInt(r.ID, 10), Description: r.Description, CIDR: r.Prefix.String(),
		CreatedAt: r.CreatedAt.Format(plat.TimeSecZ), UpdatedAt: r.UpdatedAt.Format(plat.TimeSecZ),
	}
}

func ipRuleAnswer(r org.IPRule, err error) (*IPRule, error) {
	if err != nil {
		return nil, err
	}
	out := ipRuleWire(r)
	return &out, nil
}

// addIPRules adds an organization's allow-list (data.md §20).
func (a *API) addIPRules() {
	const base, one = "/organizations/{organization_id}/security/cidrs", "/organizations/{organization_id}/security/cidrs/{cidr_id}"
	op := func(id, method, path, summary string) operation {
		return operation{ID: id, Method: method, Path: path, Summary: summary, Tag: "security", Family: familyLake, Op: authz.IPRuleAdmin}
	}

	type createIn struct {
		OrgPath
		ForceFlag
		Body *NewIPRule
	}
	register(a, op("create-ip-rule", http.MethodPost, base, "Let a range of addresses in; with the first rule everybody else is shut out"), func(ctx context.Context, in *createIn) (*IPRule, error) {
		var n NewIPRule
		if in.Body != nil {
			n = *in.Body
		}
		r, err := a.IPRules.Create(ctx, caller(ctx).Org, n.CIDR, text(n.Description), changer(ctx, bool(in.Force)))
		if err == nil {
			touched(ctx, "cidr_id", strconv.FormatInt(r.ID, 10))
		}
		return ipRuleAnswer(r, err)
	})

	type listIn struct {
		OrgPath
		OffsetPage
	}
	register(a, op("list-ip-rules", http.MethodGet, base, "List the addresses that are let in; none means all"), func(ctx context.Context, in *listIn) (*IPRulesAnswer, error) {
		p, err := in.page()
		if err != nil {
			return nil, err
		}
		env, err := a.envelope(ctx)
		if err != nil {
			return nil, err
		}
		all, err := a.IPRules.List(ctx, caller(ctx).Org)
		if err != nil {
			return nil, err
		}
		out := &IPRulesAnswer{Envelope: env, CIDRs: []string{}, Entries: []IPRule{}, Limit: p.Limit, Offset: p.Offset}
		for i := p.Offset; i < len(all); i++ {
			if len(out.Entries) == p.Limit {
				out.HasNext = true
				break
			}
			r := ipRuleWire(all[i])
			out.CIDRs, out.Entries = append(out.CIDRs, r.CIDR), append(out.Entries, r)
		}
		return out, nil
	})

	type checkIn struct {
		OrgPath
		Body *IPCheck
	}
	register(a, op("check-ip", http.MethodPost, base+"/check", "Tell whether the rules let an address in"), func(ctx context.Context, in *checkIn) (*IPCheckAnswer, error) {
		var s string
		if in.Body != nil {
			s = in.Body.IPAddress
		}
		addr, err := org.ParseIP(s)
		if err != nil {
			return nil, err
		}
		ok, err := a.IPRules.Allowed(ctx, caller(ctx).Org, addr)
		return &IPCheckAnswer{Accessible: ok, IPAddress: s}, err
	})

	number := func(p IPRulePath) (int64, error) {
		n, err := strconv.ParseInt(p.Rule, 10, 64)
		if err != nil {
			return 0, plat.NotFound("IP rule", p.Rule)
		}
		return n, nil
	}
	register(a, op("get-ip-rule", http.MethodGet, one, "Get an IP rule"), func(ctx context.Context, in *IPRulePath) (*IPRule, error) {
		id, err := number(*in)
		if err != nil {
			return nil, err
		}
		return ipRuleAnswer(a.IPRules.Get(ctx, caller(ctx).Org, id))
	})

	type patchIn struct {
		IPRulePath
		ForceFlag
		Body *IPRuleChange
	}
	register(a, op("update-ip-rule", http.MethodPatch, one, "Change an IP rule"), func(ctx context.Context, in *patchIn) (*IPRule, error) {
		id, err := number(in.IPRulePath)
		if err != nil {
			return nil, err
		}
		var c org.IPRuleChange
		if in.Body != nil {
			c = org.IPRuleChange{CIDR: in.Body.CIDR, Description: in.Body.Description}
		}
		return ipRuleAnswer(a.IPRules.Update(ctx, caller(ctx).Org, id, c, changer(ctx, bool(in.Force))))
	})

	type deleteIn struct {
		IPRulePath
		ForceFlag
	}
	register(a, op("delete-ip-rule", http.MethodDelete, one, "Delete an IP rule; without any, everybody is let in"), func(ctx context.Context, in *deleteIn) (*IPRule, error) {
		id, err := number(in.IPRulePath)
		if err != nil {
			return nil, err
		}
		return ipRuleAnswer(a.IPRules.Delete(ctx, caller(ctx).Org, id, changer(ctx, bool(in.Force))))
	})
}
