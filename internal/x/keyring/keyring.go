// SPDX-License-Identifier: Apache-2.0

// Package keyring keeps the keys that seal what must not stand in clear in a
// database, in a file of its own. The first key of the file seals; the others
// open what they have sealed, until everything is sealed anew.
//
// Sealing is AES-256-GCM with a random nonce (crypto/cipher); the keys for
// different purposes are derived from those of the file by HKDF (crypto/hkdf), so
// that no purpose's key tells another's. A sealed value is bound to its place (the
// associated data): it does not open anywhere else.
package keyring

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

const (
	keySize = 32
	idSize  = 4
	// format is the first byte of everything that is sealed.
	format = 1
	// maxFile bounds the key file; a ring of hundreds of keys is a mistake.
	maxFile = 64 << 10
	header  = `# Panal's keys, one a line. The first one seals; the others open what they have sealed.
# Whoever has this file can read every secret, and sign every URL. Back it up, apart
# from the database: without it the secrets are lost.
`
)

// Errors of this package. ErrUnknownKey: the value was sealed with a key that the
// file does not hold. ErrSealed: the value was changed, or belongs elsewhere.
var (
	ErrUnknownKey = errors.New("sealed with a key that is not in the key file")
	ErrSealed     = errors.New("the sealed value does not open: it was changed, or moved")
)

// key is one key of the file, with what is derived from it.
type key struct {
	id   [idSize]byte
	raw  []byte
	aead cipher.AEAD
	url  []byte
}

// Ring is the keys of one file. It is safe for concurrent use.
type Ring struct {
	path string

	mu   sync.RWMutex
	keys []*key // never empty; the first one seals
	seen fileState
}

// fileState tells whether a file has changed.
type fileState struct {
	size  int64
	mtime int64
}

// Open reads the ring of a file, and makes file and key when there is none. A file
// of 32 bytes is one key, as the first version wrote it.
func Open(path string) (*Ring, error) {
	r := &Ring{path: path}
	err := r.load()
	if errors.Is(err, fs.ErrNotExist) {
		if err = write(path, [][]byte{newKey()}, true); err == nil || errors.Is(err, fs.ErrExist) {
			err = r.load()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	return r, nil
}

// Check tells whether Open could read the file. That there is none is no error.
func Check(path string) error {
	if err := (&Ring{path: path}).load(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("key file: %w", err)
	}
	return nil
}

func newKey() []byte {
	k := make([]byte, keySize)
	_, _ = rand.Read(k) // never fails (crypto/rand)
	return k
}

// load reads the file. A file that can't be read changes nothing.
func (r *Ring) load() error {
	f, err := os.Open(r.path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() > maxFile {
		return fmt.Errorf("%s has %d bytes; a key file has at most %d", r.path, info.Size(), maxFile)
	}
	b := make([]byte, info.Size())
	if _, err := f.ReadAt(b, 0); err != nil && info.Size() > 0 {
		return fmt.Errorf("read %s: %w", r.path, err)
	}
	raws, err := parse(b)
	if err != nil {
		return fmt.Errorf("%s: %w; restore it from a backup (secrets and signed URLs depend on it)", r.path, err)
	}
	keys := make([]*key, len(raws))
	for i, raw := range raws {
		if keys[i], err = derive(raw); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys, r.seen = keys, stateOf(info)
	return nil
}

func stateOf(info os.FileInfo) fileState {
	return fileState{size: info.Size(), mtime: info.ModTime().UnixNano()}
}

func parse(b []byte) ([][]byte, error) {
	if len(b) == keySize {
		return [][]byte{b}, nil
	}
	var keys [][]byte
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(raw) != keySize {
			return nil, fmt.Errorf("a line is no key (32 bytes in base64)")
		}
		keys = append(keys, raw)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("there is no key in it")
	}
	return keys, nil
}

func derive(raw []byte) (*key, error) {
	k := &key{raw: raw}
	id, err := hkdf.Key(sha256.New, raw, nil, "panal key id", idSize)
	if err != nil {
		return nil, err
	}
	copy(k.id[:], id)
	seal, err := hkdf.Key(sha256.New, raw, nil, "panal seal 1", keySize)
	if err != nil {
		return nil, err
	}
	if k.url, err = hkdf.Key(sha256.New, raw, nil, "panal url 1", keySize); err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(seal)
	if err != nil {
		return nil, err
	}
	k.aead, err = cipher.NewGCMWithRandomNonce(block)
	return k, err
}

// write replaces the file, whole or not at all, readable for its owner only. With
// fresh it fails with fs.ErrExist when there is one.
func write(path string, keys [][]byte, fresh bool) error {
	var b bytes.Buffer
	b.WriteString(header)
	for _, k := range keys {
		b.WriteString(base64.StdEncoding.EncodeToString(k) + "\n")
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".keys-*") // 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(b.Bytes())
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if fresh {
		err = os.Link(f.Name(), path) // unlike a rename it replaces nothing
	} else {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Reload reads the file again if it has changed, and tells whether it had.
func (r *Ring) Reload() (bool, error) {
	info, err := os.Stat(r.path)
	if err != nil {
		return false, fmt.Errorf("key file: %w", err)
	}
	r.mu.RLock()
	same := r.seen == stateOf(info)
	r.mu.RUnlock()
	if same {
		return false, nil
	}
	if err := r.load(); err != nil {
		return false, fmt.Errorf("key file: %w", err)
	}
	return true, nil
}

// Rotate puts a new key in front: it seals from now on. A server that runs notices
// by Reload.
func (r *Ring) Rotate() (id string, err error) {
	k := newKey()
	if err := r.rewrite(func(keys [][]byte) [][]byte { return slices.Insert(keys, 0, k) }); err != nil {
		return "", err
	}
	return r.Active(), nil
}

// Drop removes keys by id; the one that seals stays.
func (r *Ring) Drop(ids ...string) error {
	return r.rewrite(func(keys [][]byte) [][]byte {
		kept := keys[:1]
		for i, k := range r.all()[1:] {
			if !slices.Contains(ids, k.name()) {
				kept = append(kept, keys[1+i])
			}
		}
		return kept
	})
}

// rewrite changes the file as it is now.
func (r *Ring) rewrite(change func([][]byte) [][]byte) error {
	if _, err := r.Reload(); err != nil {
		return err
	}
	var raws [][]byte
	for _, k := range r.all() {
		raws = append(raws, k.raw)
	}
	if err := write(r.path, change(raws), false); err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	if err := r.load(); err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	return nil
}

func (r *Ring) all() []*key {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.keys
}

func (k *key) name() string { return hex.EncodeToString(k.id[:]) }

// Active is the id of the key that seals. Ids are no secret.
func (r *Ring) Active() string { return r.all()[0].name() }

// IDs lists the keys, the one that seals first.
func (r *Ring) IDs() []string {
	var ids []string
	for _, k := range r.all() {
		ids = append(ids, k.name())
	}
	return ids
}

// Seal seals text for the place that it stands in.
func (r *Ring) Seal(text []byte, place string) []byte {
	k := r.all()[0]
	out := append([]byte{format}, k.id[:]...)
	return k.aead.Seal(out, nil, text, []byte(place)) //nolint:gosec // this AEAD makes a random nonce itself and takes none
}

// KeyOf is the id of the key that sealed a value, "" when it is none of ours.
func KeyOf(sealed []byte) string {
	if len(sealed) < 1+idSize || sealed[0] != format {
		return ""
	}
	return hex.EncodeToString(sealed[1 : 1+idSize])
}

// Unseal opens what Seal sealed for the same place. ErrUnknownKey, ErrSealed.
func (r *Ring) Unseal(sealed []byte, place string) ([]byte, error) {
	id := KeyOf(sealed)
	k := r.find(id)
	if k == nil {
		// Another process may have turned the ring.
		if _, err := r.Reload(); err != nil {
			return nil, err
		}
		if k = r.find(id); k == nil {
			return nil, fmt.Errorf("%w (key %s)", ErrUnknownKey, id)
		}
	}
	text, err := k.aead.Open(nil, nil, sealed[1+idSize:], []byte(place))
	if err != nil {
		return nil, ErrSealed
	}
	return text, nil
}

func (r *Ring) find(id string) *key {
	for _, k := range r.all() {
		if id != "" && k.name() == id {
			return k
		}
	}
	return nil
}

// URLKeys are the keys for signing URLs: the first one signs, all verify.
func (r *Ring) URLKeys() [][]byte {
	var out [][]byte
	for _, k := range r.all() {
		out = append(out, k.url)
	}
	return out
}
