// SPDX-License-Identifier: Apache-2.0

package procrunner

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/x/fanout"
)

// Runner runs workloads as processes of this machine. Make one with New; at most
// one at a time may be open over one RunDir.
type Runner struct {
	cfg    Config
	iso    isolation
	groups *cgroups
	gpus   []gpu
	envs   *envCache
	boot   string
	hub    fanout.Hub[plat.WorkloadID]

	greetings chan struct{} // one for each agent that is asked for its first state
	answered  atomic.Int64  // agents that have told it

	// ctx ends with Close; it bounds the goroutines, never a workload.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	total     runner.Capacity // Total and JobShare
	workloads map[plat.WorkloadID]*workload
	nextUID   int
}

var (
	_ runner.Runner     = (*Runner)(nil)
	_ runner.PortWaller = (*Runner)(nil)
)

// New opens the runner, takes back the workloads that run and finds out how those
// that ended meanwhile ended. Isolation tells which walls the machine gives.
func New(cfg Config) (*Runner, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if !cfg.socketsFit() {
		if err := cfg.shortRunDir("the names of sockets below it would be too long"); err != nil {
			return nil, err
		}
		if !cfg.socketsFit() {
			return nil, plat.Errorf(plat.ErrInvalid, "run directory %s: its name is too long for sockets below it; set a shorter one", cfg.RunDir)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Runner{cfg: cfg, ctx: ctx, cancel: cancel, boot: bootID(), greetings: make(chan struct{}, maxGreetings), workloads: map[plat.WorkloadID]*workload{}}
	if err := r.open(); err != nil {
		cancel()
		return nil, err
	}
	r.logIsolation()
	return r, nil
}

func (r *Runner) open() error {
	if err := r.makeDirs(); err != nil {
		return err
	}
	r.total, r.gpus = r.cfg.capacity()
	r.iso = r.detectIsolation(r.ctx)
	if r.iso.uid && !r.iso.namespaces && r.cfg.RunDir == filepath.Join(r.cfg.Dir, "run") {
		// Without mount namespaces the way to work/ must be open to its uid.
		if d := closedAncestor(filepath.Join(r.cfg.RunDir, "x")); d != "" {
			if err := r.cfg.shortRunDir("other users can't enter " + d); err != nil {
				return err
			}
			r.cfg.EnvDir = r.cfg.RunDir + "-envs"
			if err := r.makeDirs(); err != nil {
				return err
			}
		}
	}
	if r.iso.root && !r.cfg.force.noCgroups {
		sum := sha256.Sum256([]byte(r.cfg.RunDir))
		groups, err := openCgroups("panal-" + hex.EncodeToString(sum[:6]))
		if err != nil {
			r.cfg.Log.Warn("no control groups: memory is watched instead", slog.String(plat.LogError, err.Error()))
		}
		r.groups = groups
		// Two servers on one machine begin at different uids.
		r.nextUID = r.cfg.UIDs[0] + int(uint32(sum[0])<<16|uint32(sum[1])<<8|uint32(sum[2]))%(r.cfg.UIDs[1]-r.cfg.UIDs[0]+1)
	}
	envs, err := openEnvCache(r.cfg.EnvDir, r.cfg.EnvBytes, r.cfg.Log)
	if err != nil {
		return err
	}
	r.envs = envs
	if err := r.adopt(); err != nil {
		return err
	}
	r.wg.Go(r.watchLimits)
	r.awaitStates()
	return nil
}

func (r *Runner) makeDirs() error {
	for _, d := range []string{r.cfg.RunDir, r.cfg.EnvDir} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return fmt.Errorf("runner directory: %w", err)
		}
		if err := os.Chmod(d, 0o711); err != nil {
			return fmt.Errorf("runner directory: %w", err)
		}
	}
	return nil
}

// Start implements runner.Runner.
func (r *Runner) Start(ctx context.Context, spec runner.Spec) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("start %s: %w", spec.ID, err)
	}
	if err := runner.ValidateSpec(spec); err != nil {
		return err
	}
	profile, err := r.cfg.profile(spec.Image)
	if err != nil {
		return err
	}
	w, known, err := r.reserve(spec)
	if err != nil {
		return err
	}
	if known {
		// Another call starts it or has started it: its outcome is ours.
		select {
		case <-w.launched:
			return w.launchErr
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	proc, err := r.launch(ctx, w, spec, profile)
	if err != nil {
		err = fmt.Errorf("start %s: %w", spec.ID, err)
	}
	r.mu.Lock()
	w.launchErr = err
	if err != nil {
		delete(r.workloads, spec.ID)
	} else {
		w.status.Phase = runner.PhaseStarting
		w.status.PID = proc.pid
		w.proc = proc
		w.follow()
	}
	close(w.launched)
	r.mu.Unlock()
	if err != nil {
		return err
	}
	r.hub.Notify(spec.ID)
	return nil
}

// reserve admits the spec and takes its uid and GPUs; known tells that the id is
// there already.
func (r *Runner) reserve(spec runner.Spec) (w *workload, known bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, false, plat.Errorf(plat.ErrUnavailable, "the runner is closed")
	}
	if w, ok := r.workloads[spec.ID]; ok {
		return w, true, nil
	}
	if err := r.capacity().Admit(spec.Resources, spec.Reserve); err != nil {
		return nil, false, err
	}
	w = newWorkload(r, record{
		ID: spec.ID, Org: spec.Org, Kind: spec.Kind, Image: spec.Image, Resources: spec.Resources,
		LogStream: spec.LogStream, Reserve: spec.Reserve, StartedAt: r.cfg.Now(),
		Key: plat.NewToken(), Boot: r.boot,
	})
	if r.iso.uid {
		if w.rec.UID, err = r.freeUID(); err != nil {
			return nil, false, err
		}
	}
	w.rec.GPUs = r.freeGPUs(spec.Resources.GPUs)
	r.workloads[spec.ID] = w
	return w, false, nil
}

// freeUID returns a uid that no workload has, not even an ended one whose files
// are still there, and no process of anybody's. It goes round so that uids rest.
func (r *Runner) freeUID() (int, error) {
	lo, hi := r.cfg.UIDs[0], r.cfg.UIDs[1]
	used := uidsInUse(lo, hi)
	for _, w := range r.workloads {
		used[w.rec.UID] = true
	}
	for range hi - lo + 1 {
		uid := r.nextUID
		if r.nextUID++; r.nextUID > hi {
			r.nextUID = lo
		}
		if !used[uid] {
			return uid, nil
		}
	}
	return 0, plat.Errorf(plat.ErrExhausted, "waiting for a uid: all from %d to %d are taken", lo, hi)
}

func (r *Runner) freeGPUs(n int) []gpu {
	if n == 0 {
		return nil
	}
	taken := map[int]bool{}
	for _, w := range r.workloads {
		if !w.ended() {
			for _, g := range w.rec.GPUs {
				taken[g.Index] = true
			}
		}
	}
	var free []gpu
	for _, g := range r.gpus {
		if !taken[g.Index] && len(free) < n {
			free = append(free, g)
		}
	}
	return free
}

func (r *Runner) capacity() runner.Capacity {
	c := r.total
	for _, w := range r.workloads {
		if !w.ended() {
			c.Take(w.rec.Resources, w.rec.Reserve)
		}
	}
	return c
}

// adopt takes back what an earlier runner left.
func (r *Runner) adopt() error {
	entries, err := os.ReadDir(r.cfg.RunDir)
	if err != nil {
		return fmt.Errorf("list workloads: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(r.cfg.RunDir, e.Name())
		if strings.HasPrefix(e.Name(), probePrefix) {
			if err := removeTree(r.cfg.RunDir, e.Name()); err != nil {
				return fmt.Errorf("remove the rest of a probe: %w", err)
			}
			continue
		}
		if !e.IsDir() || !strings.HasPrefix(e.Name(), "wl-") {
			continue
		}
		var rec record
		found, err := loadJSON(filepath.Join(dir, fileSpec), &rec)
		if err != nil {
			return fmt.Errorf("adopt %s: %w", e.Name(), err)
		}
		if !found || rec.PID == 0 || string(rec.ID) != e.Name() {
			// It never came to run anything: the plan is sent after the record.
			if err := removeTree(r.cfg.RunDir, e.Name()); err != nil {
				return fmt.Errorf("remove the rest of %s: %w", e.Name(), err)
			}
			continue
		}
		if err := r.adoptOne(rec); err != nil {
			return fmt.Errorf("adopt %s: %w", rec.ID, err)
		}
	}
	return nil
}

func (r *Runner) adoptOne(rec record) error {
	w := newWorkload(r, rec)
	close(w.launched)
	w.status.Phase = runner.PhaseStarting
	w.status.PID = rec.PID
	r.workloads[rec.ID] = w
	if rec.EnvKey != "" {
		r.envs.use(rec.Org, rec.EnvKey, rec.ID)
	}
	var stop stopRecord
	stopped, err := loadJSON(filepath.Join(w.dir, fileStop), &stop)
	if err != nil {
		return err
	}
	w.status.Stopped = stopped
	var end endRecord
	ended, err := loadJSON(filepath.Join(w.dir, fileEnd), &end)
	if err != nil {
		return err
	}
	if ended {
		w.setEnd(end)
		r.envs.release(rec.ID)
		return nil
	}
	if rec.Boot == r.boot {
		p, ok, err := openProcess(rec.PID, rec.StartTicks)
		if err != nil {
			return err
		}
		if ok {
			w.proc = p
			w.follow()
			if stopped {
				w.stopAt(stop.Deadline)
			}
			return nil
		}
	}
	return w.finish(exitStatus{})
}

// awaitStates gives the agents that were taken back a moment to say how they are,
// so that nobody sees what was running as starting again. The moment is over when none of
// them has said so for as long as adoptTimeout.
func (r *Runner) awaitStates() {
	answered := r.answered.Load()
	timeout := time.NewTimer(adoptTimeout)
	defer timeout.Stop()
	for _, w := range r.running() {
		for known := false; !known; {
			select {
			case <-w.heard:
				known = true
			case <-w.gone:
				known = true
			case <-timeout.C:
				now := r.answered.Load()
				if now == answered {
					r.cfg.Log.Warn("an agent does not answer", slog.String(plat.LogWorkload, string(w.rec.ID)))
					return
				}
				answered = now
				timeout.Reset(adoptTimeout)
			}
		}
	}
}

// Stop implements runner.Runner.
func (r *Runner) Stop(ctx context.Context, id plat.WorkloadID, grace time.Duration) error {
	r.mu.Lock()
	w, ok := r.workloads[id]
	if ok && w.status.Phase == "" {
		// Start is on its way in another goroutine; that takes milliseconds.
		r.mu.Unlock()
		select {
		case <-w.launched:
		case <-ctx.Done():
			return ctx.Err()
		}
		r.mu.Lock()
		w, ok = r.workloads[id]
	}
	if !ok || w.ended() {
		r.mu.Unlock()
		return nil
	}
	if r.closed {
		r.mu.Unlock()
		return plat.Errorf(plat.ErrUnavailable, "the runner is closed")
	}
	w.status.Stopped = true
	r.mu.Unlock()
	deadline := r.cfg.Now().Add(grace)
	if err := saveJSON(filepath.Join(w.dir, fileStop), stopRecord{Deadline: deadline}); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("stop %s: %w", id, err)
	}
	w.graceText.Store(&grace)
	w.stopAt(deadline) //nolint:contextcheck // it goes on after the call
	return nil
}

// StopAll stops every workload and waits until all have ended: panal stop
// --workloads.
func (r *Runner) StopAll(ctx context.Context, grace time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := r.Watch(ctx)
	list, err := r.List(ctx)
	if err != nil {
		return err
	}
	for _, st := range list {
		if err := r.Stop(ctx, st.ID, grace); err != nil {
			return err
		}
	}
	for {
		list, err := r.List(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(list, func(s runner.Status) bool { return s.Phase != runner.PhaseExited }) {
			return nil
		}
		if _, ok := <-changed; !ok {
			return fmt.Errorf("stop all workloads: %w", cmp.Or(context.Cause(ctx), plat.ErrUnavailable))
		}
	}
}

// List implements runner.Runner, in the order of ids.
func (r *Runner) List(context.Context) ([]runner.Status, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]runner.Status, 0, len(r.workloads))
	for _, w := range r.workloads {
		if w.status.Phase != "" {
			list = append(list, w.status)
		}
	}
	slices.SortFunc(list, func(a, b runner.Status) int { return cmp.Compare(a.ID, b.ID) })
	return list, nil
}

// Watch implements runner.Runner.
func (r *Runner) Watch(ctx context.Context) <-chan plat.WorkloadID { return r.hub.Watch(ctx) }

// Get implements runner.Runner.
func (r *Runner) Get(_ context.Context, id plat.WorkloadID) (runner.Status, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w, ok := r.workloads[id]
	if !ok || w.status.Phase == "" {
		return runner.Status{}, plat.NotFound("workload", id)
	}
	return w.status, nil
}

// Spool implements runner.Runner.
func (r *Runner) Spool(_ context.Context, id plat.WorkloadID) ([]runner.SpoolBatch, error) {
	r.mu.Lock()
	w, ok := r.workloads[id]
	r.mu.Unlock()
	if !ok {
		return nil, plat.NotFound("workload", id)
	}
	return readSpool(filepath.Join(w.dir, dirWork), id, w.rec.LogStream, r.cfg.off.reads)
}

// Remove implements runner.Runner.
func (r *Runner) Remove(_ context.Context, id plat.WorkloadID) error {
	r.mu.Lock()
	w, ok := r.workloads[id]
	if !ok {
		r.mu.Unlock()
		return nil
	}
	if !w.ended() {
		r.mu.Unlock()
		return plat.Errorf(plat.ErrConflict, "workload %s still runs; stop it first", id)
	}
	r.mu.Unlock()
	// The record goes last: a removal cut short is done again, never resurrected.
	if err := removeTree(w.dir, dirWork); err != nil {
		return fmt.Errorf("remove %s: %w", id, err)
	}
	if err := removeTree(r.cfg.RunDir, string(id)); err != nil {
		return fmt.Errorf("remove %s: %w", id, err)
	}
	removeGroups(w.rec.Groups)
	r.mu.Lock()
	delete(r.workloads, id)
	r.mu.Unlock()
	return nil
}

// Capacity implements runner.Runner.
func (r *Runner) Capacity(context.Context) (runner.Capacity, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.capacity(), nil
}

// Isolation implements runner.Runner: "uid", "landlock" or "none". With "uid" a
// reason tells what is missing, if anything is.
func (r *Runner) Isolation() (level, reason string) { return r.iso.level, r.iso.reason }

// WallsPorts implements runner.PortWaller.
func (r *Runner) WallsPorts() (ok bool, reason string) { return r.iso.network, r.iso.netReason }

// Close implements runner.Runner.
func (r *Runner) Close() error {
	r.mu.Lock()
	r.closed = true
	for _, w := range r.workloads {
		w.detach()
	}
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
	r.hub.Close()
	if r.groups != nil {
		r.groups.close()
	}
	return nil
}

// removeTree deletes dir/name, which may be hostile, without leaving dir.
func removeTree(dir, name string) error {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	err = root.RemoveAll(name)
	if errors.Is(err, fs.ErrPermission) {
		// Not root: directories that their owner closed must be opened first.
		_ = fs.WalkDir(root.FS(), name, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				_ = root.Chmod(path, 0o700)
			}
			return nil
		})
		err = root.RemoveAll(name)
	}
	return err
}

func (r *Runner) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}
