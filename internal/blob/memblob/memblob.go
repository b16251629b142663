// SPDX-License-Identifier: Apache-2.0

// Package memblob is the blob adapter that keeps objects in memory: for tests,
// and the example to copy for a new adapter. It is the one adapter whose memory
// grows with its bodies, and nothing survives the process.
package memblob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"panal/internal/blob"
	"panal/internal/plat"
)

// Driver is an object store in memory.
type Driver struct {
	clock plat.Clock

	mu      sync.RWMutex
	closed  bool
	keys    []string // sorted
	objects map[string]object
}

type object struct {
	data []byte // never changed
	mod  time.Time
}

var (
	_ blob.Driver = (*Driver)(nil)
	_ blob.Copier = (*Driver)(nil)
)

// New returns an empty store.
func New() *Driver {
	return &Driver{clock: plat.SystemClock, objects: map[string]object{}}
}

// check returns the error of a cancelled context or a closed store. The caller holds mu.
func (d *Driver) check(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.closed {
		return plat.Errorf(plat.ErrUnavailable, "the object store is closed")
	}
	return nil
}

// Put implements blob.Driver.
func (d *Driver) Put(ctx context.Context, key string, r io.Reader, size int64, opt blob.PutOptions) error {
	data, err := d.receive(ctx, r, size)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.check(ctx); err != nil {
		return err
	}
	_, exists := d.objects[key]
	if exists && opt.IfNoneMatch {
		return plat.Errorf(plat.ErrExists, "the object already exists")
	}
	if !exists {
		i, _ := slices.BinarySearch(d.keys, key)
		d.keys = slices.Insert(d.keys, i, key)
	}
	d.objects[key] = object{data: data, mod: d.clock()}
	return nil
}

func (d *Driver) receive(ctx context.Context, r io.Reader, size int64) ([]byte, error) {
	var body bytes.Buffer
	buf := make([]byte, 32<<10)
	for {
		d.mu.RLock()
		err := d.check(ctx)
		d.mu.RUnlock()
		if err != nil {
			return nil, err
		}
		n, err := r.Read(buf)
		_, _ = body.Write(buf[:n])
		if size >= 0 && int64(body.Len()) > size {
			return nil, plat.Errorf(plat.ErrInvalid, "the body is longer than the declared %d bytes", size)
		}
		if err == io.EOF { //nolint:errorlint // the reader contract says this very value
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read body: %w", err)
		}
	}
	if size >= 0 && int64(body.Len()) < size {
		return nil, plat.Errorf(plat.ErrInvalid, "the body ended after %d of the declared %d bytes", body.Len(), size)
	}
	return body.Bytes(), nil
}

// get returns the object at key.
func (d *Driver) get(ctx context.Context, key string) (object, blob.Info, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.check(ctx); err != nil {
		return object{}, blob.Info{}, err
	}
	o, ok := d.objects[key]
	if !ok {
		return object{}, blob.Info{}, plat.Errorf(plat.ErrNotFound, "no such object")
	}
	return o, blob.Info{Key: key, Size: int64(len(o.data)), ModTime: o.mod}, nil
}

// Open implements blob.Driver.
func (d *Driver) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, blob.Info, error) {
	o, info, err := d.get(ctx, key)
	if err != nil {
		return nil, blob.Info{}, err
	}
	part := o.data[min(off, info.Size):]
	if n >= 0 {
		part = part[:min(n, int64(len(part)))]
	}
	return io.NopCloser(bytes.NewReader(part)), info, nil
}

// Stat implements blob.Driver.
func (d *Driver) Stat(ctx context.Context, key string) (blob.Info, error) {
	_, info, err := d.get(ctx, key)
	return info, err
}

// CanCopy implements blob.Copier.
func (d *Driver) CanCopy() bool { return true }

// Tagged implements blob.Copier.
func (d *Driver) Tagged(ctx context.Context, key string) (blob.Info, string, error) {
	o, info, err := d.get(ctx, key)
	return info, o.tag(), err
}

func (o object) tag() string { return fmt.Sprintf("%x", sha256.Sum256(o.data)) }

// Copy implements blob.Copier.
func (d *Driver) Copy(ctx context.Context, from blob.Info, tag, to, _ string) (string, error) {
	o, _, err := d.get(ctx, from.Key)
	if err != nil {
		return "", err
	}
	if o.tag() != tag {
		return "", plat.Errorf(plat.ErrConflict, "the object is another one by now")
	}
	return "", d.Put(ctx, to, bytes.NewReader(o.data), int64(len(o.data)), blob.PutOptions{})
}

// Delete implements blob.Driver.
func (d *Driver) Delete(ctx context.Context, key string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.check(ctx); err != nil {
		return err
	}
	if i, ok := slices.BinarySearch(d.keys, key); ok {
		d.keys = slices.Delete(d.keys, i, i+1)
		delete(d.objects, key)
	}
	return nil
}

// List implements blob.Driver.
func (d *Driver) List(ctx context.Context, prefix, after string, limit int) ([]blob.Info, bool, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.check(ctx); err != nil {
		return nil, false, err
	}
	i, _ := slices.BinarySearch(d.keys, max(prefix, after))
	var infos []blob.Info
	for ; i < len(d.keys) && strings.HasPrefix(d.keys[i], prefix); i++ {
		key := d.keys[i]
		if key == after {
			continue
		}
		if len(infos) == limit {
			return infos, true, nil
		}
		o := d.objects[key]
		infos = append(infos, blob.Info{Key: key, Size: int64(len(o.data)), ModTime: o.mod})
	}
	return infos, false, nil
}

// Close implements blob.Driver.
func (d *Driver) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed, d.keys, d.objects = true, nil, nil
	return nil
}
