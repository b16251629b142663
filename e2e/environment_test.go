// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// wheelhouse is a directory of packages, the only source of requirements.
type wheelhouse struct {
	t   *testing.T
	dir string
}

// newWheelhouse makes one that holds what building a source package needs.
func newWheelhouse(t *testing.T) *wheelhouse {
	t.Helper()
	h := &wheelhouse{t: t, dir: t.TempDir()}
	for _, name := range []string{"setuptools", "wheel"} {
		found, err := filepath.Glob("/usr/share/python-wheels/" + name + "-*.whl")
		if err != nil || len(found) == 0 {
			t.Fatalf("no wheel of %s: install python3-%s-whl", name, name)
		}
		b, err := os.ReadFile(found[0])
		if err != nil {
			t.Fatal(err)
		}
		h.add(filepath.Base(found[0]), b)
	}
	return h
}

func (h *wheelhouse) add(name string, b []byte) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), b, 0o644); err != nil {
		h.t.Fatal(err)
	}
}

// wheel adds a package of one module, ready to install.
func (h *wheelhouse) wheel(name, version, code string) {
	h.t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	info := name + "-" + version + ".dist-info/"
	for _, f := range [][2]string{
		{name + ".py", code},
		{info + "METADATA", "Metadata-Version: 2.1\nName: " + name + "\nVersion: " + version + "\n"},
		{info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{info + "RECORD", name + ".py,,\n" + info + "METADATA,,\n" + info + "WHEEL,,\n" + info + "RECORD,,\n"},
	} {
		part, err := w.Create(f[0])
		if err == nil {
			_, err = part.Write([]byte(f[1]))
		}
		if err != nil {
			h.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		h.t.Fatal(err)
	}
	h.add(name+"-"+version+"-py3-none-any.whl", buf.Bytes())
}

// sdist adds a package of one module as source: its setup.py is user code that runs
// while the environment is built. before runs in it first.
func (h *wheelhouse) sdist(name, version, before, code string) {
	h.t.Helper()
	top := name + "-" + version + "/"
	h.add(name+"-"+version+".tar.gz", archiveOf(h.t, map[string]string{
		top + "PKG-INFO":       "Metadata-Version: 2.1\nName: " + name + "\nVersion: " + version + "\n",
		top + name + ".py":     code,
		top + "setup.py":       before + "\nfrom setuptools import setup\nsetup(name='" + name + "', version='" + version + "', py_modules=['" + name + "'])\n",
		top + "pyproject.toml": "[build-system]\nrequires = ['setuptools', 'wheel']\nbuild-backend = 'setuptools.build_meta:__legacy__'\n",
	}))
}

// flags start a server that installs from the wheelhouse alone. It has room for a
// few jobs of a whole CPU each, however small the machine.
func (h *wheelhouse) flags(more ...string) []string {
	return append([]string{"--pip-no-index", "--pip-find-links", h.dir, "--capacity-cpu", "8", "--capacity-memory-mb", "16384"}, more...)
}

// pythonJob starts a job of code with these requirements on a whole CPU.
func (p *platform) pythonJob(code, requirements string) string {
	p.t.Helper()
	v := p.version("python", map[string]string{"train.py": code, "requirements.txt": requirements})
	out := p.call(http.MethodPost, p.def("python", "versions", v, "jobs"), map[string]any{"instance_type": "cpu-1"})
	return out["training_job_id"].(string)
}

// complete waits for a job's good end and returns its log.
func (p *platform) complete(id string) string {
	p.t.Helper()
	j := p.waitJob("python", id, 4*time.Minute)
	log := strings.Join(p.lines(p.def("python", "jobs", id, "logs")), "\n")
	if j["status"] != "Complete" {
		p.t.Fatalf("job %s is %v: %v\n%s", id, j["status"], j["status_message"], log)
	}
	return log
}

const installing = "installing requirements: "

// useEnvironment says where it found a package, and tries to change it for those who
// share it.
const useEnvironment = `
import os, one, two
def handler(context):
    print("one is", one.value, "and two is", two.value)
    site = os.path.dirname(one.__file__)
    print("site is", site)
    for what in (lambda: open(one.__file__, "a").write("value = 666\n"),
                 lambda: open(os.path.join(site, "planted.py"), "w").close(),
                 lambda: os.remove(two.__file__),
                 lambda: os.rename(site, site + "-mine"),
                 lambda: os.chmod(site, 0o777)):
        try:
            what()
            print("the environment was CHANGED")
        except OSError as e:
            print("refused:", e)
`

// TestPythonEnvironments: requirements are installed under the walls from a
// directory of packages, once per organization and content, and are then shared,
// read-only.
func TestPythonEnvironments(t *testing.T) {
	h := newWheelhouse(t)
	h.wheel("one", "1.5", "value = 11\n")
	h.sdist("two", "2.0", "", "value = 22\n")
	// Its build takes long enough for another job to come in between.
	h.sdist("slow", "1.0", "import time\ntime.sleep(3)\n", "value = 33\n")
	h.wheel("three", "3.0", "value = 'three'\n")
	p := startPlatform(t, h.flags()...)
	p.call(http.MethodPost, p.api.OrgPath("training", "definitions"), map[string]string{"name": "python"})

	// The first job builds, the second finds.
	first := p.complete(p.pythonJob(useEnvironment, "one>=1\ntwo==2.0\n"))
	if !strings.Contains(first, installing+"one>=1, two==2.0") {
		t.Errorf("the first job did not install:\n%s", first)
	}
	second := p.complete(p.pythonJob(useEnvironment, "one>=1\ntwo==2.0\n"))
	if strings.Contains(second, installing) {
		t.Errorf("the second job installed again:\n%s", second)
	}
	var sites []string
	for _, log := range []string{first, second} {
		if !strings.Contains(log, "one is 11 and two is 22") || strings.Contains(log, "CHANGED") || strings.Count(log, "refused: ") != 5 {
			t.Errorf("log:\n%s", log)
		}
		_, site, _ := strings.Cut(log, "site is ")
		site, _, _ = strings.Cut(site, "\n")
		sites = append(sites, site)
	}
	if sites[0] != sites[1] || !strings.HasPrefix(sites[0], filepath.Join(p.data, "environments")+"/") {
		t.Errorf("the environments are %q", sites)
	}
	// Nobody's but the server's: whatever wall falls, a workload's uid can't write it.
	if err := filepath.WalkDir(sites[0], func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if st := fi.Sys().(*syscall.Stat_t); int(st.Uid) != os.Geteuid() || fi.Mode()&0o022 != 0 && fi.Mode()&fs.ModeSymlink == 0 {
			t.Errorf("%s: uid %d, %s", path, st.Uid, fi.Mode())
		}
		return nil
	}); err != nil {
		t.Error(err)
	}

	// Two at once: one builds, the other waits for it.
	const slow = "import slow\ndef handler(context):\n    print('slow is', slow.value)\n"
	logs := ""
	for _, id := range []string{p.pythonJob(slow, "slow\n"), p.pythonJob(slow, "slow\n")} {
		logs += p.complete(id) + "\n"
	}
	if strings.Count(logs, "slow is 33") != 2 || strings.Count(logs, installing) != 1 {
		t.Errorf("two jobs at once installed %d times:\n%s", strings.Count(logs, installing), logs)
	}

	// What is nowhere: the job says so in pip's own words.
	j := p.waitJob("python", p.pythonJob(slow, "slow\nnothing-like-this==1\n"), 4*time.Minute)
	if message, _ := j["status_message"].(string); j["status"] != "Failed" || !strings.Contains(message, "No matching distribution found for nothing-like-this==1") {
		t.Errorf("a package that is missing: %v: %v", j["status"], message)
	}

	// A service has requirements too.
	dep, svc := p.service(map[string]string{
		"main.py":          "import three\ndef handler(request, context):\n    return {'content': three.value}\n",
		"requirements.txt": "three\n",
	}, 1)
	path := p.api.OrgPath("deployments", dep, "services", svc)
	p.until("READY", 4*time.Minute, func() bool { return p.call(http.MethodGet, path, nil)["status"] == "READY" })
	if status, body := p.infer(dep, svc, ""); status != http.StatusOK || body != "three" {
		t.Errorf("the service answers %d %s", status, body)
	}
}

// hostileSetup is a setup.py that goes for the platform while it is installed, and
// leaves what it found as a module. %s is a JSON object of its targets.
const hostileSetup = `
import json, os, signal
targets = json.loads(r'''%s''')
done = {}
def attempt(name, what):
    try:
        done[name] = what()
    except Exception as e:
        done[name] = "refused: " + repr(e)[:200]
def read(path):
    with open(path, "rb") as f:
        return "GOT %%d bytes" %% len(f.read(1 << 20))
def server(pid): # in a namespace, the number may be somebody else's
    with open("/proc/%%d/cmdline" %% pid, "rb") as f:
        if b"serve" not in f.read():
            raise OSError("another process has the number")
    return True
def signal_server(pid):
    server(pid)
    os.kill(pid, signal.SIGCONT) # harmless when it arrives
    return "GOT through"
for name, path in targets["files"].items():
    attempt("read " + name, lambda: read(path))
def find(dir, name): # a directory may be there, covered
    if name not in os.listdir(dir):
        raise OSError("not in sight")
    return "GOT sight of it"
attempt("see the server's files", lambda: find(targets["data"], "admin.json"))
attempt("see another job's files", lambda: find(targets["victim"], "secret"))
def write(path):
    with open(path, "w") as f:
        f.write("planted")
    return "GOT it written"
attempt("write into another job", lambda: write(os.path.join(targets["victim"], "planted")))
attempt("signal the server", lambda: signal_server(targets["pid"]))
attempt("read the server's environment", lambda: server(targets["pid"]) and read("/proc/%%d/environ" %% targets["pid"]))
with open("loot.py", "w") as f:
    f.write("done = " + repr(done) + "\n")
`

// TestHostileSetup: building an environment runs other people's code. It stands
// behind the walls of its workload. The same code without walls succeeds in every
// attempt, so that a test which could not attack would be noticed.
func TestHostileSetup(t *testing.T) {
	h := newWheelhouse(t)
	p := startPlatform(t, h.flags()...)
	p.call(http.MethodPost, p.api.OrgPath("training", "definitions"), map[string]string{"name": "python"})

	// The other job is at work and keeps a secret.
	victim := p.pythonJob(keepSecret, "")
	var dir string
	p.until("the victim", 2*time.Minute, func() bool {
		for _, l := range p.lines(p.def("python", "jobs", victim, "logs")) {
			if d, ok := strings.CutPrefix(l, "my secret is in "); ok {
				dir = d
			}
		}
		return dir != ""
	})
	files := map[string]string{"the other job's secret": filepath.Join(dir, "secret")}
	for _, name := range []string{"admin.json", "control.db", "secret.key", "lake.db"} {
		files[name] = filepath.Join(p.data, name)
	}
	targets, err := json.Marshal(map[string]any{"files": files, "data": p.data, "victim": dir, "pid": p.cmd.Process.Pid})
	if err != nil {
		t.Fatal(err)
	}
	attack := fmt.Sprintf(hostileSetup, targets)
	check := func(where, log string, succeeds bool) {
		t.Helper()
		_, text, _ := strings.Cut(log, "loot: ")
		text, _, _ = strings.Cut(text, "\n")
		var loot map[string]string
		if err := json.Unmarshal([]byte(text), &loot); err != nil {
			t.Fatalf("%s: %v in\n%s", where, err, log)
		}
		if want := len(files) + 5; len(loot) != want {
			t.Errorf("%s: %d attempts, want %d: %v", where, len(loot), want, loot)
		}
		for what, got := range loot {
			if strings.HasPrefix(got, "GOT") != succeeds {
				t.Errorf("%s: %s: %s", where, what, got)
			}
		}
		if _, err := os.Stat(filepath.Join(dir, "planted")); (err == nil) != succeeds {
			t.Errorf("%s: planted in the other job's directory: %v", where, err == nil)
		}
	}
	const show = "import json, loot\ndef handler(context):\n    print('loot:', json.dumps(loot.done))\n"
	h.sdist("loot", "1.0", attack, "")
	check("behind the walls", p.complete(p.pythonJob(show, "loot\n")), false)

	// The platform lives, and the other job is where it was.
	if j := p.call(http.MethodGet, p.def("python", "jobs", victim), nil); j["status"] != "Active" {
		t.Errorf("the other job is %v: %v", j["status"], j["status_message"])
	}
	res, err := http.Get("http://" + p.listen + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	if res.Body.Close(); res.StatusCode != http.StatusOK {
		t.Errorf("readyz = %d", res.StatusCode)
	}

	cmd := exec.Command("/usr/bin/python3", "-c", attack+"\nprint('loot:', json.dumps(done))\n")
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	check("without walls", string(out), true)

	p.call(http.MethodPost, p.def("python", "jobs", victim, "stop"), nil)
	if j := p.waitJob("python", victim, time.Minute); j["status"] != "Stopped" {
		t.Errorf("the other job ended %v", j["status"])
	}
}

const keepSecret = `
import os, time
def handler(context):
    result = os.environ["ABEJA_TRAINING_RESULT_DIR"]
    with open(os.path.join(result, "secret"), "w") as f:
        f.write("mine")
    print("my secret is in", result, flush=True)
    time.sleep(3600)
`
