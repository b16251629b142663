// SPDX-License-Identifier: Apache-2.0

package supervise_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"panal/internal/plat"
	"panal/internal/x/handed"
	"panal/internal/x/supervise"
)

// TestMain is also the server of the tests. Its n-th start does what the n-th word of
// SERVER_PLAN says.
func TestMain(m *testing.M) {
	plan := os.Getenv("SERVER_PLAN")
	if plan == "" {
		os.Exit(m.Run())
	}
	os.Exit(server(strings.Fields(plan), os.Getenv("SERVER_DIR")))
}

// server counts its start, and tells in a line of its standard error what it does.
func server(plan []string, dir string) int {
	n := 0
	for ; ; n++ { // the first name that is free is its number
		f, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(n)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err == nil {
			_ = f.Close()
			break
		}
	}
	over, end := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(over, supervise.HandOver)
	signal.Notify(end, syscall.SIGTERM)
	tell, err := handed.NewNotifier()
	sockets, serr := handed.Take("alone")
	if err = errors.Join(err, serr); err != nil {
		fmt.Fprintln(os.Stderr, n, err)
		return 99
	}
	what, code, _ := strings.Cut(plan[min(n, len(plan)-1)], ":")
	status, _ := strconv.Atoi(code)
	fmt.Fprintf(os.Stderr, "server %d: %s, %d sockets, successor %q\n", n, what, len(sockets), os.Getenv("SUCCESSOR"))
	switch what {
	case "exit": // without ever being ready
		return status
	case "ready": // then it ends
		_ = tell.Tell(handed.Ready)
		return status
	case "slow":
		time.Sleep(300 * time.Millisecond)
	case "wait": // it can take over, and then is ready
		_ = tell.Tell(handed.Waiting)
	case "never": // it can take over, but the one before it has what it needs
		_ = tell.Tell(handed.Waiting)
		<-end
		return 0
	}
	_ = tell.Tell(handed.Ready)
	select {
	case <-over:
		fmt.Fprintf(os.Stderr, "server %d: handed over\n", n)
		if what == "clings" { // and never lets go
			time.Sleep(time.Hour)
		}
	case <-end:
		fmt.Fprintf(os.Stderr, "server %d: told to end\n", n)
	}
	return 0
}

// output is what all write.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// until waits for a text.
func (o *output) until(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !strings.Contains(o.String(), text); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%q never came:\n%s", text, o)
		}
	}
}

// run supervises a server with that plan. The test acts, then the supervisor is told
// to end unless the plan ends it.
func run(t *testing.T, plan string, act func(out *output, replace chan<- os.Signal, cancel func())) (code int, out *output) {
	t.Helper()
	out = &output{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	replace := make(chan os.Signal, 1)
	done := make(chan int, 1)
	go func() {
		code, err := supervise.Run(ctx, supervise.Config{
			Command: []string{os.Args[0]}, Env: append(os.Environ(), "SERVER_PLAN="+plan, "SERVER_DIR="+t.TempDir()),
			SuccessorEnv: []string{"SUCCESSOR=yes"}, Listen: []supervise.Address{{Name: "http", Address: "127.0.0.1:0"}},
			GiveUp: func(code int) bool { return code == 2 }, Limit: 300 * time.Millisecond,
			Output: out, Log: slog.New(slog.NewTextHandler(out, nil)),
		}, replace)
		if err != nil {
			t.Error(err)
		}
		done <- code
	}()
	act(out, replace, cancel)
	select {
	case code = <-done:
	case <-time.After(time.Minute):
		t.Fatalf("it goes on:\n%s", out)
	}
	return code, out
}

// TestLives: what becomes of a server decides whether there is another one.
func TestLives(t *testing.T) {
	for _, c := range []struct {
		what, plan string
		code       int
		starts     int
	}{
		{"told to end", "ready:0", 0, 1},
		{"can't run as it is configured", "exit:2", 2, 1},
		{"dies twice", "exit:1 ready:7 ready:0", 0, 3},
		{"can't run any more, until that is mended", "ready:2 exit:2 exit:6 ready:0", 0, 4},
	} {
		t.Run(c.what, func(t *testing.T) {
			code, out := run(t, c.plan, func(*output, chan<- os.Signal, func()) {})
			if n := strings.Count(out.String(), "1 sockets"); code != c.code || n != c.starts {
				t.Errorf("code %d after %d starts, want %d after %d:\n%s", code, n, c.code, c.starts, out)
			}
			if n := strings.Count(out.String(), `successor "yes"`); n != c.starts-1 {
				t.Errorf("%d of %d servers were successors:\n%s", n, c.starts, out)
			}
		})
	}
}

// TestReplace: the next server is to be able to take over before the old one is asked to go.
func TestReplace(t *testing.T) {
	for _, c := range []struct {
		what, plan, want string
		old              string // what becomes of the first server
	}{
		{"by one that waits", "stays wait", "server 0: handed over", "handed over"},
		{"by one that is ready", "stays stays", "server 0: handed over", "handed over"},
		{"by one that can't start", "stays exit:2", "the new server did not start; the old one goes on", "told to end"},
		{"of one that does not let go", "clings never", "the old server does not give its place up, and is killed", "handed over"},
	} {
		t.Run(c.what, func(t *testing.T) {
			code, out := run(t, c.plan, func(out *output, replace chan<- os.Signal, cancel func()) {
				out.until(t, "the server is ready")
				replace <- syscall.SIGHUP
				out.until(t, c.want)
				cancel()
			})
			if code != 0 || !strings.Contains(out.String(), "server 0: "+c.old) {
				t.Errorf("code %d:\n%s", code, out)
			}
		})
	}
}

// TestReplaceIsNotForgotten: one that is asked for while a server starts comes when that
// is ready.
func TestReplaceIsNotForgotten(t *testing.T) {
	code, out := run(t, "slow stays", func(out *output, replace chan<- os.Signal, cancel func()) {
		out.until(t, "server 0: slow")
		replace <- syscall.SIGHUP
		out.until(t, "it is replaced once it is ready")
		out.until(t, "server 0: handed over")
		cancel()
	})
	if code != 0 || !strings.Contains(out.String(), "server 1: told to end") {
		t.Errorf("code %d:\n%s", code, out)
	}
}

// TestAddressTaken: an address that somebody has is an error at once.
func TestAddressTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, err = supervise.Run(t.Context(), supervise.Config{
		Command: []string{"/nowhere"}, Listen: []supervise.Address{{Name: "http", Address: l.Addr().String()}},
		Output: io.Discard, Log: slog.New(slog.DiscardHandler),
	}, nil)
	if !errors.Is(err, plat.ErrConflict) || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("an address that is taken: %v", err)
	}
}
