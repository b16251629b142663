// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
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
