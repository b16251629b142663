// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"panal/internal/blob"
	"panal/internal/blob/memblob"
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

// §10.1, §10.6: where storage has URLs of its own, a file's are these, with the type as
// stored; they outlive neither an hour nor the file.
func TestWireStoragesOwnURLs(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	world := newWorld(t, withData(presigner{memblob.New()}, func() time.Time { return now }))
	w := &wire{world: world, as: "acme/developer", org: "/organizations/" + string(world.orgs["acme"].ID)}
	ch := w.channel()
	file := w.call("POST", "/channels/"+ch+"/upload?lifetime=1day", "x", "Content-Type", "text/plain; a=b+c")["file_id"].(string)
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
	// For less than a second storage has no URL: ours is exact.
	now = now.Add(59*time.Second + 500*time.Millisecond)
	f := w.call("GET", "/channels/"+ch+"/"+file, nil)
	if u, _ := f["download_uri"].(string); !strings.HasPrefix(u, w.srv.URL+"/blobs/") {
		t.Errorf("in the last second: %v", f)
	}
	now = now.Add(time.Second)
	w.refused("expired", 404, "GET", "/channels/"+ch+"/"+file, nil)
}
