// SPDX-License-Identifier: Apache-2.0

package procrunner_test

import (
	"net"
	"testing"

	"panal/internal/runner"
	"panal/internal/runner/procrunner"
	"panal/internal/runner/runnertest"
)

// TestPortsAreWalled: what a command listens on is reached by nobody outside its
// workload; without the wall, by everybody on the machine.
func TestPortsAreWalled(t *testing.T) {
	for _, wall := range []bool{true, false} {
		name := "wall"
		if !wall {
			name = "wall_down"
		}
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, false, nil, func(c *procrunner.Config) {
				if !wall {
					c.NoNetwork()
				}
			})
			if ok, reason := w.r.WallsPorts(); ok != wall {
				t.Fatalf("WallsPorts = %v, %q", ok, reason)
			}
			spec := attackSpec("listen", "")
			spec.Kind, spec.Command, spec.Reserve = runner.KindService, []string{"x"}, true
			id := start(t, w.r, spec)
			addr := awaitResult(t, w.cfg, id).Text
			c, err := net.Dial("tcp", addr)
			if err == nil {
				_ = c.Close()
			}
			if (err != nil) != wall {
				t.Errorf("from the machine: %v", err)
			}
			for _, command := range []bool{false, true} {
				spec := attackSpec("connect-tcp", addr)
				if command {
					spec.Kind, spec.Command = runner.KindService, []string{"x"}
				}
				other := start(t, w.r, spec)
				if res := awaitResult(t, w.cfg, other); res.OK == wall {
					t.Errorf("from another workload (a command: %v): %+v", command, res)
				}
			}
			// The gateway's way is the socket, and it does not depend on a network.
			st, err := w.r.Get(t.Context(), id)
			if err != nil || st.Addr.Network != "unix" {
				t.Fatalf("%+v, %v", st, err)
			}
			if err := w.r.Stop(t.Context(), id, 0); err != nil {
				t.Fatal(err)
			}
			runnertest.AwaitExit(t, w.r, id)
		})
	}
}
