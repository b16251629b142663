// SPDX-License-Identifier: Apache-2.0

package s3blob_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/minio/minio-go/v7"

	"panal/internal/blob"
	"panal/internal/blob/s3blob"
	"panal/internal/plat"
)

const mib = 1 << 20

func text(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

// only hides every method of a reader but Read: nothing can seek in it.
type only struct{ io.Reader }

func mustPut(t *testing.T, d blob.Driver, key string, body []byte, size int64) {
	t.Helper()
	if err := d.Put(t.Context(), key, only{bytes.NewReader(body)}, size, blob.PutOptions{}); err != nil {
		t.Fatalf("Put(%s) = %v", key, err)
	}
}

func wantBytes(t *testing.T, d blob.Driver, key string, want []byte) {
	t.Helper()
	rc, _, err := d.Open(t.Context(), key, 0, -1)
	if err != nil {
		t.Fatalf("Open(%s) = %v", key, err)
	}
	defer func() { _ = rc.Close() }()
	if got, err := io.ReadAll(rc); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: read %d bytes, %v; want the %d that were put", key, len(got), err, len(want))
	}
}

// unfinished lists the multipart uploads of a bucket.
func unfinished(t *testing.T, opt s3blob.Options) []string {
	t.Helper()
	var ids []string
	for u := range raw(t, opt).ListIncompleteUploads(t.Context(), opt.Bucket, "", true) {
		if u.Err != nil {
			t.Fatal(u.Err)
		}
		ids = append(ids, u.UploadID)
	}
	return ids
}

func TestKeysAreTheBucketsOwn(t *testing.T) {
	opt := bucket(t)
	opt.Prefix = "panal/one/"
	d := open(t, opt)
	mustPut(t, d, "lake/a b%2F/é", []byte("x"), 1)
	if _, err := raw(t, opt).PutObject(t.Context(), opt.Bucket, "other", strings.NewReader("y"), 1, "", "", minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for o := range raw(t, opt).ListObjectsIter(t.Context(), opt.Bucket, minio.ListObjectsOptions{Recursive: true}) {
		keys = append(keys, o.Key)
	}
	if want := []string{"other", "panal/one/lake/a b%2F/é"}; !slices.Equal(keys, want) { // and no probe is left
		t.Errorf("the bucket holds %q, want %q", keys, want)
	}
	infos, more, err := d.List(t.Context(), "", "", 10)
	if err != nil || more || len(infos) != 1 || infos[0].Key != "lake/a b%2F/é" {
		t.Errorf("List = %+v, %v, %v", infos, more, err)
	}
}

func TestWhatATreeCantHoldIsRefused(t *testing.T) {
	d := open(t, bucket(t))
	mustPut(t, d, "a/b", []byte("x"), 1)
	for _, key := range []string{"a", "a/b/c", strings.Repeat("x", 300)} {
		if err := d.Put(t.Context(), key, strings.NewReader("y"), 1, blob.PutOptions{}); !errors.Is(err, plat.ErrInvalid) {
			t.Errorf("Put(%.10q) = %v, want ErrInvalid", key, err)
		}
	}
	wantBytes(t, d, "a/b", []byte("x"))
}

// TestEveryWayOfABody: one PUT from memory, one streamed, parts streamed, parts from
// buffers; whole, and cut off, too long, broken, with what was there before kept.
func TestEveryWayOfABody(t *testing.T) {
	opt := bucket(t)
	d := open(t, opt)
	d.SetLimits(5*mib, 5*mib)
	broken := errors.New("the line broke")
	for name, c := range map[string]struct {
		n    int
		size bool
	}{
		"small": {1000, true}, "streamed": {1 * mib, true}, "long": {6*mib + 3, true}, "long, whole parts": {10 * mib, true},
		"unknown": {6*mib + 3, false}, "unknown, one part exactly": {5 * mib, false}, "unknown, whole parts": {10 * mib, false},
	} {
		body := text(c.n)
		size := int64(-1)
		if c.size {
			size = int64(c.n)
		}
		for _, before := range []bool{false, true} {
			if !before && c.n%mib == 0 && c.n > mib {
				continue // its sibling has shown it; bodies of many MiB take their time
			}
			key := strings.ReplaceAll(name, " ", "/")
			if before {
				mustPut(t, d, key, []byte("before"), 6)
			} else if err := d.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
			err := d.Put(t.Context(), key, io.MultiReader(bytes.NewReader(body[:c.n-1]), iotest.ErrReader(broken)), size, blob.PutOptions{})
			if !errors.Is(err, broken) {
				t.Errorf("%s: a broken body: Put = %v", name, err)
			}
			if c.size {
				for what, r := range map[string]io.Reader{"short": bytes.NewReader(body[:c.n-1]), "long": io.MultiReader(bytes.NewReader(body), strings.NewReader("x"))} {
					if err := d.Put(t.Context(), key, only{r}, size, blob.PutOptions{}); !errors.Is(err, plat.ErrInvalid) {
						t.Errorf("%s: a body too %s: Put = %v, want ErrInvalid", name, what, err)
					}
				}
			}
			if before {
				if err := d.Put(t.Context(), key, only{bytes.NewReader(body)}, size, blob.PutOptions{IfNoneMatch: true}); !errors.Is(err, plat.ErrExists) {
					t.Errorf("%s: if none match: Put = %v, want ErrExists", name, err)
				}
				wantBytes(t, d, key, []byte("before"))
			} else if _, err := d.Stat(t.Context(), key); !errors.Is(err, plat.ErrNotFound) {
				t.Errorf("%s: failed puts left something: Stat = %v", name, err)
			}
			mustPut(t, d, key, body, size)
			wantBytes(t, d, key, body)
		}
	}
	if ids := unfinished(t, opt); len(ids) > 0 {
		t.Errorf("%d unfinished uploads are left", len(ids))
	}
}

func TestSweepEndsWhatCrashesLeft(t *testing.T) {
	opt := bucket(t)
	opt.Prefix = "p/"
	core := raw(t, opt)
	for _, key := range []string{"p/left", "p/left2", "not-ours"} {
		if _, err := core.NewMultipartUpload(t.Context(), opt.Bucket, key, minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	d := open(t, opt) // its first sweep finds nothing of a week's age
	if n, err := d.Sweep(t.Context()); err != nil || n != 0 {
		t.Errorf("young uploads: Sweep = %d, %v", n, err)
	}
	later := opt
	later.Clock = func() time.Time { return time.Now().Add(8 * 24 * time.Hour) }
	d = open(t, later)
	// One of its own is under way meanwhile.
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- d.Put(t.Context(), "mine", pr, -1, blob.PutOptions{}) }()
	body := text(6 * mib)
	if _, err := pw.Write(body); err != nil {
		t.Fatal(err)
	}
	for range 3 { // the opening's own sweep may be under way
		if _, err := d.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := pw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("an upload under way was swept: %v", err)
	}
	wantBytes(t, d, "mine", body)
	if ids := unfinished(t, opt); len(ids) != 1 {
		t.Errorf("unfinished: %q, want the one that is not below the prefix", ids)
	}
}

// TestPresigned: data.md §10.6 on the service's own answers, at the public address.
func TestPresigned(t *testing.T) {
	opt := bucket(t)
	target, err := url.Parse(opt.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	// Where clients are, the service has another name: the signature must be over that one.
	opt.PublicEndpoint = "http://localhost:" + target.Port()
	opt.Prefix = "p/"
	d := open(t, opt)
	body := text(200_000)
	mustPut(t, d, "dir/a b%+é", body, int64(len(body)))
	const typ = `text/plain; x="a  b/c+é%"`
	signed, err := d.PresignGet(t.Context(), "dir/a b%+é", typ, time.Hour)
	if err != nil || !strings.HasPrefix(signed, opt.PublicEndpoint+"/"+opt.Bucket+"/p/dir/") {
		t.Fatalf("PresignGet = %s, %v", signed, err)
	}
	do := func(method, u string, header http.Header, body io.Reader) (*http.Response, []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, u, body)
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(req.Header, header)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		got, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, got
	}
	res, got := do(http.MethodGet, signed, http.Header{"Accept-Encoding": {"gzip"}}, nil)
	if res.StatusCode != http.StatusOK || !bytes.Equal(got, body) || res.ContentLength != int64(len(body)) ||
		res.Header.Get("Content-Type") != typ || res.Header.Get("Content-Encoding") != "" {
		t.Errorf("GET = %d, %d bytes, %v", res.StatusCode, len(got), res.Header)
	}
	if res, got = do(http.MethodGet, signed, http.Header{"Range": {"bytes=3-5"}}, nil); res.StatusCode != http.StatusPartialContent || !bytes.Equal(got, body[3:6]) {
		t.Errorf("GET of a range = %d, %q", res.StatusCode, got)
	}
	for what, u := range map[string]string{
		"another object": strings.Replace(signed, "dir/", "dur/", 1), "another type": strings.Replace(signed, "text%2Fplain", "text%2Fhtml", 1),
		"a longer life": strings.Replace(signed, "X-Amz-Expires=3600", "X-Amz-Expires=36000", 1),
	} {
		if res, _ := do(http.MethodGet, u, nil, nil); res.StatusCode != http.StatusForbidden || u == signed {
			t.Errorf("%s: GET = %d, want 403", what, res.StatusCode)
		}
	}
	if res, _ := do(http.MethodDelete, signed, nil, nil); res.StatusCode != http.StatusForbidden {
		t.Errorf("DELETE by a GET's URL = %d", res.StatusCode)
	}
	if short, err := d.PresignGet(t.Context(), "k", typ, 999*time.Millisecond); short != "" || err != nil {
		t.Errorf("for less than a second: %q, %v; want none", short, err)
	}
	short, err := d.PresignGet(t.Context(), "dir/a b%+é", typ, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for res, _ = do(http.MethodGet, short, nil, nil); res.StatusCode == http.StatusOK; res, _ = do(http.MethodGet, short, nil, nil) {
		time.Sleep(100 * time.Millisecond)
	}
	if res.StatusCode != http.StatusForbidden {
		t.Errorf("expired: GET = %d, want 403", res.StatusCode)
	}
	up, err := d.PresignPut(t.Context(), "up", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if res, _ := do(http.MethodPut, up, http.Header{"Content-Type": {"any/thing"}}, strings.NewReader("hello")); res.StatusCode != http.StatusOK {
		t.Errorf("PUT = %d", res.StatusCode)
	}
	wantBytes(t, d, "up", []byte("hello"))
	if up, err = d.PresignPut(t.Context(), "late", time.Second); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second) // its whole life, and more
	if res, _ := do(http.MethodPut, up, nil, strings.NewReader("hello")); res.StatusCode != http.StatusForbidden {
		t.Errorf("expired: PUT = %d, want 403", res.StatusCode)
	}
	if _, err := d.Stat(t.Context(), "late"); !errors.Is(err, plat.ErrNotFound) {
		t.Errorf("expired: Stat = %v", err)
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	good := bucket(t)
	yes := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // a service that takes everything, whatever the condition
		w.Header().Set("ETag", `"x"`)
		if r.Method == http.MethodDelete {
			w.WriteHeader(http.StatusNoContent)
		}
	}))
	defer yes.Close()
	for name, c := range map[string]struct {
		change func(*s3blob.Options)
		kind   error
		text   string
	}{
		"no bucket":     {func(o *s3blob.Options) { o.Bucket = "not-there" }, plat.ErrUnavailable, `no bucket "not-there"; create it`},
		"wrong key":     {func(o *s3blob.Options) { o.SecretKey = "wrong-secret" }, plat.ErrUnavailable, "refuses Panal's credentials"},
		"nobody there":  {func(o *s3blob.Options) { o.Endpoint = "http://127.0.0.1:1" }, plat.ErrUnavailable, "does not answer"},
		"no conditions": {func(o *s3blob.Options) { o.Endpoint = yes.URL }, plat.ErrUnsupported, "ignores If-None-Match"},
		"no URL":        {func(o *s3blob.Options) { o.Endpoint = "127.0.0.1:1" }, plat.ErrInvalid, "is not http(s)://HOST"},
		"prefix":        {func(o *s3blob.Options) { o.Prefix = "a" }, plat.ErrInvalid, `must end in "/"`},
	} {
		opt := good
		c.change(&opt)
		d, err := s3blob.Open(t.Context(), opt)
		if d != nil || !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: Open = %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), opt.SecretKey) {
			t.Errorf("%s: the error tells the secret: %v", name, err)
		}
	}
}

// flaky is a service that ends connections when told to: before it reads the body, or
// before it answers.
type flaky struct {
	mu     sync.Mutex
	before int // requests to cut before their body is read
	after  int // requests to cut before their answer
	seen   atomic.Int64
	stored atomic.Int64
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodGet: // the sweeper's question
		_, _ = io.WriteString(w, "<ListMultipartUploadsResult/>")
		return
	case r.Method == http.MethodHead && strings.Contains(r.URL.Path, "probe"):
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		w.Header().Set("ETag", `"x"`)
		return
	}
	f.seen.Add(1)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.before > 0 {
		f.before--
		c, _, _ := http.NewResponseController(w).Hijack() // an abort would wait for a short body
		_ = c.Close()
		return
	}
	_, _ = io.Copy(io.Discard, r.Body)
	if r.Method == http.MethodPut && r.Header.Get("If-None-Match") != "" && strings.Contains(r.URL.Path, "probe") {
		w.WriteHeader(http.StatusPreconditionFailed)
		return
	}
	if r.Method == http.MethodPut {
		f.stored.Add(1)
	}
	if f.after > 0 {
		f.after--
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("ETag", `"x"`)
	switch r.Method {
	case http.MethodDelete:
		w.WriteHeader(http.StatusNoContent)
	case http.MethodHead:
		w.WriteHeader(http.StatusNotFound)
	}
}

func TestRetriesOnlyWhereSafe(t *testing.T) {
	f := &flaky{}
	server := httptest.NewServer(f)
	defer server.Close()
	d, err := s3blob.Open(t.Context(), s3blob.Options{Bucket: "bucket", Endpoint: server.URL, AccessKey: "a", SecretKey: "secret-key"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	for name, c := range map[string]struct {
		n             int
		once          bool
		before, after int
		ok            bool
		stored        int64
	}{
		"a small body is sent again":                        {n: 10, after: 1, ok: true, stored: 2},
		"a streamed body whose answer is lost is not":       {n: mib, after: 1, stored: 1},
		"a small conditional body whose answer is lost":     {n: 10, once: true, after: 1, stored: 1},
		"a streamed body that was not asked for yet is":     {n: mib, before: 1, ok: true, stored: 1},
		"so is a conditional small one":                     {n: 10, once: true, before: 1, ok: true, stored: 1},
		"what never works fails, and does not try for ever": {n: 10, before: 100},
	} {
		f.mu.Lock()
		f.before, f.after = c.before, c.after
		f.mu.Unlock()
		f.stored.Store(0)
		f.seen.Store(0)
		err := d.Put(t.Context(), "k", only{bytes.NewReader(text(c.n))}, int64(c.n), blob.PutOptions{IfNoneMatch: c.once})
		if c.ok != (err == nil) || (err != nil && !errors.Is(err, plat.ErrUnavailable)) || f.stored.Load() != c.stored || f.seen.Load() > 12 {
			t.Errorf("%s: Put = %v, stored %d times in %d requests", name, err, f.stored.Load(), f.seen.Load())
		}
	}
}

// TestAClientThatGoesAwayLeavesNothing: the body comes over a socket that ends.
func TestAClientThatGoesAwayLeavesNothing(t *testing.T) {
	opt := bucket(t)
	d := open(t, opt)
	for _, size := range []int64{20 * mib, -1} {
		errs := make(chan error, 1)
		front := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			errs <- d.Put(context.WithoutCancel(r.Context()), "k", r.Body, size, blob.PutOptions{})
		}))
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(front.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 20971520\r\n\r\n")
		if _, err := c.Write(text(12 * mib)); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		if err := <-errs; !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("Put = %v", err)
		}
		front.Close()
		if _, err := d.Stat(t.Context(), "k"); !errors.Is(err, plat.ErrNotFound) {
			t.Errorf("Stat = %v; half an upload was stored", err)
		}
	}
	if ids := unfinished(t, opt); len(ids) > 0 {
		t.Errorf("%d unfinished uploads are left", len(ids))
	}
}

// A service that copies whatever the condition says can't be relied on for uploads by URL.
func TestCopyIsOfferedOnlyWhereConditionsHold(t *testing.T) {
	for _, honours := range []bool{true, false} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("ETag", `"x"`)
			w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
			switch {
			case r.Method == http.MethodDelete:
				w.WriteHeader(http.StatusNoContent)
			case r.Method == http.MethodPut && (r.Header.Get("If-None-Match") != "" || honours && r.Header.Get("X-Amz-Copy-Source-If-Match") != ""):
				w.WriteHeader(http.StatusPreconditionFailed)
			case r.Header.Get("X-Amz-Copy-Source") != "":
				_, _ = io.WriteString(w, `<CopyObjectResult><ETag>"x"</ETag><LastModified>2026-11-26T00:00:00Z</LastModified></CopyObjectResult>`)
			case r.Method == http.MethodGet:
				_, _ = io.WriteString(w, "<ListMultipartUploadsResult/>")
			}
		}))
		d := open(t, s3blob.Options{Bucket: "bucket", Endpoint: server.URL, AccessKey: "a", SecretKey: "secret-key"})
		if d.CanCopy() != honours || blob.New(d).Copies() != honours {
			t.Errorf("CanCopy = %v with a service that honours conditions: %v", d.CanCopy(), honours)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		server.Close()
	}
}
