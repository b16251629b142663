// SPDX-License-Identifier: Apache-2.0

// Package gittest serves git repositories to tests, with git's own server.
package gittest

import (
	"crypto/subtle"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// Server is a git server over http. Its repositories are bare, below Dir.
type Server struct {
	*httptest.Server
	Dir      string
	User     string // with Password, what a caller must send when not empty
	Password string
	Requests atomic.Int64
	t        testing.TB
}

// NewServer starts a server.
func NewServer(t testing.TB) *Server {
	t.Helper()
	s := &Server{Dir: t.TempDir(), t: t}
	path, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatalf("git: %v", err)
	}
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"), Stderr: logTo{t},
		Env: []string{"GIT_PROJECT_ROOT=" + s.Dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
	}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.Requests.Add(1)
		if s.User != "" {
			user, password, _ := r.BasicAuth()
			if subtle.ConstantTimeCompare([]byte(user+":"+password), []byte(s.User+":"+s.Password)) != 1 {
				w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
				http.Error(w, "who are you?", http.StatusUnauthorized)
				return
			}
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

type logTo struct{ t testing.TB }

func (l logTo) Write(p []byte) (int, error) {
	l.t.Logf("git: %s", p)
	return len(p), nil
}

// Git runs git in a repository and returns what it printed.
func (s *Server) Git(repo, stdin string, args ...string) string {
	s.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = filepath.Join(s.Dir, repo)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// Init makes an empty repository and returns its URL.
func (s *Server) Init(repo string) string {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Join(s.Dir, repo), 0o755); err != nil {
		s.t.Fatal(err)
	}
	s.Git(repo, "", "init", "--quiet", "--bare", "--initial-branch=master")
	return s.URL + "/" + repo
}

// Commit makes a commit of files (name, content, …) on a branch, whose tree is
// exactly these, and returns its id.
func (s *Server) Commit(repo, branch string, files ...string) string {
	s.t.Helper()
	var b strings.Builder
	for i := 0; i < len(files); i += 2 {
		b.WriteString("100644 blob " + s.Git(repo, files[i+1], "hash-object", "-w", "--stdin") + "\t" + files[i] + "\n")
	}
	return s.CommitTree(repo, branch, s.Git(repo, b.String(), "mktree"))
}

// CommitTree makes a commit of a tree on a branch and returns its id.
func (s *Server) CommitTree(repo, branch, tree string) string {
	s.t.Helper()
	args := []string{"commit-tree", tree, "-m", "test"}
	if parent := s.Git(repo, "", "for-each-ref", "--format=%(objectname)", "refs/heads/"+branch); parent != "" {
		args = append(args, "-p", parent)
	}
	id := s.Git(repo, "", args...)
	s.Git(repo, "", "update-ref", "refs/heads/"+branch, id)
	return id
}
