// SPDX-License-Identifier: Apache-2.0

package lake

import (
	"sync"

	"panal/internal/plat"
)

// maxTakers bounds takers; beyond it they are learnt anew.
const maxTakers = 4096

// takers remembers channels that took uploads, so that the next upload need not ask
// the database for its channel. It may be out of date: whose a channel is never changes,
// and whether it is still there and takes uploads the commit looks at, in its transaction.
type takers struct {
	mu  sync.RWMutex
	all map[plat.ChannelID]Channel
}

func (t *takers) get(id plat.ChannelID) (Channel, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	c, ok := t.all[id]
	return c, ok
}

func (t *takers) add(c Channel) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == nil || len(t.all) >= maxTakers {
		t.all = map[plat.ChannelID]Channel{}
	}
	t.all[c.ID] = c
}

func (t *takers) drop(id plat.ChannelID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.all, id)
}
