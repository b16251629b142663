// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// Verified is what is wrong with a channel, by kind.
type Verified struct {
	Files    int64 `json:"files"`
	Young    int64 `json:"young"`
	Left     int64 `json:"left"`
	Findings []struct {
		Kind     string   `json:"kind"`
		Found    int64    `json:"found"`
		Repaired int64    `json:"repaired"`
		Examples []string `json:"examples"`
	} `json:"findings"`
}

// VerifyChannel compares a channel's index with its storage and its journal.
func (c *Client) VerifyChannel(ctx context.Context, id string, deep, repair bool) (Verified, error) {
	var out Verified
	q := url.Values{"deep": {strconv.FormatBool(deep)}, "repair": {strconv.FormatBool(repair)}}
	err := c.JSON(ctx, http.MethodPost, c.OrgPath("channels", id, "verify"), q, nil, &out)
	return out, err
}
