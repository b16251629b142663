// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"panal/internal/client"
)

// adminOf reads what the first start wrote for its admin.
func adminOf(t *testing.T, data string) (org, user, token string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(data, "admin.json"))
	if err != nil {
		t.Fatal(err)
	}
	var a struct {
		Org   string `json:"organization_id"`
		User  string `json:"user_id"`
		Token string `json:"personal_access_token"`
	}
	if err := json.Unmarshal(b, &a); err != nil {
		t.Fatal(err)
	}
	return a.Org, a.User, a.Token
}

// sealed TEXT: the text stands in clear, or as base64, in no file of the server's, nor
// in its log or an audit row; on PostgreSQL and S3, in no row and no object either.
func cmdSealed(ts *testscript.TestScript, neg bool, args []string) {
	s := get(ts)
	found, err := secretsIn(ts.Getenv("PANAL_DATA"), args[0])
	ts.Check(err)
	if strings.Contains(s.log.String(), args[0]) {
		found = append(found, "the server's log")
	}
	places := map[string][]byte{}
	if s.database != "" {
		places["the dump of the database"], err = dumped(s.database)
		ts.Check(err)
	}
	if s.blob != "" {
		places["the bucket"] = bytes.Join(slices.Collect(maps.Values(objectsOf(s.t, s.blob))), nil)
	}
	places["an audit row"] = auditText(s.t, client.New(s.url, ts.Getenv("ABEJA_ORGANIZATION_ID"), ts.Getenv("ABEJA_PLATFORM_USER_ID"), s.auth[1]))
	for name, content := range places {
		for _, shape := range append(shapes(args[0]), []byte(hex.EncodeToString([]byte(args[0])))) { // how binary columns are dumped
			if bytes.Contains(content, shape) {
				found = append(found, name)
			}
		}
	}
	if neg != (len(found) > 0) {
		ts.Fatalf("%s stands in %q", args[0], found)
	}
}

// until-key PATTERN: asks for the keys until their list matches, for up to 60 s.
func cmdUntilKey(ts *testscript.TestScript, _ bool, args []string) {
	want := regexp.MustCompile(args[0])
	s, out := get(ts), []byte{}
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		cmd := exec.Command(binary, keyArgs(ts, s)...)
		var err error
		out, err = cmd.Output()
		ts.Check(err)
		if want.Match(out) {
			return
		}
	}
	ts.Fatalf("the keys never became %s: %s", args[0], out)
}

func keyArgs(ts *testscript.TestScript, s *server) []string {
	args := []string{"key", "list", "--data", ts.Getenv("PANAL_DATA")}
	if s.database != "" {
		args = append(args, "--database", s.database)
	}
	return args
}

// shapes are the forms in which a secret can be written down.
func shapes(secret string) [][]byte {
	out := [][]byte{[]byte(secret), []byte(base64.StdEncoding.EncodeToString([]byte(secret)))}
	if raw, err := hex.DecodeString(secret); err == nil && len(raw) >= 16 {
		out = append(out, raw)
	}
	return out
}

// secretsIn names the files below dir, other than admin.json, that hold one of the
// secrets.
func secretsIn(dir string, secrets ...string) (found []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // workloads come and go
			return nil
		case err != nil || !d.Type().IsRegular() || path == filepath.Join(dir, "admin.json"):
			return err
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		for i, s := range secrets {
			for _, shape := range shapes(s) {
				if bytes.Contains(b, shape) {
					found = append(found, strings.TrimPrefix(path, dir)+" holds secret "+string(rune('0'+i)))
				}
			}
		}
		return nil
	})
	return found, err
}

// TestSecrets: no token stands in clear in any file of the server's, but in
// admin.json, nor in what the server writes to its log, be it as talkative as it can.
func TestSecrets(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	told := map[string]string{}
	ear := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(io.LimitReader(r.Body, 1000))
		mu.Lock()
		defer mu.Unlock()
		told[r.URL.Path] = string(b)
	}))
	defer ear.Close()
	p := startPlatform(t, "--log-level", "debug")
	org, user, token := adminOf(t, p.data)
	file, err := os.ReadFile(filepath.Join(p.data, "secret.key"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(file))
	key, err := base64.StdEncoding.DecodeString(lines[len(lines)-1])
	if err != nil || len(key) != 32 {
		t.Fatalf("the key file ends in no key: %v", err)
	}

	tell := "import os, time, urllib.request\ndef tell(who):\n    urllib.request.urlopen(urllib.request.Request('" + ear.URL + "/' + who, os.environ['PLATFORM_AUTH_TOKEN'].encode())).read()\n"
	p.call(http.MethodPost, p.api.OrgPath("training", "definitions"), map[string]string{"name": "tell"})
	v := p.version("tell", map[string]string{"train.py": tell + "def handler(context):\n    tell('job')\n    time.sleep(3)\n"})
	job := p.job("tell", v, nil)
	dep, svc := p.service(map[string]string{"main.py": tell + "tell('service')\ndef handler(request, context):\n    return {'content': 'x'}\n"}, 1)
	ask := func() []string {
		mu.Lock()
		defer mu.Unlock()
		if told["/job"] == "" || told["/service"] == "" {
			return nil
		}
		return []string{token, told["/job"], told["/service"], user + ":" + token}
	}
	p.until("both workloads' tokens", time.Minute, func() bool { return ask() != nil })
	secrets := ask()
	look := func(when string) {
		t.Helper()
		found, err := secretsIn(p.data, secrets...)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			t.Errorf("%s: %s", when, f)
		}
		log, err := os.ReadFile(p.log.Name())
		if err != nil {
			t.Fatal(err)
		}
		rows := auditText(t, p.api)
		for i, s := range append([]string{string(key), hex.EncodeToString(key)}, secrets...) {
			for _, shape := range shapes(s) {
				if bytes.Contains(log, shape) {
					t.Errorf("%s: the server's log holds secret %d", when, i)
				}
				if bytes.Contains(rows, shape) {
					t.Errorf("%s: an audit row holds secret %d", when, i)
				}
			}
		}
	}
	look("while they run")
	if status, _ := p.infer(dep, svc, "x"); status != http.StatusOK {
		t.Errorf("inference = %d", status)
	}
	// Calls of every luck, the command line's among them.
	for _, s := range secrets {
		for _, auth := range []string{"Bearer " + s, "Bearer " + s + "x", "Basic " + base64.StdEncoding.EncodeToString([]byte("user-"+user+":"+s))} {
			for _, path := range []string{"/organizations/" + org + "/channels/1", "/users/" + user + "/tokens/" + secrets[1], "/organizations/" + org + "/users/" + secrets[2]} {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, "http://"+p.listen+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Authorization", auth)
				res, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				answer, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err != nil || res.StatusCode < 400 {
					t.Fatalf("DELETE %s = %d, %v", path, res.StatusCode, err)
				}
				for i, s := range secrets {
					if bytes.Contains(answer, []byte(s)) {
						t.Errorf("DELETE %s = %d repeats secret %d", path, res.StatusCode, i)
					}
				}
			}
		}
	}
	for _, args := range [][]string{
		{"channel", "list"},
		{"channel", "get", "nothing"},
		{"job", "get", "tell", job},
		{"file", "count", "2999999999999"},
		{"channel", "list", "--organization", "1234567890123"},
		{"channel", "list", "--token", strings.Repeat("f", 40)},
	} {
		cmd := exec.Command(binary, args...)
		cmd.Env = append(os.Environ(), "PANAL_API_URL=http://"+p.listen, "PANAL_ORGANIZATION_ID="+org, "PANAL_USER_ID="+user, "PANAL_PERSONAL_ACCESS_TOKEN="+token)
		out, _ := cmd.CombinedOutput() // some of them are refused
		for _, shape := range shapes(token) {
			if bytes.Contains(out, shape) {
				t.Errorf("panal %s prints the token", strings.Join(args, " "))
			}
		}
	}
	p.waitJob("tell", job, time.Minute)
	p.kill()
	p.start()
	p.until("READY", time.Minute, func() bool {
		return p.call(http.MethodGet, p.api.OrgPath("deployments", dep, "services", svc), nil)["status"] == "READY"
	})
	look("after a kill")

	// The search itself finds what is there.
	planted := filepath.Join(p.data, "planted")
	if err := os.WriteFile(planted, []byte("x"+token), 0o600); err != nil {
		t.Fatal(err)
	}
	if found, err := secretsIn(p.data, secrets...); err != nil || len(found) != 1 {
		t.Errorf("the search for a planted token found %q, %v", found, err)
	}
	if err := os.Remove(planted); err != nil {
		t.Fatal(err)
	}
}
