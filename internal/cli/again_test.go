// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"panal/internal/cli"
)

// TestRateIsNotSpentOnLooking: an upload that was refused because of the rate stored nothing,
// so its repetition does not look for it first: each look would cost what the upload needs.
// After an answer that says nothing of that it does.
func TestRateIsNotSpentOnLooking(t *testing.T) {
	for refusal, wantLooks := range map[int]int64{http.StatusTooManyRequests: 1, http.StatusBadGateway: 3} {
		t.Run(http.StatusText(refusal), func(t *testing.T) {
			var looks, uploads atomic.Int64
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				switch {
				case r.Method == http.MethodPost:
					_, _ = io.Copy(io.Discard, r.Body)
					if uploads.Add(1) <= 2 {
						w.Header().Set("Retry-After", "1")
						w.WriteHeader(refusal)
						return
					}
					_, _ = io.WriteString(w, `{"file_id":"f-1","metadata":{}}`)
				case strings.HasSuffix(r.URL.Path, "/count"):
					_, _ = io.WriteString(w, `{"count":100000}`) // so many that each file is asked for
				case strings.Contains(r.URL.RawQuery, "filename"):
					looks.Add(1)
					_, _ = io.WriteString(w, `{"files":[]}`)
				default:
					_, _ = io.WriteString(w, `{"channel":{"channel_id":"1410805969256","name":"c"}}`)
				}
			}))
			defer srv.Close()
			dir := t.TempDir()
			write(t, dir, map[string]string{"a.txt": "a"})
			var out, errs bytes.Buffer
			code := cli.Main(t.Context(), []string{
				"--api-url", srv.URL, "--organization", "1102940376065", "--user", "user-1", "--token", "t",
				"file", "upload", "1410805969256", filepath.Join(dir, "a.txt"),
			}, strings.NewReader(""), &out, &errs)
			if code != 0 || uploads.Load() != 3 || looks.Load() != wantLooks {
				t.Error(fmt.Sprintf("exit %d, %d uploads, %d looks, want %d;", code, uploads.Load(), looks.Load(), wantLooks), errs.String())
			}
		})
	}
}
