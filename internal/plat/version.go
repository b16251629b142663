// SPDX-License-Identifier: Apache-2.0

package plat

// Version is this build's version.
const Version = "0.1.0"
