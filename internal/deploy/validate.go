// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"panal/internal/plat"
)

var (
	handlerPattern = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*\.)*[A-Za-z_][A-Za-z0-9_]*(:[A-Za-z_][A-Za-z0-9_]*)?$`)
	imagePattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?/[A-Za-z0-9][A-Za-z0-9._-]*(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?$`)
	labelPattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$`)
	aliasPattern   = regexp.MustCompile(`^[A-Za-z0-9_-]{1,63}$`)
	modelAlias     = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_-]{0,127}$`)
	envPattern     = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
)

const (
	maxName        = 255
	maxDescription = 2000 // characters
	maxHandler     = 256
	maxImage       = 255
	maxEnvEntries  = 1000
	maxEnvValue    = 100 << 10
	maxEnvTotal    = 512 << 10
)

// checkText returns ErrInvalid unless s is at most n characters of clean UTF-8.
func checkText(field, s string, n int) error {
	if utf8.RuneCountInString(s) > n || !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		return plat.InvalidField(field, "must be at most %d characters of UTF-8 without NUL", n)
	}
	return nil
}

func checkName(name string) error {
	if strings.TrimSpace(name) == "" {
		return plat.InvalidField("name", "is required")
	}
	return checkText("name", name, maxName)
}

// checkLabel returns ErrInvalid unless label can name a code version. It becomes
// an HTTP header and an environment variable.
func checkLabel(label string) error {
	switch {
	case label == "":
		return plat.InvalidField("version", "is required, such as 0.0.1")
	case !labelPattern.MatchString(label):
		return plat.InvalidField("version", "%.60q must be 1 to 128 of A-Z, a-z, 0-9, '.', '_', '+' and '-', beginning with a letter or digit", label)
	}
	return nil
}

// checkHandler returns ErrInvalid unless handler is module[.sub]:function. One
// trial image takes a module alone (compute.md §12.2).
func checkHandler(handler, image string) error {
	switch {
	case len(handler) > maxHandler || !handlerPattern.MatchString(handler):
		return plat.InvalidField("handler", "%.60q must be module[.sub]:function, such as %s", handler, DefaultHandler)
	case !strings.Contains(handler, ":") && !strings.HasSuffix(image, ":20.02a"):
		return plat.InvalidField("handler", "%.60q names no function; write module:function, such as %s", handler, DefaultHandler)
	}
	return nil
}

func checkImage(image string, org plat.OrgID) error {
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

// reservedNames are what the platform itself sets or its agent obeys (compute.md
// §12.3, §13.2). Names that only tune output (LOG_LEVEL, STAGE, …) are the
// user's to set, and so are a user's own credentials.
func reservedNames() []string {
	return []string{
		"HANDLER", "DATASETS", "PLATFORM_AUTH_TOKEN", "SERVICE_TYPE", "PYTHONUNBUFFERED", "CONTEXT",
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

// checkEnvironment returns ErrInvalid, naming field, unless env can be part of
// the environment of user code: well-formed names, none that the platform sets,
// bounded values.
func checkEnvironment(field string, env map[string]string) error {
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
		}
		total += len(k) + len(v)
	}
	if total > maxEnvTotal {
		return plat.InvalidField(field, "is longer than %d bytes", maxEnvTotal)
	}
	return nil
}

// reservedAliases are path segments of the gateway and the API that an alias
// would hide (compute.md §7).
func reservedAliases() []string {
	return []string{"services", "endpoints", "results", "versions", "runs", "triggers", "git", "code_templates", "daemons"}
}

func checkAlias(alias string) error {
	switch {
	case !aliasPattern.MatchString(alias):
		return plat.InvalidField("custom_alias", "%.60q must be 1 to 63 of A-Z, a-z, 0-9, '_' and '-'", alias)
	case slices.Contains(reservedAliases(), alias):
		return plat.InvalidField("custom_alias", "%q is reserved; choose another name", alias)
	case strings.HasPrefix(alias, "pnt-"):
		return plat.InvalidField("custom_alias", "must not begin with pnt- (it could be taken for an endpoint's id)")
	}
	return nil
}

// checkCounts returns ErrInvalid unless the instance counts make sense together.
func checkCounts(s Service) error {
	for _, c := range []struct {
		field string
		n     int
	}{{"instance_number", s.Number}, {"min_instance_number", s.Min}, {"max_instance_number", s.Max}} {
		limit := MaxNumber
		if c.field == "max_instance_number" {
			limit = 2 * MaxNumber // its default is twice the number
		}
		if c.n < 1 || c.n > limit {
			return plat.InvalidField(c.field, "must be 1 to %d", limit)
		}
	}
	if s.Min > s.Max {
		return plat.InvalidField("min_instance_number", "is more than max_instance_number")
	}
	return nil
}
