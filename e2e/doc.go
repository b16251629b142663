// SPDX-License-Identifier: Apache-2.0

// Package e2e holds no code: its tests run scripts (testdata/script/*.txtar)
// against the built binary, on every set of engines. Its folders hold the demo
// and the load generator.
package e2e
