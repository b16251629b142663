// SPDX-License-Identifier: Apache-2.0

package dirblob_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"panal/internal/blob"
	"panal/internal/blob/dirblob"
	"panal/internal/blob/dirblob/crashfs"
	"panal/internal/plat"
)

// dropAll is the disk that kept nothing it was not made to.
func dropAll(int) int { return 0 }

// TestAnswersAfterAKillSurviveAPowerCut: a process is killed in the middle of a
// change, the next one finds the change made and answers by it. What it answers
// must hold, although it was the first one that should have synced.
func TestAnswersAfterAKillSurviveAPowerCut(t *testing.T) {
	const key = "a/b"
	put := func(d *dirblob.Driver, opt blob.PutOptions) error {
		return d.Put(t.Context(), key, strings.NewReader("new"), -1, opt)
	}
	for _, c := range []struct {
		name      string
		there     bool
		killed    func(d *dirblob.Driver) error
		answered  func(d *dirblob.Driver) error
		wantThere func(err error) bool // by the answer
	}{
		{
			"a delete repeated", true,
			func(d *dirblob.Driver) error { return d.Delete(t.Context(), key) },
			func(d *dirblob.Driver) error { return d.Delete(t.Context(), key) },
			func(error) bool { return false },
		},
		{
			"a conditional put repeated", false,
			func(d *dirblob.Driver) error { return put(d, blob.PutOptions{IfNoneMatch: true}) },
			func(d *dirblob.Driver) error { return put(d, blob.PutOptions{IfNoneMatch: true}) },
			func(error) bool { return true },
		},
		{
			"a put beside the one that made the directory", false,
			func(d *dirblob.Driver) error {
				return d.Put(t.Context(), "a/other", strings.NewReader("x"), -1, blob.PutOptions{})
			},
			func(d *dirblob.Driver) error { return put(d, blob.PutOptions{}) },
			func(error) bool { return true },
		},
	} {
		for step, killed := 0, true; killed; step++ {
			fsys := crashfs.New()
			d := open(t, fsys)
			if c.there {
				if err := put(d, blob.PutOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			fsys.CrashAt(step)
			killed = c.killed(d) != nil
			fsys.Revive()

			d = open(t, fsys)
			err := c.answered(d)
			if err != nil && !errors.Is(err, plat.ErrExists) {
				t.Fatalf("%s, killed at step %d: %v", c.name, step, err)
			}
			d = open(t, fsys.Crash(dropAll))
			if _, serr := d.Stat(t.Context(), key); (serr == nil) != c.wantThere(err) {
				t.Errorf("%s, killed at step %d: the answer was %v, after a power cut Stat = %v", c.name, step, err, serr)
			}
		}
	}
}

// slowSync holds each sync of objects/ back after it was carried out.
type slowSync struct {
	*crashfs.FS
	mu      sync.Mutex
	syncs   int
	release chan struct{}
}

func (s *slowSync) SyncDir(name string) error {
	err := s.FS.SyncDir(name)
	if name == "objects" {
		s.mu.Lock()
		s.syncs++
		s.mu.Unlock()
		<-s.release
	}
	return err
}

// TestPutsShareSyncs: puts that come while a sync is under way wait for the next
// one, all for the same; one that has begun does not cover them.
func TestPutsShareSyncs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := &slowSync{FS: crashfs.New(), release: make(chan struct{})}
		d := open(t, fsys)
		var wg sync.WaitGroup
		start := func(key string) {
			wg.Go(func() {
				if err := putText(t, d, key, key); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		start("first")
		for i := range 10 {
			start(fmt.Sprint("later", i))
		}
		close(fsys.release)
		wg.Wait()
		if fsys.syncs != 2 {
			t.Errorf("%d syncs for 11 puts, want 2", fsys.syncs)
		}
		d = open(t, fsys.Crash(dropAll))
		mustRead(t, d, "first", "first")
		for i := range 10 {
			mustRead(t, d, fmt.Sprint("later", i), fmt.Sprint("later", i))
		}
	})
}
