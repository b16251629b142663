// SPDX-License-Identifier: Apache-2.0

package api

import (
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"panal/internal/authn"
	"panal/internal/authz"
	"panal/internal/lake"
	"panal/internal/plat"
)

// Limits bound what one caller can ask for. Zero fields are the defaults.
type Limits struct {
	// HeaderBytes is of a request line and its headers; default 64 KiB.
	HeaderBytes int
	// Page is the most entries of a page; default and least 1000 (data.md §6).
	Page int
	// Metadata bounds a file's metadata.
	Metadata lake.Limits
	// Rate is how many calls a second a token may make, Burst how many at once; 0: no
	// limit. Inference and log lines are not counted.
	Rate  float64
	Burst int
}

// defaultHeaderBytes holds 16 KiB of metadata, percent-encoded, and the rest.
const defaultHeaderBytes = 64 << 10

// maxHeaderFields is more than any metadata within its bound needs: names and values of
// a byte or two.
const maxHeaderFields = 4000

func (l Limits) withDefaults() Limits {
	if l.HeaderBytes == 0 {
		l.HeaderBytes = defaultHeaderBytes
	}
	l.Page = max(l.Page, maxPage)
	if l.Burst == 0 {
		l.Burst = int(math.Ceil(2 * l.Rate))
	}
	return l
}

// checkHeaders returns 431 for a request whose headers pass the limit. net/http cuts
// off what is several times longer by itself (Refusal).
func (a *API) checkHeaders(r *http.Request) *ErrorBody {
	n, fields := len(r.RequestURI)+len(r.Host), 0
	for name, values := range r.Header {
		fields += len(values)
		for _, v := range values {
			n += len(name) + len(v) + len(": \r\n")
		}
	}
	if fields > maxHeaderFields {
		return newError(http.StatusRequestHeaderFieldsTooLarge,
			"the request has "+strconv.Itoa(fields)+" header fields; the limit is "+strconv.Itoa(maxHeaderFields), nil)
	}
	if n <= a.Limits.HeaderBytes {
		return nil
	}
	return newError(http.StatusRequestHeaderFieldsTooLarge,
		"the request's headers have "+strconv.Itoa(n)+" bytes; the limit is "+strconv.Itoa(a.Limits.HeaderBytes)+" (--max-header-bytes)", nil)
}

// pageSize reads a page size from a query; absent is def, more than the limit is that.
func (a *API) pageSize(field, s string, def int) (int, error) {
	return pageSizeUpTo(field, s, def, a.Limits.Page)
}

func pageSizeUpTo(field, s string, def, most int) (int, error) {
	if s == "" {
		return def, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, plat.InvalidField(field, "%q is not a number of 1 or more", s)
	}
	return min(n, most), nil
}

// rates holds a limiter for each token that was seen lately.
type rates struct {
	limit rate.Limit
	burst int
	now   plat.Clock

	mu   sync.Mutex
	seen map[string]*rate.Limiter // by HashToken of the Authorization header
}

// maxRates bounds the tokens that are remembered. Those that have been quiet for long
// enough to have their whole burst again are forgotten first: nothing is lost by it.
const maxRates = 10_000

func newRates(l Limits, now plat.Clock) *rates {
	return &rates{limit: rate.Limit(l.Rate), burst: l.Burst, now: now, seen: map[string]*rate.Limiter{}}
}

// take takes one call of a token, or returns 429 with the time to wait, in whole
// seconds: known clients wait for it and try again (data.md §5.3).
func (r *rates) take(op authz.Op, authorization string) *ErrorBody {
	if r.limit <= 0 || op == authz.LogIngest || op == authz.Infer {
		return nil
	}
	now := r.now()
	l := r.limiter(authn.HashToken(authorization), now)
	res := l.ReserveN(now, 1)
	wait := res.DelayFrom(now)
	if wait == 0 {
		return nil
	}
	res.CancelAt(now)
	e := newError(http.StatusTooManyRequests, "this token makes more than "+plat.Digits(float64(r.limit))+" calls a second; wait as Retry-After says", nil)
	e.retryAfter = strconv.Itoa(max(1, int(math.Ceil(wait.Seconds()))))
	return e
}

func (r *rates) limiter(key string, now time.Time) *rate.Limiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l, ok := r.seen[key]; ok {
		return l
	}
	if len(r.seen) >= maxRates {
		for k, l := range r.seen {
			if l.TokensAt(now) >= float64(r.burst) {
				delete(r.seen, k)
			}
		}
		for k := range r.seen { // all are busy: any will do, the map's order is random
			if len(r.seen) < maxRates {
				break
			}
			delete(r.seen, k)
		}
	}
	l := rate.NewLimiter(r.limit, r.burst)
	r.seen[key] = l
	return l
}
