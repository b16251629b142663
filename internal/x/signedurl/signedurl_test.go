// SPDX-License-Identifier: Apache-2.0

package signedurl_test

import (
	"bytes"
	"maps"
	"net/url"
	"testing"
	"time"

	"panal/internal/x/signedurl"
)

// TestRing: what an older secret signed is good until that secret is gone.
func TestRing(t *testing.T) {
	a, b := bytes.Repeat([]byte("a"), 32), bytes.Repeat([]byte("b"), 32)
	ring := [][]byte{a}
	s := signedurl.NewRing(func() [][]byte { return ring })
	now := time.Unix(1000, 0)
	query := func() url.Values {
		q, err := url.ParseQuery(s.Query(signedurl.Grant{Method: "GET", Key: "k", Expires: now.Add(time.Hour)}))
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	old := query()
	ring = [][]byte{b, a}
	fresh := query()
	if !verify(s, "GET", "k", old, now) || !verify(s, "GET", "k", fresh, now) || fresh.Get("sig") == old.Get("sig") {
		t.Error("with both secrets not both are good, or the old one still signs")
	}
	ring = [][]byte{b}
	if verify(s, "GET", "k", old, now) || !verify(s, "GET", "k", fresh, now) {
		t.Error("the old secret is gone, and what it signed is not, or the new one's is")
	}
}

func TestOnlyWhatWasSignedIsAllowed(t *testing.T) {
	s := signedurl.New(bytes.Repeat([]byte("k"), 32))
	now := time.Unix(1000, 0)
	g := signedurl.Grant{Method: "PUT", Key: "a/b", ContentType: "text/plain", ETag: "e-1", Bytes: 7, Once: true, Expires: now.Add(time.Hour)}
	good, err := url.ParseQuery(s.Query(g))
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := s.Verify("PUT", "a/b", good, now); !ok || got.Bytes != 7 || got.ContentType != "text/plain" || got.ETag != "e-1" {
		t.Fatalf("Verify = %+v, %v", got, ok)
	}
	with := func(k, v string) url.Values {
		q := url.Values{}
		maps.Copy(q, good)
		q.Set(k, v)
		return q
	}
	for what, ok := range map[string]bool{
		"other method": verify(s, "GET", "a/b", good, now),
		"other key":    verify(s, "PUT", "a/c", good, now),
		"expired":      verify(s, "PUT", "a/b", good, now.Add(time.Hour)),
		"longer life":  verify(s, "PUT", "a/b", with("e", "99999999"), now),
		"more bytes":   verify(s, "PUT", "a/b", with("n", "8"), now),
		"many times":   verify(s, "PUT", "a/b", with("o", ""), now),
		"other type":   verify(s, "PUT", "a/b", with("t", "text/html"), now),
		"other ETag":   verify(s, "PUT", "a/b", with("v", "e-2"), now),
		"claimed GET":  verify(s, "GET", "a/b", with("m", "GET"), now),
		"no signature": verify(s, "PUT", "a/b", with("sig", ""), now),
		"other secret": verify(signedurl.New(bytes.Repeat([]byte("j"), 32)), "PUT", "a/b", good, now),
		"nothing":      verify(s, "PUT", "a/b", url.Values{}, now),
	} {
		if ok {
			t.Errorf("%s was allowed", what)
		}
	}
	get, err := url.ParseQuery(s.Query(signedurl.Grant{Method: "GET", Key: "k", Expires: now.Add(time.Hour)}))
	if err != nil {
		t.Fatal(err)
	}
	if !verify(s, "HEAD", "k", get, now) {
		t.Error("HEAD is not allowed where GET is")
	}
}

func verify(s *signedurl.Signer, method, key string, q url.Values, now time.Time) bool {
	_, ok := s.Verify(method, key, q, now)
	return ok
}

func TestSeal(t *testing.T) {
	s := signedurl.New(bytes.Repeat([]byte("k"), 32))
	for _, data := range []string{"", "x", `{"q":"label:cat"}`} {
		text := s.Seal("delete", []byte(data))
		if got, ok := s.Unseal("delete", text); !ok || string(got) != data {
			t.Errorf("Unseal(Seal(%q)) = %q, %v", data, got, ok)
		}
		if _, ok := s.Unseal("other", text); ok {
			t.Errorf("%q is good for another purpose", data)
		}
		if _, ok := signedurl.New(bytes.Repeat([]byte("j"), 32)).Unseal("delete", text); ok {
			t.Errorf("%q is good for another signer", data)
		}
	}
}

// FuzzUnseal: nothing but what Seal wrote is opened.
func FuzzUnseal(f *testing.F) {
	s := signedurl.New(bytes.Repeat([]byte("k"), 32))
	f.Add(s.Seal("p", []byte("data")))
	f.Add("ZGF0YQ.")
	f.Add(".")
	f.Fuzz(func(t *testing.T, text string) {
		if data, ok := s.Unseal("p", text); ok && s.Seal("p", data) != text {
			t.Errorf("%q was opened as %q", text, data)
		}
	})
}
