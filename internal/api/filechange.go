// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"panal/internal/api/compat"
	"panal/internal/authz"
	"panal/internal/lake"
	"panal/internal/plat"
)

// LifetimeAnswer is the answer to a change of a lifetime (data.md §10.5).
type LifetimeAnswer struct {
	ChannelID string `json:"channel_id"`
	FileID    string `json:"file_id"`
	Lifetime  string `json:"lifetime"`
}

// LifetimeChange is a file's new lifetime.
type LifetimeChange struct {
	Lifetime *string `json:"lifetime" nullable:"true" doc:"1day, 1week, 1month, 6months or 1year, from the upload"`
}

// DeleteRequest says which files a deletion by query is about.
type DeleteRequest struct {
	Q        *string      `json:"q" nullable:"true" doc:"required; as for lists; file_id:* is everything"`
	Start    *string      `json:"start" nullable:"true" doc:"first day, YYYYMMDD"`
	End      *string      `json:"end" nullable:"true" doc:"last day, YYYYMMDD"`
	Timezone *string      `json:"timezone" nullable:"true" doc:"of start and end; default UTC"`
	DryRun   *compat.Bool `json:"dry_run" nullable:"true" doc:"default true: say what would be deleted"`
	Confirm  *string      `json:"confirm" nullable:"true" doc:"of the dry run, or of the call before"`
	Limit    *int         `json:"limit" nullable:"true" doc:"how many files this call deletes: 1 to 1000, default 1000"`
}

// DeleteAnswer is what a deletion by query would do, or has done.
type DeleteAnswer struct {
	DryRun       bool   `json:"dry_run"`
	Count        int64  `json:"count" doc:"how many files match, exactly; 0 when files were deleted"`
	Sample       []File `json:"sample" doc:"some that match"`
	Deleted      int64  `json:"deleted"`
	DeletedBytes int64  `json:"deleted_bytes"`
	Remaining    int64  `json:"remaining" doc:"how many still match: call again with confirm until it is 0"`
	// Confirm is null when there is nothing (more) to do.
	Confirm          *string `json:"confirm" doc:"for the next call; null when nothing is left"`
	ConfirmExpiresOn *string `json:"confirm_expires_on"`
}

// sealDelete is the purpose of a confirmation's signature.
const sealDelete = "delete-files"

func (a *API) addFileChanges() {
	const base, one = "/channels/{channel_id}", "/channels/{channel_id}/{file_id}"
	op := func(id, method, path, summary string, row authz.Op) operation {
		return operation{ID: id, Method: method, Path: path, Summary: summary, Tag: "file", Family: familyLake, Op: row}
	}

	type lifetimeIn struct {
		FilePath
		Body *LifetimeChange
	}
	register(a, op("put-file-lifetime", http.MethodPut, one+"/lifetime", "Change a file's lifetime; it counts from the upload", authz.FileUpdate), func(ctx context.Context, in *lifetimeIn) (*LifetimeAnswer, error) {
		lifetime := ""
		if in.Body != nil && in.Body.Lifetime != nil {
			lifetime = *in.Body.Lifetime
		}
		f, err := a.Lake.SetLifetime(ctx, caller(ctx).Org, plat.ChannelID(in.Channel), plat.FileID(in.File), lifetime)
		return &LifetimeAnswer{ChannelID: in.Channel, FileID: in.File, Lifetime: string(f.Lifetime)}, err
	})

	type patchIn struct {
		FilePath
		Body *compat.Any `doc:"object of x-abeja-meta-<key> to text, which sets it, or to null, which removes it; other names stay"`
	}
	register(a, op("patch-file-metadata", http.MethodPatch, one+"/metadata", "Set or remove single names of a file's metadata", authz.FileUpdate), func(ctx context.Context, in *patchIn) (*File, error) {
		p, err := patchOf(in.Body)
		if err != nil {
			return nil, err
		}
		return a.fileAnswer(ctx, true)(a.Lake.PatchMetadata(ctx, caller(ctx).Org, plat.ChannelID(in.Channel), plat.FileID(in.File), p))
	})

	type deleteIn struct {
		Channel string `path:"channel_id"`
		Body    *DeleteRequest
	}
	register(a, op("delete-files", http.MethodPost, base+"/delete", "Delete the files that match a query: first a dry run, then with its confirmation, some at a time", authz.FileDelete), func(ctx context.Context, in *deleteIn) (*DeleteAnswer, error) {
		if in.Body == nil {
			in.Body = &DeleteRequest{}
		}
		return a.deleteFiles(ctx, plat.ChannelID(in.Channel), *in.Body)
	})
}

func (a *API) deleteFiles(ctx context.Context, channel plat.ChannelID, in DeleteRequest) (*DeleteAnswer, error) {
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	f := lake.Filter{Channel: channel}
	var err error
	if f.From, f.To, err = lake.ParseDays(text(in.Start), text(in.End), text(in.Timezone)); err != nil {
		return nil, err
	}
	if f.Query, err = lake.ParseQuery(text(in.Q)); err != nil {
		return nil, err
	}
	touched(ctx, "query", text(in.Q))
	org, out := caller(ctx).Org, &DeleteAnswer{Sample: []File{}}
	var next lake.Deletion
	if in.DryRun == nil || bool(*in.DryRun) {
		var sample []lake.File
		out.DryRun = true
		if next, out.Count, sample, err = a.Lake.PlanDeletion(ctx, org, f); err != nil {
			return nil, err
		}
		for _, s := range sample {
			wire, err := a.fileWire(ctx, s, true)
			if err != nil {
				return nil, err
			}
			out.Sample = append(out.Sample, wire)
		}
		touched(ctx, "dry_run", "true")
		out.Remaining = out.Count
	} else {
		limit := lake.MaxDelete
		if in.Limit != nil {
			if limit = *in.Limit; limit < 1 || limit > lake.MaxDelete {
				return nil, plat.InvalidField("limit", "must be 1 to %d", lake.MaxDelete)
			}
		}
		if text(in.Confirm) == "" {
			return nil, plat.InvalidField("confirm", "is required, as the dry run of this query gave it")
		}
		token, ok := a.Signer.Unseal(sealDelete, *in.Confirm)
		if !ok {
			return nil, plat.InvalidField("confirm", "is not what a dry run gave; do the dry run again")
		}
		d, err := lake.ParseDeletion(token, f, a.Now())
		if err != nil {
			return nil, err
		}
		done, err := a.Lake.Delete(ctx, org, d, limit)
		touched(ctx, "deleted", strconv.FormatInt(done.Files, 10)) // some may be gone, although it failed
		if err != nil {
			return nil, err
		}
		out.Deleted, out.DeletedBytes, out.Remaining, next = done.Files, done.Bytes, done.Remaining, done.Next
	}
	if out.Remaining > 0 {
		confirm, until := a.Signer.Seal(sealDelete, next.Token()), next.Until.Format(plat.TimeSecOffset)
		out.Confirm, out.ConfirmExpiresOn = &confirm, &until
	}
	return out, nil
}

// patchOf reads a JSON object of prefixed names to texts and nulls.
func patchOf(raw *compat.Any) (lake.Patch, error) {
	var fields map[string]any
	if raw == nil || json.Unmarshal(*raw, &fields) != nil || fields == nil {
		return nil, plat.InvalidField("body", "must be an object of %s<key> to text or null", lake.MetaPrefix)
	}
	texts := make(map[string]*string, len(fields))
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		switch v := fields[name].(type) {
		case nil:
			texts[name] = nil
		case string:
			texts[name] = &v
		default:
			return nil, plat.InvalidField(name, "must be a string, or null to remove it")
		}
	}
	return lake.ParsePatch(texts)
}
