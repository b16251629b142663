// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"context"
	"net/http"

	"panal/internal/authz"
	"panal/internal/lake"
	"panal/internal/plat"
)

// Facet is a value of a metadata key.
type Facet struct {
	Value string `json:"value" doc:"decoded"`
	Count int64  `json:"count" doc:"files that have it, exactly"`
}

// FacetsAnswer is the values of a metadata key.
type FacetsAnswer struct {
	Key      string  `json:"key"`
	Values   []Facet `json:"values" doc:"the most frequent first, then by value"`
	Distinct int64   `json:"distinct" doc:"how many values there are, also beyond limit"`
	Files    int64   `json:"files" doc:"how many files have the key"`
}

// addFacets adds an operation of ours; data.md has none like it.
func (a *API) addFacets() {
	type in struct {
		Channel  string `path:"channel_id"`
		Key      string `query:"key" doc:"required: a metadata name, or content_type"`
		Q        string `query:"q" doc:"count among what this finds; absent: all files"`
		Query    string `query:"query" doc:"the same as q"`
		Start    string `query:"start" doc:"first day, YYYYMMDD"`
		End      string `query:"end" doc:"last day, YYYYMMDD"`
		Timezone string `query:"timezone" doc:"of start and end; default UTC"`
		Limit    string `query:"limit" doc:"1 to 1000, default 100"`
	}
	register(a, operation{
		ID: "list-facets", Method: http.MethodGet, Path: "/channels/{channel_id}/facets",
		Summary: "Count files by the values of a metadata name", Tag: "file", Family: familyLake, Op: authz.FileRead,
	}, func(ctx context.Context, in *in) (*FacetsAnswer, error) {
		f := lake.Filter{Channel: plat.ChannelID(in.Channel)}
		limit, err := a.pageSize("limit", in.Limit, 100)
		if err != nil {
			return nil, err
		}
		if f.From, f.To, err = lake.ParseDays(in.Start, in.End, in.Timezone); err != nil {
			return nil, err
		}
		if f.Query, err = lake.ParseQuery(cmp.Or(in.Q, in.Query)); err != nil {
			return nil, err
		}
		found, err := a.Lake.Facets(ctx, caller(ctx).Org, f, in.Key, limit)
		if err != nil {
			return nil, err
		}
		out := &FacetsAnswer{Key: in.Key, Values: make([]Facet, len(found.Top)), Distinct: found.Distinct, Files: found.Files}
		for i, v := range found.Top {
			out.Values[i] = Facet{Value: v.Value, Count: v.Files}
		}
		return out, nil
	})
}
