// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"panal/internal/client"
)

// smallDisk mounts a file system of so many MiB for a test and returns its folder.
func smallDisk(t *testing.T, mib int) string {
	t.Helper()
	if os.Geteuid() != 0 && os.Getenv("CI") != "true" {
		t.Skip("mounting a small file system needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=755", mib)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fillDisk writes to a file until nothing more goes in.
func fillDisk(t *testing.T, name string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			size /= 2
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// put uploads a body with a file name, as one of known length or as a stream.
func (p *platform) put(channel, name string, body []byte, chunked bool) (string, error) {
	r := client.Request{
		Method: http.MethodPost, Path: client.Path("channels", channel, "upload"), Body: bytes.NewReader(body), Size: int64(len(body)),
		Header: http.Header{"Content-Type": {"application/octet-stream"}, "x-abeja-meta-filename": {name}},
	}
	if chunked {
		r.Body, r.Size = io.MultiReader(r.Body), -1
	}
	res, err := p.api.Do(context.Background(), r)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	var f struct {
		ID string `json:"file_id"`
	}
	return f.ID, json.NewDecoder(res.Body).Decode(&f)
}

// bytes downloads a file by its signed URL.
func (p *platform) bytes(channel, file string) []byte {
	p.t.Helper()
	f := p.call(http.MethodGet, client.Path("channels", channel, file), nil)
	return p.fetch(f["download_uri"].(string))
}

// fetch reads a signed URL.
func (p *platform) fetch(uri string) []byte {
	p.t.Helper()
	res, err := http.Get(uri)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		p.t.Fatalf("GET %s = %d, %v: %.200s", uri, res.StatusCode, err, b)
	}
	return b
}

// TestFullDisk: a disk without a free byte is an error that says so. Nothing half
// written stays, what was there is read and served, and with room all goes on; not
// a log line is missing.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, 256)
	p := startPlatformAt(t, filepath.Join(disk, "data"))
	channel := p.call(http.MethodPost, p.api.OrgPath("channels"), map[string]string{"name": "full"})["channel"].(map[string]any)["channel_id"].(string)
	stored := map[string][]byte{}
	body := func(i, size int) []byte {
		return bytes.Repeat(sha256Sum(i), size/sha256.Size+1)[:size]
	}
	for i, size := range []int{0, 10, 1000, 100_000, 3 << 20} {
		b := body(i, size)
		id, err := p.put(channel, fmt.Sprintf("before-%d", i), b, i%2 == 1)
		if err != nil {
			t.Fatal(err)
		}
		stored[id] = b
	}
	count := func() int {
		return int(p.call(http.MethodGet, client.Path("channels", channel, "count"), nil)["count"].(float64))
	}

	dep, svc := p.service(map[string]string{"main.py": "def handler(request, context):\n    return {'content': 'still ' + request.read().decode()}\n"}, 1)
	p.call(http.MethodPost, p.api.OrgPath("training", "definitions"), map[string]string{"name": "chatty"})
	v := p.version("chatty", map[string]string{"train.py": `
import os, pathlib, time
def handler(context):
    print("key", os.environ["PLATFORM_AUTH_TOKEN"])
    until = time.time() + 60
    i = 0
    while time.time() < until:
        print("line", i)
        i += 1
        time.sleep(0.02)
`})
	job := p.job("chatty", v, nil)
	logPath := p.def("chatty", "jobs", job, "logs")
	var key string
	p.until("the job's first lines", time.Minute, func() bool {
		lines := p.lines(logPath)
		for _, l := range lines {
			if k, ok := strings.CutPrefix(l, "key "); ok {
				key = k
			}
		}
		return key != "" && len(lines) > 5
	})
	servicePath := p.api.OrgPath("deployments", dep, "services", svc)
	p.until("READY", time.Minute, func() bool { return p.call(http.MethodGet, servicePath, nil)["status"] == "READY" })

	ballast := filepath.Join(disk, "ballast")
	fillDisk(t, ballast)

	// Uploads of every size and shape are 507. A tiny one may still find room in a
	// page that was allocated before: then it is stored as any other.
	refused := 0
	for i := range 40 {
		size := []int{20_000, 70_000, 2 << 20, 6 << 20}[i%4]
		b := body(100+i, size)
		id, err := p.put(channel, fmt.Sprintf("during-%d", i), b, i%8 >= 4)
		if err == nil {
			stored[id] = b
			continue
		}
		refused++
		var ae *client.Error
		if !errors.As(err, &ae) || ae.Status != http.StatusInsufficientStorage || ae.Code != "insufficient_storage" || ae.Description == "" {
			t.Fatalf("upload of %d bytes: %#v", size, err)
		}
	}
	if refused < 20 {
		t.Fatalf("only %d of 40 uploads were refused: the disk is not full", refused)
	}

	// A batch of log lines is 503, and says when to come again.
	if status, after, answer := p.ingest(job, key); status != http.StatusServiceUnavailable || after == "" {
		t.Errorf("ingest = %d, Retry-After %q: %s", status, after, answer)
	}

	// Writes of records fail loudly or work; the server stays.
	for _, c := range []struct {
		path string
		in   any
	}{
		{p.api.OrgPath("channels"), map[string]string{"name": strings.Repeat("n", 1000)}},
		{p.def("chatty", "versions", v, "jobs"), map[string]any{"instance_type": "cpu-0.25"}},
		{p.api.OrgPath("deployments"), map[string]string{"name": "another"}},
	} {
		err := p.api.JSON(context.Background(), http.MethodPost, c.path, nil, c.in, nil)
		var ae *client.Error
		if err != nil && (!errors.As(err, &ae) || ae.Status != http.StatusInsufficientStorage && ae.Status != http.StatusServiceUnavailable) {
			t.Errorf("POST %s on a full disk: %v", c.path, err)
		}
	}

	// Reads and requests work.
	if n := count(); n != len(stored) {
		t.Errorf("count is %d, want %d", n, len(stored))
	}
	if n, err := p.api.CountFiles(context.Background(), channel, "content_type:octet-stream AND NOT filename:other"); err != nil || n != int64(len(stored)) {
		t.Errorf("a search on a full disk finds %d, want %d: %v", n, len(stored), err)
	}
	for id, want := range stored {
		if got := p.bytes(channel, id); !bytes.Equal(got, want) {
			t.Errorf("file %s differs", id)
		}
	}
	if s := p.call(http.MethodGet, p.def("chatty", "jobs", job), nil)["status"]; s != "Active" {
		t.Errorf("the job is %v", s)
	}
	// A request's body is a file beside the instance: no room is a clear answer too.
	if status, answer := p.infer(dep, svc, "here"); (status != http.StatusOK || answer != "still here") && (status != http.StatusInsufficientStorage || !strings.Contains(answer, "no space")) {
		t.Errorf("inference = %d %s", status, answer)
	}
	if before := len(p.lines(logPath)); before == 0 {
		t.Error("no log line can be read")
	}

	// Room again: all goes on, without a restart.
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if status, answer := p.infer(dep, svc, "here"); status != http.StatusOK || answer != "still here" {
		t.Errorf("inference after the disk has room = %d %s", status, answer)
	}
	b := body(999, 1<<20)
	id, err := p.put(channel, "after", b, false)
	if err != nil {
		t.Fatalf("upload after the disk has room: %v", err)
	}
	stored[id] = b
	if n := count(); n != len(stored) {
		t.Errorf("count is %d, want %d", n, len(stored))
	}
	listed := p.call(http.MethodGet, client.Path("channels", channel), nil)["files"].([]any)
	for _, f := range listed {
		id := f.(map[string]any)["file_id"].(string)
		if want, ok := stored[id]; !ok || !bytes.Equal(p.bytes(channel, id), want) {
			t.Errorf("file %s is listed and not as it was stored", id)
		}
	}
	p.until("lines from after", time.Minute, func() bool {
		n := 0
		for _, l := range p.lines(logPath) {
			if _, ok := strings.CutPrefix(l, "line "); ok {
				n++
			}
		}
		return n > 200
	})
	p.call(http.MethodPost, p.def("chatty", "jobs", job, "stop"), nil)
	p.waitJob("chatty", job, time.Minute)
	next := 0
	for _, l := range p.lines(logPath) {
		if n, ok := strings.CutPrefix(l, "line "); ok {
			if n != strconv.Itoa(next) {
				t.Fatalf("line %s came where %d was due", n, next)
			}
			next++
		}
	}
	again := p.job("chatty", p.version("chatty", map[string]string{"train.py": "def handler(context):\n    pass\n"}), nil)
	if j := p.waitJob("chatty", again, time.Minute); j["status"] != "Complete" {
		t.Errorf("a job after the disk has room is %v: %v", j["status"], j["status_message"])
	}
	// A new server finds the same.
	p.kill()
	p.start()
	if n := count(); n != len(stored) {
		t.Errorf("count after a restart is %d, want %d", n, len(stored))
	}
}

// TestDeleteOnAFullDisk: files can be deleted, however many, from a disk without a free
// byte, which gives room for others.
func TestDeleteOnAFullDisk(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, 64)
	p := startPlatformAt(t, filepath.Join(disk, "data"))
	channel := p.call(http.MethodPost, p.api.OrgPath("channels"), map[string]string{"name": "full"})["channel"].(map[string]any)["channel_id"].(string)
	const files = 1200
	ids := make([]string, files)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < files; i += 8 {
				id, err := p.put(channel, fmt.Sprintf("file-%d", i), sha256Sum(i), false)
				if err != nil {
					t.Error(err)
				}
				ids[i] = id
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	fillDisk(t, filepath.Join(disk, "ballast"))
	for i, id := range ids[:files-5] {
		if err := p.api.JSON(context.Background(), http.MethodDelete, client.Path("channels", channel, id), nil, nil, nil); err != nil {
			t.Fatalf("deletion %d: %v", i, err)
		}
	}
	check := func(want int) {
		t.Helper()
		n, err := p.api.CountFiles(context.Background(), channel, "content_type:octet-stream")
		if listed := p.call(http.MethodGet, client.Path("channels", channel), nil)["files"].([]any); err != nil || int(n) != want || len(listed) != want {
			t.Errorf("counted %d and listed %d, want %d: %v", n, len(listed), want, err)
		}
	}
	check(5)
	if err := os.Remove(filepath.Join(disk, "ballast")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.put(channel, "after", sha256Sum(files), false); err != nil {
		t.Errorf("upload after the disk has room: %v", err)
	}
	p.kill()
	p.start()
	check(6)
}

func sha256Sum(i int) []byte {
	sum := sha256.Sum256([]byte(strconv.Itoa(i)))
	return sum[:]
}

// ingest posts a batch with one large line as the job's own container would.
func (p *platform) ingest(job, key string) (status int, retryAfter, answer string) {
	p.t.Helper()
	dirs, err := filepath.Glob(filepath.Join(p.data, "run", "wl-*"))
	if err != nil || len(dirs) == 0 {
		p.t.Fatalf("no workload below %s: %v", p.data, err)
	}
	seq := int64(1_000_000)
	for range 20 {
		id := filepath.Base(dirs[0])
		batch, err := json.Marshal(map[string]any{
			"workload_id": id, "stream": "job/" + job, "first_seq": seq,
			"entries": []map[string]any{{"t": time.Now().UnixMicro(), "m": strings.Repeat("planted ", 20_000)}},
		})
		if err != nil {
			p.t.Fatal(err)
		}
		req, err := http.NewRequest(http.MethodPost, "http://"+p.listen+p.api.OrgPath("workloads", id, "logs"), bytes.NewReader(batch))
		if err != nil {
			p.t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+key)
		req.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			p.t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil {
			p.t.Fatal(err)
		}
		status, retryAfter, answer = res.StatusCode, res.Header.Get("Retry-After"), string(b)
		switch status {
		case http.StatusForbidden: // another workload's
			dirs = dirs[1:]
		case http.StatusConflict: // says which number is due
			last, err := field(b, "last_seq")
			if err != nil {
				p.t.Fatal(err)
			}
			if seq, err = strconv.ParseInt(last, 10, 64); err != nil {
				p.t.Fatal(err)
			}
			seq++
		default:
			return status, retryAfter, answer
		}
		if len(dirs) == 0 {
			break
		}
	}
	return status, retryAfter, answer
}
