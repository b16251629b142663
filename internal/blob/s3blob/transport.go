// SPDX-License-Identifier: Apache-2.0

package s3blob

import (
	"context"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/signer"
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

// outbound is the last hand on a request to the service.
type outbound struct {
	next http.RoundTripper
	opt  Options
}

func (o *outbound) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodPut || r.ContentLength <= 0 {
		return o.next.RoundTrip(r)
	}
	r = r.Clone(r.Context())
	// How a body is framed is told twice, by Content-Encoding and by the kind of its
	// signature. Amazon asks for the first and drops it; other services store it with the object,
	// and would send it with each download (versitygw does), where it is a lie.
	if r.Header.Get("Content-Encoding") == "aws-chunked" && !strings.HasSuffix(r.URL.Hostname(), ".amazonaws.com") {
		r.Header.Del("Content-Encoding")
		r.Header.Del("Authorization")
		signed := signer.SignV4(*r, o.opt.AccessKey, o.opt.SecretKey, o.opt.SessionToken, o.opt.Region)
		r.Header.Set("Authorization", signed.Header.Get("Authorization"))
	}
	// What can't be sent twice is announced before it is sent: a kept connection that
	// the server has just closed then costs nothing of it (see once).
	if r.ContentLength > smallBody || r.Header.Get("If-None-Match") != "" {
		r.Header.Set("Expect", "100-continue")
	}
	return o.next.RoundTrip(r)
}
