// SPDX-License-Identifier: Apache-2.0

package s3blob

import (
	"context"
	"net"
	"net/http"
	"time"
)

// idleLimit ends a transfer in which the service makes no progress. There is no total limit.
const idleLimit = 2 * time.Minute

func newTransport() *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return writeDeadline{c}, nil
		},
		MaxIdleConnsPerHost: 256,
		// Shorter than servers commonly keep a connection: less meets one that just ended.
		IdleConnTimeout:       30 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		ResponseHeaderTimeout: idleLimit, // counted from the end of the body
		DisableCompression:    true,      // bytes are served as they are stored
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,
	}
}

// writeDeadline ends a connection whose other end takes nothing for idleLimit.
type writeDeadline struct{ net.Conn }

func (c writeDeadline) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(idleLimit)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// expecter asks before it sends a body that can't be sent twice: a kept connection
// that the server has just closed, and a refusal, then cost nothing of it.
type expecter struct{ next http.RoundTripper }

func (e *expecter) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPut && (r.ContentLength > smallBody || r.ContentLength > 0 && r.Header.Get("If-None-Match") != "") {
		r = r.Clone(r.Context())
		r.Header.Set("Expect", "100-continue")
	}
	return e.next.RoundTrip(r)
}
