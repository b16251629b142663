// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"cmp"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"panal/internal/plat"
)

// Limits bound the calls of each token, organization and service, the same for
// all. The zero value has only the bound on everything.
type Limits struct {
	// Calls is how many may be under way in all; default 10,000. No organization gets
	// more of them than are then still free, so that one alone has half at most
	// and the next one always finds room.
	Calls int
	// Token, Org and Service hold for each of its kind. A service's own limit
	// (Service.Limit) holds beside the one for all: of both the lower.
	Token, Org, Service Limit
}

// Limit bounds calls. Zero fields are no limit.
type Limit struct {
	// Rate is calls a second; two seconds' worth may come at once.
	Rate float64
	// Calls is how many may be under way.
	Calls int
}

// with is both limits at once.
func (l Limit) with(m Limit) Limit {
	if m.Rate > 0 && (l.Rate == 0 || m.Rate < l.Rate) {
		l.Rate = m.Rate
	}
	if m.Calls > 0 && (l.Calls == 0 || m.Calls < l.Calls) {
		l.Calls = m.Calls
	}
	return l
}

const (
	defaultCalls = 10_000
	// maxMeters bounds the tokens that are counted one by one per organization. What is over it shares one meter: an organization that makes up
	// thousands of tokens gets less, and nobody else notices.
	maxMeters = 1000
	// maxTenants is how many organizations are remembered before the quiet ones are
	// forgotten.
	maxTenants = 10_000
	// sweepEvery bounds the work of forgetting.
	sweepEvery = time.Second
)

// limited names the limits, as in metrics and in the error's detail.
var limited = [...]string{ //nolint:gochecknoglobals // a constant: Go has no constant arrays
	"token_rate", "token_concurrency", "organization_rate", "organization_concurrency",
	"service_rate", "service_concurrency", "endpoint_rate", "endpoint_concurrency", "gateway_concurrency",
}

// scope is an index of limited: the rate's; concurrency is the next one.
type scope int

const (
	ofToken    scope = 0
	ofOrg      scope = 2
	ofService  scope = 4
	ofEndpoint scope = 6
	ofGateway  scope = 8
)

// limiter admits calls. All of an organization's counting is under one lock of its
// own, and nothing is counted by names that nobody has authenticated.
type limiter struct {
	limits Limits
	epoch  time.Time    // meters count from here, on the monotonic clock
	calls  atomic.Int64 // under way

	mu      sync.RWMutex
	tenants map[plat.OrgID]*tenant
	swept   time.Duration
}

// tenant is what one organization has under way.
type tenant struct {
	held    atomic.Int64 // bytes of memory of calls that wait
	spooled atomic.Int64 // and of disk

	mu     sync.Mutex
	self   meter
	tokens meters
}

// meters are those of an organization's tokens.
type meters struct {
	byName   map[string]*meter
	overflow meter
	swept    time.Duration
}

// meter counts the calls of one thing. The rate is kept as the time at which all
// that was taken is earned again (GCRA): one number, which forgets by itself.
type meter struct {
	calls  int
	earned time.Duration
}

// quota is a service's or an alias' own meter. It lives as long as that is routed.
type quota struct {
	mu sync.Mutex
	meter
}

// ticket is a call that was admitted.
type ticket struct {
	tenant            *tenant
	token             *meter
	service, endpoint *quota
}

// refusal is why a call was not.
type refusal struct {
	limit int // index of limited
	text  string
	wait  time.Duration
}

func newLimiter(l Limits) *limiter {
	l.Calls = cmp.Or(l.Calls, defaultCalls)
	return &limiter{limits: l, epoch: time.Now(), tenants: map[plat.OrgID]*tenant{}}
}

// admit counts a call in, to a service with a limit of its own and by an alias that may have one
// (else nil), or says which limit it is over: then nothing is counted.
func (l *limiter) admit(org plat.OrgID, token string, service *quota, limit Limit, alias *own) (ticket, *refusal) {
	now := time.Since(l.epoch)
	t := l.tenant(org, now)
	k := ticket{tenant: t}
	before := l.calls.Add(1) - 1
	t.mu.Lock()
	defer t.mu.Unlock()
	if int64(t.self.calls)+1 > int64(l.limits.Calls)-before {
		l.calls.Add(-1)
		return ticket{}, &refusal{
			limit: int(ofGateway), wait: time.Second,
			text: "the gateway has " + strconv.FormatInt(before, 10) + " calls under way, and this organization its share of them",
		}
	}
	if l.limits.Token != (Limit{}) {
		k.token = t.tokens.get(token, now)
	}
	var toService, byAlias *meter
	serviceLimit, aliasLimit := l.limits.Service.with(limit), Limit{}
	if serviceLimit != (Limit{}) {
		k.service, toService = service, &service.meter
		service.mu.Lock()
		defer service.mu.Unlock()
	}
	if alias != nil {
		k.endpoint, byAlias, aliasLimit = alias.quota, &alias.quota.meter, alias.limit
		alias.quota.mu.Lock()
		defer alias.quota.mu.Unlock()
	}
	taken := [...]struct {
		m     *meter
		limit *Limit
		scope scope
	}{{k.token, &l.limits.Token, ofToken}, {byAlias, &aliasLimit, ofEndpoint}, {toService, &serviceLimit, ofService}, {&t.self, &l.limits.Org, ofOrg}}
	for _, c := range taken {
		if c.m == nil {
			continue
		}
		if r := c.m.refuses(c.limit, c.scope, now); r != nil {
			l.calls.Add(-1)
			return ticket{}, r
		}
	}
	for _, c := range taken {
		if c.m != nil {
			c.m.take(c.limit, now)
		}
	}
	return k, nil
}

// done counts a call out.
func (l *limiter) done(k ticket) {
	if k.tenant == nil {
		return
	}
	k.tenant.mu.Lock()
	k.tenant.self.calls--
	if k.token != nil {
		k.token.calls--
	}
	k.tenant.mu.Unlock()
	for _, q := range [...]*quota{k.service, k.endpoint} {
		if q != nil {
			q.mu.Lock()
			q.calls--
			q.mu.Unlock()
		}
	}
	l.calls.Add(-1)
}

// tenant returns the organization's counters.
func (l *limiter) tenant(org plat.OrgID, now time.Duration) *tenant {
	l.mu.RLock()
	t := l.tenants[org]
	l.mu.RUnlock()
	if t != nil {
		return t
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if t = l.tenants[org]; t != nil {
		return t
	}
	if len(l.tenants) >= maxTenants && now-l.swept >= sweepEvery {
		l.swept = now
		for id, t := range l.tenants {
			t.mu.Lock()
			quiet := t.self.quiet(now) && t.held.Load() == 0 && t.spooled.Load() == 0
			t.mu.Unlock()
			if quiet {
				delete(l.tenants, id)
			}
		}
	}
	t = &tenant{}
	l.tenants[org] = t
	return t
}

// get returns the meter of that name. When there are too many, those that have
// nothing under way and nothing to earn are forgotten: nothing is lost by it.
func (m *meters) get(name string, now time.Duration) *meter {
	if c := m.byName[name]; c != nil {
		return c
	}
	if len(m.byName) >= maxMeters && now-m.swept >= sweepEvery {
		m.swept = now
		for k, c := range m.byName {
			if c.quiet(now) {
				delete(m.byName, k)
			}
		}
	}
	if len(m.byName) >= maxMeters {
		return &m.overflow
	}
	if m.byName == nil {
		m.byName = map[string]*meter{}
	}
	c := &meter{}
	m.byName[name] = c
	return c
}

func (m *meter) quiet(now time.Duration) bool { return m.calls == 0 && m.earned <= now }

func (m *meter) refuses(l *Limit, s scope, now time.Duration) *refusal {
	if l.Calls > 0 && m.calls >= l.Calls {
		return &refusal{
			limit: int(s) + 1, wait: time.Second,
			text: fmt.Sprintf("the %s has %d calls under way, which is its limit", s, l.Calls),
		}
	}
	if l.Rate > 0 {
		if wait := max(m.earned, now) + l.each() - now - l.burst(); wait > 0 {
			return &refusal{
				limit: int(s), wait: wait,
				text: fmt.Sprintf("the %s has more than %s calls a second, which is its limit", s, plat.Digits(l.Rate)),
			}
		}
	}
	return nil
}

func (m *meter) take(l *Limit, now time.Duration) {
	m.calls++
	if l.Rate > 0 {
		m.earned = max(m.earned, now) + l.each()
	}
}

// each is the time in which one call is earned, burst that of the most that may come at once.
func (l *Limit) each() time.Duration  { return time.Duration(float64(time.Second) / l.Rate) }
func (l *Limit) burst() time.Duration { return max(2*time.Second, l.each()) }

func (s scope) String() string {
	switch s {
	case ofToken:
		return "token"
	case ofOrg:
		return "organization"
	case ofEndpoint:
		return "endpoint"
	default:
		return "service"
	}
}

// take takes bytes for a call that waits, of what all hold and of what its
// organization does. None holds more than is still free: one that fills the queues
// of many services leaves the others room to wait. giveBack gives them back.
func take(all, own *atomic.Int64, bytes, most int64) bool {
	free := most - all.Add(bytes) + bytes
	fits := bytes <= free
	if own != nil {
		fits = own.Add(bytes) <= free
	}
	if !fits {
		giveBack(all, own, bytes)
	}
	return fits
}

func giveBack(all, own *atomic.Int64, bytes int64) {
	all.Add(-bytes)
	if own != nil {
		own.Add(-bytes)
	}
}

// memory and disk are what calls of the organization that wait hold; nil without one.
func (t *tenant) memory() *atomic.Int64 {
	if t == nil {
		return nil
	}
	return &t.held
}

func (t *tenant) disk() *atomic.Int64 {
	if t == nil {
		return nil
	}
	return &t.spooled
}

// refuseLimit answers 429.
func (x *exchange) refuseLimit(r *refusal) {
	name := limited[r.limit]
	x.p.metrics.limited[r.limit].Inc()
	x.live.turnedAway(r.limit, time.Now())
	x.live = nil // its figures are of calls that it had
	wait := time.Duration(max(1, math.Ceil(r.wait.Seconds()))) * time.Second
	x.failWith(http.StatusTooManyRequests, r.text+" ("+name+"); wait as Retry-After says", map[string][]string{name: {"is reached"}}, wait)
}
