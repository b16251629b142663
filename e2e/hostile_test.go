// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestHostileTraining: user code that fails in every way hurts only itself, and its
// job says why.
func TestHostileTraining(t *testing.T) {
	p := startPlatform(t)
	p.call(http.MethodPost, p.api.OrgPath("training", "definitions"), map[string]string{"name": "hostile"})
	const loud = 100_000
	cases := []struct {
		name, code, status, message string
		logs                        func(lines []string) error
	}{
		{"raises", "def handler(context):\n    raise ValueError('planted in training')\n", "Failed", "planted in training", nil},
		{"raises on import", "import nonsense_that_is_not_there\n", "Failed", "nonsense_that_is_not_there", nil},
		{"has no handler", "x = 1\n", "Failed", "handler", nil},
		{"exits", "import os\ndef handler(context):\n    os._exit(3)\n", "Failed", "", nil},
		{"returns nonsense", "def handler(context):\n    return object()\n", "Complete", "", nil},
		{"eats its memory", "def handler(context):\n    b = []\n    while True:\n        b.append(bytearray(16 << 20))\n", "Failed", "memory", nil},
		{"forks without end", "import os\ndef handler(context):\n    while True:\n        os.fork()\n", "Failed", "", nil},
		{"leaves children behind", "import os, time\ndef handler(context):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n            time.sleep(3600)\n        os._exit(0)\n", "Complete", "", nil},
		{"prints 100 MB", fmt.Sprintf("def handler(context):\n    for i in range(%d):\n        print(f'{i:07d} ' + 'x' * 1015)\n", loud), "Complete", "", func(lines []string) error {
			n := 0
			for _, l := range lines {
				if len(l) == 1023 {
					if want := fmt.Sprintf("%07d ", n); !strings.HasPrefix(l, want) {
						return fmt.Errorf("line %d begins with %q", n, l[:8])
					}
					n++
				}
			}
			if n != loud {
				return fmt.Errorf("%d lines of %d", n, loud)
			}
			return nil
		}},
	}
	ids := map[string]string{}
	for _, c := range cases {
		v := p.version("hostile", map[string]string{"train.py": c.code})
		ids[c.name] = p.job("hostile", v, nil)
	}
	for _, c := range cases {
		j := p.waitJob("hostile", ids[c.name], 3*time.Minute)
		message, _ := j["status_message"].(string)
		if j["status"] != c.status || !strings.Contains(message, c.message) {
			t.Errorf("%s: %v, %q; want %s with %q", c.name, j["status"], message, c.status, c.message)
		}
		if c.logs != nil {
			if err := c.logs(p.lines(p.def("hostile", "jobs", ids[c.name], "logs"))); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
	v := p.version("hostile", map[string]string{"train.py": "def handler(context):\n    print('all is well')\n"})
	id := p.job("hostile", v, nil)
	if j := p.waitJob("hostile", id, time.Minute); j["status"] != "Complete" {
		t.Errorf("after all that, a good job is %v: %v", j["status"], j["status_message"])
	}
	if lines := strings.Join(p.lines(p.def("hostile", "jobs", id, "logs")), "\n"); !strings.Contains(lines, "all is well") {
		t.Errorf("its log: %s", lines)
	}
}

// TestStopHangingJob: a job that hangs is stopped when it is asked to.
func TestStopHangingJob(t *testing.T) {
	p := startPlatform(t)
	p.call(http.MethodPost, p.api.OrgPath("training", "definitions"), map[string]string{"name": "hang"})
	v := p.version("hang", map[string]string{"train.py": "import time\ndef handler(context):\n    print('sleeping')\n    time.sleep(3600)\n"})
	id := p.job("hang", v, nil)
	p.until("the job's first line", time.Minute, func() bool {
		return strings.Contains(strings.Join(p.lines(p.def("hang", "jobs", id, "logs")), "\n"), "sleeping")
	})
	p.call(http.MethodPost, p.def("hang", "jobs", id, "stop"), nil)
	if j := p.waitJob("hang", id, time.Minute); j["status"] != "Stopped" {
		t.Errorf("status %v", j["status"])
	}
}

// TestHostileService: one handler that misbehaves on demand; the others' requests
// are answered all the while.
func TestHostileService(t *testing.T) {
	p := startPlatform(t)
	dep, svc := p.service(map[string]string{"main.py": `
import os, sys
def handler(request, context):
    what = request.read().decode()
    if what == "raise":
        raise ValueError("planted in serving")
    if what == "nonsense":
        return 42
    if what == "status":
        return {"status_code": "many", "content": "x"}
    if what == "stdout":
        print("x" * 300000)
        sys.stdout.close()
    if what == "die":
        os._exit(9)
    return {"content": "well: " + what}
`}, 2)
	path := p.api.OrgPath("deployments", dep, "services", svc)
	p.until("READY", time.Minute, func() bool { return p.call(http.MethodGet, path, nil)["status"] == "READY" })
	for _, what := range []string{"raise", "nonsense", "status"} {
		if status, body := p.infer(dep, svc, what); status != http.StatusInternalServerError {
			t.Errorf("%s = %d %s", what, status, body)
		}
	}
	if status, body := p.infer(dep, svc, "die"); status < 500 {
		t.Errorf("die = %d %s", status, body)
	}
	for _, what := range []string{"a", "stdout", "b", "c"} {
		if status, body := p.infer(dep, svc, what); status != http.StatusOK || body != "well: "+what {
			t.Errorf("%s = %d %s", what, status, body)
		}
	}
	p.until("the traceback in the log", 30*time.Second, func() bool {
		return strings.Contains(strings.Join(p.lines(path+"/logs"), "\n"), "planted in serving")
	})
	p.until("READY again", time.Minute, func() bool { return p.call(http.MethodGet, path, nil)["status"] == "READY" })
}
