// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
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
// random moments under uploads, overwrites of a bucket's keys, changes of metadata and
// lifetimes, and deletions. One of the kills is a day long: the server comes back with a
// clock that is 23 hours ahead, when everything is still there, and then with one that is
// 25 hours ahead, when what lived for a day is gone, from all answers and from storage.
// After each kill a sample of what was acknowledged is read
// back, and what is counted lies between what must and what may be there; the whole check
// is made after every tenth and at the end: every acknowledged file is there, byte for byte, listed, counted and found, as it was changed last; what
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

// tortured is what the clients know: by file id or key, what was acknowledged. A call
// that was not answered was done or not, whole: both outcomes are kept until the next
// answer.
type tortured struct {
	channel, bucket string
	pause           sync.RWMutex // held to look while no call is under way

	mu      sync.Mutex
	bodies  map[string]bool            // every body that was ever sent
	there   map[string]string          // id → body
	marks   map[string]map[marks]bool  // id → what its metadata and lifetime may be
	keys    map[string]map[string]bool // key of the bucket → what its body may be; "": not there
	deleted map[string]bool            // ids
	expired map[string]string          // id → body: of those that lived for a day, once it is over
	aged    bool                       // it is; from then on nothing is given a day
	doubt   int64                      // uploads and deletions of the channel that were not answered
	done    int                        // calls that were answered as asked
	wrong   map[string]bool            // answers that no outage excuses
}

// marks is what is changed of a file.
type marks struct{ tag, patched, lifetime string }

func marksOf(f client.File) marks {
	m := marks{tag: f.Meta()["tag"], patched: f.Meta()["patched"]}
	if f.Lifetime != nil {
		m.lifetime = *f.Lifetime
	}
	return m
}

// noted keeps what may be after a change: that of all that may have been before, and
// unless it was acknowledged, that too.
func noted[T comparable](may map[T]bool, change func(T) T, acknowledged bool) map[T]bool {
	out := map[T]bool{}
	for v := range may {
		out[change(v)] = true
		if !acknowledged {
			out[v] = true
		}
	}
	return out
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
	b, err := p.api.CreateBucket(t.Context(), "torture", "")
	if err != nil {
		t.Fatal(err)
	}
	k := &tortured{
		channel: ch.ID, bucket: b.ID, bodies: map[string]bool{}, there: map[string]string{}, marks: map[string]map[marks]bool{}, keys: map[string]map[string]bool{},
		deleted: map[string]bool{}, expired: map[string]string{}, wrong: map[string]bool{},
	}
	large := strings.Repeat("l", 2<<20) // the directory store packs the others
	f, err := p.api.Upload(t.Context(), ch.ID, client.NewFile{Body: strings.NewReader(large), Size: int64(len(large)), Lifetime: "1day"})
	if err != nil {
		t.Fatal(err)
	}
	k.bodies[large], k.there[f.ID], k.marks[f.ID] = true, large, map[marks]bool{{lifetime: "1day"}: true}
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for i := range 4 {
		clients.Go(func() { k.work(ctx, p.api, i, rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	random := rand.New(rand.NewPCG(seed, 99))
	for i := range kills {
		time.Sleep(time.Duration(100+random.IntN(900)) * time.Millisecond)
		v.killSomething(i, random)
		if i == kills/2 {
			k.pause.Lock()
			k.passDay(t, v)
			k.pause.Unlock()
		}
		before := k.calls() // it goes on by itself
		p.until("answers after a kill", 30*time.Second, func() bool { return k.calls() > before+10 })
		k.pause.Lock()
		if (i+1)%10 == 0 {
			k.check(t, p)
		} else {
			k.sample(t, p, random)
		}
		k.pause.Unlock()
	}
	stop()
	clients.Wait()
	for w := range k.wrong {
		t.Errorf("a wrong answer: %s", w)
	}
	k.check(t, p)
	v.outages(ch.ID)

	// What no row refers to is collected, and nothing else is.
	p.kill()
	flags := p.flags
	p.flags = append(slices.Clone(flags), "--collect-grace", "1s")
	p.start()
	listed := k.check(t, p)
	p.until("the end of orphans", 30*time.Second, func() bool { return v.orphans(ch.ID, listed) == 0 })
	k.check(t, p)
	p.until("the end of the bytes that lived for a day", 30*time.Second, func() bool { return k.left(v) == 0 })
	p.kill()
	p.flags = flags

	// Once more without an index.
	copied := filepath.Join(t.TempDir(), "copied")
	if err := os.MkdirAll(copied, 0o700); err != nil {
		t.Fatal(err)
	}
	args := []string{"lake", "rebuild", "--data", copied, "-o", "json"}
	again := slices.Clone(p.flags)
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
		again[slices.Index(again, "--database")+1] = empty
	}
	out, err := exec.Command(p.binary, args...).CombinedOutput()
	if err != nil || !strings.Contains(string(out), `"missing": 0`) {
		t.Errorf("lake rebuild: %v\n%s", err, out)
	}
	p.start()
	files := map[string]bool{}
	if err := p.api.Files(t.Context(), ch.ID, "", false, 500, func(f client.File) error { files[f.ID] = true; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := p.api.BucketFiles(t.Context(), b.ID, "", "", true, func(f client.BucketFile) error { files[f.ID] = true; return nil }); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf(`"files": %d`, len(files)); !strings.Contains(string(out), want) {
		t.Errorf("the rebuilt index has not the %d files of the old one: %s", len(files), out)
	}

	// A server on it, of which nothing else is left, lets its admin at all of them.
	p.kill()
	p.data, p.flags = copied, again
	p.start()
	org, user, token := adminOf(t, copied)
	p.api = client.New("http://"+p.listen, org, user, token)
	n := len(files)
	missing := func(id string) error { n--; delete(files, id); return nil }
	if err := p.api.Files(t.Context(), ch.ID, "", false, 500, func(f client.File) error { return missing(f.ID) }); err != nil {
		t.Fatal(err)
	}
	if err := p.api.BucketFiles(t.Context(), b.ID, "", "", true, func(f client.BucketFile) error { return missing(f.ID) }); err != nil {
		t.Fatal(err)
	}
	if n != 0 || len(files) != 0 {
		t.Errorf("the server on the rebuilt index lacks %d files", len(files))
	}
}

// work does random calls until the context ends. Files and keys have one client each, so
// that their calls have an order.
func (k *tortured) work(until context.Context, api *client.Client, n int, random *rand.Rand) {
	ctx := context.WithoutCancel(until) // nothing is under way when this has returned
	var mine []string
	for until.Err() == nil {
		k.pause.RLock()
		err := k.call(ctx, api, n, random, &mine)
		k.pause.RUnlock()
		if err != nil {
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// call does one.
func (k *tortured) call(ctx context.Context, api *client.Client, n int, random *rand.Rand, mine *[]string) error {
	body := fmt.Sprintf("%d %s", random.Uint64(), strings.Repeat("x", random.IntN(20_000)))
	what := random.IntN(13)
	switch {
	case what > 10: // what is there is replaced; now and then it is deleted
		return k.overwrite(ctx, api, fmt.Sprintf("dir%d/key%d", n, random.IntN(8)), body, random.IntN(6) == 0)
	case what < 6 || len(*mine) == 0:
		born := marks{tag: "0"}
		if random.IntN(4) == 0 {
			born.lifetime = k.lifetime(random)
		}
		k.mu.Lock()
		k.bodies[body] = true
		k.mu.Unlock()
		f, err := api.Upload(ctx, k.channel, client.NewFile{
			Body: strings.NewReader(body), Size: int64(len(body)), Metadata: map[string]string{"tag": "0"}, Lifetime: born.lifetime,
		})
		k.answered("upload", err)
		k.mu.Lock()
		defer k.mu.Unlock()
		if err != nil {
			k.doubt++
			return err
		}
		k.there[f.ID], k.marks[f.ID] = body, map[marks]bool{born: true}
		*mine = append(*mine, f.ID)
		return nil
	}
	i := random.IntN(len(*mine))
	id, value := (*mine)[i], fmt.Sprint(random.IntN(1000))
	k.mu.Lock()
	_, there := k.there[id]
	k.mu.Unlock()
	if !there { // its day is over
		*mine = slices.Delete(*mine, i, i+1)
		return nil
	}
	if what == 6 { // whether it is deleted is not known until it is answered
		k.mu.Lock()
		delete(k.there, id)
		k.doubt++
		k.mu.Unlock()
		*mine = slices.Delete(*mine, i, i+1)
		err := api.DeleteFile(ctx, k.channel, id)
		k.answered("delete", err)
		if err == nil {
			k.mu.Lock()
			k.deleted[id] = true
			k.doubt--
			k.mu.Unlock()
		}
		return err
	}
	var err error
	var change func(marks) marks
	switch what {
	case 7, 8:
		_, err = api.SetFileMetadata(ctx, k.channel, id, map[string]string{"tag": value})
		change = func(m marks) marks { return marks{tag: value, lifetime: m.lifetime} }
	case 9:
		_, err = api.PatchFileMetadata(ctx, k.channel, id, map[string]*string{"patched": &value})
		change = func(m marks) marks { m.patched = value; return m }
	default:
		lifetime := k.lifetime(random)
		err = api.SetFileLifetime(ctx, k.channel, id, lifetime)
		change = func(m marks) marks { m.lifetime = lifetime; return m }
	}
	k.answered("change", err)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.marks[id] = noted(k.marks[id], change, err == nil)
	return err
}

// lifetime draws one. After the day that passes none ends while the test runs.
func (k *tortured) lifetime(random *rand.Rand) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.aged {
		return []string{"1week", "1month"}[random.IntN(2)]
	}
	return []string{"1day", "1day", "1week", "1month"}[random.IntN(4)]
}

// passDay lets a day pass for the server, while no call is under way.
func (k *tortured) passDay(t *testing.T, v *victims) {
	t.Helper()
	p := v.platform
	p.kill()
	p.binary = aheadBinary(t, "23h")
	p.start()
	listed := map[string]bool{}
	if err := p.api.Files(t.Context(), k.channel, "", false, 500, func(f client.File) error { listed[f.ID] = true; return nil }); err != nil {
		t.Fatal(err)
	}
	for id := range k.there {
		if !listed[id] {
			t.Errorf("file %s is gone after 23 hours: one of %v", id, k.marks[id])
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.aged = true
	for id, body := range k.there {
		day, longer := false, false
		for m := range k.marks[id] {
			day, longer = day || m.lifetime == "1day", longer || m.lifetime != "1day"
		}
		switch {
		case day && longer: // a change that was not answered
			k.doubt++
			delete(k.there, id)
		case day:
			k.expired[id] = body
			delete(k.there, id)
		}
	}
	if n := k.left(v); n == 0 {
		t.Errorf("%d files lived for a day, and no bytes of one are seen in storage: nothing is tested", len(k.expired))
	}
	p.kill()
	p.binary = aheadBinary(t, "25h")
	p.flags = append(slices.Clone(p.flags), "--collect-grace", "20s") // rows go as often
	p.start()
	for id := range k.expired {
		_, err := p.api.File(t.Context(), k.channel, id)
		if e, ok := errors.AsType[*client.Error](err); !ok || e.Status != http.StatusNotFound {
			t.Errorf("file %s after its day: %v", id, err)
		}
	}
}

// aheadBinary links the program with a clock that is ahead.
func aheadBinary(t *testing.T, by string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "panal-"+by)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-X panal/internal/plat.ahead="+by, "-o", path, "../cmd/panal")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

// left counts the files whose day is over and whose bytes are in storage. Where the
// directory store packs small objects only the others show.
func (k *tortured) left(v *victims) (n int) {
	v.t.Helper()
	root := cmp.Or(v.blobs, v.bucket)
	ids := map[string]bool{}
	for id := range k.expired {
		ids[strings.ToLower(id)] = true
	}
	plain := strings.NewReplacer("=", "", ".o", "") // of the directory store's names
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && ids[strings.ToLower(plain.Replace(filepath.Base(path)))] {
			n++
		}
		return nil
	})
	if err != nil {
		v.t.Fatal(err)
	}
	return n
}

// overwrite puts another body under a key, or deletes what is there.
func (k *tortured) overwrite(ctx context.Context, api *client.Client, key, body string, drop bool) error {
	var err error
	if drop {
		body = ""
		err = api.DeleteBucketFile(ctx, k.bucket, key)
		k.answered("delete", err)
	} else {
		_, err = api.UploadBucketFile(ctx, k.bucket, key, client.NewFile{Body: strings.NewReader(body), Size: int64(len(body))})
		k.answered("overwrite", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	may := k.keys[key]
	if may == nil {
		may = map[string]bool{"": true}
	}
	if e, ok := errors.AsType[*client.Error](err); ok && drop && e.Status == http.StatusNotFound {
		if !may[""] {
			k.wrong["the acknowledged key "+key+" was not found"] = true
		}
		err = nil
	}
	k.keys[key] = noted(may, func(string) string { return body }, err == nil)
	return err
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

// sample looks at some of what was acknowledged, and at the counts.
func (k *tortured) sample(t *testing.T, p *platform, random *rand.Rand) {
	t.Helper()
	ids := slices.Sorted(maps.Keys(k.there))
	for range min(20, len(ids)) {
		id := ids[random.IntN(len(ids))]
		f, err := p.api.File(t.Context(), k.channel, id)
		if err != nil {
			t.Errorf("the acknowledged file %s: %v", id, err)
			continue
		}
		rc, err := p.api.Download(t.Context(), k.channel, f)
		if err != nil {
			t.Errorf("file %s: %v", id, err)
			continue
		}
		body, err := io.ReadAll(rc)
		_ = rc.Close()
		if err != nil || string(body) != k.there[id] || !k.marks[id][marksOf(f)] {
			t.Errorf("file %s has %d bytes and %v, want %d and one of %v (%v)", id, len(body), marksOf(f), len(k.there[id]), k.marks[id], err)
		}
	}
	k.checkKeys(t, p)
	least := int64(len(k.there))
	if n, err := p.api.CountFiles(t.Context(), k.channel, ""); err != nil || n < least || n > least+k.doubt {
		t.Errorf("%d files are counted; %d were acknowledged and %d are in doubt (%v)", n, least, k.doubt, err)
	}
}

// checkKeys reads every key of the bucket: one of the bodies that may be there, whole.
func (k *tortured) checkKeys(t *testing.T, p *platform) (n int) {
	t.Helper()
	for key, may := range k.keys {
		body := ""
		f, err := p.api.BucketFile(t.Context(), k.bucket, key)
		if e, ok := errors.AsType[*client.Error](err); !ok || e.Status != http.StatusNotFound {
			var rc io.ReadCloser
			if err == nil {
				rc, _, err = p.api.DownloadBucketFile(t.Context(), k.bucket, f, 0)
			}
			if err != nil {
				t.Errorf("key %s: %v", key, err)
				continue
			}
			raw, err := io.ReadAll(rc)
			_ = rc.Close()
			if err != nil {
				t.Errorf("key %s: %v", key, err)
			}
			body = string(raw)
			n++
		}
		if !may[body] {
			t.Errorf("key %s has %d bytes that are none of the %d that may be there", key, len(body), len(may))
		}
	}
	return n
}

// check looks at everything; no call is under way.
func (k *tortured) check(t *testing.T, p *platform) map[string]client.File {
	t.Helper()
	channel := k.channel
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
	t.Logf("%d files acknowledged, %d deleted, %d expired, %d listed", len(k.there), len(k.deleted), len(k.expired), len(listed))
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
	for id := range k.expired {
		if _, ok := listed[id]; ok {
			t.Errorf("file %s is listed after its day", id)
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
		if may, ok := k.marks[id]; ok && !may[marksOf(f)] {
			t.Errorf("file %s has %v, which is none of %v", id, marksOf(f), may)
		}
	}
	n := 0
	if err := p.api.BucketFiles(t.Context(), k.bucket, "", "", true, func(client.BucketFile) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	if there := k.checkKeys(t, p); n != there {
		t.Errorf("the bucket lists %d files, of which %d are there", n, there)
	}
	// What was committed and not answered is journaled in the background of a start.
	p.until("agreement of index, storage and journal", 90*time.Second, func() bool {
		v, err := p.api.VerifyChannel(t.Context(), channel, true, false)
		b, errBucket := p.api.VerifyBucket(t.Context(), k.bucket, true, false)
		return err == nil && errBucket == nil && v.Left == 0 && b.Left == 0
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
