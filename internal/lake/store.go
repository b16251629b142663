// SPDX-License-Identifier: Apache-2.0

package lake

import (
	"context"
	"time"

	"panal/internal/plat"
)

// Store keeps channels and the index of files. Implemented by sqlstore; package
// laketest holds every implementation to this contract. All methods are safe for
// concurrent use, also by several processes on one database.
//
// A file that has expired at the now of a call, or been deleted, does not exist
// for it. A file committed before a call began is seen by it.
type Store interface {
	// CreateChannel stores c; ErrExists when its id is taken.
	CreateChannel(ctx context.Context, c Channel) error
	// Channel returns a channel, archived or not.
	Channel(ctx context.Context, id plat.ChannelID) (Channel, error)
	// Channels returns a page of an organization's channels, newest first (by id
	// where two are as new), and whether more follow.
	Channels(ctx context.Context, org plat.OrgID, page ChannelPage) (all []Channel, more bool, err error)
	// UpdateChannel changes name, description, archived and the update time of the
	// channel with c's id to c's. Its Rev becomes one more.
	UpdateChannel(ctx context.Context, c Channel) error

	// Commit makes files visible, in one durable transaction with an event each
	// (topic "file", subject "<channel>/<file>"). Each gets its upload time: about
	// now, unique in its channel. A file with a path takes the place of the one that
	// has it, which is gone then. The outcomes are in the order of the files. An
	// error means that none was stored, or, when it has no kind or is
	// ErrUnavailable, that it is not known.
	Commit(ctx context.Context, files []NewFile) ([]Outcome, error)
	// File returns one file.
	File(ctx context.Context, channel plat.ChannelID, id plat.FileID, now time.Time) (File, error)
	// PathFile returns the file of a bucket that has the path.
	PathFile(ctx context.Context, bucket plat.ChannelID, path string, now time.Time) (File, error)
	// Entries returns up to d.Limit entries of a directory of a bucket, in the byte order
	// of their names, and whether more follow.
	Entries(ctx context.Context, d Directory, now time.Time) (page []DirEntry, more bool, err error)
	// FileWith returns a file of the channel whose decoded metadata value under the
	// index key is value.
	FileWith(ctx context.Context, channel plat.ChannelID, key, value string, now time.Time) (File, error)
	// Files returns up to s.Limit files and whether more follow. In the order by
	// upload time, files committed between two pages neither repeat nor hide others.
	Files(ctx context.Context, s Search, now time.Time) (page []File, more bool, err error)
	// Count returns how many files Files would list without a limit.
	Count(ctx context.Context, f Filter, now time.Time) (int64, error)
	// Facets returns the values of a key (see FacetKey) among the files of f, at most
	// limit of them.
	Facets(ctx context.Context, f Filter, key string, limit int, now time.Time) (Facets, error)
	// Usage returns how many files there are and how many bytes they hold.
	Usage(ctx context.Context, channel plat.ChannelID, now time.Time) (Usage, error)
	// Total returns what all channels hold together, with files that have expired
	// and are not removed yet.
	Total(ctx context.Context) (Usage, error)
	// OrgUsage is Total for one organization's channels.
	OrgUsage(ctx context.Context, org plat.OrgID) (Usage, error)
	// SetMetadata replaces a file's user metadata and returns the file as it is then.
	// This and every other change makes its Rev one more: of two states of a file the
	// one with the greater Rev is the later one.
	SetMetadata(ctx context.Context, channel plat.ChannelID, id plat.FileID, m Metadata, now time.Time) (File, error)
	// PatchMetadata changes single names of a file's user metadata (see
	// Metadata.With) and returns the file as it is then. Reading and changing are one
	// atomic step. ErrInvalid when the result breaks the rules or passes lim; nothing changes then.
	PatchMetadata(ctx context.Context, channel plat.ChannelID, id plat.FileID, p Patch, lim Limits, now time.Time) (File, error)
	// SetLifetime gives a file another lifetime, counted from its upload, and
	// returns the file as it is then: it may have ended by that.
	SetLifetime(ctx context.Context, channel plat.ChannelID, id plat.FileID, l Lifetime, now time.Time) (File, error)
	// DeleteFile removes a file from the index and returns what it was.
	DeleteFile(ctx context.Context, channel plat.ChannelID, id plat.FileID, now time.Time) (File, error)
	// DeleteExpired removes up to limit files that have expired at now, and returns
	// them.
	DeleteExpired(ctx context.Context, now time.Time, limit int) ([]File, error)
	// DeleteMatching removes those of the ids that are there and still match f, in one
	// transaction, and returns what they were.
	DeleteMatching(ctx context.Context, f Filter, ids []plat.FileID, now time.Time) ([]File, error)

	// CreatePending keeps a promised upload. ErrNotFound when there is no channel.
	CreatePending(ctx context.Context, p Pending) error
	// Pending returns a promised upload that has not been committed, in time or not.
	Pending(ctx context.Context, channel plat.ChannelID, id plat.FileID) (Pending, error)
	// BindPending gives promises whose body has arrived the tag and size of Arrivals, where
	// they have none yet and were not refused, and returns them as they are then, by
	// Arrival; nil where there is none.
	BindPending(ctx context.Context, all []Arrival) ([]*Pending, error)
	// RefusePending sets why a promise is not kept, and tells whether it did: not when it is
	// gone or refused already. It can't be committed any more then.
	RefusePending(ctx context.Context, channel plat.ChannelID, id plat.FileID, reason string) (bool, error)
	// AwaitedUntil returns the latest Until of promises whose bodies go straight to the
	// storage and have not been taken in or refused; zero without any.
	AwaitedUntil(ctx context.Context) (time.Time, error)
	// DeletePending removes up to limit promises whose time ended before, and returns
	// them. None of them can be committed any more.
	DeletePending(ctx context.Context, before time.Time, limit int) ([]Pending, error)

	// DropChannel removes a channel: from then on nobody finds it or anything in
	// it, and Total no longer counts it. What is left of it is removed by Sweep.
	DropChannel(ctx context.Context, id plat.ChannelID, now time.Time) error
	// Gone returns channels that were deleted before and not swept to the end yet.
	Gone(ctx context.Context, before time.Time) ([]GoneChannel, error)
	// Sweep removes up to limit rows that a deleted channel left, and tells whether
	// there was less than that.
	Sweep(ctx context.Context, id plat.ChannelID, limit int) (clean bool, err error)
	// Forget removes the memory of a deleted channel: nothing of it is left.
	Forget(ctx context.Context, id plat.ChannelID) error

	// Known returns which of the ids have an index row, expired or not.
	Known(ctx context.Context, channel plat.ChannelID, ids []plat.FileID) (map[plat.FileID]bool, error)
}

// ChannelPage says which channels are wanted.
type ChannelPage struct {
	Buckets         bool // buckets instead of the other channels
	IncludeArchived bool
	Limit, Offset   int
}

// Usage is what a channel holds.
type Usage struct{ Files, Bytes int64 }

// NewFile is a stored object that is to become a file. The upload time and the
// expiry that File holds are not looked at.
type NewFile struct {
	File
	// Conflict, when not empty, is an index key: if a live file of the channel, or
	// one before it in the same commit, has this file's decoded value under it, the
	// file is not stored. Check and commit are one atomic step.
	Conflict string
	// Fresh: no live file of the bucket may have the path; else it is not stored, and the
	// conflict's target is "file". One atomic step, too.
	Fresh bool
	// Pending: the file was promised, and the promise goes with the commit; where
	// there is none, or it was refused, the outcome is ErrConflict.
	Pending bool
}

// GoneChannel is a deleted channel of which something may be left.
type GoneChannel struct {
	ID        plat.ChannelID
	Org       plat.OrgID
	DeletedAt time.Time
}

// Outcome is what became of a NewFile: either File is the stored one, or Err says
// why there is none: *ConflictError, ErrConflict (its promise is gone), ErrNotFound
// (the channel is gone) or ErrForbidden (it is archived).
type Outcome struct {
	File File
	// Replaced is the file whose place File took, which had its path; nil: none.
	Replaced *File
	Err      error
}
