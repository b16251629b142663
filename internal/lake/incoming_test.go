// SPDX-License-Identifier: Apache-2.0

package lake_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"panal/internal/blob"
	"panal/internal/blob/memblob"
	"panal/internal/lake"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
	"panal/internal/x/quota"
)

// steps numbers what changes storage or database while bodies are taken in. At one of
// them the process "dies": the call fails, done or not done, and so does all that follows.
type steps struct {
	n, dieAt atomic.Int64 // dieAt 0: never
	done     bool         // the step was done, and nobody heard
}

var errDead = errors.New("the process is dead")

func (s *steps) do(f func() error) error {
	n, at := s.n.Add(1), s.dieAt.Load()
	switch {
	case at == 0 || n < at:
		return f()
	case n == at && s.done:
		_ = f()
	}
	return errDead
}

// bucket is a storage to which clients put bodies by its own URLs.
type bucket struct {
	*memblob.Driver
	steps *steps
	// copying runs before each copy.
	copying func()
}

func (b *bucket) PresignGet(context.Context, string, string, time.Duration) (string, error) {
	return "", nil
}

func (b *bucket) PresignPut(_ context.Context, key string, _ time.Duration) (string, error) {
	return "https://storage.example/" + key, nil
}

func (b *bucket) Copy(ctx context.Context, from blob.Info, tag, to, typ string) (sum string, err error) {
	if b.copying != nil {
		b.copying()
	}
	err = b.steps.do(func() error {
		sum, err = b.Driver.Copy(ctx, from, tag, to, typ)
		return err
	})
	return sum, err
}

func (b *bucket) Delete(ctx context.Context, key string) error {
	return b.steps.do(func() error { return b.Driver.Delete(ctx, key) })
}

// stepStore is an index whose changes are steps.
type stepStore struct {
	lake.Store
	steps *steps
}

func (s stepStore) Commit(ctx context.Context, files []lake.NewFile) (out []lake.Outcome, err error) {
	err = s.steps.do(func() error { out, err = s.Store.Commit(ctx, files); return err })
	return out, err
}

func (s stepStore) BindPending(ctx context.Context, all []lake.Arrival) (out []*lake.Pending, err error) {
	err = s.steps.do(func() error { out, err = s.Store.BindPending(ctx, all); return err })
	return out, err
}

func (s stepStore) RefusePending(ctx context.Context, c plat.ChannelID, id plat.FileID, why string) (did bool, err error) {
	err = s.steps.do(func() error { did, err = s.Store.RefusePending(ctx, c, id, why); return err })
	return did, err
}

// straight is a lake over such a storage, and others on the same database and storage.
type straight struct {
	*bench
	bucket *bucket
	index  lake.Store
	limit  int64
	served error
}

func newStraight(t *testing.T) *straight {
	t.Helper()
	return newStraightOn(t, sqlstoretest.SQLite(t))
}

// newStraightOn has a storage and a channel of its own; opening a database takes longer than a test.
func newStraightOn(t *testing.T, db *sqlstore.DB) *straight {
	t.Helper()
	s := &straight{bench: &bench{T: t, now: plat.SystemClock()}, bucket: &bucket{Driver: memblob.New(), steps: &steps{}}}
	s.index = sqlstore.NewLake(db, s.clock)
	s.blobs = blob.New(s.bucket)
	s.Service = s.process(s.bucket.steps)
	c, err := s.CreateChannel(t.Context(), org, lake.NewChannel{Name: "c"})
	if err != nil {
		t.Fatal(err)
	}
	s.channel = c.ID
	return s
}

func (s *straight) clock() time.Time { return s.now }

// process is a server on the database and the storage.
func (s *straight) process(st *steps) *lake.Service {
	svc := lake.NewService(stepStore{s.index, st}, blob.New(&bucket{Driver: s.bucket.Driver, steps: st, copying: func() {
		if s.bucket.copying != nil {
			s.bucket.copying()
		}
	}}), s.clock)
	svc.LimitBy(quota.New(s.clock, func(context.Context, plat.OrgID) (int64, error) { return s.limit, nil },
		func(ctx context.Context, o plat.OrgID) (int64, error) {
			u, err := s.index.OrgUsage(ctx, o)
			return u.Bytes, err
		}))
	svc.ServeOnly(func(context.Context, plat.OrgID) error { return s.served })
	return svc
}

// ask asks for an upload's URL, and send puts a body by it.
func (s *straight) ask(meta lake.Metadata, target string) lake.Promised {
	s.Helper()
	p, err := s.Promise(s.Context(), lake.Upload{Org: org, Channel: s.channel, ContentType: "text/plain", Metadata: meta, ConflictTarget: target})
	if err != nil {
		s.Fatal(err)
	}
	if want := "https://storage.example/" + lake.IncomingKey(org, s.channel, p.File.ID); p.URL != want || !p.Straight {
		s.Fatalf("URL %s, want %s", p.URL, want)
	}
	return p
}

func (s *straight) send(p lake.Promised, body string) {
	s.Helper()
	key := strings.TrimPrefix(p.URL, "https://storage.example/")
	if err := s.bucket.Put(s.Context(), key, strings.NewReader(body), int64(len(body)), blob.PutOptions{}); err != nil {
		s.Fatal(err)
	}
}

func (s *straight) body(id plat.FileID) string {
	s.Helper()
	f, rc, err := s.Open(s.Context(), org, s.channel, id, 0, -1)
	if err != nil {
		s.Fatal(err)
	}
	defer func() { _ = rc.Close() }()
	got, err := io.ReadAll(rc)
	if err != nil || int64(len(got)) != f.Size {
		s.Fatalf("read %q, %v; the index says %d bytes", got, err, f.Size)
	}
	return string(got)
}

func (s *straight) takeAll() {
	s.Helper()
	if err := s.TakeAll(s.Context()); err != nil {
		s.Fatal(err)
	}
}

// A body that was put straight into the storage is a file with everything that was
// promised, and later ones by the same URL are nothing.
func TestStraightUpload(t *testing.T) {
	for _, way := range []string{"a listing", "an event", "whoever asks for the file"} {
		t.Run("found by "+way, func(t *testing.T) {
			s := newStraight(t)
			p := s.ask(lake.Metadata{"label": "cat"}, "")
			_, err := s.File(t.Context(), org, s.channel, p.File.ID)
			wantKind(t, "File before the PUT", err, plat.ErrNotFound)
			s.takeAll()
			s.has(0, 0)
			s.send(p, "hello")
			s.has(1, 0)
			switch way {
			case "a listing":
				s.takeAll()
				s.has(1, 1)
			case "an event":
				if err := s.Take(t.Context(), []string{"lake/other", "incoming/x", lake.IncomingKey(org, s.channel, p.File.ID)}); err != nil {
					t.Fatal(err)
				}
				s.has(1, 1)
			}
			f, err := s.File(t.Context(), org, s.channel, p.File.ID)
			if err != nil || f.Size != 5 || f.ETag != "5d41402abc4b2a76b9719d911017c592" || f.ContentType != "text/plain" || f.Metadata["label"] != "cat" {
				t.Fatalf("%+v, %v", f, err)
			}
			s.has(1, 1)
			s.send(p, "others")
			s.takeAll()
			s.has(1, 1)
			if got := s.body(p.File.ID); got != "hello" {
				t.Errorf("after another PUT: %q", got)
			}
			if _, err := s.Fulfil(t.Context(), s.channel, p.File.ID, strings.NewReader("x"), 1); !errors.Is(err, plat.ErrConflict) {
				t.Errorf("Fulfil = %v", err)
			}
			if taken, refused := s.Intake().Figures(); taken != 1 || refused != 0 {
				t.Errorf("figures %d, %d", taken, refused)
			}
		})
	}
}

func wantKind(t *testing.T, what string, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s = %v, want %v", what, err, kind)
	}
}

// What is refused is gone, stays refused, and whoever asks for the file is told why.
func TestStraightUploadRefused(t *testing.T) {
	archive := func(s *straight) {
		yes := true
		if _, err := s.UpdateChannel(s.Context(), org, s.channel, lake.ChannelChange{Archived: &yes}); err != nil {
			s.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		before func(s *straight)
		undo   func(s *straight)
		why    string
	}{
		"over quota": {func(s *straight) { s.limit = 4 }, func(s *straight) { s.limit = 0 }, "quota of 4 bytes"},
		"archived":   {archive, func(*straight) {}, "is archived"},
		"suspended": {
			func(s *straight) { s.served = plat.Errorf(plat.ErrForbidden, "organization acme is suspended") },
			func(s *straight) { s.served = nil }, "is suspended",
		},
		"conflict target": {func(s *straight) {
			f := lake.NewFile{File: lake.File{ID: plat.NewFileID(s.now), Channel: s.channel, Metadata: lake.Metadata{"name": "a"}}}
			if _, err := s.index.Commit(s.Context(), []lake.NewFile{f}); err != nil {
				s.Fatal(err)
			}
			s.now = s.now.Add(time.Second)
		}, func(*straight) {}, "name already exists"},
		"overwritten while it is taken in": {func(s *straight) {
			s.bucket.copying = sync.OnceFunc(func() {
				infos, _, _ := s.bucket.List(s.Context(), lake.IncomingPrefix, "", 2)
				_ = s.bucket.Put(s.Context(), infos[0].Key, strings.NewReader("other"), 5, blob.PutOptions{})
			})
		}, func(*straight) {}, "another body came"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStraight(t)
			p := s.ask(lake.Metadata{"name": "a"}, "name")
			s.send(p, "hello")
			c.before(s)
			n, err := s.Count(t.Context(), org, lake.Filter{Channel: s.channel})
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				s.takeAll()
				s.has(0, n)
				_, err := s.File(t.Context(), org, s.channel, p.File.ID)
				wantKind(t, "File", err, plat.ErrNotFound)
				if err == nil || !strings.Contains(err.Error(), c.why) {
					t.Errorf("File = %v, want why: %s", err, c.why)
				}
				c.undo(s) // refused once is refused
				s.send(p, "hello")
			}
			s.takeAll()
			if taken, refused := s.Intake().Figures(); taken != 0 || refused != 1 {
				t.Errorf("figures %d, %d", taken, refused)
			}
			s.now = s.now.Add(lake.PendingLife + lake.Grace + time.Minute)
			if _, err := s.Reap(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, err = s.index.Pending(t.Context(), s.channel, p.File.ID)
			wantKind(t, "the promise after its time", err, plat.ErrNotFound)
		})
	}
	t.Run("full when it is asked for", func(t *testing.T) {
		s := newStraight(t)
		s.send(s.ask(nil, ""), "hello")
		s.takeAll()
		s.limit, s.now = 5, s.now.Add(time.Minute)
		_, err := s.Promise(t.Context(), lake.Upload{Org: org, Channel: s.channel})
		wantKind(t, "Promise", err, plat.ErrExhausted)
	})
}

// A process that dies at any step, having done it or not, leaves nothing that the next one
// does not put right.
func TestStraightUploadCrash(t *testing.T) {
	db := sqlstoretest.SQLite(t)
	for _, refused := range []bool{false, true} {
		for _, done := range []bool{false, true} {
			for at := int64(1); ; at++ {
				s := newStraightOn(t, db)
				p := s.ask(nil, "")
				s.send(p, "hello")
				if refused {
					s.limit = 4
				}
				st := &steps{done: done}
				st.dieAt.Store(at)
				err := s.process(st).TakeAll(t.Context())
				if st.n.Load() < at {
					if err != nil || at < 4 {
						t.Fatalf("after %d steps: %v", st.n.Load(), err)
					}
					break // it had no more steps
				}
				s.takeAll()
				if refused {
					s.has(0, 0)
					continue
				}
				s.has(1, 1)
				if got := s.body(p.File.ID); got != "hello" {
					t.Errorf("died at step %d: %q", at, got)
				}
			}
		}
	}
}

// What nobody takes in is forgotten with its promise; what nobody was promised is deleted.
func TestStraightUploadGarbage(t *testing.T) {
	s := newStraight(t)
	p := s.ask(nil, "")
	s.now = s.now.Add(lake.PendingLife + lake.Grace + time.Minute)
	s.send(p, "late")
	if _, err := s.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.has(0, 0)
	s.send(p, "later")
	if _, err := s.Collect(t.Context(), lake.Grace); err != nil {
		t.Fatal(err)
	}
	s.has(0, 0)
	p = s.ask(nil, "")
	s.send(p, "of a channel that is deleted")
	if _, err := s.DeleteChannel(t.Context(), org, s.channel); err != nil {
		t.Fatal(err)
	}
	if infos, _, err := s.blobs.List(t.Context(), "", "", 10); err != nil || len(infos) != 0 {
		t.Errorf("left: %v, %v", infos, err)
	}
}

// A body whose copy takes long keeps no other waiting.
func TestStraightUploadBesideALongCopy(t *testing.T) {
	s := newStraight(t)
	long := s.ask(nil, "")
	s.send(long, "long")
	begun, release := make(chan struct{}), make(chan struct{})
	var copies atomic.Int64
	s.bucket.copying = func() {
		if copies.Add(1) == 1 {
			close(begun)
			<-release
		}
	}
	done := make(chan error)
	go func() { done <- s.TakeAll(t.Context()) }()
	<-begun
	s.send(s.ask(nil, ""), "short")
	s.takeAll()
	s.has(2, 1)
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	s.has(2, 2)
}

// However many take in, die and put at the same time: what was promised is one file whose bytes
// never change, or refused; and nothing else is left.
func TestStraightUploadProperty(t *testing.T) {
	db := sqlstoretest.SQLite(t)
	for range 25 {
		seed := rand.Uint64()
		if !t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { straightHistory(t, db, rand.New(rand.NewPCG(seed, 0))) }) {
			return
		}
	}
}

func straightHistory(t *testing.T, db *sqlstore.DB, rnd *rand.Rand) {
	s := newStraightOn(t, db)
	var promises []lake.Promised
	for range 4 {
		promises = append(promises, s.ask(nil, ""))
	}
	bodies := []string{"a", "bb", "ccc", ""}
	var wg sync.WaitGroup
	for _, p := range promises {
		s.send(p, bodies[rnd.IntN(len(bodies))])
		rest := make([]string, rnd.IntN(4))
		for i := range rest {
			rest[i] = bodies[rnd.IntN(len(bodies))]
		}
		wg.Go(func() {
			for _, b := range rest {
				key := lake.IncomingKey(org, s.channel, p.File.ID)
				_ = s.bucket.Put(t.Context(), key, strings.NewReader(b), int64(len(b)), blob.PutOptions{})
			}
		})
		wg.Go(func() { // a reader: bytes seen once are the bytes for ever
			first := ""
			for range 20 {
				f, rc, err := s.Open(t.Context(), org, s.channel, p.File.ID, 0, -1)
				if err != nil {
					continue
				}
				got, err := io.ReadAll(rc)
				_ = rc.Close()
				now := f.ETag + string(got)
				if err != nil || first != "" && now != first {
					t.Errorf("file %s: %q, then %q (%v)", f.ID, first, now, err)
				}
				first = now
			}
		})
	}
	for range 3 {
		st := &steps{done: rnd.IntN(2) == 0}
		st.dieAt.Store(rnd.Int64N(20)) // 0: lives
		svc := s.process(st)
		wg.Go(func() {
			for range 3 {
				_ = svc.TakeAll(t.Context())
			}
		})
	}
	wg.Wait()
	s.takeAll()
	files := 0
	for _, p := range promises {
		f, err := s.File(t.Context(), org, s.channel, p.File.ID)
		switch {
		case err == nil:
			files++
			if sum, err := s.blobs.Sum(t.Context(), lake.BlobKey(org, s.channel, f.ID)); err != nil || sum.ETag != f.ETag || sum.Size != f.Size {
				t.Errorf("the object is %+v, %v; the file says %s, %d", sum, err, f.ETag, f.Size)
			}
		case !strings.Contains(err.Error(), "another body came"):
			t.Errorf("neither a file nor refused: %v", err)
		}
	}
	// Copies that were under way when a promise was refused are garbage with no row.
	s.now = s.now.Add(2 * lake.Grace)
	if _, err := s.Collect(t.Context(), lake.Grace); err != nil {
		t.Fatal(err)
	}
	s.has(files, int64(files))
}
