// SPDX-License-Identifier: Apache-2.0

package train

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"panal/internal/plat"
	"panal/internal/runner"
)

var (
	namePattern    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	handlerPattern = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*\.)*[A-Za-z_][A-Za-z0-9_]*(:[A-Za-z_][A-Za-z0-9_]*)?$`)
	imagePattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?/[A-Za-z0-9][A-Za-z0-9._-]*(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?$`)
	aliasPattern   = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_-]{0,127}$`)
	datasetPattern = regexp.MustCompile(`^[0-9]{1,20}$`)
	envPattern     = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
)

// Bounds of what a definition holds. They lie below what a runner takes.
const (
	maxDescription = 256 // characters
	maxHandler     = 256
	maxImage       = 255
	maxEnvEntries  = 1000
	maxEnvValue    = 100 << 10
	maxEnvTotal    = 512 << 10
	maxDatasets    = 100
	maxPremounts   = 100
	maxStatistics  = 256 << 10
	maxMetrics     = 1000
)

// CheckName returns ErrInvalid unless name can name a definition: it stands in
// paths beside ids, so it must not look like one.
func CheckName(name string) error {
	switch {
	case name == "":
		return plat.InvalidField("name", "is required")
	case !namePattern.MatchString(name):
		return plat.InvalidField("name", "must be 1 to 128 of A-Z, a-z, 0-9, '.', '_' and '-', and begin with a letter or digit")
	case strings.Trim(name, "0123456789") == "":
		return plat.InvalidField("name", "must not be only digits (it could be taken for an id)")
	}
	return nil
}

// CheckHandler returns ErrInvalid unless handler is module[.sub]:function. One
// trial image takes a module alone (compute.md §12.2).
func CheckHandler(handler, image string) error {
	switch {
	case handler == "":
		return plat.InvalidField("handler", "is required: module:function, such as train:handler")
	case len(handler) > maxHandler || !handlerPattern.MatchString(handler):
		return plat.InvalidField("handler", "%.60q must be module[.sub]:function, such as train:handler", handler)
	case !strings.Contains(handler, ":") && !strings.HasSuffix(image, ":20.02a"):
		return plat.InvalidField("handler", "%.60q names no function; write module:function, such as train:handler", handler)
	}
	return nil
}

// OldStyle tells whether handlers of an image are called in the old way (compute.md
// §12.2, §13.11).
func OldStyle(image string) bool {
	_, tag, _ := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":")
	return !strings.HasPrefix(image, "custom/") && (tag == "18.10" || strings.HasPrefix(tag, "0.1.0"))
}

// CheckImage returns ErrInvalid unless image has two or three parts separated by
// slashes (known clients fail on every answer that holds another), and is not
// another organization's.
func CheckImage(image string, org plat.OrgID) error {
	switch {
	case image == "":
		return plat.InvalidField("image", "is required, such as abeja-inc/all-cpu:19.10")
	case len(image) > maxImage || !imagePattern.MatchString(image):
		return plat.InvalidField("image", "%.60q must be namespace/name:tag or host/namespace/name:tag, such as abeja-inc/all-cpu:19.10", image)
	}
	if parts := strings.Split(image, "/"); parts[0] == "custom" && (len(parts) != 3 || parts[1] != string(org)) {
		return plat.InvalidField("image", "custom images are custom/%s/<repository>:<tag>", org)
	}
	return nil
}

// reservedNames are what the platform itself sets or its agent reads (compute.md
// §12.3, §13.2). The names that only tune an agent's output (LOG_LEVEL, STAGE, …)
// are the user's to set, and so are a user's own credentials.
func reservedNames() []string {
	return []string{
		"PANAL_COMMAND", "PANAL_HEALTH_PATH", "HANDLER", "DATASETS", "PLATFORM_AUTH_TOKEN", "SERVICE_TYPE", "PYTHONUNBUFFERED", "CONTEXT",
		"ABEJA_API_URL", "ABEJA_ORGANIZATION_ID", "ABEJA_STORAGE_DIR_PATH", "ABEJA_TRAINING_RESULT_DIR",
		"ABEJA_TRAINING_JOB_ID", "ABEJA_DEPLOYMENT_ID", "ABEJA_SERVICE_ID", "ABEJA_RUN_ID",
		"ABEJA_MODEL_ID", "ABEJA_MODEL_VERSION", "ABEJA_MODEL_VERSION_ID",
		"ABEJA_DEPLOYMENT_CODE_DOWNLOAD", "ABEJA_TRAINING_MODEL_DOWNLOAD",
		"ABEJA_USER_MODEL_ROOT", "ABEJA_RUNTIME", "ABEJA_IPC_PATH", "ABEJA_EXPORT_TRAIN_LOG", "ABEJA_MOUNT_TARGET_DIR",
		"TRAINING_JOB_DEFINITION_NAME", "TRAINING_JOB_DEFINITION_VERSION", "TRAINING_JOB_DEFINITION_ID", "TRAINING_JOB_ID",
		"TRAINING_JOB_IDS", "TRAINING_JOB_DATASETS", "TRAINING_NOTEBOOK_ID", "TENSORBOARD_ID",
		"PORT", "HEALTHCHECK_PORT", "INPUT", "OUTPUT",
	}
}

// CheckEnvironment returns ErrInvalid, naming field, unless env can be part of the
// environment of user code: well-formed names, none that the platform sets, bounded
// values.
func CheckEnvironment(field string, env map[string]string) error {
	if len(env) > maxEnvEntries {
		return plat.InvalidField(field, "has more than %d variables", maxEnvEntries)
	}
	reserved, total := reservedNames(), 0
	for k, v := range env {
		switch {
		case !envPattern.MatchString(k):
			return plat.InvalidField(field, "%.60q is not the name of a variable (letters, digits and _, not beginning with a digit)", k)
		case slices.Contains(reserved, k) || strings.HasPrefix(k, "PANAL_AGENT_"):
			return plat.InvalidField(field, "%s is set by the platform; choose another name", k)
		case len(v) > maxEnvValue || strings.ContainsRune(v, 0) || !utf8.ValidString(v):
			return plat.InvalidField(field, "the value of %s is longer than %d bytes, or holds a NUL or bytes that are not UTF-8", k, maxEnvValue)
		case k == runner.EnvHandlerTimeout && v != "":
			if d, err := time.ParseDuration(v); err != nil || d <= 0 {
				return plat.InvalidField(field, "the value of %s, %.40q, is no duration such as 30s or 2m", k, v)
			}
		}
		total += len(k) + len(v)
	}
	if total > maxEnvTotal {
		return plat.InvalidField(field, "is longer than %d bytes", maxEnvTotal)
	}
	return nil
}

// CheckDatasets returns ErrInvalid unless every alias and dataset id is well formed.
func CheckDatasets(ds map[string]plat.DatasetID) error {
	if len(ds) > maxDatasets {
		return plat.InvalidField("datasets", "has more than %d aliases", maxDatasets)
	}
	for alias, id := range ds {
		if !aliasPattern.MatchString(alias) {
			return plat.InvalidField("datasets", "%.60q is not an alias (letters, digits, _ and -, not beginning with a digit or -)", alias)
		}
		if !datasetPattern.MatchString(string(id)) {
			return plat.InvalidField("datasets", "%s: %.60q is not a dataset id", alias, id)
		}
	}
	return nil
}

// CheckDescription returns ErrInvalid unless s can be a description.
func CheckDescription(s string) error {
	if utf8.RuneCountInString(s) > maxDescription || !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		return plat.InvalidField("description", "must be at most %d characters of UTF-8 without NUL", maxDescription)
	}
	return nil
}

func checkPremounts(p Premounts) error {
	for field, list := range map[string][]string{"datalakes": p.Datalakes, "buckets": p.Buckets} {
		if len(list) > maxPremounts {
			return plat.InvalidField(field, "has more than %d entries", maxPremounts)
		}
		for _, s := range list {
			if len(s) > 128 || strings.ContainsRune(s, 0) || !utf8.ValidString(s) {
				return plat.InvalidField(field, "%.60q is not an id", s)
			}
		}
	}
	return nil
}

// checkStatistics returns the statistics in compact form. They are kept as they
// were sent: numbers are not rewritten.
func checkStatistics(raw json.RawMessage) (json.RawMessage, error) {
	if len(raw) > maxStatistics {
		return nil, plat.InvalidField("statistics", "is longer than %d bytes", maxStatistics)
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(raw, &top); err != nil || top == nil {
		return nil, plat.InvalidField("statistics", "is required, and must be an object")
	}
	if stages, ok := top["stages"]; ok && string(stages) != "null" {
		var byName map[string]map[string]json.RawMessage
		if err := json.Unmarshal(stages, &byName); err != nil {
			return nil, plat.InvalidField("statistics", "stages must be an object of objects")
		}
		for name, stage := range byName {
			if _, ok := stage["name"]; ok {
				return nil, plat.InvalidField("statistics", "stage %.60q may not have a key \"name\"", name)
			}
		}
	}
	var out bytes.Buffer
	if err := json.Compact(&out, raw); err != nil {
		return nil, plat.InvalidField("statistics", "is not JSON")
	}
	return out.Bytes(), nil
}

// CheckMetrics returns ErrInvalid unless each metric is a number or one of the
// strings NaN, Infinity and -Infinity.
func CheckMetrics(m Metrics) error {
	if len(m) > maxMetrics {
		return plat.InvalidField("metrics", "has more than %d entries", maxMetrics)
	}
	for k, v := range m {
		if len(k) > 256 || strings.ContainsRune(k, 0) || !isMetric(v) {
			return plat.InvalidField("metrics", "%.60q must be a number, or one of \"NaN\", \"Infinity\", \"-Infinity\"", k)
		}
	}
	return nil
}

func isMetric(v json.RawMessage) bool {
	switch string(v) {
	case `"NaN"`, `"Infinity"`, `"-Infinity"`:
		return true
	}
	return len(v) > 0 && len(v) <= 64 && (v[0] == '-' || v[0] >= '0' && v[0] <= '9') && json.Valid(v)
}

// MetricsOf makes a model's metrics of a job's last statistics: the user's own
// scalars as they are, and each stage's as <stage>_<name>. What is no metric is
// left out.
func MetricsOf(statistics json.RawMessage) Metrics {
	out := Metrics{}
	var top map[string]json.RawMessage
	if len(statistics) == 0 || json.Unmarshal(statistics, &top) != nil {
		return out
	}
	add := func(k string, v json.RawMessage) {
		if len(out) < maxMetrics && len(k) <= 256 && !strings.ContainsRune(k, 0) && isMetric(v) {
			out[k] = v
		}
	}
	for k, v := range top {
		switch k {
		case "num_epochs", "epoch", "progress_percentage", "stages":
		default:
			add(k, v)
		}
	}
	var stages map[string]map[string]json.RawMessage
	if json.Unmarshal(top["stages"], &stages) == nil {
		for name, stage := range stages {
			for k, v := range stage {
				add(name+"_"+k, v)
			}
		}
	}
	return out
}
