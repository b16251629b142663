// SPDX-License-Identifier: Apache-2.0

package plat

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Typed ids. The wire form of each is a string (compute.md §1.3, data.md §4).
type (
	// OrgID names an organization: 13 decimal digits.
	OrgID string
	// UserID names a user: 13 decimal digits, without the "user-" prefix.
	UserID string
	// TokenID names a personal access token, not its secret: "tok-" and 16 hex digits.
	TokenID string
	// DatasourceID names a datasource: 13 decimal digits, without the
	// "datasource-" prefix.
	DatasourceID string
	// ChannelID names a DataLake channel: 13 decimal digits.
	ChannelID string
	// FileID names a file in a channel: UTC second of the upload plus a UUID,
	// so that sorting ids sorts by time (data.md §4).
	FileID string
	// DatasetID names a dataset: 13 decimal digits.
	DatasetID string
	// SecretID names a secret: 13 decimal digits.
	SecretID string
	// SecretVersionID names a version of a secret: 13 decimal digits.
	SecretVersionID string
	// RepositoryID names a repository of images: 13 decimal digits.
	RepositoryID string
	// JobDefinitionID names a job definition: 13 decimal digits.
	JobDefinitionID string
	// JobID names a training job: 13 decimal digits.
	JobID string
	// ModelID names a training model: 13 decimal digits.
	ModelID string
	// DeploymentID names a deployment: 13 decimal digits.
	DeploymentID string
	// VersionID names a code version of a deployment: "ver-" and 16 hex digits.
	VersionID string
	// ServiceID names a service: "ser-" and 16 hex digits.
	ServiceID string
	// EndpointID names an endpoint: "pnt-" and 16 hex digits.
	EndpointID string
	// WorkloadID names one started process tree (a job's attempt or a service's
	// instance): "wl-" and 16 hex digits. It never starts twice.
	WorkloadID string
)

// NewDecimalID returns a random 13-digit decimal id. Random, not serial: ids are
// made before the row is written, on any number of servers.
func NewDecimalID() string {
	const lo, span = 1_000_000_000_000, 9_000_000_000_000
	return strconv.FormatUint(lo+randUint64()%span, 10)
}

// NewHexID returns prefix, a dash and 16 random hex digits.
func NewHexID(prefix string) string {
	var b [8]byte
	mustRand(b[:])
	return prefix + "-" + hex.EncodeToString(b[:])
}

// NewFileID returns the id of a file whose upload was requested at t (data.md §4). Its UUID
// has the form of version 4, and begins with the time as one of version 7 (RFC 9562) does:
// ids of one second sort by time too, and new ones are neighbours in an index.
func NewFileID(t time.Time) FileID {
	var u [16]byte
	mustRand(u[8:])
	binary.BigEndian.PutUint64(u[:], uint64(t.UnixMilli())<<16)
	part := uint16(t.Nanosecond() % int(time.Millisecond) * 4096 / 1e6)
	u[6], u[7] = byte(part>>8)|0x40, byte(part)
	return FileID(t.UTC().Format("20060102T150405") + "-" + uuidText(u))
}

// NewUUID returns a random (version 4) UUID in its canonical text form.
func NewUUID() string {
	var u [16]byte
	mustRand(u[:])
	u[6] = u[6]&0x0f | 0x40
	return uuidText(u)
}

// uuidText sets the variant of a UUID and writes it.
func uuidText(u [16]byte) string {
	u[8] = u[8]&0x3f | 0x80
	var text [36]byte
	b := text[:0]
	for _, part := range [...][]byte{u[0:4], u[4:6], u[6:8], u[8:10], u[10:]} {
		if len(b) > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, part)
	}
	return string(b)
}

// NewToken returns a fresh bearer secret: 40 lower-case hex digits (160 bits),
// the form that every known client has seen (data.md §2).
func NewToken() string {
	var b [20]byte
	mustRand(b[:])
	return hex.EncodeToString(b[:])
}

// tokenLen is the length of what NewToken returns.
const tokenLen = 40

// HideTokens returns s with "(token)" for whatever has the form of a token: what was
// put into a path or a field by mistake is written down nowhere.
func HideTokens(s string) string {
	var out strings.Builder
	run, kept := 0, 0 // hex digits before i; how much of s is in out
	for i := 0; i <= len(s); i++ {
		if i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] >= 'a' && s[i] <= 'f') {
			run++
			continue
		}
		if run == tokenLen {
			out.WriteString(s[kept : i-run])
			out.WriteString("(token)")
			kept = i
		}
		run = 0
	}
	if kept == 0 {
		return s
	}
	out.WriteString(s[kept:])
	return out.String()
}

var fileIDPattern = regexp.MustCompile(`^\d{8}T\d{6}-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// ValidFileID tells whether s has the form of a file id.
func ValidFileID(s string) bool { return fileIDPattern.MatchString(s) }

func randUint64() uint64 {
	var b [8]byte
	mustRand(b[:])
	return binary.BigEndian.Uint64(b[:])
}

// mustRand fills b. crypto/rand.Read never fails on the platforms we support
// (it ends the process instead), so an error here is impossible.
func mustRand(b []byte) {
	if _, err := rand.Read(b); err != nil {
		panic("BUG: crypto/rand: " + err.Error())
	}
}
