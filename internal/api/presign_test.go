// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"panal/internal/blob"
	"panal/internal/blob/memblob"
	"panal/internal/lake"
	"panal/internal/lake/incoming"
	"panal/internal/plat"
	"panal/internal/sqlstore"
)

// presigner is a store whose URLs tell what was asked for.
type presigner struct{ blob.Driver }

func (presigner) PresignGet(_ context.Context, key, contentType string, expiry time.Duration) (string, error) {
	if expiry < time.Second {
		return "", nil
	}
	return fmt.Sprintf("https://storage.example/%s?type=%s&for=%s", key, url.QueryEscape(contentType), expiry), nil
}

func (presigner) PresignPut(context.Context, string, time.Duration) (string, error) {
	return "https://storage.example/put", nil
}

// straight is a presigner that copies: uploads go straight to it.
type straight struct {
	presigner
	blob.Copier
}

// §10.3: where storage has URLs of its own, a signed upload's is one of these, and the file is
// there as if its bytes had come here. Events of the storage are the secret's alone.
func TestWireSignedUploadByStoragesURL(t *testing.T) {
	d := memblob.New()
	world := newWorld(t, withData(straight{presigner{d}, d}, plat.SystemClock), func(w *world, _ *sqlstore.DB) {
		w.deps.Incoming = incoming.New(incoming.Options{
			Lake: w.deps.Lake, Bucket: "bucket", Prefix: "p/", Secret: "a secret of the storage", Now: plat.SystemClock, Log: slog.New(slog.DiscardHandler),
		})
	})
	w := &wire{world: world, as: "acme/developer", org: "/organizations/" + string(world.orgs["acme"].ID)}
	ch := w.channel()
	put := func(id, body string) string {
		key := lake.IncomingKey(world.orgs["acme"].ID, plat.ChannelID(ch), plat.FileID(id))
		if err := d.Put(t.Context(), key, strings.NewReader(body), int64(len(body)), blob.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		return `{"Records":[{"eventVersion":"2.1","eventName":"ObjectCreated:Put","s3":{"bucket":{"name":"bucket"},"object":{"key":"p/` + key + `"}}}]}`
	}
	p := w.call("POST", "/channels/"+ch, nil, "Content-Type", "image/jpeg", "x-abeja-meta-label_id", "7")
	w.hasKeys("promise", p, "file_id", "content_type", "lifetime", "uploaded_at", "metadata", "channel_id", "url_expires_on", "upload_url")
	if p["uploaded_at"] != nil || p["upload_url"] != "https://storage.example/put" {
		t.Errorf("promise %v", p)
	}
	id := p["file_id"].(string)
	w.refused("get before the PUT", 404, "GET", "/channels/"+ch+"/"+id, nil)
	put(id, "hello")
	f := w.call("GET", "/channels/"+ch+"/"+id, nil)
	if f["content_type"] != "image/jpeg" || f["metadata"].(obj)["x-abeja-meta-label_id"] != "7" || f["etag"] != md5Of("hello") || f["size"] != 5.0 {
		t.Errorf("file %v", f)
	}
	w.matches("uploaded_at", secOffset, f["uploaded_at"])
	w.objects(1)

	event := put(w.call("POST", "/channels/"+ch, nil)["file_id"].(string), "by an event")
	for secret, want := range map[string]int{"": 401, "Bearer wrong": 401, "Bearer": 401} {
		res, body := w.anonymous("POST", w.srv.URL+"/feeds/uploads/s3", strings.NewReader(event), "Authorization", secret)
		isError(t, "with the secret "+secret, res.StatusCode, body, want, "unauthorized")
	}
	if c := w.call("GET", "/channels/"+ch+"/count", nil)["count"]; c != 1.0 {
		t.Errorf("count = %v", c)
	}
	for _, secret := range []string{"Bearer a secret of the storage", "a secret of the storage"} {
		if res, body := w.anonymous("POST", w.srv.URL+"/feeds/uploads/s3", strings.NewReader(event), "Authorization", secret); res.StatusCode != 200 {
			t.Errorf("POST = %d %s", res.StatusCode, body)
		}
	}
	if c := w.call("GET", "/channels/"+ch+"/count", nil)["count"]; c != 2.0 {
		t.Errorf("count = %v", c)
	}
	res, body := w.anonymous("POST", w.srv.URL+"/feeds/uploads/s3", strings.NewReader("{"), "Authorization", "Bearer a secret of the storage")
	isError(t, "broken", res.StatusCode, body, 400, "bad_request")
}

// §10.1, §10.6: where storage has URLs of its own, a file's are these, with the type as
// stored; they outlive neither an hour nor the file.
func TestWireStoragesOwnURLs(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	world := newWorld(t, withData(presigner{memblob.New()}, func() time.Time { return now }))
	w := &wire{world: world, as: "acme/developer", org: "/organizations/" + string(world.orgs["acme"].ID)}
	ch, bucket := w.channel(), w.bucket()
	file := w.call("POST", "/channels/"+ch+"/upload?lifetime=1day", "x", "Content-Type", "text/plain; a=b+c")["file_id"].(string)
	w.put(bucket, "a/b.txt", "x")
	for _, c := range []struct {
		at   time.Duration // after the upload
		want string
		ends string
	}{
		{0, "&for=1h0m0s", "2026-03-01T13:00:00+00:00"},
		{23 * time.Hour, "&for=1h0m0s", "2026-03-02T12:00:00+00:00"},
		{23*time.Hour + 59*time.Minute, "&for=1m0s", "2026-03-02T12:00:00+00:00"},
	} {
		now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Add(c.at)
		for what, f := range map[string]obj{
			"get":  w.call("GET", "/channels/"+ch+"/"+file, nil),
			"list": w.call("GET", "/channels/"+ch, nil)["files"].([]any)[0].(obj),
		} {
			u, _ := f["download_uri"].(string)
			if !strings.HasPrefix(u, "https://storage.example/") || !strings.HasSuffix(u, "?type="+url.QueryEscape("text/plain; a=b+c")+c.want) ||
				f["download_url"] != u || f["url_expires_on"] != c.ends {
				t.Errorf("%s after %s: %v", what, c.at, f)
			}
		}
	}
	// With presign=false it is ours, which takes HEAD and has the file's ETag (§10.6).
	inBucket := w.org + "/buckets/" + bucket + "/files"
	for what, f := range map[string]obj{
		"get":         w.call("GET", "/channels/"+ch+"/"+file+"?presign=false", nil),
		"list":        w.call("GET", "/channels/"+ch+"?presign=false", nil)["files"].([]any)[0].(obj),
		"bucket get":  w.call("GET", inBucket+"/a/b.txt?presign=false", nil),
		"bucket list": w.call("GET", inBucket+"?target_dir=a&presign=false", nil)["files"].([]any)[0].(obj),
	} {
		u, _ := f["download_uri"].(string)
		if res, _ := w.anonymous("HEAD", u, nil); !strings.HasPrefix(u, w.srv.URL+"/blobs/") ||
			res.StatusCode != 200 || res.Header.Get("ETag") != `"`+f["etag"].(string)+`"` || res.Header.Get("Content-Length") != "1" {
			t.Errorf("%s with presign=false: %v; HEAD = %d %v", what, f, res.StatusCode, res.Header)
		}
	}
	for _, path := range []string{"/channels/" + ch + "/" + file, "/channels/" + ch, inBucket, inBucket + "/a/b.txt"} {
		if f := w.refused("neither", 400, "GET", path+"?presign=no", nil); !strings.Contains(fmt.Sprint(f), "presign") {
			t.Errorf("%s: %v", path, f)
		}
	}
	// For less than a second storage has no URL: ours is exact.
	now = now.Add(59*time.Second + 500*time.Millisecond)
	f := w.call("GET", "/channels/"+ch+"/"+file, nil)
	if u, _ := f["download_uri"].(string); !strings.HasPrefix(u, w.srv.URL+"/blobs/") {
		t.Errorf("in the last second: %v", f)
	}
	now = now.Add(time.Second)
	w.refused("expired", 404, "GET", "/channels/"+ch+"/"+file, nil)
}
