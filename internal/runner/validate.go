// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"regexp"
	"strings"

	"panal/internal/plat"
)

var (
	workloadPattern = regexp.MustCompile(`^wl-[0-9a-f]{16}$`)
	orgPattern      = regexp.MustCompile(`^[0-9]{13}$`)
	envNamePattern  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)
)

// maxEnvBytes bounds a workload's environment: the kernel takes 128 KiB in one
// string, and a quarter of the stack (2 MiB) in all.
const (
	maxEnvBytes   = 1 << 20
	maxEnvStrings = 128<<10 - 1
)

// ValidateSpec returns ErrInvalid for a spec that no runner may start. Ids
// become paths, so their form is checked here once more.
func ValidateSpec(s Spec) error {
	switch {
	case !workloadPattern.MatchString(string(s.ID)):
		return plat.InvalidField("workload_id", "%q is not a workload id", s.ID)
	case !orgPattern.MatchString(string(s.Org)):
		return plat.InvalidField("organization_id", "%q is not an organization id", s.Org)
	case s.Kind != KindTraining && s.Kind != KindService:
		return plat.InvalidField("kind", "%q is not a kind of workload", s.Kind)
	case s.Image == "":
		return plat.InvalidField("image", "is missing")
	case s.Resources.MilliCPU <= 0 || s.Resources.Memory <= 0 || s.Resources.GPUs < 0:
		return plat.InvalidField("instance_type", "needs CPU and memory")
	}
	total := 0
	for k, v := range s.Env {
		if !envNamePattern.MatchString(k) {
			return plat.InvalidField("environment", "%q is not a name of a variable", k)
		}
		if strings.HasPrefix(k, "PANAL_AGENT_") {
			return plat.InvalidField("environment", "%s: names that begin with PANAL_AGENT_ are reserved", k)
		}
		n := len(k) + len(v) + 2
		if n > maxEnvStrings || strings.ContainsRune(v, 0) {
			return plat.InvalidField("environment", "%s: the value is too long (over 128 KiB) or holds a zero byte", k)
		}
		total += n
	}
	if total > maxEnvBytes {
		return plat.InvalidField("environment", "is longer than 1 MiB")
	}
	return nil
}

// UnknownImage is the error for an image that no profile names.
func UnknownImage(image string, known []string) error {
	return plat.Errorf(plat.ErrInvalid,
		"image %q is not known here: add it to the configuration key profiles (known: %s)", image, strings.Join(known, ", "))
}

// Take adds a started workload to what is used.
func (c *Capacity) Take(r plat.Resources, reserve bool) {
	add := func(to *plat.Resources) {
		to.MilliCPU += r.MilliCPU
		to.Memory += r.Memory
		to.GPUs += r.GPUs
	}
	add(&c.Used)
	if !reserve {
		add(&c.JobUsed)
	}
}
