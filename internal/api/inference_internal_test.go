// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
	"pgregory.net/rapid"
)

// TestInferencePattern: what passes the router by goes where the router would send it.
func TestInferencePattern(t *testing.T) {
	a := New(Deps{})
	passed := 0
	check := func(method, path string) string {
		r := httptest.NewRequest(method, path, http.NoBody)
		normalize(r)
		got := inferencePattern(r)
		if got == "" {
			return ""
		}
		passed++
		ctx := chi.NewRouteContext()
		if !a.router.Match(ctx, r.Method, r.URL.Path) {
			return method + " " + path + ": the router knows no such path"
		}
		if want := strings.TrimSuffix(ctx.RoutePattern(), "/*"); want != got {
			return method + " " + path + " goes to " + got + ", and by the router to " + want
		}
		return ""
	}
	segment := rapid.SampledFrom([]string{"deployments", "1740000000088", "services", "results", "ser-0000000000000001", "default", "a", "%41", "%2F", "a%20b", "", "*", "{x}", ".."})
	rapid.Check(t, func(t *rapid.T) {
		path := "/" + strings.Join(rapid.SliceOfN(segment, 0, 6).Draw(t, "path"), "/")
		if rapid.Bool().Draw(t, "below") {
			path = "/deployments" + path
		}
		if bad := check(rapid.SampledFrom([]string{"GET", "POST", "PUT", "HEAD", "DELETE"}).Draw(t, "method"), path); bad != "" {
			t.Fatal(bad)
		}
	})
	for _, path := range []string{"/deployments/1", "/deployments/1/default", "/deployments/1/default/x/y", "/deployments/1/services/s", "/deployments/1/services/s/x"} {
		before := passed
		if bad := check("POST", path); bad != "" || passed == before {
			t.Errorf("%s: %s", path, bad)
		}
	}
}
