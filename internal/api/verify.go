// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"io"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"panal/internal/authz"
	"panal/internal/lake/journal"
	"panal/internal/plat"
)

// VerifyAnswer is what is wrong with a channel.
type VerifyAnswer struct {
	journal.Report
	Left int64 `json:"left" doc:"how much of it is not repaired"`
}

// VerifyQuery says what a verification does.
type VerifyQuery struct {
	Deep   string `query:"deep" doc:"true: read every object and hash it"`
	Repair string `query:"repair" doc:"true: mend what can be mended without losing data"`
}

func (q VerifyQuery) options() (opt journal.VerifyOptions, err error) {
	if opt.Deep, err = flag("deep", q.Deep); err != nil {
		return opt, err
	}
	opt.Repair, err = flag("repair", q.Repair)
	return opt, err
}

// Resolve implements huma.Resolver. Options in a body would be left out without a word: a
// repair that was not made looks like one that found nothing to do.
func (VerifyQuery) Resolve(ctx huma.Context) []error {
	raw, err := io.ReadAll(io.LimitReader(ctx.BodyReader(), defaultMaxBody))
	if err != nil {
		return []error{err}
	}
	var given map[string]json.RawMessage
	if json.Unmarshal(raw, &given) != nil {
		return nil // whatever it is, it names no option
	}
	var errs []error
	for _, name := range []string{"deep", "repair"} {
		if _, ok := given[name]; ok {
			errs = append(errs, &huma.ErrorDetail{Location: name, Message: "goes into the query, not into the body: …/verify?" + name + "=true"})
		}
	}
	return errs
}

// addVerify adds an operation of ours; data.md has none like it.
func (a *API) addVerify() {
	type in struct {
		ChannelPath
		VerifyQuery
	}
	register(a, operation{
		ID: "verify-channel", Method: http.MethodPost, Path: "/organizations/{organization_id}/channels/{channel_id}/verify",
		Summary: "Compare a channel's index with its storage and its change journal", Tag: "channel", Family: familyLake, Op: authz.ChannelDelete,
	}, func(ctx context.Context, in *in) (*VerifyAnswer, error) {
		opt, err := in.options()
		if err != nil {
			return nil, err
		}
		c, err := a.Lake.Channel(ctx, caller(ctx).Org, plat.ChannelID(in.Channel))
		if err != nil {
			return nil, err
		}
		if c.Linked { // its files are another bucket's objects: that is all they can be compared with
			v, err := a.Links.Verify(ctx, c.ID, opt.Repair)
			r := journal.Report{Files: v.Objects}
			if v.Differ > 0 {
				r.Findings = []journal.Finding{{Kind: "out of step with the bucket", Found: v.Differ, Repaired: v.Settled, Examples: v.Examples}}
			}
			return &VerifyAnswer{Report: r, Left: r.Left()}, err
		}
		r, err := a.Verify(ctx, c, opt)
		return &VerifyAnswer{Report: r, Left: r.Left()}, err
	})
}

func flag(field, s string) (bool, error) {
	switch s {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, plat.InvalidField(field, textNoFlag)
}
