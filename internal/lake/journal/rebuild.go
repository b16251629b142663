// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"panal/internal/blob"
	"panal/internal/lake"
	"panal/internal/plat"
)

// Rebuilt is what Rebuild has done, and what it could not.
type Rebuilt struct {
	Channels int64 `json:"channels"`
	Files    int64 `json:"files"`
	Bytes    int64 `json:"bytes"`
	// Missing is how many files the journal names whose object is not there, or has
	// another size: nothing of them is restored.
	Missing int64 `json:"missing"`
	// Unknown is how many objects no entry names: of uploads that were never answered,
	// or of deleted files. The collector removes them.
	Unknown int64 `json:"unknown"`
	// Homeless is how many files the journal names without naming their channel.
	Homeless int64 `json:"homeless"`
	// Lost are the first of those files, of both kinds.
	Lost []LostFile `json:"lost"`
}

// LostFile is a file that the journal names and that could not be restored.
type LostFile struct {
	Channel plat.ChannelID `json:"channel_id"`
	File    plat.FileID    `json:"file_id"`
	Size    int64          `json:"size"`
	Why     string         `json:"why"`
}

// maxLost bounds Rebuilt.Lost.
const maxLost = 10_000

func (r *Rebuilt) lose(e *Entry, why string) {
	if len(r.Lost) < maxLost {
		r.Lost = append(r.Lost, LostFile{e.Channel, e.File, e.Size, why})
	}
}

// rebuildBatch is how many files one transaction restores.
const rebuildBatch = 500

// Rebuild makes the index of channels and files anew from the journal and the listing
// of objects, which it reads side by side in one order, in memory that does not depend
// on how many there are. The index must be empty; what an earlier Rebuild that broke
// off has restored stays when again is true. progress, when not nil, is told now and then.
func Rebuild(ctx context.Context, b *blob.Store, index Index, again bool, progress func(Rebuilt)) (Rebuilt, error) {
	var out Rebuilt
	there, err := index.AllChannels(ctx, "", 1)
	if err != nil {
		return out, fmt.Errorf("rebuild: %w", err)
	}
	if len(there) > 0 && !again {
		return out, plat.Errorf(plat.ErrConflict, "the index is not empty: rebuild into an empty database, or pass --continue to go on with a rebuild that broke off")
	}
	m, err := snapshot(ctx, b, nil)
	if err != nil {
		return out, fmt.Errorf("rebuild: %w", err)
	}
	r := &rebuild{index: index, objects: &objects{b: b, prefix: lake.ObjectPrefix}, out: &out, progress: progress}
	err = r.run(ctx, m)
	if err = errors.Join(err, m.close()); err != nil {
		return out, fmt.Errorf("rebuild: %w", err)
	}
	return out, nil
}

type rebuild struct {
	index    Index
	objects  *objects
	out      *Rebuilt
	progress func(Rebuilt)

	home string // prefix of the channel that is being restored
	dead string // prefix of one that has ended
	id   plat.ChannelID
	todo []lake.File
}

func (r *rebuild) run(ctx context.Context, m source) error {
	for {
		e, err := m.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := r.one(ctx, &e); err != nil {
			return err
		}
	}
	if err := r.flush(ctx); err != nil {
		return err
	}
	_, err := r.objects.find(ctx, "", func(blob.Info) { r.out.Unknown++ })
	return err
}

func (r *rebuild) one(ctx context.Context, e *Entry) error {
	k := e.key()
	switch {
	case e.File == "" && e.Gone != 0:
		r.dead = k
		return nil
	case e.File == "":
		if err := r.flush(ctx); err != nil {
			return err
		}
		r.home, r.id = k, e.Channel
		r.out.Channels++
		return r.index.RestoreChannel(ctx, e.channel())
	case e.Gone != 0, r.dead != "" && strings.HasPrefix(k, r.dead):
		return nil
	case r.home == "" || !strings.HasPrefix(k, r.home):
		r.out.Homeless++
		r.out.lose(e, "the journal does not name its channel")
		return nil
	}
	info, err := r.objects.find(ctx, k, func(blob.Info) { r.out.Unknown++ })
	if err != nil {
		return err
	}
	if info == nil || info.Size != e.Size {
		why := "its object is missing"
		if info != nil {
			why = fmt.Sprintf("its object has %d bytes", info.Size)
		}
		r.out.Missing++
		r.out.lose(e, why)
		return nil
	}
	r.todo = append(r.todo, e.file())
	if len(r.todo) < rebuildBatch {
		return nil
	}
	return r.flush(ctx)
}

func (r *rebuild) flush(ctx context.Context) error {
	if len(r.todo) == 0 {
		return nil
	}
	if err := r.index.RestoreFiles(ctx, r.id, r.todo); err != nil {
		return err
	}
	for _, f := range r.todo {
		r.out.Files, r.out.Bytes = r.out.Files+1, r.out.Bytes+f.Size
	}
	r.todo = r.todo[:0]
	if r.progress != nil {
		r.progress(*r.out)
	}
	return nil
}

// objects walks a listing once, forwards.
type objects struct {
	b      *blob.Store
	prefix string
	page   []blob.Info
	after  string
	end    bool
}

// find goes to the object of a key and returns it, or nil when there is none; key ""
// goes to the end. skipped is called for each object that it passes by.
func (o *objects) find(ctx context.Context, key string, skipped func(blob.Info)) (*blob.Info, error) {
	for {
		for len(o.page) > 0 {
			info := o.page[0]
			if key != "" && info.Key > key {
				return nil, nil //nolint:nilnil // there is none
			}
			o.page = o.page[1:]
			if info.Key == key {
				return &info, nil
			}
			skipped(info)
		}
		if o.end {
			return nil, nil //nolint:nilnil // there is none
		}
		infos, more, err := o.b.List(ctx, o.prefix, o.after, listPage)
		if err != nil {
			return nil, err
		}
		o.page, o.end = infos, !more || len(infos) == 0
		if len(infos) > 0 {
			o.after = infos[len(infos)-1].Key
		}
	}
}
