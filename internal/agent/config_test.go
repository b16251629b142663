// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"panal/internal/runner/agentctl"
)

// What is missing or wrong is said by name, at once, with exit code 1 (compute.md §13.2, §13.13).
func TestConfigErrors(t *testing.T) {
	good := []string{
		"ABEJA_API_URL=http://127.0.0.1:1", "ABEJA_ORGANIZATION_ID=1", "PLATFORM_AUTH_TOKEN=t", "HANDLER=a:b",
		"TRAINING_JOB_DEFINITION_NAME=d", "TRAINING_JOB_DEFINITION_VERSION=1", "ABEJA_MODEL_ID=1", "ABEJA_MODEL_VERSION_ID=1", "ABEJA_DEPLOYMENT_CODE_DOWNLOAD=x",
	}
	for _, c := range []struct {
		name string
		args []string
		env  []string
		want string
	}{
		{"no command", nil, nil, "say what to run"},
		{"unknown command", []string{"batch"}, nil, `"batch" is no agent command`},
		{"unknown part", []string{"training", "run"}, nil, `"run" is no part of the agent command training`},
		{"unknown flag", []string{"training", "--x=1"}, nil, `"--x=1" is no flag`},
		{"flag without value", []string{"training", "--port"}, nil, "the flag --port needs a value"},
		{"organization", []string{"training"}, []string{"ABEJA_ORGANIZATION_ID="}, "ABEJA_ORGANIZATION_ID"},
		{"token", []string{"service"}, []string{"PLATFORM_AUTH_TOKEN="}, "PLATFORM_AUTH_TOKEN"},
		{"version", []string{"training", "--training_job_definition_version", "0"}, nil, "TRAINING_JOB_DEFINITION_VERSION (a number from 1"},
		{"url", []string{"training"}, []string{"ABEJA_API_URL=localhost:1"}, "ABEJA_API_URL (a http or https URL)"},
		{"runtime", []string{"training"}, []string{"ABEJA_RUNTIME=ruby"}, "ABEJA_RUNTIME (only python36"},
		{"ports", []string{"service", "--port=5001"}, nil, "HEALTHCHECK_PORT (other than PORT)"},
		{"all the original's flags", []string{"service", "--log_level", "debug", "--log_detail=x", "--stage", "prod", "--platform_auth_token=t", "--port=80"}, []string{"PLATFORM_AUTH_TOKEN="}, "in the environment: PORT (a number from 1024"},
		{"low port", []string{"service", "--port=80"}, nil, "PORT (a number from 1024"},
		{"model id", []string{"service"}, []string{"ABEJA_MODEL_ID="}, "ABEJA_MODEL_ID"},
		{"deployment", []string{"service"}, []string{"ABEJA_SERVICE_ID=ser-1"}, "ABEJA_DEPLOYMENT_ID"},
		{"pip args", []string{"training"}, []string{"PANAL_AGENT_PIP_ARGS=--x"}, "PANAL_AGENT_PIP_ARGS (a JSON array of strings)"},
		{"timeout", []string{"service"}, []string{"PANAL_HANDLER_TIMEOUT=soon"}, "PANAL_HANDLER_TIMEOUT (a duration"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], c.args...)
			work := t.TempDir()
			cmd.Env = append(append([]string{beAgent + "=1", agentctl.EnvWorkDir + "=" + work}, good...), c.env...)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			_ = cmd.Run()
			if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(out.String(), c.want) {
				t.Errorf("exit %d: %s, want %q", cmd.ProcessState.ExitCode(), &out, c.want)
			}
			var e agentctl.Exit
			if data, err := os.ReadFile(filepath.Join(work, agentctl.ExitFile)); err != nil || json.Unmarshal(data, &e) != nil || !strings.Contains(e.Reason, c.want) {
				t.Errorf("the runner is told %+v (%v)", e, err)
			}
		})
	}
}
