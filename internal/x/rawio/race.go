// SPDX-License-Identifier: Apache-2.0

//go:build race

package rawio

import "sync/atomic"

// order tells the race detector what package syscall tells it: what was written before is
// known to whoever reads after.
var order atomic.Int64 //nolint:gochecknoglobals // of the whole process, as syscall's own

func acquire() { order.Load() }
func release() { order.Add(1) }
