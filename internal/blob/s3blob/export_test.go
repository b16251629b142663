// SPDX-License-Identifier: Apache-2.0

package s3blob

import "context"

// SetLimits lets a short body take the way of one that is longer than one PUT may be.
func (d *Driver) SetLimits(maxPut, longPart int64) { d.maxPut, d.longPart = maxPut, longPart }

// Sweep is one round of the sweeper.
func (d *Driver) Sweep(ctx context.Context) (int, error) { return d.sweep(ctx) }
