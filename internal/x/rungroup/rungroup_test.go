// SPDX-License-Identifier: Apache-2.0

package rungroup_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"panal/internal/x/rungroup"
)

func TestStopsInReverseOrder(t *testing.T) {
	var g rungroup.Group
	var mu sync.Mutex
	var stopped []string
	for _, name := range []string{"store", "control", "listener"} {
		g.Add(name, func(ctx context.Context) error {
			<-ctx.Done()
			mu.Lock()
			defer mu.Unlock()
			stopped = append(stopped, name)
			return ctx.Err()
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Run(ctx); err != nil {
		t.Errorf("Run = %v; a stop that was asked for is no error", err)
	}
	if diff := cmp.Diff([]string{"listener", "control", "store"}, stopped); diff != "" {
		t.Error(diff)
	}
}

func TestOneActorsEndStopsAll(t *testing.T) {
	var g rungroup.Group
	boom := errors.New("boom")
	g.Add("store", func(ctx context.Context) error { <-ctx.Done(); return nil })
	g.Add("listener", func(context.Context) error { return boom })
	if err := g.Run(t.Context()); !errors.Is(err, boom) {
		t.Errorf("Run = %v, want boom", err)
	}
}
