// SPDX-License-Identifier: Apache-2.0

// Package backup is the format of a backup: what panal backup writes and panal
// restore reads (docs/adr/0016-backup.md). It knows no database and no object store.
//
// A backup is a plain tar, made and read as a stream in constant memory:
//
//	panal-backup.json       Header
//	objects/journal/…       the change journal, before the databases
//	databases/control.db …  a snapshot of each
//	objects/…               all other objects
//	sums/00000001 …         after each 1,000 entries or so: their names, sizes and SHA-256
//	alive/…                 empty: there is nothing to send yet
//	end.json                End: how much there was, and the hash of all sums
//
// Invariants of the reader: an archive is hostile until its end. Only regular files of
// these names are taken, in one order (Less), so that nothing comes twice; a name is a
// key or one of few databases, never a path; an archive that was cut, changed or is of a
// newer format is ErrInvalid or ErrUnsupported. The sums tell damage, not forgery: who
// can write a backup can write its sums.
package backup

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
	"time"

	"panal/internal/blob"
	"panal/internal/plat"
)

// Format is the version of the format that this package writes, and the newest that
// it reads.
const Format = 1

const (
	nameHeader = "panal-backup.json"
	nameEnd    = "end.json"
	dirSums    = "sums/"
	dirAlive   = "alive/"
	dirObject  = "objects/"
	dirDB      = "databases/"
)

const (
	sumsEntries = 1000      // entries of one file of sums
	sumsBytes   = 512 << 10 // and its bytes, about
	maxSums     = 4 << 20
	maxHeader   = 1 << 20
	maxDBs      = 40_000 // a century of log days
)

// Header is the first entry: what the backup is of.
type Header struct {
	Format int       `json:"format"`
	Begun  time.Time `json:"begun"`
	Panal  string    `json:"panal"` // version of the program
	// Schema is the newest migration of each database's concern.
	Schema map[string]int64 `json:"schema"`
	// KeyFile is where the keys were that seal secrets, and KeyIDs which they are. They
	// are not in the backup.
	KeyFile string   `json:"key_file"`
	KeyIDs  []string `json:"keys"`
	// Files and Bytes are about how much will come, for a progress bar.
	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"`
}

// End is the last entry.
type End struct {
	// At is the point in time that the databases are of.
	At        time.Time `json:"at"`
	Objects   int64     `json:"objects"`
	Databases int64     `json:"databases"`
	Files     int64     `json:"files"` // of the DataLake
	// Missing is how many objects were not there, or damaged: files that the index
	// names, and what else is there only in part.
	Missing int64  `json:"missing"`
	Entries int64  `json:"entries"` // with sums, as written
	Bytes   int64  `json:"bytes"`   // of objects and databases
	Sums    string `json:"sums"`    // SHA-256 over all sums
}

// Sum is the line of one entry.
type Sum struct {
	Name   string `json:"n"`
	Size   int64  `json:"s"`
	SHA256 string `json:"h"`
}

// Entry is an object or a database of a backup.
type Entry struct {
	// Object is its key, Database its path in the data directory; one is empty.
	Object   string
	Database string
	Size     int64
}

// Name is the entry's name in the archive.
func (e Entry) Name() string {
	if e.Object != "" {
		return dirObject + e.Object
	}
	return dirDB + e.Database
}

var database = regexp.MustCompile(`^(control|lake|logs/index|logs/[0-9]{4}-[0-9]{2}-[0-9]{2})\.db$`)

// parse takes a name of the archive.
func parse(name string) (Entry, error) {
	if key, ok := strings.CutPrefix(name, dirObject); ok {
		if err := blob.CheckKey(key); err != nil {
			return Entry{}, err
		}
		return Entry{Object: key}, nil
	}
	if db, ok := strings.CutPrefix(name, dirDB); ok && database.MatchString(db) {
		return Entry{Database: db}, nil
	}
	return Entry{}, refuse("it holds %.200q, which is nothing of a backup", name)
}

// rank orders the parts of a backup. The journal is older than the databases, and its
// marks are older than the rest of it.
func (e Entry) rank() int {
	switch key := e.Object; {
	case e.Database != "":
		return 10
	case key == "journal/whole":
		return 0
	case strings.HasPrefix(key, "journal/mark/"):
		return 1
	case strings.HasPrefix(key, "journal/batch/"):
		return 2
	case strings.HasPrefix(key, "journal/"):
		return 3
	}
	return 20
}

// Less is the order of entries: by part, then by name.
func (e Entry) Less(o Entry) bool {
	return cmp.Or(cmp.Compare(e.rank(), o.rank()), cmp.Compare(e.Name(), o.Name())) < 0
}

func refuse(format string, args ...any) error {
	return plat.Errorf(plat.ErrInvalid, "the backup can't be used: %s", fmt.Sprintf(format, args...))
}
