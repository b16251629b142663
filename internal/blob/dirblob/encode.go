// SPDX-License-Identifier: Apache-2.0

package dirblob

import "strings"

// A key's segments become path elements. In a segment lower-case letters,
// digits and "-_." stand for themselves, an upper-case letter becomes "=" and
// its lower case, any other byte "%" and two hex digits. The last element ends in
// ".o" (object), those above it in ".d" (a segment that "/" follows): so "a" and
// "a/b" live side by side.
//
// A segment whose text gets longer than cutLen is cut into elements that end in
// ".c" (continued) and a rest, which may be empty. A cut comes after the first
// character that brings an element past cutLen, so each text has one encoding,
// and a text that was cut is never also an object or a directory at that level:
// the entries of one directory cover ranges of keys that do not overlap, and
// sorting them by their decoded texts (see child.text) sorts the keys.
const (
	cutLen = 237 // an element has at most cutLen + 3 characters and the suffix

	objectSuffix   = ".o"
	dirSuffix      = ".d"
	continueSuffix = ".c"
	suffixLen      = 2

	objectsDir = "objects"
	tmpDir     = "tmp"
	formatFile = "format"
)

const hexDigits = "0123456789abcdef"

// encoder builds a path from the text of a key.
type encoder struct {
	path []byte
	elem int // length of the element being built
}

func newEncoder(key string) *encoder {
	e := &encoder{path: make([]byte, 0, len(objectsDir)+2*len(key)+16)}
	e.path = append(e.path, objectsDir...)
	e.path = append(e.path, '/')
	return e
}

// text adds a part of a segment and cuts where it must.
func (e *encoder) text(s string) {
	for i := range len(s) {
		start := len(e.path)
		switch c := s[i]; {
		case plain(c):
			e.path = append(e.path, c)
		case c >= 'A' && c <= 'Z':
			e.path = append(e.path, '=', c|0x20)
		default:
			e.path = append(e.path, '%', hexDigits[c>>4], hexDigits[c&15])
		}
		e.elem += len(e.path) - start
		if e.elem > cutLen {
			e.end(continueSuffix)
		}
	}
}

// end closes the element as a directory.
func (e *encoder) end(suffix string) {
	e.path = append(e.path, suffix...)
	e.path = append(e.path, '/')
	e.elem = 0
}

// keyPath returns the directory and the full name of key's object.
func keyPath(key string) (dir, name string) {
	e := newEncoder(key)
	e.segments(key)
	cut := strings.LastIndexByte(string(e.path), '/')
	e.path = append(e.path, objectSuffix...)
	name = string(e.path)
	return name[:cut], name
}

// segments adds key up to, but not including, the suffix of its last element.
func (e *encoder) segments(key string) {
	for {
		i := strings.IndexByte(key, '/')
		if i < 0 {
			e.text(key)
			return
		}
		e.text(key[:i])
		e.end(dirSuffix)
		key = key[i+1:]
	}
}

// prefixDir returns the deepest directory that holds every object whose key
// starts with prefix, and the key text that it stands for.
func prefixDir(prefix string) (dir, text string) {
	e := newEncoder(prefix)
	e.segments(prefix)
	// What follows the last "/" of the path is the part of an element.
	cut := strings.LastIndexByte(string(e.path), '/')
	part, ok := decode(string(e.path[cut+1:]))
	if !ok {
		panic("BUG: dirblob cannot decode what it encoded")
	}
	return string(e.path[:cut]), prefix[:len(prefix)-len(part)]
}

// child is a decoded name in an object directory.
type child struct {
	name string // as on disk
	text string // what its keys start with, after the directory's own text
	leaf bool   // an object; text is the end of its key
}

// parseName decodes a name on disk; ok is false for one that dirblob never makes.
func parseName(name string) (c child, ok bool) {
	if len(name) < suffixLen {
		return child{}, false
	}
	body, suffix := name[:len(name)-suffixLen], name[len(name)-suffixLen:]
	text, ok := decode(body)
	if !ok {
		return child{}, false
	}
	switch suffix {
	case objectSuffix:
		return child{name: name, text: text, leaf: true}, len(body) <= cutLen
	case dirSuffix:
		return child{name: name, text: text + "/"}, len(body) <= cutLen
	case continueSuffix:
		e := newEncoder("")
		e.text(text)
		return child{name: name, text: text}, string(e.path) == objectsDir+"/"+name+"/"
	}
	return child{}, false
}

// decode is the inverse of encoder.text for one element; ok is false for a text
// that text would not have produced.
func decode(s string) (text string, ok bool) {
	if verbatim(s) {
		return s, true // most names, and without an allocation
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case plain(c):
			out = append(out, c)
		case c == '=':
			i++
			if i >= len(s) || s[i] < 'a' || s[i] > 'z' {
				return "", false
			}
			out = append(out, s[i]&^0x20)
		case c == '%':
			if i+2 >= len(s) {
				return "", false
			}
			hi, lo := strings.IndexByte(hexDigits, s[i+1]), strings.IndexByte(hexDigits, s[i+2])
			if hi < 0 || lo < 0 || !escaped(byte(hi<<4|lo)) {
				return "", false
			}
			out = append(out, byte(hi<<4|lo))
			i += 2
		default:
			return "", false
		}
	}
	return string(out), true
}

// plain tells whether c stands for itself.
func plain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
}

// escaped tells whether c is written as "%" and hex digits.
func escaped(c byte) bool {
	return !plain(c) && (c < 'A' || c > 'Z') && c != '/'
}

func verbatim(s string) bool {
	for i := range len(s) {
		if !plain(s[i]) {
			return false
		}
	}
	return true
}
