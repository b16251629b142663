// SPDX-License-Identifier: Apache-2.0

package keyring_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"panal/internal/x/keyring"
)

func open(t *testing.T, path string) *keyring.Ring {
	t.Helper()
	r, err := keyring.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRoundTripAndPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	r := open(t, path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the key file: %v, %v", info.Mode(), err)
	}
	for _, text := range []string{"", "hunter2", strings.Repeat("x", 100000)} {
		a, b := r.Seal([]byte(text), "here"), r.Seal([]byte(text), "here")
		if bytes.Equal(a, b) || len(text) > 0 && bytes.Contains(a, []byte(text)) {
			t.Errorf("sealing %.10q gives %x and %x", text, a[:9], b[:9])
		}
		if got, err := r.Unseal(a, "here"); err != nil || string(got) != text {
			t.Errorf("Unseal = %.10q, %v", got, err)
		}
		if _, err := r.Unseal(a, "there"); !errors.Is(err, keyring.ErrSealed) {
			t.Errorf("Unseal elsewhere = %v", err)
		}
		// Another process with the same file opens it too.
		if got, err := open(t, path).Unseal(a, "here"); err != nil || string(got) != text {
			t.Errorf("Unseal by another = %.10q, %v", got, err)
		}
	}
}

// TestEveryBitCounts: no change of a sealed value goes unnoticed.
func TestEveryBitCounts(t *testing.T) {
	r := open(t, filepath.Join(t.TempDir(), "key"))
	sealed := r.Seal([]byte("hunter2"), "p")
	for i := range sealed {
		for bit := range 8 {
			bad := slices.Clone(sealed)
			bad[i] ^= 1 << bit
			if _, err := r.Unseal(bad, "p"); err == nil {
				t.Fatalf("bit %d of byte %d is not looked at", bit, i)
			}
		}
		if _, err := r.Unseal(sealed[:i], "p"); err == nil {
			t.Fatalf("%d of %d bytes open", i, len(sealed))
		}
	}
}

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	server, command := open(t, path), open(t, path)
	old := server.Seal([]byte("a"), "p")
	first := server.Active()
	second, err := command.Rotate()
	if err != nil || second == first || !slices.Equal(command.IDs(), []string{second, first}) {
		t.Fatalf("Rotate = %s, %v; keys %v", second, err, command.IDs())
	}
	// The server opens what a process that has seen the new key sealed, without having been told.
	if got, err := server.Unseal(command.Seal([]byte("b"), "p"), "p"); err != nil || string(got) != "b" {
		t.Errorf("Unseal = %q, %v", got, err)
	}
	if server.Active() != second || keyring.KeyOf(old) != first {
		t.Errorf("active %s, old value of %s", server.Active(), keyring.KeyOf(old))
	}
	if got, err := server.Unseal(old, "p"); err != nil || string(got) != "a" {
		t.Errorf("Unseal of the old one = %q, %v", got, err)
	}
	if len(server.URLKeys()) != 2 || bytes.Equal(server.URLKeys()[0], server.URLKeys()[1]) {
		t.Errorf("URL keys: %d", len(server.URLKeys()))
	}
	if err := command.Drop(first, second); err != nil || !slices.Equal(command.IDs(), []string{second}) {
		t.Errorf("Drop: %v, keys %v", err, command.IDs())
	}
	if changed, err := server.Reload(); err != nil || !changed {
		t.Errorf("Reload = %v, %v", changed, err)
	}
	if changed, err := server.Reload(); err != nil || changed {
		t.Errorf("second Reload = %v, %v", changed, err)
	}
	if _, err := server.Unseal(old, "p"); !errors.Is(err, keyring.ErrUnknownKey) {
		t.Errorf("Unseal with a dropped key = %v", err)
	}
}

func TestFiles(t *testing.T) {
	for name, c := range map[string]struct {
		content string
		keys    int // 0: refused
	}{
		"first version": {strings.Repeat("k", 32), 1},
		"empty":         {"", 0},
		"comments only": {"# nothing\n\n", 0},
		"short key":     {"AAAA\n", 0},
		"no base64":     {strings.Repeat("?", 44) + "\n", 0},
		"cut":           {strings.Repeat("A", 43) + "=\n" + strings.Repeat("A", 20), 0},
		"two":           {strings.Repeat("A", 43) + "=\n# older:\r\n" + strings.Repeat("B", 42) + "E=\n", 2},
		"huge":          {strings.Repeat("#\n", 40<<10), 0},
	} {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := keyring.Open(path)
		if (err == nil) != (c.keys > 0) || err == nil && len(r.IDs()) != c.keys {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("%s: the error names no file: %v", name, err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != c.content {
			t.Errorf("%s: opening changed the file", name)
		}
	}
}

// TestFirstStart: processes that start together agree on one key.
func TestFirstStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	ids := make([]string, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			if r, err := keyring.Open(path); err != nil {
				t.Error(err)
			} else {
				ids[i] = r.Active()
			}
		})
	}
	wg.Wait()
	if slices.Sort(ids); ids[0] != ids[7] {
		t.Errorf("keys %v", ids)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("files left: %v, %v", left, err)
	}
}
