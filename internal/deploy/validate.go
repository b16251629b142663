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
	labelPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$`)
	aliasPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,63}$`)
	modelAlias   = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_-]{0,127}$`)
)

const (
	maxName        = 255
	maxDescription = 2000 // characters
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
		least := 1
		if c.field == "min_instance_number" {
			least = 0 // it may sleep
		}
		if c.n < least || c.n > limit {
			return plat.InvalidField(c.field, "must be %d to %d", least, limit)
		}
	}
	if !(s.Target == 0 || s.Target >= MinTarget && s.Target <= MaxTarget) { // also not a number
		return plat.InvalidField("target_concurrency", "must be %s to %d, or 0 for the default", plat.Digits(MinTarget), MaxTarget)
	}
	if s.IdleTimeout != 0 && (s.IdleTimeout < MinIdle || s.IdleTimeout > MaxIdle) {
		return plat.InvalidField("idle_timeout", "must be %s to %s seconds, or 0 for the default", plat.Digits(MinIdle.Seconds()), plat.Digits(MaxIdle.Seconds()))
	}
	if err := checkLimits(s.RateLimit, s.CallLimit); err != nil {
		return err
	}
	if s.Min > s.Max {
		return plat.InvalidField("min_instance_number", "is more than max_instance_number")
	}
	return nil
}

// checkLimits returns ErrInvalid unless a service or an endpoint may have these limits.
func checkLimits(rate float64, calls int) error {
	if !(rate == 0 || rate >= MinRate && rate <= MaxRate) { // also not a number
		return plat.InvalidField("rate_limit", "must be %s to %s calls a second, or 0 for no limit", plat.Digits(MinRate), plat.Digits(MaxRate))
	}
	if calls < 0 || calls > MaxCalls {
		return plat.InvalidField("concurrency_limit", "must be 1 to %d calls, or 0 for no limit", MaxCalls)
	}
	return nil
}
