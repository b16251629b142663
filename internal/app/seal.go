// SPDX-License-Identifier: Apache-2.0

package app

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"

	"panal/internal/org"
	"panal/internal/plat"
)

// sealer seals what must be shown again, by AES-256-GCM with random nonces, under a
// key of its own that is derived from the installation's. It implements org.Sealer.
type sealer struct{ aead cipher.AEAD }

var _ org.Sealer = (*sealer)(nil)

// sealFormat is the first byte of what is sealed: a later format can be told apart.
const sealFormat = 1

// newSealer derives the key for purpose: what was sealed for one can't be opened as
// another's.
func newSealer(key []byte, purpose string) (*sealer, error) {
	derived, err := hkdf.Key(sha256.New, key, nil, "panal "+purpose, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &sealer{aead}, nil
}

// Seal implements org.Sealer.
func (s *sealer) Seal(text []byte, place string) []byte {
	return s.aead.Seal([]byte{sealFormat}, nil, text, []byte(place)) //nolint:gosec // this AEAD makes a random nonce itself and takes none
}

// Active implements org.Sealer: there is one key.
func (s *sealer) Active() string { return "installation" }

// Unseal implements org.Sealer.
func (s *sealer) Unseal(sealed []byte, place string) ([]byte, error) {
	if len(sealed) == 0 || sealed[0] != sealFormat {
		return nil, plat.Errorf(plat.ErrInvalid, "is not sealed by this version")
	}
	return s.aead.Open(nil, nil, sealed[1:], []byte(place))
}
