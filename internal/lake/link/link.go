// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"io"
	"time"

	"panal/internal/feed"
	"panal/internal/lake"
	"panal/internal/plat"
)

// Link ties a channel to what a bucket has under a prefix.
type Link struct {
	Channel plat.ChannelID
	// Num is the store's: a later link of the same channel has another.
	Num    int64
	Org    plat.OrgID
	Place  Place
	Feed   Feed
	Paused bool // the subscriber and the reconciler rest
	// CreatedAt is when it was linked.
	CreatedAt time.Time
	Walk      Walk
}

// Place is where the objects are.
type Place struct {
	Endpoint string // "https://host[:port]"
	Region   string
	Bucket   string
	Prefix   string // of the keys; may be empty
	// Credentials are sealed; empty for a bucket that anybody may read.
	Credentials string
}

// FeedKind says where a link's events come from.
type FeedKind string

// Kinds of feeds.
const (
	FeedNone    FeedKind = "none" // the reconciler alone
	FeedWebhook FeedKind = "webhook"
	FeedSQS     FeedKind = "sqs"
)

// Feed is where a link's events come from.
type Feed struct {
	Kind FeedKind
	// Queue is the URL of an SQS queue.
	Queue string
	// SecretHash is the SHA-256 (hex) of what a webhook's sender must show.
	SecretHash string
}

// Walk is the reconciler's position in a link.
type Walk struct {
	After string // the key up to which this pass has come; empty at its beginning
	Seen  int64  // objects that this pass has listed
	Found int64  // keys whose row this pass had to change
	// Drift is Found of the last whole pass, and PassedAt its end: zero until the first
	// one, which is the import, is through.
	Drift    int64
	PassedAt time.Time
}

// Object is what a look at a key found.
type Object struct {
	Key      string
	Version  string // empty in a bucket without versions
	ETag     string // unquoted
	Size     int64
	Modified time.Time
	// What only a look tells, and a listing doesn't:
	ContentType string
	Metadata    map[string]string // user metadata as the storage gives it
}

// Bucket reads a foreign bucket. Implementations are safe for concurrent use. Kinds:
// ErrNotFound (no such object, or not that version or ETag any more), ErrForbidden,
// ErrInvalid (the storage refuses the key), ErrUnavailable.
type Bucket interface {
	// Look returns the newest version of an object.
	Look(ctx context.Context, key string) (Object, error)
	// List returns up to limit objects with the prefix whose keys are after a key, in
	// byte order, without content type, version and metadata, and whether more follow.
	List(ctx context.Context, prefix, after string, limit int) (page []Object, more bool, err error)
	// Open returns bytes [off, off+n) of exactly the object that the row names; n < 0 is
	// to the end.
	Open(ctx context.Context, of Row, off, n int64) (io.ReadCloser, error)
}

// ErrNoBucket is what a Bucket answers that is not there at all. Its kind is
// ErrUnavailable: that none of its objects is there must not follow.
var ErrNoBucket = &plat.Error{Kind: plat.ErrUnavailable, Public: "there is no such bucket"}

// Row is what the index knows of a key of a link.
type Row struct {
	Key string
	// Gen is how often the row was written; 0: there is none.
	Gen int64
	// Sequencer is the newest one of which an event was looked after; may be empty.
	Sequencer feed.Sequencer
	// File is what the object is in the channel; empty for a tombstone, and all below
	// with it.
	File     plat.FileID
	Version  string
	ETag     string
	Size     int64
	Modified time.Time // whole seconds: listings and looks differ in what follows
	// Mark tells apart all that a look can find at a key.
	Mark string
	// WrittenAt is when it was last written.
	WrittenAt time.Time
}

// Observation is a look at a key, to be written.
type Observation struct {
	Was Row // as read before the look; Key and Gen count even where there was none
	// Sequencer is of the newest event that it looked after; empty keeps the row's.
	Sequencer feed.Sequencer
	Object    *Object // nil: there is none
}

// Outcome is what became of an observation.
type Outcome struct {
	// Written: false when the row is not what it was before the look.
	Written bool
	// Changed: the channel's files are not what they were.
	Changed bool
}

// Letter is a message that led to nothing.
type Letter struct {
	ID      int64 // the store's
	Channel plat.ChannelID
	Reason  string
	Body    []byte
	At      time.Time
}

// Store keeps links and what is known of their keys. Implemented by sqlstore; package
// linktest holds every implementation to this contract. All methods are safe for
// concurrent use, also by several processes on one database.
type Store interface {
	Rows
	// CreateLink links a channel. ErrNotFound without the channel, ErrExists when it's
	// linked, ErrConflict when it has files or promised uploads.
	CreateLink(ctx context.Context, l Link) error
	// Unlink ends a link, and with it the channel's files: the channel is as if it had been
	// made just now. ErrNotFound when it's not linked. What is left of the link's rows goes
	// as that of a deleted channel does (lake.Store.Gone), a bounded number at a time.
	Unlink(ctx context.Context, channel plat.ChannelID, now time.Time) error
	// Bound returns rows of one link alone, by its Num: what they are asked to write once the
	// channel has another link, or none, is ErrNotFound, and letters go nowhere.
	Bound(num int64) Rows
	// Link returns a channel's link.
	Link(ctx context.Context, channel plat.ChannelID) (Link, error)
	// Links returns all, by channel, of channels that are not deleted.
	Links(ctx context.Context) ([]Link, error)
	// Pause sets whether a link rests.
	Pause(ctx context.Context, channel plat.ChannelID, paused bool) error
	// SetCredentials replaces a link's sealed credentials.
	SetCredentials(ctx context.Context, channel plat.ChannelID, sealed string) error
	// Letters returns up to limit dead letters of a link after an id, oldest first.
	Letters(ctx context.Context, channel plat.ChannelID, after int64, limit int) ([]Letter, error)
	// Lettered returns how many dead letters a link has.
	Lettered(ctx context.Context, channel plat.ChannelID) (int64, error)
	// DropLetters removes dead letters; no ids are all. It returns how many there were.
	DropLetters(ctx context.Context, channel plat.ChannelID, ids []int64) (int64, error)
	// DropTombstones removes up to limit tombstones written before a time, and returns
	// how many there were.
	DropTombstones(ctx context.Context, before time.Time, limit int) (int, error)
}

// Rows is what subscriber and reconciler need of a Store.
type Rows interface {
	// Rows returns the rows that there are of the keys.
	Rows(ctx context.Context, channel plat.ChannelID, keys []string) (map[string]Row, error)
	// Live returns up to limit rows with a file whose keys are after one, and not after
	// another unless that is empty, in byte order.
	Live(ctx context.Context, channel plat.ChannelID, after, upTo string, limit int) ([]Row, error)
	// OfFile returns the row whose file it is.
	OfFile(ctx context.Context, channel plat.ChannelID, id plat.FileID) (Row, error)
	// Write writes observations of different keys, with the files that they make and
	// end, counts and events, in one durable transaction: each of them, or not, as its
	// row is what it was. ErrNotFound when the channel is gone or not linked.
	Write(ctx context.Context, channel plat.ChannelID, all []Observation) ([]Outcome, error)
	// SetWalk sets the reconciler's position.
	SetWalk(ctx context.Context, channel plat.ChannelID, w Walk) error
	// Bury keeps dead letters, durably.
	Bury(ctx context.Context, all []Letter) error
}

// Writing is what a Store does with one observation: the row as it is to be, and the
// file to add, nil for none. The file of the row before it ends unless it's still the
// row's.
func (o Observation) Writing(channel plat.ChannelID, now time.Time) (Row, *lake.File) {
	row := Row{Key: o.Was.Key, Gen: o.Was.Gen + 1, Sequencer: o.Was.Sequencer, WrittenAt: now}
	if o.Sequencer.Compare(row.Sequencer) > 0 {
		row.Sequencer = o.Sequencer
	}
	if o.Object == nil {
		return row, nil
	}
	row.Version, row.ETag, row.Size, row.Modified = o.Object.Version, o.Object.ETag, o.Object.Size, o.Object.Modified.Truncate(time.Second)
	row.Mark = o.Object.mark()
	if o.Was.File != "" && o.Was.Mark == row.Mark {
		row.File = o.Was.File
		return row, nil
	}
	f := o.Object.file(channel, now)
	row.File = f.ID
	return row, &f
}
