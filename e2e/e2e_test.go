// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"panal/internal/gitsource/gittest"
	"panal/internal/sqlstore/sqlstoretest"
)

// binary is the program under test, built once per run with the race detector off:
// it is what users get.
var binary string

// exampleServer is the program of examples/server-go.
var exampleServer string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "panal-e2e")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "panal")
	cmd := exec.Command("go", "build", "-trimpath", "-o", binary, "../cmd/panal")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		os.Exit(1)
	}
	exampleServer = filepath.Join(dir, "server")
	cmd = exec.Command("go", "build", "-trimpath", "-o", exampleServer, ".")
	cmd.Dir, cmd.Env = "../examples/server-go", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the example: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// lookAtSources makes go test run again when the program has changed: it answers
// from its cache unless something differs that a test (not TestMain) has looked at.
var lookAtSources = sync.OnceFunc(func() {
	for _, root := range []string{"../cmd", "../internal", "../examples", "../go.sum"} {
		err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if err == nil {
				_, err = os.Stat(path)
			}
			return err
		})
		if err != nil {
			panic(err)
		}
	}
})

// TestScripts runs every script on every set of engines: SQLite and a directory,
// PostgreSQL and a bucket.
func TestScripts(t *testing.T) {
	lookAtSources()
	for _, engines := range []string{"sqlite", "postgres"} {
		t.Run(engines, func(t *testing.T) {
			testscript.Run(t, testscript.Params{
				Dir: "testdata/script",
				Condition: func(cond string) (bool, error) {
					if cond != "bucket" { // downloads come from storage's own URLs
						return false, fmt.Errorf("unknown condition %s", cond)
					}
					return engines == "postgres", nil
				},
				Setup: func(env *testscript.Env) error {
					s := &server{t: t, dir: env.WorkDir}
					if engines == "postgres" {
						s.database = sqlstoretest.PostgresURL(t)
						s.blob = bucketURL(t)
					}
					env.Values["server"] = s
					env.Defer(s.close)
					examples, err := filepath.Abs("../examples")
					if err != nil {
						return err
					}
					env.Setenv("EXAMPLES", examples)
					env.Setenv("SERVER_GO", exampleServer)
					env.Setenv("PANAL_DATA", filepath.Join(env.WorkDir, "data"))
					env.Setenv("DATABASE", s.database)
					env.Setenv("BLOB", s.blob)
					for _, name := range []string{"S3_ACCESS_KEY", "S3_SECRET_KEY"} {
						env.Setenv(name, os.Getenv("PANAL_"+name))
					}
					env.Setenv("PATH", filepath.Dir(binary)+":"+os.Getenv("PATH"))
					return nil
				},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"serve":    cmdServe,
					"kill9":    func(ts *testscript.TestScript, _ bool, _ []string) { get(ts).kill(ts) },
					"shutdown": func(ts *testscript.TestScript, _ bool, _ []string) { get(ts).shutdown(ts) },
					"api":      cmdAPI,
					"get":      cmdGet,
					"until":    cmdUntil,
					"want":     cmdWant,
					"cut":      cmdCut,
					"commit":   cmdCommit,
					"repeat":   cmdRepeat,
					"panal":    cmdPanal,
					"logged":   cmdLogged,
					"follow":   cmdFollow,

					"objects":   cmdObjects,
					"sealed":    cmdSealed,
					"until-key": cmdUntilKey,
				},
			})
		})
	}
}

// server is the process of one script.
type server struct {
	t             *testing.T
	dir, database string
	blob          string // --blob; empty: the data directory
	listen        string
	cmd           *exec.Cmd
	done          chan error
	log           logBuffer
	auth          [2]string
	url           string
	last          []byte // last answer of the api command
	git           *gittest.Server
}

// logBuffer is the server's log, which scripts read while the server writes.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String returns what there is so far.
func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func get(ts *testscript.TestScript) *server { return ts.Value("server").(*server) }

// serve [flag ...]: starts the server on $PANAL_DATA, waits until it is ready, and
// sets the ABEJA_* variables. A second serve in a script uses the same port.
func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	s := get(ts)
	if s.listen == "" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		s.listen = l.Addr().String()
		s.url = "http://" + s.listen
		ts.Check(l.Close())
	}
	all := append([]string{"serve", "--listen", s.listen, "--data", ts.Getenv("PANAL_DATA")}, args...)
	if s.database != "" {
		all = append(all, "--database", s.database)
	}
	if s.blob != "" {
		all = append(all, "--blob", s.blob)
	}
	s.cmd = exec.Command(binary, all...)
	s.cmd.Stderr = &s.log
	ts.Check(s.cmd.Start())
	s.done = make(chan error, 1)
	go func(cmd *exec.Cmd, done chan error) { done <- cmd.Wait() }(s.cmd, s.done)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		select {
		case err := <-s.done:
			s.cmd = nil
			if neg {
				return
			}
			ts.Fatalf("serve ended: %v\n%s", err, s.log.String())
		default:
		}
		if res, err := http.Get(s.url + "/readyz"); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Now().After(deadline) {
			ts.Fatalf("serve is not ready after 30 s\n%s", s.log.String())
		}
	}
	if neg {
		ts.Fatalf("serve started, and should not have")
	}
	out, err := exec.Command(binary, "env", "-o", "json", "--data", ts.Getenv("PANAL_DATA")).Output()
	ts.Check(err)
	var vars map[string]string
	ts.Check(json.Unmarshal(out, &vars))
	for k, v := range vars {
		ts.Setenv(k, v)
	}
	s.auth = [2]string{"user-" + vars["ABEJA_PLATFORM_USER_ID"], vars["ABEJA_PLATFORM_PERSONAL_ACCESS_TOKEN"]}
}

func (s *server) kill(ts *testscript.TestScript) {
	ts.Check(s.cmd.Process.Kill())
	<-s.done
	s.cmd = nil
}

// shutdown sends SIGTERM and wants a clean end.
func (s *server) shutdown(ts *testscript.TestScript) {
	ts.Check(s.cmd.Process.Signal(os.Interrupt))
	select {
	case err := <-s.done:
		if err != nil {
			ts.Fatalf("serve ended with %v\n%s", err, s.log.String())
		}
	case <-time.After(45 * time.Second):
		ts.Fatalf("serve did not drain in 45 s\n%s", s.log.String())
	}
	s.cmd = nil
}

func (s *server) close() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		<-s.done
	}
	// Workloads outlive a server: end them, whatever the script did.
	args := []string{"stop", "--workloads", "--data", filepath.Join(s.dir, "data")}
	if _, err := os.Stat(filepath.Join(s.dir, "data")); err == nil {
		if out, err := exec.Command(binary, args...).CombinedOutput(); err != nil {
			s.t.Errorf("stop --workloads: %v\n%s", err, out)
		}
	}
	if token := s.auth[1]; token != "" {
		found, err := secretsIn(filepath.Join(s.dir, "data"), token)
		if err != nil || len(found) > 0 || strings.Contains(s.log.String(), token) {
			s.t.Errorf("the admin's token is in clear in %q or in the server's log (%v)", found, err)
		}
	}
	if s.t.Failed() {
		s.t.Logf("the server's log:\n%s", s.log.String())
	}
}

// api METHOD PATH STATUS [BODY|@FILE] [HEADER: VALUE …]: calls the API as the admin (as
// nobody with "noauth" before METHOD, as somebody else with an Authorization header)
// and wants that status. {org} in PATH is the
// organization. The answer goes to stdout.
func cmdAPI(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("api wants the status that is expected instead of !")
	}
	call(ts, args)
	_, _ = fmt.Fprintln(ts.Stdout(), string(get(ts).last))
}

// call is the api command without its output.
func call(ts *testscript.TestScript, args []string) {
	s := get(ts)
	auth := true
	if len(args) > 0 && args[0] == "noauth" {
		auth, args = false, args[1:]
	}
	if len(args) < 3 {
		ts.Fatalf("usage: api [noauth] METHOD PATH STATUS [BODY|@FILE] [HEADER:VALUE ...]")
	}
	path := strings.ReplaceAll(args[1], "{org}", "/organizations/"+ts.Getenv("ABEJA_ORGANIZATION_ID"))
	if !strings.HasPrefix(path, "http") {
		path = s.url + path
	}
	var body io.Reader
	if len(args) > 3 {
		text := args[3]
		if name, ok := strings.CutPrefix(text, "@"); ok {
			b, err := os.ReadFile(ts.MkAbs(name))
			ts.Check(err)
			text = string(b)
		}
		body = strings.NewReader(text)
	}
	req, err := http.NewRequest(args[0], path, body)
	ts.Check(err)
	if len(args) > 3 {
		req.Header.Set("Content-Type", "application/json")
		for _, h := range args[4:] {
			k, v, _ := strings.Cut(h, ":")
			req.Header[k] = []string{strings.TrimSpace(v)}
		}
	}
	if auth && !strings.Contains(path, "sig=") && !strings.Contains(path, "X-Amz-Signature=") && req.Header.Get("Authorization") == "" {
		req.SetBasicAuth(s.auth[0], s.auth[1])
	}
	client := &http.Client{Timeout: 60 * time.Second}
	res, err := client.Do(req)
	ts.Check(err)
	defer res.Body.Close()
	s.last, err = io.ReadAll(res.Body)
	ts.Check(err)
	if strconv.Itoa(res.StatusCode) != args[2] {
		ts.Fatalf("%s %s = %d, want %s\n%s", args[0], path, res.StatusCode, args[2], s.last)
	}
}

// get VAR FIELD[.FIELD…]: sets VAR to a field of the last answer.
func cmdGet(ts *testscript.TestScript, _ bool, args []string) {
	v, err := field(get(ts).last, args[1])
	ts.Check(err)
	ts.Setenv(args[0], v)
}

func field(raw []byte, path string) (string, error) {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return "", fmt.Errorf("%w in %s", err, raw)
	}
	for name := range strings.SplitSeq(path, ".") {
		switch t := v.(type) {
		case map[string]any:
			v = t[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i >= len(t) {
				return "", fmt.Errorf("no element %s in %s", name, raw)
			}
			v = t[i]
		default:
			return "", fmt.Errorf("no field %s in %s", path, raw)
		}
	}
	switch t := v.(type) {
	case nil:
		return "", fmt.Errorf("no field %s in %s", path, raw)
	case string:
		return t, nil
	default:
		b, err := json.Marshal(v)
		return string(b), err
	}
}

// until PATH FIELD VALUE: asks until the field has the value (null: until it has
// none), for up to 60 s.
func cmdUntil(ts *testscript.TestScript, _ bool, args []string) {
	var last string
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		s := get(ts)
		call(ts, []string{"GET", args[0], "200"})
		v, err := field(s.last, args[1])
		last = string(s.last)
		if v == args[2] || err != nil && args[2] == "null" {
			_, _ = fmt.Fprintln(ts.Stdout(), last)
			return
		}
		if strings.Contains(last, `"status":"Failed"`) && args[2] != "Failed" {
			break
		}
	}
	ts.Fatalf("%s never had %s = %s; last: %s\n%s", args[0], args[1], args[2], last, get(ts).log.String())
}
