// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"panal/internal/plat"
	"panal/internal/runner/agentctl"
)

const (
	requirementsFile = "requirements.txt"
	maxRequirements  = 1 << 20
)

// interpreter is what environment.py tells.
type interpreter struct {
	Version  string   `json:"version"`
	Platform string   `json:"platform"`
	Prefix   string   `json:"prefix"`
	Pip      string   `json:"pip"`
	Missing  []string `json:"missing"`
}

// codeRoot is the code directory, or the parent of a directory named .abeja
// within three levels of it (compute.md §13.8).
func codeRoot(dir string) string {
	found := ""
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fs.SkipDir // what can't be read is no reason
		}
		if !d.IsDir() {
			return nil
		}
		rel, _ := filepath.Rel(dir, path)
		if d.Name() == ".abeja" && path != dir {
			found = filepath.Dir(path)
			return fs.SkipAll
		}
		if strings.Count(rel, "/") >= 2 {
			return fs.SkipDir
		}
		return nil
	})
	return orDefault(found, dir)
}

// environment makes sure that what the code requires is there, and returns the
// site directory to put on the module path; empty when nothing is missing.
func (a *agent) environment(ctx context.Context, root string) (string, error) {
	file := filepath.Join(root, requirementsFile)
	if exists(filepath.Join(root, "Pipfile")) {
		var err error
		if file, err = a.pipfile(ctx, root); err != nil {
			return "", err
		}
	} else if !exists(file) {
		return "", nil
	}
	text, local, err := requirementBytes(file, 0)
	if err != nil {
		return "", err
	}
	py, err := a.interpreter(ctx, file)
	if err != nil {
		return "", err
	}
	if len(py.Missing) == 0 {
		a.sink.say("info", "all requirements are there already")
		return "", nil
	}
	if py.Pip == "" {
		return "", plat.Errorf(plat.ErrInvalid, "%s is not satisfied and the interpreter %s has no pip; missing: %s",
			filepath.Base(file), a.cfg.python, strings.Join(py.Missing, ", "))
	}
	target := filepath.Join(a.cfg.workDir, agentctl.DirEnv)
	if a.cfg.controlFD < 0 || local {
		return target, a.install(ctx, py, root, file, target)
	}
	h := sha256.New()
	enc := json.NewEncoder(h)
	if err := enc.Encode([]any{py.Version, py.Platform, py.Prefix, a.cfg.pip, string(text)}); err != nil {
		return "", fmt.Errorf("environment key: %w", err)
	}
	key := hex.EncodeToString(h.Sum(nil))
	reply, err := a.state.askEnvironment(ctx, agentctl.EnvRequest{Key: key})
	if err != nil || reply.Path != "" {
		return reply.Path, err
	}
	if err := a.install(ctx, py, root, file, target); err != nil {
		a.state.update(func(s *agentctl.State) {
			s.EnvRequest = &agentctl.EnvRequest{Key: key, Error: err.Error()}
		})
		return "", err
	}
	reply, err = a.state.askEnvironment(ctx, agentctl.EnvRequest{Key: key, Built: true})
	return reply.Path, err
}

func exists(file string) bool {
	_, err := os.Lstat(file)
	return !errors.Is(err, fs.ErrNotExist)
}

func (a *agent) interpreter(ctx context.Context, file string) (interpreter, error) {
	var py interpreter
	cmd := exec.Command(a.cfg.python, filepath.Join(a.scripts, "environment.py"), file) //nolint:noctx // the profile's interpreter; output ends it with ctx
	cmd.Env, cmd.Dir = a.cfg.environ, a.cfg.workDir
	out, err := a.procs.output(ctx, cmd, maxRequirements)
	if err != nil {
		return py, plat.Errorf(plat.ErrInvalid, "the Python interpreter %s does not work: %v", a.cfg.python, err)
	}
	if err := json.Unmarshal(out, &py); err != nil {
		return py, plat.Errorf(plat.ErrInvalid, "the Python interpreter %s does not work: bad answer", a.cfg.python)
	}
	return py, nil
}

// requirementBytes returns the file with those it includes, and whether it names
// anything inside the code: such an environment is of use to this code alone.
func requirementBytes(file string, depth int) ([]byte, bool, error) {
	text, err := readSmall(file)
	if err != nil {
		return nil, false, plat.Errorf(plat.ErrInvalid, "%s can't be read: %v", filepath.Base(file), err)
	}
	local := false
	out := text
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		word, rest, _ := strings.Cut(line, " ")
		if w, r, ok := strings.Cut(word, "="); ok && strings.HasPrefix(w, "--") {
			word, rest = w, r
		}
		switch {
		case slices.Contains([]string{"-r", "--requirement", "-c", "--constraint"}, word):
			if depth > 8 {
				return nil, false, plat.Errorf(plat.ErrInvalid, "%s: files include each other too deeply", filepath.Base(file))
			}
			sub, l, err := requirementBytes(filepath.Join(filepath.Dir(file), strings.TrimSpace(rest)), depth+1)
			if err != nil {
				return nil, false, err
			}
			out, local = slices.Concat(out, []byte{0}, sub), local || l
		case word == "-e", word == "--editable", word == "-f", word == "--find-links", strings.HasPrefix(word, "."), strings.HasPrefix(word, "/"),
			strings.Contains(line, "file:"), strings.Contains(word, "/") && !strings.Contains(word, "://") && !strings.HasPrefix(word, "#"):
			local = true
		}
	}
	return out, local, nil
}

// readSmall reads a regular file of at most maxRequirements bytes.
func readSmall(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxRequirements {
		return nil, fmt.Errorf("it is no regular file of at most %d bytes", maxRequirements)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxRequirements))
}

// install puts what is missing into target. Where pip can say what it would
// install, packages of the interpreter count as there and are not fetched again.
func (a *agent) install(ctx context.Context, py interpreter, root, file, target string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("install requirements: %w", err)
	}
	a.sink.say("info", "installing requirements: %s", strings.Join(py.Missing, ", "))
	text, err := readSmall(file)
	if err != nil {
		return fmt.Errorf("install requirements: %w", err)
	}
	hashed := strings.Contains(string(text), "--hash")
	if !pipReports(py.Pip) || hashed {
		args := []string{"--target", target, "-r", file}
		if hashed { // every package is listed
			args = append(args, "--no-deps")
		}
		return a.pip(ctx, root, args...)
	}
	report := filepath.Join(a.cfg.workDir, agentctl.DirTmp, "pip-report.json")
	if err := a.pip(ctx, root, "--dry-run", "--report", report, "-r", file); err != nil {
		return err
	}
	pinned, err := pinnedRequirements(report, string(text))
	if err != nil {
		return err
	}
	// Beside the original, so that relative paths mean the same.
	again := filepath.Join(filepath.Dir(file), ".panal-requirements.txt")
	if err := os.WriteFile(again, []byte(pinned), 0o600); err != nil {
		return fmt.Errorf("install requirements: %w", err)
	}
	defer func() { _ = os.Remove(again) }()
	return a.pip(ctx, root, "--no-deps", "--target", target, "-r", again)
}

// pipReports tells whether this pip knows --dry-run --report (22.2).
func pipReports(version string) bool {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	ma, _ := strconv.Atoi(major)
	mi, _ := strconv.Atoi(minor)
	return ma > 22 || ma == 22 && mi >= 2
}

// pinnedRequirements turns pip's report into exact requirements, with the index
// options of the original file.
func pinnedRequirements(report, original string) (string, error) {
	data, err := os.ReadFile(report)
	if err != nil {
		return "", fmt.Errorf("install requirements: %w", err)
	}
	var r struct {
		Install []struct {
			Direct   bool `json:"is_direct"`
			Download struct {
				URL string `json:"url"`
				VCS struct {
					Name   string `json:"vcs"`
					Commit string `json:"commit_id"`
				} `json:"vcs_info"`
			} `json:"download_info"`
			Metadata struct {
				Name    string `json:"name"`
				Version string `json:"version"`
			} `json:"metadata"`
		} `json:"install"`
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return "", fmt.Errorf("install requirements: pip's report: %w", err)
	}
	var out strings.Builder
	for line := range strings.Lines(original) {
		line = strings.TrimSpace(line)
		for _, opt := range []string{"-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--no-index", "--pre", "--trusted-host", "--no-binary", "--only-binary", "--prefer-binary"} {
			if rest, ok := strings.CutPrefix(line, opt); ok && (rest == "" || rest[0] == ' ' || rest[0] == '=') {
				fmt.Fprintln(&out, line)
			}
		}
	}
	for _, p := range r.Install {
		switch {
		case p.Direct && p.Download.VCS.Name != "":
			fmt.Fprintf(&out, "%s @ %s+%s@%s\n", p.Metadata.Name, p.Download.VCS.Name, p.Download.URL, p.Download.VCS.Commit)
		case p.Direct:
			fmt.Fprintf(&out, "%s @ %s\n", p.Metadata.Name, p.Download.URL)
		default:
			fmt.Fprintf(&out, "%s==%s\n", p.Metadata.Name, p.Metadata.Version)
		}
	}
	return out.String(), nil
}

// pip runs the installer under the same walls as user code, without our token.
func (a *agent) pip(ctx context.Context, dir string, args ...string) error {
	argv := slices.Concat([]string{a.cfg.python, "-m", "pip", "install", "--quiet", "--no-input", "--no-cache-dir", "--disable-pip-version-check"}, a.cfg.pip, args)
	if err := a.tool(ctx, dir, argv); err != nil {
		return fmt.Errorf("installing the requirements: pip %w", err)
	}
	return nil
}

// tool runs a program to its end; its lines go to the log.
func (a *agent) tool(ctx context.Context, dir string, argv []string) error {
	env := slices.DeleteFunc(slices.Clone(a.cfg.environ), func(kv string) bool {
		return strings.HasPrefix(kv, "PLATFORM_AUTH_TOKEN=") || strings.HasPrefix(kv, "ABEJA_PLATFORM_PERSONAL_ACCESS_TOKEN=")
	})
	c, err := a.startChild(argv, dir, env)
	if err != nil {
		return err
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		c.interrupt(5e9)
		return ctx.Err()
	}
	if c.code() != 0 {
		return plat.Errorf(plat.ErrInvalid, "%s: %s", c.describe(), a.sink.lastError())
	}
	return nil
}

// pipfile writes what Pipfile.lock pins as requirements. Without a lock file
// pipenv has to make one.
func (a *agent) pipfile(ctx context.Context, root string) (string, error) {
	lock := filepath.Join(root, "Pipfile.lock")
	if !exists(lock) {
		pipenv, err := lookPath("pipenv", a.cfg.environ)
		if err != nil {
			return "", plat.Errorf(plat.ErrInvalid, "the code has a Pipfile without Pipfile.lock, and this image has no pipenv to resolve it: add the lock file, or use requirements.txt")
		}
		if err := a.tool(ctx, root, []string{pipenv, "lock", "--python", a.cfg.python}); err != nil {
			return "", fmt.Errorf("resolving the Pipfile: pipenv %w", err)
		}
	}
	data, err := readSmall(lock)
	if err != nil {
		return "", plat.Errorf(plat.ErrInvalid, "Pipfile.lock can't be read: %v", err)
	}
	text, err := lockRequirements(data)
	if err != nil {
		return "", err
	}
	out := filepath.Join(root, ".panal-pipfile.txt")
	if err := os.WriteFile(out, []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("write requirements: %w", err)
	}
	return out, nil
}

// lockRequirements turns the default section of a Pipfile.lock into requirements.
func lockRequirements(data []byte) (string, error) {
	var l struct {
		Meta struct {
			Sources []struct {
				URL string `json:"url"`
			} `json:"sources"`
		} `json:"_meta"`
		Default map[string]struct {
			Version string   `json:"version"`
			Extras  []string `json:"extras"`
			Markers string   `json:"markers"`
			Git     string   `json:"git"`
			Ref     string   `json:"ref"`
		} `json:"default"`
	}
	if err := json.Unmarshal(data, &l); err != nil {
		return "", plat.Errorf(plat.ErrInvalid, "Pipfile.lock is no lock file: %v", err)
	}
	var lines []string
	for name, p := range l.Default {
		line := name
		if len(p.Extras) > 0 {
			line += "[" + strings.Join(p.Extras, ",") + "]"
		}
		switch {
		case p.Git != "":
			line += " @ git+" + p.Git + "@" + p.Ref
		case p.Version != "":
			line += p.Version
		default:
			return "", plat.Errorf(plat.ErrInvalid, "Pipfile.lock: %s has neither version nor git", name)
		}
		if p.Markers != "" {
			line += " ; " + p.Markers
		}
		if strings.ContainsAny(line, "\n\r") {
			return "", plat.Errorf(plat.ErrInvalid, "Pipfile.lock: bad entry %q", name)
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n", nil
}

// lookPath finds a program on the PATH of user code.
func lookPath(name string, environ []string) (string, error) {
	for _, kv := range environ {
		path, ok := strings.CutPrefix(kv, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(path) {
			if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil && filepath.IsAbs(p) {
				return p, nil
			}
		}
	}
	return "", exec.ErrNotFound
}
