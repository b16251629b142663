// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/agentctl"
)

// Settings of a service that are ours.
const (
	// EnvWorkers is how many Python processes answer requests, one at a time each.
	EnvWorkers = "PANAL_WORKERS"
	// EnvQueue is how many requests may wait for a worker.
	EnvQueue = "PANAL_QUEUE"
	// EnvConcurrency is how many requests a command takes at a time.
	EnvConcurrency = "PANAL_CONCURRENCY"
	// EnvMaxRequestBytes bounds the body of a request.
	EnvMaxRequestBytes = "PANAL_MAX_REQUEST_BYTES"
)

const defaultMaxRequestBytes = 5 << 30

// flagNames are the variables that may also be given as flags, in lower case
// (compute.md §13.2), plus ours.
func flagNames() []string {
	return []string{
		"ABEJA_API_URL", "ABEJA_ORGANIZATION_ID", "ABEJA_PLATFORM_USER_ID", "ABEJA_DEPLOYMENT_ID", "ABEJA_SERVICE_ID",
		"ABEJA_MODEL_ID", "ABEJA_MODEL_VERSION", "ABEJA_MODEL_VERSION_ID", "ABEJA_DEPLOYMENT_CODE_DOWNLOAD",
		"ABEJA_TRAINING_MODEL_DOWNLOAD", "TRAINING_JOB_DEFINITION_NAME", "TRAINING_JOB_DEFINITION_VERSION", "TRAINING_JOB_ID",
		"PLATFORM_AUTH_TOKEN", "ABEJA_PLATFORM_PERSONAL_ACCESS_TOKEN", "ABEJA_EXPORT_TRAIN_LOG", "LOG_LEVEL", "LOG_DETAIL", "STAGE",
		"ABEJA_USER_MODEL_ROOT", "ABEJA_TRAINING_RESULT_DIR", "ABEJA_RUNTIME", "PORT", "HEALTHCHECK_PORT", "HANDLER",
		EnvWorkers, EnvQueue, runner.EnvHandlerTimeout, EnvMaxRequestBytes,
		EnvConcurrency, agentctl.EnvCommand, agentctl.EnvHealthPath,
	}
}

// config is what one run of the agent needs to know.
type config struct {
	kind     runner.Kind
	download bool // fetch code and model
	execute  bool // run user code

	api    *url.URL
	auth   string // value of the Authorization header
	org    string
	python string
	pip    []string

	deployment, service, job             string
	modelID, modelVersion, modelRevision string
	codePath, modelPath, resultPath      string // API paths to download from
	uploadPath                           string // API path that hands out the URL for the result

	workDir, codeDir, resultDir string
	exportLog                   bool

	port, healthPort   int
	controlFD, serveFD int // -1: none
	key                string
	workload, stream   string

	workers, queue int
	command        []string // instead of a handler
	healthPath     string
	concurrency    int     // of the command
	dial           *dialer // nil: on this network
	handlerTimeout time.Duration
	maxRequest     int64

	environ []string // of user code
}

// parse reads flags and environment, and says what is missing.
func parse(args, environ []string) (*config, error) {
	vars := map[string]string{}
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok {
			vars[k] = v
		}
	}
	if len(args) == 0 {
		return nil, plat.Errorf(plat.ErrInvalid, "say what to run: panal agent service or panal agent training")
	}
	cfg := &config{download: true, execute: true}
	switch args[0] {
	case "service":
		cfg.kind = runner.KindService
	case "training":
		cfg.kind = runner.KindTraining
	default:
		return nil, plat.Errorf(plat.ErrInvalid, "%q is no agent command; there are service and training", args[0])
	}
	args = args[1:]
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		switch {
		case args[0] == "download":
			cfg.execute = false
		case args[0] == "run" && cfg.kind == runner.KindService, args[0] == "train" && cfg.kind == runner.KindTraining:
			cfg.download = false
		default:
			return nil, plat.Errorf(plat.ErrInvalid, "%q is no part of the agent command %s", args[0], cfg.kind)
		}
		args = args[1:]
	}
	for len(args) > 0 {
		name, value, ok := strings.Cut(strings.TrimLeft(args[0], "-"), "=")
		env := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		if !strings.HasPrefix(args[0], "--") || !slices.Contains(flagNames(), env) {
			return nil, plat.Errorf(plat.ErrInvalid, "%q is no flag of the agent", args[0])
		}
		args = args[1:]
		if !ok {
			if len(args) == 0 {
				return nil, plat.Errorf(plat.ErrInvalid, "the flag --%s needs a value", name)
			}
			value, args = args[0], args[1:]
		}
		vars[env] = value
	}
	if err := cfg.fill(vars); err != nil {
		return nil, err
	}
	return cfg, nil
}

func (c *config) fill(vars map[string]string) error {
	var missing []string
	need := func(name string) string {
		if vars[name] == "" {
			missing = append(missing, name)
		}
		return vars[name]
	}
	number := func(name string, def, lo, hi int) int {
		if vars[name] == "" {
			return def
		}
		n, err := strconv.Atoi(vars[name])
		if err != nil || n < lo || n > hi {
			missing = append(missing, fmt.Sprintf("%s (a number from %d to %d)", name, lo, hi))
		}
		return n
	}
	c.org = need("ABEJA_ORGANIZATION_ID")
	raw := need("ABEJA_API_URL")
	switch user, pat := vars["ABEJA_PLATFORM_USER_ID"], vars["ABEJA_PLATFORM_PERSONAL_ACCESS_TOKEN"]; {
	case vars["PLATFORM_AUTH_TOKEN"] != "":
		c.auth = "Bearer " + vars["PLATFORM_AUTH_TOKEN"]
	case c.kind == runner.KindTraining && user != "" && pat != "":
		c.auth = "Basic " + base64.StdEncoding.EncodeToString([]byte("user-"+strings.TrimPrefix(user, "user-")+":"+pat))
	default:
		need("PLATFORM_AUTH_TOKEN")
	}
	org := "organizations/" + url.PathEscape(c.org)
	definition := vars["TRAINING_JOB_DEFINITION_NAME"]
	job := vars["TRAINING_JOB_ID"]
	base := org + "/training/definitions/" + url.PathEscape(definition)
	if c.kind == runner.KindTraining {
		c.job = job
		if c.download {
			need("TRAINING_JOB_DEFINITION_NAME")
			need("TRAINING_JOB_DEFINITION_VERSION")
		}
		c.codePath = fmt.Sprintf("%s/versions/%d/source", base, number("TRAINING_JOB_DEFINITION_VERSION", 0, 1, 1<<31-1))
		if definition != "" && job != "" {
			c.uploadPath = base + "/jobs/" + url.PathEscape(job) + "/result"
		}
		if c.execute {
			need("HANDLER")
		}
	} else {
		c.deployment, c.service = vars["ABEJA_DEPLOYMENT_ID"], vars["ABEJA_SERVICE_ID"]
		if c.service != "" {
			need("ABEJA_DEPLOYMENT_ID")
		}
		c.modelVersion = vars["ABEJA_MODEL_VERSION"]
		c.modelID, c.modelRevision = vars["ABEJA_MODEL_ID"], vars["ABEJA_MODEL_VERSION_ID"]
		c.codePath, c.modelPath = vars["ABEJA_DEPLOYMENT_CODE_DOWNLOAD"], vars["ABEJA_TRAINING_MODEL_DOWNLOAD"]
		if c.download {
			need("ABEJA_MODEL_ID")
			need("ABEJA_MODEL_VERSION_ID")
			need("ABEJA_DEPLOYMENT_CODE_DOWNLOAD")
		}
		if c.modelPath == "" && definition != "" && job != "" {
			c.resultPath = base + "/jobs/" + url.PathEscape(job) + "/result"
		}
	}
	if rt := vars["ABEJA_RUNTIME"]; rt != "" && rt != "python36" {
		missing = append(missing, "ABEJA_RUNTIME (only python36 is supported)")
	}
	c.port, c.healthPort = number("PORT", 5000, 1024, 65535), number("HEALTHCHECK_PORT", 5001, 1, 65535)
	if c.port == c.healthPort {
		missing = append(missing, "HEALTHCHECK_PORT (other than PORT)")
	}
	c.controlFD, c.serveFD = number(agentctl.EnvControlFD, -1, 3, 1023), number(agentctl.EnvServeFD, -1, 3, 1023)
	c.key = vars[agentctl.EnvInstanceKey]
	c.workload, c.stream = vars[agentctl.EnvWorkloadID], vars[agentctl.EnvLogStream]
	c.workers = number(EnvWorkers, 1, 1, 256)
	c.queue = number(EnvQueue, 64, 0, 100_000)
	c.maxRequest = int64(number(EnvMaxRequestBytes, defaultMaxRequestBytes, 0, 1<<62))
	c.handlerTimeout = 30 * time.Second
	if s := vars[runner.EnvHandlerTimeout]; s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			missing = append(missing, runner.EnvHandlerTimeout+" (a duration such as 30s)")
		}
		c.handlerTimeout = d
	}
	c.concurrency = number(EnvConcurrency, 64, 1, runner.MaxLimit)
	if s := vars[agentctl.EnvCommand]; s != "" && (json.Unmarshal([]byte(s), &c.command) != nil || len(c.command) == 0) {
		missing = append(missing, agentctl.EnvCommand+" (a JSON array of strings)")
	}
	c.healthPath = orDefault(vars[agentctl.EnvHealthPath], "/")
	if s := vars[agentctl.EnvPipArgs]; s != "" && json.Unmarshal([]byte(s), &c.pip) != nil {
		missing = append(missing, agentctl.EnvPipArgs+" (a JSON array of strings)")
	}
	_, c.exportLog = vars["ABEJA_EXPORT_TRAIN_LOG"]
	if raw != "" {
		u, err := url.Parse(strings.TrimRight(raw, "/"))
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			missing = append(missing, "ABEJA_API_URL (a http or https URL)")
		}
		c.api = u
	}
	if len(missing) > 0 {
		return plat.Errorf(plat.ErrInvalid, "missing or wrong in the environment: %s", strings.Join(missing, ", "))
	}
	return c.dirs(vars)
}

// dirs settles directories and the environment of user code.
func (c *config) dirs(vars map[string]string) error {
	cwd, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	under := func(base, dir string) string {
		if filepath.IsAbs(dir) {
			return filepath.Clean(dir)
		}
		return filepath.Join(base, dir)
	}
	c.workDir = vars[agentctl.EnvWorkDir]
	code, result := vars["ABEJA_USER_MODEL_ROOT"], vars["ABEJA_TRAINING_RESULT_DIR"]
	if c.workDir != "" {
		if !filepath.IsAbs(c.workDir) {
			return plat.Errorf(plat.ErrInvalid, "%s is no absolute path", agentctl.EnvWorkDir)
		}
		c.codeDir = under(c.workDir, orDefault(code, agentctl.DirCode))
		c.resultDir = under(c.codeDir, orDefault(result, filepath.Join(c.workDir, agentctl.DirResult)))
	} else {
		c.codeDir = under(cwd, orDefault(code, "."))
		c.resultDir = under(c.codeDir, orDefault(result, "abejainc_training_result"))
		// Not in the code directory: no file of ours mixes with the user's.
		if c.workDir, err = os.MkdirTemp("", "panal-agent-"); err != nil {
			return fmt.Errorf("make work directory: %w", err)
		}
	}
	c.python = orDefault(vars[agentctl.EnvPython], "python3")

	tmp := filepath.Join(c.workDir, agentctl.DirTmp)
	for k, def := range map[string]string{
		"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": c.workDir, "TMPDIR": tmp, "LANG": "C.UTF-8",
	} {
		vars[k] = orDefault(vars[k], def)
	}
	vars["ABEJA_TRAINING_RESULT_DIR"] = c.resultDir
	vars["PYTHONUNBUFFERED"] = "x"
	for k, v := range vars {
		if !strings.HasPrefix(k, "PANAL_AGENT_") {
			c.environ = append(c.environ, k+"="+v)
		}
	}
	slices.Sort(c.environ)
	return nil
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}
