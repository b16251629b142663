// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"

	"panal/internal/plat"
	"panal/internal/x/httpx"
)

// Bounds of a form whose file is streamed.
const (
	// maxPartHeader is of all that stands between two parts: the boundary and headers.
	maxPartHeader = 64 << 10
	// maxOtherPart is of a part that is no file.
	maxOtherPart = 64 << 10
)

// streamForm reads the parts of a multipart form as they come: nothing of a file is
// held. See readForm for forms that must be whole before they are used.
type streamForm struct {
	parts  *multipart.Reader
	tail   *tailReader
	budget *budgetReader
	n      int
	seen   bool // a file
	params formParams
}

// formParams is the part "parameters" (data.md §15.2).
type formParams struct {
	Lifetime *string `json:"lifetime"`
}

func (p formParams) lifetime() string {
	if p.Lifetime == nil {
		return ""
	}
	return *p.Lifetime
}

// formFile is the part "file".
type formFile struct {
	name        string // as it was sent, with its slashes
	contentType string // empty: not said
	body        io.Reader
}

// tailReader remembers the last bytes of a form: more than multipart.Reader reads ahead.
// That gives the same io.EOF for a form that is whole and one that is cut between parts.
type tailReader struct {
	r    io.Reader
	end  []byte // what stands where the form ends
	last []byte
}

const keptBytes = 8 << 10

func newTail(r io.Reader, boundary string) *tailReader {
	return &tailReader{r: r, end: []byte("\n--" + boundary + "--"), last: []byte("\n")} // a form may begin with its end
}

// Read implements io.Reader.
func (t *tailReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if t.last = append(t.last, p[:n]...); len(t.last) > 2*keptBytes {
		t.last = append(t.last[:0], t.last[len(t.last)-keptBytes:]...)
	}
	return n, err
}

// ended is nil where the form, of which multipart.Reader has read all, is whole.
func (t *tailReader) ended() error {
	if bytes.Contains(t.last, t.end) {
		return nil
	}
	if t.empty() {
		return errNoPart
	}
	return &httpx.BodyError{Err: io.ErrUnexpectedEOF}
}

// empty tells that nothing was read: newTail begins with one byte of its own.
func (t *tailReader) empty() bool { return len(t.last) == 1 }

var errNoPart = plat.Errorf(plat.ErrInvalid, "the body is empty: a multipart form has at least one part")

// budgetReader ends when more is read than was allowed, as long as something is.
type budgetReader struct {
	r     io.Reader
	left  int
	bound bool
}

var errPartHeader = plat.Errorf(plat.ErrInvalid, "the headers of a part of the form are longer than %d bytes", maxPartHeader)

// Read implements io.Reader.
func (b *budgetReader) Read(p []byte) (int, error) {
	if b.bound && b.left <= 0 {
		return 0, errPartHeader
	}
	n, err := b.r.Read(p)
	b.left -= n
	return n, err
}

func openForm(w http.ResponseWriter, r *http.Request) (*streamForm, error) {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/form-data" || params["boundary"] == "" || len(params["boundary"]) > 70 { // RFC 2046 §5.1.1
		return nil, plat.Errorf(plat.ErrInvalid, "the body must be multipart/form-data with the parts file and parameters")
	}
	tail := newTail(clientBody{httpx.IdleReader(w, r.Body, idleLimit)}, params["boundary"])
	b := &budgetReader{r: tail}
	return &streamForm{parts: multipart.NewReader(b, params["boundary"]), tail: tail, budget: b}, nil
}

// next returns the next part, its name and file name; nil at the end.
func (f *streamForm) next() (part *multipart.Part, name, filename string, err error) {
	f.budget.bound, f.budget.left = true, maxPartHeader
	part, err = f.parts.NextRawPart()
	f.budget.bound = false
	switch {
	case errors.Is(err, io.EOF):
		return nil, "", "", f.tail.ended()
	case errors.Is(err, errPartHeader):
		return nil, "", "", errPartHeader
	case err != nil:
		return nil, "", "", formError(err)
	}
	if f.n++; f.n > maxParts {
		return nil, "", "", plat.Errorf(plat.ErrInvalid, "the form has more than %d parts", maxParts)
	}
	// Not Part.FileName, which keeps the last segment only. filename* wins (RFC 6266 §4.3).
	disposition, params, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
	if err != nil || disposition != "form-data" {
		return nil, "", "", plat.Errorf(plat.ErrInvalid, "a part of the form has no Content-Disposition: form-data that can be read")
	}
	return part, params["name"], params["filename"], nil
}

// untilFile reads up to the file, whose body the caller reads before the next call; nil
// at the end of the form. A form that ends without any file is an error.
func (f *streamForm) untilFile() (*formFile, error) {
	for {
		part, name, filename, err := f.next()
		switch {
		case err != nil:
			return nil, err
		case part == nil && !f.seen:
			return nil, plat.InvalidField("file", "is required: a part named file, its filename the key")
		case part == nil:
			return nil, nil //nolint:nilnil // the end
		case name == "file":
			f.seen = true
			return &formFile{name: filename, contentType: part.Header.Get("Content-Type"), body: clientBody{part}}, nil
		}
		raw, err := io.ReadAll(io.LimitReader(part, maxOtherPart+1))
		if err != nil {
			return nil, formError(err)
		}
		if len(raw) > maxOtherPart {
			return nil, plat.Errorf(plat.ErrInvalid, "a part of the form that is no file is longer than %d bytes", maxOtherPart)
		}
		if name == "parameters" && len(raw) > 0 {
			if err := decodeParameters(raw, &f.params); err != nil {
				return nil, err
			}
		}
	}
}
