// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"panal/internal/client"
)

// answer is one request of the stream.
type answer struct {
	begin, end time.Time
	service    string // who answered
	err        string // why not, when it failed
}

// stream sends predictions to the endpoint at a fixed rate, whatever the answers
// do: a slow platform does not slow the customers down.
type stream struct {
	cancel context.CancelFunc
	done   chan struct{}
	mu     sync.Mutex
	all    []answer
}

// predict sends one picture to a path of the gateway.
func (s *story) predict(ctx context.Context, path string, picture []byte) (label, service string, err error) {
	res, err := s.api.Do(ctx, client.Request{
		Method: http.MethodPost, Path: path, Body: bytes.NewReader(picture), Size: int64(len(picture)),
		Header: http.Header{"Content-Type": {"image/png"}},
	})
	if err != nil {
		return "", "", err
	}
	defer res.Body.Close()
	var out struct {
		Label   string `json:"label"`
		Service string `json:"service"`
	}
	err = json.NewDecoder(res.Body).Decode(&out)
	return out.Label, out.Service, err
}

// startStream sends perSecond requests a second to the deployment's default alias
// until stop is called.
func (s *story) startStream(ctx context.Context, picture []byte, perSecond int) *stream {
	ctx, cancel := context.WithCancel(ctx)
	st := &stream{cancel: cancel, done: make(chan struct{})}
	path := client.Path("deployments", s.deployment)
	go func() {
		defer close(st.done)
		var wg sync.WaitGroup
		tick := time.NewTicker(time.Second / time.Duration(perSecond))
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				wg.Wait()
				return
			case <-tick.C:
				wg.Go(func() {
					a := answer{begin: time.Now()}
					_, service, err := s.predict(context.WithoutCancel(ctx), path, picture)
					a.end, a.service = time.Now(), service
					if err != nil {
						a.err = err.Error()
					}
					st.mu.Lock()
					defer st.mu.Unlock()
					st.all = append(st.all, a)
				})
			}
		}
	}()
	return st
}

// stop ends the stream, waits for what is in flight and returns every answer.
func (st *stream) stop() []answer {
	st.cancel()
	<-st.done
	return st.all
}

// failures counts the failed answers and returns one of their reasons.
func failures(all []answer) (n int, why string) {
	for _, a := range all {
		if a.err != "" {
			n, why = n+1, a.err
		}
	}
	return n, why
}

// lastOf returns when the service answered last.
func lastOf(all []answer, service string) (last time.Time) {
	for _, a := range all {
		if a.service == service && a.end.After(last) {
			last = a.end
		}
	}
	return last
}

// quantile returns the q-quantile of the latencies in milliseconds.
func quantile(all []answer, q float64) float64 {
	if len(all) == 0 {
		return 0
	}
	ms := make([]float64, 0, len(all))
	for _, a := range all {
		ms = append(ms, a.end.Sub(a.begin).Seconds()*1000)
	}
	slices.Sort(ms)
	return ms[min(len(ms)-1, int(q*float64(len(ms))))]
}
