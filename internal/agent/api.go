// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"panal/internal/agent/runtime"
	"panal/internal/plat"
	"panal/internal/x/archive"
)

// Bounds of talking to the server.
const (
	// idleLimit ends a transfer that makes no progress; no total time does.
	idleLimit = 60 * time.Second
	// downloadTries is how often a download begins before the start has failed.
	downloadTries = 10
	maxArchive    = 64 << 30
	maxAnswer     = 1 << 20
)

// apiClient talks to the control API with the container's token.
type apiClient struct {
	base *url.URL
	auth string
	http *http.Client
}

func newAPIClient(cfg *config) *apiClient {
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.ResponseHeaderTimeout = idleLimit
	tr.MaxIdleConnsPerHost = 2
	if cfg.dial != nil {
		tr.DialContext = cfg.dial.DialContext
	}
	return &apiClient{base: cfg.api, auth: cfg.auth, http: &http.Client{Transport: tr}}
}

func (c *apiClient) close() { c.http.CloseIdleConnections() }

// url resolves an API path, or a URL that the API handed out.
func (c *apiClient) url(ref string) (string, error) {
	u, err := url.Parse(ref)
	if err != nil {
		return "", fmt.Errorf("bad URL from the API: %w", err)
	}
	if u.IsAbs() {
		return ref, nil
	}
	return c.base.String() + "/" + strings.TrimLeft(ref, "/"), nil
}

// retry calls f until it succeeds, fails for good (anything but ErrUnavailable),
// tries are used up (0: no bound), or ctx ends. Waiting doubles from 0.2 s to 15 s.
func retry(ctx context.Context, tries int, f func(context.Context) error) error {
	wait := 200 * time.Millisecond
	for i := 1; ; i++ {
		err := f(ctx)
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		if err == nil || !errors.Is(err, plat.ErrUnavailable) || i == tries {
			return err
		}
		select {
		case <-time.After(wait + rand.N(wait/4)):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
		wait = min(2*wait, 15*time.Second)
	}
}

// statusError turns an answer that is no success into an error: 5xx and 429 may
// pass, the rest is final. The URL is not in it: it may carry a signature.
func statusError(what string, resp *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	var e struct {
		Description string `json:"error_description"`
	}
	_ = json.Unmarshal(body, &e)
	text := fmt.Sprintf("%s: the server answered %d", what, resp.StatusCode)
	if e.Description != "" {
		text += ": " + e.Description
	}
	if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests {
		return plat.Errorf(plat.ErrUnavailable, "%s", text)
	}
	return plat.Errorf(plat.ErrInvalid, "%s", text)
}

// networkError hides the URL of a failed request.
func networkError(what string, err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	return &plat.Error{Kind: plat.ErrUnavailable, Public: what, Err: err}
}

// call does one API request and decodes the JSON answer into out.
func (c *apiClient) call(ctx context.Context, method, path, what string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, idleLimit)
	defer cancel()
	target, err := c.url(path)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	req.Header.Set("Authorization", c.auth)
	resp, err := c.http.Do(req)
	if err != nil {
		return networkError(what, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return statusError(what, resp)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return networkError(what+": bad answer", err)
	}
	return nil
}

// watchdog cancels a transfer that stands still.
func watchdog(ctx context.Context) (context.Context, func(), context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(idleLimit, func() { cancel(errors.New("no progress")) })
	return ctx, func() { timer.Reset(idleLimit) }, func() { timer.Stop(); cancel(nil) }
}

// progressReader tells the watchdog of each piece.
type progressReader struct {
	r     io.Reader
	touch func()
}

func (p progressReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if n > 0 {
		p.touch()
	}
	return n, err
}

// fetch asks the API where the archive is, downloads it to a file and unpacks it
// into dir (compute.md §13.3).
func (c *apiClient) fetch(ctx context.Context, what, apiPath, dir, tmp string) error {
	f, err := os.CreateTemp(tmp, "download-")
	if err != nil {
		return fmt.Errorf("download %s: %w", what, err)
	}
	defer func() { _ = f.Close() }()
	if err := os.Remove(f.Name()); err != nil { // gone with the file handle, whatever happens
		return fmt.Errorf("download %s: %w", what, err)
	}
	var size int64
	err = retry(ctx, downloadTries, func(ctx context.Context) error {
		var where struct {
			DownloadURI string `json:"download_uri"`
			Artifacts   struct {
				Complete struct {
					URI string `json:"uri"`
				} `json:"complete"`
			} `json:"artifacts"`
		}
		if err := c.call(ctx, http.MethodGet, apiPath, "download "+what, &where); err != nil {
			return err
		}
		uri := orDefault(where.DownloadURI, where.Artifacts.Complete.URI)
		if uri == "" {
			return plat.Errorf(plat.ErrInvalid, "download %s: the server's answer has no download_uri", what)
		}
		size, err = c.download(ctx, what, uri, f)
		return err
	})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("unpack %s: %w", what, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", what, err)
	}
	defer func() { _ = root.Close() }()
	if err := archive.Unpack(root, f, size, archive.Limits{}); err != nil {
		return fmt.Errorf("unpack %s: %w", what, err)
	}
	return nil
}

// download writes the bytes behind a URL to f, without our token.
func (c *apiClient) download(ctx context.Context, what, uri string, f *os.File) (int64, error) {
	ctx, touch, stop := watchdog(ctx)
	defer stop()
	target, err := c.url(uri)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return 0, fmt.Errorf("download %s: bad download_uri", what)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, networkError("download "+what, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return 0, statusError("download "+what, resp)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, fmt.Errorf("download %s: %w", what, err)
	}
	if err := f.Truncate(0); err != nil {
		return 0, fmt.Errorf("download %s: %w", what, err)
	}
	src := &failReader{r: progressReader{resp.Body, touch}}
	n, err := io.Copy(f, io.LimitReader(src, maxArchive+1))
	switch {
	case src.err != nil:
		return 0, networkError("download "+what, src.err)
	case err != nil:
		return 0, fmt.Errorf("download %s: %w", what, err)
	case n > maxArchive:
		return 0, plat.Errorf(plat.ErrInvalid, "download %s: it is larger than %d bytes", what, int64(maxArchive))
	}
	return n, nil
}

// failReader keeps the source's error apart from the destination's.
type failReader struct {
	r   io.Reader
	err error
}

func (f *failReader) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}

// writeScripts puts the Python side into dir.
func writeScripts(dir string) error {
	entries, err := runtime.Files.ReadDir(".")
	if err != nil {
		return fmt.Errorf("write runtime: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write runtime: %w", err)
	}
	for _, e := range entries {
		data, err := runtime.Files.ReadFile(e.Name())
		if err != nil {
			return fmt.Errorf("write runtime: %w", err)
		}
		if err := os.WriteFile(dir+"/"+e.Name(), data, 0o600); err != nil {
			return fmt.Errorf("write runtime: %w", err)
		}
	}
	return nil
}
