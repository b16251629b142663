// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"panal/internal/plat"
)

// linesPerSecond bounds what failing instances may write to the log.
const linesPerSecond = 10

// limitedLog writes at most linesPerSecond and tells how many it left out.
type limitedLog struct {
	log     *slog.Logger
	second  atomic.Int64 // the second being counted
	lines   atomic.Int64 // in it
	skipped atomic.Int64 // not written since the last written line
}

func (l *limitedLog) warn(ctx context.Context, msg string, attrs ...slog.Attr) {
	now := time.Now().Unix()
	if was := l.second.Load(); was != now && l.second.CompareAndSwap(was, now) {
		l.lines.Store(0)
	}
	if l.lines.Add(1) > linesPerSecond {
		l.skipped.Add(1)
		return
	}
	if n := l.skipped.Swap(0); n > 0 {
		attrs = append(attrs, slog.Int64(plat.LogCount, n))
	}
	l.log.LogAttrs(ctx, slog.LevelWarn, msg, attrs...) //nolint:sloglint // its callers pass constants
}
