// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"panal/internal/client"
	"panal/internal/sqlstore/sqlstoretest"
	"panal/internal/x/etag"
)

// uploads asks for upload URLs and puts bodies by them, as data.md §10.3 says.
type uploads struct {
	*platform
	channel string
}

func (u *uploads) ask() (id, to string) {
	u.t.Helper()
	res, err := u.api.Do(u.t.Context(), client.Request{
		Method: http.MethodPost, Path: client.Path("channels", u.channel),
		Header: http.Header{"Content-Type": {"image/jpeg"}, "X-Abeja-Meta-Label_id": {"7"}},
	})
	if err != nil {
		u.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var out struct {
		ID  string `json:"file_id"`
		URL string `json:"upload_url"`
	}
	if err := json.NewDecoder(res.Body).Decode(&out); err != nil {
		u.t.Fatal(err)
	}
	return out.ID, out.URL
}

// send puts a body as a client does that has nothing but the URL, and returns the ETag.
func (u *uploads) send(to string, body []byte) string {
	u.t.Helper()
	req, err := http.NewRequestWithContext(u.t.Context(), http.MethodPut, to, bytes.NewReader(body))
	if err != nil {
		u.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "image/jpeg")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		u.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if text, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK || res.Header.Get("ETag") == "" {
		u.t.Fatalf("PUT = %d %v %s %v", res.StatusCode, res.Header, text, err)
	}
	return strings.Trim(res.Header.Get("ETag"), `"`)
}

func (u *uploads) count() int64 {
	u.t.Helper()
	n, err := u.api.CountFiles(u.t.Context(), u.channel, "label_id:7")
	if err != nil {
		u.t.Fatal(err)
	}
	return n
}

func (u *uploads) path(id string) string { return client.Path("channels", u.channel, id) }

// is asserts what a file is, by its URL too.
func (u *uploads) is(id string, body []byte) {
	u.t.Helper()
	sum := etag.New()
	_, _ = sum.Write(body)
	f := u.call(http.MethodGet, u.path(id), nil)
	if f["etag"] != sum.ETag() || f["size"] != float64(len(body)) || f["content_type"] != "image/jpeg" || f["uploaded_at"] == nil {
		u.t.Errorf("file %v", f)
	}
	res, err := http.Get(f["download_uri"].(string))
	if err != nil {
		u.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if got, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK || !bytes.Equal(got, body) || res.Header.Get("Content-Type") != "image/jpeg" {
		u.t.Errorf("download = %d, %d bytes, %v, %v", res.StatusCode, len(got), res.Header, err)
	}
}

func startUploads(t *testing.T, where string, more ...string) *uploads {
	t.Helper()
	p := startPlatform(t, append([]string{"--database", sqlstoretest.PostgresURL(t), "--blob", where}, more...)...)
	ch, err := p.api.CreateChannel(t.Context(), "uploads", "")
	if err != nil {
		t.Fatal(err)
	}
	return &uploads{platform: p, channel: ch.ID}
}

// TestSignedUploadToBucket: what clients put straight into the bucket by the URLs of data.md
// §10.3 becomes files, whoever dies meanwhile, and nothing else does.
func TestSignedUploadToBucket(t *testing.T) {
	where := bucketURL(t)
	at, err := url.Parse(where)
	if err != nil {
		t.Fatal(err)
	}
	u := startUploads(t, where)
	incoming := func() (n int) {
		for key := range objectsOf(t, where) {
			if strings.Contains(key, "/incoming/") {
				n++
			}
		}
		return n
	}

	// Nobody asks for it: a listing finds it.
	id, to := u.ask()
	if !strings.HasPrefix(to, at.Query().Get("endpoint")+"/") {
		t.Fatalf("upload_url %s is not the storage's", to)
	}
	small := []byte("hello")
	u.send(to, small)
	u.until("a file by listing", 20*time.Second, func() bool { return u.count() == 1 })
	u.is(id, small)
	// Later bodies by the same URL are nothing.
	u.send(to, []byte("other"))
	u.until("the late body's end", 60*time.Second, func() bool {
		second, to := u.ask() // while a URL is out, listings go on
		u.send(to, small)
		u.call(http.MethodGet, u.path(second), nil) // whoever asks right after the PUT finds it
		u.call(http.MethodDelete, u.path(second), nil)
		return incoming() == 0
	})
	u.is(id, small)

	// More than a chunk, and nothing at all.
	for _, n := range []int{0, etag.ChunkSize, 2*etag.ChunkSize + 12345} {
		big := make([]byte, n)
		_, _ = rand.Read(big)
		id, to = u.ask()
		u.send(to, big)
		u.is(id, big)
	}
	files := u.count()

	// The server is away when the body comes, and dies at any time after that.
	var ids []string
	for range 5 {
		id, to := u.ask()
		ids = append(ids, id)
		u.kill()
		u.send(to, small)
		u.start()
		time.Sleep(300 * time.Millisecond) // of the first listing
	}
	u.until("the files after kills", 30*time.Second, func() bool { return u.count() == files+int64(len(ids)) })
	for _, id := range ids {
		u.is(id, small)
	}

	// A body that is cut leaves nothing, and the URL is good.
	id, to = u.ask()
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", target.Host)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 1000\r\n\r\nhalf", target.RequestURI(), target.Host)
	if err != nil || conn.Close() != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second)
	if _, err := u.api.File(t.Context(), u.channel, id); err == nil {
		t.Error("half a body is a file")
	}
	u.send(to, small)
	u.is(id, small)

	// Over the quota: gone, and whoever asks is told why.
	id, to = u.ask()
	if _, err := u.api.SetQuota(t.Context(), u.api.Org, 40<<20); err != nil {
		t.Fatal(err)
	}
	u.send(to, make([]byte, 39<<20))
	if _, err := u.api.File(t.Context(), u.channel, id); err == nil || !strings.Contains(err.Error(), "storage quota") {
		t.Errorf("GET of what passed the quota = %v", err)
	}
	if n := incoming(); n != 0 {
		t.Errorf("%d bodies are left", n)
	}
	// Only what belongs to files is in the bucket; the journal knows all of it.
	if v, err := u.api.VerifyChannel(t.Context(), u.channel, true, false); err != nil || v.Left != 0 || len(v.Findings) != 0 {
		t.Errorf("verify: %+v, %v", v, err)
	}
	log, err := os.ReadFile(u.log.Name())
	if err != nil || bytes.Contains(log, []byte("X-Amz-Signature")) {
		t.Errorf("a signature is in the log (%v)", err)
	}
}

// TestSignedUploadEvents: where the storage tells of its objects, posting it or by a queue,
// nobody waits for a listing.
func TestSignedUploadEvents(t *testing.T) {
	where := bucketURL(t)
	q := newQueue(t)
	t.Setenv("PANAL_UPLOAD_SECRET", "a secret of the storage")
	u := startUploads(t, where, "--upload-queue", q.url)
	at, err := url.Parse(where)
	if err != nil {
		t.Fatal(err)
	}
	event := func(to string) string {
		target, err := url.Parse(to)
		if err != nil {
			t.Fatal(err)
		}
		key := strings.TrimPrefix(target.Path, "/"+at.Host+"/")
		return fmt.Sprintf(`{"Records":[{"eventVersion":"2.1","eventName":"ObjectCreated:Put","s3":{"bucket":{"name":"%s"},"object":{"key":"%s"}}}]}`, at.Host, url.QueryEscape(key))
	}
	post := func(secret, body string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+u.listen+"/feeds/uploads/s3", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+secret)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	var to string
	for i := range 20 {
		_, to = u.ask()
		u.send(to, []byte("hello"))
		if status := post("a secret of the storage", event(to)); status != http.StatusOK {
			t.Fatalf("POST = %d", status)
		}
		if n := u.count(); n != int64(i+1) {
			t.Fatalf("%d files after %d answered events", n, i+1)
		}
	}
	for body, want := range map[string]int{event(to): http.StatusOK, `{"Records":[`: http.StatusBadRequest, `{"Event":"s3:TestEvent"}`: http.StatusOK} {
		if status := post("a secret of the storage", body); status != want {
			t.Errorf("POST %s = %d, want %d", body, status, want)
		}
	}
	if status := post("another secret", event(to)); status != http.StatusUnauthorized {
		t.Errorf("POST with another secret = %d", status)
	}
	_, to = u.ask()
	u.send(to, []byte("by a queue"))
	q.send("{broken")
	q.send(event(to))
	begun := time.Now()
	u.until("a file by the queue", 29*time.Second, func() bool { return u.count() == 21 })
	t.Logf("by the queue after %s", time.Since(begun))
}
