// SPDX-License-Identifier: Apache-2.0

package gitsource_test

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"panal/internal/gitsource"
	"panal/internal/gitsource/gittest"
	"panal/internal/plat"
)

func fetcher(t *testing.T, lim gitsource.Limits) *gitsource.Fetcher {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() { // whatever happened, nothing stays
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
	return gitsource.New(gitsource.Config{Dir: dir, AllowPrivate: true, Limits: lim})
}

// files reads and closes a source.
func files(t *testing.T, s *gitsource.Source) map[string]string {
	t.Helper()
	defer s.Close()
	gz, err := gzip.NewReader(io.NewSectionReader(s, 0, s.Size()))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for r := tar.NewReader(gz); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = string(body)
		if h.Typeflag == tar.TypeSymlink {
			out[h.Name] = "-> " + h.Linkname
		}
		if h.Mode&0o111 != 0 {
			out[h.Name] += " (x)"
		}
	}
}

func fetch(t *testing.T, f *gitsource.Fetcher, url, ref string) (*gitsource.Source, map[string]string) {
	t.Helper()
	s, err := f.Fetch(t.Context(), url, ref)
	if err != nil {
		t.Fatalf("%s %q: %v", url, ref, err)
	}
	return s, files(t, s)
}

func refused(t *testing.T, f *gitsource.Fetcher, url, ref, want string) {
	t.Helper()
	s, err := f.Fetch(t.Context(), url, ref)
	if err == nil {
		t.Errorf("%s %q was fetched: %v", url, ref, files(t, s))
		return
	}
	var pe *plat.Error
	if !errors.Is(err, plat.ErrInvalid) || !errors.As(err, &pe) || !strings.Contains(pe.Public, want) {
		t.Errorf("%s %q: %v, want %q", url, ref, err, want)
	}
}

func TestRefs(t *testing.T) {
	srv := gittest.NewServer(t)
	f := fetcher(t, gitsource.Limits{})
	url := srv.Init("team/project.git")
	first := srv.Commit("team/project.git", "master", "main.py", "one")
	srv.Git("team/project.git", "", "tag", "v1")
	srv.Git("team/project.git", "", "tag", "-a", "-m", "annotated", "v1.0")
	second := srv.Commit("team/project.git", "master", "main.py", "two", "util.py", "u")
	other := srv.Commit("team/project.git", "feature/x", "main.py", "x")
	for _, c := range []struct{ ref, name, commit, main string }{
		{"", "master", second, "two"},
		{"master", "master", second, "two"},
		{"refs/heads/master", "refs/heads/master", second, "two"},
		{"feature/x", "feature/x", other, "x"},
		{"v1", "v1", first, "one"},
		{"v1.0", "v1.0", first, "one"},
		{second, second, second, "two"},
	} {
		s, got := fetch(t, f, url, c.ref)
		if want := (plat.Git{URL: url, Ref: c.name, Commit: c.commit}); s.Git != want || got["main.py"] != c.main {
			t.Errorf("%q: %+v %v, want %+v", c.ref, s.Git, got, want)
		}
	}
	// The branch moves: the next fetch has the new commit.
	third := srv.Commit("team/project.git", "master", "main.py", "three")
	if s, got := fetch(t, f, url, "master"); s.Git.Commit != third || got["main.py"] != "three" || len(got) != 1 {
		t.Errorf("after the move: %+v %v", s.Git, got)
	}
	// A commit of its history, and one that no branch or tag leads to, where the server
	// gives those out.
	if _, got := fetch(t, f, url, second); got["main.py"] != "two" {
		t.Errorf("by its id: %v", got)
	}
	loose := srv.Git("team/project.git", "", "commit-tree", third+"^{tree}", "-m", "loose")
	refused(t, f, url, loose, "not the commit that was asked for")
	srv.Git("team/project.git", "", "config", "uploadpack.allowAnySHA1InWant", "true")
	if _, got := fetch(t, f, url, loose); got["main.py"] != "three" {
		t.Errorf("by its id: %v", got)
	}
	refused(t, f, url, "main", `the repository has no branch or tag "main"; it has feature/x, master, v1, v1.0`)
	refused(t, f, url, second[:12], "no branch or tag")
	refused(t, f, url, "a b", "git_branch")
	refused(t, f, srv.Init("empty.git"), "", "empty")
	refused(t, f, srv.URL+"/nothing.git", "", "no such repository")
	// Without master it is what the repository calls its HEAD.
	url = srv.Init("modern.git")
	srv.Git("modern.git", "", "symbolic-ref", "HEAD", "refs/heads/trunk")
	srv.Commit("modern.git", "trunk", "main.py", "modern")
	if s, got := fetch(t, f, url, ""); s.Git.Ref != "HEAD" || got["main.py"] != "modern" {
		t.Errorf("HEAD: %+v %v", s.Git, got)
	}
}

// Modes, links and what is not taken along.
func TestTree(t *testing.T) {
	srv := gittest.NewServer(t)
	url := srv.Init("r")
	blob := srv.Git("r", "text", "hash-object", "-w", "--stdin")
	link := srv.Git("r", "../main.py", "hash-object", "-w", "--stdin")
	sub := srv.Git("r", "100755 blob "+blob+"\trun.sh\n120000 blob "+link+"\tlink\n", "mktree")
	tree := srv.Git("r", "100644 blob "+blob+"\tmain.py\n040000 tree "+sub+"\tdir\n160000 commit "+strings.Repeat("ab", 20)+"\tsubmodule\n", "mktree", "--missing")
	srv.CommitTree("r", "master", tree)
	_, got := fetch(t, fetcher(t, gitsource.Limits{}), url, "")
	want := map[string]string{"main.py": "text", "dir/run.sh": "text (x)", "dir/link": "-> ../main.py"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// rawTree stores a tree as git's own commands would not.
func rawTree(srv *gittest.Server, mode, name, id string) string {
	raw := make([]byte, 20)
	for i := range raw {
		var b byte
		for _, c := range []byte(id[2*i : 2*i+2]) {
			b = b<<4 | byte(strings.IndexByte("0123456789abcdef", c))
		}
		raw[i] = b
	}
	return srv.Git("r", mode+" "+name+"\x00"+string(raw), "hash-object", "-t", "tree", "-w", "--literally", "--stdin")
}

func TestHostileRepositories(t *testing.T) {
	srv := gittest.NewServer(t)
	url := srv.Init("r")
	blob := srv.Git("r", "x", "hash-object", "-w", "--stdin")
	f := fetcher(t, gitsource.Limits{File: 1 << 20, Total: 8 << 20, Entries: 1000})
	for _, name := range []string{"..", ".git", ".GIT", "a\\b", ".", strings.Repeat("n", 300)} {
		srv.CommitTree("r", "name", rawTree(srv, "100644", name, blob))
		refused(t, f, url, "name", "an entry of the name")
	}
	dir := rawTree(srv, "100644", "passwd", blob)
	srv.CommitTree("r", "dir", rawTree(srv, "40000", "..", dir))
	refused(t, f, url, "dir", "an entry of the name")
	for _, target := range []string{"/etc/passwd", "../x", "a/../../x", ""} {
		id := srv.Git("r", target, "hash-object", "-w", "--stdin")
		srv.CommitTree("r", "link", rawTree(srv, "120000", "l", id))
		if target == "" {
			continue // no link that leads out: whoever unpacks leaves it out
		}
		refused(t, f, url, "link", "leads out of the repository")
	}
	// The same directory in itself, over and over: small to send, without end to unpack.
	tree := srv.Git("r", "100644 blob "+blob+"\tf\n", "mktree")
	for range 10 {
		tree = srv.Git("r", "040000 tree "+tree+"\ta\n040000 tree "+tree+"\tb\n040000 tree "+tree+"\tc\n", "mktree")
	}
	srv.CommitTree("r", "laugh", tree)
	refused(t, f, url, "laugh", "more than 1000 files")
	tree = srv.Git("r", "100644 blob "+blob+"\tf\n", "mktree")
	for range 100 {
		tree = srv.Git("r", "040000 tree "+tree+"\ta\n", "mktree")
	}
	srv.CommitTree("r", "deep", tree)
	refused(t, f, url, "deep", "directories 65 deep")
	// Zeros pack well.
	srv.Commit("r", "bomb", "zeros", strings.Repeat("\x00", 2<<20))
	refused(t, f, url, "bomb", "a file of more than 1 MiB")
	var many []string
	for i := range 10 {
		many = append(many, string(rune('a'+i)), strings.Repeat(string(rune('a'+i)), 1<<20))
	}
	srv.Commit("r", "total", many...)
	refused(t, f, url, "total", "8 MiB in all")
	srv.CommitTree("r", "empty", srv.Git("r", "", "mktree"))
	refused(t, f, url, "empty", "has no files")
	refused(t, f, url, blob, "is no commit")
}

// A server that sends without end, one that is silent, one that speaks something else.
func TestHostileServers(t *testing.T) {
	quit := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
		switch strings.Split(r.URL.Path, "/")[1] {
		case "endless":
			_, _ = io.WriteString(w, "001e# service=git-upload-pack\n0000")
			hash := strings.Repeat("a", 40)
			_, _ = io.WriteString(w, "0047"+hash+" refs/heads/aaaa\x00shallow  \n")
			line := "003d" + hash + " refs/heads/aaaa\n"
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, line); err != nil {
					return
				}
			}
		case "silent":
			w.(http.Flusher).Flush()
			select {
			case <-quit:
			case <-r.Context().Done():
			}
		case "junk":
			_, _ = io.WriteString(w, "<html>\x1b[2J")
		case "status":
			w.WriteHeader(http.StatusTeapot)
			_, _ = io.WriteString(w, strings.Repeat("secret", 1000))
		case "away":
			http.Redirect(w, r, "http://169.254.169.254/latest/info/refs?service=git-upload-pack", http.StatusFound)
		}
	}))
	defer srv.Close()
	defer close(quit)
	f := fetcher(t, gitsource.Limits{Download: 1 << 20})
	refused(t, f, srv.URL+"/endless", "", "more than 1 MiB")
	refused(t, f, srv.URL+"/junk", "", "gave no repository")
	refused(t, f, srv.URL+"/status", "", "answers with status 418")
	refused(t, f, srv.URL+"/away", "", "sends on to another host, 169.254.169.254")
	f = fetcher(t, gitsource.Limits{Time: 300 * time.Millisecond})
	refused(t, f, srv.URL+"/silent", "", "not fetched within 300ms")
	f = fetcher(t, gitsource.Limits{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	refused(t, f, "http://"+ln.Addr().String()+"/x", "", "can't be reached")
	own := httptest.NewUnstartedServer(http.NotFoundHandler())
	own.Config.ErrorLog = log.New(io.Discard, "", 0)
	own.StartTLS()
	defer own.Close()
	refused(t, f, own.URL+"/x", "", "the certificate of "+own.Listener.Addr().String()+" is not trusted")
}

// Credentials come in the URL, go to its host and are seen nowhere.
func TestCredentials(t *testing.T) {
	srv := gittest.NewServer(t)
	plain := srv.Init("private.git")
	srv.Commit("private.git", "master", "main.py", "mine")
	srv.User, srv.Password = "bot", "s3cr3t-t0ken"
	f := fetcher(t, gitsource.Limits{})
	with := strings.Replace(plain, "http://", "http://bot:s3cr3t-t0ken@", 1)
	s, got := fetch(t, f, with, "")
	if s.Git.URL != plain || got["main.py"] != "mine" {
		t.Errorf("%+v %v", s.Git, got)
	}
	for _, url := range []string{plain, strings.Replace(with, "s3cr3t-t0ken", "wr0ng", 1), with + "?x=1", with + "%zz", strings.Replace(with, "http:", "ftp:", 1)} {
		_, err := f.Fetch(t.Context(), url, "")
		if err == nil || !errors.Is(err, plat.ErrInvalid) {
			t.Errorf("%s: %v", url, err)
			continue
		}
		if strings.Contains(err.Error(), "s3cr3t") || strings.Contains(err.Error(), "wr0ng") {
			t.Errorf("the error holds the credentials: %v", err)
		}
	}
	refused(t, f, plain, "", "refuses access")
}

// Without leave nothing of the private network is asked, whatever it is called.
func TestPrivateAddressesAreRefused(t *testing.T) {
	srv := gittest.NewServer(t)
	srv.Init("r")
	f := gitsource.New(gitsource.Config{Dir: t.TempDir()})
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	for _, host := range []string{
		"127.0.0.1:" + port, "localhost:" + port, "[::1]:" + port, "[::ffff:127.0.0.1]:" + port, "0.0.0.0:" + port, "127.1:" + port, "2130706433:" + port, "10.1.2.3", "192.168.0.1",
		"172.31.255.1", "169.254.169.254", "100.64.0.1", "[fe80::1]", "[fd00::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "224.0.0.1", "255.255.255.255", "198.18.0.1",
	} {
		_, err := f.Fetch(t.Context(), "https://"+host+"/r", "")
		var pe *plat.Error
		if !errors.As(err, &pe) || !errors.Is(err, plat.ErrInvalid) || !strings.Contains(pe.Public, "private network") && !strings.Contains(pe.Public, "can't be reached") {
			t.Errorf("%s: %v", host, err)
		}
	}
	refused(t, f, srv.URL+"/r", "", "must begin with https://")
	for _, url := range []string{"", "file:///etc", "/etc", "ssh://git@example.com/x", "git@example.com:x", "https://", "https:opaque", "https://h/?q", "https://h/#f", "\x00", strings.Repeat("x", 3000)} {
		refused(t, f, url, "", "git_url")
	}
	refused(t, f, "git@example.com:x", "", "must be a URL, such as https://")
	if n := srv.Requests.Load(); n != 0 {
		t.Errorf("the server got %d requests", n)
	}
}
