// SPDX-License-Identifier: Apache-2.0

package lake_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"panal/internal/blob/faultblob"
	"panal/internal/lake"
	"panal/internal/lake/pagequery"
	"panal/internal/plat"
	"panal/internal/x/quota"
)

func (b *bench) bucket() plat.ChannelID {
	b.Helper()
	c, err := b.CreateBucket(b.Context(), org, lake.NewChannel{Name: "b"})
	if err != nil {
		b.Fatal(err)
	}
	return c.ID
}

func (b *bench) putAt(bucket plat.ChannelID, path, body string) error {
	_, err := b.PutBucketFile(b.Context(), lake.BucketUpload{Org: org, Bucket: bucket, Path: path, Body: strings.NewReader(body), Size: -1})
	return err
}

// count asserts how many objects the storage holds.
func (b *bench) count(want int) {
	b.Helper()
	infos, _, err := b.blobs.List(b.Context(), "", "", 1000)
	if err != nil || len(infos) != want {
		b.Errorf("%d objects, want %d (%v)", len(infos), want, err)
	}
}

// The bytes of what was replaced are gone; what the storage keeps, the collector takes.
func TestBucketOverwriteReturnsTheBytes(t *testing.T) {
	b := newBench(t)
	id := b.bucket()
	for _, body := range []string{"one", "two", "three"} {
		if err := b.putAt(id, "a/b", body); err != nil {
			t.Fatal(err)
		}
	}
	b.count(1)
	b.faults.SetScript(faultblob.Fault{Op: faultblob.OpDelete, Err: plat.ErrUnavailable})
	if err := b.putAt(id, "a/b", "four"); err != nil {
		t.Errorf("the storage keeps what was replaced: %v", err)
	}
	b.faults.SetScript()
	b.count(2)
	b.now = b.now.Add(lake.Grace + time.Hour)
	if n, err := b.Collect(t.Context(), lake.Grace); n != 1 || err != nil {
		t.Errorf("collected %d, %v", n, err)
	}
	b.count(1)
	if u, err := b.OrgUsage(t.Context(), org); err != nil || u != (lake.Usage{Files: 1, Bytes: 4}) {
		t.Errorf("usage %+v, %v", u, err)
	}
}

// What comes behind the bytes may refuse them: nothing is left then, and what was there
// stays.
func TestBucketUploadRefusedBehindItsBytes(t *testing.T) {
	b := newBench(t)
	id := b.bucket()
	if err := b.putAt(id, "k", "old"); err != nil {
		t.Fatal(err)
	}
	late := errors.New("too late")
	_, err := b.PutBucketFile(t.Context(), lake.BucketUpload{
		Org: org, Bucket: id, Path: "k", Body: strings.NewReader("new"), Size: 3, After: func() (string, error) { return "", late },
	})
	if !errors.Is(err, late) {
		t.Errorf("refused: %v", err)
	}
	if err := b.putAt(id, "../k", "x"); !errors.Is(err, plat.ErrInvalid) {
		t.Errorf("a bad key: %v", err)
	}
	if err := b.putAt(b.channel, "k", "x"); !errors.Is(err, plat.ErrNotFound) {
		t.Errorf("a channel: %v", err)
	}
	b.count(1)
}

// Buckets count in the quota, by what they hold after an overwrite.
func TestBucketQuota(t *testing.T) {
	b := newBench(t)
	id := b.bucket()
	b.LimitBy(quota.New(func() time.Time { return b.now }, func(context.Context, plat.OrgID) (int64, error) { return 10, nil },
		func(ctx context.Context, o plat.OrgID) (int64, error) {
			u, err := b.OrgUsage(ctx, o)
			return u.Bytes, err
		}))
	for range 5 { // 4 bytes each, one file
		if err := b.putAt(id, "k", "1234"); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.putAt(id, "l", "1234567"); !errors.Is(err, plat.ErrExhausted) {
		t.Errorf("over the quota: %v", err)
	}
	b.count(1)
}

// Purge and DeleteBucket leave nothing, of a bucket as of a channel; archived ones too.
func TestBucketPurge(t *testing.T) {
	b := newBench(t)
	for range 2 {
		id := b.bucket()
		if err := b.putAt(id, "a/b", "x"); err != nil {
			t.Fatal(err)
		}
	}
	yes := true
	id := b.bucket()
	if err := b.putAt(id, "c", "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.UpdateBucket(t.Context(), org, id, lake.ChannelChange{Archived: &yes}); err != nil {
		t.Fatal(err)
	}
	if err := b.putAt(id, "d", "x"); !errors.Is(err, plat.ErrForbidden) || !strings.Contains(err.Error(), "bucket") {
		t.Errorf("an archived bucket: %v", err)
	}
	if _, err := b.put("x", nil); err != nil {
		t.Fatal(err)
	}
	if err := b.Purge(t.Context(), org); err != nil {
		t.Fatal(err)
	}
	b.count(0)
	if u, err := b.OrgUsage(t.Context(), org); err != nil || u != (lake.Usage{}) {
		t.Errorf("usage %+v, %v", u, err)
	}
	for _, list := range []func(context.Context, plat.OrgID, lake.ChannelPage) ([]lake.Channel, bool, error){b.Channels, b.Buckets} {
		if all, _, err := list(t.Context(), org, lake.ChannelPage{IncludeArchived: true, Limit: 10}); err != nil || len(all) != 0 {
			t.Errorf("left: %v, %v", all, err)
		}
	}
}

// A download under way is of one file: to overwrite it does not mix in other bytes.
func TestBucketDownloadWhileOverwritten(t *testing.T) {
	b := newBench(t)
	id := b.bucket()
	if err := b.putAt(id, "k", "first"); err != nil {
		t.Fatal(err)
	}
	f, err := b.BucketFile(t.Context(), org, id, "k")
	if err != nil {
		t.Fatal(err)
	}
	rc, _, err := b.blobs.Open(t.Context(), lake.BlobKey(org, id, f.ID), 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rc.Close() }()
	if err := b.putAt(id, "k", "other"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(rc); err != nil || string(got) != "first" {
		t.Errorf("%q, %v", got, err)
	}
}

// A query is evaluated page by page, and the pages it takes nothing of are passed by.
func TestBucketEntriesOfAQuery(t *testing.T) {
	b := newBench(t)
	id := b.bucket()
	for _, k := range []string{"a", "b", "c", "d", "e/f"} {
		if err := b.putAt(id, k, strings.Repeat("x", int(k[0]-'a'))); err != nil {
			t.Fatal(err)
		}
	}
	q, err := pagequery.Parse("Contents[?Size == `3`]")
	if err != nil {
		t.Fatal(err)
	}
	d := lake.Directory{Bucket: id, Limit: 1}
	page, last, err := b.BucketEntries(t.Context(), org, d, q)
	if err != nil || len(page) != 1 || page[0].Path != "d" || last != "d" {
		t.Errorf("%v, %q, %v", page, last, err)
	}
	d.After = last
	if page, _, err := b.BucketEntries(t.Context(), org, d, q); err != nil || len(page) != 0 {
		t.Errorf("the end: %v, %v", page, err)
	}
}
