// SPDX-License-Identifier: Apache-2.0

// Package client is the API client that the CLI and the tests use. It speaks the
// documents' wire and nothing else: what it can do, curl can do.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"panal/internal/plat"
)

// maxAnswer bounds a JSON answer held in memory.
const maxAnswer = 256 << 20

// Client calls one Panal as one user or datasource.
type Client struct {
	base string
	// Org is the organization that the calls are about.
	Org   string
	user  string
	token string
	// datasource is its id when the client is one; token is its secret then.
	source string
	http   *http.Client
}

// New returns a client of the API at base (no slash at the end).
func New(base, org, user, token string) *Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 64
	return &Client{base: strings.TrimRight(base, "/"), Org: org, user: strings.TrimPrefix(user, "user-"), token: token, http: &http.Client{Transport: t}}
}

// NewDatasource returns a client that is a datasource: it may upload to, and read
// from, the channels that it is linked to.
func NewDatasource(base, org, id, secret string) *Client {
	c := New(base, org, "", secret)
	c.source = strings.TrimPrefix(id, "datasource-")
	return c
}

// Error is an error answer of the API. It matches the plat kind of its status.
type Error struct {
	Status      int
	Code        string              `json:"error"`
	Description string              `json:"error_description"`
	Detail      map[string][]string `json:"error_detail"`
	Body        []byte              `json:"-"` // the whole answer
	Header      http.Header         `json:"-"`
	// RetryAfter is how long the server asks to wait; 0 when it doesn't say.
	RetryAfter time.Duration `json:"-"`
	foreign    bool          // the answer is not of the API's shape: Description is ours
}

// Error implements error. The request's id that the text speaks of is in a header.
func (e *Error) Error() string {
	if id := e.Header.Get("X-Abeja-Request-Id"); id != "" {
		return strings.Replace(e.Description, "this request id", "the request id "+id, 1)
	}
	return e.Description
}

// Unwrap returns the kind.
func (e *Error) Unwrap() error {
	switch e.Status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusMethodNotAllowed:
		return plat.ErrInvalid
	case http.StatusUnauthorized:
		return plat.ErrUnauthenticated
	case http.StatusForbidden:
		return plat.ErrForbidden
	case http.StatusNotFound:
		return plat.ErrNotFound
	case http.StatusConflict, http.StatusPreconditionFailed:
		return plat.ErrConflict
	case http.StatusTooManyRequests, http.StatusInsufficientStorage:
		return plat.ErrExhausted
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return plat.ErrUnavailable
	case http.StatusNotImplemented:
		return plat.ErrUnsupported
	}
	return nil
}

// OrgPath returns /organizations/{org} followed by the segments, each escaped.
func (c *Client) OrgPath(segments ...string) string {
	return Path(append([]string{"organizations", c.Org}, segments...)...)
}

// Path joins escaped segments into a path.
func Path(segments ...string) string {
	var b strings.Builder
	for _, s := range segments {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(s))
	}
	return b.String()
}

// Request is one call.
type Request struct {
	Method string
	// Path starts with a slash (see Path), or is a whole URL: then it is a signed
	// one and no credentials are sent.
	Path   string
	Query  url.Values
	Header http.Header
	// Body is sent as it is. Size is its length, or -1 when unknown.
	Body io.Reader
	Size int64
}

// Do sends r and returns the answer, whose body the caller closes. An answer of
// 400 or more is an *Error.
func (c *Client) Do(ctx context.Context, r Request) (*http.Response, error) {
	target, signed := c.base+r.Path, false
	if strings.HasPrefix(r.Path, "http://") || strings.HasPrefix(r.Path, "https://") {
		target, signed = r.Path, true
	}
	if len(r.Query) > 0 {
		target += "?" + r.Query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, target, r.Body)
	if err == nil && (req.URL.Host == "" || req.URL.Scheme != "http" && req.URL.Scheme != "https") {
		err = errors.New("it begins with http:// or https:// and a host")
	}
	switch {
	case err != nil && signed:
		return nil, plat.Errorf(plat.ErrUnavailable, "the server gave an address of the bytes that can't be used: %v", err)
	case err != nil:
		return nil, plat.InvalidField("api-url", "%q can't be used: %v", c.base, err)
	}
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &body{ReadCloser: req.Body, sized: r.Size >= 0, left: r.Size}
	}
	if r.Body != nil && r.Size >= 0 {
		req.ContentLength = r.Size
		if r.Size == 0 { // net/http takes a length of 0 for an unknown one
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return nil, err
			}
			req.Body = http.NoBody
		}
	}
	// as it is: some names have underscores or percent signs
	maps.Copy(req.Header, r.Header)
	if !signed && c.token != "" {
		switch {
		case c.source != "":
			req.SetBasicAuth("datasource-"+c.source, c.token)
		case c.user != "":
			req.SetBasicAuth("user-"+c.user, c.token)
		default:
			req.Header.Set("Authorization", "Bearer "+c.token)
		}
	}
	for name, values := range req.Header {
		if slices.ContainsFunc(values, func(v string) bool { return strings.ContainsFunc(v, control) }) {
			return nil, plat.InvalidField(strings.ToLower(name), "holds a control character, such as a newline") // no value: it may be a token
		}
	}
	res, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if unread, ok := errors.AsType[*bodyError](err); ok {
			return nil, unread.err
		}
		return nil, c.noAnswer(req, signed, err)
	}
	if res.StatusCode < 400 {
		return res, nil
	}
	defer func() { _ = res.Body.Close() }()
	b, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20)) // what there is of it will do
	e := &Error{Status: res.StatusCode, Body: b, Header: res.Header}
	if n, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && n > 0 {
		e.RetryAfter = time.Duration(n) * time.Second
	}
	if json.Unmarshal(b, e) != nil || e.Description == "" {
		e.Description, e.foreign = fmt.Sprintf("%s answered %s", r.Method, res.Status), true
	}
	return nil, e
}

// body is what is sent, of exactly as many bytes as were announced. What keeps it from being
// read is nothing that the server did.
type body struct {
	io.ReadCloser
	sized bool
	left  int64
}

// bodyError is the error of a body that can't be read.
type bodyError struct{ err error }

// Error implements error.
func (e *bodyError) Error() string { return e.err.Error() }

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	more := 0
	if err == nil && b.sized && b.left == 0 { // seen before the last bytes are given: nothing is stored then
		var one [1]byte
		if more, err = io.ReadFull(b.ReadCloser, one[:]); errors.Is(err, io.EOF) {
			err = nil // told once more
		}
	}
	switch end := errors.Is(err, io.EOF); {
	case b.sized && (more > 0 || b.left < 0 || end && b.left > 0):
		return 0, &bodyError{errors.New("its size changed while it was sent")}
	case err != nil && !end:
		return 0, &bodyError{err}
	}
	return n, err
}

// noAnswer is the error of a request that got none, and blames the host that it went to.
func (c *Client) noAnswer(req *http.Request, signed bool, err error) error {
	at, why := c.base, "is it running? (panal serve)"
	if host := req.URL.Scheme + "://" + req.URL.Host; signed && at != host && !strings.HasPrefix(at, host+"/") {
		at, why = host, "the bytes are there, says "+at+": it is the storage's public endpoint, or the server's --public-url"
	}
	if bad, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return plat.Errorf(plat.ErrInvalid, "the certificate of %s is not trusted: %v; name its authority's file in SSL_CERT_FILE", at, bad.Err)
	}
	return &plat.Error{Kind: plat.ErrUnavailable, Public: "the server at " + at + " does not answer; " + why, Err: errors.Unwrap(err)}
}

// control tells whether no header may hold r.
func control(r rune) bool { return r < 0x20 && r != '\t' || r == 0x7f }

// maxPatience is how long a call in all waits for a rate that is used up.
const maxPatience = time.Minute

// TooFast returns how long to wait where err says that a caller makes more calls than
// it may: then nothing was done. Else 0. It is some more than the server asks for, by
// chance, so that those who are told together don't come back together.
func TooFast(err error) time.Duration {
	if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusTooManyRequests && e.RetryAfter > 0 {
		return e.RetryAfter + rand.N(e.RetryAfter)
	}
	return 0
}

// patient is Do, of a body that can be read again (an io.Seeker, or none), once more
// when a rate that was used up is there again.
func (c *Client) patient(ctx context.Context, r Request) (*http.Response, error) {
	for waited := time.Duration(0); ; {
		res, err := c.Do(ctx, r)
		wait := TooFast(err)
		if waited += wait; wait == 0 || waited > maxPatience {
			return res, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
		if again, ok := r.Body.(io.Seeker); ok {
			if _, err := again.Seek(0, io.SeekStart); err != nil {
				return nil, err
			}
		}
	}
}

// JSON sends in (nil: no body) and decodes the answer into out (nil: dropped). It waits
// when it is told to come later (429 with Retry-After), as the original clients do.
func (c *Client) JSON(ctx context.Context, method, path string, query url.Values, in, out any) error {
	r := Request{Method: method, Path: path, Query: query}
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		r.Body, r.Size, r.Header = bytes.NewReader(b), int64(len(b)), http.Header{"Content-Type": {"application/json"}}
	}
	res, err := c.patient(ctx, r)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if out == nil {
		_, err := io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer))
		return err
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("%s %s: decode answer: %w", method, path, err)
	}
	return nil
}
