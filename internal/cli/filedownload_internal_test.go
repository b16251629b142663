// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/schollz/progressbar/v3"

	"panal/internal/client"
	"panal/internal/plat"
)

// What the file system refuses of every file ends a download; a full disk keeps no part.
func TestDownloadStopsAtTheDisk(t *testing.T) {
	for _, c := range []struct {
		err   error
		kind  error // nil: the other files go on
		parts int
	}{
		{syscall.ENOSPC, plat.ErrExhausted, 0},
		{syscall.EDQUOT, plat.ErrExhausted, 0},
		{syscall.EROFS, plat.ErrForbidden, 3},
		{syscall.EIO, nil, 1},
	} {
		t.Run(c.err.Error(), func(t *testing.T) {
			dir := t.TempDir()
			root, err := openTo(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = root.Close() }()
			var out, errs bytes.Buffer
			e := &env{ctx: t.Context(), stdout: &out, stderr: &errs}
			r := e.newTransfer(reportFlags{Jobs: 3}, globs{}, "downloaded", 100, progress{})
			begun := make(chan bool, 3)
			open := func(ctx context.Context, f client.File, _ int64) (io.ReadCloser, int64, error) {
				bad := iotest.ErrReader(&fs.PathError{Op: "write", Path: f.ID, Err: c.err}) // as if the disk said it
				begun <- true
				switch {
				case f.ID == "0": // fails when the other two are under way
					<-begun
					<-begun
					<-begun
				case c.kind != nil:
					<-ctx.Done()
					bad = iotest.ErrReader(ctx.Err())
				default:
					bad = strings.NewReader("f")
				}
				return io.NopCloser(io.MultiReader(strings.NewReader("hal"), bad)), 0, nil
			}
			var stop error
			for i := 0; i < 100 && stop == nil; i++ {
				if c.kind == nil && i == 3 {
					break
				}
				stop = r.do(func(ctx context.Context) (outcome, error) {
					d := download{root: root, file: client.File{ID: fmt.Sprint(i), Size: 4}, name: fmt.Sprint(i), from: open}
					_, err := d.run(ctx)
					return outcome{FileID: d.file.ID}, err
				})
			}
			err = r.finish(stop)
			if (c.kind == nil) != (stop == nil) || !errors.Is(err, c.err) || c.kind != nil && !errors.Is(err, c.kind) || r.Failed != 1 || c.kind != nil && !strings.Contains(errs.String(), "\n0 downloaded, 0 skipped, 1 failed, 99 not tried, ") {
				t.Errorf("finish = %v, %d failed, stopped by %v\n%s", err, r.Failed, stop, &errs)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, ".panal-*")); len(left) != c.parts {
				t.Errorf("left behind: %v, want %d", left, c.parts)
			}
		})
	}
}

// A storage whose object ends too early is no matter of another try; no part is left.
func TestDownloadTruncated(t *testing.T) {
	dir := t.TempDir()
	root, err := openTo(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	if err := root.WriteFile(".panal-1.part", []byte("0123"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := download{root: root, file: client.File{ID: "1", Size: 10}, name: "x", verify: "panal channel verify raw"}
	d.from = func(context.Context, client.File, int64) (io.ReadCloser, int64, error) {
		return nil, 0, &client.Error{Status: http.StatusRequestedRangeNotSatisfiable, Description: "GET answered 416"}
	}
	if _, err := d.run(t.Context()); err == nil || !strings.Contains(err.Error(), "shorter than the file: 4 of 10 bytes; panal channel verify raw") {
		t.Errorf("run = %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// A download's bar counts the bytes as they come, and the files that are done.
func TestDownloadProgress(t *testing.T) {
	root, err := openTo(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	bar := progressbar.NewOptions64(-1, progressbar.OptionSetWriter(io.Discard))
	e := &env{ctx: t.Context(), stdout: io.Discard, stderr: io.Discard}
	r := e.newTransfer(reportFlags{Jobs: 1}, globs{}, "downloaded", 2, progress{bar: bar, what: "downloading"})
	d := download{bar: r.bar, root: root, file: client.File{ID: "1", Size: 4}, name: "x"}
	d.from = func(context.Context, client.File, int64) (io.ReadCloser, int64, error) {
		return io.NopCloser(strings.NewReader("0123")), 0, nil
	}
	if _, err := d.run(t.Context()); err != nil || bar.State().CurrentBytes != 4 {
		t.Errorf("%v bytes, %v", bar.State().CurrentBytes, err)
	}
	r.add(outcome{}, nil)
	if what := bar.State().Description; what != "downloading, 1 of 2 files done" {
		t.Errorf("the bar says %q", what)
	}
	r.bar.done()
}

// An interruption between two files is one too.
func TestTransferInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var out, errs bytes.Buffer
	e := &env{ctx: ctx, stdout: &out, stderr: &errs}
	r := e.newTransfer(reportFlags{Jobs: 1}, globs{}, "uploaded", 3, progress{})
	err := r.finish(r.all(3, func(context.Context, int) (outcome, error) {
		cancel()
		return outcome{}, nil
	}))
	if !errors.Is(err, context.Canceled) || !strings.HasPrefix(errs.String(), "1 uploaded, 0 skipped, 0 failed, 2 not tried, ") {
		t.Errorf("finish = %v\n%s", err, &errs)
	}
}
