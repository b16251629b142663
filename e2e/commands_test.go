// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// want FIELD[.FIELD…] VALUE: the field of the last answer has that value. VALUE is
// JSON, or text that isn't. A last FIELD of len is the length of a list or object;
// "! want FIELD" wants that there is no such field.
func cmdWant(ts *testscript.TestScript, neg bool, args []string) {
	raw := get(ts).last
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		ts.Fatalf("%v in %s", err, raw)
	}
	there := true
	for name := range strings.SplitSeq(args[0], ".") {
		there = false
		switch t := v.(type) {
		case map[string]any:
			if v, there = t[name]; !there && name == "len" {
				v, there = float64(len(t)), true
			}
		case []any:
			if i, err := strconv.Atoi(name); err == nil && i < len(t) {
				v, there = t[i], true
			} else if name == "len" {
				v, there = float64(len(t)), true
			}
		}
		if !there {
			break
		}
	}
	if neg || !there {
		if neg == there {
			ts.Fatalf("field %s is there: %v, in\n%s", args[0], there, raw)
		}
		return
	}
	var want any
	if json.Unmarshal([]byte(args[1]), &want) != nil {
		want = args[1]
	}
	if !reflect.DeepEqual(v, want) && v != args[1] {
		ts.Fatalf("%s is %v, want %s, in\n%s", args[0], v, args[1], raw)
	}
}

// cut PATH: posts a body that ends before its declared length, as a client does
// that dies or stalls, and wants the answer 400.
func cmdCut(ts *testscript.TestScript, _ bool, args []string) {
	s := get(ts)
	c, err := net.DialTimeout("tcp", s.listen, 10*time.Second)
	ts.Check(err)
	defer func() { _ = c.Close() }()
	ts.Check(c.SetDeadline(time.Now().Add(60 * time.Second)))
	req, err := http.NewRequest(http.MethodPost, s.url+args[0], http.NoBody)
	ts.Check(err)
	req.SetBasicAuth(s.auth[0], s.auth[1])
	_, err = fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\nContent-Type: text/plain\r\nContent-Length: 1000\r\nx-abeja-meta-filename: cut.txt\r\n\r\nhalf a body",
		args[0], s.listen, req.Header.Get("Authorization"))
	ts.Check(err)
	ts.Check(c.(*net.TCPConn).CloseWrite())
	res, err := http.ReadResponse(bufio.NewReader(c), req)
	ts.Check(err)
	defer func() { _ = res.Body.Close() }()
	s.last, err = io.ReadAll(res.Body)
	ts.Check(err)
	if res.StatusCode != http.StatusBadRequest {
		ts.Fatalf("a body that was cut = %d %s, want 400", res.StatusCode, s.last)
	}
}

// repeat VAR TEXT N: sets VAR to TEXT N times.
func cmdRepeat(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	ts.Setenv(args[0], strings.Repeat(args[1], n))
}

var variable = regexp.MustCompile(`^[A-Z_]+=`)

// panal CODE [NAME=VALUE …] [ARG …]: runs the program, with variables set (an empty
// value: unset), and wants that exit code. What it prints is also the last answer,
// for get and want.
func cmdPanal(ts *testscript.TestScript, _ bool, args []string) {
	code, rest := 0, args[1:]
	var vars []string
	for len(rest) > 0 && variable.MatchString(rest[0]) {
		if name, ok := strings.CutSuffix(rest[0], "="); ok {
			vars = append([]string{"-u", name}, vars...)
		} else {
			vars = append(vars, rest[0])
		}
		rest = rest[1:]
	}
	if err := ts.Exec("env", append(append(vars, binary), rest...)...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("panal: %v", err)
		}
		code = exit.ExitCode()
	}
	get(ts).last = []byte(ts.ReadFile("stdout"))
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s\n%s%s", code, args[0], ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

// logged PATH TEXT: asks until the log under PATH holds a line with TEXT, for up to
// 30 s.
func cmdLogged(ts *testscript.TestScript, _ bool, args []string) {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		call(ts, []string{"GET", args[0] + "/logs?limit=1000", "200"})
		if strings.Contains(string(get(ts).last), args[1]) {
			_, _ = fmt.Fprintln(ts.Stdout(), string(get(ts).last))
			return
		}
	}
	ts.Fatalf("the log never had %q: %s\n%s", args[1], get(ts).last, get(ts).log.String())
}

// follow TEXT ARG …: runs the program until it has printed TEXT, for up to 60 s, then
// interrupts it and wants exit code 130. What it printed is stdout.
func cmdFollow(ts *testscript.TestScript, _ bool, args []string) {
	cmd := exec.Command(binary, args[1:]...)
	cmd.Env = append(os.Environ(), "ABEJA_API_URL="+ts.Getenv("ABEJA_API_URL"), "ABEJA_ORGANIZATION_ID="+ts.Getenv("ABEJA_ORGANIZATION_ID"),
		"ABEJA_PLATFORM_USER_ID="+ts.Getenv("ABEJA_PLATFORM_USER_ID"), "ABEJA_PLATFORM_PERSONAL_ACCESS_TOKEN="+ts.Getenv("ABEJA_PLATFORM_PERSONAL_ACCESS_TOKEN"))
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	late := time.AfterFunc(60*time.Second, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	lines := bufio.NewScanner(out)
	seen := false
	for lines.Scan() {
		_, _ = fmt.Fprintln(ts.Stdout(), lines.Text())
		if !seen && strings.Contains(lines.Text(), args[0]) {
			seen = true
			ts.Check(cmd.Process.Signal(os.Interrupt))
		}
	}
	_ = cmd.Wait()
	if !seen || cmd.ProcessState.ExitCode() != 130 {
		ts.Fatalf("follow saw %q: %v, exit code %d, want 130", args[0], seen, cmd.ProcessState.ExitCode())
	}
}
