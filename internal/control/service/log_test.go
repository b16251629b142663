// SPDX-License-Identifier: Apache-2.0

package service_test

import (
	"log/slog"
	"testing"
)

// slogTo logs to the test's output.
func slogTo(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}
