// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"testing"
)

func TestSealer(t *testing.T) {
	open := func(key byte, purpose string) *sealer {
		s, err := newSealer(bytes.Repeat([]byte{key}, 32), purpose)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s, plain := open(1, "a"), []byte("0123456789abcdef")
	one, two := s.Seal(plain, "p"), s.Seal(plain, "p")
	if bytes.Equal(one, two) || bytes.Contains(one, plain[:4]) {
		t.Errorf("sealed: %x and %x", one, two)
	}
	if got, err := s.Unseal(one, "p"); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("Open = %q, %v", got, err)
	}
	for what, other := range map[string]*sealer{"another key": open(2, "a"), "another purpose": open(1, "b")} {
		if _, err := other.Unseal(one, "p"); err == nil {
			t.Errorf("%s opens it", what)
		}
	}
	if _, err := s.Unseal(one, "q"); err == nil {
		t.Error("it opens in another place")
	}
	for i := range one {
		bad := bytes.Clone(one)
		bad[i] ^= 1
		if _, err := s.Unseal(bad, "p"); err == nil {
			t.Errorf("a change at byte %d is not noticed", i)
		}
		if _, err := s.Unseal(one[:i], "p"); err == nil {
			t.Errorf("%d bytes of it are taken", i)
		}
	}
}
