// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"panal/internal/client"
)

// admin is what the server writes into admin.json.
type admin struct {
	APIURL string `json:"api_url"`
	Org    string `json:"organization_id"`
	User   string `json:"user_id"`
	Token  string `json:"personal_access_token"`
}

// server is a panal serve process that the demo starts, kills and starts again.
type server struct {
	binary, data, python, listen, url, logFile string
	cmd                                        *exec.Cmd
	done                                       chan struct{}
	admin                                      admin
	readyIn                                    time.Duration
}

func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, name, args...)
}

func startServer(ctx context.Context, binary, data, python string) (*server, error) {
	s := &server{binary: binary, data: data, python: python, logFile: data + ".log"}
	l, err := net.Listen("tcp", "127.0.0.1:8600")
	if err != nil { // taken: any other will do
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return nil, err
		}
	}
	s.listen = l.Addr().String()
	s.url = "http://" + s.listen
	if err := l.Close(); err != nil {
		return nil, err
	}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(data, "admin.json"))
	if err != nil {
		return nil, err
	}
	return s, json.Unmarshal(b, &s.admin)
}

// start starts the process and waits until it is ready.
func (s *server) start(ctx context.Context) error {
	log, err := os.OpenFile(s.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	// Not bound to ctx: the demo ends it by itself, in order.
	s.cmd = exec.Command(s.binary, "serve", "--data", s.data, "--listen", s.listen, "--python", s.python)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the demo first
	begin := time.Now()
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.binary, err)
	}
	s.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait() // killed on purpose, later
		close(done)
	}(s.cmd, s.done)
	for time.Since(begin) < 30*time.Second {
		select {
		case <-s.done:
			b, _ := os.ReadFile(s.logFile)
			return fmt.Errorf("the server ended at once:\n%s", bytes.TrimSpace(b))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
		res, err := http.Get(s.url + "/readyz")
		if err != nil {
			continue
		}
		_ = res.Body.Close()
		if res.StatusCode == http.StatusOK {
			s.readyIn = time.Since(begin)
			return nil
		}
	}
	return fmt.Errorf("the server was not ready after 30 s; see %s", s.logFile)
}

// kill ends the process as a power cut would, and waits until it is gone.
func (s *server) kill() error {
	if err := s.cmd.Process.Kill(); err != nil {
		return err
	}
	<-s.done
	return nil
}

// stopAll ends the server and every workload.
func (s *server) stopAll() {
	out, err := exec.Command(s.binary, "stop", "--data", s.data, "--workloads").CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "stop: %v %s\n", err, out)
		_ = s.cmd.Process.Kill()
	}
	select {
	case <-s.done:
	case <-time.After(45 * time.Second):
		_ = s.cmd.Process.Kill()
	}
}

func (s *server) client() *client.Client {
	return client.New(s.url, s.admin.Org, s.admin.User, s.admin.Token)
}

// rss returns the resident memory of the server in MB.
func (s *server) rss() float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb / 1000
		}
	}
	return 0
}

// workloads returns the process ids of the live agents that belong to a log stream
// ("service/<id>", "job/<id>"), as the server has put them on record.
func (s *server) workloads(stream string) (agents []int) {
	records, _ := filepath.Glob(filepath.Join(s.data, "run", "*", "spec.json"))
	for _, name := range records {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it has just been removed
		}
		var r struct {
			Stream string `json:"log_stream"`
			PID    int    `json:"pid"`
		}
		if json.Unmarshal(b, &r) == nil && r.Stream == stream && r.PID > 0 && !isDead(r.PID) {
			agents = append(agents, r.PID)
		}
	}
	return agents
}

// pythonUnder returns the first Python process below pid.
func pythonUnder(pid int) int {
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", queue[0]))
		if strings.HasPrefix(string(name), "python") {
			return queue[0]
		}
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", queue[0]))
		for _, l := range lists {
			b, _ := os.ReadFile(l)
			for f := range strings.FieldsSeq(string(b)) {
				if child, err := strconv.Atoi(f); err == nil {
					queue = append(queue, child)
				}
			}
		}
	}
	return 0
}

// startTime returns when a process began, in clock ticks since boot: with the id
// it names one process for ever.
func startTime(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	rest := string(b[bytes.LastIndexByte(b, ')')+1:])
	if f := strings.Fields(rest); len(f) > 19 {
		return f[19]
	}
	return ""
}

// isDead tells whether a process has ended, waited for or not.
func isDead(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	return len(f) > 0 && f[0] == "Z"
}
