// SPDX-License-Identifier: Apache-2.0

package front_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"panal/internal/x/front"
)

func TestMain(m *testing.M) {
	// net/http lingers for half a second on a connection that it closes before all was read,
	// longer than goleak waits for.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

const patience = 20 * time.Second

// start serves h and returns the address. Paths below /rest/ are net/http's.
func start(t testing.TB, h http.Handler) (*front.Server, string) {
	t.Helper()
	return startPatient(t, h, patience)
}

// startPatient is start for a server that waits for a head only so long.
func startPatient(t testing.TB, h http.Handler, head time.Duration) (*front.Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := front.New(&http.Server{Handler: h, ReadHeaderTimeout: head, ErrorLog: log.New(io.Discard, "", 0)},
		func(_, target string) bool { return !strings.HasPrefix(target, "/rest/") })
	s.Refusal = func(status int, text string) []byte { return fmt.Appendf(nil, "%d!%s", status, text) }
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, l.Addr().String()
}

func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// answer is what a caller can tell of one.
type answer struct {
	Status, Body    string
	Header, Trailer http.Header
	Length          int64
	Coding          []string
	Close, Broken   bool
}

func read(br *bufio.Reader, method string) (a answer, err error) {
	resp, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		return a, err
	}
	b, err := io.ReadAll(resp.Body)
	if resp.Header.Get("Date") == "" {
		resp.Header.Set("Date", "missing")
	} else if _, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		resp.Header.Del("Date")
	}
	return answer{resp.Status, string(b), resp.Header, resp.Trailer, resp.ContentLength, resp.TransferEncoding, resp.Close, err != nil}, nil
}

// handlers are ways to answer.
var handlers = map[string]http.HandlerFunc{
	"nothing":    func(http.ResponseWriter, *http.Request) {},
	"short":      func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") },
	"status":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404); w.WriteHeader(500) },
	"odd-status": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(299) },
	"no-content": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204); _, _ = io.WriteString(w, "x") },
	"unmodified": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", "5")
		w.WriteHeader(304)
	},
	"typed": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Date", "Sun, 06 Nov 1994 08:49:37 GMT")
		w.Header().Add("A", "1")
		w.Header().Add("A", "2")
		_, _ = io.WriteString(w, "{}")
	},
	"untyped": func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = nil
		_, _ = io.WriteString(w, "{}")
	},
	"encoded": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = io.WriteString(w, "{}")
	},
	"image": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "\x89PNG\r\n\x1a\n") },
	"two-ways": func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "a")
		_, _ = w.Write([]byte("b"))
	},
	"long": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bytes.Repeat([]byte("l"), 100_000)) },
	"pieces": func(w http.ResponseWriter, _ *http.Request) {
		for range 100 {
			_, _ = w.Write(bytes.Repeat([]byte("p"), 777))
		}
	},
	"length": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "7000")
		w.WriteHeader(200)
		_, _ = w.Write(bytes.Repeat([]byte("l"), 6990))
		_, _ = io.WriteString(w, "0123456789")
		if n, err := io.WriteString(w, "too much"); n > 0 || err == nil {
			panic("more than the length was taken")
		}
	},
	"too-short": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10")
		_, _ = io.WriteString(w, "12345")
	},
	"flushed": func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "one")
		_ = http.NewResponseController(w).Flush()
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, "two")
	},
	"head-first": func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
	},
	"length-flushed": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "6")
		_, _ = io.WriteString(w, "one")
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, "two")
	},
	"trailers": func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "body")
		_ = http.NewResponseController(w).Flush()
		w.Header().Set(http.TrailerPrefix+"Sum", "abc")
	},
	"trailers-whole": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(http.TrailerPrefix+"Sum", "abc")
		_, _ = io.WriteString(w, "body")
	},
	"split-value": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("A", " b\r\nC: d\n")
		w.Header()["No Name"] = []string{"x"}
		w.Header()["X\r\nY"] = []string{"x"}
	},
	"close": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		_, _ = io.WriteString(w, "bye")
	},
	"abort": func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "lost")
		panic(http.ErrAbortHandler)
	},
	"abort-late": func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "part")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	},
	"panic":      func(http.ResponseWriter, *http.Request) { panic("of the handler") },
	"file":       func(w http.ResponseWriter, _ *http.Request) { sendFile(w, 100_000, 100_000) },
	"file-small": func(w http.ResponseWriter, _ *http.Request) { sendFile(w, 100, 100) },
	"file-behind": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100003")
		w.Header().Set("Content-Type", "text/x")
		_, _ = io.WriteString(w, "abc")
		sendFile(w, 100_000, -1)
	},
	"file-unannounced": func(w http.ResponseWriter, _ *http.Request) { sendFile(w, 100_000, -1) },
	"file-cut":         func(w http.ResponseWriter, _ *http.Request) { sendFile(w, 60_000, 100_000) },
	"file-nothing":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204); sendFile(w, 10, -1) },
	"reader": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100000")
		_, _ = w.(io.ReaderFrom).ReadFrom(iotest.OneByteReader(strings.NewReader(strings.Repeat("r", 100_000))))
	},
	"echo": func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %q %d %v %v", r.Method, r.RequestURI, r.Host, b, r.ContentLength, err, r.Header)
	},
	"half": func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadFull(r.Body, make([]byte, 2))
		fmt.Fprint(w, err)
	},
}

// file returns one of size bytes, which is gone when it is closed.
func file(size int64) *os.File {
	f, err := os.CreateTemp("", "front")
	if err != nil {
		panic(err)
	}
	_ = os.Remove(f.Name())
	if err := f.Truncate(size); err != nil {
		panic(err)
	}
	if _, err := f.WriteAt([]byte("it begins"), 0); err != nil {
		panic(err)
	}
	return f
}

// sendFile answers with a file of size bytes; a length is announced unless it is negative.
func sendFile(w http.ResponseWriter, size, length int64) {
	f := file(size)
	defer func() { _ = f.Close() }()
	if length >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(length, 10))
		w.Header().Set("Content-Type", "image/jpeg")
	}
	_, _ = io.Copy(w, &io.LimitedReader{R: f, N: size})
}

func byPath(w http.ResponseWriter, r *http.Request) {
	handlers[r.URL.Path[len("/rest/"):]](w, r)
}

// TestRefusal: what net/http refuses by itself is answered as the server answers; what a
// handler says is nobody else's.
func TestRefusal(t *testing.T) {
	_, addr := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/rest/hijack" { // a tunnel may carry anything
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\nBad Request, by hand")
			_ = c.Close()
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, "its own")
	}))
	for head, want := range map[string]string{
		"GET /rest/hijack HTTP/1.1\r\nHost: x\r\n\r\n":                                "Bad Request, by hand",
		"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: z\r\n\r\n":                    "400!Bad Request",
		"GET /a HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n":                                "400!Bad Request: invalid header name",
		"GET /a HTTP/1.1\r\n\r\n":                                                     "400!Bad Request: missing required Host header",
		"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n":              "501!Unsupported transfer encoding",
		"GET /a HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 2<<20) + "\r\n\r\n": "431!Request Header Fields Too Large",
		"GET /rest/a HTTP/1.1\r\nHost: x\r\n\r\n":                                     "its own",
	} {
		c := dial(t, addr)
		go func() { _, _ = io.WriteString(c, head) }()
		a, err := read(bufio.NewReader(c), "GET")
		if kind := a.Header.Get("Content-Type"); err != nil || a.Body != want || !a.Close || (kind == "application/json") != strings.Contains(want, "!") {
			t.Errorf("%.60q: %+v, %v; want %s", head, a, err, want)
		}
	}
}

// TestAnswersAsNetHTTP: every way to answer gives the caller what net/http gives, and so
// do the requests that follow on the connection.
func TestAnswersAsNetHTTP(t *testing.T) {
	_, addr := start(t, http.HandlerFunc(byPath))
	for name := range handlers {
		for _, request := range []string{"GET", "HEAD", "POST"} {
			t.Run(request+" "+name, func(t *testing.T) {
				t.Parallel()
				ask := func(prefix string) (all []answer) {
					c := dial(t, addr)
					br := bufio.NewReader(c)
					for i := range 3 {
						body := ""
						if request == "POST" {
							body = "Content-Length: 5\r\n\r\nbody" + strconv.Itoa(i)
						} else {
							body = "\r\n"
						}
						_, _ = fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: x\r\nA: %d\r\n%s", request, prefix+name, i, body)
						a, err := read(br, request)
						if err != nil {
							all = append(all, answer{Status: "the connection has ended"})
							break
						}
						a.Body = strings.Replace(a.Body, " /rest/", " /ours/", 1)
						all = append(all, a)
					}
					return all
				}
				ours, theirs := ask("/ours/"), ask("/rest/")
				if !cmp.Equal(ours, theirs) {
					t.Errorf("%s", cmp.Diff(theirs, ours))
				}
			})
		}
	}
}

// TestPipelining: requests that come at once are answered in order, whoever serves them.
func TestPipelining(t *testing.T) {
	_, addr := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", r.RequestURI, b)
	}))
	for at := range 4 { // where net/http takes over; 3 is never
		c := dial(t, addr)
		var raw strings.Builder
		var want []string
		for i := range 60 {
			path := "/" + strconv.Itoa(i)
			if i == 20*at+7 {
				path = "/rest" + path
			}
			body := strings.Repeat("b", i*13%400)
			fmt.Fprintf(&raw, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
			want = append(want, path+" "+body)
		}
		sent := raw.String()
		go func() { // in pieces that end anywhere
			for n := 1; sent != ""; n = n*7%1000 + 1 {
				n := min(n, len(sent))
				if _, err := io.WriteString(c, sent[:n]); err != nil {
					return
				}
				sent = sent[n:]
			}
		}()
		br := bufio.NewReader(c)
		for i, w := range want {
			if a, err := read(br, "POST"); err != nil || a.Body != w {
				t.Fatalf("answer %d is %q, %v; want %q", i, a.Body, err, w)
			}
		}
	}
}

// TestKept: what may come on a connection that has had an answer.
func TestKept(t *testing.T) {
	const get, post = "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n"
	begun, release := make(chan struct{}), make(chan struct{})
	_, addr := startPatient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			begun <- struct{}{}
			<-release
		}
		b, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %v", r.RequestURI, b, err)
	}), time.Second)
	kept := func(t *testing.T) (*net.TCPConn, func(want string)) {
		t.Helper()
		c := dial(t, addr)
		br := bufio.NewReader(c)
		next := func(want string) {
			t.Helper()
			if want == "" { // the end
				if b, err := io.ReadAll(br); err != nil || len(b) > 0 {
					t.Fatalf("%q came, and %v", b, err)
				}
				return
			}
			a, err := read(br, "GET")
			if err != nil || a.Body != want {
				t.Fatalf("the answer is %q, %v; want %q", a.Body, err, want)
			}
		}
		fmt.Fprintf(c, get, "/first")
		next("/first  <nil>")
		return c.(*net.TCPConn), next
	}
	t.Run("half closed behind a request", func(t *testing.T) {
		for range 3 {
			c, next := kept(t)
			fmt.Fprintf(c, get, "/b")
			_ = c.CloseWrite()
			next("/b  <nil>")
			next("")
		}
	})
	t.Run("the next one comes during a call", func(t *testing.T) {
		c, next := kept(t)
		fmt.Fprintf(c, get, "/slow")
		<-begun
		fmt.Fprintf(c, get, "/b")
		fmt.Fprintf(c, get, "/c")
		release <- struct{}{}
		next("/slow  <nil>")
		next("/b  <nil>")
		next("/c  <nil>")
	})
	t.Run("in pieces", func(t *testing.T) {
		c, next := kept(t)
		for _, piece := range []string{post[:5], post[5:], "abc", "def", post + "gh", "ijkl" + post + "mnopqr"} {
			_, _ = io.WriteString(c, piece)
			time.Sleep(20 * time.Millisecond)
		}
		next("/a abcdef <nil>")
		next("/a ghijkl <nil>")
		next("/a mnopqr <nil>")
	})
	t.Run("half a head", func(t *testing.T) {
		c, next := kept(t)
		_, _ = io.WriteString(c, post[:9])
		next("")
	})
	t.Run("half closed later", func(t *testing.T) {
		c, next := kept(t)
		time.Sleep(600 * time.Millisecond)
		fmt.Fprintf(c, get, "/b")
		next("/b  <nil>")
		_ = c.CloseWrite()
		next("")
	})
}

// TestSendsNoMore: who says so together with a request is answered.
func TestSendsNoMore(t *testing.T) {
	_, addr := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
			_, _ = io.WriteString(w, "canceled")
		case <-time.After(50 * time.Millisecond):
			_, _ = io.WriteString(w, "whole")
		}
	}))
	for _, target := range []string{"/ours/", "/rest/"} {
		for _, more := range []string{"", "Connection: close\r\n", "Content-Length: 2\r\n"} {
			c := dial(t, addr)
			_, _ = fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\n%s\r\n%s", target, more, map[bool]string{true: "{}"}[strings.Contains(more, "2")])
			_ = c.(*net.TCPConn).CloseWrite()
			br := bufio.NewReader(c)
			if a, err := read(br, "POST"); err != nil || a.Body != "whole" {
				t.Errorf("%s %q: %+v, %v", target, more, a, err)
			}
			began := time.Now()
			if _, err := br.ReadByte(); err != io.EOF {
				t.Errorf("%s %q: behind the answer %v", target, more, err)
			}
			if took := time.Since(began); took > patience/2 {
				t.Errorf("%s %q: closed %v after the answer", target, more, took)
			}
		}
	}
}

// TestLeaving: a call ends when its caller closes, and a call under way does not keep
// what comes after it from being read.
func TestLeaving(t *testing.T) {
	begun, ended := make(chan struct{}, 1), make(chan error, 1)
	_, addr := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/short" {
			return
		}
		begun <- struct{}{}
		<-r.Context().Done()
		ended <- r.Context().Err()
	}))
	c := dial(t, addr)
	_, _ = io.WriteString(c, "GET /short HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := read(bufio.NewReader(c), "GET"); err != nil {
		t.Fatal(err)
	}
	for i, c := range []net.Conn{dial(t, addr), c, dial(t, addr)} { // a first call, a second one, and one of net/http
		_, _ = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", []string{"/ours/a", "/ours/a", "/rest/a"}[i])
		<-begun
		_ = c.Close()
		select {
		case err := <-ended:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the call ended with %v", err)
			}
		case <-time.After(patience):
			t.Fatal("the call goes on")
		}
	}
}

// TestClose: what is under way is cut, and learns of it.
func TestClose(t *testing.T) {
	for _, target := range []string{"/ours/", "/rest/"} {
		for _, second := range []bool{false, true} {
			begun, ended := make(chan struct{}, 1), make(chan struct{})
			s, addr := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "short") {
					return
				}
				begun <- struct{}{}
				<-r.Context().Done()
				close(ended)
			}))
			c := dial(t, addr)
			if second {
				_, _ = io.WriteString(c, "GET "+target+"short HTTP/1.1\r\nHost: x\r\n\r\n")
				if _, err := read(bufio.NewReader(c), "GET"); err != nil {
					t.Fatal(err)
				}
			}
			_, _ = io.WriteString(c, "GET "+target+" HTTP/1.1\r\nHost: x\r\n\r\n")
			<-begun
			closed := make(chan error, 1)
			go func() { closed <- s.Close() }()
			select {
			case <-ended:
			case <-time.After(patience):
				t.Fatalf("%s, second %v: the call goes on", target, second)
			}
			if err := <-closed; err != nil {
				t.Error(err)
			}
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("the connection goes on")
			}
		}
	}
}

// TestSlowHeads: a head that does not come ends the connection, a body may take as long
// as the handler lets it.
func TestSlowHeads(t *testing.T) {
	_, addr := startPatient(t, http.HandlerFunc(byPath), time.Second)
	for _, begin := range []string{"", "GET", "GET /a HTTP/1.1\r\nHost: x\r\n"} {
		c := dial(t, addr)
		_, _ = io.WriteString(c, begin)
		if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
			t.Errorf("%q: the server says %q, %v", begin, b, err)
		}
	}
	c := dial(t, addr)
	_, _ = io.WriteString(c, "POST /ours/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\na")
	for _, b := range []string{"b", "c", "d"} {
		time.Sleep(400 * time.Millisecond) // 1.2 s in all; a head has 1 s
		_, _ = io.WriteString(c, b)
	}
	if a, err := read(bufio.NewReader(c), "POST"); err != nil || !strings.Contains(a.Body, `"abcd" 4 <nil>`) {
		t.Errorf("%+v, %v", a, err)
	}
}

// TestDeadlines: a handler's deadlines hold.
func TestDeadlines(t *testing.T) {
	_, addr := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, err := io.ReadAll(r.Body)
		_ = rc.SetReadDeadline(time.Time{})
		w.Header().Set("Connection", "close")
		fmt.Fprint(w, err)
		if r.URL.Path == "/full" {
			_ = rc.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
			for err = nil; err == nil; {
				_, err = w.Write(make([]byte, 64<<10))
			}
		}
	}))
	c := dial(t, addr)
	_, _ = io.WriteString(c, "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\na")
	if a, err := read(bufio.NewReader(c), "POST"); err != nil || !strings.Contains(a.Body, "i/o timeout") || !a.Close {
		t.Errorf("%+v, %v", a, err)
	}
	c = dial(t, addr)
	_, _ = io.WriteString(c, "GET /full HTTP/1.1\r\nHost: x\r\n\r\n")
	time.Sleep(100 * time.Millisecond) // the socket's buffers fill meanwhile
	if a, err := read(bufio.NewReader(c), "GET"); err != nil || !a.Broken {
		t.Errorf("an answer that nobody took is whole: %d bytes, %v", len(a.Body), err)
	}
}

// TestSlowFile: a caller who stops taking a file is waited for until the deadline; it may
// be moved, and the file goes on where it was.
func TestSlowFile(t *testing.T) {
	const size = 64 << 20
	waits := make(chan struct{})
	_, addr := start(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		f := file(size)
		defer func() { _ = f.Close() }()
		rc := http.NewResponseController(w)
		w.Header().Set("Content-Length", strconv.Itoa(size))
		w.Header().Set("Content-Type", "video/mp4")
		_ = rc.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		n, err := io.Copy(w, &io.LimitedReader{R: f, N: size})
		if n == 0 || n >= size || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d, %v", n, err)
		}
		_ = rc.SetWriteDeadline(time.Now().Add(patience))
		close(waits)
		if more, err := io.Copy(w, &io.LimitedReader{R: f, N: size - n}); n+more != size || err != nil {
			t.Errorf("then %d, %v", more, err)
		}
	}))
	c := dial(t, addr)
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-waits
	if a, err := read(bufio.NewReader(c), "GET"); err != nil || a.Broken || len(a.Body) != size || !strings.HasPrefix(a.Body, "it begins\x00") {
		t.Errorf("%d bytes, broken %v, %v", len(a.Body), a.Broken, err)
	}
}

// TestStates: the server's hooks are told of connections that the loop has as net/http
// tells them of its own; one that is handed over is new once more.
func TestStates(t *testing.T) {
	type key struct{}
	var mu sync.Mutex
	var told []string
	tell := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, what)
	}
	closed := make(chan struct{}, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := front.New(&http.Server{
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			tell(fmt.Sprint(r.URL.Path, " ", r.Context().Value(key{})))
		}),
		ReadHeaderTimeout: patience,
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, key{}, "of its connection")
		},
		ConnState: func(_ net.Conn, s http.ConnState) {
			tell(s.String())
			if s == http.StateClosed {
				closed <- struct{}{}
			}
		},
	}, func(_, target string) bool { return !strings.HasPrefix(target, "/rest/") })
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	ours := []string{"new", "active", "/ours of its connection", "idle", "active", "/ours of its connection", "idle"}
	rest := []string{"new", "active", "/rest/ of its connection", "idle", "closed"}
	for _, c := range []struct {
		paths []string
		want  []string
	}{
		{[]string{"/ours", "/ours"}, append(slices.Clone(ours), "closed")},
		{[]string{"/ours", "/ours", "/rest/"}, append(slices.Clone(ours), rest...)},
	} {
		mu.Lock()
		told = nil
		mu.Unlock()
		nc := dial(t, l.Addr().String())
		br := bufio.NewReader(nc)
		for _, path := range c.paths {
			_, _ = io.WriteString(nc, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
			if _, err := read(br, "GET"); err != nil {
				t.Fatal(err)
			}
		}
		_ = nc.Close()
		<-closed
		mu.Lock()
		if diff := cmp.Diff(c.want, told); diff != "" {
			t.Errorf("%s: %s", c.paths, diff)
		}
		mu.Unlock()
	}
	_ = s.Close()
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

// TestShutdown: calls under way end well, each the last on its connection; idle
// connections are closed, and nothing new gets in.
func TestShutdown(t *testing.T) {
	for _, prefix := range []string{"/ours/", "/rest/"} {
		begun, goOn := make(chan struct{}), make(chan struct{})
		var calls atomic.Int64
		s, addr := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			calls.Add(1)
			if strings.HasSuffix(r.URL.Path, "/slow") {
				close(begun)
				<-goOn
			}
			_, _ = io.WriteString(w, "whole")
		}))
		idle, busy := dial(t, addr), dial(t, addr)
		ibr, bbr := bufio.NewReader(idle), bufio.NewReader(busy)
		_, _ = io.WriteString(idle, "GET "+prefix+" HTTP/1.1\r\nHost: x\r\n\r\n")
		if a, err := read(ibr, "GET"); err != nil || a.Close {
			t.Fatalf("%+v, %v", a, err)
		}
		_, _ = io.WriteString(busy, "GET "+prefix+"slow HTTP/1.1\r\nHost: x\r\n\r\n")
		<-begun
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown with a call under way: %v", err)
		}
		cancel()
		if _, err := ibr.ReadByte(); err == nil {
			t.Error("an idle connection goes on")
		}
		if c, err := net.Dial("tcp", addr); err == nil {
			_ = c.Close()
			t.Error("a new connection gets in")
		}
		done := make(chan error, 1)
		go func() { done <- s.Shutdown(t.Context()) }()
		close(goOn)
		if a, err := read(bbr, "GET"); err != nil || a.Body != "whole" || !a.Close {
			t.Errorf("the call under way: %+v, %v", a, err)
		}
		if err := <-done; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if n := calls.Load(); n != 2 {
			t.Errorf("%d calls", n)
		}
	}
}

// TestShutdownMeanwhile: whatever moment a shutdown comes at, a request is answered
// whole or its connection ends without a byte.
func TestShutdownMeanwhile(t *testing.T) {
	for i := range 30 {
		s, addr := start(t, http.HandlerFunc(byPath))
		var whole, none atomic.Int64
		ended := make(chan struct{}, 8)
		for range cap(ended) {
			go func() {
				defer func() { ended <- struct{}{} }()
				c, err := net.Dial("tcp", addr)
				if err != nil {
					return
				}
				defer func() { _ = c.Close() }()
				_ = c.SetDeadline(time.Now().Add(patience))
				br := bufio.NewReader(c)
				for {
					if _, err := io.WriteString(c, "POST /ours/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab"); err != nil {
						return
					}
					a, err := read(br, "POST")
					if err != nil {
						if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
							t.Error(err)
						}
						none.Add(1)
						return
					}
					if !strings.Contains(a.Body, `"ab" 2 <nil>`) {
						t.Errorf("%+v", a)
					}
					whole.Add(1)
					if a.Close {
						return
					}
				}
			}()
		}
		time.Sleep(time.Duration(i) * time.Millisecond / 2)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		cancel()
		for range cap(ended) {
			<-ended
		}
	}
}
