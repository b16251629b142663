// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"strings"

	"panal/internal/client"
	"panal/internal/plat"
)

type datasourceCmd struct {
	Create datasourceCreateCmd `cmd:"" help:"Create a datasource; admins only, like every change."`
	List   datasourceListCmd   `cmd:"" help:"List datasources, oldest first."`
	Show   datasourceShowCmd   `cmd:"" help:"Show a datasource; to admins its secret too."`
	Rename datasourceRenameCmd `cmd:"" help:"Rename a datasource."`
	Delete datasourceDeleteCmd `cmd:"" help:"Delete a datasource and end its credential, at once."`
	Link   datasourceLinkCmd   `cmd:"" help:"Let a datasource send to a channel."`
	Unlink datasourceUnlinkCmd `cmd:"" help:"End that."`
	Linked datasourceLinkedCmd `cmd:"" help:"List the datasources of a channel."`
}

// Help is shown by panal datasource --help.
func (datasourceCmd) Help() string {
	return `A datasource is a camera, a PLC, a server: a credential of its own that belongs to
no user. It may upload to, list and download from the channels that it is linked
to, and nothing else.

	panal datasource create line-3
	panal datasource link line-3 raw
	ABEJA_PLATFORM_DATASOURCE_ID=… ABEJA_PLATFORM_DATASOURCE_SECRET=… \
	  panal file upload CHANNEL_ID ./frames`
}

// datasourceArg is the argument of commands about a datasource.
type datasourceArg struct {
	Datasource string `arg:"" help:"Datasource id, or its name where only one has it."`
}

// id returns the datasource's id.
func (a datasourceArg) id(e *env) (string, error) {
	name := strings.TrimPrefix(a.Datasource, "datasource-")
	if len(name) == 13 && strings.Trim(name, "0123456789") == "" {
		return name, nil
	}
	all, err := e.api.Datasources(e.ctx)
	if err != nil {
		return "", err
	}
	var ids []string
	for _, d := range all {
		if d.Name == a.Datasource {
			ids = append(ids, d.ID)
		}
	}
	switch len(ids) {
	case 0:
		return "", plat.NotFound("datasource", a.Datasource)
	case 1:
		return ids[0], nil
	}
	return "", plat.Errorf(plat.ErrInvalid, "%d datasources are named %q; give the id: %s", len(ids), a.Datasource, strings.Join(ids, ", "))
}

func datasourceHeader() []string { return []string{"DATASOURCE", "NAME", "CREATED"} }

func datasourceRow(d client.Datasource) []string { return []string{d.ID, d.Name, d.CreatedAt} }

// printDatasource prints one, with its secret when that was asked for by name.
func (e *env) printDatasource(d client.Datasource, err error, secret bool) error {
	if err != nil {
		return err
	}
	header, row := datasourceHeader(), datasourceRow(d)
	if !secret {
		d.Secret = ""
	} else if d.Secret != "" {
		header, row = append(header, "SECRET"), append(row, d.Secret)
	}
	return e.print(d, header, [][]string{row})
}

// printDatasources prints a list, which shows no secrets.
func (e *env) printDatasources(all []client.Datasource, err error) error {
	if err != nil {
		return err
	}
	rows := make([][]string, len(all))
	for i := range all {
		all[i].Secret = ""
		rows[i] = datasourceRow(all[i])
	}
	return e.print(all, datasourceHeader(), rows)
}

type datasourceCreateCmd struct {
	Name string `arg:"" help:"Display name."`
}

// Run creates a datasource.
func (c *datasourceCreateCmd) Run(e *env) error {
	d, err := e.api.CreateDatasource(e.ctx, c.Name)
	return e.printDatasource(d, err, true)
}

type datasourceListCmd struct{}

// Run lists datasources.
func (datasourceListCmd) Run(e *env) error {
	return e.printDatasources(e.api.Datasources(e.ctx))
}

type datasourceShowCmd struct{ datasourceArg }

// Run shows a datasource.
func (c *datasourceShowCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	d, err := e.api.Datasource(e.ctx, id)
	return e.printDatasource(d, err, true)
}

type datasourceRenameCmd struct {
	datasourceArg
	Name string `arg:"" help:"New display name."`
}

// Run renames a datasource.
func (c *datasourceRenameCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	d, err := e.api.RenameDatasource(e.ctx, id, c.Name)
	return e.printDatasource(d, err, false)
}

type datasourceDeleteCmd struct{ datasourceArg }

// Run deletes a datasource.
func (c *datasourceDeleteCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	d, err := e.api.DeleteDatasource(e.ctx, id)
	return e.printDatasource(d, err, false)
}

type datasourceLinkCmd struct {
	datasourceArg
	channelArg
}

// Run links a datasource to a channel.
func (c *datasourceLinkCmd) Run(e *env) error {
	return changeLink(e, c.datasourceArg, c.channelArg, e.api.LinkDatasource)
}

func changeLink(e *env, d datasourceArg, c channelArg, change func(ctx context.Context, channel, datasource string) (client.Datasource, error)) error {
	datasource, err := d.id(e)
	if err != nil {
		return err
	}
	channel, err := c.id(e)
	if err != nil {
		return err
	}
	changed, err := change(e.ctx, channel, datasource)
	return e.printDatasource(changed, err, false)
}

type datasourceUnlinkCmd struct {
	datasourceArg
	channelArg
}

// Run unlinks a datasource from a channel.
func (c *datasourceUnlinkCmd) Run(e *env) error {
	return changeLink(e, c.datasourceArg, c.channelArg, e.api.UnlinkDatasource)
}

type datasourceLinkedCmd struct{ channelArg }

// Run lists the datasources of a channel.
func (c *datasourceLinkedCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	return e.printDatasources(e.api.LinkedDatasources(e.ctx, id))
}
