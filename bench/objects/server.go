// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"panal/internal/client"
	"panal/internal/plat"
)

// server is one of the two under test.
type server struct {
	Name string
	cmd  *exec.Cmd
	addr string
	dir  string
	pid  int
	idle float64 // MB resident before any load
	put  func(worker int, n int64, size int64) (head []byte)
	// paths returns the heads of the requests that read what a case has stored.
	paths func(ctx context.Context, most int) ([]func() []byte, error)
	begin func(ctx context.Context, name string) error // of a case
	end   func(ctx context.Context) error              // its bytes may go
}

// launch starts a program on one core and waits for its port.
func launch(o options, name string, port int, env []string, argv ...string) (*server, error) {
	s := &server{Name: name, addr: "127.0.0.1:" + strconv.Itoa(port)}
	if o.serverCPU != "" {
		argv = append([]string{"taskset", "-c", o.serverCPU}, argv...)
	}
	log, err := os.Create(filepath.Join(o.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	s.cmd = exec.Command(argv[0], argv[1:]...)
	s.cmd.Stdout, s.cmd.Stderr, s.cmd.Env = log, log, append(os.Environ(), env...)
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	s.pid = s.cmd.Process.Pid // taskset becomes the program
	for range 200 {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			return s, c.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.stop()
	return nil, fmt.Errorf("%s does not listen; see %s", name, log.Name())
}

func (s *server) stop() {
	_ = s.cmd.Process.Signal(os.Interrupt)
	done := make(chan struct{})
	go func() { _ = s.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(15 * time.Second):
		_ = s.cmd.Process.Kill()
		<-done
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("no TCP address")
	}
	return addr.Port, nil
}

// startPanal starts Panal as a user has it: SQLite, a directory, every upload
// authenticated, hashed, indexed under three keys and durable when it is answered.
func startPanal(o options) (*server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	data := filepath.Join(o.dir, "panal")
	argv := []string{o.panal, "serve", "--data", data, "--listen", "127.0.0.1:" + strconv.Itoa(port)}
	if o.pprof != "" {
		argv = append(argv, "--admin-listen", o.pprof)
	}
	s, err := launch(o, "panal", port, nil, argv...)
	if err != nil {
		return nil, err
	}
	s.dir = data
	admin, err := readAdmin(filepath.Join(data, "admin.json"))
	if err != nil {
		s.stop()
		return nil, err
	}
	api := client.New("http://"+s.addr, admin.Org, admin.User, admin.Token)
	auth := basic(admin.User, admin.Token)
	var channel string
	s.begin = func(ctx context.Context, name string) error {
		ch, err := api.CreateChannel(ctx, name, "made by bench/objects")
		channel = ch.ID
		return err
	}
	s.put = func(worker int, n, size int64) []byte {
		return fmt.Appendf(nil, "POST /channels/%s/upload HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\nContent-Type: application/octet-stream\r\n"+
			"x-abeja-meta-label: %d\r\nx-abeja-meta-split: train\r\nx-abeja-meta-name: w%d-%d\r\nContent-Length: %d\r\n\r\n",
			channel, s.addr, auth, n%10, worker, n, size)
	}
	s.paths = func(ctx context.Context, most int) ([]func() []byte, error) {
		var all []func() []byte
		c := &conn{addr: s.addr}
		defer c.close()
		token := ""
		for len(all) < most {
			path := "/channels/" + channel + "?items_per_page=1000"
			if token != "" {
				path += "&next_page_token=" + token
			}
			status, body, _, err := c.do(fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\n\r\n", path, s.addr, auth), nil, 0, true)
			if err != nil || status != http.StatusOK {
				return nil, fmt.Errorf("list: %d %.200s: %w", status, body, err)
			}
			var page struct {
				Next  *string `json:"next_page_token"`
				Files []struct {
					URI string `json:"download_uri"`
				}
			}
			if err := json.Unmarshal(body, &page); err != nil {
				return nil, err
			}
			for _, f := range page.Files {
				_, rest, _ := strings.Cut(f.URI, "://")
				_, rest, _ = strings.Cut(rest, "/")
				head := fmt.Appendf(nil, "GET /%s HTTP/1.1\r\nHost: %s\r\n\r\n", rest, s.addr)
				all = append(all, func() []byte { return head })
			}
			if page.Next == nil {
				break
			}
			token = *page.Next
		}
		return all[:min(most, len(all))], ctx.Err()
	}
	s.end = func(context.Context) error { return nil }
	s.idle, err = rss(s.pid)
	return s, err
}

type admin struct{ Org, User, Token string }

func readAdmin(path string) (admin, error) {
	var a struct {
		Org   string `json:"organization_id"`
		User  string `json:"user_id"`
		Token string `json:"personal_access_token"`
	}
	for range 100 {
		b, err := os.ReadFile(path)
		if err == nil && json.Unmarshal(b, &a) == nil && a.Token != "" {
			return admin{a.Org, strings.TrimPrefix(a.User, "user-"), a.Token}, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return admin{}, plat.Errorf(plat.ErrUnavailable, "no token in %s", path)
}

// startVersity starts versitygw on its posix backend: connections kept, no request
// log, everything else as it comes.
func startVersity(o options) (*server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(o.dir, "versitygw")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	const access, secret, region = "bench", "benchsecret", "us-east-1"
	s, err := launch(o, "versitygw", port, []string{"ROOT_ACCESS_KEY=" + access, "ROOT_SECRET_KEY=" + secret},
		o.versity, "--port", "127.0.0.1:"+strconv.Itoa(port), "--region", region, "--keep-alive", "--quiet", "posix", dir)
	if err != nil {
		return nil, err
	}
	s.dir = dir
	sig := newSigner(access, secret, region, s.addr)
	var bucket string
	var mu sync.Mutex
	var stored []string
	request := func(method, path string) error {
		c := &conn{addr: s.addr}
		defer c.close()
		status, body, _, err := c.do(sig.head(method, path, 0), nil, 0, true)
		if err != nil || status/100 != 2 {
			return fmt.Errorf("%s %s: %d %.200s: %w", method, path, status, body, err)
		}
		return nil
	}
	s.begin = func(_ context.Context, name string) error {
		bucket, stored = "bench-"+name, nil
		return request("PUT", "/"+bucket)
	}
	s.put = func(worker int, n, size int64) []byte {
		// As many levels as Panal's own keys have.
		path := fmt.Sprintf("/%s/objects/w%d-%d", bucket, worker, n)
		mu.Lock()
		stored = append(stored, path)
		mu.Unlock()
		return sig.head("PUT", path, size)
	}
	s.paths = func(_ context.Context, most int) ([]func() []byte, error) {
		var all []func() []byte
		for _, path := range stored[:min(most, len(stored))] {
			all = append(all, func() []byte { return sig.head("GET", path, 0) })
		}
		return all, nil
	}
	s.end = func(context.Context) error { return os.RemoveAll(filepath.Join(dir, bucket)) }
	s.idle, err = rss(s.pid)
	return s, err
}

// ticksPerSecond is USER_HZ, which Linux fixes at 100 for everything it shows.
const ticksPerSecond = 100

// cpuTime returns the CPU time of a process so far.
func cpuTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("the server is gone: %w", err)
	}
	// The name, in parentheses, may hold anything; what follows it is numbers.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 13 {
		return 0, io.ErrUnexpectedEOF
	}
	user, err1 := strconv.ParseInt(string(fields[11]), 10, 64)
	system, err2 := strconv.ParseInt(string(fields[12]), 10, 64)
	return time.Duration(user+system) * time.Second / ticksPerSecond, errors.Join(err1, err2)
}

// rss and peak return resident memory in MB, now and at most since resetPeak.
func rss(pid int) (float64, error)  { return status(pid, "VmRSS:") }
func peak(pid int) (float64, error) { return status(pid, "VmHWM:") }

func resetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

func status(pid int, field string) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("the server is gone: %w", err)
	}
	_, rest, _ := strings.Cut(string(b), field)
	kb, err := strconv.ParseFloat(strings.Fields(rest + " 0")[0], 64)
	return kb / 1000, err
}
