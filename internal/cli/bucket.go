// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"strconv"
	"strings"

	"panal/internal/client"
	"panal/internal/plat"
)

type bucketCmd struct {
	Create    bucketCreateCmd    `cmd:"" help:"Create a bucket."`
	List      bucketListCmd      `cmd:"" help:"List buckets, newest first."`
	Show      bucketShowCmd      `cmd:"" help:"Show a bucket and what it holds."`
	Update    bucketUpdateCmd    `cmd:"" help:"Change a bucket's name or description."`
	Archive   bucketArchiveCmd   `cmd:"" help:"Archive a bucket: it stays readable and takes no uploads."`
	Unarchive bucketUnarchiveCmd `cmd:"" help:"Take an archived bucket back."`
	Verify    bucketVerifyCmd    `cmd:"" help:"Compare a bucket's index with its storage and its journal, and mend it."`
	Delete    bucketDeleteCmd    `cmd:"" help:"Delete a bucket with all its files."`

	Upload   bucketUploadCmd   `cmd:"" help:"Upload files or whole directories."`
	Ls       bucketLsCmd       `cmd:"" help:"List a directory of a bucket."`
	Get      bucketGetCmd      `cmd:"" help:"Show a file."`
	Download bucketDownloadCmd `cmd:"" help:"Download files, directories, or a whole bucket."`
	Rm       bucketRmCmd       `cmd:"" help:"Delete files, or everything below a directory."`
}

// Help implements kong's interface.
func (bucketCmd) Help() string {
	return `A bucket keeps files under paths, as a disk or S3 does; an upload to a path that is taken replaces the file.

  panal bucket create models
  panal bucket upload models ./out --to run-7
  panal bucket ls models run-7
  panal bucket download models run-7 --to ./back`
}

// bucketArg is the argument of commands about a bucket.
type bucketArg struct {
	Bucket string `arg:"" help:"Bucket id, or its name where only one has it."`
}

// id returns the bucket's id.
func (a bucketArg) id(e *env) (string, error) {
	if len(a.Bucket) == 13 && strings.Trim(a.Bucket, "0123456789") == "" {
		return a.Bucket, nil
	}
	all, err := e.api.Buckets(e.ctx, true)
	if err != nil {
		return "", err
	}
	var ids []string
	for _, b := range all {
		if b.Name == a.Bucket {
			ids = append(ids, b.ID)
		}
	}
	switch len(ids) {
	case 0:
		return "", plat.NotFound("bucket", a.Bucket)
	case 1:
		return ids[0], nil
	}
	return "", plat.Errorf(plat.ErrInvalid, "%d buckets are named %q; give the id: %s", len(ids), a.Bucket, strings.Join(ids, ", "))
}

func bucketHeader() []string { return []string{"BUCKET", "NAME", "ARCHIVED", "CREATED", "DESCRIPTION"} }

func bucketRow(b client.Bucket) []string {
	description := ""
	if b.Description != nil {
		description = *b.Description
	}
	return []string{b.ID, b.Name, strconv.FormatBool(b.Archived), b.CreatedAt, description}
}

func (e *env) printBucket(b client.Bucket, err error) error {
	if err != nil {
		return err
	}
	return e.print(b, bucketHeader(), [][]string{bucketRow(b)})
}

type bucketCreateCmd struct {
	Name        string `arg:"" optional:"" help:"Name; need not be unique."`
	Description string `help:"Description."`
}

// Run creates a bucket.
func (c *bucketCreateCmd) Run(e *env) error {
	return e.printBucket(e.api.CreateBucket(e.ctx, c.Name, c.Description))
}

type bucketListCmd struct {
	Archived bool `help:"Show archived ones too."`
}

// Run lists buckets.
func (c *bucketListCmd) Run(e *env) error {
	all, err := e.api.Buckets(e.ctx, c.Archived)
	if err != nil {
		return err
	}
	rows := make([][]string, len(all))
	for i, b := range all {
		rows[i] = bucketRow(b)
	}
	return e.print(all, bucketHeader(), rows)
}

type bucketShowCmd struct{ bucketArg }

// Run shows a bucket.
func (c *bucketShowCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	b, err := e.api.Bucket(e.ctx, id)
	if err != nil {
		return err
	}
	files, bytes, err := e.api.BucketUsage(e.ctx, id)
	if err != nil {
		return err
	}
	return e.print(struct {
		client.Bucket
		Files int64 `json:"files"`
		Bytes int64 `json:"bytes"`
	}{b, files, bytes}, append(bucketHeader(), "FILES", "BYTES"), [][]string{append(bucketRow(b), fmt.Sprint(files), fmt.Sprint(bytes))})
}

type bucketUpdateCmd struct {
	bucketArg
	Name        *string `help:"New name."`
	Description *string `help:"New description."`
}

// Run changes a bucket.
func (c *bucketUpdateCmd) Run(e *env) error {
	if c.Name == nil && c.Description == nil {
		return plat.Errorf(plat.ErrInvalid, "say what to change with --name or --description")
	}
	id, err := c.id(e)
	if err != nil {
		return err
	}
	return e.printBucket(e.api.UpdateBucket(e.ctx, id, c.Name, c.Description))
}

type bucketArchiveCmd struct{ bucketArg }

// Run archives a bucket.
func (c *bucketArchiveCmd) Run(e *env) error { return archiveBucket(e, c.bucketArg, true) }

type bucketUnarchiveCmd struct{ bucketArg }

// Run unarchives a bucket.
func (c *bucketUnarchiveCmd) Run(e *env) error { return archiveBucket(e, c.bucketArg, false) }

func archiveBucket(e *env, a bucketArg, archived bool) error {
	id, err := a.id(e)
	if err != nil {
		return err
	}
	return e.printBucket(e.api.ArchiveBucket(e.ctx, id, archived))
}

type bucketVerifyCmd struct {
	bucketArg
	Deep   bool `help:"Read every object and compare its bytes with the ETag."`
	Repair bool `help:"Mend what can be mended without losing data."`
}

// Help is shown by panal bucket verify --help.
func (bucketVerifyCmd) Help() string { return channelVerifyCmd{}.Help() }

// Run verifies a bucket.
func (c *bucketVerifyCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	out, err := e.api.VerifyBucket(e.ctx, id, c.Deep, c.Repair)
	if err != nil {
		return err
	}
	return e.printVerified("bucket "+id, out)
}

type bucketDeleteCmd struct {
	bucketArg
	Yes bool `help:"Really do it, also when it holds files."`
}

// Run deletes a bucket.
func (c *bucketDeleteCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	if !c.Yes {
		n, _, err := e.api.BucketUsage(e.ctx, id)
		if err != nil {
			return err
		}
		if n > 0 {
			return plat.Errorf(plat.ErrInvalid, "bucket %s holds %d files; add --yes to delete them with it", id, n)
		}
	}
	return e.printBucket(e.api.DeleteBucket(e.ctx, id))
}
