// SPDX-License-Identifier: Apache-2.0

package app

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails when the tests leave a goroutine behind: callers of every kind come and
// go in them.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
