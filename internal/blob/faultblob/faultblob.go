// SPDX-License-Identifier: Apache-2.0

// Package faultblob wraps a blob.Driver and injects faults by script: errors,
// bodies that break off, answers that get lost, latency. With an empty script it
// is the driver it wraps, and passes the same suite. For tests of whatever uses
// a store.
package faultblob

import (
	"context"
	"io"
	"strings"
	"sync"
	"time"

	"panal/internal/blob"
)

// Op names the method a fault applies to.
type Op string

// The methods of blob.Driver that can fail. OpRead is reading from what Open returned.
const (
	OpPut    Op = "put"
	OpOpen   Op = "open"
	OpRead   Op = "read"
	OpStat   Op = "stat"
	OpDelete Op = "delete"
	OpList   Op = "list"
)

// Fault is one line of a script. Each call is matched against the lines in
// order; the first that fits and is not used up applies.
type Fault struct {
	// Op is the method; empty means any except OpRead.
	Op Op
	// Prefix restricts the fault to keys (for List: prefixes) that start with it.
	Prefix string
	// Skip lets that many matching calls pass first.
	Skip int
	// Times is how often the fault applies after that; 0 means always.
	Times int

	// Err is returned. Nil means that the call only takes longer.
	Err error
	// AfterBytes applies to OpPut and OpRead: so many bytes of the body pass
	// before Err takes their place. A disk that runs full is OpPut with
	// plat.ErrExhausted; a short read is OpRead with io.ErrUnexpectedEOF.
	AfterBytes int64
	// Done has a Put or Delete carried out before Err is returned: the change
	// was made and its answer lost.
	Done bool
	// Latency is waited for before the call, or until its context ends.
	Latency time.Duration
}

// Driver injects faults into the calls of another driver.
type Driver struct {
	inner blob.Driver

	mu     sync.Mutex
	script []line
}

type line struct {
	Fault
	seen int
}

var _ blob.Driver = (*Driver)(nil)

// New returns inner with the given script.
func New(inner blob.Driver, script ...Fault) *Driver {
	d := &Driver{inner: inner}
	d.SetScript(script...)
	return d
}

// SetScript replaces the script; no arguments end all faults.
func (d *Driver) SetScript(script ...Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.script = nil
	for _, f := range script {
		d.script = append(d.script, line{Fault: f})
	}
}

// match returns the fault that applies to a call; the zero Fault is none.
func (d *Driver) match(op Op, key string) Fault {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.script {
		l := &d.script[i]
		if l.Op != op && (l.Op != "" || op == OpRead) || !strings.HasPrefix(key, l.Prefix) {
			continue
		}
		if l.Times > 0 && l.seen >= l.Skip+l.Times {
			continue
		}
		l.seen++
		if l.seen > l.Skip {
			return l.Fault
		}
	}
	return Fault{}
}

// before finds the fault and waits for its latency.
func (d *Driver) before(ctx context.Context, op Op, key string) (Fault, error) {
	f := d.match(op, key)
	if f.Latency > 0 {
		t := time.NewTimer(f.Latency)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return Fault{}, ctx.Err()
		}
	}
	return f, nil
}

// Put implements blob.Driver.
func (d *Driver) Put(ctx context.Context, key string, r io.Reader, size int64, opt blob.PutOptions) error {
	f, err := d.before(ctx, OpPut, key)
	if err != nil {
		return err
	}
	if f.Err == nil {
		return d.inner.Put(ctx, key, r, size, opt)
	}
	if !f.Done {
		// The inner driver sees the body break, so its own clean-up is exercised.
		r = &breaking{r: r, left: f.AfterBytes, err: f.Err}
	}
	if err := d.inner.Put(ctx, key, r, size, opt); err != nil {
		return err
	}
	return f.Err
}

// Open implements blob.Driver.
func (d *Driver) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, blob.Info, error) {
	f, err := d.before(ctx, OpOpen, key)
	if err != nil {
		return nil, blob.Info{}, err
	}
	if f.Err != nil {
		return nil, blob.Info{}, f.Err
	}
	rc, info, err := d.inner.Open(ctx, key, off, n)
	if err != nil {
		return nil, blob.Info{}, err
	}
	f, err = d.before(ctx, OpRead, key)
	if err != nil {
		_ = rc.Close()
		return nil, blob.Info{}, err
	}
	if f.Err == nil {
		return rc, info, nil
	}
	return struct {
		io.Reader
		io.Closer
	}{&breaking{r: rc, left: f.AfterBytes, err: f.Err}, rc}, info, nil
}

// Stat implements blob.Driver.
func (d *Driver) Stat(ctx context.Context, key string) (blob.Info, error) {
	f, err := d.before(ctx, OpStat, key)
	if err != nil {
		return blob.Info{}, err
	}
	if f.Err != nil {
		return blob.Info{}, f.Err
	}
	return d.inner.Stat(ctx, key)
}

// Delete implements blob.Driver.
func (d *Driver) Delete(ctx context.Context, key string) error {
	f, err := d.before(ctx, OpDelete, key)
	if err != nil {
		return err
	}
	if f.Err != nil && !f.Done {
		return f.Err
	}
	if err := d.inner.Delete(ctx, key); err != nil {
		return err
	}
	return f.Err
}

// List implements blob.Driver.
func (d *Driver) List(ctx context.Context, prefix, after string, limit int) ([]blob.Info, bool, error) {
	f, err := d.before(ctx, OpList, prefix)
	if err != nil {
		return nil, false, err
	}
	if f.Err != nil {
		return nil, false, f.Err
	}
	return d.inner.List(ctx, prefix, after, limit)
}

// Close implements blob.Driver; it has no faults.
func (d *Driver) Close() error { return d.inner.Close() }

// breaking passes left bytes of r and then fails, even where r would have ended.
type breaking struct {
	r    io.Reader
	left int64
	err  error
}

// Read implements io.Reader.
func (b *breaking) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, b.err
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	if err == io.EOF {
		return n, b.err
	}
	return n, err
}
