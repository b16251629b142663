// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"panal/internal/authz"
	"panal/internal/dataplane"
	"panal/internal/deploy"
	"panal/internal/logs"
	"panal/internal/plat"
)

// Why explains a service.
type Why struct {
	ServiceID    string         `json:"service_id"`
	DeploymentID string         `json:"deployment_id"`
	Status       string         `json:"status"`
	Because      []string       `json:"because" doc:"plain sentences: what it does, and why"`
	Desired      int            `json:"desired_instance_number"`
	Ready        int            `json:"ready_instance_number"`
	Instances    []WhyInstance  `json:"instances"`
	Ends         []WhyEnd       `json:"ends" doc:"how instances ended that were not meant to, newest first, since the server was started"`
	Failures     int            `json:"failures_in_a_row"`
	RetryAt      *string        `json:"retry_at" doc:"when the next instance starts, while one waits for that"`
	Room         *string        `json:"room" doc:"what the runner has too little of for another instance; null: there is room"`
	Scale        WhyScale       `json:"scale"`
	Endpoints    []WhyEndpoint  `json:"endpoints"`
	Traffic      ServiceTraffic `json:"traffic" doc:"of the last half minute on this server"`
	TurnedAway   map[string]int `json:"turned_away" doc:"requests that limits turned away in the last five to ten minutes on this server, by limit"`
	Log          []LogEvent     `json:"log" doc:"its last lines, oldest first"`
}

// WhyInstance is an instance of it.
type WhyInstance struct {
	Instance
	InFlight     int     `json:"in_flight" doc:"requests that it has"`
	Limit        int     `json:"limit" doc:"requests that it takes at a time; 0: not known yet"`
	SkippedUntil *string `json:"skipped_until" doc:"until when it gets no requests, as it could not be reached or gave no answers"`
	Failures     int     `json:"failures_in_a_row" doc:"requests in a row that it gave no answer to"`
	Suspect      bool    `json:"suspect" doc:"its health check fails while it has requests: it gets no others while an instance is well"`
}

// WhyEnd is how an instance ended.
type WhyEnd struct {
	InstanceID string  `json:"instance_id"`
	At         string  `json:"at"`
	Lived      float64 `json:"lived_seconds"`
	ExitCode   *int    `json:"exit_code" doc:"137: killed; null: it was ended because it did not get ready, or did not answer its health check"`
	Reason     string  `json:"reason"`
}

// WhyScale is what the scaler decided.
type WhyScale struct {
	Autoscale bool    `json:"enable_autoscale"`
	Min       int     `json:"min_instance_number"`
	Max       int     `json:"max_instance_number"`
	Asleep    bool    `json:"asleep"`
	Message   *string `json:"message" doc:"why so many"`
	At        *string `json:"at"`
}

// WhyEndpoint is an endpoint that has to do with it.
type WhyEndpoint struct {
	Alias   string  `json:"custom_alias"`
	Percent int     `json:"percent" doc:"of the endpoint's requests that it gets"`
	Pending bool    `json:"pending" doc:"the endpoint switches to it once it is READY"`
	Message *string `json:"status_message"`
}

// whyLines is how many log lines an explanation has.
const whyLines = 10

func (a *API) addWhy() {
	register(a, operation{
		ID: "explain-service", Method: http.MethodGet, Path: pathService + "/why", Tag: "service", Family: familyCompute, Op: authz.ServiceRead,
		Summary: "Explain why a service is as it is: instances, failures, room, scale, endpoints, requests, limits",
	}, func(ctx context.Context, in *ServicePath) (*Why, error) {
		f, err := a.facts(ctx, caller(ctx).Org, in.id(), in.service())
		if err != nil {
			return nil, err
		}
		return f.wire(), nil
	})
}

// facts is all that explains a service at one moment.
type facts struct {
	now       time.Time
	service   deploy.Service
	instances []deploy.Seen
	ends      []deploy.End
	endpoints []deploy.Endpoint // that have to do with it
	room      error             // why another instance does not fit
	look      dataplane.Look
	traffic   ServiceTraffic
	window    time.Duration
	lines     []logs.Line
}

func (a *API) facts(ctx context.Context, org plat.OrgID, dep plat.DeploymentID, id plat.ServiceID) (*facts, error) {
	s, err := a.Deploy.Service(ctx, org, dep, id)
	if err != nil {
		return nil, err
	}
	f := &facts{now: a.Now(), service: s, ends: a.Deploy.Ends(id), look: a.Gateway.Look(dep, id)}
	f.traffic, f.window = a.traffic(s)
	if f.instances, err = a.Deploy.Instances(ctx, org, dep, id); err != nil {
		return nil, err
	}
	all, err := a.Deploy.Endpoints(ctx, org, dep)
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		if share, pending := shareOf(e, id); share > 0 || pending {
			f.endpoints = append(f.endpoints, e)
		}
	}
	it, err := plat.ParseInstanceType(s.InstanceType)
	if err != nil {
		return nil, err
	}
	room, err := a.Capacity(ctx)
	if err != nil {
		return nil, fmt.Errorf("read capacity: %w", err)
	}
	if f.room = room.Admit(it.Resources, true); plat.KindOf(f.room) == nil {
		f.room = nil
	}
	page, err := a.Logs.Read(ctx, logs.Query{Org: org, Stream: logs.ServiceStream(string(id)), Descending: true, Limit: whyLines})
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	f.lines = page.Lines
	slices.Reverse(f.lines)
	return f, nil
}

// shareOf tells what an endpoint has to do with a service.
func shareOf(e deploy.Endpoint, id plat.ServiceID) (percent int, pending bool) {
	if len(e.Split) == 0 && e.Service == id {
		percent = 100
	}
	for _, p := range e.Split {
		if p.Service == id {
			percent += p.Weight
		}
	}
	return percent, e.Pending == id
}

func (f *facts) wire() *Why {
	s := f.service
	w := &Why{
		ServiceID: string(s.ID), DeploymentID: string(s.Deployment), Status: string(s.Status), Because: f.explain(),
		Desired: f.goal(), Ready: f.count(deploy.Taking), Failures: s.Failures, Traffic: f.traffic, TurnedAway: f.look.Turned,
		Instances: make([]WhyInstance, 0, len(f.instances)), Ends: make([]WhyEnd, 0, len(f.ends)), Endpoints: make([]WhyEndpoint, 0, len(f.endpoints)),
		Scale: WhyScale{Autoscale: s.Autoscale, Min: s.Min, Max: s.Max, Asleep: s.Asleep(), Message: orNull(s.ScaleMessage), At: timeOrNull(s.ScaledAt)},
		Log:   logEvents(f.lines),
	}
	if w.TurnedAway == nil {
		w.TurnedAway = map[string]int{}
	}
	if f.retries() {
		w.RetryAt = timeOrNull(s.RetryAt)
	}
	if f.room != nil {
		w.Room = orNull(publicText(f.room))
	}
	for _, i := range f.instances {
		v := WhyInstance{Instance: wireInstance(i)}
		if l, ok := f.lookAt(i.Workload); ok {
			v.InFlight, v.Limit, v.SkippedUntil, v.Failures, v.Suspect = l.InFlight, l.Limit, timeOrNull(l.SkippedUntil), l.Failures, l.Suspect
		}
		w.Instances = append(w.Instances, v)
	}
	for _, e := range f.ends {
		v := WhyEnd{InstanceID: string(e.Workload), At: micro(e.At), Lived: e.Lived.Seconds(), Reason: e.Reason}
		if e.ExitCode >= 0 {
			v.ExitCode = &e.ExitCode
		}
		w.Ends = append(w.Ends, v)
	}
	for _, e := range f.endpoints {
		percent, pending := shareOf(e, s.ID)
		w.Endpoints = append(w.Endpoints, WhyEndpoint{Alias: e.Alias, Percent: percent, Pending: pending, Message: orNull(e.StatusMessage)})
	}
	return w
}

func (f *facts) lookAt(w plat.WorkloadID) (dataplane.InstanceLook, bool) {
	i := slices.IndexFunc(f.look.Instances, func(l dataplane.InstanceLook) bool { return l.ID == w })
	if i < 0 {
		return dataplane.InstanceLook{}, false
	}
	return f.look.Instances[i], true
}

// goal is how many instances are meant to be up.
func (f *facts) goal() int {
	if f.service.Status == deploy.Stopped || f.service.Status == deploy.Failed {
		return 0
	}
	return f.service.Goal()
}

func (f *facts) count(h deploy.Health) (n int) {
	for _, i := range f.instances {
		if i.Health == h {
			n++
		}
	}
	return n
}

// up is how many instances of the current generation are meant to go on.
func (f *facts) up() (n int) {
	for _, i := range f.instances {
		if i.Current && i.State == deploy.InstanceUp {
			n++
		}
	}
	return n
}

// retries tells whether the next instance waits for the end of a back-off.
func (f *facts) retries() bool {
	return f.service.BacksOff(f.now) > 0 && f.up() < f.goal()
}

// publicText is what may be read of an error.
func publicText(err error) string {
	if e, ok := errors.AsType[*plat.Error](err); ok {
		return e.Public
	}
	return "the server's log has the reason"
}

func firstLineOf(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// ago is a duration for people.
func ago(d time.Duration) string {
	switch {
	case d < 0:
		d = 0
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

func number(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// explain says it in sentences, what matters most first.
func (f *facts) explain() []string {
	out := f.explainStatus()
	out = append(out, f.explainFailures()...)
	if f.room != nil && f.up() < f.goal() {
		text := "There is no room for another instance: "
		if errors.Is(f.room, plat.ErrInvalid) {
			text = "There never is room for an instance: "
		}
		out = append(out, text+publicText(f.room)+".")
	}
	if s := f.service; s.Autoscale && s.ScaleMessage != "" && f.goal() > 0 {
		out = append(out, fmt.Sprintf("The scaler has wanted %s (of %d to %d) for %s: %s.", number(s.Goal(), "instance"), s.Min, s.Max, ago(f.now.Sub(s.ScaledAt)), s.ScaleMessage))
	}
	out = append(out, f.explainEndpoints()...)
	return append(out, f.explainRequests()...)
}

func (f *facts) explainStatus() (out []string) {
	s := f.service
	ready := f.count(deploy.Taking)
	message := firstLineOf(s.StatusMessage)
	switch {
	case s.Status == deploy.Stopped:
		out = append(out, "It is STOPPED: its requests get 503 until it is started.")
	case s.Status == deploy.Failed:
		out = append(out, "It is FAILED and is not started again by itself: "+message)
	case s.Asleep():
		out = append(out, fmt.Sprintf("It has been asleep for %s: %s. The next request wakes it, and waits meanwhile.", ago(f.now.Sub(s.ScaledAt)), cmp.Or(s.ScaleMessage, "nobody called it")))
	default:
		text := fmt.Sprintf("It is %s: %d of %s take requests.", s.Status, ready, number(f.goal(), "instance"))
		if message != "" {
			text += " " + strings.ToUpper(message[:1]) + message[1:]
		}
		out = append(out, text)
	}
	if s.Status == deploy.InProgress && !s.Rolled() && s.ReadyGeneration > 0 {
		out = append(out, fmt.Sprintf("A change is being rolled out: instances of generation %d take the place of older ones, one at a time.", s.Generation))
	}
	for _, i := range f.instances {
		switch i.Health {
		case deploy.Starting:
			out = append(out, fmt.Sprintf("Instance %s has been starting for %s: it fetches its code, prepares its environment, or starts up.", i.Workload, ago(f.now.Sub(i.CreatedAt))))
		case deploy.Unhealthy:
			out = append(out, fmt.Sprintf("Instance %s does not answer its health check; it gets no requests, and is replaced if that goes on.", i.Workload))
		case deploy.Draining:
			out = append(out, fmt.Sprintf("Instance %s gets no new requests and ends when those it has are answered.", i.Workload))
		case deploy.Stopping:
			out = append(out, fmt.Sprintf("Instance %s was told to end.", i.Workload))
		case deploy.Taking:
		}
		if l, ok := f.lookAt(i.Workload); ok {
			out = append(out, f.explainLook(l)...)
		}
	}
	return out
}

// explainLook tells why the gateway gives an instance less than its share of the requests.
func (f *facts) explainLook(l dataplane.InstanceLook) (out []string) {
	left := ago(l.SkippedUntil.Sub(f.now))
	switch skipped := !l.SkippedUntil.IsZero(); {
	case skipped && l.Failures > 0:
		out = append(out, fmt.Sprintf("Instance %s gave no answer to %s in a row (it broke off, answered nonsense, or not in time) and gets none for %s.", l.ID, number(l.Failures, "request"), left))
	case skipped:
		out = append(out, fmt.Sprintf("Instance %s could not be reached %s in a row and gets no requests for %s.", l.ID, number(l.Refusals, "time"), left))
	case l.Failures > 0:
		out = append(out, fmt.Sprintf("Instance %s gave no answer to its last %s (it broke off, answered nonsense, or not in time).", l.ID, number(l.Failures, "request")))
	}
	if l.Suspect {
		out = append(out, fmt.Sprintf("Instance %s fails its health check while it works on %s: it gets no others while an instance is well.", l.ID, number(l.InFlight, "request")))
	}
	if l.Share > 0 {
		out = append(out, fmt.Sprintf("Instance %s is new: it gets %.0f %% of its share of the requests, and more from moment to moment.", l.ID, 100*l.Share))
	}
	return out
}

func (f *facts) explainFailures() (out []string) {
	s := f.service
	if f.retries() {
		out = append(out, fmt.Sprintf("Its instances failed %s in a row; the next one starts in %s.", number(s.Failures, "time"), ago(s.BacksOff(f.now))))
	}
	if len(f.ends) > 0 {
		e := f.ends[0]
		how := fmt.Sprintf("ended by itself with code %d", e.ExitCode)
		switch {
		case e.ExitCode < 0:
			how = "was ended"
		case e.ExitCode > 128:
			how = fmt.Sprintf("was killed (signal %d)", e.ExitCode-128)
		}
		out = append(out, fmt.Sprintf("Instance %s %s %s ago, after %s: %s", e.Workload, how, ago(f.now.Sub(e.At)), ago(e.Lived), firstLineOf(e.Reason)))
	}
	return out
}

func (f *facts) explainEndpoints() (out []string) {
	for _, e := range f.endpoints {
		percent, pending := shareOf(e, f.service.ID)
		switch {
		case percent == 100:
			out = append(out, fmt.Sprintf("Endpoint %s sends its requests here.", e.Alias))
		case percent > 0:
			out = append(out, fmt.Sprintf("Endpoint %s sends %d %% of its requests here.", e.Alias, percent))
		}
		if pending {
			out = append(out, fmt.Sprintf("Endpoint %s switches to it once it is READY.", e.Alias))
		}
	}
	if len(out) == 0 {
		out = append(out, "No endpoint points to it: it is called by its own address only.")
	}
	return out
}

func (f *facts) explainRequests() (out []string) {
	t := f.traffic
	if t.Requests > 0 {
		out = append(out, fmt.Sprintf("In the last %s it answered %s, %d of them with errors; half within %.1f ms, 99 %% within %.1f ms.",
			f.window.Round(time.Second), number(t.Requests, "request"), t.Errors, t.P50, t.P99))
	}
	if t.Waiting > 0 {
		why := "no instance takes requests yet"
		if len(f.look.Instances) > 0 {
			why = fmt.Sprintf("its %s are busy with %s", number(len(f.look.Instances), "instance"), number(t.InFlight, "request"))
		}
		out = append(out, fmt.Sprintf("%s wait for an instance: %s.", number(t.Waiting, "request"), why))
	}
	for _, limit := range slices.Sorted(maps.Keys(f.look.Turned)) {
		out = append(out, fmt.Sprintf("The limit %s turned %s away (429) in the last minutes.", limit, number(f.look.Turned[limit], "request")))
	}
	return out
}
