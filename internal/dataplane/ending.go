// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"panal/internal/plat"
)

// Ending is why an answer that flows is ended before it is whole. Its caller is told.
type Ending string

// Endings.
const (
	EndStopped  Ending = "stopped"       // the service
	EndReplaced Ending = "replaced"      // the instance; the service goes on
	EndGateway  Ending = "server_ending" // the server that the call came through
)

// text is for people.
func (e Ending) text() string {
	switch e {
	case EndStopped:
		return "the service was stopped"
	case EndReplaced:
		return "the instance that answered has ended; ask again to reach the service"
	case EndGateway:
		return "the server is ending; ask again"
	}
	panic("BUG: ending " + string(e))
}

// endPatience is how long an answer that is to end may take to come to a place where
// it can, and a WebSocket's caller to agree.
const endPatience = 3 * time.Second

// longAgo, as a deadline, ends a read that waits.
func longAgo() time.Time { return time.Unix(1, 0) }

// ending lets others end an answer that flows. Whoever copies the answer does the
// ending, so that nothing stands in the middle of anything: ask only wakes it up.
//
// The order is what makes no wake-up be lost: the copier says that it is between two
// things, or sets a deadline, and then looks whether it was asked; ask says so and
// then looks whether the copier is between two things, and sets the deadline.
type ending struct {
	why     atomic.Pointer[Ending] // set by the first ask
	between atomic.Bool            // nothing is half said: a read that waits may be ended
	wake    func()                 // ends such a read
	cut     func()                 // ends the answer wherever it is
	// orderly tells that there is a way to say in words that the answer ends.
	orderly bool
	tunnel  bool // it is no stream of events
}

// ask has the answer ended: where it can be said, within endPatience, else at once.
func (e *ending) ask(why Ending) {
	switch {
	case !e.why.CompareAndSwap(nil, &why):
	case !e.orderly:
		e.cut()
	default:
		if e.between.Load() {
			e.wake()
		}
		time.AfterFunc(endPatience, e.cut)
	}
}

// asked tells whether the answer is to end. e may be nil.
func (e *ending) asked() bool { return e != nil && e.why.Load() != nil }

// look is for the copier, after it has set a deadline for its read.
func (e *ending) look() {
	if e.asked() && e.between.Load() {
		e.wake()
	}
}

// flow is an answer in pieces.
type flow struct {
	ending
	in   *instance
	tail []byte // of an event stream, the last bytes that were sent
}

// flows begins a flow of u's answer.
func (u *upstream) flows(r *http.Request, resp *http.Response) *flow {
	f := &flow{in: u.in}
	c := u.conn
	f.wake = func() { c.readBy(longAgo()) }
	f.cut = f.wake
	f.orderly = isEvents(r, resp)
	f.between.Store(true)
	if !f.orderly {
		f.cut = c.close
	}
	u.in.flow(&f.ending)
	return f
}

// isEvents tells whether an answer is a stream of events that another one can be added to.
func isEvents(r *http.Request, resp *http.Response) bool {
	media, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(media), "text/event-stream") && resp.Header.Get("Content-Encoding") == "" &&
		resp.ContentLength < 0 && resp.StatusCode == http.StatusOK && r.Method != http.MethodHead
}

// leave ends the flow for whoever would end it, and reports whether nobody did. f may
// be nil.
func (f *flow) leave() bool {
	if f == nil {
		return true
	}
	f.in.flown(&f.ending)
	return !f.asked()
}

// endAt returns where in the next piece the stream can end, if it is to; -1: it goes on.
// f may be nil.
func (f *flow) endAt(b []byte) int {
	if f == nil || !f.orderly || !f.asked() {
		return -1
	}
	all := append(append([]byte{}, f.tail...), b...)
	for i := len(all); i >= len(f.tail); i-- {
		if betweenEvents(all[:i]) {
			return i - len(f.tail)
		}
	}
	return -1
}

// gave notes a piece that was sent.
func (f *flow) gave(b []byte) {
	if f == nil || !f.orderly || len(b) == 0 {
		return
	}
	f.tail = append(f.tail, b[max(0, len(b)-4):]...)
	f.tail = f.tail[max(0, len(f.tail)-4):]
	f.between.Store(betweenEvents(f.tail))
}

// betweenEvents tells whether a stream that ends so far with b is between two events: an
// event ends with an empty line, and a line with CR, LF or both. Four bytes tell; less
// is all that there was.
func betweenEvents(b []byte) bool {
	n := len(b)
	switch {
	case n == 0:
		return true
	case n >= 2 && b[n-2] == '\r' && b[n-1] == '\n':
		n -= 2
	case b[n-1] == '\n' || b[n-1] == '\r':
		n--
	default:
		return false
	}
	return n == 0 || b[n-1] == '\n' || b[n-1] == '\r'
}

// endEvents ends a stream of events with one that says why.
func (x *exchange) endEvents(u *upstream, f *flow) {
	why := *f.why.Load()
	data, err := json.Marshal(struct {
		Reason  Ending `json:"reason"`
		Message string `json:"message"`
	}{why, why.text()})
	if err != nil {
		panic("BUG: ending: " + err.Error())
	}
	x.give([]byte("event: end\ndata: "+string(data)+"\n\n"), u.idle, true)
	u.end(false)
	x.callerTakesBy(time.Time{})
}

// flow notes an answer that flows from the instance.
func (in *instance) flow(e *ending) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.use().flows[e] = struct{}{}
}

// flown forgets it: nobody ends it from here on.
func (in *instance) flown(e *ending) {
	in.mu.Lock()
	defer in.mu.Unlock()
	delete(in.use().flows, e)
}

// endFlows ends the answers that flow from the instance.
func (in *instance) endFlows(why Ending, which func(*ending) bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.used == nil {
		return
	}
	for e := range in.used.flows {
		if which(e) {
			e.ask(why)
		}
	}
}

// End ends the answers that flow from an instance: a stream of events (SSE) with an
// event, a WebSocket with a close frame, anything else broken off, so that no caller
// takes it for whole. It does not wait for that; Drained does.
func (t *Table) End(id plat.WorkloadID, why Ending) {
	t.mu.Lock()
	in := t.instances[id]
	t.mu.Unlock()
	if in != nil {
		in.endFlows(why, func(*ending) bool { return true })
	}
}

// EndStreams ends all streams of events, for a server that is about to close its
// connections.
func (p *Proxy) EndStreams(why Ending) {
	t := p.table
	t.mu.Lock()
	all := make([]*instance, 0, len(t.instances))
	for _, in := range t.instances {
		all = append(all, in)
	}
	t.mu.Unlock()
	for _, in := range all {
		in.endFlows(why, func(e *ending) bool { return e.orderly && !e.tunnel })
	}
}
