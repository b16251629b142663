// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
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
	t.Run("sqlite", func(t *testing.T) { linkedBucket(t, nil) })
	t.Run("postgres", func(t *testing.T) { linkedBucket(t, nil, "--database", sqlstoretest.PostgresURL(t)) })
	t.Run("postgres, sqs", func(t *testing.T) { linkedBucket(t, newQueue(t), "--database", sqlstoretest.PostgresURL(t)) })
}

// queue is one of the SQS server's that scripts/with-sqs started.
type queue struct {
	t        *testing.T
	endpoint string
	url      string
}

func newQueue(t *testing.T) *queue {
	t.Helper()
	q := &queue{t: t, endpoint: os.Getenv("PANAL_TEST_SQS")}
	if q.endpoint == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("PANAL_TEST_SQS is not set: run the tests under scripts/with-sqs (make test does)")
		}
		t.Skip("PANAL_TEST_SQS is not set: scripts/with-sqs go test … starts a server")
	}
	made := q.call("CreateQueue", map[string]any{"QueueName": "q-" + strings.ToLower(rand.Text())})
	u, err := url.Parse(made["QueueUrl"].(string))
	if err != nil {
		t.Fatal(err)
	}
	q.url = q.endpoint + u.Path // the server names itself by a host that need not resolve
	return q
}

// call asks the server as any client does (the JSON protocol of SQS).
func (q *queue) call(action string, in map[string]any) map[string]any {
	q.t.Helper()
	raw, err := json.Marshal(in)
	if err != nil {
		q.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(q.t.Context(), http.MethodPost, q.endpoint, bytes.NewReader(raw))
	if err != nil {
		q.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.0")
	req.Header.Set("X-Amz-Target", "AmazonSQS."+action)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		q.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	out := map[string]any{}
	if err := json.NewDecoder(res.Body).Decode(&out); err != nil && !errors.Is(err, io.EOF) || res.StatusCode != http.StatusOK {
		q.t.Fatalf("%s: %s %v %v", action, res.Status, out, err)
	}
	return out
}

func (q *queue) send(body string) {
	q.t.Helper()
	q.call("SendMessage", map[string]any{"QueueUrl": q.url, "MessageBody": body})
}

// refusal returns status and text of the answer to a POST that must fail.
func refusal(p *platform, path string, in any) (int, string) {
	p.t.Helper()
	err := p.api.JSON(p.t.Context(), http.MethodPost, path, nil, in, nil)
	var e *client.Error
	if !errors.As(err, &e) {
		p.t.Fatalf("POST %s = %v, want a refusal", path, err)
	}
	return e.Status, err.Error()
}

// ownBucket makes a bucket of the test, which is none of Panal's.
func ownBucket(t *testing.T) (s3 *minio.Client, endpoint, bucket string) {
	t.Helper()
	where, err := url.Parse(bucketURL(t))
	if err != nil {
		t.Fatal(err)
	}
	endpoint = where.Query().Get("endpoint")
	s3, err = minio.New(strings.TrimPrefix(endpoint, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(os.Getenv("PANAL_S3_ACCESS_KEY"), os.Getenv("PANAL_S3_SECRET_KEY"), ""), BucketLookup: minio.BucketLookupPath,
	})
	if err != nil {
		t.Fatal(err)
	}
	bucket = "t-" + strings.ToLower(rand.Text())
	if err := s3.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	return s3, endpoint, bucket
}

// linkedBucket tells of changes by posting them, or by a queue.
func linkedBucket(t *testing.T, q *queue, engine ...string) {
	s3, endpoint, bucket := ownBucket(t)
	put := func(key, body string) {
		t.Helper()
		if _, err := s3.PutObject(t.Context(), bucket, key, strings.NewReader(body), int64(len(body)),
			minio.PutObjectOptions{ContentType: "text/plain", UserMetadata: map[string]string{"Label": "cat"}}); err != nil {
			t.Fatal(err)
		}
	}
	put("in/there before.txt", "old")
	put("out/not ours.txt", "x")

	engine = append(engine, "--link-endpoint", endpoint)
	if q != nil {
		engine = append(engine, "--link-endpoint", q.endpoint)
	}
	p := startPlatform(t, engine...)
	channels := client.Path("organizations", p.api.Org, "channels")
	ch := p.call(http.MethodPost, channels, map[string]any{"name": "linked"})["channel"].(map[string]any)["channel_id"].(string)
	link := client.Path("organizations", p.api.Org, "channels", ch, "link")
	ask := map[string]any{
		"endpoint": endpoint, "bucket": bucket, "prefix": "in/",
		"access_key": os.Getenv("PANAL_S3_ACCESS_KEY"), "secret_key": os.Getenv("PANAL_S3_SECRET_KEY"),
	}
	// What is wrong is told before anything is linked, by the field's name.
	for field, value := range map[string]string{"bucket": "no-such-bucket", "secret_key": "wrong"} {
		bad := maps.Clone(ask)
		bad[field] = value
		if status, body := refusal(p, link, bad); status != http.StatusBadRequest || !strings.Contains(body, strings.Replace(field, "secret", "access", 1)) {
			t.Errorf("a link with a bad %s = %d %s", field, status, body)
		}
	}
	if q != nil {
		for _, bad := range []string{q.url + "-not", "http://169.254.169.254/1/q", "nothing"} {
			ask["queue_url"] = bad
			if status, body := refusal(p, link, ask); status != http.StatusBadRequest && status != http.StatusForbidden {
				t.Errorf("a link with the queue %s = %d %s", bad, status, body)
			}
		}
		ask["queue_url"], ask["queue_access_key"], ask["queue_secret_key"] = q.url, "queuekey", "queuesecret"
	}
	made := p.call(http.MethodPost, link, ask)
	secret, _ := made["feed_secret"].(string)
	feedURL, _ := made["feed_url"].(string)
	if q == nil && (secret == "" || !strings.HasSuffix(feedURL, "/feeds/"+ch+"/s3")) || q != nil && (secret+feedURL != "" || made["queue_url"] != q.url) {
		t.Fatalf("link = %v", made)
	}

	if q != nil {
		feedURL = "http://" + p.listen + "/feeds/" + ch + "/s3"
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
		if q != nil {
			q.send(event(name, key))
		} else if status := post("Bearer "+secret, event(name, key)); status != http.StatusOK {
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
	if q != nil {
		q.send(`{"Service":"Amazon S3","Event":"s3:TestEvent","Time":"2026-11-26T00:00:00.000Z","Bucket":"` + bucket + `"}`) // as S3 does when it is told of the queue
		q.send("{broken")
	} else if status := post("Bearer "+secret, "{broken"); status != http.StatusOK {
		t.Errorf("broken = %d, want 200: it is durable, and a dead letter later", status)
	}
	if q != nil {
		if status := post("Bearer x", "{}"); status != http.StatusUnauthorized && status != http.StatusNotFound {
			t.Errorf("posting to a link with a queue = %d", status)
		}
	} else if status := post("Bearer "+secret+"x", event("ObjectCreated:Put", "in/x")); status != http.StatusUnauthorized {
		t.Errorf("a wrong secret = %d, want 401", status)
	}
	if q != nil {
		// Gone from the queue, too: what is dead is acknowledged.
		wait("the empty queue", func() bool { return p.call(http.MethodGet, link, nil)["waiting"] == 0.0 })
	} else if status := post("Bearer "+secret, strings.Repeat("x", 1<<20+1)); status != http.StatusRequestEntityTooLarge {
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

	// Unlinked: an ordinary empty channel, whoever dies right after; the bucket keeps everything.
	old := files("file_id:*")[0]
	if dry := p.call(http.MethodDelete, link+"?dry_run=true", nil); dry["files"] != 3.0 || dry["bucket"] != bucket || dry["unlinked"] != false {
		t.Errorf("dry run = %v", dry)
	}
	if n := len(files("file_id:*")); n != 3 {
		t.Errorf("a dry run left %d files", n)
	}
	if done := p.call(http.MethodDelete, link, nil); done["files"] != 3.0 || done["unlinked"] != true {
		t.Errorf("unlinked = %v", done)
	}
	p.kill()
	p.start()
	if n, c := len(files("file_id:*")), p.call(http.MethodGet, client.Path("channels", ch, "count"), nil)["count"]; n != 0 || c != 0.0 {
		t.Errorf("%d files, %v counted after unlinking", n, c)
	}
	if status, _ := download(old); status != http.StatusNotFound {
		t.Errorf("download after unlinking = %d", status)
	}
	if q == nil {
		if status := post("Bearer "+secret, event("ObjectCreated:Put", "in/x")); status != http.StatusUnauthorized {
			t.Errorf("posting to an unlinked channel = %d", status)
		}
	}
	if err := p.api.JSON(t.Context(), http.MethodDelete, link, nil, nil, nil); err == nil || !strings.Contains(err.Error(), "not found") && !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("unlinking again = %v", err)
	}
	rows, _ := p.call(http.MethodGet, client.Path("organizations", p.api.Org, "audit")+"?operation=unlink-channel", nil)["rows"].([]any)
	if len(rows) == 0 {
		t.Error("no audit row of unlinking")
	}
	own, err := p.put(ch, "own.bin", []byte("own"), false)
	if err != nil {
		t.Fatal(err)
	}
	if status, body := refusal(p, link, ask); status != http.StatusConflict {
		t.Errorf("linking a channel with a file = %d %s", status, body)
	}
	p.call(http.MethodDelete, client.Path("channels", ch, own), nil)
	again := p.call(http.MethodPost, link, ask)
	if q == nil && (again["feed_secret"] == secret || again["feed_secret"] == "") {
		t.Error("the next link has the secret of the one before")
	}
	wait("the import by the next link", func() bool { return len(files("file_id:*")) == 3 })
	for _, f := range files("file_id:*") {
		if f.(map[string]any)["file_id"] == old.(map[string]any)["file_id"] {
			t.Error("a file of the link before is back")
		}
	}
}

// TestLinkedVersionedBucket: in a bucket with versions a file is one version of an object: it
// stays readable until the index knows that another took its place, and never has other bytes.
func TestLinkedVersionedBucket(t *testing.T) {
	s3, endpoint, bucket := ownBucket(t)
	// The server of the tests takes a version from before versions for the newest once
	// any is deleted for good: that has a key of its own.
	key := "in/before.txt"
	put := func(body string) string {
		t.Helper()
		o, err := s3.PutObject(t.Context(), bucket, key, strings.NewReader(body), int64(len(body)), minio.PutObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return o.VersionID
	}
	remove := func(version string) {
		t.Helper()
		if err := s3.RemoveObject(t.Context(), bucket, key, minio.RemoveObjectOptions{VersionID: version}); err != nil {
			t.Fatal(err)
		}
	}
	put("before versions")
	if err := s3.EnableVersioning(t.Context(), bucket); err != nil {
		t.Fatal(err)
	}
	p := startPlatform(t, "--link-endpoint", endpoint)
	c, err := p.api.CreateChannel(t.Context(), "linked", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.api.LinkChannel(t.Context(), c.ID, client.NewLink{
		Endpoint: endpoint, Bucket: bucket, Prefix: "in/", Feed: "none", AccessKey: os.Getenv("PANAL_S3_ACCESS_KEY"), SecretKey: os.Getenv("PANAL_S3_SECRET_KEY"),
	}); err != nil {
		t.Fatal(err)
	}
	p.until("the import", time.Minute, func() bool {
		l, err := p.api.Link(t.Context(), c.ID)
		return err == nil && l.ImportedAt != nil
	})
	file := func() (out client.File) {
		t.Helper()
		n := 0
		if err := p.api.Files(t.Context(), c.ID, "", false, 10, func(f client.File) error { out, n = f, n+1; return nil }); err != nil || n > 1 {
			t.Fatalf("%d files, %v", n, err)
		}
		return out
	}
	// The index hears of a change here and nowhere else.
	look := func() client.File {
		t.Helper()
		if v, err := p.api.VerifyChannel(t.Context(), c.ID, false, true); err != nil || v.Left != 0 {
			t.Fatalf("verify: %+v, %v", v, err)
		}
		return file()
	}
	reads := func(what string, f client.File, want string) {
		t.Helper()
		res, err := http.Get(f.DownloadURI)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		got, err := io.ReadAll(res.Body)
		switch {
		case err != nil:
			t.Fatal(err)
		case want == "" && res.StatusCode != http.StatusNotFound:
			t.Errorf("%s: %d %q, want 404", what, res.StatusCode, got)
		case want != "" && (res.StatusCode != http.StatusOK || string(got) != want):
			t.Errorf("%s: %d %q, want %q", what, res.StatusCode, got, want)
		}
	}
	others := func(fs ...client.File) {
		t.Helper()
		seen := map[string]bool{}
		for _, f := range fs {
			if f.ID == "" || seen[f.ID] {
				t.Errorf("no file of its own: %+v", fs)
			}
			seen[f.ID] = true
		}
	}

	zero := file()
	reads("from before versions", zero, "before versions")
	put("after")
	zero1 := look()
	others(zero, zero1)
	reads("from before versions, overwritten", zero, "")
	reads("its first version", zero1, "after")
	remove("")
	if f := look(); f.ID != "" {
		t.Errorf("behind its delete marker: %+v", f)
	}

	key = "in/a.txt"
	v1 := put("one")
	one := look()
	reads("version 1", one, "one")

	v2 := put("two, longer")
	reads("version 1, overwritten and not heard of", one, "one")
	two := look()
	others(one, two)
	reads("version 2", two, "two, longer")
	reads("version 1, whose id is gone", one, "")

	remove("") // a delete marker
	reads("version 2 behind a marker that was not heard of", two, "two, longer")
	if f := look(); f.ID != "" {
		t.Errorf("behind a delete marker: %+v", f)
	}
	reads("version 2 behind a marker", two, "")

	v3 := put("three")
	three := look()
	reads("version 3", three, "three")
	remove(v3) // for good: what is newest then is the marker
	reads("version 3, deleted for good and not heard of", three, "")
	if f := look(); f.ID != "" {
		t.Errorf("after version 3: %+v", f)
	}
	for o := range s3.ListObjects(t.Context(), bucket, minio.ListObjectsOptions{Prefix: key, Recursive: true, WithVersions: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		if o.IsDeleteMarker {
			remove(o.VersionID)
		}
	}
	back := look() // without the marker version 2 is the object again, as another file
	others(one, two, three, back)
	reads("version 2 again", back, "two, longer")
	remove(v2)
	reads("version 2, deleted for good", back, "")
	last := look()
	others(back, last)
	reads("version 1 again", last, "one")
	if v1 == "" || v1 == v2 {
		t.Errorf("versions %q, %q", v1, v2)
	}
}
