// SPDX-License-Identifier: Apache-2.0

// Package runtime holds the Python side of the agent: scripts of the standard
// library only, which the agent writes into its work directory and starts.
package runtime

import "embed"

// Files are the scripts.
//
//go:embed *.py
var Files embed.FS
