// SPDX-License-Identifier: Apache-2.0

package procrunner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/agentctl"
)

// launch brings a reserved workload to life. After an error nothing of it is left.
func (r *Runner) launch(ctx context.Context, w *workload, spec runner.Spec, profile Profile) (proc *process, err error) {
	if err := os.Mkdir(w.dir, 0o711); err != nil {
		return nil, err
	}
	// Whatever the server's umask: without mount namespaces its uid walks here.
	if err := os.Chmod(w.dir, 0o711); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			removeGroups(w.rec.Groups)
			err = errors.Join(err, removeTree(r.cfg.RunDir, string(w.rec.ID)))
		}
	}()
	work := filepath.Join(w.dir, dirWork)
	if err := makeWork(work, w.rec.UID); err != nil {
		return nil, err
	}
	if err := r.envs.prepare(spec.Org); err != nil {
		return nil, err
	}
	listeners, err := w.listen()
	if err != nil {
		return nil, err
	}
	defer closeAll(listeners)
	output, err := os.OpenFile(filepath.Join(w.dir, fileLog), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = output.Close() }()
	if r.groups != nil {
		l := limits{memory: spec.Resources.Memory, processes: r.cfg.Processes, milliCPU: spec.Resources.MilliCPU, burst: r.cfg.CPUBurst}
		if r.cfg.off.memory {
			l.memory = 0
		}
		if r.cfg.off.processes {
			l.processes = 0
		}
		if w.rec.Groups, err = r.groups.make(string(w.rec.ID), l); err != nil {
			return nil, err
		}
	}
	env, err := r.environment(w, spec, profile, work)
	if err != nil {
		return nil, err
	}
	p := r.plan(r.iso, launchSpec{
		work: work, uid: w.rec.UID, org: spec.Org, profile: profile, memory: spec.Resources.Memory, gpus: w.rec.GPUs, network: len(spec.Command) > 0 && r.iso.network,
		args: append(append([]string{"panal"}, r.cfg.Agent...), string(spec.Kind)), env: env, files: len(listeners),
	})
	return r.startProcess(ctx, w, p, output, listeners)
}

// startProcess runs the first stage up to the exec of the agent.
func (r *Runner) startProcess(ctx context.Context, w *workload, p plan, output *os.File, listeners []*os.File) (proc *process, err error) {
	cmd, status, err := r.command(r.iso, output, listeners)
	if err != nil {
		return nil, err
	}
	defer func() { _ = status.Close() }()
	pidfd := -1
	cmd.SysProcAttr.PidFD = &pidfd
	planEnd, err := r.spawn(cmd)
	if err != nil {
		return nil, err
	}
	pid := cmd.Process.Pid
	defer func() {
		if err != nil {
			_ = planEnd.Close()
			_ = cmd.Process.Kill()
			_, _ = cmd.Process.Wait()
			if pidfd >= 0 {
				_ = unix.Close(pidfd)
			}
		}
	}()
	// The stage waits for its plan. First into the groups, then on record.
	if err := join(w.rec.Groups, pid); err != nil {
		return nil, err
	}
	if w.rec.StartTicks, err = startTicks(pid); err != nil {
		return nil, err
	}
	w.rec.PID = pid
	if err := w.saveRecord(); err != nil {
		return nil, err
	}
	if err := sendPlan(planEnd, p); err != nil {
		return nil, fmt.Errorf("send the plan: %w", err)
	}
	text, err := readStatus(ctx, status)
	if err != nil {
		return nil, fmt.Errorf("wait for the agent: %w", err)
	}
	if text != "" {
		return nil, errors.New(text)
	}
	if pidfd < 0 {
		if pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
			return nil, fmt.Errorf("open process: %w", err)
		}
	}
	if err := cmd.Process.Release(); err != nil {
		return nil, fmt.Errorf("release process: %w", err)
	}
	return newProcess(pid, pidfd), nil
}

// makeWork makes the workload's own directory and gives it to its uid.
func makeWork(work string, uid int) error {
	dirs := []string{"", agentctl.DirCode, agentctl.DirResult, agentctl.DirTmp, agentctl.DirSpool, agentctl.DirEnv, dirHome}
	for _, d := range dirs {
		path := filepath.Join(work, d)
		if err := os.Mkdir(path, 0o700); err != nil {
			return err
		}
	}
	if uid == 0 {
		return nil
	}
	for _, d := range slices.Backward(dirs) {
		if err := os.Lchown(filepath.Join(work, d), uid, uid); err != nil {
			return err
		}
	}
	return nil
}

// listen makes the sockets that the agent inherits. Their names stay when our
// copies close.
func (w *workload) listen() (files []*os.File, err error) {
	dir := filepath.Join(w.dir, dirSocket)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	names := []string{"control.sock"}
	if w.rec.Kind == runner.KindService {
		names = append(names, "serve.sock")
	}
	for _, name := range names {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"})
		if err != nil {
			closeAll(files)
			return nil, err
		}
		l.SetUnlinkOnClose(false)
		f, err := l.File()
		_ = l.Close()
		if err != nil {
			closeAll(files)
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// environment builds the agent's environment from nothing.
func (r *Runner) environment(w *workload, spec runner.Spec, profile Profile, work string) ([]string, error) {
	pip, err := json.Marshal(append([]string{}, r.cfg.PipArgs...))
	if err != nil {
		return nil, err
	}
	env := map[string]string{
		"PATH":   "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME":   filepath.Join(work, dirHome),
		"TMPDIR": filepath.Join(work, agentctl.DirTmp),
		"LANG":   "C.UTF-8",
		// Numeric libraries start a thread per core of the machine otherwise.
		"OMP_NUM_THREADS": strconv.FormatInt(max(1, spec.Resources.MilliCPU/1000), 10),
	}
	if r.cfg.off.environ {
		for _, kv := range os.Environ() {
			k, v, _ := strings.Cut(kv, "=")
			env[k] = v
		}
	}
	maps.Copy(env, spec.Env)
	if len(profile.SiteDirs) > 0 {
		dirs := slices.Clone(profile.SiteDirs)
		if p := env["PYTHONPATH"]; p != "" {
			dirs = append([]string{p}, dirs...)
		}
		env["PYTHONPATH"] = strings.Join(dirs, ":")
	}
	visible := make([]string, 0, len(w.rec.GPUs))
	for _, g := range w.rec.GPUs {
		visible = append(visible, g.visible())
	}
	env["CUDA_VISIBLE_DEVICES"] = strings.Join(visible, ",")
	if len(visible) > 0 {
		r.cfg.Log.Info("GPUs given", slog.String(plat.LogWorkload, string(w.rec.ID)), slog.Any("gpus", visible))
	}
	if spec.Token != "" {
		env["PLATFORM_AUTH_TOKEN"] = spec.Token
	}
	env[agentctl.EnvControlFD] = strconv.Itoa(fdControl)
	if spec.Kind == runner.KindService {
		env[agentctl.EnvServeFD] = strconv.Itoa(fdServe)
	}
	if len(spec.Command) > 0 {
		words, err := json.Marshal(spec.Command)
		if err != nil {
			return nil, err
		}
		env[agentctl.EnvCommand], env[agentctl.EnvHealthPath] = string(words), spec.HealthPath
	}
	env[agentctl.EnvInstanceKey] = w.rec.Key
	env[agentctl.EnvWorkloadID] = string(spec.ID)
	env[agentctl.EnvLogStream] = spec.LogStream
	env[agentctl.EnvWorkDir] = work
	env[agentctl.EnvPython] = profile.Python
	env[agentctl.EnvPipArgs] = string(pip)
	list := make([]string, 0, len(env))
	for k, v := range env {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return list, nil
}
