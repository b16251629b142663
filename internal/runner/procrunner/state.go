// SPDX-License-Identifier: Apache-2.0

package procrunner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"panal/internal/plat"
	"panal/internal/runner"
)

// Names in a workload's directory that belong to the server.
const (
	fileSpec  = "spec.json"
	fileStop  = "stop.json"
	fileEnd   = "end.json"
	fileLog   = "agent.log"
	dirSocket = "s"
	dirWork   = "work"
	dirHome   = "home"
)

// record is what re-adoption needs. It holds no secret of the user's; Key only
// lets the gateway in.
type record struct {
	ID        plat.WorkloadID `json:"id"`
	Org       plat.OrgID      `json:"org"`
	Kind      runner.Kind     `json:"kind"`
	Image     string          `json:"image"`
	Resources plat.Resources  `json:"resources"`
	LogStream string          `json:"log_stream"`
	Reserve   bool            `json:"reserve"`
	StartedAt time.Time       `json:"started_at"`
	UID       int             `json:"uid,omitempty"`
	GPUs      []gpu           `json:"gpus,omitempty"`
	Key       string          `json:"key"`
	Groups    []string        `json:"cgroups,omitempty"`
	// PID, StartTicks and Boot name the process; PID is 0 until it was started.
	PID        int    `json:"pid"`
	StartTicks uint64 `json:"start_ticks"`
	Boot       string `json:"boot"`
	// EnvKey is the environment in use, which collection must leave alone.
	EnvKey string `json:"env_key,omitempty"`
}

// stopRecord makes a Stop outlive the server.
type stopRecord struct {
	Deadline time.Time `json:"deadline"`
}

// endRecord is the end of a workload as it is reported until Remove.
type endRecord struct {
	EndedAt  time.Time `json:"ended_at"`
	ExitCode int       `json:"exit_code"`
	Reason   string    `json:"reason,omitempty"`
	Stopped  bool      `json:"stopped,omitempty"`
}

// saveJSON replaces a file of the server's durably and at once.
func saveJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("save %s: %w", filepath.Base(path), err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("save %s: %w", filepath.Base(path), err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// loadJSON reads a file of the server's; found is false when there is none.
func loadJSON(path string, v any) (found bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("load %s: %w", filepath.Base(path), err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return false, fmt.Errorf("load %s: %w", path, err)
	}
	return true, nil
}
