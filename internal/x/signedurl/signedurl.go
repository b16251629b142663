// SPDX-License-Identifier: Apache-2.0

// Package signedurl makes and checks self-authorising URLs: whoever holds one may
// do one method on one object until it expires (data.md §10.6). The signature
// covers everything that matters; there is nothing to look up.
package signedurl

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Grant is what a signed URL allows.
type Grant struct {
	Method      string // GET (also HEAD) or PUT
	Key         string // the object
	ContentType string // what a GET answers with
	ETag        string // of the object, unquoted; "" when it may change
	Bytes       int64  // of the object that a GET gets, or what a PUT may store; 0: not said
	Once        bool   // a PUT may not replace what is there
	Expires     time.Time
}

// Signer signs and verifies.
type Signer struct{ secrets func() [][]byte }

// New returns a Signer with one secret of at least 32 random bytes.
func New(secret []byte) *Signer {
	if len(secret) < 32 {
		panic("BUG: signedurl: secret shorter than 32 bytes")
	}
	return NewRing(func() [][]byte { return [][]byte{secret} })
}

// NewRing returns a Signer that signs with the first of the secrets as they are
// then, and takes what any of them has signed.
func NewRing(secrets func() [][]byte) *Signer { return &Signer{secrets: secrets} }

// Query returns the query string (without "?") that carries g.
func (s *Signer) Query(g Grant) string {
	q := url.Values{}
	q.Set("m", g.Method)
	q.Set("e", strconv.FormatInt(g.Expires.Unix(), 10))
	if g.ContentType != "" {
		q.Set("t", g.ContentType)
	}
	if g.ETag != "" {
		q.Set("v", g.ETag)
	}
	if g.Bytes > 0 {
		q.Set("n", strconv.FormatInt(g.Bytes, 10))
	}
	if g.Once {
		q.Set("o", "1")
	}
	q.Set("sig", mac(s.secrets()[0], g))
	return q.Encode()
}

// Verify reads the grant for key out of a query; ok is false when the signature
// is wrong, the grant has expired at now, or it is for another method.
func (s *Signer) Verify(method, key string, q url.Values, now time.Time) (Grant, bool) {
	if method == "HEAD" {
		method = "GET"
	}
	exp, err := strconv.ParseInt(q.Get("e"), 10, 64)
	if err != nil {
		return Grant{}, false
	}
	g := Grant{Method: method, Key: key, ContentType: q.Get("t"), ETag: q.Get("v"), Once: q.Get("o") == "1", Expires: time.Unix(exp, 0).UTC()}
	if n := q.Get("n"); n != "" {
		if g.Bytes, err = strconv.ParseInt(n, 10, 64); err != nil || g.Bytes <= 0 {
			return Grant{}, false
		}
	}
	if q.Get("m") != method || !now.Before(g.Expires) {
		return Grant{}, false
	}
	for _, secret := range s.secrets() {
		if hmac.Equal([]byte(mac(secret, g)), []byte(q.Get("sig"))) {
			return g, true
		}
	}
	return Grant{}, false
}

func mac(secret []byte, g Grant) string {
	h := hmac.New(sha256.New, secret)
	for _, part := range []string{g.Method, g.Key, g.ContentType, g.ETag, strconv.FormatInt(g.Bytes, 10), strconv.FormatBool(g.Once), strconv.FormatInt(g.Expires.Unix(), 10)} {
		_, _ = h.Write([]byte(strconv.Itoa(len(part)) + ":" + part)) // length first: no two grants read alike
	}
	return strings.TrimRight(base64.URLEncoding.EncodeToString(h.Sum(nil)), "=")
}

// maxSealed bounds what Unseal looks at.
const maxSealed = 64 << 10

// Seal returns data as text that only this signer can have written, for one
// purpose, in an alphabet that needs no escaping in a URL. The data can be read by
// whoever has the text.
func (s *Signer) Seal(purpose string, data []byte) string {
	b := base64.RawURLEncoding
	return b.EncodeToString(data) + "." + b.EncodeToString(seal(s.secrets()[0], purpose, data))
}

// Unseal returns the data of a text that Seal wrote for the purpose.
func (s *Signer) Unseal(purpose, text string) ([]byte, bool) {
	if len(text) > maxSealed || strings.ContainsAny(text, "\r\n") { // line ends, which the decoder would skip
		return nil, false
	}
	body, sig, _ := strings.Cut(text, ".")
	data, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil {
		return nil, false
	}
	mac, err := base64.RawURLEncoding.Strict().DecodeString(sig)
	if err != nil {
		return nil, false
	}
	for _, secret := range s.secrets() {
		if hmac.Equal(mac, seal(secret, purpose, data)) {
			return data, true
		}
	}
	return nil, false
}

func seal(secret []byte, purpose string, data []byte) []byte {
	h := hmac.New(sha256.New, secret)
	// No grant begins like this: its first part is a method.
	_, _ = h.Write([]byte("seal:" + strconv.Itoa(len(purpose)) + ":" + purpose))
	_, _ = h.Write(data)
	return h.Sum(nil)
}
