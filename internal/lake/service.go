// SPDX-License-Identifier: Apache-2.0

package lake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/singleflight"

	"panal/internal/blob"
	"panal/internal/plat"
	"panal/internal/x/quota"
)

// Service is the DataLake's rules. It is safe for concurrent use.
type Service struct {
	store Store
	blobs *blob.Store
	now   plat.Clock
	group *group
	quota *quota.Ledger // nil: no limits
	// limits are of metadata.
	limits  Limits
	foreign Foreign
	takers  takers
	served  func(context.Context, plat.OrgID) error // nil: all are
	intake  Intake
	record  Record             // nil: the index alone knows
	taking  singleflight.Group // by incoming key
	listed  sync.Map           // the incoming keys that calls of TakeAll are at
}

// Foreign reads the files of linked channels, which are the objects of other buckets.
type Foreign interface {
	// OpenLinked returns bytes [off, off+n) of a file; n < 0 is to the end. ErrNotFound
	// when the bucket has that object no more, whatever the index says.
	OpenLinked(ctx context.Context, channel plat.ChannelID, id plat.FileID, off, n int64) (io.ReadCloser, error)
}

// ReadLinked makes the files of linked channels readable. Called while wiring.
func (s *Service) ReadLinked(f Foreign) { s.foreign = f }

// own is channel for changes of what it holds: ErrForbidden when it's linked.
func (s *Service) own(ctx context.Context, org plat.OrgID, id plat.ChannelID) (Channel, error) {
	c, err := s.channel(ctx, org, id)
	if err == nil && c.Linked {
		err = ErrLinked(id)
	}
	return c, err
}

// NewService returns the DataLake over its index and its bytes.
func NewService(s Store, b *blob.Store, now plat.Clock) *Service {
	return &Service{store: s, blobs: b, now: now, group: newGroup(s.Commit)}
}

// LimitBy makes uploads keep to the organizations' quotas. Called while wiring.
func (s *Service) LimitBy(l *quota.Ledger) { s.quota = l }

// LimitMetadata bounds the metadata of files. Called while wiring.
func (s *Service) LimitMetadata(l Limits) { s.limits = l }

// MaxValue is how long a metadata value may be.
func (s *Service) MaxValue() int { return limitsOf([]Limits{s.limits}).Value }

// ServeOnly makes promised uploads be kept only for organizations of which served says
// nil; ErrForbidden is of one that is suspended or deleted. Called while wiring.
func (s *Service) ServeOnly(served func(context.Context, plat.OrgID) error) { s.served = served }

func (s *Service) standing(ctx context.Context, org plat.OrgID) error {
	if s.served == nil {
		return nil
	}
	return s.served(ctx, org)
}

// NewChannel is what a channel is made of.
type NewChannel struct {
	Name        string
	Description *string
	Storage     StorageType // empty: datalake
}

const maxName = 1024

func checkName(field, s string) error {
	if len(s) > maxName || !utf8.ValidString(s) || !printable(s) {
		return plat.InvalidField(field, "must be at most %d bytes of UTF-8 text without NUL", maxName)
	}
	return nil
}

func printable(s string) bool {
	for _, r := range s {
		if r == 0 {
			return false
		}
	}
	return true
}

// CreateChannel makes a channel of the organization.
func (s *Service) CreateChannel(ctx context.Context, org plat.OrgID, in NewChannel) (Channel, error) {
	if in.Storage == "" {
		in.Storage = StorageDatalake
	}
	if in.Storage != StorageDatalake && in.Storage != StorageFile {
		return Channel{}, plat.InvalidField("storage_type", "must be datalake or file")
	}
	return s.create(ctx, org, in)
}

func (s *Service) create(ctx context.Context, org plat.OrgID, in NewChannel) (Channel, error) {
	now := s.now()
	c := Channel{
		ID: plat.ChannelID(plat.NewDecimalID()), Org: org, Name: in.Name, Description: in.Description,
		Storage: in.Storage, CreatedAt: now, UpdatedAt: now,
	}
	if err := errors.Join(checkName("name", c.Name), checkDescription(c.Description)); err != nil {
		return Channel{}, err
	}
	if err := s.store.CreateChannel(ctx, c); err != nil {
		return Channel{}, fmt.Errorf("create channel: %w", err)
	}
	return c, nil
}

func checkDescription(d *string) error {
	if d == nil {
		return nil
	}
	return checkName("description", *d)
}

// Channel returns a channel of the organization; ErrNotFound for another's.
func (s *Service) Channel(ctx context.Context, org plat.OrgID, id plat.ChannelID) (Channel, error) {
	c, err := s.store.Channel(ctx, id)
	if err != nil {
		return Channel{}, err
	}
	if c.Org != org || c.Storage == StorageBucket {
		return Channel{}, plat.NotFound("channel", id)
	}
	return c, nil
}

// Owner returns the organization of a channel or bucket, for who has a signature instead of one.
func (s *Service) Owner(ctx context.Context, id plat.ChannelID) (plat.OrgID, error) {
	c, err := s.store.Channel(ctx, id)
	return c.Org, err
}

// Channels lists the organization's channels, newest first.
func (s *Service) Channels(ctx context.Context, org plat.OrgID, page ChannelPage) (all []Channel, more bool, err error) {
	return s.store.Channels(ctx, org, page)
}

// ChannelChange says what to change; nil fields stay.
type ChannelChange struct {
	Name        *string
	Description *string
	Archived    *bool
}

// UpdateChannel changes a channel of the organization. A change that changes
// nothing is none.
func (s *Service) UpdateChannel(ctx context.Context, org plat.OrgID, id plat.ChannelID, ch ChannelChange) (Channel, error) {
	c, err := s.Channel(ctx, org, id)
	if err != nil {
		return Channel{}, err
	}
	return s.update(ctx, c, ch)
}

func (s *Service) update(ctx context.Context, c Channel, ch ChannelChange) (Channel, error) {
	changed := false
	if ch.Name != nil && *ch.Name != c.Name {
		c.Name, changed = *ch.Name, true
	}
	if ch.Description != nil && (c.Description == nil || *ch.Description != *c.Description) {
		c.Description, changed = ch.Description, true
	}
	if ch.Archived != nil && *ch.Archived != c.Archived {
		c.Archived, changed = *ch.Archived, true
	}
	if !changed {
		return c, nil
	}
	if err := errors.Join(checkName("name", c.Name), checkDescription(c.Description)); err != nil {
		return Channel{}, err
	}
	c.UpdatedAt = s.now()
	defer s.takers.drop(c.ID)
	if err := s.store.UpdateChannel(ctx, c); err != nil {
		return Channel{}, fmt.Errorf("update channel %s: %w", c.ID, err)
	}
	return c, nil
}

// channel returns the channel of a path that names no organization: another
// organization's is ErrForbidden.
func (s *Service) channel(ctx context.Context, org plat.OrgID, id plat.ChannelID) (Channel, error) {
	c, err := s.store.Channel(ctx, id)
	if err != nil {
		return Channel{}, err
	}
	if c.Org != org {
		return Channel{}, plat.Errorf(plat.ErrForbidden, "the channel belongs to another organization")
	}
	if c.Storage == StorageBucket {
		return Channel{}, plat.NotFound("channel", id)
	}
	return c, nil
}

func errArchived(c Channel) error {
	what := "channel"
	if c.Storage == StorageBucket {
		what = "bucket"
	}
	return plat.Errorf(plat.ErrForbidden, "%s %s is archived and takes no uploads; unarchive it first", what, c.ID)
}

// Upload is a request to store a file.
type Upload struct {
	Org         plat.OrgID // the caller's
	Channel     plat.ChannelID
	ContentType string   // empty: application/octet-stream
	Metadata    Metadata // checked here
	Lifetime    string   // as on the wire
	// ConflictTarget is a metadata name, bare or in full: see NewFile.Conflict.
	ConflictTarget string
	Body           io.Reader
	Size           int64 // of Body; -1 when unknown
}

const maxContentType = 1 << 10

// Upload stores a file. The body is streamed to storage; the file is visible, and
// this returns, once both its bytes and its index row are durable. A body that
// ends early or any other error leaves nothing behind that a reader could see.
// Errors: ErrInvalid, ErrForbidden (another organization's channel, or archived),
// ErrNotFound (channel), *ConflictError, ErrExhausted (storage full, or the
// organization's quota reached: checked before the body is read, and as it comes
// where its length is unknown).
func (s *Service) Upload(ctx context.Context, in Upload) (File, error) {
	f, err := s.prepareUpload(ctx, in)
	if err != nil {
		return File{}, err
	}
	room, err := s.quota.Reserve(ctx, in.Org, in.Size)
	if err != nil {
		return File{}, err
	}
	defer room.Drop()
	key := BlobKey(in.Org, f.Channel, f.ID)
	stored, err := s.blobs.Put(ctx, key, room.Reader(in.Body, in.Size), in.Size, blob.PutOptions{ContentType: f.ContentType, New: true})
	if err != nil {
		return File{}, fmt.Errorf("upload to channel %s: %w", f.Channel, err)
	}
	f.Size, f.ETag = stored.Size, stored.ETag
	return s.commit(ctx, key, f, room)
}

// commit makes a stored object a file of the room that was reserved for it, or takes it
// away again.
func (s *Service) commit(ctx context.Context, key string, f NewFile, room *quota.Reservation) (File, error) {
	out, err := s.group.do(ctx, f)
	if err == nil {
		old := out.Replaced
		if old == nil {
			room.Stored(f.Size)
		} else {
			room.Stored(f.Size - old.Size)
			// Nobody finds it any more; what can't be deleted now Collect finds.
			cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitLimit)
			defer cancel()
			_ = s.blobs.Delete(cleanup, replacedKey(key, *old))
		}
		return out.File, nil
	}
	s.takers.drop(f.Channel) // it may have been archived, linked or deleted
	// Only a definite no lets us drop the bytes at once: after a lost connection
	// the row may be there. The collector looks at what is left.
	if kind := plat.KindOf(err); kind != nil && !errors.Is(err, plat.ErrUnavailable) {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitLimit)
		defer cancel()
		err = errors.Join(err, s.blobs.Delete(cleanup, key))
	}
	return File{}, fmt.Errorf("upload to channel %s: %w", f.Channel, err)
}

// replacedKey is where the bytes of a file are whose place the object under key took.
func replacedKey(key string, old File) string {
	org, _, _ := strings.Cut(strings.TrimPrefix(key, blobPrefix), "/")
	return BlobKey(plat.OrgID(org), old.Channel, old.ID)
}

// prepare checks everything about an upload that can be known before its body,
// and reserves the file's id.
func (s *Service) prepare(ctx context.Context, in Upload) (NewFile, error) {
	c, err := s.own(ctx, in.Org, in.Channel)
	if err != nil {
		return NewFile{}, err
	}
	return s.prepareIn(ctx, c, in)
}

// prepareUpload is prepare for what is committed right after.
func (s *Service) prepareUpload(ctx context.Context, in Upload) (NewFile, error) {
	if c, ok := s.takers.get(in.Channel); ok && c.Org == in.Org {
		return s.prepareIn(ctx, c, in)
	}
	c, err := s.own(ctx, in.Org, in.Channel)
	if err != nil {
		return NewFile{}, err
	}
	f, err := s.prepareIn(ctx, c, in)
	if err == nil {
		s.takers.add(c)
	}
	return f, err
}

func (s *Service) prepareIn(ctx context.Context, c Channel, in Upload) (NewFile, error) {
	if c.Archived {
		return NewFile{}, errArchived(c)
	}
	lifetime, err := ParseLifetime(in.Lifetime)
	if err != nil {
		return NewFile{}, err
	}
	if in.ContentType == "" {
		in.ContentType = "application/octet-stream"
	}
	if len(in.ContentType) > maxContentType || !utf8.ValidString(in.ContentType) {
		return NewFile{}, plat.InvalidField("content-type", "must be at most %d bytes of text", maxContentType)
	}
	if err := in.Metadata.Check(s.limits); err != nil {
		return NewFile{}, err
	}
	f := NewFile{File: File{
		ID: plat.NewFileID(s.now()), Channel: c.ID, ContentType: in.ContentType, Metadata: in.Metadata, Lifetime: lifetime,
	}}
	if in.ConflictTarget == "" {
		return f, nil
	}
	f.Conflict = FieldKey(in.ConflictTarget)
	value, ok := in.Metadata.Get(f.Conflict)
	if !ok {
		return NewFile{}, plat.InvalidField("conflict_target", "the upload has no metadata %s%s", MetaPrefix, f.Conflict)
	}
	// The commit checks again, atomically; this look saves storing bytes for nothing.
	switch there, err := s.store.FileWith(ctx, c.ID, f.Conflict, value, s.now()); {
	case err == nil:
		return NewFile{}, &ConflictError{Target: f.Conflict, File: there}
	case !errors.Is(err, plat.ErrNotFound):
		return NewFile{}, err
	}
	return f, nil
}

// File returns one file.
func (s *Service) File(ctx context.Context, org plat.OrgID, channel plat.ChannelID, id plat.FileID) (File, error) {
	if _, err := s.channel(ctx, org, channel); err != nil {
		return File{}, err
	}
	f, err := s.store.File(ctx, channel, id, s.now())
	if errors.Is(err, plat.ErrNotFound) && s.blobs.Copies() {
		return s.arrived(ctx, org, channel, id, err)
	}
	return f, err
}

// Files returns a page of files and the token of the next one, "" on the last.
func (s *Service) Files(ctx context.Context, org plat.OrgID, in Search) ([]File, string, error) {
	if _, err := s.channel(ctx, org, in.Channel); err != nil {
		return nil, "", err
	}
	page, more, err := s.store.Files(ctx, in, s.now())
	if err != nil {
		return nil, "", fmt.Errorf("list channel %s: %w", in.Channel, err)
	}
	if !more || len(page) == 0 {
		return page, "", nil
	}
	in.After = PositionOf(page[len(page)-1], in.Sort)
	return page, in.token(), nil
}

// Count returns how many files match.
func (s *Service) Count(ctx context.Context, org plat.OrgID, f Filter) (int64, error) {
	if _, err := s.channel(ctx, org, f.Channel); err != nil {
		return 0, err
	}
	n, err := s.store.Count(ctx, f, s.now())
	if err != nil {
		return 0, fmt.Errorf("count channel %s: %w", f.Channel, err)
	}
	return n, nil
}

// SetMetadata replaces a file's user metadata.
func (s *Service) SetMetadata(ctx context.Context, org plat.OrgID, channel plat.ChannelID, id plat.FileID, m Metadata) (File, error) {
	if _, err := s.own(ctx, org, channel); err != nil {
		return File{}, err
	}
	if err := m.Check(s.limits); err != nil {
		return File{}, err
	}
	return s.store.SetMetadata(ctx, channel, id, m, s.now())
}

// DeleteFile deletes a file and returns its bytes to the storage.
func (s *Service) DeleteFile(ctx context.Context, org plat.OrgID, channel plat.ChannelID, id plat.FileID) error {
	if _, err := s.own(ctx, org, channel); err != nil {
		return err
	}
	if _, err := s.store.DeleteFile(ctx, channel, id, s.now()); err != nil {
		return err
	}
	// The file is gone for every reader; if the storage fails now, the collector
	// finds the object later.
	if err := s.blobs.Delete(ctx, BlobKey(org, channel, id)); err != nil && !later(err) {
		return fmt.Errorf("delete file %s: %w", id, err)
	}
	return nil
}

// Open returns a file and its bytes [off, off+n); see blob.Store.Open.
func (s *Service) Open(ctx context.Context, org plat.OrgID, channel plat.ChannelID, id plat.FileID, off, n int64) (File, io.ReadCloser, error) {
	f, err := s.File(ctx, org, channel, id)
	if err != nil {
		return File{}, nil, err
	}
	c, err := s.store.Channel(ctx, channel)
	if err != nil {
		return File{}, nil, err
	}
	var rc io.ReadCloser
	if c.Linked {
		rc, err = s.foreign.OpenLinked(ctx, channel, id, off, n)
	} else {
		rc, _, err = s.blobs.Open(ctx, BlobKey(org, channel, id), off, n)
	}
	if err != nil {
		return File{}, nil, fmt.Errorf("open file %s: %w", id, err)
	}
	return f, rc, nil
}

// ParseDays reads start and end (YYYYMMDD, both inclusive) as whole days in a
// time zone (data.md §10.4). Both empty means no bound.
func ParseDays(start, end, zone string) (from, to time.Time, err error) {
	loc := time.UTC
	if zone != "" {
		if loc, err = time.LoadLocation(zone); err != nil || zone == "Local" {
			return time.Time{}, time.Time{}, plat.InvalidField("timezone", "%q is not an IANA time zone", zone)
		}
	}
	if start == "" && end == "" {
		return time.Time{}, time.Time{}, nil
	}
	if start == "" || end == "" {
		return time.Time{}, time.Time{}, plat.InvalidField("start", "start and end go together")
	}
	if from, err = time.ParseInLocation("20060102", start, loc); err != nil {
		return time.Time{}, time.Time{}, plat.InvalidField("start", "%q is not a day; write YYYYMMDD", start)
	}
	if to, err = time.ParseInLocation("20060102", end, loc); err != nil {
		return time.Time{}, time.Time{}, plat.InvalidField("end", "%q is not a day; write YYYYMMDD", end)
	}
	return from.UTC(), to.AddDate(0, 0, 1).UTC(), nil
}

// pageToken is the whole state of a listing, so that a client may send it alone.
type pageToken struct {
	Channel plat.ChannelID `json:"c"`
	Query   string         `json:"q,omitempty"`
	Sort    []SortKey      `json:"s,omitempty"`
	From    int64          `json:"f,omitempty"`
	To      int64          `json:"u,omitempty"`
	Limit   int            `json:"n"`
	After   *Position      `json:"a"`
}

func (in Search) token() string {
	t := pageToken{Channel: in.Channel, Sort: in.Sort, Limit: in.Limit, After: in.After}
	if in.Query != nil {
		t.Query = in.Query.String()
	}
	if !in.From.IsZero() || !in.To.IsZero() {
		t.From, t.To = in.From.UnixMicro(), in.To.UnixMicro()
	}
	return encodeToken(t)
}
