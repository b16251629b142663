// SPDX-License-Identifier: Apache-2.0

package handed_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"panal/internal/x/handed"
)

// TestMain is also the child that takes what it is handed, and tells.
func TestMain(m *testing.M) {
	if os.Getenv("HANDED_CHILD") == "" {
		os.Exit(m.Run())
	}
	os.Exit(child())
}

func child() int {
	if os.Getenv("LISTEN_PID") == "mine" { // as systemd does
		_ = os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	}
	all, err := handed.Take("alone")
	if err != nil {
		fmt.Println("error:", err)
		return 0
	}
	n, err := handed.NewNotifier()
	if err != nil {
		fmt.Println("error:", err)
		return 0
	}
	for _, name := range []string{"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET"} {
		if os.Getenv(name) != "" {
			fmt.Println("error: left", name)
		}
	}
	for name, l := range all {
		c, err := l.Accept() // whoever called while nobody was there
		if err == nil {
			_, err = c.Write([]byte(name))
		}
		if err == nil {
			err = c.Close()
		}
		fmt.Println(name, err)
	}
	if err := n.Tell(handed.Ready); err != nil {
		fmt.Println("error:", err)
	}
	return 0
}

// TestSockets hands sockets to a child in every way that a starter may.
func TestSockets(t *testing.T) {
	for _, c := range []struct {
		what  string
		names []string
		env   []string // over the protocol's own
		file  bool     // a file instead of the first socket
		want  string
	}{
		{what: "none", want: ""},
		{what: "one, whatever its name", names: []string{"panal.socket"}, want: "alone <nil>"},
		{what: "one, by a starter that knows the process", names: []string{"x"}, env: []string{"LISTEN_PID=mine"}, want: "alone <nil>"},
		{what: "two, by name", names: []string{"http", "https"}, want: "http <nil>\nhttps <nil>"},
		{what: "another process's", names: []string{"x"}, env: []string{"LISTEN_PID=1"}, want: ""},
		{what: "no number", names: []string{"x"}, env: []string{"LISTEN_FDS=many"}, want: `error: LISTEN_FDS="many" is no number of sockets from 0 to 16`},
		{what: "too many", names: []string{"x"}, env: []string{"LISTEN_FDS=17"}, want: `error: LISTEN_FDS="17" is no number of sockets from 0 to 16`},
		{what: "fewer than said", names: []string{"http"}, env: []string{"LISTEN_FDS=2", "LISTEN_FDNAMES=http:https"}, want: `error: descriptor 4 (https) of LISTEN_FDS is no listening socket`},
		{what: "two without names", names: []string{"a", "b"}, env: []string{"LISTEN_FDNAMES="}, want: `error: LISTEN_FDNAMES="" does not name all of the 2 sockets`},
		{what: "two of one name", names: []string{"a", "a"}, want: `error: LISTEN_FDNAMES="a:a" has the name "a" twice`},
		{what: "a file", names: []string{"x"}, file: true, want: "error: descriptor 3 (alone) of LISTEN_FDS is no listening socket"},
	} {
		t.Run(c.what, func(t *testing.T) {
			ear, err := handed.Listen(filepath.Join(t.TempDir(), "ear"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = ear.Close() }()
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), "HANDED_CHILD=1", ear.Env())
			if len(c.names) > 0 {
				cmd.Env = append(cmd.Env, handed.Env(c.names)...)
			}
			cmd.Env = append(cmd.Env, c.env...)
			for i := range c.names {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				f, err := l.(*net.TCPListener).File()
				if err != nil {
					t.Fatal(err)
				}
				if c.file && i == 0 {
					if f, err = os.Open(os.DevNull); err != nil {
						t.Fatal(err)
					}
				}
				caller, err := net.Dial("tcp", l.Addr().String()) // before the child is there
				if err != nil {
					t.Fatal(err)
				}
				_ = l.Close()
				defer func() { _, _ = f.Close(), caller.Close() }()
				cmd.ExtraFiles = append(cmd.ExtraFiles, f)
			}
			out, err := cmd.Output()
			got := strings.Split(strings.TrimSpace(string(out)), "\n")
			if len(got) == 2 && got[0] > got[1] {
				got[0], got[1] = got[1], got[0]
			}
			if text := strings.Join(got, "\n"); err != nil || text != c.want {
				t.Fatalf("got %q, %v; want %q", text, err, c.want)
			}
			if strings.HasPrefix(c.want, "error") {
				return
			}
			if told, err := ear.Next(); err != nil || len(told) != 1 || told[0] != handed.Ready {
				t.Errorf("it told %q, %v", told, err)
			}
		})
	}
}

// TestTellNobody: without a starter there is nobody to tell, and one that is gone is named.
func TestTellNobody(t *testing.T) {
	if err := (handed.Notifier{}).Tell(handed.Ready); err != nil {
		t.Error(err)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	n, err := handed.NewNotifier()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Tell(handed.Ready); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("telling nobody: %v", err)
	}
}
