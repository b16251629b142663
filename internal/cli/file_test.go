// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"panal/internal/api"
	"panal/internal/blob"
)

// write makes files below dir, name to content.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// tree reads what is below dir.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		out[filepath.ToSlash(rel)] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func same(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d files, want %d: %v", what, len(got), len(want), got)
	}
	for name, content := range want {
		if g, ok := got[name]; !ok || g != content {
			t.Errorf("%s: %s = %.40q, want %.40q", what, name, g, content)
		}
	}
}

type fileLine struct {
	Path   string `json:"path"`
	FileID string `json:"file_id"`
	Status string `json:"status"`
	Size   int64  `json:"size"`
	Error  string `json:"error"`
}

// lines runs a command with --json and returns its lines and its exit code.
func (s *dataServer) lines(args ...string) (all []fileLine, code int) {
	s.Helper()
	code, out, _ := s.run("", append(args, "--json")...)
	for line := range strings.Lines(out) {
		var l fileLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			s.Fatalf("panal %v printed %q", args, line)
		}
		all = append(all, l)
	}
	return all, code
}

func statuses(all []fileLine) map[string]int {
	n := map[string]int{}
	for _, l := range all {
		n[l.Status]++
	}
	return n
}

func (s *dataServer) newChannel(name string) string {
	s.Helper()
	var ch struct {
		ID string `json:"channel_id"`
	}
	s.json(&ch, "channel", "create", name)
	return ch.ID
}

func (s *dataServer) count(want int, args ...string) {
	s.Helper()
	var n struct{ Count int }
	if s.json(&n, append([]string{"file", "count"}, args...)...); n.Count != want {
		s.Errorf("count %v = %d, want %d", args, n.Count, want)
	}
}

// A directory goes up and comes back as it was, in part by globs; what is there is
// left alone.
func TestFileRoundTrip(t *testing.T) {
	s := newDataServer(t)
	s.newChannel("raw")
	dir := t.TempDir()
	files := map[string]string{
		"a.jpg": "A", "cat/1.jpg": "one", "cat/deep/2.jpg": "two", "cat/notes.txt": "text", "dog/3 ü.jpg": "three", ".git/config": "x", ".git/objects/4.jpg": "y",
		"empty.bin": "", "big.bin": strings.Repeat("0123456789abcdef", 6<<20/16), // more than one chunk of an ETag
	}
	write(t, dir, files)
	// Links are followed, never round in circles; what can't be uploaded is told, and
	// a pipe that nobody writes to holds nobody up.
	elsewhere := t.TempDir()
	write(t, elsewhere, map[string]string{"6.bin": "six"})
	for name, to := range map[string]string{
		"link.bin": "cat/1.jpg", "dir": elsewhere, "cat/up": "..", "out": filepath.Dir(dir), "self": "self", "gone.txt": "nowhere", "dir2": filepath.Join(dir, "cat"),
	} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	files["link.bin"], files["dir/6.bin"] = "one", "six"
	for _, name := range []string{"1.jpg", "deep/2.jpg", "notes.txt"} {
		files["dir2/"+name] = files["cat/"+name]
	}
	s.newChannel("links")
	code, _, errs := s.run("", "file", "upload", "links", dir, "--exclude", ".git")
	for _, line := range []string{"links to nothing: 2, ", "links to a directory that they are in: 3, ", "no regular files: 1, the first is " + filepath.Join(dir, "pipe"), "12 uploaded, 0 skipped"} {
		if code != 0 || !strings.Contains(errs, line) {
			t.Errorf("upload said %d %s; want %q", code, errs, line)
		}
	}
	code, _, errs = s.run("", "file", "upload", "links", dir, "--exclude", ".git", "--no-follow-links")
	if code != 0 || !strings.Contains(errs, "links: 7, ") || !strings.Contains(errs, "0 uploaded, 7 skipped") {
		t.Errorf("upload without links said %d %s", code, errs)
	}
	s.fails(2, "file", "upload", "links", filepath.Join(dir, "pipe"))
	for _, name := range []string{"dir2", "link.bin", "dir", "out"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name := range files {
		if strings.HasPrefix(name, "dir") || name == "link.bin" {
			delete(files, name)
		}
	}
	want := map[string]string{}
	for name, content := range files {
		if !strings.HasPrefix(name, ".git") {
			want[name] = content
		}
	}
	up := func(args ...string) map[string]int {
		t.Helper()
		all, code := s.lines(append([]string{"file", "upload", "raw", dir, "--exclude", ".git"}, args...)...)
		if code != 0 {
			t.Errorf("upload %v = %d: %+v", args, code, all)
		}
		return statuses(all)
	}
	if n := up("--include", "**/*.jpg", "--meta", "Kind=photo"); n["uploaded"] != 4 || len(n) != 1 {
		t.Errorf("by globs: %v", n)
	}
	if n := up("--include", "**/*.jpg", "--meta", "Kind=photo"); n["skipped"] != 4 || len(n) != 1 {
		t.Errorf("again: %v", n)
	}
	// All of them: what has no such metadata is not "there" only when it was asked for.
	if n := up(); n["skipped"] != 4 || n["uploaded"] != 3 {
		t.Errorf("all: %v", n)
	}
	if n := up("--include", "*.jpg", "--meta", "kind=other"); n["uploaded"] != 1 {
		t.Errorf("other metadata: %v", n)
	}
	s.count(1, "raw", "kind:other")
	if n := up("--include", "*.jpg", "--meta", "kind=other", "--force"); n["uploaded"] != 1 {
		t.Errorf("forced: %v", n)
	}
	s.count(9, "raw")
	for _, extra := range []string{"kind:other"} { // the doubles of a.jpg go again
		if code, _, errs := s.run("", "file", "delete", "raw", "-q", extra, "--yes"); code != 0 {
			t.Fatal(errs)
		}
	}
	// What is there gets the lifetime that is asked for, and a wrong one is no silence.
	if n := up("--include", "a.jpg", "--lifetime", "1week"); n["skipped"] != 1 || len(n) != 1 {
		t.Errorf("with a lifetime: %v", n)
	}
	var lives []struct {
		Lifetime *string `json:"lifetime"`
	}
	if s.json(&lives, "file", "find", "raw", "filename:a.jpg"); len(lives) != 1 || lives[0].Lifetime == nil || *lives[0].Lifetime != "1week" {
		t.Errorf("its lifetime: %+v", lives)
	}
	s.fails(2, "file", "upload", "raw", dir, "--include", "a.jpg", "--lifetime", "2days")
	// Changed bytes under the same name are another file.
	write(t, dir, map[string]string{"a.jpg": "B"})
	if n := up(); n["uploaded"] != 1 || n["skipped"] != 6 {
		t.Errorf("changed: %v", n)
	}
	want["a.jpg"] = "A" // the older one keeps the name

	to := filepath.Join(t.TempDir(), "out")
	all, code := s.lines("file", "download", "raw", "--to", to, "--tree")
	if n := statuses(all); code != 0 || n["downloaded"] != 8 {
		t.Fatalf("download = %d %v", code, n)
	}
	got := tree(t, to)
	for name, content := range got {
		if content == "B" && strings.HasSuffix(name, "-a.jpg") {
			delete(got, name)
		}
	}
	same(t, "tree", got, want)
	// What is there is left; what is damaged, or gone, comes again.
	write(t, to, map[string]string{"cat/1.jpg": "owt"})
	if err := os.Remove(filepath.Join(to, "empty.bin")); err != nil {
		t.Fatal(err)
	}
	all, code = s.lines("file", "download", "raw", "--to", to, "--tree")
	if n := statuses(all); code != 0 || n["downloaded"] != 2 || n["skipped"] != 6 {
		t.Errorf("again = %d %v", code, n)
	}
	if b, err := os.ReadFile(filepath.Join(to, "cat/1.jpg")); err != nil || string(b) != "one" {
		t.Errorf("mended: %q, %v", b, err)
	}
	flat := filepath.Join(t.TempDir(), "flat")
	all, code = s.lines("file", "download", "raw", "--to", flat, "--include", "cat/**", "--exclude", "**/*.txt")
	if code != 0 || len(all) != 2 {
		t.Errorf("by globs = %d %v", code, all)
	}
	same(t, "flat", tree(t, flat), map[string]string{"cat-1.jpg": "one", "cat-deep-2.jpg": "two"})
	s.fails(2, "file", "upload", "raw", dir, "--include", "[")
	s.fails(2, "file", "download", "raw", "--to", to, "--exclude", "{a")
	s.fails(2, "file", "download", "raw")
	// A glob that leaves nothing is a mistake; nothing that is asked for is not.
	s.fails(2, "file", "upload", "raw", dir, "--include", "*.nope")
	s.fails(2, "file", "upload", "raw", filepath.Join(dir, "a.jpg"), "--exclude", "*.jpg")
	s.fails(2, "file", "download", "raw", "--to", to, "--include", "*.nope")
	if code, _, errs := s.run("", "file", "upload", "raw", t.TempDir()); code != 0 || !strings.Contains(errs, "0 uploaded") {
		t.Errorf("an empty directory = %d %s", code, errs)
	}
	// JSON lines are whole objects, one a line, in lists and reports alike.
	for _, args := range [][]string{{"file", "list", "raw", "--limit", "3"}, {"file", "find", "raw", "filename:*", "--limit", "3"}, {"file", "upload", "raw", filepath.Join(dir, "cat"), "--no-follow-links", "--force"}} {
		code, out, errs := s.run("", append([]string{"-o", "jsonl"}, args...)...)
		n := 0
		for line := range strings.Lines(out) {
			var one struct {
				ID string `json:"file_id"`
			}
			if err := json.Unmarshal([]byte(line), &one); err != nil || one.ID == "" {
				t.Errorf("%v printed %q: %v", args, line, err)
			}
			n++
		}
		if code != 0 || n != 3 {
			t.Errorf("%v = %d with %d lines: %s", args, code, n, errs)
		}
	}
	var none []fileLine
	if s.json(&none, "file", "find", "raw", "filename:nope"); none == nil || len(none) != 0 {
		t.Errorf("no file is %v, want an empty array", none)
	}
	var every, listed []fileLine
	s.json(&listed, "file", "list", "raw")
	if s.json(&every, "file", "find", "raw", "*"); len(every) != len(listed) || len(listed) == 0 {
		t.Errorf("* finds %d of %d files", len(every), len(listed))
	}
	var n struct{ Count int }
	if s.json(&n, "file", "count", "raw", "*"); n.Count != len(listed) {
		t.Errorf("* counts %d of %d files", n.Count, len(listed))
	}
	s.fails(5, "file", "download", "nobody", "--to", to)
}

// Who is told to slow down does, and finishes: by its own calls, and of its files.
func TestFileUploadSlowsDown(t *testing.T) {
	s := newDataServer(t, api.Limits{Rate: 15, Burst: 5})
	id := s.newChannel("raw")
	dir, want := t.TempDir(), map[string]string{}
	for i := range 9 {
		want[fmt.Sprint(i)] = strings.Repeat("x", i)
	}
	write(t, dir, want)
	all, code := s.lines("file", "upload", id, dir, "-j", "9")
	if n := statuses(all); code != 0 || n["uploaded"] != 9 {
		t.Errorf("upload = %d %v", code, all)
	}
	s.count(9, id)
}

// A file that fails does not stop the others, and the exit code tells.
func TestFileFailuresGoOn(t *testing.T) {
	s := newDataServer(t)
	id := s.newChannel("raw")
	dir := t.TempDir()
	write(t, dir, map[string]string{"a": "1", "b/c": "2", "d": "3", strings.Repeat("x", 200) + "/" + strings.Repeat("y", 200): "4"})
	write(t, dir, map[string]string{"nul%00": "5"}) // a name that looks encoded
	all, code := s.lines("file", "upload", "raw", dir)
	if n := statuses(all); code != 0 || n["uploaded"] != 5 {
		t.Errorf("upload = %d %v", code, all)
	}
	if err := os.Chmod(filepath.Join(dir, "d"), 0); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 { // root reads everything
		all, code = s.lines("file", "upload", "raw", dir, "--force")
		if n := statuses(all); code != 1 || n["uploaded"] != 4 || n["failed"] != 1 {
			t.Errorf("with one unreadable = %d %v", code, n)
		}
	}

	// One object's bytes are damaged in the storage, one is missing.
	infos, _, err := s.blobs.List(t.Context(), "lake/", "", 100)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "out")
	if _, err := s.blobs.Put(t.Context(), infos[0].Key, strings.NewReader("!"), 1, blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.blobs.Delete(t.Context(), infos[1].Key); err != nil {
		t.Fatal(err)
	}
	all, code = s.lines("file", "download", id, "--to", to)
	n := statuses(all)
	if code == 0 || n["failed"] != 2 || n["downloaded"] != len(infos)-2 {
		t.Errorf("download = %d %+v", code, all)
	}
	if !slices.ContainsFunc(all, func(l fileLine) bool { return strings.Contains(l.Error, "ETag") }) {
		t.Errorf("nothing tells of damaged bytes: %+v", all)
	}
	if !slices.ContainsFunc(all, func(l fileLine) bool { return strings.Contains(l.Error, "; panal channel verify "+id+" tells") }) {
		t.Errorf("nothing tells how to look for what is missing: %+v", all)
	}
	if left, _ := filepath.Glob(filepath.Join(to, ".panal-*")); len(left) != 0 || len(tree(t, to)) != len(infos)-2 {
		t.Errorf("left behind: %v", tree(t, to))
	}
	var report struct {
		Failed int        `json:"failed"`
		Files  []fileLine `json:"files"`
	}
	code, out, errs := s.run("", "file", "download", id, "--to", to, "-o", "json")
	if err := json.Unmarshal([]byte(out), &report); err != nil || code == 0 || report.Failed != 2 || len(report.Files) != len(infos) || !strings.Contains(errs, "2 files failed") {
		t.Errorf("report = %d %s %s", code, out, errs)
	}
}

// What would be refused of each file alike is refused once, before the first.
func TestFileUploadFlags(t *testing.T) {
	s := newDataServer(t)
	s.newChannel("raw")
	dir := t.TempDir()
	write(t, dir, map[string]string{"x": "1", "y": "2"})
	x, y := filepath.Join(dir, "x"), filepath.Join(dir, "y")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{dir, "--lifetime", "2days"}, "--lifetime: must be one of 1day, "},
		{[]string{dir, "--content-type", "text/plain\nx: y"}, "--content-type: must be "},
		{[]string{dir, "-m", "filename=z"}, "metadata: filename=z does not go with the directory " + dir},
		{[]string{x, dir, "-m", "Filename=z"}, "metadata: filename=z does not go with the directory " + dir},
		{[]string{x, y, "-m", "filename=z"}, "metadata: filename=z is for a single file"},
		{[]string{dir, "-m", "a=1", "-m", "A=2"}, `metadata: "a" is given twice`},
	} {
		code, out, errs := s.run("", append([]string{"file", "upload", "raw"}, c.args...)...)
		if code != 2 || strings.Count(errs, "panal: ") != 1 || !strings.Contains(errs, c.want) || strings.Contains(errs+out, "again") {
			t.Errorf("upload %q = %d %s; want %q", c.args, code, errs, c.want)
		}
	}
	s.count(0, "raw")
	for _, c := range []struct {
		args   []string
		status string
	}{
		{[]string{x}, "uploaded"},
		{[]string{x}, "skipped"},
		{[]string{x, "-m", "label="}, "uploaded"}, // empty is not the same as none
		{[]string{x, "-m", "label="}, "skipped"},
		{[]string{x, "-m", "FileName=z"}, "uploaded"},
		{[]string{x, "-m", "filename=z"}, "skipped"},
	} {
		if all, code := s.lines(append([]string{"file", "upload", "raw"}, c.args...)...); code != 0 || statuses(all)[c.status] != 1 {
			t.Errorf("upload %q = %d %v; want %s", c.args, code, all, c.status)
		}
	}
	s.count(1, "raw", "filename:z")
}

// What stops a command is said with the number of files that it kept from being tried.
func TestFileNotTried(t *testing.T) {
	s := newDataServer(t)
	channel := s.newChannel("raw")
	dir := t.TempDir()
	write(t, dir, map[string]string{"x": "1", "y": "2", "z": "3"})
	var ch any
	ids := []string{}
	for range 3 {
		code, out, errs := s.run("x", "file", "upload", "raw", "-", "--json")
		var l fileLine
		if err := json.Unmarshal([]byte(out), &l); err != nil || code != 0 {
			t.Fatal(errs)
		}
		ids = append(ids, l.FileID)
	}
	s.json(&ch, "channel", "archive", "raw")
	code, out, errs := s.run("", "file", "upload", "raw", filepath.Join(dir, "y"), filepath.Join(dir, "x"), filepath.Join(dir, "z"), "-j1", "-o", "json")
	var report struct {
		NotTried int `json:"not_tried"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != 4 || report.NotTried != 2 || !strings.Contains(errs, "0 uploaded, 0 skipped, 1 failed, 2 not tried, ") {
		t.Errorf("upload = %d %s %s", code, out, errs)
	}
	if code, _, errs = s.run("", append([]string{"--token", "wrong", "file", "delete", channel}, ids...)...); code != 3 || !strings.Contains(errs, "\n2 not tried\n") {
		t.Errorf("delete = %d %s", code, errs)
	}
}

// A file that is named twice is downloaded once; a query that only begins with * is not cut.
func TestFileDownloadOnce(t *testing.T) {
	s := newDataServer(t)
	s.newChannel("raw")
	dir := t.TempDir()
	write(t, dir, map[string]string{"x": strings.Repeat("x", 1<<20)})
	all, _ := s.lines("file", "upload", "raw", filepath.Join(dir, "x"))
	id, to := all[0].FileID, filepath.Join(t.TempDir(), "out")
	if all, code := s.lines("file", "download", "raw", id, id, id, "--to", to); code != 0 || len(all) != 1 {
		t.Errorf("download = %d %+v", code, all)
	}
	same(t, "once", tree(t, to), tree(t, dir))
	if all, code := s.lines("file", "download", "raw", "-q", "*filename:x", "--to", to); code != 0 || len(all) != 0 {
		t.Errorf("download of another name = %d %+v", code, all)
	}
	if all, code := s.lines("file", "download", "raw", "-q", "*", "--to", to); code != 0 || len(all) != 1 {
		t.Errorf("download all = %d %+v", code, all)
	}
}

// A file that grows while it is read fails alone, and the server is not blamed.
func TestFileUploadGrows(t *testing.T) {
	s := newDataServer(t)
	s.newChannel("raw")
	dir := t.TempDir()
	write(t, dir, map[string]string{"a": "1", "z": "2"})
	// Its size is that of the link's target when it is listed, and the target has more by then.
	if err := os.Symlink("/proc/self/status", filepath.Join(dir, "grows")); err != nil {
		t.Fatal(err)
	}
	all, code := s.lines("file", "upload", "raw", dir)
	if n := statuses(all); code != 1 || n["uploaded"] != 2 || n["failed"] != 1 || !slices.ContainsFunc(all, func(l fileLine) bool { return strings.Contains(l.Error, "its size changed") }) {
		t.Errorf("upload = %d %+v", code, all)
	}
	s.count(2, "raw")
}

// Names that somebody else has given reach nothing outside of the directory.
func TestFileHostileNames(t *testing.T) {
	s := newDataServer(t)
	s.newChannel("raw")
	top := t.TempDir()
	to, victim := filepath.Join(top, "to"), filepath.Join(top, "victim")
	write(t, victim, map[string]string{"keep": "safe"})
	write(t, to, map[string]string{"seen": "x"})
	if err := os.Symlink(victim, filepath.Join(to, "way")); err != nil {
		t.Fatal(err)
	}
	names := []string{
		"../victim/keep", "/etc/evil", "..", ".", "a/../../victim/keep", "way/keep", `..\victim\keep`, "new\nline\x1b[2J", "", "x//y/./z", ".panal-1.part", strings.Repeat("n", 300),
		strings.Repeat("ü", 200) + "1.jpg", strings.Repeat("ü", 200) + "2.jpg", strings.Repeat("k", 251) + ".jpg",
	}
	for _, name := range names {
		if code, _, errs := s.run("evil "+name, "file", "upload", "raw", "-", "-m", "filename="+name); code != 0 {
			t.Fatalf("upload %q: %s", name, errs)
		}
	}
	for _, tree := range []bool{false, true} {
		args := []string{"file", "download", "raw", "--to", to}
		if tree {
			args = append(args, "--tree")
		}
		all, code := s.lines(args...)
		n := statuses(all)
		// Only the link that leads out of the directory fails, and only as a directory.
		if want := map[bool]int{false: 0, true: 1}[tree]; n["failed"] != want || (code != 0) != tree || len(all) != len(names) {
			t.Errorf("tree %v = %d %+v", tree, code, all)
		}
	}
	// What is too long for a name is shortened and keeps its kind; what fits stays.
	long := map[string]bool{}
	entries, err := os.ReadDir(to)
	for _, d := range entries {
		name := d.Name()
		if strings.HasPrefix(name, "üü") || strings.HasPrefix(name, "kk") {
			if !strings.HasSuffix(name, ".jpg") || len(name) > 255 || len(name) < 253 {
				t.Errorf("a long name became %q", name)
			}
			long[name] = true
		}
	}
	if err != nil || len(long) != 3 || !long[strings.Repeat("k", 251)+".jpg"] {
		t.Errorf("long names: %v", long)
	}
	same(t, "victim", tree(t, victim), map[string]string{"keep": "safe"})
	entries, err = os.ReadDir(top)
	if err != nil || len(entries) != 2 {
		t.Errorf("outside: %v %v", entries, err)
	}
	if _, err := os.Lstat("/etc/evil"); err == nil {
		t.Error("/etc/evil is there")
	}
	if b, err := os.ReadFile(filepath.Join(to, "x/y/z")); err != nil || !strings.HasPrefix(string(b), "evil x") {
		t.Errorf("x//y/./z: %q, %v", b, err)
	}
}

// A file and a directory of one name: the later one's has its id, whichever it is.
func TestFileDownloadFileAndDirectory(t *testing.T) {
	s := newDataServer(t)
	s.newChannel("raw")
	var ids []string
	for _, name := range []string{"a", "a/b/c.txt", "d/e", "d", "d/e/f", "d/e/f"} {
		code, out, errs := s.run("of "+name, "file", "upload", "raw", "-", "-m", "filename="+name, "--json")
		var l fileLine
		if err := json.Unmarshal([]byte(out), &l); err != nil || code != 0 {
			t.Fatalf("upload %q: %s", name, errs)
		}
		ids = append(ids, l.FileID)
	}
	want := map[string]string{
		"a": "of a", ids[1] + "-a-b-c.txt": "of a/b/c.txt", "d/e": "of d/e", ids[3] + "-d": "of d",
		"d/" + ids[4] + "-e-f": "of d/e/f", "d/" + ids[5] + "-e-f": "of d/e/f",
	}
	to := filepath.Join(t.TempDir(), "out")
	for range 2 { // the second time all of it is there
		if all, code := s.lines("file", "download", "raw", "--to", to, "--tree"); code != 0 {
			t.Errorf("download = %d %+v", code, all)
		}
		same(t, "tree", tree(t, to), want)
	}
}

// A download that was cut goes on where it ended; a part that is not of this file is
// found out.
func TestFileDownloadGoesOn(t *testing.T) {
	s := newDataServer(t)
	s.newChannel("raw")
	content := strings.Repeat("0123456789", 100000)
	dir := t.TempDir()
	write(t, dir, map[string]string{"big": content})
	all, code := s.lines("file", "upload", "raw", filepath.Join(dir, "big"))
	if code != 0 || len(all) != 1 {
		t.Fatalf("upload = %d %v", code, all)
	}
	for what, part := range map[string]string{
		"half": content[:len(content)/2], "all": content, "wrong": "x" + content[1:7000], "wrong and whole": "x" + content[1:], "too long": content + "more", "nothing": "",
	} {
		to := filepath.Join(t.TempDir(), "out")
		write(t, to, map[string]string{".panal-" + all[0].FileID + ".part": part})
		if _, code := s.lines("file", "download", "raw", all[0].FileID, "--to", to); code != 0 {
			t.Errorf("%s = %d", what, code)
		}
		same(t, what, tree(t, to), map[string]string{"big": content})
	}
	if code, out, errs := s.run("", "file", "download", "raw", all[0].FileID, "--to", "-"); code != 0 || out != content {
		t.Errorf("to stdout = %d, %d bytes, %s", code, len(out), errs)
	}
}

// Changes by id and by query; a query does nothing without --yes.
func TestFileChanges(t *testing.T) {
	s := newDataServer(t)
	s.newChannel("raw")
	dir := t.TempDir()
	for i := range 12 {
		write(t, dir, map[string]string{fmt.Sprintf("%02d", i): fmt.Sprint("content ", i)})
	}
	all, code := s.lines("file", "upload", "raw", dir, "-m", "label=cat", "-m", "draft=1")
	if code != 0 || len(all) != 12 {
		t.Fatalf("upload = %d %v", code, all)
	}
	one, two := all[0].FileID, all[1].FileID

	if got, code := s.lines("file", "set-metadata", "raw", one, two, "-m", "label=dog", "--remove", "draft"); code != 0 || statuses(got)["changed"] != 2 {
		t.Errorf("set-metadata = %d %v", code, got)
	}
	s.count(2, "raw", "label:dog")
	s.count(10, "raw", "draft:1")
	var dry struct {
		DryRun bool  `json:"dry_run"`
		Count  int   `json:"count"`
		Sample []any `json:"sample"`
	}
	if s.json(&dry, "file", "set-metadata", "raw", "-q", "label:cat", "-m", "label=cow"); !dry.DryRun || dry.Count != 10 || len(dry.Sample) != 10 {
		t.Errorf("dry run %+v", dry)
	}
	s.count(0, "raw", "label:cow")
	if got, code := s.lines("file", "set-metadata", "raw", "-q", "label:cat", "-m", "label=cow", "--yes"); code != 0 || statuses(got)["changed"] != 10 {
		t.Errorf("by query = %d %v", code, got)
	}
	s.count(10, "raw", "label:cow")
	s.fails(2, "file", "set-metadata", "raw", one)
	s.fails(2, "file", "set-metadata", "raw", "-m", "a=b")
	s.fails(2, "file", "set-metadata", "raw", one, "-m", "a=b", "--remove", "a")
	if got, code := s.lines("file", "set-metadata", "raw", "nope", two, "-m", "a=b"); code != 5 || statuses(got)["failed"] != 1 || statuses(got)["changed"] != 1 {
		t.Errorf("one that is not there = %d %v", code, got)
	}

	var f struct {
		Lifetime *string `json:"lifetime"`
	}
	if _, code := s.lines("file", "set-lifetime", "raw", "1week", one); code != 0 {
		t.Errorf("set-lifetime = %d", code)
	}
	if s.json(&f, "file", "get", "raw", one); f.Lifetime == nil || *f.Lifetime != "1week" {
		t.Errorf("lifetime %v", f.Lifetime)
	}
	if s.json(&dry, "file", "set-lifetime", "raw", "1year", "-q", "*"); dry.Count != 12 {
		t.Errorf("dry run %+v", dry)
	}
	s.fails(2, "file", "set-lifetime", "raw", "2days", one)

	if s.json(&dry, "file", "delete", "raw", "-q", "label:cow"); !dry.DryRun || dry.Count != 10 {
		t.Errorf("dry run %+v", dry)
	}
	s.count(12, "raw")
	var gone struct {
		Deleted int64 `json:"deleted"`
		Bytes   int64 `json:"deleted_bytes"`
	}
	if s.json(&gone, "file", "delete", "raw", "-q", "label:cow", "--yes"); gone.Deleted != 10 || gone.Bytes == 0 {
		t.Errorf("deleted %+v", gone)
	}
	s.count(2, "raw")
	s.fails(5, "file", "delete", "raw", "nope", one) // the other goes all the same
	s.count(1, "raw")
	s.fails(2, "file", "delete", "raw")
	s.fails(2, "file", "delete", "raw", two, "-q", "*")
	if s.json(&gone, "file", "delete", "raw", "-q", "*", "--yes"); gone.Deleted != 1 {
		t.Errorf("deleted %+v", gone)
	}
}

func TestChannelCommands(t *testing.T) {
	s := newDataServer(t)
	id := s.newChannel("raw")
	var ch struct {
		ID          string  `json:"channel_id"`
		Name        string  `json:"name"`
		Description *string `json:"description"`
	}
	if s.json(&ch, "channel", "update", "raw", "--name", "new"); ch.Name != "new" || ch.Description != nil {
		t.Errorf("update: %+v", ch)
	}
	if s.json(&ch, "channel", "update", id, "--description", "text"); ch.Name != "new" || ch.Description == nil || *ch.Description != "text" {
		t.Errorf("update: %+v", ch)
	}
	s.fails(2, "channel", "update", "new")
	if code, _, errs := s.run("x", "file", "upload", "new", "-"); code != 0 {
		t.Fatal(errs)
	}
	s.fails(2, "channel", "delete", "new")
	if s.json(&ch, "channel", "delete", "new", "--yes"); ch.ID != id {
		t.Errorf("delete: %+v", ch)
	}
	s.fails(5, "channel", "get", id)
	s.newChannel("empty")
	s.json(&ch, "channel", "delete", "empty")
}
