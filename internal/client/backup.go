// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"io"
	"net/http"
)

// Backup returns a backup of the installation as a stream, which the caller reads to
// the end, checks and closes.
func (c *Client) Backup(ctx context.Context) (io.ReadCloser, error) {
	res, err := c.Do(ctx, Request{Method: http.MethodPost, Path: "/backup"})
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}
