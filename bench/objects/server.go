// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"panal/bench/proc"
	"panal/internal/client"
)

// server is one of the two under test.
type server struct {
	*proc.Process
	addr string
	dir  string
	idle float64 // MB resident before any load
	put  func(worker int, n int64, size int64) (head []byte)
	// paths returns the heads of the requests that read what a case has stored.
	paths func(ctx context.Context, most int) ([]func() []byte, error)
	begin func(ctx context.Context, name string) error // of a case
}

// launch starts a program on the servers' core and waits for its port.
func launch(o options, name string, env []string, addr string, argv ...string) (*server, error) {
	p, err := proc.Start(name, o.serverCPU, filepath.Join(o.dir, name+".log"), env, argv...)
	if err != nil {
		return nil, err
	}
	if err := p.Listens(context.Background(), addr); err != nil {
		p.Stop()
		return nil, err
	}
	return &server{Process: p, addr: addr}, nil
}

// startPanal starts Panal as a user has it: SQLite, a directory, every upload
// authenticated, hashed, indexed under three keys and durable when it is answered.
func startPanal(o options) (*server, error) {
	addr, err := proc.FreeAddr()
	if err != nil {
		return nil, err
	}
	data := filepath.Join(o.dir, "panal")
	argv := []string{o.panal, "serve", "--data", data, "--listen", addr}
	if o.pprof != "" {
		argv = append(argv, "--admin-listen", o.pprof)
	}
	s, err := launch(o, "panal", nil, addr, argv...)
	if err != nil {
		return nil, err
	}
	s.dir = data
	admin, err := proc.ReadAdmin(filepath.Join(data, "admin.json"))
	if err != nil {
		s.Stop()
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
	s.idle, err = proc.RSS(s.PID)
	return s, err
}

// startVersity starts versitygw on its posix backend: connections kept, no request
// log, everything else as it comes.
func startVersity(o options) (*server, error) {
	addr, err := proc.FreeAddr()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(o.dir, "versitygw")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	const access, secret, region = "bench", "benchsecret", "us-east-1"
	s, err := launch(o, "versitygw", []string{"ROOT_ACCESS_KEY=" + access, "ROOT_SECRET_KEY=" + secret}, addr,
		o.versity, "--port", addr, "--region", region, "--keep-alive", "--quiet", "posix", dir)
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
		if err := request("PUT", "/"+bucket); err != nil {
			return err
		}
		// Of several first objects of a directory it refuses some: "existing object is a directory".
		return request("PUT", "/"+bucket+"/objects/first")
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
	s.idle, err = proc.RSS(s.PID)
	return s, err
}
