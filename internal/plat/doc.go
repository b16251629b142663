// SPDX-License-Identifier: Apache-2.0

// Package plat is Panal's vocabulary: typed ids, error kinds, the clock and the
// keys used in log lines. Everything may import it; it imports only the
// standard library and nothing of ours.
//
// Invariants: an id is opaque to everyone but its constructor; an error that
// crosses a package boundary matches exactly one kind (errors.Is), and one that
// matches none is internal.
package plat
