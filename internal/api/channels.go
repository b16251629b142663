// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"panal/internal/authz"
	"panal/internal/dataset"
	"panal/internal/lake"
	"panal/internal/plat"
)

// Envelope is the organization beside the payload of many answers (data.md §7).
type Envelope struct {
	OrganizationID   string `json:"organization_id"`
	OrganizationName string `json:"organization_name"`
	CreatedAt        string `json:"created_at"`
	UpdatedAt        string `json:"updated_at"`
}

func (a *API) envelope(ctx context.Context) (Envelope, error) {
	o, err := a.Orgs.Get(ctx, string(caller(ctx).Org))
	if err != nil {
		return Envelope{}, err
	}
	return Envelope{
		OrganizationID: string(o.ID), OrganizationName: o.Name,
		CreatedAt: o.CreatedAt.Format(plat.TimeSecZ), UpdatedAt: o.UpdatedAt.Format(plat.TimeSecZ),
	}, nil
}

// Channel is the wire's channel (data.md §8).
type Channel struct {
	ChannelID      string  `json:"channel_id" example:"2290000000456"`
	Name           string  `json:"name"`
	Description    *string `json:"description"`
	DisplayName    string  `json:"display_name"`
	StorageType    string  `json:"storage_type"`
	SecurityMethod string  `json:"security_method"`
	Archived       bool    `json:"archived"`
	CreatedAt      string  `json:"created_at"`
	UpdatedAt      string  `json:"updated_at"`
}

func channelWire(c lake.Channel) Channel {
	return Channel{
		ChannelID: string(c.ID), Name: c.Name, Description: c.Description, DisplayName: c.Name, StorageType: string(c.Storage),
		SecurityMethod: "organization", Archived: c.Archived,
		CreatedAt: c.CreatedAt.Format(plat.TimeSecZ), UpdatedAt: c.UpdatedAt.Format(plat.TimeSecZ),
	}
}

// ChannelAnswer is one channel in its envelope.
type ChannelAnswer struct {
	Envelope
	Channel Channel `json:"channel"`
}

// ChannelsAnswer is a page of channels in its envelope.
type ChannelsAnswer struct {
	Envelope
	Channels []Channel `json:"channels"`
	Limit    int       `json:"limit"`
	Offset   int       `json:"offset"`
	HasNext  bool      `json:"has_next"`
}

func (a *API) channelAnswer(ctx context.Context, c lake.Channel, err error) (*ChannelAnswer, error) {
	if err != nil {
		return nil, err
	}
	env, err := a.envelope(ctx)
	if err != nil {
		return nil, err
	}
	return &ChannelAnswer{Envelope: env, Channel: channelWire(c)}, nil
}

// ChannelPath is the path parameters of everything below a channel.
type ChannelPath struct {
	OrgPath
	Channel string `path:"channel_id"`
}

// pageSize is API.pageSize with the default limit.
func pageSize(field, s string, def int) (int, error) { return pageSizeUpTo(field, s, def, maxPage) }

// pageOffset reads an offset from a query.
func pageOffset(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, plat.InvalidField("offset", "%q is not a number of 0 or more", s)
	}
	return n, nil
}

// NewChannel is what a channel is made of; all of it is optional.
type NewChannel struct {
	Name        *string `json:"name" nullable:"true"`
	Description *string `json:"description" nullable:"true"`
	StorageType *string `json:"storage_type" nullable:"true" doc:"datalake (default) or file"`
}

// ChannelChange is what a PATCH changes; what is absent or null stays.
type ChannelChange struct {
	Name        *string `json:"name" nullable:"true"`
	Description *string `json:"description" nullable:"true"`
}

func (a *API) addChannels() {
	const base, one = "/organizations/{organization_id}/channels", "/organizations/{organization_id}/channels/{channel_id}"
	op := func(id, method, path, summary string, row authz.Op) operation {
		return operation{ID: id, Method: method, Path: path, Summary: summary, Tag: "channel", Family: familyLake, Op: row}
	}

	type createIn struct {
		OrgPath
		Body *NewChannel
	}
	register(a, op("create-channel", http.MethodPost, base, "Create a channel", authz.ChannelCreate), func(ctx context.Context, in *createIn) (*ChannelAnswer, error) {
		var n lake.NewChannel
		if b := in.Body; b != nil {
			n.Description = b.Description
			if b.Name != nil {
				n.Name = *b.Name
			}
			if b.StorageType != nil {
				if *b.StorageType == "" {
					return nil, plat.InvalidField("storage_type", "must be datalake or file")
				}
				n.Storage = lake.StorageType(*b.StorageType)
			}
		}
		c, err := a.Lake.CreateChannel(ctx, caller(ctx).Org, n)
		touched(ctx, "channel_id", string(c.ID))
		return a.channelAnswer(ctx, c, err)
	})

	type listIn struct {
		OrgPath
		Limit          string `query:"limit" doc:"1 to 1000, default 50"`
		Offset         string `query:"offset"`
		FilterArchived string `query:"filter_archived" doc:"exclude_archived (default) or include_archived"`
	}
	register(a, op("list-channels", http.MethodGet, base, "List channels, newest first", authz.ChannelRead), func(ctx context.Context, in *listIn) (*ChannelsAnswer, error) {
		page, err := a.channelPage(in.Limit, in.Offset, in.FilterArchived)
		if err != nil {
			return nil, err
		}
		env, err := a.envelope(ctx)
		if err != nil {
			return nil, err
		}
		all, more, err := a.Lake.Channels(ctx, caller(ctx).Org, page)
		if err != nil {
			return nil, err
		}
		out := &ChannelsAnswer{Envelope: env, Channels: make([]Channel, len(all)), Limit: page.Limit, Offset: page.Offset, HasNext: more}
		for i, c := range all {
			out.Channels[i] = channelWire(c)
		}
		return out, nil
	})

	register(a, op("get-channel", http.MethodGet, one, "Get a channel", authz.ChannelRead), func(ctx context.Context, in *ChannelPath) (*ChannelAnswer, error) {
		c, err := a.Lake.Channel(ctx, caller(ctx).Org, plat.ChannelID(in.Channel))
		return a.channelAnswer(ctx, c, err)
	})

	type patchIn struct {
		ChannelPath
		Body *ChannelChange
	}
	register(a, op("update-channel", http.MethodPatch, one, "Change a channel's name or description", authz.ChannelUpdate), func(ctx context.Context, in *patchIn) (*ChannelAnswer, error) {
		var ch lake.ChannelChange
		if in.Body != nil {
			ch.Name, ch.Description = in.Body.Name, in.Body.Description
		}
		c, err := a.Lake.UpdateChannel(ctx, caller(ctx).Org, plat.ChannelID(in.Channel), ch)
		return a.channelAnswer(ctx, c, err)
	})

	register(a, op("delete-channel", http.MethodDelete, one, "Delete a channel with all its files; 400 while datasets refer to it", authz.ChannelDelete), func(ctx context.Context, in *ChannelPath) (*ChannelAnswer, error) {
		org, id := caller(ctx).Org, plat.ChannelID(in.Channel)
		if _, err := a.Lake.Channel(ctx, org, id); err != nil {
			return nil, err
		}
		users, more, err := a.Datasets.Referring(ctx, org, id)
		if err != nil {
			return nil, err
		}
		if len(users) > 0 {
			return nil, inUse(users, more)
		}
		c, err := a.Lake.DeleteChannel(ctx, org, id)
		return a.channelAnswer(ctx, c, err)
	})

	for verb, archived := range map[string]bool{"archive": true, "unarchive": false} {
		register(a, op(verb+"-channel", http.MethodPost, one+"/"+verb, "Set whether a channel is archived: it stays readable and takes no uploads", authz.ChannelUpdate),
			func(ctx context.Context, in *ChannelPath) (*ChannelAnswer, error) {
				c, err := a.Lake.UpdateChannel(ctx, caller(ctx).Org, plat.ChannelID(in.Channel), lake.ChannelChange{Archived: &archived})
				return a.channelAnswer(ctx, c, err)
			})
	}
}

// inUse names what still refers to a channel.
func inUse(users []dataset.Dataset, more bool) error {
	names := make([]string, len(users))
	for i, d := range users {
		names[i] = fmt.Sprintf("%s (%s)", d.Name, d.ID)
	}
	text := strings.Join(names, ", ")
	if more {
		text += " and others"
	}
	return plat.InvalidField("channel_id", "items of datasets refer to files of this channel; delete these first: %s", text)
}
