// SPDX-License-Identifier: Apache-2.0

package app

import "time"

// endMargin is how long before a listener's drain ends its streams of events are told
// that it does, so that they have ended by then.
const endMargin = 5 * time.Second

// endStreams has the streams of events ended near the end of a drain that begins now and
// lasts so long. The returned function is for when the drain is over.
func (a *App) endStreams(drain time.Duration) (over func()) {
	timer := time.AfterFunc(drain-min(endMargin, drain/2), a.streams)
	return func() { timer.Stop() }
}
