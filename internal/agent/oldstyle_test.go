// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"strings"
	"testing"
)

const oldStyle = `
import numpy
def handler(input_iter, context):
    for item in input_iter:
        if item == "refuse": raise context.exceptions.InvalidInput("not this")
        if item == "fail": raise ValueError("no")
        context.datatypes
        if isinstance(item, numpy.ndarray): yield {"shape": item.shape, "pixel": item[0][0]}
        elif isinstance(item, bytes): yield {"bytes": len(item), "c": context.c}
        else:
            yield {"item": item}
            yield "more"
`

// Handlers of the images 18.10 and 0.1.0 (compute.md §13.11).
func TestOldStyle(t *testing.T) {
	s := newServer(t)
	s.pack("main.py", oldStyle)
	p := start(t, s, "service", map[string]string{"PANAL_HANDLER_STYLE": "old", "CONTEXT": `{"c":7}`})
	p.ready()
	for _, c := range []struct {
		name, kind, body string
		code             int
		want             string
	}{
		{"object", "application/json", `{"a":1}`, 200, `{"item": {"a": 1}}more`},
		{"list", "application/json; charset=utf-8", `[1,2]`, 200, `{"item": [1, 2]}more`},
		{"bytes", "application/octet-stream", "abc", 200, `{"bytes": 3, "c": 7}`},
		{"refused", "application/json", `"refuse"`, 400, `{"error": "invalid_input", "error_description": "not this"}`},
		{"no JSON", "application/json", `{`, 400, `{"error": "invalid_input", "error_description": "the body is not JSON: `},
		{"raises", "application/json", `"fail"`, 500, `{"status":"unexpected error occurred"}`},
	} {
		a := p.call("POST", "/", c.kind, c.body)
		if a.code != c.code || !strings.HasPrefix(a.body, c.want) {
			t.Errorf("%s: %d %s", c.name, a.code, a.body)
		}
	}
}

// A handler may return one result instead of a generator; an image comes as an array,
// or the log says what is missing for that.
func TestOldStyleImage(t *testing.T) {
	s := newServer(t)
	s.pack("main.py", "def handler(items, context):\n    return [list(i.shape) + i[0][0].tolist() for i in items][0]\n",
		"PIL/__init__.py", "", "PIL/Image.py", `
import numpy
class DecompressionBombError(Exception): pass
class open:
    def __init__(self, f):
        self.data = f.read()
        if self.data == b"huge": raise DecompressionBombError("Image size exceeds limit")
        if self.data != b"red": raise OSError("cannot identify image file <_io.BytesIO object at 0x7f>")
    def convert(self, mode):
        assert mode == "RGB"
        return numpy.tile(numpy.array([255, 0, 0], "uint8"), (2, 3, 1))
`)
	p := start(t, s, "service", map[string]string{"PANAL_HANDLER_STYLE": "old"})
	p.ready()
	if a := p.call("POST", "/", "image/png", "red"); a.code != 200 || a.body != "[2, 3, 3, 255, 0, 0]" {
		t.Errorf("%d %s", a.code, a.body)
	}
	for body, why := range map[string]string{"junk": "OSError", "huge": "DecompressionBombError"} {
		if a := p.call("POST", "/", "image/png", body); a.code != 400 || !strings.Contains(a.body, "the body is no image that can be read ("+why+")") {
			t.Errorf("%s: %d %s", body, a.code, a.body)
		}
	}

	s = newServer(t)
	s.pack("main.py", "import sys\nsys.modules['PIL'] = None\ndef handler(items, context):\n    return 1\n")
	p = start(t, s, "service", map[string]string{"PANAL_HANDLER_STYLE": "old"})
	p.ready()
	if a := p.call("POST", "/", "image/png", "red"); a.code != 500 {
		t.Errorf("%d %s", a.code, a.body)
	}
	eventually(t, "the reason", func() bool {
		return strings.Contains(s.entry("images need numpy and Pillow").Message, "requirements.txt")
	})
}
