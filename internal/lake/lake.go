// SPDX-License-Identifier: Apache-2.0

package lake

import (
	"fmt"
	"time"

	"panal/internal/lake/query"
	"panal/internal/plat"
)

// StorageType says what a channel holds.
type StorageType string

// Storage types of the wire; nothing here depends on which it is.
const (
	StorageDatalake StorageType = "datalake"
	StorageFile     StorageType = "file"
	// StorageBucket is of channels that are buckets: their files have paths, and the
	// API of channels does not show them.
	StorageBucket StorageType = "bucket"
)

// Channel is a flat container of files.
type Channel struct {
	ID          plat.ChannelID
	Org         plat.OrgID
	Name        string // may be empty or repeated
	Description *string
	Storage     StorageType
	Archived    bool
	CreatedAt   time.Time
	UpdatedAt   time.Time
	Rev         int64 // how often it was changed; the store counts
	// Linked: its files are the objects of a foreign bucket, and that alone changes them
	// (docs/adr/0017). The store tells; nobody sets it.
	Linked bool
}

// ErrLinked is the error of a change to what a linked channel holds.
func ErrLinked(id plat.ChannelID) error {
	return plat.Errorf(plat.ErrForbidden, "channel %s is linked to a bucket, and its files are what that holds; change the objects there", id)
}

// File is an immutable object of a channel with its metadata.
type File struct {
	ID          plat.FileID
	Channel     plat.ChannelID
	Size        int64
	ETag        string // data.md §13, unquoted
	ContentType string // as the uploader declared it
	Metadata    Metadata
	Lifetime    Lifetime
	UploadedAt  time.Time
	ExpiresAt   time.Time // zero: never
	Rev         int64     // how often metadata or lifetime were set; the store counts
	// Path is its key in a bucket, without a leading slash; empty in every other
	// channel. Of the files of a bucket at most one has a path.
	Path string
}

// Live tells whether the file exists for a reader at now.
func (f File) Live(now time.Time) bool { return f.ExpiresAt.IsZero() || f.ExpiresAt.After(now) }

// BlobKey is where the bytes of a file are. The hour of the upload (the beginning
// of the id) is a segment of its own, so that a directory store keeps no channel's
// files all in one directory.
func BlobKey(org plat.OrgID, channel plat.ChannelID, file plat.FileID) string {
	hour := file[:min(len(file), len("20060102T15"))]
	return blobPrefix + string(org) + "/" + string(channel) + "/" + string(hour) + "/" + string(file)
}

// ChannelPrefix is what the keys of a channel's objects begin with.
func ChannelPrefix(org plat.OrgID, channel plat.ChannelID) string {
	return blobPrefix + string(org) + "/" + string(channel) + "/"
}

// IncomingPrefix is what the keys of bodies begin with that clients put into the storage
// themselves, until they are taken in.
const IncomingPrefix = "incoming/"

// IncomingKey is where the storage's own URL of a promised upload puts the body.
func IncomingKey(org plat.OrgID, channel plat.ChannelID, file plat.FileID) string {
	return IncomingPrefix + string(org) + "/" + string(channel) + "/" + string(file)
}

// ObjectPrefix is what the keys of all files' objects begin with.
const ObjectPrefix = blobPrefix

const blobPrefix = "lake/"

// Lifetime is how long a file lives after its upload; empty means for ever.
type Lifetime string

const day = 24 * time.Hour

// ParseLifetime reads one of the five values of data.md §10.2; empty is for ever.
func ParseLifetime(s string) (Lifetime, error) {
	if l := Lifetime(s); s == "" || l.Duration() > 0 {
		return l, nil
	}
	return "", errLifetime()
}

func errLifetime() error {
	return plat.InvalidField("lifetime", "must be one of 1day, 1week, 1month, 6months, 1year")
}

// Duration is the lifetime's length; 0 means for ever.
func (l Lifetime) Duration() time.Duration {
	switch l {
	case "1day":
		return day
	case "1week":
		return 7 * day
	case "1month":
		return 30 * day
	case "6months":
		return 180 * day
	case "1year":
		return 365 * day
	}
	return 0
}

// Expiry is when a file of this lifetime, uploaded at t, ends; zero means never.
func (l Lifetime) Expiry(t time.Time) time.Time {
	if d := l.Duration(); d > 0 {
		return t.Add(d)
	}
	return time.Time{}
}

// ConflictError says that a live file has the metadata value that an upload with
// a conflict target brought.
type ConflictError struct {
	Target string
	File   File // the one that is there
}

// Error implements error.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s already exists", e.Target)
}

// Unwrap returns the kind.
func (e *ConflictError) Unwrap() error { return plat.ErrConflict }

// Search says which files are wanted, in which order, from where.
type Search struct {
	Filter
	Sort  []SortKey // empty: by upload time
	After *Position // nil: from the beginning
	Limit int       // at least 1
}

// Filter says which files are wanted. The zero From and To mean no bound.
type Filter struct {
	Channel  plat.ChannelID
	Query    query.Node // nil: all
	From, To time.Time  // uploaded in [From, To)
}

// Position is a place in a listing: just after the file that it describes.
type Position struct {
	At     int64    `json:"t"`           // its upload time in microseconds
	ID     string   `json:"i,omitempty"` // its id and the values of the sort keys, when the
	Values []string `json:"v,omitempty"` // order is not simply by upload time
}
