// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"panal/internal/cli"
)

func TestLog(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	polls := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		event := func(m string) string { return `{"message":"` + m + `","timestamp":"T","level":"info"}` }
		answer := ""
		switch path := r.URL.Path; {
		case strings.HasSuffix(path, "/training/definitions/digits/jobs/17/logs") && q.Get("next_token") == "" && q.Get("start_time") != "":
			answer = `{"events":[` + event(`a\u001b[2Jb`) + `],"next_token":"n1"}`
		case strings.HasSuffix(path, "/training/definitions/digits/jobs/17/logs") && q.Get("next_token") == "n1" && q.Get("start_time") == "":
			answer = `{"events":[` + event("<c>") + `]}`
		case strings.HasSuffix(path, "/deployments/3/services/ser-1/recentlogs") && q.Get("next_forward_token") == "":
			answer = `{"events":[` + event("two") + `,` + event("one") + `],"next_forward_token":"f1","next_backward_token":"b1"}`
		case strings.HasSuffix(path, "/deployments/3/services/ser-1/recentlogs") && q.Get("next_forward_token") == "f1":
			answer = `{"events":[` + event("four") + `,` + event("three") + `],"next_forward_token":"f2","next_backward_token":"b1"}`
		case strings.HasSuffix(path, "/deployments/3/services/ser-1/recentlogs") && q.Get("next_forward_token") == "f2":
			if polls++; polls == 2 {
				cancel()
			}
			answer = `{"events":[],"next_forward_token":"f2","next_backward_token":"b1"}`
		default:
			t.Errorf("unexpected %s", r.URL)
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = w.Write([]byte(answer))
	}))
	defer srv.Close()
	for _, c := range []struct {
		name, args, want string
		exit             int
	}{
		{"pages", "log job digits 17 --since 10m", "T info    a [2Jb\nT info    <c>\n", 0},
		{"json", "log job digits 17 --since 2026-01-01 -o json", `{"message":"a\u001b[2Jb","timestamp":"T","level":"info"}` + "\n" + `{"message":"<c>","timestamp":"T","level":"info"}` + "\n", 0},
		{"bad time", "log job digits 17 --since yesterday", "", 2},
		{"follow until", "log job digits 17 --follow --until 1m", "", 2},
		{"follow", "log service 3 ser-1 --follow", "T info    one\nT info    two\nT info    three\nT info    four\n", 130},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			args := append(strings.Fields(c.args), "--api-url", srv.URL, "--token", "x", "--organization", "1")
			if exit := cli.Main(ctx, args, strings.NewReader(""), &out, &errs); exit != c.exit || out.String() != c.want {
				t.Errorf("exit %d, %s%s\nwant %d, %s", exit, out.String(), errs.String(), c.exit, c.want)
			}
		})
	}
}
