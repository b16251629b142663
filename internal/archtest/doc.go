// SPDX-License-Identifier: Apache-2.0

// Package archtest holds no code: its tests are the rules of the house (who may
// import whom, what the binary links, what each package says of itself).
package archtest
