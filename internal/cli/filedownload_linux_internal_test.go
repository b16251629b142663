// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"errors"
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"panal/internal/client"
	"panal/internal/plat"
)

const nobody = 65534

// A directory that nobody may write to ends a download, one file that can't be written does not.
func TestDownloadDenied(t *testing.T) {
	dir := t.TempDir()
	root, err := openTo(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	if os.Getuid() == 0 { // who may write everywhere: this thread looks at files as somebody else
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := unix.Setfsuid(nobody); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Setfsuid(0) }()
	}
	d := download{root: root, file: client.File{ID: "1"}}
	if err := d.local(syscall.EACCES); errors.Is(err, plat.ErrForbidden) {
		t.Errorf("a directory that takes files: %v", err)
	}
	if err := root.Chmod(".", 0o555); err != nil { // its owner may, whoever that is
		t.Fatal(err)
	}
	if err := d.local(syscall.EACCES); !errors.Is(err, plat.ErrForbidden) {
		t.Errorf("a directory that takes none: %v", err)
	}
}
