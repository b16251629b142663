// SPDX-License-Identifier: Apache-2.0

package app

import "time"

// endMargin is how long before a listener's drain ends its streams of events are told
// that it does, so that they have ended by then.
const endMargin = 5 * time.Second

// endStreams has the streams of events ended near the end of a drain that lasts for limit,
// unless it is over before.
func (a *App) endStreams(limit time.Duration, over <-chan struct{}) {
	timer := time.NewTimer(limit - min(endMargin, limit/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		a.streams()
	case <-over:
	}
}
