// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"panal/internal/client"
	"panal/internal/sqlstore/sqlstoretest"
)

// TestLinkedBucket: what others put into a bucket becomes files of the channel that is
// linked to it (docs/adr/0017): what was there, what events tell of, and what they don't.
func TestLinkedBucket(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { linkedBucket(t) })
	t.Run("postgres", func(t *testing.T) { linkedBucket(t, "--database", sqlstoretest.PostgresURL(t)) })
}

func linkedBucket(t *testing.T, engine ...string) {
	where, err := url.Parse(bucketURL(t))
	if err != nil {
		t.Fatal(err)
	}
	endpoint := where.Query().Get("endpoint")
	s3, err := minio.New(strings.TrimPrefix(endpoint, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(os.Getenv("PANAL_S3_ACCESS_KEY"), os.Getenv("PANAL_S3_SECRET_KEY"), ""), BucketLookup: minio.BucketLookupPath,
	})
	if err != nil {
		t.Fatal(err)
	}
	bucket := "t-" + strings.ToLower(rand.Text())
	if err := s3.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	put := func(key, body string) {
		t.Helper()
		if _, err := s3.PutObject(t.Context(), bucket, key, strings.NewReader(body), int64(len(body)),
			minio.PutObjectOptions{ContentType: "text/plain", UserMetadata: map[string]string{"Label": "cat"}}); err != nil {
			t.Fatal(err)
		}
	}
	put("in/there before.txt", "old")
	put("out/not ours.txt", "x")

	p := startPlatform(t, append(engine, "--link-endpoint", endpoint)...)
	channels := client.Path("organizations", p.api.Org, "channels")
	ch := p.call(http.MethodPost, channels, map[string]any{"name": "linked"})["channel"].(map[string]any)["channel_id"].(string)
	link := client.Path("organizations", p.api.Org, "channels", ch, "link")
	made := p.call(http.MethodPost, link, map[string]any{
		"endpoint": endpoint, "bucket": bucket, "prefix": "in/",
		"access_key": os.Getenv("PANAL_S3_ACCESS_KEY"), "secret_key": os.Getenv("PANAL_S3_SECRET_KEY"),
	})
	secret, _ := made["feed_secret"].(string)
	feedURL, _ := made["feed_url"].(string)
	if secret == "" || !strings.HasSuffix(feedURL, "/feeds/"+ch+"/s3") {
		t.Fatalf("link = %v", made)
	}

	files := func(query string) []any {
		all, _ := p.call(http.MethodGet, client.Path("channels", ch)+"?query="+url.QueryEscape(query), nil)["files"].([]any)
		return all
	}
	wait := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s did not happen; link %v, files %v", what, p.call(http.MethodGet, link, nil), files("file_id:*"))
			}
		}
	}
	post := func(auth, body string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, feedURL, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", auth)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	event := func(name, key string) string {
		return fmt.Sprintf(`{"Records":[{"eventVersion":"2.1","eventName":"%s","s3":{"bucket":{"name":"%s"},"object":{"key":"%s"}}}]}`, name, bucket, url.QueryEscape(key))
	}
	tell := func(name, key string) {
		t.Helper()
		if status := post("Bearer "+secret, event(name, key)); status != http.StatusOK {
			t.Fatalf("post = %d", status)
		}
	}
	download := func(f any) (int, string) {
		t.Helper()
		uri, _ := f.(map[string]any)["download_uri"].(string)
		res, err := http.Get(uri)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(b)
	}

	wait("the import", func() bool { return len(files("x-abeja-meta-filename:\"there before.txt\"")) == 1 })
	if status, body := download(files("file_id:*")[0]); status != http.StatusOK || body != "old" {
		t.Errorf("download = %d %q", status, body)
	}

	// An event, and what it says searchable: user metadata, type, name.
	put("in/a+b é.txt", "one")
	tell("ObjectCreated:Put", "in/a+b é.txt")
	wait("the new object", func() bool { return len(files(`x-abeja-meta-label:cat AND x-abeja-meta-s3-key:"in/a+b é.txt"`)) == 1 })
	first := files(`x-abeja-meta-s3-key:"in/a+b é.txt"`)[0]
	if status, body := download(first); status != http.StatusOK || body != "one" {
		t.Errorf("download = %d %q", status, body)
	}

	// Overwritten, and no event yet: the old file's bytes are nobody else's.
	put("in/a+b é.txt", "second")
	if status, body := download(first); status != http.StatusNotFound {
		t.Errorf("download of what was overwritten = %d %q, want 404", status, body)
	}
	tell("ObjectCreated:Put", "in/a+b é.txt")
	wait("the overwrite", func() bool {
		all := files(`x-abeja-meta-s3-key:"in/a+b é.txt"`)
		return len(all) == 1 && all[0].(map[string]any)["file_id"] != first.(map[string]any)["file_id"]
	})

	// Deleted.
	if err := s3.RemoveObject(t.Context(), bucket, "in/a+b é.txt", minio.RemoveObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	tell("ObjectRemoved:Delete", "in/a+b é.txt")
	wait("the deletion", func() bool { return len(files("file_id:*")) == 1 })

	// Poison, and who may post.
	tell("ObjectCreated:Put", "out/not ours.txt")
	if status := post("Bearer "+secret, "{broken"); status != http.StatusOK {
		t.Errorf("broken = %d, want 200: it is durable, and a dead letter later", status)
	}
	if status := post("Bearer "+secret+"x", event("ObjectCreated:Put", "in/x")); status != http.StatusUnauthorized {
		t.Errorf("a wrong secret = %d, want 401", status)
	}
	if status := post("Bearer "+secret, strings.Repeat("x", 1<<20+1)); status != http.StatusRequestEntityTooLarge {
		t.Errorf("a huge message = %d, want 413", status)
	}
	wait("the dead letters", func() bool { return p.call(http.MethodGet, link, nil)["dead"] == 2.0 })
	if n := p.call(http.MethodPost, link+"/dead/replay", map[string]any{})["letters"]; n != 2.0 {
		t.Errorf("replayed %v, want 2", n)
	}
	if n := p.call(http.MethodPost, link+"/dead/drop", map[string]any{})["letters"]; n != 2.0 {
		t.Errorf("dropped %v, want the 2 that failed again", n)
	}

	// What no event told of: verify sees and mends it. The messages outlive a kill.
	put("in/untold.txt", "untold")
	p.call(http.MethodPost, link+"/pause", nil)
	put("in/told while paused.txt", "told")
	tell("ObjectCreated:Put", "in/told while paused.txt")
	p.kill()
	p.start()
	p.call(http.MethodPost, link+"/resume", nil)
	wait("the message from before the kill", func() bool { return len(files(`x-abeja-meta-filename:"told while paused.txt"`)) == 1 })
	verify := client.Path("organizations", p.api.Org, "channels", ch, "verify")
	p.call(http.MethodPost, verify+"?repair=true", nil)
	if v := p.call(http.MethodPost, verify, nil); v["left"] != 0.0 || len(files("file_id:*")) != 3 {
		t.Errorf("verify = %v, %d files", v, len(files("file_id:*")))
	}

	// The bucket is the truth: nothing changes it, or the files, through us.
	if _, err := p.put(ch, "a.bin", bytes.Repeat([]byte("x"), 10), false); err == nil {
		t.Error("a linked channel took an upload")
	}
}
