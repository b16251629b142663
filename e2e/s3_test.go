// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"bytes"
	"crypto/rand"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/rogpeppe/go-internal/testscript"

	"panal/internal/client"
	"panal/internal/sqlstore/sqlstoretest"
)

// bucketURL returns a --blob of the test's own: a prefix in the bucket of the S3
// server that scripts/with-s3 started. The credentials are in the environment.
func bucketURL(t *testing.T) string {
	t.Helper()
	u := os.Getenv("PANAL_TEST_S3")
	if u == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("PANAL_TEST_S3 is not set: run the tests under scripts/with-s3 (make test does)")
		}
		t.Skip("PANAL_TEST_S3 is not set: scripts/with-s3 go test … starts a server")
	}
	return u + "&prefix=" + rand.Text()
}

// TestBucket: data.md §10.6 by storage's own URLs, at the address where clients find
// it; they work while the server is down, and end with the object.
func TestBucket(t *testing.T) {
	where, err := url.Parse(bucketURL(t))
	if err != nil {
		t.Fatal(err)
	}
	q := where.Query()
	public := strings.Replace(q.Get("endpoint"), "127.0.0.1", "localhost", 1)
	q.Set("public_endpoint", public)
	where.RawQuery = q.Encode()
	p := startPlatform(t, "--database", sqlstoretest.PostgresURL(t), "--blob", where.String())
	ch := p.call(http.MethodPost, client.Path("organizations", p.api.Org, "channels"), map[string]any{"name": "c", "storage_type": "datalake"})["channel"].(map[string]any)["channel_id"].(string)
	body := bytes.Repeat([]byte("0123456789"), 50_000)
	for _, chunked := range []bool{false, true} {
		file, err := p.put(ch, "a.bin", body, chunked)
		if err != nil {
			t.Fatal(err)
		}
		f := p.call(http.MethodGet, client.Path("channels", ch, file), nil)
		uri, _ := f["download_uri"].(string)
		if !strings.HasPrefix(uri, public+"/") || f["download_url"] != uri {
			t.Errorf("download_uri = %s", uri)
		}
		// Storage's URL is signed for GET alone; Panal's takes HEAD and has the file's ETag.
		ours, _ := p.call(http.MethodGet, client.Path("channels", ch, file)+"?presign=false", nil)["download_uri"].(string)
		for method, want := range map[string]int{http.MethodHead: http.StatusOK, http.MethodGet: http.StatusPartialContent} {
			req, err := http.NewRequestWithContext(t.Context(), method, ours, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Range", "bytes=10-19")
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			length := map[string]int64{http.MethodHead: int64(len(body)), http.MethodGet: 10}[method] // a range is of GET alone
			if err != nil || res.StatusCode != want || res.ContentLength != length || res.Header.Get("ETag") != `"`+f["etag"].(string)+`"` ||
				method == http.MethodGet && string(got) != "0123456789" {
				t.Errorf("%s %s = %d, %q, %v, %v", method, ours, res.StatusCode, got, res.Header, err)
			}
		}
		p.kill()
		res, err := http.Get(uri)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		h := res.Header
		if err != nil || res.StatusCode != http.StatusOK || !bytes.Equal(got, body) || res.ContentLength != int64(len(body)) ||
			h.Get("Content-Type") != "application/octet-stream" || h.Get("Content-Encoding") != "" {
			t.Errorf("GET = %d, %d bytes, %v, %v", res.StatusCode, len(got), h, err)
		}
		p.start()
		p.call(http.MethodDelete, client.Path("channels", ch, file), nil)
		if res, err = http.Get(uri); err != nil || res.StatusCode != http.StatusNotFound {
			t.Errorf("after DELETE: GET = %v, %v", res, err)
		}
		_ = res.Body.Close()
	}
	// The credentials are nowhere but in the environment.
	secret := os.Getenv("PANAL_S3_SECRET_KEY")
	printed, err := exec.Command(binary, "config", "print", "--blob", where.String()).CombinedOutput()
	if err != nil || bytes.Contains(printed, []byte(secret)) || !bytes.Contains(printed, []byte("s3-secret-key: redacted")) {
		t.Errorf("config print: %v\n%s", err, printed)
	}
	log, err := os.ReadFile(p.log.Name())
	if err != nil || bytes.Contains(log, []byte(secret)) {
		t.Errorf("the secret is in the server's log (%v)", err)
	}
	if found, err := secretsIn(p.data, secret); err != nil || len(found) > 0 {
		t.Errorf("the secret is in %q (%v)", found, err)
	}
}

// objectsOf returns every object below the prefix of a --blob.
func objectsOf(t *testing.T, blob string) map[string][]byte {
	t.Helper()
	u, err := url.Parse(blob)
	if err != nil {
		t.Fatal(err)
	}
	s3, err := minio.New(strings.TrimPrefix(u.Query().Get("endpoint"), "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(os.Getenv("PANAL_S3_ACCESS_KEY"), os.Getenv("PANAL_S3_SECRET_KEY"), ""), BucketLookup: minio.BucketLookupPath,
	})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for info := range s3.ListObjects(t.Context(), u.Host, minio.ListObjectsOptions{Prefix: u.Query().Get("prefix"), Recursive: true}) {
		if info.Err != nil {
			t.Fatal(info.Err)
		}
		o, err := s3.GetObject(t.Context(), u.Host, info.Key, minio.GetObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(o)
		_ = o.Close()
		if err != nil && minio.ToErrorResponse(err).Code != minio.NoSuchKey { // deleted meanwhile
			t.Fatal(err)
		}
		out[info.Key] = unpacked(b)
	}
	return out
}

// objects TEXT: the bucket has objects with the text in their keys.
func cmdObjects(ts *testscript.TestScript, neg bool, args []string) {
	s := get(ts)
	var found []string
	for key := range objectsOf(s.t, s.blob) {
		if strings.Contains(key, args[0]) {
			found = append(found, key)
		}
	}
	if neg != (len(found) == 0) {
		ts.Fatalf("%s is in the keys %q", args[0], found)
	}
}
