// SPDX-License-Identifier: Apache-2.0

package memfeed_test

import (
	"testing"

	"panal/internal/feed"
	"panal/internal/feed/feedtest"
	"panal/internal/feed/memfeed"
	"panal/internal/plat"
)

func TestContract(t *testing.T) {
	feedtest.Run(t, feedtest.Harness{New: func(*testing.T) (feed.Source, func([]byte)) {
		s := memfeed.New(plat.SystemClock, feedtest.Lease)
		return s, s.Send
	}})
}
