// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"time"
)

// endMargin is how long before a listener's drain ends its streams of events are told
// that it does, so that they have ended by then.
const endMargin = 5 * time.Second

// endStreams has the streams of events ended near the end of the drain that begins when
// ctx ends. The returned function is for when the drain is over.
func (a *App) endStreams(ctx context.Context) (over func()) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(a.cfg.Drain - min(endMargin, a.cfg.Drain/2))
		defer timer.Stop()
		select {
		case <-timer.C:
			a.streams()
		case <-done:
		}
	})
	return func() { stop(); close(done) }
}
