// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"panal/internal/client"
	"panal/internal/plat"
)

type channelCmd struct {
	Create    channelCreateCmd    `cmd:"" help:"Create a channel."`
	List      channelListCmd      `cmd:"" help:"List channels, newest first."`
	Get       channelGetCmd       `cmd:"" help:"Show a channel and how many files it has."`
	Update    channelUpdateCmd    `cmd:"" help:"Change a channel's name or description."`
	Archive   channelArchiveCmd   `cmd:"" help:"Archive a channel: it stays readable and takes no uploads."`
	Link      channelLinkCmd      `cmd:"" help:"Make a bucket's objects the files of an empty channel."`
	Unlink    channelUnlinkCmd    `cmd:"" help:"End a channel's link to a bucket: its files go from the channel, the bucket keeps its objects."`
	Verify    channelVerifyCmd    `cmd:"" help:"Compare a channel's index with its storage and its journal, and mend it."`
	Unarchive channelUnarchiveCmd `cmd:"" help:"Take an archived channel back."`
	Delete    channelDeleteCmd    `cmd:"" help:"Delete a channel with all its files."`
}

// channelArg is the argument of commands about a channel.
type channelArg struct {
	Channel string `arg:"" help:"Channel id, or its name where only one has it."`
}

// id returns the channel's id.
func (a channelArg) id(e *env) (string, error) {
	if len(a.Channel) == 13 && strings.Trim(a.Channel, "0123456789") == "" {
		return a.Channel, nil
	}
	all, err := e.api.Channels(e.ctx, true)
	if errors.Is(err, plat.ErrForbidden) { // a datasource may not look it up; the server tells it the id
		return a.Channel, nil
	}
	if err != nil {
		return "", err
	}
	var ids []string
	for _, c := range all {
		if c.Name == a.Channel {
			ids = append(ids, c.ID)
		}
	}
	switch len(ids) {
	case 0:
		return "", plat.NotFound("channel", a.Channel)
	case 1:
		return ids[0], nil
	}
	return "", plat.Errorf(plat.ErrInvalid, "%d channels are named %q; give the id: %s", len(ids), a.Channel, strings.Join(ids, ", "))
}

func channelHeader() []string {
	return []string{"CHANNEL", "NAME", "ARCHIVED", "CREATED", "DESCRIPTION"}
}

func channelRow(c client.Channel) []string {
	description := ""
	if c.Description != nil {
		description = *c.Description
	}
	return []string{c.ID, c.Name, strconv.FormatBool(c.Archived), c.CreatedAt, description}
}

func (e *env) printChannel(c client.Channel, err error) error {
	if err != nil {
		return err
	}
	return e.print(c, channelHeader(), [][]string{channelRow(c)})
}

type channelCreateCmd struct {
	Name        string `arg:"" optional:"" help:"Name; need not be unique."`
	Description string `help:"Description."`
}

// Run creates a channel.
func (c *channelCreateCmd) Run(e *env) error {
	return e.printChannel(e.api.CreateChannel(e.ctx, c.Name, c.Description))
}

type channelListCmd struct {
	Archived bool `help:"Show archived ones too."`
}

// Run lists channels.
func (c *channelListCmd) Run(e *env) error {
	all, err := e.api.Channels(e.ctx, c.Archived)
	if err != nil {
		return err
	}
	rows := make([][]string, len(all))
	for i, ch := range all {
		rows[i] = channelRow(ch)
	}
	return e.print(all, channelHeader(), rows)
}

type channelGetCmd struct{ channelArg }

// Run shows a channel.
func (c *channelGetCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	ch, err := e.api.Channel(e.ctx, id)
	if err != nil {
		return err
	}
	n, err := e.api.CountFiles(e.ctx, id, "")
	if err != nil {
		return err
	}
	return e.print(struct {
		client.Channel
		Files int64 `json:"files"`
	}{ch, n}, append(channelHeader(), "FILES"), [][]string{append(channelRow(ch), fmt.Sprint(n))})
}

type channelArchiveCmd struct{ channelArg }

// Run archives a channel.
func (c *channelArchiveCmd) Run(e *env) error { return archiveChannel(e, c.channelArg, true) }

type channelUnarchiveCmd struct{ channelArg }

// Run unarchives a channel.
func (c *channelUnarchiveCmd) Run(e *env) error { return archiveChannel(e, c.channelArg, false) }

func archiveChannel(e *env, a channelArg, archived bool) error {
	id, err := a.id(e)
	if err != nil {
		return err
	}
	return e.printChannel(e.api.ArchiveChannel(e.ctx, id, archived))
}

type channelUpdateCmd struct {
	channelArg
	Name        *string `help:"New name."`
	Description *string `help:"New description."`
}

// Run changes a channel.
func (c *channelUpdateCmd) Run(e *env) error {
	if c.Name == nil && c.Description == nil {
		return plat.Errorf(plat.ErrInvalid, "say what to change with --name or --description")
	}
	id, err := c.id(e)
	if err != nil {
		return err
	}
	return e.printChannel(e.api.UpdateChannel(e.ctx, id, c.Name, c.Description))
}

type channelDeleteCmd struct {
	channelArg
	Yes bool `help:"Really do it, also when it holds files."`
}

// Help implements kong's interface.
func (*channelDeleteCmd) Help() string {
	return `An empty channel goes at once; one with files only with --yes. While items of datasets refer to its files it stays, and the answer names the datasets.`
}

// Run deletes a channel.
func (c *channelDeleteCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	if !c.Yes {
		n, err := e.api.CountFiles(e.ctx, id, "")
		if err != nil {
			return err
		}
		if n > 0 {
			return plat.Errorf(plat.ErrInvalid, "channel %s holds %d files; add --yes to delete them with it", id, n)
		}
	}
	return e.printChannel(e.api.DeleteChannel(e.ctx, id))
}
