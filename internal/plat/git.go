// SPDX-License-Identifier: Apache-2.0

package plat

// Git tells where code came from. The zero value is code that was uploaded.
type Git struct {
	URL    string `json:"url,omitempty"` // without credentials
	Ref    string `json:"ref,omitempty"` // the branch, tag or commit that was asked for
	Commit string `json:"commit,omitempty"`
}
