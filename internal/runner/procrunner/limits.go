// SPDX-License-Identifier: Apache-2.0

package procrunner

import (
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"panal/internal/plat"
	"panal/internal/runner/agentctl"
)

// maxFiles bounds how many files a workload keeps: inodes run out like bytes.
const maxFiles = 1_000_000

// watchLimits looks at what the kernel does not bound for us: disk always,
// memory where there are no control groups.
func (r *Runner) watchLimits() {
	next := map[plat.WorkloadID]time.Time{} // a large tree is walked less often
	tick := time.NewTicker(limitsEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C:
		}
		running := r.running()
		if len(running) == 0 {
			clear(next)
			continue
		}
		table, err := processTable()
		if err != nil {
			r.cfg.Log.Error("list processes", slog.String(plat.LogError, err.Error()))
			continue
		}
		for _, w := range running {
			if r.ctx.Err() != nil {
				return
			}
			pids := family(table, w.rec.PID)
			if r.groups == nil && !r.cfg.off.memory {
				w.checkMemory(pids)
			}
			if r.groups == nil && !r.cfg.off.processes && int64(len(pids)) > r.cfg.Processes {
				w.kill(fmt.Sprintf("killed: limit of %d processes reached", r.cfg.Processes))
			}
			if now := time.Now(); !r.cfg.off.disk && now.After(next[w.rec.ID]) {
				w.checkDisk(pids)
				next[w.rec.ID] = time.Now().Add(20 * time.Since(now))
			}
		}
	}
}

func (r *Runner) running() []*workload {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*workload
	for _, w := range r.workloads {
		if w.status.Phase != "" && !w.ended() {
			list = append(list, w)
		}
	}
	return list
}

// checkMemory kills the workload when its processes hold more than its limit.
// The quick sum counts what forked processes share once each; before it kills, it
// asks for the exact share of each.
func (w *workload) checkMemory(pids []int) {
	limit := w.rec.Resources.Memory
	var sum int64
	for _, pid := range pids {
		sum += procField(pid, "status", "RssAnon:", "RssShmem:")
	}
	if sum <= limit {
		return
	}
	var exact int64
	for _, pid := range pids {
		n := procField(pid, "smaps_rollup", "Pss_Anon:", "Pss_Shmem:")
		if n == 0 {
			n = procField(pid, "status", "RssAnon:", "RssShmem:")
		}
		exact += n
	}
	if exact > limit {
		w.kill("killed: memory limit " + showGiB(limit) + " reached")
	}
}

// procField adds up fields (in KiB) of a file below /proc/PID, in bytes.
func procField(pid int, file string, keys ...string) int64 {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), file))
	if err != nil {
		return 0
	}
	var sum int64
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		for _, k := range keys {
			if f[0] == k {
				sum += parseInt(f[1]) << 10
			}
		}
	}
	return sum
}

// checkDisk kills the workload when it keeps more on disk than it may, files
// without a name included, and gives the space back.
func (w *workload) checkDisk(pids []int) {
	limit := w.r.cfg.DiskBytes
	use, err := diskUse(w.dir, maxFiles)
	reason := ""
	switch {
	case err == errTooMany: //nolint:errorlint // our own walk returns it bare
		reason = fmt.Sprintf("killed: limit of %d files reached", maxFiles)
	case err != nil:
		return // it has just been removed
	default:
		if use+namelessUse(w.dir, pids) > limit {
			reason = "killed: disk limit " + showGiB(limit) + " reached"
		}
	}
	if reason == "" {
		return
	}
	w.kill(reason)
	select {
	case <-w.gone:
	case <-w.r.ctx.Done():
		return
	}
	for _, d := range []string{agentctl.DirCode, agentctl.DirResult, agentctl.DirTmp, agentctl.DirEnv, dirHome} {
		if err := removeTree(filepath.Join(w.dir, dirWork), d); err != nil {
			w.log(slog.LevelWarn, "give disk space back", err)
		}
	}
}

// namelessUse adds up the files that processes hold open after their last name
// was removed: a walk does not see them. Only those on the disk of dir count;
// what is in memory is bounded as memory.
func namelessUse(dir string, pids []int) int64 {
	var disk unix.Stat_t
	if err := unix.Stat(dir, &disk); err != nil {
		return 0
	}
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	var sum int64
	for _, pid := range pids {
		dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
		names, err := namesIn(dir)
		if err != nil {
			continue
		}
		for _, name := range names {
			var st unix.Stat_t
			if err := unix.Stat(dir+"/"+name, &st); err != nil {
				continue
			}
			key := inode{st.Dev, st.Ino}
			if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 0 && st.Dev == disk.Dev && !seen[key] {
				seen[key] = true
				sum += st.Blocks * 512
			}
		}
	}
	return sum
}

func statOf(fi fs.FileInfo) (*syscall.Stat_t, bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return st, ok
}
