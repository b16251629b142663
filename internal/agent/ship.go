// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"panal/internal/logs"
	"panal/internal/logs/spool"
	"panal/internal/plat"
)

// shipper sends spooled lines to the server, oldest first, until the spool is
// closed and everything is acknowledged.
type shipper struct {
	api   *apiClient
	spool *spool.Spool
	path  string
	say   func(level, format string, args ...any)

	// shift is how many numbers the server's count is behind ours for good: it
	// acknowledged lines and forgot them later (restored from a backup). The lines
	// themselves are gone; those that follow are sent under the server's numbers.
	shift int64
	// refused is closed when the server will take no line any more; what is left
	// stays on disk for the runner.
	refused chan struct{}
}

func newShipper(api *apiClient, sp *spool.Spool, cfg *config, say func(string, string, ...any)) *shipper {
	path := strings.NewReplacer("{organization_id}", url.PathEscape(cfg.org), "{workload_id}", url.PathEscape(cfg.workload)).Replace(logs.IngestPath)
	return &shipper{api: api, spool: sp, path: path, say: say, refused: make(chan struct{})}
}

// run ships until everything is acknowledged after the spool's end, or ctx ends.
func (s *shipper) run(ctx context.Context) error {
	wait := 100 * time.Millisecond
	told := false
	for {
		b, err := s.spool.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var pause time.Duration
		if err == nil {
			pause, err = s.send(ctx, b)
		}
		if err == nil {
			wait, told = 100*time.Millisecond, false
			continue
		}
		if errors.Is(err, plat.ErrForbidden) {
			select {
			case <-s.refused:
			default:
				close(s.refused)
			}
		}
		if !told && ctx.Err() == nil {
			told = true // once per outage: this line is itself shipped
			s.say("warning", "log lines wait: %v", err)
		}
		select {
		case <-time.After(max(wait, pause)):
		case <-ctx.Done():
			return ctx.Err()
		}
		wait = min(2*wait, 10*time.Second)
	}
}

// send ships one batch and takes note of the answer. It returns how long the
// server wants to be left alone.
func (s *shipper) send(ctx context.Context, b spool.Batch) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	body := b.JSON
	if s.shift != 0 {
		var batch logs.Batch
		if err := json.Unmarshal(body, &batch); err != nil {
			return 0, fmt.Errorf("ship log lines: %w", err)
		}
		batch.FirstSeq -= s.shift
		var err error
		if body, err = json.Marshal(batch); err != nil {
			return 0, fmt.Errorf("ship log lines: %w", err)
		}
	}
	target, err := s.api.url(s.path)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("ship log lines: %w", err)
	}
	req.Header.Set("Authorization", s.api.auth)
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.api.http.Do(req)
	if err != nil {
		return 0, networkError("ship log lines", err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return 0, networkError("ship log lines", err)
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusConflict:
		var ack struct {
			LastSeq *int64 `json:"last_seq"`
		}
		if json.Unmarshal(answer, &ack) != nil || ack.LastSeq == nil || *ack.LastSeq < 0 {
			return 0, plat.Errorf(plat.ErrUnavailable, "ship log lines: the answer %d has no last_seq", resp.StatusCode)
		}
		last := *ack.LastSeq + s.shift
		if resp.StatusCode == http.StatusConflict && last < b.First-1 {
			// Lines before this batch were acknowledged, and are gone here.
			s.say("warning", "the server lost %d log lines that it had acknowledged", b.First-1-last)
			s.shift += b.First - 1 - last
			return 0, nil
		}
		if last < b.First {
			return 0, plat.Errorf(plat.ErrUnavailable, "ship log lines: the server acknowledged line %d of a batch from %d to %d", last, b.First, b.Last)
		}
		return 0, s.spool.Ack(min(last, b.Last))
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusGone:
		return 5 * time.Second, plat.Errorf(plat.ErrForbidden, "ship log lines: the server answered %d", resp.StatusCode)
	}
	pause := time.Duration(0)
	if sec, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && sec > 0 {
		pause = time.Duration(min(sec, 60)) * time.Second
	}
	return pause, plat.Errorf(plat.ErrUnavailable, "ship log lines: the server answered %d", resp.StatusCode)
}
