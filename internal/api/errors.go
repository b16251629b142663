// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"panal/internal/api/compat"
	"panal/internal/blob"
	"panal/internal/plat"
	"panal/internal/x/httpx"
)

// ErrorBody is the API's error: always a JSON object (data.md §5.1, compute.md §1.4).
type ErrorBody struct {
	status      int
	retryAfter  string
	Code        string              `json:"error" doc:"snake_case code" example:"not_found"`
	Description string              `json:"error_description" doc:"what is wrong and how to mend it"`
	Detail      map[string][]string `json:"error_detail" doc:"field name to messages"`
}

// Error implements error.
func (e *ErrorBody) Error() string { return e.Description }

// GetStatus implements huma.StatusError.
func (e *ErrorBody) GetStatus() int { return e.status }

// GetHeaders implements huma.HeadersError.
func (e *ErrorBody) GetHeaders() http.Header {
	if e.retryAfter == "" {
		return nil
	}
	return http.Header{"Retry-After": {e.retryAfter}}
}

// ContentType implements huma.ContentTypeFilter: plain JSON, never problem+json.
func (e *ErrorBody) ContentType(string) string { return "application/json" }

// codeOf is the wire's error code of a status: snake_case of its reason phrase.
func codeOf(status int) string {
	text := http.StatusText(status)
	if text == "" {
		text = "error"
	}
	return strings.NewReplacer(" ", "_", "-", "_").Replace(strings.ToLower(text))
}

func newError(status int, description string, detail map[string][]string) *ErrorBody {
	e := &ErrorBody{status: status, Code: codeOf(status), Description: readable(description), Detail: detail}
	for _, messages := range detail {
		for i, m := range messages {
			if shown := readable(m); shown != m {
				messages[i] = shown
			}
		}
	}
	if status == http.StatusServiceUnavailable {
		e.retryAfter = "2"
	}
	return e
}

// maxMessage bounds one text of an error, in bytes: it names what it refuses, and that may
// be as long as a request can be.
const maxMessage = 2 << 10

// readable is an error's text without tokens, and no longer than people read.
func readable(s string) string {
	s = plat.HideTokens(s)
	if len(s) <= maxMessage {
		return s
	}
	return strings.ToValidUTF8(s[:maxMessage], "") + "…"
}

// Refusal is the body of an error about what could not be read as a request; text is
// net/http's.
func Refusal(status int, text string) []byte {
	about := "the request can't be read"
	if reason := strings.TrimPrefix(text, http.StatusText(status)); reason != "" {
		about += ": " + strings.TrimPrefix(reason, ": ")
	} else if status == http.StatusRequestHeaderFieldsTooLarge {
		about = "the request's headers are too large"
	}
	b, _ := json.Marshal(newError(status, about, nil)) // texts always encode
	return append(b, '\n')
}

// Family is what differs on the wire between the two documents' resources.
type Family struct {
	// Exists is the status for a duplicate, Conflict for a wrong state, Exhausted
	// for a limit or a full disk.
	Exists, Conflict, Exhausted int
	// IncludeArchived: lists without filter_archived show archived ones too.
	IncludeArchived bool
}

// Families of the wire: constants, as near as Go has structs of them.
var (
	familyLake    = Family{Exists: 409, Conflict: 409, Exhausted: 507}
	familyDataset = Family{Exists: 400, Conflict: 400, Exhausted: 507}
	familyCompute = Family{Exists: 400, Conflict: 400, Exhausted: 507, IncludeArchived: true}
	familyLogs    = Family{Exists: 409, Conflict: 409, Exhausted: 503}
)

// status maps an error's kind to the HTTP status; 500 for an internal error.
func (f Family) status(err error) int {
	switch {
	case errors.Is(err, plat.ErrInvalid):
		return http.StatusBadRequest
	case errors.Is(err, plat.ErrUnauthenticated):
		return http.StatusUnauthorized
	case errors.Is(err, plat.ErrForbidden):
		return http.StatusForbidden
	case errors.Is(err, plat.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, plat.ErrExists):
		return f.Exists
	case errors.Is(err, plat.ErrConflict):
		return f.Conflict
	case errors.Is(err, plat.ErrExhausted):
		return f.Exhausted
	case errors.Is(err, plat.ErrUnavailable):
		return http.StatusServiceUnavailable
	case errors.Is(err, plat.ErrUnsupported):
		return http.StatusNotImplemented
	}
	return http.StatusInternalServerError
}

const (
	textTooLarge = "the body is larger than this operation takes"
	textDamaged  = "what is stored is damaged, so it is not given out; verify (panal channel verify) names all that is, and a backup may have it"
	textNoFlag   = "must be true or false"
	textCutBody  = "the body ended before its declared length, or stalled; nothing was stored"
)

// body turns any error into what the caller may read. Only *plat.Error texts go
// out; the rest is summed up by its status and logged.
func (a *API) body(ctx context.Context, f Family, err error) *ErrorBody {
	if have, ok := errors.AsType[*ErrorBody](err); ok {
		return have
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return newError(http.StatusRequestEntityTooLarge, textTooLarge, nil)
	}
	if _, ok := errors.AsType[*httpx.BodyError](err); ok {
		return newError(http.StatusBadRequest, textCutBody, nil)
	}
	status := f.status(err)
	if pe, ok := errors.AsType[*plat.Error](err); ok {
		// A cause on the server's side is for its log: storage that is down, say.
		if status >= 500 && pe.Err != nil && ctx.Err() == nil && a.oncePerSecond() {
			a.log.LogAttrs(ctx, slog.LevelError, "request failed", slog.String(plat.LogRequest, requestID(ctx)), slog.String(plat.LogError, err.Error()))
		}
		return newError(status, pe.Public, pe.Detail)
	}
	text := map[int]string{
		http.StatusInternalServerError: "something went wrong on the server; its log has the details under this request id",
		http.StatusServiceUnavailable:  "not available right now; try again",
		http.StatusInsufficientStorage: "the storage is full",
	}[status]
	if errors.Is(err, blob.ErrDamaged) {
		text = textDamaged
	}
	if text == "" {
		text = strings.ToLower(http.StatusText(status))
	}
	if status >= 500 && ctx.Err() == nil && (status != http.StatusInsufficientStorage || a.oncePerSecond()) {
		a.log.LogAttrs(ctx, slog.LevelError, "request failed", slog.String(plat.LogRequest, requestID(ctx)), slog.String(plat.LogError, err.Error()))
	}
	return newError(status, text, nil)
}

// oncePerSecond is true for the first caller in each second: a full disk refuses
// every upload, and must not fill the log as well.
func (a *API) oncePerSecond() bool {
	now := a.Now().Unix()
	return a.fullSecond.Swap(now) != now
}

// fail writes err as the answer of a plain handler.
func (a *API) fail(w http.ResponseWriter, r *http.Request, f Family, err error) {
	writeError(w, a.body(r.Context(), f, err))
}

func writeError(w http.ResponseWriter, e *ErrorBody) {
	if e.retryAfter != "" {
		w.Header().Set("Retry-After", e.retryAfter)
	}
	writeJSON(w, e.status, e)
}

// writeJSON answers with v as JSON.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // people read these with curl
	if err := enc.Encode(v); err != nil {
		status = http.StatusInternalServerError
		b.Reset()
		b.WriteString(`{"error":"internal_server_error","error_description":"the answer does not encode","error_detail":null}` + "\n")
	}
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the client may be gone; there is nobody left to tell
}

// hookErrors makes huma's own errors (bad parameters, bad bodies) ours. huma keeps
// its hooks in process-wide variables, so they are set once.
var hookErrors = sync.OnceFunc(func() { //nolint:gochecknoglobals // huma's hooks are globals
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		if status == http.StatusUnprocessableEntity {
			status = http.StatusBadRequest
		}
		switch {
		case status == http.StatusRequestTimeout, slices.ContainsFunc(errs, func(err error) bool {
			_, cut := errors.AsType[*httpx.BodyError](err)
			return cut
		}):
			return newError(http.StatusBadRequest, textCutBody, nil)
		case status == http.StatusRequestEntityTooLarge:
			return newError(status, textTooLarge, nil)
		case status == http.StatusUnsupportedMediaType:
			return newError(status, "the body must be JSON; send it with Content-Type: application/json", nil)
		}
		if status >= http.StatusInternalServerError && status != http.StatusServiceUnavailable {
			return newError(status, "something went wrong on the server", nil)
		}
		var detail map[string][]string
		for _, err := range errs {
			field, text := "body", err.Error()
			if d, ok := errors.AsType[*huma.ErrorDetail](err); ok {
				field, text = fieldOf(d.Location), d.Message
			}
			if name, what, ok := compat.SplitFieldError(text); ok {
				field, text = name, what
			}
			if text == "invalid boolean" {
				text = textNoFlag
			}
			if detail == nil {
				detail = map[string][]string{}
			}
			detail[field] = append(detail[field], text)
		}
		if len(detail) > 0 {
			msg = "one or more fields are missing or invalid: " + summary(detail)
		}
		return newError(status, msg, detail)
	}
	huma.NewErrorWithContext = func(_ huma.Context, status int, msg string, errs ...error) huma.StatusError {
		return huma.NewError(status, msg, errs...)
	}
})

// fieldOf makes a field name of huma's location: "body.user.name" → "user.name".
func fieldOf(location string) string {
	for _, prefix := range []string{"body.", "query.", "path.", "header."} {
		if rest, ok := strings.CutPrefix(location, prefix); ok {
			return rest
		}
	}
	if location == "" {
		return "body"
	}
	return location
}

func summary(detail map[string][]string) string {
	for field, msgs := range detail { // one is enough for the sentence; error_detail has all
		return field + ": " + msgs[0]
	}
	return ""
}
