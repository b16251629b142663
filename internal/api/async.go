// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"mime/multipart"
	"net/http"
	"strconv"
	"strings"
	"time"

	"panal/internal/authn"
	"panal/internal/authz"
	"panal/internal/dataplane"
	"panal/internal/deploy"
	"panal/internal/plat"
	"panal/internal/x/httpx"
)

// Asynchronous inference (compute.md §8.3).

const (
	pathResult        = pathDeployment + "/results/{request_id}"
	pathGatewayResult = "/deployments/{deployment_id}/results/{request_id}"
	// headerResult marks an answer that is a result, whatever its status, from those of
	// this API. User code can't set it.
	headerResult = "X-Panal-Result"
	// maxResultHeaders bounds the headers of a result, and maxResultFailure the
	// JSON that tells of a failure.
	maxResultHeaders = 64 << 10
	maxResultFailure = 1 << 20
	// takenLimit bounds the noting of who took a call, or that nobody did.
	takenLimit = 10 * time.Second
)

// Accepted is the answer to an asynchronous call, and to a look at one that has no
// result yet.
type Accepted struct {
	RequestID string `json:"request_id"`
	Status    string `json:"status,omitempty" example:"processing"`
}

func (a *API) addResults() {
	for _, p := range []struct{ id, path string }{{"get-result", pathResult}, {"infer-result", pathGatewayResult}} {
		a.raw(operation{
			ID: p.id, Method: http.MethodGet, Path: p.path, Op: authz.Infer, Family: familyCompute, Tag: "inference",
			Summary: "Fetch the result of an asynchronous call: 202 until it is there, then as user code answered, with the header X-Panal-Result; kept for 24 h",
		}, a.getResult)
	}
	a.raw(operation{
		ID: "put-result", Method: http.MethodPut, Path: pathResult, Public: true, Family: familyCompute, Tag: "inference",
		Summary: "Bring the result of an asynchronous call, with the token that came with it",
	}, a.putResult)
}

// inferAsync sends a call whose instance is to answer at once, and answers with the
// id to fetch the result by.
func (a *API) inferAsync(w http.ResponseWriter, r *http.Request, call dataplane.Call) {
	token := plat.NewToken()
	c, err := a.Deploy.StartAsync(r.Context(), call.Org, call.Deployment, authn.HashToken(token))
	if err != nil {
		a.fail(w, r, familyCompute, err)
		return
	}
	// From its 202 on the instance works on the call, whatever becomes of the caller.
	taken := false
	call.Async = &dataplane.Async{ID: c.ID, Token: token, Taken: func(instance plat.WorkloadID) {
		taken = true
		if info := infoOf(r.Context()); info != nil {
			info.async = c.ID
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), takenLimit)
		defer cancel()
		if err := a.Deploy.AsyncTaken(ctx, c, instance); err != nil { // the result will come all the same; only a lost instance goes unnoticed
			a.log.LogAttrs(ctx, slog.LevelWarn, "who took an asynchronous call is not on record", slog.String(plat.LogError, err.Error()))
		}
	}}
	aw := &asyncWriter{ResponseWriter: w}
	aw.accept = func() {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Del("Content-Length")
		w.WriteHeader(http.StatusAccepted)
		_ = json.NewEncoder(w).Encode(Accepted{RequestID: c.ID}) // the caller may be gone
	}
	defer func() {
		if taken {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), takenLimit)
		defer cancel()
		if err := a.Deploy.DropAsync(ctx, c); err != nil {
			a.log.LogAttrs(ctx, slog.LevelWarn, "forget an asynchronous call", slog.String(plat.LogError, err.Error()))
		}
	}()
	a.Gateway.ServeCall(aw, r, call)
}

// asyncWriter turns an instance's 202 into ours. Everything else passes.
type asyncWriter struct {
	http.ResponseWriter
	accept   func()
	accepted bool
}

// Unwrap implements the contract of http.ResponseController.
func (w *asyncWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *asyncWriter) WriteHeader(status int) {
	if status == http.StatusAccepted && !w.accepted {
		w.accepted = true
		w.accept()
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter; what an instance says with its 202 is for nobody.
func (w *asyncWriter) Write(b []byte) (int, error) {
	if w.accepted {
		return len(b), nil
	}
	return w.ResponseWriter.Write(b)
}

// FlushError implements what http.ResponseController looks for.
func (w *asyncWriter) FlushError() error { return http.NewResponseController(w.ResponseWriter).Flush() }

func (a *API) getResult(w http.ResponseWriter, r *http.Request) {
	id := caller(r.Context())
	c, err := a.Deploy.Async(r.Context(), id.Org, plat.DeploymentID(param(r, "deployment_id")), param(r, "request_id"))
	if err != nil {
		a.fail(w, r, familyCompute, err)
		return
	}
	if !c.Done() {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusAccepted)
		_ = json.NewEncoder(w).Encode(Accepted{RequestID: c.ID, Status: "processing"}) // the caller may be gone
		return
	}
	body, err := a.Deploy.OpenResult(r.Context(), c)
	if err != nil {
		a.fail(w, r, familyCompute, err)
		return
	}
	defer func() { _ = body.Close() }()
	h := w.Header()
	dataplane.AnswerHeaders(h, c.Headers)
	h.Set(HeaderRequestID, requestID(r.Context()))
	h.Set(headerResult, "stored")
	bare := c.Status == http.StatusNoContent || c.Status == http.StatusNotModified
	if !bare {
		h.Set("Content-Length", strconv.FormatInt(c.Size, 10))
	}
	w.WriteHeader(c.Status)
	if bare {
		return
	}
	if n, err := io.Copy(httpx.IdleWriter(w, idleLimit), body); err != nil || n != c.Size {
		panic(http.ErrAbortHandler) // the only way to tell that it is cut
	}
}

// putResult takes a result from an instance. The call's own token is all that it
// shows, so that it works long after the container's has ended.
func (a *API) putResult(w http.ResponseWriter, r *http.Request) {
	if err := a.takeResult(w, r); err != nil {
		a.fail(w, r, familyCompute, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(Message{"stored"}) // the instance may be gone
}

func (a *API) takeResult(w http.ResponseWriter, r *http.Request) error {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return plat.Errorf(plat.ErrUnauthenticated, "a result is brought with the token that came with its call")
	}
	c, err := a.Deploy.AsyncBy(r.Context(), plat.DeploymentID(param(r, "deployment_id")), param(r, "request_id"), authn.HashToken(strings.TrimSpace(token)))
	if err != nil {
		return err
	}
	if o := param(r, "organization_id"); o != string(c.Org) {
		found, err := a.Orgs.Get(r.Context(), o)
		if err != nil || found.ID != c.Org {
			return plat.NotFound("result", c.ID)
		}
	}
	boundBody(w, r)
	media, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case err != nil:
		return plat.InvalidField("content-type", "must be multipart/form-data, or application/json for a failure")
	case media == "multipart/form-data" && params["boundary"] != "":
		return a.takeParts(r, c, multipart.NewReader(r.Body, params["boundary"]))
	case media != "application/json":
		return plat.InvalidField("content-type", "must be multipart/form-data, or application/json for a failure")
	}
	data, err := readPart(r.Body, maxResultFailure)
	if err != nil {
		return err
	}
	var f struct {
		Status  int               `json:"status"`
		Headers map[string]string `json:"headers"`
		Body    json.RawMessage   `json:"body"`
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return plat.InvalidField("body", "is no JSON object with status, headers and body")
	}
	return a.Deploy.FinishAsync(r.Context(), c, f.Status, f.Headers, bytes.NewReader(f.Body))
}

// takeParts reads a result's parts: status and headers come before the body, which
// is streamed. The original agent leaves the quotes around a part's name away.
func (a *API) takeParts(r *http.Request, c deploy.AsyncCall, mr *multipart.Reader) error {
	status, headers := 0, map[string]string{}
	for {
		part, err := mr.NextRawPart()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return plat.InvalidField("body", "the part with that name is missing")
			}
			return plat.InvalidField("body", "the multipart body can't be parsed")
		}
		switch part.FormName() {
		case "status":
			data, err := readPart(part, 16)
			if err != nil {
				return err
			}
			if status, err = strconv.Atoi(strings.TrimSpace(string(data))); err != nil {
				return plat.InvalidField("status", "must be digits")
			}
		case "headers":
			data, err := readPart(part, maxResultHeaders)
			if err != nil {
				return err
			}
			if err := json.Unmarshal(data, &headers); err != nil {
				return plat.InvalidField("headers", "must be an object of strings")
			}
		case "body":
			if status == 0 {
				return plat.InvalidField("status", "must come before the body")
			}
			if kind := part.Header.Get("Content-Type"); kind != "" && !hasHeader(headers, "content-type") {
				headers["content-type"] = kind
			}
			return a.Deploy.FinishAsync(r.Context(), c, status, headers, resultBody{part})
		}
	}
}

func hasHeader(headers map[string]string, name string) bool {
	for k := range headers {
		if strings.EqualFold(k, name) {
			return true
		}
	}
	return false
}

// resultBody marks a body that breaks off as the sender's fault: nothing is stored.
type resultBody struct{ r io.Reader }

func (b resultBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &plat.Error{Kind: plat.ErrInvalid, Public: "the body broke off", Err: err}
	}
	return n, err
}

func readPart(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(resultBody{r}, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = plat.Errorf(plat.ErrInvalid, "a part of the result is longer than %d bytes", limit)
	}
	return data, err
}
