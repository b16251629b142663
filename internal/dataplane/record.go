// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"panal/internal/plat"
)

// Bounds of recordings.
const (
	// MaxRecordedBody is how much of one body is kept; what is longer is cut.
	MaxRecordedBody = 1 << 20
	maxRecordings   = 1000     // that wait to be stored
	maxRecordBytes  = 64 << 20 // of all bodies that are kept, of calls under way too
	recordWorkers   = 4
	recordTimeout   = 30 * time.Second
	recordReport    = time.Minute
)

// Record says that the inputs of a service are recorded, and its answers.
type Record struct {
	Channel plat.ChannelID
	Percent int    // of its calls, chosen at random
	Version string // label of the service's version
	Outputs bool   // of those calls, the answers too
}

// is compares by value; both may be nil.
func (r *Record) is(other *Record) bool {
	return r == other || r != nil && other != nil && *r == *other
}

// Recording is the input of one call, and what became of it.
type Recording struct {
	Record
	Org        plat.OrgID
	Deployment plat.DeploymentID
	Service    plat.ServiceID
	RequestID  string
	Method     string
	// Path is what a command got in its request line, query included. A handler gets no path.
	Path  string
	Input Recorded
	// Output is what the service answered; nil when that is not recorded or it answered
	// nothing.
	Output *Recorded
	// Async is the id of an asynchronous call whose result is to be recorded when it comes:
	// its 202 is no answer.
	Async  string
	Status int
	At     time.Time
	Took   time.Duration
}

// Recorded is a body as it was sent, or its beginning.
type Recorded struct {
	ContentType, ContentEncoding string
	Body                         []byte
	Cut                          bool // Body is only the beginning
}

// held is the memory that the recording keeps.
func (r *Recording) held() int64 {
	n := len(r.Input.Body)
	if r.Output != nil {
		n += len(r.Output.Body)
	}
	return int64(n)
}

func recordedOf(h http.Header) Recorded {
	return Recorded{ContentType: h.Get("Content-Type"), ContentEncoding: h.Get("Content-Encoding")}
}

// recorder keeps recordings until they are stored. It never makes a call wait: what
// there is no room for is dropped and counted.
type recorder struct {
	bytes   atomic.Int64 // of all bodies that are kept
	dropped atomic.Int64 // since the start, as failed
	failed  atomic.Int64
	queue   chan *Recording
}

func newRecorder() *recorder { return &recorder{queue: make(chan *Recording, maxRecordings)} }

// begin starts the recording of a call, if it is chosen.
func (x *exchange) begin(rt *Route) {
	if rt.record == nil || rand.IntN(100) >= rt.record.Percent {
		return
	}
	x.rec = &Recording{
		Record: *rt.record, Org: x.call.Org, Deployment: x.call.Deployment, RequestID: x.call.RequestID, Method: x.r.Method, Input: recordedOf(x.r.Header),
	}
	switch {
	case rt.command:
		x.rec.Path = string(appendTarget(nil, x.r, x.call, rt))
	case x.r.Method == http.MethodGet:
		// A handler gets the query as the body (compute.md §8.1), and no other body.
		x.rec.Input = Recorded{ContentType: "application/x-www-form-urlencoded"}
		x.p.rec.keep(&x.rec.Input, []byte(x.r.URL.RawQuery))
		x.asked = true
		return
	}
	x.keepInput(x.body)
}

// beginOutput starts the recording of an instance's answer, if it is recorded.
func (x *exchange) beginOutput(h http.Header) {
	if x.rec != nil && x.rec.Outputs && x.call.Async == nil {
		out := recordedOf(h)
		x.rec.Output = &out
	}
}

// keepInput and keepOutput add a piece to what is recorded, if it is. Each has one
// goroutine that calls it.
func (x *exchange) keepInput(b []byte) {
	if x.rec != nil && !x.asked {
		x.p.rec.keep(&x.rec.Input, b)
	}
}

func (x *exchange) keepOutput(b []byte) {
	if x.rec != nil && x.rec.Output != nil {
		x.p.rec.keep(x.rec.Output, b)
	}
}

// keep adds a piece of a body, unless that was cut already.
func (rec *recorder) keep(r *Recorded, b []byte) {
	if r.Cut {
		return
	}
	if room := MaxRecordedBody - len(r.Body); len(b) > room {
		b, r.Cut = b[:room], true
	}
	n := int64(len(b))
	if rec.bytes.Add(n) > maxRecordBytes {
		rec.bytes.Add(-n)
		r.Cut = true
		return
	}
	r.Body = append(r.Body, b...)
}

// recorded queues the recording of a call that has ended.
func (x *exchange) recorded(start, end time.Time) {
	r := x.rec
	if r == nil {
		return
	}
	if x.status == 0 || x.tunnel { // nothing was answered, or there is no end of it
		x.p.rec.bytes.Add(-r.held())
		return
	}
	r.Service, r.Status, r.At, r.Took = x.live.id, x.status, start, end.Sub(start)
	if x.call.Async != nil && r.Outputs && x.status == http.StatusAccepted {
		r.Async = x.call.Async.ID
	}
	r.Input.Cut = r.Input.Cut || !x.asked && (!x.pumped() || x.stream && x.pump == nil)
	if r.Output != nil {
		r.Output.Cut = r.Output.Cut || !x.whole
	}
	select {
	case x.p.rec.queue <- r:
	default:
		x.p.rec.bytes.Add(-r.held())
		x.p.rec.dropped.Add(1)
	}
}

// StoreRecordings hands recordings to store until ctx ends, then what is queued,
// for at most recordTimeout. What is dropped or can't be stored is told once a minute.
func (p *Proxy) StoreRecordings(ctx context.Context, store func(ctx context.Context, r *Recording) error) {
	var workers sync.WaitGroup
	var last atomic.Pointer[string]
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(recordTimeout, cancel) })
	defer stop()
	put := func(r *Recording) {
		one, cancel := context.WithTimeout(late, recordTimeout)
		defer cancel()
		if err := store(one, r); err != nil {
			why := err.Error()
			last.Store(&why)
			p.rec.failed.Add(1)
		}
		p.rec.bytes.Add(-r.held())
	}
	for range recordWorkers {
		workers.Go(func() {
			for ctx.Err() == nil {
				select {
				case r := <-p.rec.queue:
					put(r)
				case <-ctx.Done():
				}
			}
			for late.Err() == nil {
				select {
				case r := <-p.rec.queue:
					put(r)
				default:
					return
				}
			}
		})
	}
	var toldDropped, toldFailed int64
	report := func() {
		dropped, failed := p.rec.dropped.Load()-toldDropped, p.rec.failed.Load()-toldFailed
		if dropped+failed == 0 {
			return
		}
		toldDropped, toldFailed = toldDropped+dropped, toldFailed+failed
		why := ""
		if s := last.Swap(nil); s != nil {
			why = *s
		}
		p.opt.Log.LogAttrs(late, slog.LevelWarn, "calls of services were not recorded",
			slog.Int64("dropped", dropped), slog.Int64("failed", failed), slog.String(plat.LogError, why))
	}
	tick := time.NewTicker(recordReport)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
			report()
		case <-ctx.Done():
		}
	}
	workers.Wait()
	report()
}
