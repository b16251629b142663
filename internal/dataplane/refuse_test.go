// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"fmt"
	"strings"
	"testing"

	"panal/internal/dataplane"
)

// TestRefuse: where nothing will come, nobody waits, and those who do are told.
func TestRefuse(t *testing.T) {
	reg := newGauges(t)
	table, gw := gateway(t, dataplane.Options{Metrics: reg})
	apply(t, table, 1, routes(svA, serviceOf(svA)))
	held := make(chan string, 1)
	go func() {
		status, body := call(t, gw.Client(), "POST", gw.URL, "x")
		held <- fmt.Sprint(status, " ", body)
	}()
	eventually(t, "the call held", func() bool { return reg.get("panal_gateway_held") == 1 })
	down := serviceOf(svA)
	down.Refuse = "the service is STOPPED"
	apply(t, table, 2, routes(svA, down))
	if s := <-held; !strings.HasPrefix(s, "503 ") || !strings.Contains(s, "STOPPED") {
		t.Errorf("the waiting call = %s", s)
	}
	if status, body := call(t, gw.Client(), "POST", gw.URL, "x"); status != 503 || !strings.Contains(body, "STOPPED") {
		t.Errorf("a call on a stopped service = %d %s", status, body)
	}
	a, _ := upstream(t, 1, say("still here"))
	down.Instances = []dataplane.Instance{a}
	apply(t, table, 3, routes(svA, down))
	if status, body := call(t, gw.Client(), "POST", gw.URL, "x"); status != 200 || body != "still here" {
		t.Errorf("a call with an instance left = %d %s", status, body)
	}
}
