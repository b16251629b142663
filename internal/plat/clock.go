// SPDX-License-Identifier: Apache-2.0

package plat

import "time"

// Clock tells the time. Records hold UTC with microseconds, the precision that
// both database engines keep, so Now returns exactly that.
type Clock func() time.Time

// SystemClock is the wall clock, in UTC, truncated to microseconds.
func SystemClock() time.Time { return time.Now().Add(offset).UTC().Truncate(time.Microsecond) }

// ahead is empty but in programs that tests link, to see what takes days: how far the
// clock of those is ahead.
var ahead string //nolint:gochecknoglobals // set by the linker alone

var offset, _ = time.ParseDuration(ahead) //nolint:gochecknoglobals // 0 where ahead is empty

// Time formats of the wire (compute.md §1.3, data.md §4).
const (
	// TimeMicroZ is 2026-02-03T04:05:06.789012Z.
	TimeMicroZ = "2006-01-02T15:04:05.000000Z"
	// TimeSecZ is 2024-03-15T08:15:02Z.
	TimeSecZ = "2006-01-02T15:04:05Z"
	// TimeSecOffset is 2024-03-15T08:15:02+00:00.
	TimeSecOffset = "2006-01-02T15:04:05+00:00"
	// TimeMicroNaive is 2024-03-15T08:15:02.123456 (no zone, means UTC).
	TimeMicroNaive = "2006-01-02T15:04:05.000000"
)

// ParseTime reads the time forms that clients send: RFC 3339, or without a zone
// (which means UTC), with or without fractions, or a bare date.
func ParseTime(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.UTC); err == nil {
			return t.UTC().Truncate(time.Microsecond), nil
		}
	}
	return time.Time{}, Errorf(ErrInvalid, "%q is not a time; write it like 2026-01-02T15:04:05Z", s)
}
