// SPDX-License-Identifier: Apache-2.0

package plat

import (
	"errors"
	"fmt"
	"strconv"
)

// Error kinds. Every error that leaves a package wraps at most one of them;
// anything else is internal and is shown to nobody outside. Only ErrUnavailable
// is worth a retry.
var (
	// ErrInvalid: the caller's input is wrong; repeating it will not help.
	ErrInvalid = errors.New("invalid")
	// ErrUnauthenticated: no or wrong credentials.
	ErrUnauthenticated = errors.New("unauthenticated")
	// ErrForbidden: known caller, not allowed.
	ErrForbidden = errors.New("forbidden")
	// ErrNotFound: the subject does not exist (or no longer).
	ErrNotFound = errors.New("not found")
	// ErrExists: the subject exists already.
	ErrExists = errors.New("already exists")
	// ErrConflict: the subject is in a state that does not allow this.
	ErrConflict = errors.New("conflict")
	// ErrExhausted: a limit, quota or disk is full.
	ErrExhausted = errors.New("exhausted")
	// ErrUnavailable: passing; the same call may succeed later.
	ErrUnavailable = errors.New("unavailable")
	// ErrUnsupported: this build or adapter does not do that.
	ErrUnsupported = errors.New("unsupported")
)

// Kinds lists every error kind, for tables that must be exhaustive.
func Kinds() []error {
	return []error{
		ErrInvalid, ErrUnauthenticated, ErrForbidden, ErrNotFound, ErrExists,
		ErrConflict, ErrExhausted, ErrUnavailable, ErrUnsupported,
	}
}

// Error is an error that people outside may read. Public is shown to the
// caller; Err (the cause) never is.
type Error struct {
	Kind    error               // one of Kinds
	Public  string              // a sentence for the caller: what is wrong and how to mend it
	Subject string              // what it is about, for the log
	Detail  map[string][]string // field name → messages (the wire's error_detail), may be nil
	Err     error               // cause, may be nil
}

// Error implements error.
func (e *Error) Error() string {
	s := e.Public
	if e.Subject != "" {
		s = e.Subject + ": " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap lets errors.Is match both the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// Errorf returns an *Error of the given kind with a public message.
func Errorf(kind error, format string, args ...any) *Error {
	return &Error{Kind: kind, Public: fmt.Sprintf(format, args...)}
}

// InvalidField returns an ErrInvalid that names the field and the fix.
func InvalidField(field, format string, args ...any) *Error {
	msg := fmt.Sprintf(format, args...)
	return &Error{Kind: ErrInvalid, Public: field + ": " + msg, Detail: map[string][]string{field: {msg}}}
}

// Digits returns f as a text for people has it: 1000000, never 1e+06.
func Digits(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// NotFound returns an ErrNotFound such as "training job 1712… was not found".
func NotFound(noun string, id any) *Error {
	return Errorf(ErrNotFound, "%s %v was not found", noun, id)
}

// KindOf returns the kind that err matches, or nil for an internal error.
func KindOf(err error) error {
	for _, k := range Kinds() {
		if errors.Is(err, k) {
			return k
		}
	}
	return nil
}
