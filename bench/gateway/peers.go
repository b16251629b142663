// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"panal/bench/proc"
	"panal/internal/runner/agentctl"
)

// proxy is one of the programs under test, with one way to the upstream.
type proxy struct {
	*proc.Process
	addr string
	unix bool   // addr is a path
	key  string // of the instance, for the agent alone
	path string // what it wants in front of the path; "" for the peers
	auth string // the Authorization header; "" for the peers
}

// way is how a proxy reaches the upstream.
type way struct {
	network, addr string
	key           string // of the instance, when it is the way that Panal's requests take
}

// peers starts every proxy but ours. Each has one worker, keeps its connections on both
// sides, buffers nothing that it need not, and logs no requests.
func (b *bench) peers(ctx context.Context, to way) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("own path: %w", err)
	}
	for _, p := range []struct {
		name  string
		start func(addr, dir string) (env, argv []string, err error)
	}{
		{"reverseproxy", func(addr, _ string) ([]string, []string, error) {
			return nil, []string{self, "floor", addr, to.network, to.addr, to.key}, nil
		}},
		{"caddy", func(addr, dir string) ([]string, []string, error) {
			upstream := to.addr
			if to.network == "unix" {
				upstream = "unix/" + to.addr
			}
			conf := filepath.Join(dir, "Caddyfile")
			err := os.WriteFile(conf, fmt.Appendf(nil, `{
	admin off
	auto_https off
	persist_config off
	storage file_system %s
}
http://%s {
	reverse_proxy %s {
		flush_interval -1
		header_up %s "%s"
		transport http {
			keepalive_idle_conns_per_host 1024
		}
	}
}
`, dir, addr, upstream, agentctl.HeaderInstanceKey, to.key), 0o600)
			return []string{"HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "XDG_DATA_HOME=" + dir}, []string{b.o.caddy, "run", "--config", conf, "--adapter", "caddyfile"}, err
		}},
		{"nginx", func(addr, dir string) ([]string, []string, error) {
			upstream := to.addr
			if to.network == "unix" {
				upstream = "unix:" + to.addr
			}
			conf := filepath.Join(dir, "nginx.conf")
			err := os.WriteFile(conf, fmt.Appendf(nil, `
daemon off; master_process off; worker_processes 1; pid %[1]s/pid; error_log %[1]s/error.log;
events { worker_connections 8000; }
http {
  access_log off; client_max_body_size 0; keepalive_requests 1000000000;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  upstream up { server %[3]s; keepalive 1024; keepalive_requests 1000000000; }
  server {
    listen %[2]s backlog=4096;
    location / {
      proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header %[4]s "%[5]s";
      proxy_buffering off; proxy_request_buffering off;
    }
  }
}
`, dir, addr, upstream, agentctl.HeaderInstanceKey, to.key), 0o600)
			return nil, []string{b.o.nginx, "-c", conf, "-p", dir}, err
		}},
		{"haproxy", func(addr, dir string) ([]string, []string, error) {
			upstream := to.addr
			if to.network == "unix" {
				upstream = "unix@" + to.addr
			}
			conf := filepath.Join(dir, "haproxy.cfg")
			err := os.WriteFile(conf, fmt.Appendf(nil, `
global
  nbthread 1
  maxconn 4000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option http-keep-alive
  http-reuse always
frontend in
  bind %s
  default_backend up
backend up
  http-request set-header %s "%s"
  server s1 %s
`, addr, agentctl.HeaderInstanceKey, to.key, upstream), 0o600)
			return nil, []string{b.o.haproxy, "-db", "-f", conf}, err
		}},
		{"also", func(addr, _ string) ([]string, []string, error) {
			return nil, []string{b.o.also, addr, to.network, to.addr, to.key}, nil
		}},
	} {
		if !b.wanted(p.name) || p.name == "also" && b.o.also == "" {
			continue
		}
		addr, err := proc.FreeAddr()
		if err != nil {
			return err
		}
		dir := filepath.Join(b.dir, p.name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("directory of %s: %w", p.name, err)
		}
		env, argv, err := p.start(addr, dir)
		if err != nil {
			return fmt.Errorf("configure %s: %w", p.name, err)
		}
		running, err := proc.Start(p.name, b.o.proxyCPU, filepath.Join(dir, "log"), env, argv...)
		if err != nil {
			return err
		}
		b.proxies = append(b.proxies, &proxy{Process: running, addr: addr})
		if err := running.Listens(ctx, addr); err != nil {
			return err
		}
	}
	return nil
}
