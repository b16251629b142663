// SPDX-License-Identifier: Apache-2.0

package archtest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite deps.txt")

const module = "panal/"

// layers is the allow-list: which of our packages each package may import. A name
// ending in /... stands for the tree below it. A package that matches no row
// fails: decide where it belongs. The first matching row counts.
var layers = []struct {
	pkg   string
	allow []string
}{
	{"internal/plat", nil},
	{"internal/x/...", []string{"internal/plat", "internal/x/..."}},

	// ports and their adapters
	{"internal/blob", []string{"internal/plat", "internal/x/..."}},
	{"internal/blob/...", []string{"internal/plat", "internal/x/...", "internal/blob/..."}},
	{"internal/feed", []string{"internal/plat", "internal/x/..."}},
	{"internal/feed/...", []string{"internal/plat", "internal/x/...", "internal/feed/..."}},
	{"internal/runner", []string{"internal/plat", "internal/x/..."}},
	{"internal/runner/agentctl", nil},
	{"internal/runner/...", []string{"internal/plat", "internal/x/...", "internal/runner/...", "internal/logs/spool"}},

	// identity
	{"internal/authn", []string{"internal/plat", "internal/x/..."}},
	{"internal/authz", []string{"internal/plat", "internal/authn"}},

	// domains
	{"internal/outbox", []string{"internal/plat", "internal/x/..."}},
	{"internal/audit/...", []string{"internal/plat", "internal/x/...", "internal/audit"}},
	{"internal/org/...", []string{"internal/plat", "internal/x/...", "internal/authn", "internal/org/..."}},
	{"internal/lake/link/...", []string{"internal/plat", "internal/x/...", "internal/feed", "internal/feed/memfeed", "internal/lake", "internal/lake/query", "internal/lake/link/..."}},
	{"internal/lake/incoming", []string{"internal/plat", "internal/x/...", "internal/feed", "internal/lake"}},
	{"internal/lake/...", []string{"internal/plat", "internal/x/...", "internal/authn", "internal/blob", "internal/outbox", "internal/lake/..."}},
	{"internal/dataset/...", []string{"internal/plat", "internal/x/...", "internal/authn", "internal/lake/...", "internal/dataset/..."}},
	{"internal/secret/...", []string{"internal/plat", "internal/x/...", "internal/secret"}},
	{"internal/registry/...", []string{"internal/plat", "internal/x/...", "internal/registry"}},
	{"internal/logs/spool", []string{"internal/plat", "internal/x/...", "internal/logs"}},
	{"internal/logs/...", []string{"internal/plat", "internal/x/...", "internal/blob", "internal/logs/..."}},
	{"internal/train/...", []string{"internal/plat", "internal/x/...", "internal/authn", "internal/blob", "internal/runner", "internal/outbox", "internal/dataset", "internal/train/..."}},
	{"internal/deploy/...", []string{"internal/plat", "internal/x/...", "internal/authn", "internal/blob", "internal/runner", "internal/outbox", "internal/train", "internal/deploy/..."}},

	{"internal/gitsource/...", []string{"internal/plat", "internal/x/...", "internal/gitsource"}},
	{"internal/backup", []string{"internal/plat", "internal/blob"}},

	// stores
	{"internal/sqlstore/sqlstoretest", []string{"internal/plat", "internal/sqlstore/..."}},
	{"internal/sqlstore/...", []string{"internal/plat", "internal/x/...", "internal/authn", "internal/outbox", "internal/audit", "internal/org/...", "internal/lake/...", "internal/dataset/...", "internal/logs/...", "internal/train/...", "internal/deploy/...", "internal/secret/...", "internal/registry/...", "internal/feed", "internal/feed/webhookfeed", "internal/sqlstore"}},

	// machines
	{"internal/control/...", []string{"internal/plat", "internal/x/...", "internal/authn", "internal/blob", "internal/runner", "internal/outbox", "internal/train", "internal/deploy", "internal/logs", "internal/dataplane", "internal/control/..."}},
	{"internal/dataplane/...", []string{"internal/plat", "internal/x/...", "internal/deploy", "internal/dataplane/..."}},
	{"internal/agent/...", []string{"internal/plat", "internal/x/...", "internal/logs", "internal/logs/spool", "internal/runner", "internal/runner/agentctl", "internal/agent/..."}},

	// edges
	{"internal/api/compat", []string{"internal/plat"}},
	{"internal/api", []string{"internal/plat", "internal/x/...", "internal/authn", "internal/authz", "internal/blob", "internal/runner", "internal/audit", "internal/org", "internal/lake/...", "internal/dataset", "internal/train", "internal/deploy", "internal/deploy/templates", "internal/logs", "internal/dataplane", "internal/secret", "internal/registry", "internal/gitsource", "internal/api/compat"}},
	{"internal/client", []string{"internal/plat", "internal/x/..."}},
	{"internal/config", []string{"internal/plat", "internal/x/..."}},
	{"internal/cli", []string{"internal/plat", "internal/x/...", "internal/client", "internal/config", "internal/backup", "internal/app"}},
	{"internal/app", []string{"internal/..."}},
	{"internal/archtest", nil},
	{"cmd/panal", []string{"internal/cli"}},

	// outside the product
	{"e2e/...", []string{"internal/..."}},
	{"bench/index", []string{"bench/proc", "internal/plat", "internal/blob", "internal/blob/memblob", "internal/lake/...", "internal/sqlstore", "internal/sqlstore/postgres"}},
	{"bench/events", []string{"bench/proc", "internal/plat", "internal/feed/...", "internal/lake/...", "internal/sqlstore", "internal/sqlstore/postgres"}},
	{"bench/gateway", []string{"bench/proc", "internal/plat", "internal/client", "internal/deploy", "internal/runner/agentctl", "internal/sqlstore", "internal/sqlstore/sqlite"}},
	{"bench/routes", []string{"bench/proc", "internal/plat", "internal/x/fanout", "internal/x/goruntime", "internal/blob", "internal/blob/memblob", "internal/runner", "internal/org", "internal/deploy", "internal/dataplane", "internal/control/service", "internal/sqlstore", "internal/sqlstore/sqlite", "internal/sqlstore/postgres"}},
	{"bench/...", []string{"internal/plat", "internal/x/...", "internal/client", "bench/proc"}},
	{"examples/...", []string{"internal/client"}},
}

// owners names the packages that alone may import a library (a prefix of its path).
var owners = map[string][]string{
	"github.com/danielgtaylor/huma":             {"internal/api"},
	"github.com/go-chi/chi":                     {"internal/api"},
	"github.com/minio/md5-simd":                 {"internal/x/etag"},
	"modernc.org/sqlite":                        {"internal/sqlstore/sqlite"},
	"github.com/jackc/pgx":                      {"internal/sqlstore/postgres", "internal/sqlstore/sqlstoretest"},
	"github.com/pressly/goose":                  {"internal/sqlstore/sqlite", "internal/sqlstore/postgres"},
	"github.com/alecthomas/kong":                {"internal/cli"},
	"github.com/jmespath-community/go-jmespath": {"internal/lake/pagequery"},
	"github.com/bmatcuk/doublestar":             {"internal/cli"},
	"github.com/landlock-lsm":                   {"internal/runner/procrunner"},
	"github.com/minio/minio-go":                 {"internal/blob/s3blob", "internal/lake/link/s3link", "bench/s3store"},
	"golang.org/x/time":                         {"internal/api"},
	"github.com/go-git":                         {"internal/gitsource"},
	"github.com/aws":                            {"internal/feed/sqsfeed"},
	"github.com/failsafe-go":                    {"internal/lake/link"},
	"database/sql":                              {"internal/sqlstore"},
}

// everyday may stand in no production package.
var testOnly = []string{"testing", "net/http/httptest", "pgregory.net/rapid", "go.uber.org/goleak", "github.com/google/go-cmp"}

type pkg struct {
	ImportPath string
	Dir        string
	Name       string
	GoFiles    []string
	Imports    []string
	Deps       []string
	Standard   bool
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Dir,Name,GoFiles,Imports,Deps,Standard"}, args...)...)
	cmd.Dir = filepath.Join("..", "..")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func matches(pattern, path string) bool {
	if tree, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == tree || strings.HasPrefix(path, tree+"/")
	}
	return path == pattern
}

// isSuite tells whether a package is a test suite (blobtest, laketest, …): it may
// import what tests import.
func isSuite(path string) bool { return strings.HasSuffix(path, "test") }

func TestLayers(t *testing.T) {
	for _, p := range list(t, "./...") {
		path := strings.TrimPrefix(p.ImportPath, module)
		i := slices.IndexFunc(layers, func(l struct {
			pkg   string
			allow []string
		},
		) bool {
			return matches(l.pkg, path)
		})
		if i < 0 {
			t.Errorf("%s has no row in layers: decide where it belongs", path)
			continue
		}
		for _, imp := range p.Imports {
			ours, ok := strings.CutPrefix(imp, module)
			if ok && !slices.ContainsFunc(layers[i].allow, func(a string) bool { return matches(a, ours) }) {
				t.Errorf("%s may not import %s", path, ours)
			}
		}
	}
}

func TestLibrariesHaveOneOwner(t *testing.T) {
	for _, p := range list(t, "./...") {
		path := strings.TrimPrefix(p.ImportPath, module)
		if isSuite(path) && path != "internal/sqlstore/sqlstoretest" || strings.HasPrefix(path, "bench/") || strings.HasPrefix(path, "e2e/") {
			continue
		}
		for _, imp := range p.Imports {
			for lib, own := range owners {
				if (imp == lib || strings.HasPrefix(imp, lib+"/")) && !slices.ContainsFunc(own, func(o string) bool { return path == o || strings.HasPrefix(path, o+"/") }) {
					t.Errorf("%s imports %s, which belongs to %v", path, imp, own)
				}
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range list(t, "./...") {
		docs := 0
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil && strings.HasPrefix(f.Doc.Text(), "Package ") || f.Doc != nil && strings.HasPrefix(f.Doc.Text(), "Command ") {
				docs++
			}
			src, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(src, []byte("// SPDX-License-Identifier: Apache-2.0\n")) {
				t.Errorf("%s/%s lacks the licence line", p.ImportPath, name)
			}
			if n := bytes.Count(src, []byte("\n")); n > 800 {
				t.Errorf("%s/%s has %d lines; split it (800 is the limit, 400 the aim)", p.ImportPath, name, n)
			}
		}
		if docs != 1 && len(p.GoFiles) > 0 {
			t.Errorf("%s has %d package comments, want 1", p.ImportPath, docs)
		}
	}
}

// TestBinary keeps the list of what the binary links reviewed like code, and test
// helpers out of it.
func TestBinary(t *testing.T) {
	var deps []string
	for _, p := range list(t, "-deps", "./cmd/panal") {
		if slices.Contains(testOnly, p.ImportPath) {
			t.Errorf("the binary links %s", p.ImportPath)
		}
		if !p.Standard && !strings.HasPrefix(p.ImportPath, module) {
			deps = append(deps, p.ImportPath)
		}
	}
	sort.Strings(deps)
	got := strings.Join(deps, "\n") + "\n"
	const golden = "../../deps.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Error("what the binary links changed: review it with `go test ./internal/archtest -run TestBinary -update` and git diff deps.txt")
	}
}
