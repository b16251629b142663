// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"panal/internal/client"
)

// startQueue starts an SQS server of the test's own, which keeps its queues on disk, and makes
// a queue.
func startQueue(t *testing.T) (*engine, *queue) {
	t.Helper()
	tool, err := filepath.Abs("../.cache/tools/fauxqs")
	if err != nil {
		t.Fatal(err)
	}
	missing(t, tool)
	nodes, err := filepath.Glob(filepath.Join(tool, "node_modules/node-linux-*/bin/node"))
	if err != nil || len(nodes) == 0 {
		t.Fatalf("no node in %s: %v", tool, err)
	}
	dir, port := t.TempDir(), freePort(t)
	q := &queue{t: t, endpoint: "http://127.0.0.1:" + port}
	e := &engine{
		t: t, name: "the SQS server", log: filepath.Join(t.TempDir(), "sqs.log"),
		cmd: func() *exec.Cmd {
			cmd := exec.Command(nodes[0], filepath.Join(tool, "node_modules/fauxqs/dist/server.js"))
			cmd.Env = append(os.Environ(), "FAUXQS_PORT="+port, "FAUXQS_HOST=127.0.0.1", "FAUXQS_LOGGER=false", "FAUXQS_DATA_DIR="+dir, "FAUXQS_PERSISTENCE=true")
			return cmd
		},
		ready: func() error {
			res, err := http.Get(q.endpoint + "/health")
			if err != nil {
				return err
			}
			return res.Body.Close()
		},
	}
	t.Cleanup(e.kill)
	e.start()
	u, err := url.Parse(q.call("CreateQueue", map[string]any{"QueueName": "events"})["QueueUrl"].(string))
	if err != nil {
		t.Fatal(err)
	}
	q.url = q.endpoint + u.Path
	return e, q
}

// tool is another program that writes to the bucket, and the storage that tells the
// queue of it. What is not answered is tried again until it is: the object's last state
// is known when its worker has ended, and that its event was sent.
type tool struct {
	s3     *minio.Client
	q      *queue
	prefix string

	mu      sync.Mutex
	objects map[string]string // key → body; "": deleted
	ops     atomic.Int64
}

const foreignBucket = "foreign"

// work puts, overwrites and deletes keys of its own at random, a bounded number a second.
func (w *tool) work(until context.Context, worker int, random *rand.Rand, every time.Duration) {
	ctx := context.WithoutCancel(until)
	insist := func(do func() error) {
		for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			err := do()
			if err == nil {
				return
			}
			if time.Now().After(end) { // all that is killed is up again within seconds
				w.q.t.Errorf("worker %d: %v", worker, err)
				return
			}
		}
	}
	var events []string
	tell := func() {
		if len(events) == 0 {
			return
		}
		entries := make([]map[string]string, len(events))
		for i, e := range events {
			entries[i] = map[string]string{"Id": fmt.Sprint(i), "MessageBody": e}
		}
		insist(func() error {
			return w.q.post(ctx, "SendMessageBatch", map[string]any{"QueueUrl": w.q.url, "Entries": entries})
		})
		events = nil
	}
	for due := time.Now(); until.Err() == nil; due = due.Add(every) {
		time.Sleep(time.Until(due)) // what waited for an outage is made up for
		key := fmt.Sprintf("%s%d/object %d+é.txt", w.prefix, worker, random.IntN(100))
		body, name := fmt.Sprint(random.Uint64()), "ObjectCreated:Put"
		if random.IntN(5) == 0 {
			body, name = "", "ObjectRemoved:Delete"
		}
		insist(func() error {
			if body == "" {
				return w.s3.RemoveObject(ctx, foreignBucket, key, minio.RemoveObjectOptions{})
			}
			_, err := w.s3.PutObject(ctx, foreignBucket, key, strings.NewReader(body), int64(len(body)), minio.PutObjectOptions{UserMetadata: map[string]string{"Worker": fmt.Sprint(worker)}})
			return err
		})
		w.mu.Lock()
		w.objects[key] = body
		w.mu.Unlock()
		w.ops.Add(1)
		events = append(events, fmt.Sprintf(`{"Records":[{"eventVersion":"2.1","eventName":"%s","s3":{"bucket":{"name":"%s"},"object":{"key":"%s"}}}]}`,
			name, foreignBucket, url.QueryEscape(key)))
		if len(events) == 10 {
			tell()
		}
	}
	tell()
}

// post is call that returns its error.
func (q *queue) post(ctx context.Context, action string, in any) error {
	raw, err := json.Marshal(in)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, q.endpoint, strings.NewReader(string(raw)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.0")
	req.Header.Set("X-Amz-Target", "AmazonSQS."+action)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s %w", action, res.Status, err)
	}
	return nil
}

// TestLinkTorture kills Panal, PostgreSQL, the S3 server and the SQS server at random moments
// while another tool puts, overwrites and deletes objects and the storage tells the
// queue. In the end the channel has exactly the bucket's objects, each once, with its
// last bytes. PANAL_TORTURE_KILLS and PANAL_TORTURE_SEED as for TestTorture;
// PANAL_TORTURE_RATE is how many changes a second are asked of the storage (500), and with
// PANAL_TORTURE_FOR (a duration) kills go on for that long instead of by number.
func TestLinkTorture(t *testing.T) {
	kills, seed := tortureSize(t)
	rate, length := 500, time.Duration(0)
	var err error
	if v := os.Getenv("PANAL_TORTURE_RATE"); v != "" {
		if rate, err = strconv.Atoi(v); err != nil || rate < 1 {
			t.Fatal("PANAL_TORTURE_RATE", v, err)
		}
	}
	if v := os.Getenv("PANAL_TORTURE_FOR"); v != "" {
		if length, err = time.ParseDuration(v); err != nil {
			t.Fatal("PANAL_TORTURE_FOR", v, err)
		}
	}
	database, dsn := startPostgres(t)
	storage, where, dir := startBucket(t)
	sqs, q := startQueue(t)
	at, err := url.Parse(where)
	if err != nil {
		t.Fatal(err)
	}
	endpoint := at.Query().Get("endpoint")
	if err := os.MkdirAll(filepath.Join(filepath.Dir(dir), foreignBucket), 0o700); err != nil {
		t.Fatal(err)
	}
	s3, err := minio.New(strings.TrimPrefix(endpoint, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(os.Getenv("PANAL_S3_ACCESS_KEY"), os.Getenv("PANAL_S3_SECRET_KEY"), ""), BucketLookup: minio.BucketLookupPath,
		MaxRetries: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	p := startPlatform(t, "--database", dsn, "--link-endpoint", endpoint, "--link-endpoint", q.endpoint)
	ch, err := p.api.CreateChannel(t.Context(), "linked", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.api.LinkChannel(t.Context(), ch.ID, client.NewLink{
		Endpoint: endpoint, Bucket: foreignBucket, Prefix: "in/", AccessKey: os.Getenv("PANAL_S3_ACCESS_KEY"), SecretKey: os.Getenv("PANAL_S3_SECRET_KEY"), QueueURL: q.url,
	}); err != nil {
		t.Fatal(err)
	}

	w := &tool{s3: s3, q: q, prefix: "in/", objects: map[string]string{}}
	ctx, stop := context.WithCancel(t.Context())
	// A worker waits for each of its answers: enough of them for the rate at a slow moment.
	workers := max(8, rate/20)
	var all sync.WaitGroup
	for i := range workers {
		all.Go(func() {
			w.work(ctx, i, rand.New(rand.NewPCG(seed, uint64(i))), time.Duration(workers)*time.Second/time.Duration(rate))
		})
	}
	begun := time.Now()
	v := &victims{platform: p, engines: []*engine{database, storage, sqs}}
	random := rand.New(rand.NewPCG(seed, 99))
	killed := 0
	for i := 0; length == 0 && i < max(kills, 4) || time.Since(begun) < length; i++ { // each at least once
		killed++
		time.Sleep(time.Duration(500+random.IntN(2000)) * time.Millisecond)
		v.killSomething(i, random)
	}
	time.Sleep(time.Second)
	stop()
	all.Wait()
	t.Logf("%d changes in %.0f s (%.0f/s), %d kills", w.ops.Load(), time.Since(begun).Seconds(), float64(w.ops.Load())/time.Since(begun).Seconds(), killed)

	// Nothing lost, nothing doubled. The storage is asked, not only what the tool remembers.
	want := map[string]string{}
	for o := range s3.ListObjects(t.Context(), foreignBucket, minio.ListObjectsOptions{Prefix: "in/", Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		want[o.Key] = strings.Trim(o.ETag, `"`)
	}
	for key, body := range w.objects {
		if _, ok := want[key]; ok != (body != "") {
			t.Errorf("the storage has %q: %v; what was answered says otherwise", key, ok)
		}
	}
	var got map[string]string
	var files map[string]client.File
	difference := func() string {
		got, files = map[string]string{}, map[string]client.File{}
		twice := ""
		if err := p.api.Files(t.Context(), ch.ID, "", false, 500, func(f client.File) error {
			key := f.Meta()["s3-key"]
			if _, ok := got[key]; ok {
				twice = key
			}
			got[key], files[key] = f.Meta()["s3-etag"], f
			return nil
		}); err != nil {
			return err.Error()
		}
		switch n, err := p.api.CountFiles(t.Context(), ch.ID, ""); {
		case err != nil:
			return err.Error()
		case twice != "":
			return twice + " is there twice"
		case n != int64(len(want)) || !maps.Equal(got, want):
			return fmt.Sprintf("%d files, %d counted, %d objects", len(got), n, len(want))
		}
		return ""
	}
	diff := ""
	// What kills left in the queue is worked off as fast as the queue's server gives it: it
	// may take long, but not stand still.
	least := int64(math.MaxInt64)
	quiet := time.Now()
	for end := quiet.Add(2 * time.Minute); ; time.Sleep(time.Second) {
		l, err := p.api.Link(t.Context(), ch.ID)
		if err == nil && l.Waiting < least {
			least, end = l.Waiting, time.Now().Add(2*time.Minute)
		}
		if diff = difference(); diff == "" && err == nil && l.Waiting == 0 {
			if l.Dead != 0 {
				t.Errorf("%d dead letters", l.Dead)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the channel is not the bucket: %s; link %+v, %v", diff, l, err)
		}
	}
	t.Logf("in step %.0f s later", time.Since(quiet).Seconds())
	checked := 0
	for key, f := range files {
		if checked++; checked > 50 {
			break
		}
		rc, err := p.api.Download(t.Context(), ch.ID, f)
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		body, err := io.ReadAll(rc)
		if _ = rc.Close(); err != nil || string(body) != w.objects[key] {
			t.Errorf("%s is %q, %v; want %q", key, body, err, w.objects[key])
		}
	}
	if v, err := p.api.VerifyChannel(t.Context(), ch.ID, false, false); err != nil || v.Left != 0 {
		t.Errorf("verify: %+v, %v", v, err)
	}
}
