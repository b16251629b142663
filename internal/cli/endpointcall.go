// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"panal/internal/client"
	"panal/internal/plat"
)

type endpointCallCmd struct {
	deploymentArg
	File        string `arg:"" help:"What to send; - for stdin."`
	Alias       string `help:"Endpoint, by alias. Default: the one named default." xor:"target"`
	Service     string `help:"Call this service instead of an endpoint." xor:"target"`
	Path        string `help:"What follows in the URL, escaped, with a query if there is one; for services that run a command: --path v2/models/leaf/infer."`
	ContentType string `name:"content-type" help:"Default: by the file's extension."`
	Async       bool   `help:"Have it answered later: prints the id to fetch the result by, for 24 hours."`
	Wait        bool   `help:"With --async: wait for the result and print it." short:"w"`
}

// Help teaches.
func (endpointCallCmd) Help() string {
	return `  panal endpoint call leaf-api leaf.jpg
  panal endpoint call leaf-api film.mp4 --async
  panal endpoint result leaf-api b7a1c0de-0000-4000-8000-000000000000 --wait

A request that takes longer than 30 seconds must be asynchronous.`
}

// Run calls the model.
func (c endpointCallCmd) Run(e *env) error {
	if c.Wait && !c.Async {
		return plat.InvalidField("wait", "goes with --async; without, the answer is waited for anyway")
	}
	id, err := c.id(e)
	if err != nil {
		return err
	}
	call := client.Call{Deployment: id, Alias: c.Alias, Service: c.Service, Path: c.Path, ContentType: c.ContentType, Body: e.stdin, Size: -1}
	if c.File != "-" {
		f, err := os.Open(filepath.Clean(c.File))
		if err != nil {
			return plat.InvalidField("file", "%v", err)
		}
		defer func() { _ = f.Close() }()
		info, err := f.Stat()
		if err != nil || !info.Mode().IsRegular() {
			return plat.InvalidField("file", "%s is no file", c.File)
		}
		call.Body, call.Size = f, info.Size()
		if call.ContentType == "" {
			call.ContentType = mime.TypeByExtension(filepath.Ext(c.File))
		}
	}
	if call.ContentType == "" {
		call.ContentType = "application/octet-stream"
	}
	if c.Async {
		request, err := e.api.InferLater(e.ctx, call)
		switch {
		case err != nil:
			return err
		case c.Wait:
			e.say("request %s", request)
			return e.result(id, request, true, 0)
		}
		if e.json {
			return e.printJSON(map[string]string{"request_id": request})
		}
		_, err = fmt.Fprintln(e.stdout, request) // for $(…)
		return err
	}
	res, err := e.api.Infer(e.ctx, call) //nolint:bodyclose // pass closes it
	if err != nil {
		return err
	}
	return e.pass(res)
}

// pass prints an answer as it is.
func (e *env) pass(res *http.Response) error {
	defer func() { _ = res.Body.Close() }()
	_, err := io.Copy(e.stdout, res.Body)
	return err
}

type endpointResultCmd struct {
	deploymentArg
	Request string        `arg:"" help:"Id of the request, as 'panal endpoint call --async' printed it."`
	Wait    bool          `help:"Wait until it is there." short:"w"`
	Timeout time.Duration `help:"With --wait: give up after this long; 0: never."`
}

// Run fetches the result.
func (c endpointResultCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	return e.result(id, c.Request, c.Wait, c.Timeout)
}

// result prints the result of an asynchronous call; one of 400 or more is the error
// that a call would have ended with.
func (e *env) result(dep, request string, wait bool, timeout time.Duration) error {
	var res *http.Response
	var failed error
	err := e.poll("the result", timeout, func(ctx context.Context) (done bool, err error) {
		res, done, err = e.api.Result(ctx, dep, request) //nolint:bodyclose // pass closes it
		if done {
			failed, err = err, nil
		}
		if err == nil && !done && !wait {
			err = plat.Errorf(plat.ErrConflict, "request %s has no result yet; --wait waits for it", request)
		}
		return done, err
	})
	if err != nil || failed != nil {
		return cmp.Or(err, failed)
	}
	return e.pass(res)
}
