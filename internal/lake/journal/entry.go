// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math"
	"strconv"
	"strings"
	"time"

	"panal/internal/lake"
	"panal/internal/plat"
)

// Entry is the state of a file, or of a channel when File is empty, at a revision.
type Entry struct {
	Org     plat.OrgID     `json:"o"`
	Channel plat.ChannelID `json:"c"`
	File    plat.FileID    `json:"i,omitempty"`
	Rev     int64          `json:"v,omitempty"`
	// Gone is when it was deleted or had expired, in Unix microseconds; 0: it is there.
	Gone int64 `json:"g,omitempty"`

	At          int64         `json:"t,omitempty"` // upload or creation, in Unix microseconds
	Size        int64         `json:"s,omitempty"`
	ETag        string        `json:"e,omitempty"`
	ContentType string        `json:"y,omitempty"`
	Metadata    lake.Metadata `json:"m,omitempty"`
	Lifetime    lake.Lifetime `json:"l,omitempty"`
	Path        string        `json:"p,omitempty"` // of a bucket's file

	Name        string           `json:"n,omitempty"`
	Description *string          `json:"d,omitempty"`
	Storage     lake.StorageType `json:"k,omitempty"`
	Archived    bool             `json:"a,omitempty"`
	Updated     int64            `json:"u,omitempty"`
}

// key orders entries as the storage lists the objects: a channel before its files.
func (e *Entry) key() string {
	if e.File == "" {
		return lake.ChannelPrefix(e.Org, e.Channel)
	}
	return lake.BlobKey(e.Org, e.Channel, e.File)
}

// holdsAgainst tells whether e is the one to believe.
func (e *Entry) holdsAgainst(other *Entry) bool {
	if (e.Gone != 0) != (other.Gone != 0) {
		return e.Gone != 0
	}
	return e.Rev > other.Rev
}

func fileEntry(org plat.OrgID, f lake.File) Entry {
	return Entry{
		Org: org, Channel: f.Channel, File: f.ID, Rev: f.Rev, At: f.UploadedAt.UnixMicro(), Size: f.Size, ETag: f.ETag,
		ContentType: f.ContentType, Metadata: f.Metadata, Lifetime: f.Lifetime, Path: f.Path,
	}
}

func (e *Entry) file() lake.File {
	f := lake.File{
		ID: e.File, Channel: e.Channel, Rev: e.Rev, Size: e.Size, ETag: e.ETag, ContentType: e.ContentType,
		Metadata: e.Metadata, Lifetime: e.Lifetime, Path: e.Path, UploadedAt: time.UnixMicro(e.At).UTC(),
	}
	if f.Metadata == nil {
		f.Metadata = lake.Metadata{}
	}
	f.ExpiresAt = f.Lifetime.Expiry(f.UploadedAt)
	return f
}

func channelEntry(c lake.Channel) Entry {
	return Entry{
		Org: c.Org, Channel: c.ID, Rev: c.Rev, At: c.CreatedAt.UnixMicro(), Updated: c.UpdatedAt.UnixMicro(),
		Name: c.Name, Description: c.Description, Storage: c.Storage, Archived: c.Archived,
	}
}

func (e *Entry) channel() lake.Channel {
	return lake.Channel{
		ID: e.Channel, Org: e.Org, Rev: e.Rev, Name: e.Name, Description: e.Description, Storage: e.Storage, Archived: e.Archived,
		CreatedAt: time.UnixMicro(e.At).UTC(), UpdatedAt: time.UnixMicro(e.Updated).UTC(),
	}
}

// ended is the entry of something that is no more.
func ended(org plat.OrgID, channel plat.ChannelID, file plat.FileID, at time.Time) Entry {
	return Entry{Org: org, Channel: channel, File: file, Rev: math.MaxInt64, Gone: max(at.UnixMicro(), 1)}
}

// check refuses entries that this package does not write: they would become keys
// and rows.
func (e *Entry) check() error {
	if e.Org == "" || e.Channel == "" || strings.Contains(string(e.Org)+string(e.Channel)+string(e.File), "/") {
		return plat.Errorf(plat.ErrInvalid, "a journal entry names no channel or file")
	}
	return nil
}

// A batch is a line with version and checksum, then a line of JSON for each entry.
const batchMagic = "panal-journal-1 "

var castagnoli = crc32.MakeTable(crc32.Castagnoli) //nolint:gochecknoglobals // a constant

func encodeBatch(entries []Entry) ([]byte, error) {
	var b bytes.Buffer
	const head = len(batchMagic) + 8 + 1
	b.Grow(head + 256*len(entries))
	b.Write(make([]byte, head))
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for i := range entries {
		if err := enc.Encode(&entries[i]); err != nil {
			return nil, fmt.Errorf("encode journal: %w", err)
		}
	}
	out := b.Bytes()
	copy(out, fmt.Sprintf("%s%08x\n", batchMagic, crc32.Checksum(out[head:], castagnoli)))
	return out, nil
}

func decodeBatch(raw []byte) ([]Entry, error) {
	rest, ok := bytes.CutPrefix(raw, []byte(batchMagic))
	if !ok || len(rest) < 9 || rest[8] != '\n' {
		return nil, plat.Errorf(plat.ErrInvalid, "is no journal batch of this version")
	}
	sum, err := strconv.ParseUint(string(rest[:8]), 16, 32)
	rest = rest[9:]
	if err != nil || uint32(sum) != crc32.Checksum(rest, castagnoli) {
		return nil, plat.Errorf(plat.ErrInvalid, "is damaged: its checksum does not match")
	}
	var out []Entry
	for line := range bytes.Lines(rest) {
		var e Entry
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, plat.Errorf(plat.ErrInvalid, "holds a line that is no entry")
		}
		if err := e.check(); err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}
