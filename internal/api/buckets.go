// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"

	"panal/internal/authz"
	"panal/internal/lake"
	"panal/internal/plat"
)

// Bucket is the wire's bucket (data.md §14).
type Bucket struct {
	BucketID       string  `json:"bucket_id" example:"2290000000456"`
	Name           string  `json:"name"`
	Description    *string `json:"description"`
	DisplayName    string  `json:"display_name"`
	SecurityMethod string  `json:"security_method"`
	Archived       bool    `json:"archived"`
	CreatedAt      string  `json:"created_at"`
	UpdatedAt      string  `json:"updated_at"`
}

func bucketWire(c lake.Channel) Bucket {
	return Bucket{
		BucketID: string(c.ID), Name: c.Name, Description: c.Description, DisplayName: c.Name, SecurityMethod: "organization", Archived: c.Archived,
		CreatedAt: c.CreatedAt.Format(plat.TimeSecZ), UpdatedAt: c.UpdatedAt.Format(plat.TimeSecZ),
	}
}

// BucketAnswer is one bucket in its envelope.
type BucketAnswer struct {
	Envelope
	Bucket Bucket `json:"bucket"`
}

// BucketsAnswer is a page of buckets in its envelope.
type BucketsAnswer struct {
	Envelope
	Buckets []Bucket `json:"buckets"`
	Limit   int      `json:"limit"`
	Offset  int      `json:"offset"`
	HasNext bool     `json:"has_next"`
}

// UsageAnswer is what a bucket holds.
type UsageAnswer struct {
	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"`
}

func (a *API) bucketAnswer(ctx context.Context, c lake.Channel, err error) (*BucketAnswer, error) {
	if err != nil {
		return nil, err
	}
	env, err := a.envelope(ctx)
	if err != nil {
		return nil, err
	}
	return &BucketAnswer{Envelope: env, Bucket: bucketWire(c)}, nil
}

// BucketPath is the path parameters of everything below a bucket.
type BucketPath struct {
	OrgPath
	Bucket string `path:"bucket_id"`
}

// NewBucket is what a bucket is made of; all of it is optional.
type NewBucket struct {
	Name        *string `json:"name" nullable:"true"`
	Description *string `json:"description" nullable:"true"`
}

const (
	bucketsPath = "/organizations/{organization_id}/buckets"
	bucketPath  = bucketsPath + "/{bucket_id}"
)

func bucketOp(id, method, path, summary string, row authz.Op) operation {
	return operation{ID: id, Method: method, Path: path, Summary: summary, Tag: "bucket", Family: familyLake, Op: row}
}

func (a *API) addBuckets() {
	type createIn struct {
		OrgPath
		Body *NewBucket
	}
	register(a, bucketOp("create-bucket", http.MethodPost, bucketsPath, "Create a bucket", authz.BucketCreate), func(ctx context.Context, in *createIn) (*BucketAnswer, error) {
		var n lake.NewChannel
		if b := in.Body; b != nil {
			n.Description = b.Description
			if b.Name != nil {
				n.Name = *b.Name
			}
		}
		c, err := a.Lake.CreateBucket(ctx, caller(ctx).Org, n)
		touched(ctx, "bucket_id", string(c.ID))
		return a.bucketAnswer(ctx, c, err)
	})

	type listIn struct {
		OrgPath
		Limit          string `query:"limit" doc:"1 to 1000, default 50"`
		Offset         string `query:"offset"`
		FilterArchived string `query:"filter_archived" doc:"exclude_archived (default) or include_archived"`
	}
	register(a, bucketOp("list-buckets", http.MethodGet, bucketsPath, "List buckets, newest first", authz.BucketRead), func(ctx context.Context, in *listIn) (*BucketsAnswer, error) {
		page, err := a.channelPage(in.Limit, in.Offset, in.FilterArchived)
		if err != nil {
			return nil, err
		}
		all, more, err := a.Lake.Buckets(ctx, caller(ctx).Org, page)
		if err != nil {
			return nil, err
		}
		env, err := a.envelope(ctx)
		if err != nil {
			return nil, err
		}
		out := &BucketsAnswer{Envelope: env, Buckets: make([]Bucket, len(all)), Limit: page.Limit, Offset: page.Offset, HasNext: more}
		for i, c := range all {
			out.Buckets[i] = bucketWire(c)
		}
		return out, nil
	})

	register(a, bucketOp("get-bucket", http.MethodGet, bucketPath, "Get a bucket", authz.BucketRead), func(ctx context.Context, in *BucketPath) (*BucketAnswer, error) {
		c, err := a.Lake.Bucket(ctx, caller(ctx).Org, plat.ChannelID(in.Bucket))
		return a.bucketAnswer(ctx, c, err)
	})

	register(a, bucketOp("get-bucket-usage", http.MethodGet, bucketPath+"/usage", "Count a bucket's files and their bytes, exactly", authz.BucketRead), func(ctx context.Context, in *BucketPath) (*UsageAnswer, error) {
		u, err := a.Lake.BucketUsage(ctx, caller(ctx).Org, plat.ChannelID(in.Bucket))
		return &UsageAnswer{Files: u.Files, Bytes: u.Bytes}, err
	})

	type patchIn struct {
		BucketPath
		Body *ChannelChange
	}
	register(a, bucketOp("update-bucket", http.MethodPatch, bucketPath, "Change a bucket's name or description", authz.BucketUpdate), func(ctx context.Context, in *patchIn) (*BucketAnswer, error) {
		var ch lake.ChannelChange
		if in.Body != nil {
			ch.Name, ch.Description = in.Body.Name, in.Body.Description
		}
		c, err := a.Lake.UpdateBucket(ctx, caller(ctx).Org, plat.ChannelID(in.Bucket), ch)
		return a.bucketAnswer(ctx, c, err)
	})

	register(a, bucketOp("delete-bucket", http.MethodDelete, bucketPath, "Delete a bucket with all its files", authz.BucketDelete), func(ctx context.Context, in *BucketPath) (*BucketAnswer, error) {
		c, err := a.Lake.DeleteBucket(ctx, caller(ctx).Org, plat.ChannelID(in.Bucket))
		return a.bucketAnswer(ctx, c, err)
	})

	for verb, archived := range map[string]bool{"archive": true, "unarchive": false} {
		register(a, bucketOp(verb+"-bucket", http.MethodPost, bucketPath+"/"+verb, "Set whether a bucket is archived: it stays readable and takes no uploads", authz.BucketUpdate),
			func(ctx context.Context, in *BucketPath) (*BucketAnswer, error) {
				c, err := a.Lake.UpdateBucket(ctx, caller(ctx).Org, plat.ChannelID(in.Bucket), lake.ChannelChange{Archived: &archived})
				return a.bucketAnswer(ctx, c, err)
			})
	}

	type verifyIn struct {
		BucketPath
		VerifyQuery
	}
	register(a, bucketOp("verify-bucket", http.MethodPost, bucketPath+"/verify", "Compare a bucket's index with its storage and its change journal", authz.BucketDelete), func(ctx context.Context, in *verifyIn) (*VerifyAnswer, error) {
		opt, err := in.options()
		if err != nil {
			return nil, err
		}
		c, err := a.Lake.Bucket(ctx, caller(ctx).Org, plat.ChannelID(in.Bucket))
		if err != nil {
			return nil, err
		}
		r, err := a.Verify(ctx, c, opt)
		return &VerifyAnswer{Report: r, Left: r.Left()}, err
	})
	a.addBucketFiles()
}

// channelPage reads the paging of a list of channels or buckets.
func (a *API) channelPage(limit, offset, archived string) (page lake.ChannelPage, err error) {
	if page.Limit, err = a.pageSize("limit", limit, 50); err != nil {
		return page, err
	}
	if page.Offset, err = pageOffset(offset); err != nil {
		return page, err
	}
	switch archived {
	case "", "exclude_archived":
	case "include_archived":
		page.IncludeArchived = true
	default:
		return page, plat.InvalidField("filter_archived", "must be exclude_archived or include_archived")
	}
	return page, nil
}
