// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/agentctl"
)

const (
	// childGrace is how long user code may take to end after SIGINT.
	childGrace = 25 * time.Second
	// patience is how long a finished training waits for a server that is away.
	patience = 24 * time.Hour
)

// errStopped says that the workload was asked to end before it was done.
var errStopped = errors.New("stopped")

// training runs one job (compute.md §13.8).
func (a *agent) training(ctx context.Context) error {
	if a.cfg.download {
		a.state.step("download")
		if err := a.api.fetch(ctx, "code", a.cfg.codePath, a.cfg.codeDir, a.tmp); err != nil {
			return err
		}
	}
	if !a.cfg.execute {
		return nil
	}
	root := codeRoot(a.cfg.codeDir)
	a.state.step("environment")
	site, err := a.environment(ctx, root)
	if err != nil {
		return err
	}
	if a.cfg.exportLog {
		f, err := os.OpenFile(filepath.Join(a.cfg.resultDir, ".abeja_train.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY|syscall.O_NOFOLLOW, 0o644)
		if err != nil {
			return fmt.Errorf("export log: %w", err)
		}
		a.sink.exportTo(f)
	}
	a.state.step("import")
	c, why, err := a.python("train.py", root, site, "train", nil)
	if err != nil {
		return err
	}
	a.state.update(func(s *agentctl.State) { s.Phase, s.Step = string(runner.PhaseRunning), "" })
	select {
	case <-c.done:
	case <-ctx.Done():
		c.interrupt(childGrace)
		return errStopped
	}
	a.procs.killOrphans()
	a.sink.endExport()
	switch code := c.code(); code {
	case 0, 120:
		return a.upload(ctx)
	default:
		failed := plat.Errorf(plat.ErrInvalid, "%s", orDefault(why(), "the training process "+c.describe()))
		if empty, err := a.emptyResult(); err != nil || !empty {
			if err := a.upload(ctx); err != nil {
				a.sink.say("warning", "the files of the failed training were not stored: %v", err)
			}
		}
		return failed
	}
}

func (a *agent) emptyResult() (bool, error) {
	n := 0
	err := eachResult(a.cfg.resultDir, func(*os.Root, string, fs.FileInfo) error {
		n++
		return fs.SkipAll
	})
	return n == 0, err
}

// upload stores the result directory as the job's result, however long the
// server is away (within patience).
func (a *agent) upload(ctx context.Context) error {
	if a.cfg.uploadPath == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	size, err := zipResult(a.cfg.resultDir, io.Discard, a.sink.say)
	if err != nil {
		return fmt.Errorf("pack result: %w", err)
	}
	told := false
	err = retry(ctx, 0, func(ctx context.Context) error {
		var where struct {
			URI string `json:"uri"`
		}
		err := a.api.call(ctx, http.MethodPost, a.cfg.uploadPath, "upload result", &where)
		if err == nil && where.URI == "" {
			err = plat.Errorf(plat.ErrInvalid, "upload result: the server's answer has no uri")
		}
		if err == nil {
			err = a.putResult(ctx, where.URI, size)
		}
		if err != nil && !told && errors.Is(err, plat.ErrUnavailable) {
			told = true
			a.sink.say("warning", "the result waits for the server: %v", err)
		}
		return err
	})
	if err != nil {
		return err
	}
	a.sink.say("info", "result stored, %d bytes", size)
	return nil
}

// putResult streams the zip. Files are stored, not deflated: weights don't
// compress, and the length, which object stores want to know, is certain without
// a second copy on disk.
func (a *agent) putResult(ctx context.Context, uri string, size int64) error {
	const what = "upload result"
	ctx, touch, stop := watchdog(ctx)
	defer stop()
	target, err := a.api.url(uri)
	if err != nil {
		return err
	}
	pr, pw := io.Pipe()
	packed := make(chan struct{})
	go func() {
		_, err := zipResult(a.cfg.resultDir, pw, nil)
		_ = pw.CloseWithError(err)
		close(packed)
	}()
	defer func() {
		_ = pr.CloseWithError(context.Canceled)
		<-packed
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, target, progressReader{pr, touch})
	if err != nil {
		return fmt.Errorf("%s: bad uri", what)
	}
	req.ContentLength = size
	req.Header.Set("Content-Type", "application/zip")
	resp, err := a.api.http.Do(req)
	if err != nil {
		return networkError(what, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusConflict {
		return nil // it was stored before, and the answer was lost: a result is written once
	}
	if resp.StatusCode/100 != 2 {
		return statusError(what, resp)
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
	return nil
}

// eachResult calls f for every regular file below dir, in order of name. Links
// are not followed; f may return fs.SkipAll.
func eachResult(dir string, f func(root *os.Root, name string, info fs.FileInfo) error) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return f(root, name, info)
	})
}

// zipResult packs the regular files of dir and returns the length of the zip.
func zipResult(dir string, w io.Writer, say func(string, string, ...any)) (int64, error) {
	count := &countWriter{w: w}
	zw := zip.NewWriter(count)
	err := eachResult(dir, func(root *os.Root, name string, info fs.FileInfo) error {
		if !info.Mode().IsRegular() {
			if say != nil {
				say("warning", "%s is no regular file and is left out of the result", name)
			}
			return nil
		}
		f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		h := &zip.FileHeader{Name: name, Method: zip.Store, Modified: info.ModTime()}
		h.SetMode(info.Mode().Perm())
		out, err := zw.CreateHeader(h)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, f)
		return err
	})
	if err == nil {
		err = zw.Close()
	}
	return count.n, err
}

type countWriter struct {
	w io.Writer
	n int64
}

func (c *countWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
