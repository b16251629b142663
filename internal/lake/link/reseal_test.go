// SPDX-License-Identifier: Apache-2.0

package link_test

import (
	"context"
	"encoding/base64"
	"io"
	"path/filepath"
	"testing"
	"time"

	"panal/internal/feed"
	"panal/internal/feed/memfeed"
	"panal/internal/lake/link"
	"panal/internal/lake/link/linktest"
	"panal/internal/plat"
	"panal/internal/x/keyring"
)

// silent is a bucket with nothing in it.
type silent struct{}

func (silent) Look(context.Context, string) (link.Object, error) {
	return link.Object{}, plat.Errorf(plat.ErrNotFound, "no object")
}

func (silent) List(context.Context, string, string, int) ([]link.Object, bool, error) {
	return nil, false, nil
}

func (silent) Open(context.Context, link.Row, int64, int64) (io.ReadCloser, error) {
	return nil, plat.Errorf(plat.ErrNotFound, "no object")
}

// TestCredentialsFollowTheKeys: after a rotation they are sealed anew, so that the old
// key may go, and they are the same.
func TestCredentialsFollowTheKeys(t *testing.T) {
	ring, err := keyring.Open(filepath.Join(t.TempDir(), "secret.key"))
	if err != nil {
		t.Fatal(err)
	}
	store := linktest.NewMem(time.Now)
	m := link.NewManager(link.Options{
		Store: store, Seal: ring, Now: time.Now, Endpoints: []string{"http://s3.example", "http://sqs.example"},
		Queue: func(_, _, access, secret string, lease time.Duration) (feed.Source, error) {
			if access != "take" || secret != "it" {
				t.Errorf("the queue is opened by %s:%s", access, secret)
			}
			return memfeed.New(time.Now, lease), nil
		},
		Dial: func(link.Place, string, string) (link.Bucket, error) { return silent{}, nil },
	})
	for _, ch := range []plat.ChannelID{"1", "2"} {
		store.AddChannel(ch, false)
		in := link.NewLink{Org: "1", Channel: ch, Place: link.Place{Endpoint: "http://s3.example", Bucket: "photos"}, Feed: link.FeedNone}
		if ch == "1" { // the other one anybody may read
			in.AccessKey, in.SecretKey = "who", "what"
			in.Feed, in.Queue, in.QueueAccessKey, in.QueueSecretKey = link.FeedSQS, "http://sqs.example/1/q", "take", "it"
		}
		if _, _, err := m.Create(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	old := ring.Active()
	if n, err := m.Reseal(t.Context()); err != nil || n != 0 {
		t.Errorf("nothing to do: %d, %v", n, err)
	}
	if _, err := ring.Rotate(); err != nil {
		t.Fatal(err)
	}
	if n, err := m.Reseal(t.Context()); err != nil || n != 1 {
		t.Errorf("Reseal = %d, %v", n, err)
	}
	l, err := store.Link(t.Context(), "1")
	if err != nil || l.KeyOf() != ring.Active() || l.KeyOf() == old {
		t.Errorf("sealed with %s, %v; active is %s", l.KeyOf(), err, ring.Active())
	}
	if err := ring.Drop(old); err != nil {
		t.Fatal(err)
	}
	sealed, err := base64.StdEncoding.DecodeString(l.Place.Credentials)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := ring.Unseal(sealed, "link/1"); err != nil || string(text) != `["who","what","take","it"]` {
		t.Errorf("the credentials are %q, %v", text, err)
	}
}
