// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"
	"strings"

	"panal/internal/authn"
	"panal/internal/authz"
	"panal/internal/org"
	"panal/internal/plat"
)

// Datasource is the wire's datasource (data.md §9).
type Datasource struct {
	DatasourceID string  `json:"datasource_id" example:"3320000000789"`
	DisplayName  string  `json:"display_name"`
	Secret       *string `json:"secret,omitempty" doc:"in clear, for admins; left out for others"`
	CreatedAt    string  `json:"created_at"`
	UpdatedAt    string  `json:"updated_at"`
}

// DatasourceAnswer is one datasource in its envelope.
type DatasourceAnswer struct {
	Envelope
	Datasource Datasource `json:"datasource"`
}

// DatasourcesAnswer is a page of datasources in its envelope.
type DatasourcesAnswer struct {
	Envelope
	Datasources []Datasource `json:"datasources"`
	Limit       int          `json:"limit"`
	Offset      int          `json:"offset"`
	HasNext     bool         `json:"has_next"`
}

// DatasourceName is what a datasource is made of, and what a PATCH changes.
type DatasourceName struct {
	DisplayName *string `json:"display_name" nullable:"true"`
}

// DatasourcePath is the path parameters of a datasource.
type DatasourcePath struct {
	OrgPath
	Datasource string `path:"datasource_id"`
}

// datasourceWire shows the secret to who may manage the datasource.
func (a *API) datasourceWire(ctx context.Context, d org.Datasource) (Datasource, error) {
	out := Datasource{
		DatasourceID: string(d.ID), DisplayName: d.DisplayName,
		CreatedAt: d.CreatedAt.Format(plat.TimeSecZ), UpdatedAt: d.UpdatedAt.Format(plat.TimeSecZ),
	}
	if id := caller(ctx); id.Kind == authn.KindUser && id.Role == authn.RoleAdmin {
		secret, err := a.Datasources.Secret(d)
		if err != nil {
			return Datasource{}, err
		}
		out.Secret = &secret
	}
	return out, nil
}

func (a *API) datasourceAnswer(ctx context.Context) func(org.Datasource, error) (*DatasourceAnswer, error) {
	return func(d org.Datasource, err error) (*DatasourceAnswer, error) {
		if err != nil {
			return nil, err
		}
		env, err := a.envelope(ctx)
		if err != nil {
			return nil, err
		}
		wire, err := a.datasourceWire(ctx, d)
		if err != nil {
			return nil, err
		}
		return &DatasourceAnswer{Envelope: env, Datasource: wire}, nil
	}
}

func (a *API) datasourcesAnswer(ctx context.Context, channel plat.ChannelID, in OffsetPage) (*DatasourcesAnswer, error) {
	p, err := in.page()
	if err != nil {
		return nil, err
	}
	env, err := a.envelope(ctx)
	if err != nil {
		return nil, err
	}
	all, more, err := a.Datasources.List(ctx, caller(ctx).Org, channel, p)
	if err != nil {
		return nil, err
	}
	out := &DatasourcesAnswer{Envelope: env, Datasources: make([]Datasource, len(all)), Limit: p.Limit, Offset: p.Offset, HasNext: more}
	for i, d := range all {
		if out.Datasources[i], err = a.datasourceWire(ctx, d); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// mostLinks is how many of a datasource's links are asked for their names.
const mostLinks = 32

// byName says more than refused does to a datasource that names a channel by its name: it
// can't look the id up itself. It learns of no channel that it is not linked to.
func (a *API) byName(ctx context.Context, id authn.Identity, named plat.ChannelID, refused error) error {
	if named == "" || strings.Trim(string(named), "0123456789") == "" {
		return refused
	}
	var ids []string
	for _, c := range id.Channels[:min(len(id.Channels), mostLinks)] {
		if have, err := a.Lake.Channel(ctx, id.Org, c); err == nil && have.Name == string(named) {
			ids = append(ids, string(c))
		}
	}
	switch len(ids) {
	case 0:
		return plat.Errorf(plat.ErrForbidden, "this datasource is linked to no channel with the id %q; name a channel by its id, which has 13 digits", named)
	case 1:
		return plat.Errorf(plat.ErrForbidden, "%q is a channel's name; a datasource names it by its id, %s", named, ids[0])
	}
	return plat.Errorf(plat.ErrForbidden, "%d channels are named %q; a datasource names one by its id: %s", len(ids), named, strings.Join(ids, ", "))
}

// addDatasources adds datasources and their links to channels (data.md §9).
func (a *API) addDatasources() {
	const (
		base   = "/organizations/{organization_id}/datasources"
		one    = base + "/{datasource_id}"
		linked = "/organizations/{organization_id}/channels/{channel_id}/datasources"
		link   = linked + "/{datasource_id}"
	)
	op := func(id, method, path, summary string, row authz.Op) operation {
		return operation{ID: id, Method: method, Path: path, Summary: summary, Tag: "datasource", Family: familyLake, Op: row}
	}

	type createIn struct {
		OrgPath
		Body *DatasourceName
	}
	register(a, op("create-datasource", http.MethodPost, base, "Create a datasource; link it to channels next", authz.DatasourceAdmin), func(ctx context.Context, in *createIn) (*DatasourceAnswer, error) {
		name := ""
		if in.Body != nil {
			name = text(in.Body.DisplayName)
		}
		d, err := a.Datasources.Create(ctx, caller(ctx).Org, name)
		touched(ctx, "datasource_id", string(d.ID))
		return a.datasourceAnswer(ctx)(d, err)
	})

	type listIn struct {
		OrgPath
		OffsetPage
	}
	register(a, op("list-datasources", http.MethodGet, base, "List datasources, oldest first", authz.DatasourceRead), func(ctx context.Context, in *listIn) (*DatasourcesAnswer, error) {
		return a.datasourcesAnswer(ctx, "", in.OffsetPage)
	})

	register(a, op("get-datasource", http.MethodGet, one, "Get a datasource", authz.DatasourceRead), func(ctx context.Context, in *DatasourcePath) (*DatasourceAnswer, error) {
		return a.datasourceAnswer(ctx)(a.Datasources.Get(ctx, caller(ctx).Org, plat.DatasourceID(in.Datasource)))
	})

	type patchIn struct {
		DatasourcePath
		Body *DatasourceName
	}
	register(a, op("update-datasource", http.MethodPatch, one, "Rename a datasource", authz.DatasourceAdmin), func(ctx context.Context, in *patchIn) (*DatasourceAnswer, error) {
		id := plat.DatasourceID(in.Datasource)
		if in.Body == nil || in.Body.DisplayName == nil {
			return a.datasourceAnswer(ctx)(a.Datasources.Get(ctx, caller(ctx).Org, id))
		}
		return a.datasourceAnswer(ctx)(a.Datasources.Rename(ctx, caller(ctx).Org, id, *in.Body.DisplayName))
	})

	register(a, op("delete-datasource", http.MethodDelete, one, "Delete a datasource and end its credential", authz.DatasourceAdmin), func(ctx context.Context, in *DatasourcePath) (*DatasourceAnswer, error) {
		d, err := a.Datasources.Delete(ctx, caller(ctx).Org, plat.DatasourceID(in.Datasource))
		a.Auth.ForgetDatasource(plat.DatasourceID(in.Datasource))
		return a.datasourceAnswer(ctx)(d, err)
	})

	type channelListIn struct {
		ChannelPath
		OffsetPage
	}
	register(a, op("list-channel-datasources", http.MethodGet, linked, "List the datasources that are linked to a channel", authz.DatasourceRead), func(ctx context.Context, in *channelListIn) (*DatasourcesAnswer, error) {
		if _, err := a.Lake.Channel(ctx, caller(ctx).Org, plat.ChannelID(in.Channel)); err != nil {
			return nil, err
		}
		return a.datasourcesAnswer(ctx, plat.ChannelID(in.Channel), in.OffsetPage)
	})

	type linkPath struct {
		ChannelPath
		Datasource string `path:"datasource_id"`
	}
	// A new link, or one less, counts for the next request.
	change := func(f func(ctx context.Context, org plat.OrgID, c plat.ChannelID, d plat.DatasourceID) (org.Datasource, error)) func(context.Context, *linkPath) (*DatasourceAnswer, error) {
		return func(ctx context.Context, in *linkPath) (*DatasourceAnswer, error) {
			if _, err := a.Lake.Channel(ctx, caller(ctx).Org, plat.ChannelID(in.Channel)); err != nil {
				return nil, err
			}
			d, err := f(ctx, caller(ctx).Org, plat.ChannelID(in.Channel), plat.DatasourceID(in.Datasource))
			a.Auth.ForgetDatasource(plat.DatasourceID(in.Datasource))
			return a.datasourceAnswer(ctx)(d, err)
		}
	}
	register(a, op("link-datasource", http.MethodPut, link, "Link a datasource to a channel; 409 when it is", authz.DatasourceAdmin),
		change(func(ctx context.Context, o plat.OrgID, c plat.ChannelID, d plat.DatasourceID) (org.Datasource, error) {
			return a.Datasources.Link(ctx, o, c, d)
		}))
	register(a, op("unlink-datasource", http.MethodDelete, link, "End a link; 404 when there is none", authz.DatasourceAdmin),
		change(func(ctx context.Context, o plat.OrgID, c plat.ChannelID, d plat.DatasourceID) (org.Datasource, error) {
			return a.Datasources.Unlink(ctx, o, c, d)
		}))
}
