// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"panal/internal/runner/agentctl"
)

// wheel makes a wheel of one module in dir.
func wheel(t *testing.T, dir, name, version, body, requires string) {
	t.Helper()
	info := name + "-" + version + ".dist-info/"
	meta := "Metadata-Version: 2.1\nName: " + name + "\nVersion: " + version + "\n"
	if requires != "" {
		meta += "Requires-Dist: " + requires + "\n"
	}
	b := zipped(t, name+".py", body, info+"METADATA", meta,
		info+"WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
		info+"RECORD", name+".py,,\n"+info+"METADATA,,\n"+info+"WHEEL,,\n"+info+"RECORD,,\n")
	if err := os.WriteFile(filepath.Join(dir, name+"-"+version+"-py3-none-any.whl"), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func pipArgs(dirs ...string) string {
	args := []string{"--no-index"}
	for _, d := range dirs {
		args = append(args, "--find-links", d)
	}
	b, _ := json.Marshal(args)
	return string(b)
}

const useWheel = `
import one, two, numpy
def handler(context):
    print("one is", one.value, "two is", two.value)
`

// Missing packages come from the wheel directory; what the interpreter has
// (numpy) need not be there again.
func TestEnvironmentFromWheels(t *testing.T) {
	dir := t.TempDir()
	wheel(t, dir, "one", "1.5", "import numpy\nvalue = 11", "numpy")
	wheel(t, dir, "two", "2.0", "value = 22", "")
	s := newServer(t)
	s.pack("train.py", useWheel, "requirements.txt", "# what we need\none>=1.0 # the first\n-r more.txt\nnumpy\n", "more.txt", "two==2.0 ; python_version >= '3'\n")
	env := map[string]string{agentctl.EnvPipArgs: pipArgs(dir)}

	p := start(t, s, "training", env)
	st := p.until("the question", func(s agentctl.State) bool { return s.EnvRequest != nil })
	if st.Step != "environment" || len(st.EnvRequest.Key) != 64 || st.EnvRequest.Built {
		t.Errorf("%+v", st.EnvRequest)
	}
	asked := st.EnvRequest.Key
	resp, err := p.control.Post("http://agent/v1/environment", "application/json", strings.NewReader(`{"key":"other","build":true}`))
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != 409 {
		t.Errorf("an answer to another question: %d", resp.StatusCode)
	}
	p.reply(agentctl.EnvReply{Key: asked, Build: true})
	p.until("the built environment", func(s agentctl.State) bool { return s.EnvRequest != nil && s.EnvRequest.Built })
	// Relocatable: the runner moves it to its store.
	store := filepath.Join(t.TempDir(), "env")
	if err := os.Rename(filepath.Join(p.work, agentctl.DirEnv), store); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(store, "numpy")); err == nil {
		t.Error("numpy was installed again")
	}
	p.reply(agentctl.EnvReply{Key: asked, Path: store})
	if e := p.wait(); e.Code != 0 {
		t.Fatalf("%+v", e)
	}
	if s.entry("one is 11 two is 22").Message == "" {
		t.Error("the packages were not used")
	}

	// The next one asks for the same key and gets it without building.
	s2 := newServer(t)
	code := tgz(t, "train.py", useWheel, "requirements.txt", "# what we need\none>=1.0 # the first\n-r more.txt\nnumpy\n", "more.txt", "two==2.0 ; python_version >= '3'\n")
	s2.set(func(s *server) { s.code = code })
	p = start(t, s2, "training", env)
	st = p.until("the question", func(s agentctl.State) bool { return s.EnvRequest != nil })
	if st.EnvRequest.Key != asked {
		t.Error("the same requirements have another key")
	}
	p.reply(agentctl.EnvReply{Key: asked, Path: store})
	if e := p.wait(); e.Code != 0 {
		t.Fatalf("%+v", e)
	}
}

func TestEnvironmentWithoutRunner(t *testing.T) {
	dir := t.TempDir()
	wheel(t, dir, "two", "2.0", "value = 22", "")
	sdist := tgz(t, "one-1.0/setup.py", "from setuptools import setup\nsetup(name='one', version='1.0', py_modules=['one'])\n",
		"one-1.0/one.py", "value = 11\n", "one-1.0/PKG-INFO", "Metadata-Version: 2.1\nName: one\nVersion: 1.0\n")
	if err := os.WriteFile(filepath.Join(dir, "one-1.0.tar.gz"), sdist, 0o600); err != nil {
		t.Fatal(err)
	}
	if found, _ := filepath.Glob("/usr/share/python-wheels/setuptools-*.whl"); len(found) == 0 {
		t.Fatal("this test needs the packages python3-setuptools-whl and python3-wheel-whl")
	}
	local := map[string]string{"-" + agentctl.EnvControlFD: "", agentctl.EnvPipArgs: pipArgs(dir, "/usr/share/python-wheels")}
	for name, c := range map[string]struct {
		files        []string
		env          map[string]string
		reason, line string
		code         int
	}{
		"wheel and sdist": {files: []string{"train.py", useWheel, "requirements.txt", "one\ntwo\n"}, line: "one is 11 two is 22"},
		"satisfied":       {files: []string{"train.py", "def handler(c): pass", "requirements.txt", "numpy>=1\n\n# x\n"}, line: "all requirements are there already"},
		"pipfile lock": {files: []string{
			"train.py", useWheel, "Pipfile", "", "Pipfile.lock",
			`{"default":{"one":{"version":"==1.0"},"two":{"version":"==2.0","markers":"python_version >= '3'"}}}`,
		}, line: "one is 11 two is 22"},
		".abeja": {files: []string{"sub/project/.abeja/x", "", "sub/project/train.py", useWheel, "sub/project/requirements.txt", "one\ntwo"}, line: "one is 11 two is 22"},
		"in the code": {files: []string{
			"train.py", "import mine\ndef handler(c): print('mine is', mine.value)", "requirements.txt", "./mine\n",
			"mine/setup.py", "from setuptools import setup\nsetup(name='mine', version='1.0', py_modules=['mine'])\n", "mine/mine.py", "value = 33\n",
		}, line: "mine is 33"},
		"unknown package": {
			files: []string{"train.py", useWheel, "requirements.txt", "nothing-like-this==1\n"}, code: 1,
			reason: "installing the requirements: pip ended with exit code 1: ERROR: No matching distribution found for nothing-like-this==1",
		},
		"no pipenv": {
			files: []string{"train.py", useWheel, "Pipfile", "[packages]\none = '*'\n"}, code: 1, env: map[string]string{"PATH": "/nowhere"},
			reason: "the code has a Pipfile without Pipfile.lock, and this image has no pipenv to resolve it: add the lock file, or use requirements.txt",
		},
		"bad interpreter": {
			files: []string{"train.py", useWheel, "requirements.txt", "one"}, code: 1, env: map[string]string{agentctl.EnvPython: "/nowhere/python"},
			reason: "the Python interpreter /nowhere/python does not work",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			s.pack(c.files...)
			env := map[string]string{}
			for _, m := range []map[string]string{local, c.env} {
				maps.Copy(env, m)
			}
			e := start(t, s, "training", env).wait()
			if e.Code != c.code || !strings.HasPrefix(e.Reason, c.reason) {
				t.Errorf("exit %+v", e)
			}
			if s.entry(c.line).Message == "" {
				t.Errorf("no line %q", c.line)
			}
		})
	}
}

// Those who wait for the same environment learn that the build failed.
func TestBuildFailureIsTold(t *testing.T) {
	s := newServer(t)
	s.pack("train.py", "", "requirements.txt", "nothing-like-this\n")
	p := start(t, s, "training", map[string]string{agentctl.EnvPipArgs: pipArgs(t.TempDir())})
	st := p.until("the question", func(s agentctl.State) bool { return s.EnvRequest != nil })
	p.reply(agentctl.EnvReply{Key: st.EnvRequest.Key, Build: true})
	end := p.until("the end", func(s agentctl.State) bool { return s.Exit != nil })
	if end.EnvRequest == nil || !strings.Contains(end.EnvRequest.Error, "No matching distribution") || end.Exit.Code != 1 {
		t.Errorf("%+v %+v", end.EnvRequest, end.Exit)
	}
	p.wait()
}

// A hostile setup.py gets no token.
func TestInstallerHasNoToken(t *testing.T) {
	dir := t.TempDir()
	sdist := tgz(t, "one-1.0/setup.py", "import os\nopen(os.environ['TMPDIR'] + '/seen', 'a').write(str(sorted(os.environ)))\nfrom setuptools import setup\nsetup(name='one', version='1.0', py_modules=[])\n",
		"one-1.0/PKG-INFO", "Metadata-Version: 2.1\nName: one\nVersion: 1.0\n")
	if err := os.WriteFile(filepath.Join(dir, "one-1.0.tar.gz"), sdist, 0o600); err != nil {
		t.Fatal(err)
	}
	s := newServer(t)
	s.pack("train.py", "def handler(c): pass", "requirements.txt", "one\n")
	p := start(t, s, "training", map[string]string{"-" + agentctl.EnvControlFD: "", agentctl.EnvPipArgs: pipArgs(dir, "/usr/share/python-wheels")})
	if e := p.wait(); e.Code != 0 {
		t.Fatalf("%+v", e)
	}
	seen, err := os.ReadFile(filepath.Join(p.work, agentctl.DirTmp, "seen"))
	if err != nil || !bytes.Contains(seen, []byte("ABEJA_API_URL")) {
		t.Fatalf("the setup script did not run as expected: %q %v", seen, err)
	}
	if bytes.Contains(seen, []byte("PLATFORM_AUTH_TOKEN")) {
		t.Errorf("the installer sees %s", seen)
	}
}
