// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"

	"panal/internal/authz"
	"panal/internal/blob"
	"panal/internal/lake"
	"panal/internal/lake/link"
	"panal/internal/plat"
	"panal/internal/x/httpx"
)

// NewLink is what a channel is linked to.
type NewLink struct {
	Endpoint       string `json:"endpoint" example:"https://s3.eu-central-1.amazonaws.com" doc:"of the storage; one that the server's --link-endpoint allows"`
	Region         string `json:"region" doc:"default us-east-1"`
	Bucket         string `json:"bucket"`
	Prefix         string `json:"prefix" doc:"of the objects' keys; empty: all"`
	AccessKey      string `json:"access_key" doc:"may read the bucket; without: as nobody"`
	SecretKey      string `json:"secret_key"`
	QueueURL       string `json:"queue_url" doc:"of the SQS queue to which the storage sends its events; its endpoint is one that the server's --link-endpoint allows"`
	QueueAccessKey string `json:"queue_access_key" doc:"may receive from the queue, delete and change visibility in it and read its attributes; without: access_key"`
	QueueSecretKey string `json:"queue_secret_key"`
	Feed           string `json:"feed" doc:"sqs (default with queue_url); webhook (default): the storage posts its events to /feeds/{channel_id}/s3; none: the reconciler alone"`
}

// LinkAnswer is a link and how it's doing.
type LinkAnswer struct {
	ChannelID string `json:"channel_id"`
	Endpoint  string `json:"endpoint"`
	Region    string `json:"region"`
	Bucket    string `json:"bucket"`
	Prefix    string `json:"prefix"`
	Feed      string `json:"feed"`
	QueueURL  string `json:"queue_url,omitempty"`
	FeedURL   string `json:"feed_url,omitempty" doc:"where the storage posts its events"`
	// FeedSecret is told once.
	FeedSecret string  `json:"feed_secret,omitempty" doc:"the storage sends it as Authorization: Bearer; shown only now"`
	Paused     bool    `json:"paused"`
	CreatedAt  string  `json:"created_at"`
	ImportedAt *string `json:"imported_at" doc:"when everything had been compared last; null until the objects that were there are all files"`
	Listed     int64   `json:"listed" doc:"objects that the reconciler has seen in this pass"`
	Drift      int64   `json:"drift" doc:"keys that its last whole pass found out of step"`
	Waiting    int64   `json:"waiting" doc:"messages in the feed"`
	Oldest     *string `json:"oldest" doc:"when the oldest of them came"`
	Dead       int64   `json:"dead" doc:"dead letters"`
	FeedError  string  `json:"feed_error,omitempty" doc:"why the feed can't be asked now"`

	Messages    int64   `json:"messages" doc:"done since the server's start"`
	Changed     int64   `json:"changed" doc:"files that came or went by them"`
	LastBatch   int64   `json:"last_batch"`
	Concurrency int64   `json:"concurrency" doc:"batches that may be written at a time now"`
	LagSeconds  float64 `json:"lag_seconds" doc:"from a message's arrival to its end"`
	Rate        float64 `json:"rate" doc:"messages done a second, lately"`
}

func linkWire(ctx context.Context, st link.Status) *LinkAnswer {
	l := st.Link
	out := &LinkAnswer{
		ChannelID: string(l.Channel), Endpoint: l.Place.Endpoint, Region: l.Place.Region, Bucket: l.Place.Bucket, Prefix: l.Place.Prefix,
		Feed: string(l.Feed.Kind), QueueURL: l.Feed.Queue, FeedError: st.FeedError, Paused: l.Paused, CreatedAt: l.CreatedAt.Format(plat.TimeSecZ), Listed: l.Walk.Seen, Drift: l.Walk.Drift,
		Waiting: st.Backlog.Messages, Dead: st.Dead, Messages: st.Figures.Messages, Changed: st.Figures.Changed,
		LastBatch: st.Figures.LastBatch, Concurrency: st.Figures.Concurrency, LagSeconds: st.Figures.Lag.Seconds(), Rate: st.Figures.Rate,
	}
	if l.Feed.Kind == link.FeedWebhook {
		out.FeedURL = baseURL(ctx) + "/feeds/" + string(l.Channel) + "/s3"
	}
	if t := l.Walk.PassedAt; !t.IsZero() {
		s := t.Format(plat.TimeSecZ)
		out.ImportedAt = &s
	}
	if t := st.Backlog.Oldest; !t.IsZero() {
		s := t.Format(plat.TimeSecZ)
		out.Oldest = &s
	}
	return out
}

// Unlinked is what a channel had by its link.
type Unlinked struct {
	ChannelID string `json:"channel_id"`
	Bucket    string `json:"bucket"`
	Prefix    string `json:"prefix"`
	Files     int64  `json:"files" doc:"that the channel had; the objects are where they were"`
	Waiting   int64  `json:"waiting" doc:"messages in the feed; those in an SQS queue stay there"`
	Dead      int64  `json:"dead" doc:"dead letters"`
	Unlinked  bool   `json:"unlinked" doc:"false after a dry run"`
}

// DeadLetter is a message that led to nothing.
type DeadLetter struct {
	ID     int64  `json:"id"`
	Reason string `json:"reason"`
	Body   string `json:"body" doc:"what is not UTF-8 in it is replaced"`
	At     string `json:"at"`
}

// DeadLetters is a page of them, oldest first.
type DeadLetters struct {
	Letters []DeadLetter `json:"letters"`
	HasNext bool         `json:"has_next"`
}

// LetterIDs names dead letters.
type LetterIDs struct {
	IDs []int64 `json:"ids" doc:"empty: all"`
}

// LettersDone tells how many letters were done.
type LettersDone struct {
	Letters int64 `json:"letters"`
}

// addLinks adds operations of ours: data.md has none like them.
func (a *API) addLinks() {
	const base = "/organizations/{organization_id}/channels/{channel_id}/link"
	op := func(id, method, path, summary string) operation {
		return operation{ID: id, Method: method, Path: path, Summary: summary, Tag: "link", Family: familyLake, Op: authz.LinkAdmin}
	}
	// of checks that the channel is the organization's.
	of := func(ctx context.Context, in ChannelPath) (plat.ChannelID, error) {
		c, err := a.Lake.Channel(ctx, caller(ctx).Org, plat.ChannelID(in.Channel))
		return c.ID, err
	}
	status := func(ctx context.Context, id plat.ChannelID) (*LinkAnswer, error) {
		st, err := a.Links.Status(ctx, id)
		if err != nil {
			return nil, err
		}
		return linkWire(ctx, st), nil
	}

	type createIn struct {
		ChannelPath
		Body *NewLink
	}
	register(a, op("link-channel", http.MethodPost, base, "Link an empty channel to a bucket: its objects become the channel's files"), func(ctx context.Context, in *createIn) (*LinkAnswer, error) {
		id, err := of(ctx, in.ChannelPath)
		if err != nil {
			return nil, err
		}
		if in.Body == nil {
			return nil, plat.InvalidField("endpoint", "is required, and so is bucket")
		}
		b := in.Body
		l, secret, err := a.Links.Create(ctx, link.NewLink{
			Org: caller(ctx).Org, Channel: id, Place: link.Place{Endpoint: b.Endpoint, Region: b.Region, Bucket: b.Bucket, Prefix: b.Prefix},
			AccessKey: b.AccessKey, SecretKey: b.SecretKey, Feed: link.FeedKind(b.Feed),
			Queue: b.QueueURL, QueueAccessKey: b.QueueAccessKey, QueueSecretKey: b.QueueSecretKey,
		})
		if err != nil {
			return nil, err
		}
		out := linkWire(ctx, link.Status{Link: l})
		out.FeedSecret = secret
		return out, nil
	})

	register(a, op("get-link", http.MethodGet, base, "Tell how a channel's link is doing"), func(ctx context.Context, in *ChannelPath) (*LinkAnswer, error) {
		id, err := of(ctx, *in)
		if err != nil {
			return nil, err
		}
		return status(ctx, id)
	})

	type unlinkIn struct {
		ChannelPath
		DryRun string `query:"dry_run" doc:"true: only tell what would go"`
	}
	register(a, op("unlink-channel", http.MethodDelete, base, "Unlink a channel: its files go from the index, the bucket's objects stay; 400 while datasets refer to them"), func(ctx context.Context, in *unlinkIn) (*Unlinked, error) {
		id, err := of(ctx, in.ChannelPath)
		if err != nil {
			return nil, err
		}
		dry := false
		if in.DryRun != "" {
			if dry, err = strconv.ParseBool(in.DryRun); err != nil {
				return nil, plat.InvalidField("dry_run", textNoFlag)
			}
		}
		users, more, err := a.Datasets.Referring(ctx, caller(ctx).Org, id)
		if err != nil {
			return nil, err
		}
		if len(users) > 0 {
			return nil, inUse(users, more)
		}
		st, err := a.Links.Status(ctx, id)
		if err != nil {
			return nil, err
		}
		out := &Unlinked{ChannelID: string(id), Bucket: st.Link.Place.Bucket, Prefix: st.Link.Place.Prefix, Waiting: st.Backlog.Messages, Dead: st.Dead}
		if out.Files, err = a.Lake.Count(ctx, caller(ctx).Org, lake.Filter{Channel: id}); err != nil || dry {
			return out, err
		}
		_, err = a.Links.Unlink(ctx, id)
		out.Unlinked = err == nil
		return out, err
	})

	for verb, paused := range map[string]bool{"pause": true, "resume": false} {
		register(a, op(verb+"-link", http.MethodPost, base+"/"+verb, "Let a link rest, or go on: its messages wait meanwhile"), func(ctx context.Context, in *ChannelPath) (*LinkAnswer, error) {
			id, err := of(ctx, *in)
			if err != nil {
				return nil, err
			}
			if err := a.Links.Pause(ctx, id, paused); err != nil {
				return nil, err
			}
			return status(ctx, id)
		})
	}

	type lettersIn struct {
		ChannelPath
		After string `query:"after" doc:"id of the last letter of the page before"`
		Limit string `query:"limit" doc:"1 to 100, default 50"`
	}
	register(a, op("list-dead-letters", http.MethodGet, base+"/dead", "List messages that led to nothing, with the reason"), func(ctx context.Context, in *lettersIn) (*DeadLetters, error) {
		id, err := of(ctx, in.ChannelPath)
		if err != nil {
			return nil, err
		}
		limit, err := pageSizeUpTo("limit", in.Limit, 50, 100) // each may have a megabyte
		if err != nil {
			return nil, err
		}
		after := int64(0)
		if in.After != "" {
			if after, err = strconv.ParseInt(in.After, 10, 64); err != nil || after < 0 {
				return nil, plat.InvalidField("after", "%q is no letter's id", in.After)
			}
		}
		all, err := a.Links.Letters(ctx, id, after, limit+1)
		if err != nil {
			return nil, err
		}
		out := &DeadLetters{Letters: []DeadLetter{}, HasNext: len(all) > limit}
		for _, l := range all[:min(limit, len(all))] {
			out.Letters = append(out.Letters, DeadLetter{ID: l.ID, Reason: l.Reason, Body: strings.ToValidUTF8(string(l.Body), "�"), At: l.At.Format(plat.TimeSecZ)})
		}
		return out, nil
	})

	type idsIn struct {
		ChannelPath
		Body *LetterIDs
	}
	for verb, do := range map[string]func(context.Context, plat.ChannelID, []int64) (int64, error){
		"replay": func(ctx context.Context, id plat.ChannelID, ids []int64) (int64, error) {
			return a.Links.Replay(ctx, id, ids)
		},
		"drop": func(ctx context.Context, id plat.ChannelID, ids []int64) (int64, error) {
			return a.Links.Drop(ctx, id, ids)
		},
	} {
		register(a, op(verb+"-dead-letters", http.MethodPost, base+"/dead/"+verb, "Try dead letters again, or drop them"), func(ctx context.Context, in *idsIn) (*LettersDone, error) {
			id, err := of(ctx, in.ChannelPath)
			if err != nil {
				return nil, err
			}
			var ids []int64
			if in.Body != nil {
				ids = in.Body.IDs
			}
			if len(ids) > 1000 {
				return nil, plat.InvalidField("ids", "has %d ids; the limit is 1000, and none is all", len(ids))
			}
			n, err := do(ctx, id, ids)
			return &LettersDone{Letters: n}, err
		})
	}

	a.raw(operation{
		ID: "post-feed", Method: http.MethodPost, Path: "/feeds/{channel_id}/s3", Public: true, Tag: "link", Family: familyLake,
		Summary: "Take a storage event for a linked channel, with the feed's secret; it is durable when this answers",
	}, a.postFeed)
}

// feedSecret is what a sender of events shows.
func feedSecret(r *http.Request) string {
	scheme, secret, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return r.Header.Get("Authorization") // as some storages send it
	}
	return secret
}

// postFeed takes what a storage posts. It is not read here: what can't be is a dead
// letter, and answering 400 would have the storage send it for ever.
func (a *API) postFeed(w http.ResponseWriter, r *http.Request) {
	id := plat.ChannelID(param(r, "channel_id"))
	if err := a.Links.Allowed(id, feedSecret(r)); err != nil { // before the body is taken
		a.fail(w, r, familyLake, err)
		return
	}
	body, err := io.ReadAll(httpx.ShortReader(w, http.MaxBytesReader(w, r.Body, link.MaxMessage), idleLimit))
	if err != nil {
		a.fail(w, r, familyLake, httpx.Body(err))
		return
	}
	if err := a.Links.Post(r.Context(), id, body); err != nil {
		a.fail(w, r, familyLake, err)
		return
	}
	writeJSON(w, http.StatusOK, struct{}{})
}

// linkedFile tells whether an object of ours is the file of a linked channel, which is
// in another bucket.
func (a *API) linkedFile(key string) (plat.ChannelID, plat.FileID, bool) {
	parts := strings.Split(key, "/")
	if a.Links == nil || len(parts) != 5 || !strings.HasPrefix(key, lake.ObjectPrefix) || !a.Links.Linked(plat.ChannelID(parts[2])) {
		return "", "", false
	}
	return plat.ChannelID(parts[2]), plat.FileID(parts[4]), true
}

// openObject is Blobs.Open, of linked files too.
func (a *API) openObject(ctx context.Context, key string, off, n int64) (io.ReadCloser, blob.Info, error) {
	channel, id, ok := a.linkedFile(key)
	if !ok {
		return a.Blobs.Open(ctx, key, off, n)
	}
	size, err := a.Links.Size(ctx, channel, id)
	if err != nil {
		return nil, blob.Info{}, err
	}
	rc, err := a.Links.OpenLinked(ctx, channel, id, off, n)
	return rc, blob.Info{Key: key, Size: size}, err
}

// statObject is Blobs.Stat, of linked files too: as the index has them.
func (a *API) statObject(ctx context.Context, key string) (blob.Info, error) {
	channel, id, ok := a.linkedFile(key)
	if !ok {
		return a.Blobs.Stat(ctx, key)
	}
	size, err := a.Links.Size(ctx, channel, id)
	return blob.Info{Key: key, Size: size}, err
}
