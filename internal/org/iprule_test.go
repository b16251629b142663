// SPDX-License-Identifier: Apache-2.0

package org_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"panal/internal/org"
	"panal/internal/plat"
)

// ruleStore is a store whose list and failures a test sets.
type ruleStore struct {
	org.IPRuleStore
	mu    sync.Mutex
	rules []org.IPRule
	err   error
	reads int
	hold  chan struct{} // reads wait for it to close
}

func (s *ruleStore) IPRules(context.Context, plat.OrgID) ([]org.IPRule, error) {
	s.mu.Lock()
	s.reads++
	rules, err, hold := s.rules, s.err, s.hold
	s.mu.Unlock()
	if hold != nil {
		<-hold
	}
	return rules, err
}

func (s *ruleStore) CreateIPRule(_ context.Context, r org.IPRule, guard func([]org.IPRule) error) (org.IPRule, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.ID = int64(len(s.rules) + 1)
	after := append(slices.Clip(s.rules), r)
	if err := guard(after); err != nil {
		return org.IPRule{}, err
	}
	s.rules = after
	return r, nil
}

func (s *ruleStore) UpdateIPRule(_ context.Context, _ plat.OrgID, id int64, change func(*org.IPRule), guard func([]org.IPRule) error) (org.IPRule, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	after := slices.Clone(s.rules)
	change(&after[id-1])
	if err := guard(after); err != nil {
		return org.IPRule{}, err
	}
	s.rules = after
	return after[id-1], nil
}

func rules(cidrs ...string) (all []org.IPRule) {
	for _, c := range cidrs {
		all = append(all, org.IPRule{Prefix: netip.MustParsePrefix(c)})
	}
	return all
}

func allowed(t *testing.T, s *org.IPRules, addr string) bool {
	t.Helper()
	ok, err := s.Allowed(t.Context(), "o", netip.MustParseAddr(addr))
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

func TestAllowed(t *testing.T) {
	for _, c := range []struct {
		rules []org.IPRule
		addr  string
		want  bool
	}{
		{nil, "198.51.100.9", true},
		{rules("203.0.113.0/24"), "203.0.113.255", true},
		{rules("203.0.113.0/24"), "203.0.114.0", false},
		{rules("203.0.113.0/24"), "::ffff:203.0.113.1", true},
		{rules("203.0.113.0/24"), "::cb00:7101", false}, // the old "compatible" form is another address
		{rules("2001:db8::/32"), "2001:db8:ffff::1", true},
		{rules("2001:db8::/32"), "203.0.113.1", false},
		{rules("fe80::/10"), "fe80::1%eth0", true},
		{rules("0.0.0.0/0"), "198.51.100.9", true},
		{rules("0.0.0.0/0"), "2001:db8::1", false},
		{rules("::/0"), "198.51.100.9", false},
		{rules("10.0.0.0/8", "203.0.113.7/32"), "203.0.113.7", true},
	} {
		if got := allowed(t, org.NewIPRules(&ruleStore{rules: c.rules}, plat.SystemClock), c.addr); got != c.want {
			t.Errorf("%s by %v = %v", c.addr, c.rules, got)
		}
	}
	s := org.NewIPRules(&ruleStore{rules: rules("0.0.0.0/0", "::/0")}, plat.SystemClock)
	if ok, err := s.Allowed(t.Context(), "o", netip.Addr{}); ok || err != nil {
		t.Errorf("an address that nobody knows = %v, %v", ok, err)
	}
}

// TestListsInMemory: a request costs no look-up; another process's change counts within
// 2 s, this one's at once; while the store is away what was seen holds for half an hour, and
// then nobody is let in by guess.
func TestListsInMemory(t *testing.T) {
	st, now := &ruleStore{rules: rules("203.0.113.0/24")}, time.Unix(9000, 0)
	s := org.NewIPRules(st, func() time.Time { return now })
	for range 1000 {
		if !allowed(t, s, "203.0.113.7") || allowed(t, s, "198.51.100.9") {
			t.Fatal("wrong answer")
		}
	}
	if st.reads != 1 {
		t.Errorf("2000 requests read the store %d times", st.reads)
	}
	st.rules = rules("198.51.100.0/24") // by another process
	if now = now.Add(2 * time.Second); allowed(t, s, "203.0.113.7") {
		t.Error("after 2 s, another process's change does not count")
	}
	if _, err := s.Create(t.Context(), "o", "203.0.113.0/24", "", org.Caller{Addr: netip.MustParseAddr("203.0.113.7")}); err != nil || !allowed(t, s, "203.0.113.7") {
		t.Errorf("this process's change does not count at once (%v)", err)
	}
	st.err = errors.New("connection refused")
	if now = now.Add(29 * time.Minute); !allowed(t, s, "203.0.113.7") || allowed(t, s, "192.0.2.1") {
		t.Error("store away: the list that was seen does not hold on")
	}
	now = now.Add(2 * time.Minute)
	if ok, err := s.Allowed(t.Context(), "o", netip.MustParseAddr("203.0.113.7")); ok || !errors.Is(err, plat.ErrUnavailable) {
		t.Errorf("store away for 31 minutes: %v, %v", ok, err)
	}
	if ok, err := s.Allowed(t.Context(), "new", netip.MustParseAddr("203.0.113.7")); ok || !errors.Is(err, plat.ErrUnavailable) {
		t.Errorf("store away, organization not seen: %v, %v", ok, err)
	}
	st.err = nil
	if now = now.Add(-time.Hour); !allowed(t, s, "203.0.113.7") { // a clock that was set back
		t.Error("store back: not let in")
	}
}

// TestOneReadsForAll: while one request reads the list anew, the others do not wait.
func TestOneReadsForAll(t *testing.T) {
	st, now := &ruleStore{rules: rules("203.0.113.0/24")}, time.Unix(9000, 0)
	s := org.NewIPRules(st, func() time.Time { return now })
	allowed(t, s, "203.0.113.7")
	now = now.Add(time.Minute)
	hold := make(chan struct{})
	st.mu.Lock()
	st.hold, st.reads = hold, 0
	st.mu.Unlock()
	done := make(chan bool)
	go func() {
		ok, err := s.Allowed(context.Background(), "o", netip.MustParseAddr("203.0.113.7"))
		done <- ok && err == nil
	}()
	for reading := false; !reading; time.Sleep(time.Millisecond) {
		st.mu.Lock()
		reading = st.reads == 1
		st.mu.Unlock()
	}
	for range 100 {
		if !allowed(t, s, "203.0.113.7") {
			t.Fatal("not let in")
		}
	}
	close(hold)
	if !<-done || st.reads != 1 {
		t.Errorf("%d reads", st.reads)
	}
}

// TestReadBeforeAChangeIsNotKeptAfter: the list that a slow read returns may be older
// than a change that was answered meanwhile.
func TestReadBeforeAChangeIsNotKeptAfter(t *testing.T) {
	st := &ruleStore{hold: make(chan struct{})}
	s := org.NewIPRules(st, plat.SystemClock)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = s.Allowed(context.Background(), "o", netip.MustParseAddr("198.51.100.9"))
	}()
	for reading := false; !reading; time.Sleep(time.Millisecond) {
		st.mu.Lock()
		reading = st.reads == 1
		st.mu.Unlock()
	}
	if _, err := s.Create(t.Context(), "o", "203.0.113.0/24", "", org.Caller{Force: true}); err != nil {
		t.Fatal(err)
	}
	close(st.hold)
	<-done
	if allowed(t, s, "198.51.100.9") {
		t.Error("a list from before the change is used after it")
	}
}

// TestRangesAreOnce: a range is one rule's.
func TestRangesAreOnce(t *testing.T) {
	s := org.NewIPRules(&ruleStore{}, plat.SystemClock)
	by := org.Caller{Exempt: true}
	first, err := s.Create(t.Context(), "o", "10.0.0.0/8", "office", by)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), "o", "10.0.0.0/8", "again", by); !errors.Is(err, plat.ErrInvalid) || !strings.Contains(err.Error(), "is rule") {
		t.Errorf("the same range twice: %v", err)
	}
	second, err := s.Create(t.Context(), "o", "10.0.0.0/16", "a part of it", by)
	if err != nil {
		t.Fatal(err)
	}
	same, text := "10.0.0.0/8", "the whole office"
	if _, err := s.Update(t.Context(), "o", second.ID, org.IPRuleChange{CIDR: &same}, by); !errors.Is(err, plat.ErrInvalid) {
		t.Errorf("changed to a range that there is: %v", err)
	}
	if _, err := s.Update(t.Context(), "o", first.ID, org.IPRuleChange{CIDR: &same, Description: &text}, by); err != nil {
		t.Errorf("changed to the range that it has: %v", err)
	}
}

func TestParseCIDR(t *testing.T) {
	for in, want := range map[string]string{
		"203.0.113.0/24": "203.0.113.0/24", "203.0.113.7": "203.0.113.7/32", "::1": "::1/128", "::ffff:10.0.0.0/104": "10.0.0.0/8", "0.0.0.0/0": "0.0.0.0/0", "::/0": "::/0",
		"203.0.113.7/24": "", "::ffff:0:0/95": "", "1.2.3.4/033": "", "01.2.3.4/32": "", "1.2.3.4/": "", "/": "", "": "", "1.2.3.4/32 ": "", "fe80::1%eth0": "", "fe80::%eth0/10": "",
	} {
		got, err := org.ParseCIDR(in)
		if want == "" && !errors.Is(err, plat.ErrInvalid) || want != "" && (err != nil || got.String() != want) {
			t.Errorf("%q = %v, %v; want %q", in, got, err, want)
		}
	}
}
