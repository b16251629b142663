// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"panal/bench/proc"
)

// pinned tells that this process was started again on its core.
const pinned = "S3STORE_PINNED"

// pin runs this program on one core: the threads of a Go program can't all be moved
// from inside, so it starts itself again.
func pin(core string) error {
	if os.Getenv(pinned) != "" {
		return nil
	}
	cmd := exec.Command("taskset", append([]string{"-c", core, os.Args[0]}, os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), pinned+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("on core %s: %w", core, err)
	}
	os.Exit(0)
	return nil
}

func ready(ctx context.Context, url string) error {
	for range 300 {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if res, err := http.DefaultClient.Do(req); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("%s is not ready", url)
}

// panal is a server of ours with a channel.
type panal struct {
	p                        *proc.Process
	url, user, pass, channel string

	mu    sync.Mutex
	files []string
}

func (p *panal) process() *proc.Process {
	if p == nil {
		return nil
	}
	return p.p
}

func (b *bench) startPanal(ctx context.Context, data, blob string, env []string) (*panal, error) {
	port, err := proc.FreeAddr()
	if err != nil {
		return nil, err
	}
	p := &panal{url: "http://" + port}
	if p.p, err = proc.Start(filepath.Base(data), b.o.panalCore, data+".log", env, b.o.panal, "serve", "--data", data, "--listen", port, "--blob", blob); err != nil {
		return nil, err
	}
	if err := ready(ctx, p.url+"/readyz"); err != nil {
		return p, fmt.Errorf("%w; see %s.log", err, data)
	}
	admin, err := proc.ReadAdmin(filepath.Join(data, "admin.json"))
	if err != nil {
		return p, err
	}
	p.user, p.pass = "user-"+admin.User, admin.Token
	res, err := p.do(ctx, b.http, http.MethodPost, "/organizations/"+admin.Org+"/channels", strings.NewReader(`{"name":"bench"}`), -1)
	if err != nil {
		return p, err
	}
	defer func() { _ = res.Body.Close() }()
	var made struct {
		Channel struct {
			ID string `json:"channel_id"`
		} `json:"channel"`
	}
	err = json.NewDecoder(res.Body).Decode(&made)
	p.channel = made.Channel.ID
	return p, err
}

func (p *panal) do(ctx context.Context, c *http.Client, method, path string, body io.Reader, size int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, p.url+path, body)
	if err != nil {
		return nil, err
	}
	if size > 0 {
		req.ContentLength = size
	}
	req.SetBasicAuth(p.user, p.pass)
	req.Header.Set("Content-Type", "application/json")
	res, err := c.Do(req)
	if err == nil && res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1000))
		_ = res.Body.Close()
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, res.Status, text)
	}
	return res, err
}

// upload puts one file and remembers it.
func (p *panal) upload(ctx context.Context, c *http.Client, body io.Reader, size int64) error {
	res, err := p.do(ctx, c, http.MethodPost, "/channels/"+p.channel+"/upload", body, size)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	var f struct {
		ID string `json:"file_id"`
	}
	if err := json.NewDecoder(res.Body).Decode(&f); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.files = append(p.files, f.ID)
	return nil
}

func (p *panal) file(i int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.files[i%len(p.files)]
}

// forget deletes all files.
func (p *panal) forget(ctx context.Context, b *bench) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.files {
		if res, err := p.do(ctx, b.http, http.MethodDelete, "/channels/"+p.channel+"/"+f, nil, 0); err == nil {
			_ = res.Body.Close()
		}
	}
	p.files = nil
}
