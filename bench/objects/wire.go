// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"strconv"
	"strings"
	"time"
)

// conn is a lean HTTP/1.1 client: one kept connection, requests that are bytes. The
// same code drives both servers, so that what the generator costs is the same but
// for the header lines.
type conn struct {
	addr string
	c    net.Conn
	r    *bufio.Reader
	buf  []byte
}

func (c *conn) close() {
	if c.c != nil {
		_ = c.c.Close()
		c.c = nil
	}
}

// do sends head (without the empty line's end) and size bytes of noise, and returns
// the answer's status, and its body if keep; else how many bytes were thrown away.
func (c *conn) do(head []byte, noise []byte, size int64, keep bool) (status int, body []byte, n int64, err error) {
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if c.c == nil {
		if c.c, err = net.Dial("tcp", c.addr); err != nil {
			return 0, nil, 0, err
		}
		c.r = bufio.NewReaderSize(c.c, 64<<10)
	}
	if err := c.c.SetDeadline(time.Now().Add(5 * time.Minute)); err != nil {
		return 0, nil, 0, err
	}
	// A small body goes out with its head.
	c.buf = append(c.buf[:0], head...)
	first := min(size, 16<<10)
	c.buf = append(c.buf, noise[:first]...)
	if _, err := c.c.Write(c.buf); err != nil {
		return 0, nil, 0, err
	}
	for left := size - first; left > 0; {
		k := min(left, int64(len(noise)))
		if _, err := c.c.Write(noise[:k]); err != nil {
			return 0, nil, 0, err
		}
		left -= k
	}
	return c.answer(keep)
}

func (c *conn) answer(keep bool) (status int, body []byte, n int64, err error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return 0, nil, 0, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, nil, 0, fmt.Errorf("answer begins with %q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, nil, 0, err
	}
	length, last := int64(-1), false
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return 0, nil, 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			if length, err = strconv.ParseInt(string(value), 10, 64); err != nil {
				return 0, nil, 0, err
			}
		case bytes.EqualFold(name, []byte("connection")):
			last = bytes.EqualFold(value, []byte("close"))
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			length = -2
		}
	}
	switch {
	case length == -2: // only the listing of files is chunked
		body, err = io.ReadAll(httputil.NewChunkedReader(c.r))
		if err == nil {
			_, err = c.r.ReadSlice('\n') // no trailer
		}
		n = int64(len(body))
	case length < 0:
		return 0, nil, 0, errors.New("an answer without a length")
	case keep || status != 200:
		body = make([]byte, length)
		_, err = io.ReadFull(c.r, body)
		n = length
	default:
		n, err = io.CopyN(io.Discard, c.r, length)
	}
	if last {
		c.close()
	}
	return status, body, n, err
}

// signer makes SigV4 Authorization headers. The signing key is derived once and the
// payload is declared unsigned, the cheapest form that S3 has: it spares the server
// the SHA-256 of the body.
type signer struct {
	access, region, host string
	key                  []byte
	day                  string
}

const unsigned = "UNSIGNED-PAYLOAD"

func newSigner(access, secret, region, host string) *signer {
	day := time.Now().UTC().Format("20060102")
	k := mac([]byte("AWS4"+secret), day)
	for _, part := range []string{region, "s3", "aws4_request"} {
		k = mac(k, part)
	}
	return &signer{access: access, region: region, host: host, key: k, day: day}
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	_, _ = h.Write([]byte(text))
	return h.Sum(nil)
}

// head returns the head of a request for path, which needs no escaping.
func (s *signer) head(method, path string, length int64) []byte {
	at := s.day + "T" + time.Now().UTC().Format("150405") + "Z"
	const signed = "host;x-amz-content-sha256;x-amz-date"
	canonical := method + "\n" + path + "\n\nhost:" + s.host + "\nx-amz-content-sha256:" + unsigned + "\nx-amz-date:" + at + "\n\n" + signed + "\n" + unsigned
	sum := sha256.Sum256([]byte(canonical))
	scope := s.day + "/" + s.region + "/s3/aws4_request"
	signature := hex.EncodeToString(mac(s.key, "AWS4-HMAC-SHA256\n"+at+"\n"+scope+"\n"+hex.EncodeToString(sum[:])))
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nX-Amz-Date: %s\r\nX-Amz-Content-Sha256: %s\r\n", method, path, s.host, at, unsigned)
	fmt.Fprintf(&b, "Authorization: AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s\r\n", s.access, scope, signed, signature)
	if method == "PUT" {
		fmt.Fprintf(&b, "Content-Type: application/octet-stream\r\nContent-Length: %d\r\n", length)
	}
	b.WriteString("\r\n")
	return []byte(b.String())
}

func basic(user, token string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte("user-"+user+":"+token))
}
