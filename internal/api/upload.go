// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"syscall"

	"panal/internal/api/compat"
	"panal/internal/plat"
	"panal/internal/x/httpx"
)

// maxParameters bounds the JSON part of a form, maxParts the number of parts.
const (
	maxParameters = 1 << 20
	maxParts      = 16
)

// upload is a file part of a form, held in a file that has no name: it is gone
// with the process.
type upload struct {
	f    *os.File
	size int64
}

// ReadAt implements io.ReaderAt.
func (u *upload) ReadAt(p []byte, off int64) (int, error) { return u.f.ReadAt(p, off) }

// Size returns the length in bytes.
func (u *upload) Size() int64 { return u.size }

// readForm reads a multipart form of two parts in any order: the file named
// fileField, spooled to disk, and "parameters", a JSON object that is decoded into
// params. Other parts are skipped. The caller closes what it returns; a nil upload
// means that there was no file.
func (a *API) readForm(w http.ResponseWriter, r *http.Request, fileField string, maxFile int64, params any) (up *upload, err error) {
	r.Body = http.MaxBytesReader(w, r.Body, maxFile+2*maxParameters)
	kind, form, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/form-data" && kind != "multipart/mixed" || form["boundary"] == "" {
		return nil, plat.Errorf(plat.ErrInvalid, "the body must be multipart/form-data with the parts %s and parameters", fileField)
	}
	tail := newTail(httpx.IdleReader(w, r.Body, idleLimit), form["boundary"])
	mr := multipart.NewReader(tail, form["boundary"])
	defer func() {
		if err != nil {
			up.close()
			up = nil
		}
	}()
	hasParams := false
	for n := 0; ; n++ {
		part, err := mr.NextPart()
		switch {
		case err == io.EOF: //nolint:errorlint // a form that is cut gives it too, wrapped
			if err := tail.ended(); err != nil {
				return up, err
			}
			if !hasParams {
				return up, decodeParameters([]byte("{}"), params)
			}
			return up, nil
		case errors.Is(err, io.EOF) && tail.empty():
			return up, errNoPart
		case err != nil:
			return up, formError(err)
		case n == maxParts:
			return up, plat.Errorf(plat.ErrInvalid, "the form has more than %d parts", maxParts)
		}
		switch name := part.FormName(); {
		case name == fileField && up == nil:
			up, err = a.spool(part, maxFile)
		case name == fileField:
			err = plat.InvalidField(fileField, "is there twice")
		case name == "parameters":
			var raw []byte
			if raw, err = io.ReadAll(io.LimitReader(part, maxParameters+1)); err != nil {
				err = formError(err)
				break
			}
			hasParams = true
			err = decodeParameters(raw, params)
		}
		if err != nil {
			return up, err
		}
	}
}

func decodeParameters(raw []byte, params any) error {
	if len(raw) > maxParameters {
		return plat.InvalidField("parameters", "is longer than %d bytes", maxParameters)
	}
	err := compat.Decode(raw, params)
	if err == nil {
		return nil
	}
	if field, ok := errors.AsType[*compat.FieldError](err); ok {
		return plat.InvalidField(field.Field, "%s", field.What)
	}
	return plat.InvalidField("parameters", "is not a JSON object as documented: %v", err)
}

// formError tells the client's errors (a form that is cut or malformed) from ours.
func formError(err error) error {
	if _, tooBig := errors.AsType[*http.MaxBytesError](err); tooBig {
		return err
	}
	if cut := httpx.Body(err); cut != err { //nolint:errorlint // the same value means: not the body's fault
		return cut
	}
	return &plat.Error{Kind: plat.ErrInvalid, Public: "the multipart form can't be read", Err: err}
}

// spool copies a part to a temporary file without a name.
func (a *API) spool(part *multipart.Part, limit int64) (*upload, error) {
	f, err := os.CreateTemp(a.TempDir, "upload-*")
	if err != nil {
		return nil, diskError(err)
	}
	u := &upload{f: f}
	if err := os.Remove(f.Name()); err != nil {
		u.close()
		return nil, fmt.Errorf("spool upload: %w", err)
	}
	src := &sourceReader{r: io.LimitReader(part, limit+1)}
	u.size, err = io.Copy(f, src)
	switch {
	case src.err != nil:
		err = formError(src.err)
	case err != nil:
		err = diskError(err)
	case u.size > limit:
		err = &http.MaxBytesError{Limit: limit}
	}
	if err != nil {
		u.close()
		return nil, err
	}
	return u, nil
}

// sourceReader keeps the error of the source apart from those of the destination.
type sourceReader struct {
	r   io.Reader
	err error
}

// Read implements io.Reader.
func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

func diskError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &plat.Error{Kind: plat.ErrExhausted, Public: "the disk is full; nothing was stored", Err: err}
	}
	return fmt.Errorf("spool upload: %w", err)
}

// close drops the file. A nil upload is fine.
func (u *upload) close() {
	if u != nil {
		_ = u.f.Close() // nothing depends on it: the file has no name
	}
}
