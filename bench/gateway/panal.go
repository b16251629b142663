// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"panal/bench/proc"
	"panal/internal/client"
	"panal/internal/deploy"
	"panal/internal/plat"
	"panal/internal/runner/agentctl"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlite"
)

// ours is a real installation of Panal: the service under test is the upstream program,
// deployed as a version with a command; the others are rows in the database.
type ours struct {
	b       *bench
	data    string
	addr    string
	admin   proc.Admin
	dep     string
	version string
	service string
	way     way // to the instance of the service
	filled  int
	running *proc.Process
}

func (b *bench) install(ctx context.Context) (*ours, error) {
	addr, err := proc.FreeAddr()
	if err != nil {
		return nil, err
	}
	o := &ours{b: b, addr: addr, data: filepath.Join(b.dir, "panal")}
	if err := o.start(ctx); err != nil {
		return o, err
	}
	if o.admin, err = proc.ReadAdmin(filepath.Join(o.data, "admin.json")); err != nil {
		return o, err
	}
	return o, o.deploy(ctx)
}

func (o *ours) start(ctx context.Context) error {
	argv := []string{o.b.o.panal, "serve", "--data", o.data, "--listen", o.addr, "--max-connections-per-address", "20000"}
	if o.b.o.pprof != "" {
		argv = append(argv, "--admin-listen", o.b.o.pprof)
	}
	began := time.Now()
	p, err := proc.Start("panal", o.b.o.proxyCPU, filepath.Join(o.b.dir, "panal-"+strconv.Itoa(o.filled)+".log"), nil, argv...)
	if err != nil {
		return err
	}
	o.running = p
	if err := p.Listens(ctx, o.addr); err != nil {
		return err
	}
	for range 600 {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+o.addr+"/readyz", nil)
		if err != nil {
			return fmt.Errorf("ready: %w", err)
		}
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				fmt.Printf("Panal with %d services: ready after %.2f s\n", o.filled+1, time.Since(began).Seconds())
				return nil
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return plat.Errorf(plat.ErrUnavailable, "Panal does not get ready; see its log in %s", o.b.dir)
}

func (o *ours) client() *client.Client {
	return client.New("http://"+o.addr, o.admin.Org, o.admin.User, o.admin.Token)
}

// deploy makes the service and waits until it is READY.
func (o *ours) deploy(ctx context.Context) error {
	source, err := packSelf()
	if err != nil {
		return err
	}
	api, name := o.client(), "bench"
	dep, err := api.CreateDeployment(ctx, client.DeploymentParams{Name: &name})
	if err != nil {
		return fmt.Errorf("create deployment: %w", err)
	}
	code, err := api.CreateCode(ctx, dep.ID, client.CodeParams{
		Label: "1", Image: "abeja-inc/all-cpu:19.10", HealthPath: "/healthz",
		Command: []string{"/bin/sh", "-c", "exec ./upstream upstream 127.0.0.1:$PORT"}, Environment: map[string]string{"PANAL_CONCURRENCY": "1024"},
	}, bytes.NewReader(source), int64(len(source)))
	if err != nil {
		return fmt.Errorf("create version: %w", err)
	}
	s, err := api.CreateService(ctx, dep.ID, client.ServiceParams{Version: code.ID, Number: new(1)})
	if err != nil {
		return fmt.Errorf("create service: %w", err)
	}
	o.dep, o.version, o.service = dep.ID, code.ID, s.ID
	for range 600 {
		if s, err = api.Service(ctx, dep.ID, s.ID); err != nil {
			return fmt.Errorf("service: %w", err)
		}
		if s.Status == "READY" {
			return o.pin()
		}
		time.Sleep(100 * time.Millisecond)
	}
	return plat.Errorf(plat.ErrUnavailable, "the service is %s: %s", s.Status, s.StatusMessage)
}

// pin moves the service to the core of the generator, where the peers' upstream is, too.
func (o *ours) pin() error {
	pids, err := proc.Children(o.running.PID)
	if err != nil {
		return err
	}
	o.b.workload = append(o.b.workload, pids...)
	for _, pid := range pids {
		if err := proc.Pin(pid, o.b.o.clientCPU); err != nil {
			return err
		}
		if o.way.key == "" {
			o.way.network, o.way.addr, o.way.key = "unix", o.socket(pid), variable(pid, agentctl.EnvInstanceKey)
		}
	}
	if o.way.addr == "" {
		return plat.Errorf(plat.ErrUnavailable, "no agent with a socket among %v", pids)
	}
	return nil
}

// variable returns what a process had in its environment when it started.
func variable(pid int, name string) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return "" // it has ended
	}
	for kv := range strings.SplitSeq(string(b), "\x00") {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}

// socket returns where the agent pid takes requests; "" for another process.
func (o *ours) socket(pid int) string {
	id := variable(pid, agentctl.EnvWorkloadID)
	b, err := os.ReadFile("/proc/net/unix")
	if id == "" || err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); strings.HasSuffix(line, id+"/s/serve.sock\n") && len(f) == 8 {
			return f[7]
		}
	}
	return ""
}

// packSelf returns a zip of this program.
func packSelf() ([]byte, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("own path: %w", err)
	}
	f, err := os.Open(filepath.Clean(self))
	if err != nil {
		return nil, fmt.Errorf("own program: %w", err)
	}
	defer func() { _ = f.Close() }()
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	head := &zip.FileHeader{Name: "upstream", Method: zip.Deflate}
	head.SetMode(0o755)
	w, err := z.CreateHeader(head)
	if err == nil {
		_, err = io.Copy(w, f)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("pack own program: %w", err)
	}
	return out.Bytes(), nil
}

// fill stops the server, adds services to its database until there are n besides the one
// under test, and starts it again; the service goes on meanwhile. They are stopped ones:
// routes of the table like any other.
func (o *ours) fill(ctx context.Context, n int) error {
	o.running.Stop()
	if err := o.insert(ctx, n); err != nil {
		return err
	}
	return o.start(ctx)
}

const servicesEach = 10 // of a deployment

func (o *ours) insert(ctx context.Context, n int) (err error) {
	db, err := sqlite.Open(ctx, filepath.Join(o.data, "control.db"), "outbox", "control")
	if err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	defer func() { err = db.Close() }()
	store := sqlstore.NewDeploys(db)
	like, err := store.Service(ctx, plat.ServiceID(o.service))
	if err != nil {
		return err
	}
	code, err := store.Version(ctx, plat.DeploymentID(o.dep), plat.VersionID(o.version))
	if err != nil {
		return err
	}
	dep, err := store.Deployment(ctx, plat.OrgID(o.admin.Org), plat.DeploymentID(o.dep))
	if err != nil {
		return err
	}
	for ; o.filled < n; o.filled++ {
		if o.filled%servicesEach == 0 {
			dep.ID, dep.Name = plat.DeploymentID(plat.NewDecimalID()), "filler-"+strconv.Itoa(o.filled)
			code.ID, code.Deployment = plat.VersionID(plat.NewHexID("ver")), dep.ID
			if err := store.CreateDeployment(ctx, dep); err != nil {
				return err
			}
			if err := store.CreateVersion(ctx, code); err != nil {
				return err
			}
		}
		s := like
		s.ID, s.Deployment, s.Version, s.Status = plat.ServiceID(plat.NewHexID("ser")), dep.ID, code.ID, deploy.Stopped
		if err := store.CreateService(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// asProxy describes the running server to the measurements.
func (o *ours) asProxy() *proxy {
	return &proxy{
		Process: o.running, addr: o.addr, path: "/deployments/" + o.dep + "/services/" + o.service,
		auth: "Basic " + base64.StdEncoding.EncodeToString([]byte("user-"+o.admin.User+":"+o.admin.Token)),
	}
}
