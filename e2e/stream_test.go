// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"panal/internal/client"
)

const streaming = `
def endless():
    try:
        for n in range(1 << 30):
            print("piece", n)
            yield b"x" * 65536
    finally:
        print("closed")

def broken():
    for n in range(20): yield b"y" * 65536
    raise RuntimeError("planted")

def events():
    for n in range(3): yield "data: %d\n\n" % n

CASES = {"endless": endless, "broken": broken, "events": events}

def handler(request, context):
    return {"content": CASES[request.read().decode()](), "content_type": "text/event-stream"}
`

// TestStreamThroughTheGateway: a generator is not run ahead of a caller who does not
// read, nor after one who has left; an exception in the middle is seen as a body that is cut
// off; and none of it costs the worker (compute.md §13.10).
func TestStreamThroughTheGateway(t *testing.T) {
	p := startPlatform(t)
	dep, id := p.service(map[string]string{"main.py": streaming}, 1)
	open := func(name string) *http.Response {
		t.Helper()
		res, err := p.api.Do(t.Context(), client.Request{
			Method: http.MethodPost, Path: client.Path("deployments", dep, "services", id), Body: strings.NewReader(name), Size: int64(len(name)), Header: http.Header{"Content-Type": {"text/plain"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = res.Body.Close() })
		return res
	}
	lines := func() []string { return p.lines(p.api.OrgPath("deployments", dep, "services", id, "logs")) }

	res := open("endless")
	if _, err := io.ReadFull(res.Body, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	made, since := -1, time.Now()
	p.until("the generator to stand still", time.Minute, func() bool {
		if n := len(lines()); n != made {
			made, since = n, time.Now()
		}
		return time.Since(since) > 3*time.Second
	})
	// 16 pieces were read; the rest is what the buffers of three sockets hold.
	if made < 16 || made > 16+256 {
		t.Errorf("the generator made %d pieces for a caller who took 16", made)
	}
	_ = res.Body.Close()
	p.until("the generator's end", time.Minute, func() bool { return slices.Contains(lines(), "closed") })

	res = open("broken")
	n, err := io.Copy(io.Discard, res.Body)
	if res.StatusCode != http.StatusOK || !errors.Is(err, io.ErrUnexpectedEOF) || n >= 20*65536+1 {
		t.Errorf("an exception in the middle: %d, %d bytes, %v", res.StatusCode, n, err)
	}
	p.until("the traceback", time.Minute, func() bool { return slices.Contains(lines(), "RuntimeError: planted") })

	res = open("events")
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "data: 0\n\ndata: 1\n\ndata: 2\n\n" || res.ContentLength != int64(len(body)) {
		t.Errorf("a short one: %q of %d, %v", body, res.ContentLength, err)
	}
}
