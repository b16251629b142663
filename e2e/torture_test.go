// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"panal/internal/client"
	"panal/internal/sqlstore/sqlstoretest"
)

// Variables of a longer run: make torture sets the first.
const (
	envKills = "PANAL_TORTURE_KILLS"
	envSeed  = "PANAL_TORTURE_SEED"
)

// TestTorture kills the server at random moments under uploads, metadata changes and
// deletions. Then every acknowledged file is there, byte for byte, listed and counted,
// as it was changed last; what was deleted is gone; nothing is visible that was never
// sent whole; the index, the storage and the journal agree; and the index that is made
// again from storage alone says the same.
func TestTorture(t *testing.T) {
	kills, seed := 3, uint64(time.Now().UnixNano())
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
	t.Run("sqlite", func(t *testing.T) { torture(t, kills, seed, startPlatform(t)) })
	t.Run("postgres", func(t *testing.T) {
		torture(t, kills, seed, startPlatform(t, "--database", sqlstoretest.PostgresURL(t)))
	})
}

// tortured is what the clients know: by file id, what was acknowledged.
type tortured struct {
	mu      sync.Mutex
	bodies  map[string]bool   // every body that was ever sent
	there   map[string]string // id → body
	tags    map[string]string // id → tag; absent: not known, as a change was not answered
	deleted map[string]bool
}

func torture(t *testing.T, kills int, seed uint64, p *platform) {
	ch, err := p.api.CreateChannel(t.Context(), "torture", "")
	if err != nil {
		t.Fatal(err)
	}
	k := &tortured{bodies: map[string]bool{}, there: map[string]string{}, tags: map[string]string{}, deleted: map[string]bool{}}
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for i := range 4 {
		clients.Go(func() { k.work(ctx, p.api, ch.ID, rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	random := rand.New(rand.NewPCG(seed, 99))
	for range kills {
		time.Sleep(time.Duration(100+random.IntN(900)) * time.Millisecond)
		p.kill()
		p.start()
	}
	time.Sleep(200 * time.Millisecond)
	stop()
	clients.Wait()
	k.check(t, p, ch.ID)

	// Once more without an index.
	p.kill()
	copied := filepath.Join(t.TempDir(), "copied")
	if err := os.CopyFS(filepath.Join(copied, "blobs"), os.DirFS(filepath.Join(p.data, "blobs"))); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(binary, "lake", "rebuild", "--data", copied, "-o", "json").CombinedOutput()
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
func (k *tortured) work(ctx context.Context, api *client.Client, channel string, random *rand.Rand) {
	var mine []string
	for ctx.Err() == nil {
		if op := random.IntN(10); op < 7 || len(mine) == 0 {
			body := fmt.Sprintf("%d %s", random.Uint64(), strings.Repeat("x", random.IntN(20_000)))
			k.mu.Lock()
			k.bodies[body] = true
			k.mu.Unlock()
			f, err := api.Upload(ctx, channel, client.NewFile{Body: strings.NewReader(body), Size: int64(len(body)), Metadata: map[string]string{"tag": "0"}})
			if err != nil {
				time.Sleep(20 * time.Millisecond)
				continue
			}
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
				if api.DeleteFile(ctx, channel, id) == nil {
					k.mu.Lock()
					k.deleted[id] = true
					k.mu.Unlock()
				}
				continue
			}
			if _, err := api.SetFileMetadata(ctx, channel, id, map[string]string{"tag": tag}); err == nil {
				k.mu.Lock()
				k.tags[id], k.there[id] = tag, body
				k.mu.Unlock()
			}
		}
	}
}

func (k *tortured) check(t *testing.T, p *platform, channel string) {
	t.Helper()
	listed := map[string]client.File{}
	if err := p.api.Files(t.Context(), channel, "", false, 500, func(f client.File) error { listed[f.ID] = f; return nil }); err != nil {
		t.Fatal(err)
	}
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
		if want, ok := k.there[id]; err != nil || ok && !bytes.Equal(body, []byte(want)) || !k.bodies[string(body)] || f.ETag != hex.EncodeToString(sum[:]) {
			t.Errorf("file %s has other bytes than were sent (%d of them, %v)", id, len(body), err)
		}
		if want, ok := k.tags[id]; ok && f.Meta()["tag"] != want {
			t.Errorf("file %s has tag %s, acknowledged was %s", id, f.Meta()["tag"], want)
		}
	}
	// What was committed and not answered is journaled in the background of a start.
	p.until("agreement of index, storage and journal", 30*time.Second, func() bool {
		v, err := p.api.VerifyChannel(t.Context(), channel, true, false)
		return err == nil && v.Left == 0
	})
}
