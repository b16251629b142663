// SPDX-License-Identifier: Apache-2.0

package org

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"panal/internal/plat"
	"panal/internal/x/outage"
)

// IPRule is one line of an organization's allow-list (data.md §20).
type IPRule struct {
	ID          int64
	Org         plat.OrgID
	Prefix      netip.Prefix
	Description string
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// IPRuleStore keeps allow-lists. A rule of another organization is ErrNotFound.
type IPRuleStore interface {
	// IPRules returns all rules of an organization in the order of their ids.
	IPRules(ctx context.Context, org plat.OrgID) ([]IPRule, error)
	// CreateIPRule stores r under a new id and returns it. guard sees the list as it
	// would be; its error is returned and nothing changes. Changes of one
	// organization's list wait for each other, so that what guard saw is what holds.
	CreateIPRule(ctx context.Context, r IPRule, guard func([]IPRule) error) (IPRule, error)
	// UpdateIPRule applies change to a rule and stores it.
	UpdateIPRule(ctx context.Context, org plat.OrgID, id int64, change func(*IPRule), guard func([]IPRule) error) (IPRule, error)
	// DeleteIPRule removes a rule and returns what it was.
	DeleteIPRule(ctx context.Context, org plat.OrgID, id int64, guard func([]IPRule) error) (IPRule, error)
}

const (
	// rulesFresh is how long another process's change may go unnoticed.
	rulesFresh = 2 * time.Second
	maxIPRules = 1000
)

// IPRules is the rules around allow-lists, and the lists in memory: a request costs
// no look-up. It is safe for concurrent use.
type IPRules struct {
	store IPRuleStore
	now   plat.Clock
	watch *outage.Watch

	mu    sync.Mutex
	lists map[plat.OrgID]*ipList
	// changes counts this process's changes: a list that was read before one is not
	// kept after it.
	changes uint64
}

type ipList struct {
	allow    []netip.Prefix
	at       time.Time
	fetching bool // somebody reads it anew; others go on with what there is
}

// NewIPRules returns the service.
func NewIPRules(s IPRuleStore, now plat.Clock) *IPRules {
	return &IPRules{store: s, now: now, watch: new(outage.Watch), lists: map[plat.OrgID]*ipList{}}
}

// Share is authn.Authenticator.Share, for the lists.
func (s *IPRules) Share(w *outage.Watch) { s.watch = w }

// Caller is from where a change is asked for, and whether to make it even when it
// would shut that address out.
type Caller struct {
	Addr   netip.Addr
	Exempt bool // no list holds for this caller
	Force  bool
}

// IPRuleChange is what an update changes; nil stays.
type IPRuleChange struct {
	CIDR        *string
	Description *string
}

// ParseCIDR reads a CIDR, or an address, which is a CIDR of its own. An IPv4 prefix
// in IPv6 clothes is the IPv4 prefix.
func ParseCIDR(s string) (netip.Prefix, error) {
	var p netip.Prefix
	var err error
	if strings.Contains(s, "/") {
		p, err = netip.ParsePrefix(s)
	} else {
		var a netip.Addr
		if a, err = netip.ParseAddr(s); err == nil && a.Zone() == "" {
			p = netip.PrefixFrom(a, a.BitLen())
		}
	}
	if err != nil || !p.IsValid() {
		return netip.Prefix{}, plat.InvalidField("cidr", "%.64q is not a CIDR such as 203.0.113.0/24 or 2001:db8::/32", s)
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return netip.Prefix{}, plat.InvalidField("cidr", "%s is wider than all IPv4 addresses; write 0.0.0.0/0", s)
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if p != p.Masked() {
		return netip.Prefix{}, plat.InvalidField("cidr", "%s has bits set behind its prefix; write %s for the network or %s for the one address", s, p.Masked(), netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
	}
	return p, nil
}

// ParseIP reads an address; an IPv4 address in IPv6 clothes is the IPv4 address.
func ParseIP(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, plat.InvalidField("ip_address", "%.64q is not an IPv4 or IPv6 address", s)
	}
	return a.Unmap(), nil
}

func allowed(list []netip.Prefix, a netip.Addr) bool {
	if len(list) == 0 {
		return true
	}
	a = a.Unmap().WithZone("")
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func prefixes(rules []IPRule) []netip.Prefix {
	list := make([]netip.Prefix, len(rules))
	for i, r := range rules {
		list[i] = r.Prefix
	}
	return list
}

// Allowed tells whether an organization may be reached from an address: always
// without rules, else when one holds it. An address that is not valid (nobody knows
// it) is held by none. It reads the store once in a while only; while the store is
// away, lists that were seen hold on, and others are ErrUnavailable.
func (s *IPRules) Allowed(ctx context.Context, org plat.OrgID, a netip.Addr) (bool, error) {
	now := s.now()
	s.mu.Lock()
	l, changes := s.lists[org], s.changes
	if l != nil {
		age := now.Sub(l.at)
		if fresh := age >= 0 && age < rulesFresh; fresh || l.fetching && s.watch.Good(l.at, now) { // a clock set back makes nothing fresh
			s.mu.Unlock()
			return allowed(l.allow, a), nil
		}
		l.fetching = true
	}
	s.mu.Unlock()
	var rules []IPRule
	err := s.watch.Ask(ctx, now, l != nil, func(ctx context.Context) (err error) {
		rules, err = s.store.IPRules(ctx, org)
		return err
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if l != nil {
		l.fetching = false
	}
	switch {
	case err == nil:
		list := prefixes(rules)
		if changes == s.changes {
			s.lists[org] = &ipList{allow: list, at: now}
		}
		return allowed(list, a), nil
	case l != nil && s.watch.Good(l.at, now):
		return allowed(l.allow, a), nil
	}
	return false, &plat.Error{Kind: plat.ErrUnavailable, Public: "the organization's IP rules can't be checked right now; try again", Err: fmt.Errorf("read IP rules: %w", err)}
}

func (s *IPRules) forget(org plat.OrgID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes++
	delete(s.lists, org)
}

// guard refuses a list that would shut its maker out.
func (c Caller) guard(after []IPRule) error {
	if len(after) > maxIPRules {
		return plat.Errorf(plat.ErrInvalid, "an organization has at most %d IP rules; delete some, or write wider ones", maxIPRules)
	}
	if c.Exempt || c.Force || allowed(prefixes(after), c.Addr) {
		return nil
	}
	from := "your address"
	if c.Addr.IsValid() {
		from += " (" + c.Addr.String() + ")"
	}
	return plat.InvalidField("cidr", "this would shut out %s; add a rule for it first, or repeat with force=true", from)
}

// adding is guard for a change that brings a range in, which no other rule may have: who
// deletes that one would believe the range to be out.
func (c Caller) adding(p netip.Prefix) func([]IPRule) error {
	return func(after []IPRule) error {
		same := func(r IPRule) bool { return r.Prefix == p }
		first := slices.IndexFunc(after, same)
		if slices.ContainsFunc(after[first+1:], same) {
			return plat.InvalidField("cidr", "%s is rule %d already", p, after[first].ID)
		}
		return c.guard(after)
	}
}

// List returns all rules in the order of their ids.
func (s *IPRules) List(ctx context.Context, org plat.OrgID) ([]IPRule, error) {
	return s.store.IPRules(ctx, org)
}

// Get returns a rule.
func (s *IPRules) Get(ctx context.Context, org plat.OrgID, id int64) (IPRule, error) {
	all, err := s.store.IPRules(ctx, org)
	if err != nil {
		return IPRule{}, err
	}
	for _, r := range all {
		if r.ID == id {
			return r, nil
		}
	}
	return IPRule{}, plat.NotFound("IP rule", id)
}

// Create adds a rule. Like every change, it is refused when it would shut out its
// caller, and holds for this process's next request.
func (s *IPRules) Create(ctx context.Context, org plat.OrgID, cidr, description string, by Caller) (IPRule, error) {
	p, err := ParseCIDR(cidr)
	if err != nil {
		return IPRule{}, err
	}
	if err := checkText("description", description); err != nil {
		return IPRule{}, err
	}
	defer s.forget(org)
	now := s.now()
	return s.store.CreateIPRule(ctx, IPRule{Org: org, Prefix: p, Description: description, CreatedAt: now, UpdatedAt: now}, by.adding(p))
}

// Update changes a rule.
func (s *IPRules) Update(ctx context.Context, org plat.OrgID, id int64, c IPRuleChange, by Caller) (IPRule, error) {
	var p netip.Prefix
	if c.CIDR != nil {
		var err error
		if p, err = ParseCIDR(*c.CIDR); err != nil {
			return IPRule{}, err
		}
	}
	if c.Description != nil {
		if err := checkText("description", *c.Description); err != nil {
			return IPRule{}, err
		}
	}
	guard := by.guard
	if c.CIDR != nil {
		guard = by.adding(p)
	}
	defer s.forget(org)
	return s.store.UpdateIPRule(ctx, org, id, func(r *IPRule) {
		if c.CIDR != nil {
			r.Prefix = p
		}
		if c.Description != nil {
			r.Description = *c.Description
		}
		r.UpdatedAt = s.now()
	}, guard)
}

// Delete removes a rule. Without rules, everybody is let in.
func (s *IPRules) Delete(ctx context.Context, org plat.OrgID, id int64, by Caller) (IPRule, error) {
	defer s.forget(org)
	return s.store.DeleteIPRule(ctx, org, id, by.guard)
}
