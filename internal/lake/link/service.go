// SPDX-License-Identifier: Apache-2.0

package link

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"panal/internal/feed"
	"panal/internal/plat"
	"panal/internal/x/keyring"
)

// NewLink says what a channel is to be linked to. The caller has checked that the channel
// is the organization's.
type NewLink struct {
	Org     plat.OrgID
	Channel plat.ChannelID
	Place   Place // without credentials
	// AccessKey and SecretKey may read the bucket; both empty: as nobody.
	AccessKey, SecretKey string
	Feed                 FeedKind // empty: SQS with a queue, else webhook
	// Queue is the URL of an SQS queue. QueueAccessKey and QueueSecretKey may receive from
	// and delete in it; both empty: those of the bucket do.
	Queue                          string
	QueueAccessKey, QueueSecretKey string
}

var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

// Create links a channel, once the bucket has answered. It returns what a sender of events
// must show, which nobody can learn again; empty without such a feed.
//
// The endpoint must be one of the configured ones: else whoever administers an
// organization could have the server ask anything of whatever it reaches.
func (m *Manager) Create(ctx context.Context, in NewLink) (l Link, secret string, err error) {
	switch {
	case in.Feed == "" && in.Queue != "":
		in.Feed = FeedSQS
	case in.Feed == "":
		in.Feed = FeedWebhook
	}
	in.Place.Endpoint = strings.TrimSuffix(in.Place.Endpoint, "/")
	switch u, err := url.Parse(in.Place.Endpoint); {
	case err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.Path != "" || u.RawQuery != "" || u.User != nil:
		return l, "", plat.InvalidField("endpoint", "must be http(s)://HOST[:PORT]")
	case !slices.Contains(m.opt.Endpoints, in.Place.Endpoint):
		return l, "", plat.Errorf(plat.ErrForbidden, "%s is not among the endpoints that may be linked; whoever runs this server allows it with --link-endpoint", in.Place.Endpoint)
	case !bucketName.MatchString(in.Place.Bucket):
		return l, "", plat.InvalidField("bucket", "must be the name of a bucket: 3 to 63 of a-z, 0-9, dots and dashes")
	case len(in.Place.Prefix) > 1024 || !utf8.ValidString(in.Place.Prefix) || strings.ContainsRune(in.Place.Prefix, 0):
		return l, "", plat.InvalidField("prefix", "must be at most 1024 bytes of UTF-8 text without NUL")
	case len(in.Place.Region) > 64 || strings.ContainsAny(in.Place.Region, " \x00\n\r/"):
		return l, "", plat.InvalidField("region", "is no region's name")
	case (in.AccessKey == "") != (in.SecretKey == ""):
		return l, "", plat.InvalidField("secret_key", "access_key and secret_key go together")
	case len(in.AccessKey) > 256 || len(in.SecretKey) > 1024:
		return l, "", plat.InvalidField("access_key", "is too long")
	case in.Feed != FeedWebhook && in.Feed != FeedNone && in.Feed != FeedSQS:
		return l, "", plat.InvalidField("feed", "must be sqs (events are in an SQS queue), webhook (they are posted to Panal) or none (the reconciler alone)")
	case (in.Feed == FeedSQS) != (in.Queue != ""):
		return l, "", plat.InvalidField("queue_url", "goes with the feed sqs, and is required for it")
	case in.Queue == "" && in.QueueAccessKey+in.QueueSecretKey != "":
		return l, "", plat.InvalidField("queue_access_key", "is for a queue, and there is no queue_url")
	case (in.QueueAccessKey == "") != (in.QueueSecretKey == ""):
		return l, "", plat.InvalidField("queue_secret_key", "queue_access_key and queue_secret_key go together")
	case len(in.QueueAccessKey) > 256 || len(in.QueueSecretKey) > 1024 || len(in.Queue) > 1024:
		return l, "", plat.InvalidField("queue_url", "or its keys are too long")
	}
	keys := keys{in.AccessKey, in.SecretKey, in.QueueAccessKey, in.QueueSecretKey}
	l = Link{Channel: in.Channel, Org: in.Org, Place: in.Place, Feed: Feed{Kind: in.Feed, Queue: in.Queue}, CreatedAt: m.opt.Now()}
	if err := m.tryQueue(ctx, l, keys); err != nil {
		return l, "", err
	}
	bucket, err := m.opt.Dial(l.Place, in.AccessKey, in.SecretKey)
	if err != nil {
		return l, "", err
	}
	switch _, _, err := bucket.List(ctx, l.Place.Prefix, "", 1); {
	case errors.Is(err, ErrNoBucket):
		return l, "", plat.InvalidField("bucket", "%s does not exist at %s", l.Place.Bucket, l.Place.Endpoint)
	case errors.Is(err, plat.ErrForbidden):
		return l, "", plat.InvalidField("access_key", "may not list the bucket %s at %s", l.Place.Bucket, l.Place.Endpoint)
	case err != nil:
		return l, "", fmt.Errorf("link channel %s: %w", in.Channel, err)
	}
	if l.Place.Credentials, err = m.seal(in.Channel, keys); err != nil {
		return l, "", err
	}
	if in.Feed == FeedWebhook {
		secret = plat.NewToken()
		l.Feed.SecretHash = hashOf(secret)
	}
	if err := m.opt.Store.CreateLink(ctx, l); err != nil {
		return l, "", err
	}
	return l, secret, m.Refresh(ctx)
}

// tryQueue asks a link's queue, so that what is wrong with it is told to whoever names it.
func (m *Manager) tryQueue(ctx context.Context, l Link, k keys) error {
	if l.Feed.Kind != FeedSQS {
		return nil
	}
	u, err := url.Parse(l.Feed.Queue)
	if err != nil || u.Host == "" {
		return plat.InvalidField("queue_url", "must be the URL of an SQS queue: http(s)://HOST[:PORT]/ACCOUNT/NAME")
	}
	if at := u.Scheme + "://" + u.Host; !slices.Contains(m.opt.Endpoints, at) {
		return plat.Errorf(plat.ErrForbidden, "%s is not among the endpoints that may be linked; whoever runs this server allows it with --link-endpoint", at)
	}
	src, err := m.opt.Queue(l.Feed.Queue, l.Place.Region, k.queueAccess(), k.queueSecret(), lease)
	if err != nil {
		return err
	}
	_, err = src.Backlog(ctx)
	switch err := errors.Join(err, src.Close()); {
	case errors.Is(err, plat.ErrNotFound):
		return plat.InvalidField("queue_url", "%s does not exist", l.Feed.Queue)
	case errors.Is(err, plat.ErrForbidden):
		return plat.InvalidField("queue_access_key", "may not read the attributes of the queue %s", l.Feed.Queue)
	case err != nil:
		return fmt.Errorf("link channel %s: %w", l.Channel, err)
	}
	return nil
}

// keys are a link's credentials: access and secret key of the bucket, then of the queue.
// Links of earlier versions have two.
type keys [4]string

// queueAccess and queueSecret fall back to the bucket's.
func (k keys) queueAccess() string { return cmp.Or(k[2], k[0]) }
func (k keys) queueSecret() string { return cmp.Or(k[3], k[1]) }

func place(channel plat.ChannelID) string { return "link/" + string(channel) }

func hashOf(secret string) string {
	h := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(h[:])
}

// KeyOf is the id of the key that sealed a link's credentials, "" where it has none.
func (l Link) KeyOf() string {
	sealed, err := base64.StdEncoding.DecodeString(l.Place.Credentials)
	if err != nil {
		return ""
	}
	return keyring.KeyOf(sealed)
}

// Reseal seals credentials anew that another key than the active one has sealed, and
// returns how many there were.
func (m *Manager) Reseal(ctx context.Context) (int, error) {
	all, err := m.opt.Store.Links(ctx)
	if err != nil {
		return 0, err
	}
	n, failed := 0, error(nil)
	for _, l := range all {
		if key := l.KeyOf(); key == "" || key == m.opt.Seal.Active() {
			continue
		}
		k, err := m.unseal(l)
		if err == nil {
			var sealed string
			if sealed, err = m.seal(l.Channel, k); err == nil {
				err = m.opt.Store.SetCredentials(ctx, l.Channel, sealed)
			}
		}
		if err != nil { // of one must not keep the others
			failed = errors.Join(failed, err)
			continue
		}
		n++
	}
	if n == 0 {
		return 0, failed
	}
	return n, errors.Join(failed, m.Refresh(ctx))
}

// seal returns "" for no credentials.
func (m *Manager) seal(channel plat.ChannelID, k keys) (string, error) {
	if k == (keys{}) {
		return "", nil
	}
	text, err := json.Marshal(k)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(m.opt.Seal.Seal(text, place(channel))), nil
}

func (m *Manager) unseal(l Link) (k keys, err error) {
	if l.Place.Credentials == "" {
		return k, nil
	}
	sealed, err := base64.StdEncoding.DecodeString(l.Place.Credentials)
	if err != nil {
		return k, fmt.Errorf("credentials of the link of channel %s: %w", l.Channel, err)
	}
	text, err := m.opt.Seal.Unseal(sealed, place(l.Channel))
	if err != nil {
		return k, fmt.Errorf("credentials of the link of channel %s: %w", l.Channel, err)
	}
	if err := json.Unmarshal(text, &k); err != nil {
		return k, fmt.Errorf("credentials of the link of channel %s are no JSON", l.Channel)
	}
	return k, nil
}

// MaxMessage bounds a message that is posted.
const MaxMessage = feed.MaxBody

// Allowed tells whether a secret is that of a link's feed. ErrUnauthenticated tells
// neither which feeds there are nor what was wrong.
func (m *Manager) Allowed(channel plat.ChannelID, secret string) error {
	l, ok := (*m.linked.Load())[channel]
	if subtle.ConstantTimeCompare([]byte(hashOf(secret)), []byte(l.Feed.SecretHash)) != 1 || !ok || l.Feed.Kind != FeedWebhook {
		return plat.Errorf(plat.ErrUnauthenticated, "send the feed's secret, which linking the channel has shown, as Authorization: Bearer <secret>")
	}
	return nil
}

// Post takes a message for a link's feed, durably. The sender was Allowed to.
func (m *Manager) Post(ctx context.Context, channel plat.ChannelID, body []byte) error {
	m.mu.Lock()
	posts := m.postsLocked(channel)
	m.mu.Unlock()
	return posts.Push(ctx, body)
}

// Status is how a link is doing.
type Status struct {
	Link    Link
	Backlog feed.Backlog
	Dead    int64
	Figures Figures // of this server's subscriber
	// FeedError is why the feed can't be asked now; "" when it can.
	FeedError string
}

// Status returns it.
func (m *Manager) Status(ctx context.Context, channel plat.ChannelID) (Status, error) {
	l, err := m.opt.Store.Link(ctx, channel)
	if err != nil {
		return Status{}, err
	}
	st := Status{Link: l}
	if st.Dead, err = m.opt.Store.Lettered(ctx, channel); err != nil {
		return st, err
	}
	m.mu.Lock()
	if r := m.running[l.Num]; r != nil && r.sub != nil {
		st.Figures = r.sub.Figures()
	}
	src, err := m.sourceLocked(l)
	m.mu.Unlock()
	if err == nil && src != nil {
		st.Backlog, err = src.Backlog(ctx)
	}
	if l.Feed.Kind == FeedSQS && err != nil { // another's machine: how the link is doing is known without it
		st.FeedError, err = err.Error(), nil
	}
	return st, err
}

// Unlink ends a channel's link and returns what it was: its files are gone from the
// channel, and the objects are where they were. Its credentials, messages and dead
// letters go with it. The caller has asked whether something refers to the files.
func (m *Manager) Unlink(ctx context.Context, channel plat.ChannelID) (Link, error) {
	l, err := m.opt.Store.Link(ctx, channel)
	if err == nil {
		err = m.opt.Store.Unlink(ctx, channel, m.opt.Now())
	}
	if err != nil {
		return Link{}, err
	}
	_ = m.Refresh(ctx) // it's done; what failed is seen by the next resync
	return l, nil
}

// Pause sets whether a link rests: its messages wait meanwhile.
func (m *Manager) Pause(ctx context.Context, channel plat.ChannelID, paused bool) error {
	return m.opt.Store.Pause(ctx, channel, paused)
}

// Letters returns a page of a link's dead letters.
func (m *Manager) Letters(ctx context.Context, channel plat.ChannelID, after int64, limit int) ([]Letter, error) {
	if _, err := m.opt.Store.Link(ctx, channel); err != nil {
		return nil, err
	}
	return m.opt.Store.Letters(ctx, channel, after, limit)
}

// Drop removes dead letters; no ids are all. It returns how many there were.
func (m *Manager) Drop(ctx context.Context, channel plat.ChannelID, ids []int64) (int64, error) {
	if _, err := m.opt.Store.Link(ctx, channel); err != nil {
		return 0, err
	}
	return m.opt.Store.DropLetters(ctx, channel, ids)
}

// replayBatch is how many letters Replay has in hand; each may have a megabyte.
const replayBatch = 20

// Replay does dead letters again; no ids are all. What fails again is a new letter with its
// new reason. It returns how many were tried.
func (m *Manager) Replay(ctx context.Context, channel plat.ChannelID, ids []int64) (int64, error) {
	l, err := m.opt.Store.Link(ctx, channel)
	if err != nil {
		return 0, err
	}
	bucket, err := m.bucket(l)
	if err != nil {
		return 0, err
	}
	sub := New(Config{Link: l, Source: letterSource{m.opt.Store, channel}, Rows: m.opt.Store.Bound(l.Num), Bucket: bucket, Now: m.opt.Now, Log: m.opt.Log, MaxReceipts: 1})
	newest, err := m.newestLetter(ctx, channel) // those that come by replaying are not replayed
	if err != nil {
		return 0, err
	}
	var n, after int64
	for after < newest {
		page, err := m.opt.Store.Letters(ctx, channel, after, replayBatch)
		if err != nil {
			return n, err
		}
		var batch []feed.Message
		for _, d := range page {
			after = d.ID
			if d.ID <= newest && (len(ids) == 0 || slices.Contains(ids, d.ID)) {
				batch = append(batch, feed.Message{Handle: fmt.Sprint(d.ID), Body: d.Body, Receipts: 1})
			}
		}
		if err := sub.Process(ctx, batch); err != nil {
			return n, err
		}
		n += int64(len(batch))
		if len(page) < replayBatch {
			break
		}
	}
	return n, nil
}

func (m *Manager) newestLetter(ctx context.Context, channel plat.ChannelID) (newest int64, err error) {
	for {
		page, err := m.opt.Store.Letters(ctx, channel, newest, replayBatch)
		if err != nil || len(page) == 0 {
			return newest, err
		}
		newest = page[len(page)-1].ID
	}
}

// letterSource is the dead letters as a feed that is only acknowledged to.
type letterSource struct {
	store   Store
	channel plat.ChannelID
}

func (s letterSource) Receive(context.Context, int, time.Duration) ([]feed.Message, error) {
	return nil, nil
}
func (s letterSource) Extend(context.Context, []string, time.Duration) error { return nil }
func (s letterSource) Backlog(context.Context) (feed.Backlog, error)         { return feed.Backlog{}, nil }
func (s letterSource) Close() error                                          { return nil }

func (s letterSource) Ack(ctx context.Context, handles []string) error {
	ids := make([]int64, len(handles))
	for i, h := range handles {
		if _, err := fmt.Sscan(h, &ids[i]); err != nil {
			return err
		}
	}
	_, err := s.store.DropLetters(ctx, s.channel, ids)
	return err
}

// OpenLinked implements lake.Foreign.
func (m *Manager) OpenLinked(ctx context.Context, channel plat.ChannelID, id plat.FileID, off, n int64) (io.ReadCloser, error) {
	row, l, err := m.fileOf(ctx, channel, id)
	if err != nil {
		return nil, err
	}
	bucket, err := m.bucket(l)
	if err != nil {
		return nil, err
	}
	return bucket.Open(ctx, row, off, n)
}

// Size returns how many bytes a file of a linked channel has.
func (m *Manager) Size(ctx context.Context, channel plat.ChannelID, id plat.FileID) (int64, error) {
	row, _, err := m.fileOf(ctx, channel, id)
	return row.Size, err
}

func (m *Manager) fileOf(ctx context.Context, channel plat.ChannelID, id plat.FileID) (Row, Link, error) {
	l, ok := (*m.linked.Load())[channel]
	if !ok {
		var err error
		if l, err = m.opt.Store.Link(ctx, channel); err != nil {
			return Row{}, l, err
		}
	}
	row, err := m.opt.Store.OfFile(ctx, channel, id)
	return row, l, err
}
