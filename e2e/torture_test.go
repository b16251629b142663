// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"panal/internal/client"
)

// Variables of a longer run: make torture sets the first.
const (
	envKills = "PANAL_TORTURE_KILLS"
	envSeed  = "PANAL_TORTURE_SEED"
)

// TestTorture kills the server, and PostgreSQL and the S3 server where they are used, at
// random moments under uploads, metadata changes and deletions. Then every acknowledged
// file is there, byte for byte, listed, counted and found, as it was changed last; what
// was deleted is gone; nothing is visible that was never sent whole; the index, the
// storage and the journal agree; storage holds the bytes of the listed files and no
// others once the collector has run; and the index that is made again from storage alone
// says the same. While an engine is away the answers are 503 with Retry-After, and they
// end by themselves.
func TestTorture(t *testing.T) {
	kills, seed := tortureSize(t)
	t.Run("sqlite", func(t *testing.T) {
		p := startPlatform(t)
		torture(t, kills, seed, &victims{platform: p, blobs: filepath.Join(p.data, "blobs")})
	})
	t.Run("postgres", func(t *testing.T) {
		database, dsn := startPostgres(t)
		bucket, where, dir := startBucket(t)
		p := startPlatform(t, "--database", dsn, "--blob", where)
		torture(t, kills, seed, &victims{platform: p, engines: []*engine{database, bucket}, bucket: dir})
	})
}

// tortureSize returns how many kills there shall be, and the seed of what is random.
func tortureSize(t *testing.T) (kills int, seed uint64) {
	t.Helper()
	kills, seed = 3, uint64(time.Now().UnixNano())
	for name, to := range map[string]func(uint64){envKills: func(n uint64) { kills = int(n) }, envSeed: func(n uint64) { seed = n }} {
		if s := os.Getenv(name); s != "" {
			n, err := strconv.ParseUint(s, 10, 64)
			if err != nil {
				t.Fatal(name, err)
			}
			to(n)
		}
	}
	t.Logf("%d kills, %s=%d", kills, envSeed, seed)
	return kills, seed
}

// victims is what can be killed.
type victims struct {
	*platform
	engines []*engine // besides the server
	blobs   string    // the directory of files, or
	bucket  string    // that of the bucket
}

// killSomething kills one of all for a moment. The i-th of the first calls kills the
// i-th, so that even a short run meets each.
func (v *victims) killSomething(i int, random *rand.Rand) {
	v.t.Helper()
	if i > len(v.engines) {
		i = random.IntN(1 + len(v.engines))
	}
	if i == 0 {
		v.kill()
		v.start()
		return
	}
	e := v.engines[i-1]
	e.kill()
	time.Sleep(time.Duration(random.IntN(500)) * time.Millisecond)
	e.start()
}

// tortured is what the clients know: by file id, what was acknowledged.
type tortured struct {
	mu      sync.Mutex
	bodies  map[string]bool   // every body that was ever sent
	there   map[string]string // id → body
	tags    map[string]string // id → tag; absent: not known, as a change was not answered
	deleted map[string]bool
	done    int             // calls that were answered as asked
	wrong   map[string]bool // answers that no outage excuses
}

// answered notes how a call ended. Only an answer can be wrong: a connection that
// broke says nothing.
func (k *tortured) answered(what string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var e *client.Error
	switch {
	case err == nil:
		k.done++
	case errors.As(err, &e) && (e.Status != http.StatusServiceUnavailable || e.RetryAfter <= 0 || e.Code == "" || e.Description == ""):
		if what == "delete" && e.Status == http.StatusNotFound {
			return // a deletion that was not answered was done
		}
		k.wrong[fmt.Sprintf("%s: %d, Retry-After %s: %s", what, e.Status, e.RetryAfter, e.Body)] = true
	}
}

func (k *tortured) calls() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.done
}

func torture(t *testing.T, kills int, seed uint64, v *victims) {
	p := v.platform
	ch, err := p.api.CreateChannel(t.Context(), "torture", "")
	if err != nil {
		t.Fatal(err)
	}
	k := &tortured{bodies: map[string]bool{}, there: map[string]string{}, tags: map[string]string{}, deleted: map[string]bool{}, wrong: map[string]bool{}}
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for i := range 4 {
		clients.Go(func() { k.work(ctx, p.api, ch.ID, rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	random := rand.New(rand.NewPCG(seed, 99))
	for i := range kills {
		time.Sleep(time.Duration(100+random.IntN(900)) * time.Millisecond)
		v.killSomething(i, random)
		before := k.calls() // it goes on by itself
		p.until("answers after a kill", 30*time.Second, func() bool { return k.calls() > before+10 })
	}
	stop()
	clients.Wait()
	for w := range k.wrong {
		t.Errorf("a wrong answer: %s", w)
	}
	k.check(t, p, ch.ID)
	v.outages(ch.ID)

	// What no row refers to is collected, and nothing else is.
	p.kill()
	flags := p.flags
	p.flags = append(slices.Clone(flags), "--collect-grace", "1s")
	p.start()
	listed := k.check(t, p, ch.ID)
	p.until("the end of orphans", 30*time.Second, func() bool { return v.orphans(ch.ID, listed) == 0 })
	k.check(t, p, ch.ID)
	p.kill()
	p.flags = flags

	// Once more without an index.
	copied := filepath.Join(t.TempDir(), "copied")
	if err := os.MkdirAll(copied, 0o700); err != nil {
		t.Fatal(err)
	}
	args := []string{"lake", "rebuild", "--data", copied, "-o", "json"}
	if v.blobs != "" {
		if err := os.CopyFS(filepath.Join(copied, "blobs"), os.DirFS(v.blobs)); err != nil {
			t.Fatal(err)
		}
	} else { // the same bucket, another database
		dsn := p.flags[slices.Index(p.flags, "--database")+1]
		empty := strings.Replace(dsn, "/postgres?", "/rebuilt?", 1)
		if out, err := exec.Command("psql", dsn, "-c", "CREATE DATABASE rebuilt").CombinedOutput(); err != nil {
			t.Fatalf("psql: %v\n%s", err, out)
		}
		args = append(args, "--database", empty, "--blob", p.flags[slices.Index(p.flags, "--blob")+1])
	}
	out, err := exec.Command(binary, args...).CombinedOutput()
	if err != nil || !strings.Contains(string(out), `"missing": 0`) {
		t.Errorf("lake rebuild: %v\n%s", err, out)
	}
	p.start()
	files := map[string]bool{}
	if err := p.api.Files(t.Context(), ch.ID, "", false, 500, func(f client.File) error { files[f.ID] = true; return nil }); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf(`"files": %d`, len(files)); !strings.Contains(string(out), want) {
		t.Errorf("the rebuilt index has not the %d files of the old one: %s", len(files), out)
	}
}

// work does random calls until the context ends; what is not answered may be done or not.
func (k *tortured) work(until context.Context, api *client.Client, channel string, random *rand.Rand) {
	ctx := context.WithoutCancel(until) // nothing is under way when this has returned
	var mine []string
	for until.Err() == nil {
		if op := random.IntN(10); op < 7 || len(mine) == 0 {
			body := fmt.Sprintf("%d %s", random.Uint64(), strings.Repeat("x", random.IntN(20_000)))
			k.mu.Lock()
			k.bodies[body] = true
			k.mu.Unlock()
			f, err := api.Upload(ctx, channel, client.NewFile{Body: strings.NewReader(body), Size: int64(len(body)), Metadata: map[string]string{"tag": "0"}})
			if err != nil {
				k.answered("upload", err)
				time.Sleep(20 * time.Millisecond)
				continue
			}
			k.answered("upload", nil)
			k.mu.Lock()
			k.there[f.ID], k.tags[f.ID] = body, "0"
			k.mu.Unlock()
			mine = append(mine, f.ID)
		} else {
			i := random.IntN(len(mine))
			id, tag := mine[i], fmt.Sprint(random.IntN(1000))
			k.mu.Lock()
			delete(k.tags, id)
			body := k.there[id]
			if op == 9 { // whether it is deleted is not known until it is answered
				delete(k.there, id)
			}
			k.mu.Unlock()
			if op == 9 {
				mine = append(mine[:i], mine[i+1:]...)
				err := api.DeleteFile(ctx, channel, id)
				k.answered("delete", err)
				if err == nil {
					k.mu.Lock()
					k.deleted[id] = true
					k.mu.Unlock()
				}
				continue
			}
			_, err := api.SetFileMetadata(ctx, channel, id, map[string]string{"tag": tag})
			k.answered("metadata", err)
			if err == nil {
				k.mu.Lock()
				k.tags[id], k.there[id] = tag, body
				k.mu.Unlock()
			}
		}
	}
}

// outages asks while one engine is away: the answer is 503 with Retry-After, in
// reasonable time, and a success once it is back.
func (v *victims) outages(channel string) {
	v.t.Helper()
	upload := func() error {
		ctx, cancel := context.WithTimeout(v.t.Context(), time.Minute)
		defer cancel()
		_, err := v.api.Upload(ctx, channel, client.NewFile{Body: strings.NewReader("x"), Size: 1, Lifetime: "1day"})
		return err
	}
	for _, e := range v.engines {
		e.kill()
		var answer *client.Error
		if err := upload(); !errors.As(err, &answer) || answer.Status != http.StatusServiceUnavailable || answer.RetryAfter <= 0 || answer.Code == "" {
			v.t.Errorf("an upload without %s: %v", e.name, err)
		}
		e.start()
		v.until("an upload after "+e.name+" came back", 30*time.Second, func() bool { return upload() == nil })
	}
}

// orphans counts the objects of a bucket's channel that are not listed; -1: too few.
// The directory store packs small objects, so that only a bucket shows them one by one.
func (v *victims) orphans(channel string, listed map[string]client.File) int {
	if v.bucket == "" {
		return 0
	}
	n, there := 0, 0
	err := filepath.WalkDir(v.bucket, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(path, "/"+channel+"/") {
			return nil //nolint:nilerr // it was deleted meanwhile
		}
		id := filepath.Base(path)
		if _, ok := listed[id]; ok {
			there++
		} else if !strings.Contains(path, "journal") {
			n++
		}
		return nil
	})
	if err != nil {
		v.t.Fatal(err)
	}
	if there != len(listed) {
		return -1
	}
	return n
}

func (k *tortured) check(t *testing.T, p *platform, channel string) map[string]client.File {
	t.Helper()
	var listed map[string]client.File
	// What a killed process or a broken connection left under way may land a little later.
	p.until("a list that stands still", 60*time.Second, func() bool {
		before := len(listed)
		listed = map[string]client.File{}
		if err := p.api.Files(t.Context(), channel, "", false, 500, func(f client.File) error { listed[f.ID] = f; return nil }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond)
		n, err := p.api.CountFiles(t.Context(), channel, "")
		return err == nil && n == int64(len(listed)) && before == len(listed)
	})
	t.Logf("%d files acknowledged, %d deleted, %d listed", len(k.there), len(k.deleted), len(listed))
	for id := range k.there {
		if _, ok := listed[id]; !ok {
			t.Errorf("the acknowledged file %s is not listed", id)
		}
	}
	for id := range k.deleted {
		if _, ok := listed[id]; ok {
			t.Errorf("the deleted file %s is listed", id)
		}
	}
	if n, err := p.api.CountFiles(t.Context(), channel, ""); err != nil || n != int64(len(listed)) {
		t.Errorf("counted %d, listed %d, %v", n, len(listed), err)
	}
	for id, f := range listed {
		got, err := p.api.File(t.Context(), channel, id)
		if err != nil {
			t.Fatal(err)
		}
		rc, err := p.api.Download(t.Context(), channel, got)
		if err != nil {
			t.Errorf("file %s: %v", id, err)
			continue
		}
		body, err := io.ReadAll(rc)
		_ = rc.Close()
		sum := md5.Sum(body)
		if want, ok := k.there[id]; err != nil || ok && !bytes.Equal(body, []byte(want)) || !k.bodies[string(body)] && string(body) != "x" || f.ETag != hex.EncodeToString(sum[:]) {
			t.Errorf("file %s has other bytes than were sent (%d of them, %v)", id, len(body), err)
		}
		if want, ok := k.tags[id]; ok && f.Meta()["tag"] != want {
			t.Errorf("file %s has tag %s, acknowledged was %s", id, f.Meta()["tag"], want)
		}
	}
	// What was committed and not answered is journaled in the background of a start.
	p.until("agreement of index, storage and journal", 90*time.Second, func() bool {
		v, err := p.api.VerifyChannel(t.Context(), channel, true, false)
		return err == nil && v.Left == 0
	})
	for tag, want := range tagged(listed) {
		if n, err := p.api.CountFiles(t.Context(), channel, "x-abeja-meta-tag:"+tag); err != nil || n != want {
			t.Errorf("tag %s: %d files are found, %d listed, %v", tag, n, want, err)
		}
	}
	return listed
}

// tagged counts the files of some tags.
func tagged(listed map[string]client.File) map[string]int64 {
	all := map[string]int64{}
	for _, f := range listed {
		if tag := f.Meta()["tag"]; tag != "" && (len(all) < 20 || all[tag] > 0) {
			all[tag]++
		}
	}
	return all
}
