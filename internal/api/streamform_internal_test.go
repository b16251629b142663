// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"errors"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"panal/internal/plat"
	"panal/internal/x/httpx"
)

// FuzzStreamForm: whatever the form, reading it ends, gives no more than was sent, and
// succeeds only where the form is whole; every error is the client's.
func FuzzStreamForm(f *testing.F) {
	const b = "bb"
	part := func(head, body string) string { return "--" + b + "\r\n" + head + "\r\n\r\n" + body + "\r\n" }
	file := part(`Content-Disposition: form-data; name="file"; filename="a/b"`, "hello")
	f.Add([]byte(file + part(`Content-Disposition: form-data; name="parameters"`, `{"lifetime":"1day"}`) + "--bb--\r\n"))
	f.Add([]byte(part(`Content-Disposition: form-data; name="file"; filename*=utf-8''%41`, "--b\r\n--") + "--bb--"))
	f.Add([]byte(file))
	f.Add([]byte("--bb\r\n\r\n--bb--"))
	f.Add([]byte(strings.Repeat("--bb\r\n\r\n", 40)))
	f.Fuzz(func(t *testing.T, body []byte) {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/", bytes.NewReader(body))
		r.Header.Set("Content-Type", "multipart/form-data; boundary="+b)
		form, err := openForm(httptest.NewRecorder(), r)
		if err != nil {
			t.Fatal(err)
		}
		for files := 0; ; files++ {
			file, err := form.untilFile()
			if err == nil && file != nil {
				var n int64
				if n, err = io.Copy(io.Discard, file.body); n > int64(len(body)) {
					t.Fatalf("%d bytes of a body of %d", n, len(body))
				}
			}
			if err != nil {
				if _, cut := errors.AsType[*httpx.BodyError](err); !cut && !errors.Is(err, plat.ErrInvalid) {
					t.Fatalf("%v", err)
				}
				return
			}
			if file == nil {
				if files == 0 || !bytes.Contains(body, []byte("--bb--")) {
					t.Fatal("a form that is not whole was taken")
				}
				return
			}
		}
	})
}

// TestFormThatIsCut: a form is taken whole, and refused as cut off or malformed wherever
// else it ends, also right after the line between two parts.
func TestFormThatIsCut(t *testing.T) {
	const whole = "--bb\r\nContent-Disposition: form-data; name=\"source\"; filename=\"x\"\r\n\r\nhello\r\n" +
		"--bb\r\nContent-Disposition: form-data; name=\"parameters\"\r\n\r\n{\"lifetime\":\"1day\"}\r\n--bb--"
	a := &API{Deps: Deps{TempDir: t.TempDir()}}
	read := func(body string) error {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/", strings.NewReader(body))
		r.Header.Set("Content-Type", "multipart/form-data; boundary=bb")
		var params formParams
		up, err := a.readForm(httptest.NewRecorder(), r, "source", 1<<20, &params)
		if err == nil && (up.Size() != 5 || params.lifetime() != "1day") {
			t.Errorf("%q gives %d bytes and the lifetime %q", body, up.Size(), params.lifetime())
		}
		up.close()
		return err
	}
	for _, tail := range []string{"", "\r\n", " \r\n", "\r\nwhat follows"} {
		if err := read(whole + tail); err != nil {
			t.Errorf("the form and %q: %v", tail, err)
		}
	}
	for n := range len(whole) {
		err := read(whole[:n])
		if _, cut := errors.AsType[*httpx.BodyError](err); !cut && !errors.Is(err, plat.ErrInvalid) {
			t.Errorf("the form up to %q: %v", whole[:n], err)
		}
	}
	line := strings.Index(whole, "--bb\r\nContent-Disposition: form-data; name=\"parameters\"") + len("--bb\r\n")
	if _, cut := errors.AsType[*httpx.BodyError](read(whole[:line])); !cut {
		t.Errorf("a form that ends after a boundary is not refused as cut off")
	}
}
