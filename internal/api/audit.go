// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"panal/internal/audit"
	"panal/internal/authn"
	"panal/internal/authz"
	"panal/internal/plat"
)

// AuditExempt names the mutating operations that leave no audit row, each with the
// reason. A test holds every other one to its row.
func AuditExempt() map[string]string {
	const inference = "a call of a model changes nothing of the platform; there are thousands a second, and metrics count them"
	exempt := map[string]string{
		"post-feed":             "a storage event: there are thousands a second, and the objects and the files they lead to are the record",
		"post-upload-events":    "a storage event: as post-feed",
		"ingest-logs":           "log lines of a workload: they are a record themselves",
		"put-result":            "the result of an asynchronous call of a model: as the call itself",
		"report-job-statistics": "statistics of a job while it trains: the job keeps them as its history",
	}
	for _, by := range []string{"default", "alias", "service"} {
		for _, m := range []string{"get", "post", "put"} {
			exempt["infer-"+by+"-"+m] = inference
		}
	}
	return exempt
}

// audits tells whether calls of an operation leave an audit row.
func audits(o operation, exempt map[string]string) bool {
	_, free := exempt[o.ID]
	return !free && o.Method != http.MethodGet && o.Method != http.MethodHead
}

// audited is a call that leaves a row, until its answer begins.
type audited struct {
	row   audit.Row
	named string // the organization that the path names
}

// watch notes that the request leaves a row. param returns path parameters.
func (a *API) watch(r *http.Request, o operation, param func(string) string) {
	info := infoOf(r.Context())
	if info == nil || a.Audit == nil {
		return
	}
	w := &audited{row: audit.Row{
		Time: a.Now().UTC(), ID: info.id, Actor: audit.ActorNone, Operation: o.ID, Method: r.Method, Path: plat.HideTokens(r.URL.Path), Source: sourceOf(r),
		Targets: map[string]string{},
	}}
	for _, name := range pathParams(o.Path) {
		if v := param(name); name == "organization_id" {
			w.named = v
			if o.Op == authz.OrgManage {
				w.row.Targets[name] = plat.HideTokens(v)
			}
		} else if v != "" {
			w.row.Targets[name] = plat.HideTokens(v)
		}
	}
	info.audit = w
}

// touched notes what a call made or changed where its path doesn't say: ids and numbers,
// never a name or a value of a secret.
func touched(ctx context.Context, target, id string) {
	if info := infoOf(ctx); info != nil && info.audit != nil && id != "" {
		info.audit.row.Targets[target] = plat.HideTokens(id)
	}
}

const actorSignedURL = "signed_url"

// acts notes who makes the request's call: as soon as it is known, so that a refusal
// names its actor too.
func acts(ctx context.Context, id authn.Identity) {
	info := infoOf(ctx)
	if info == nil {
		return
	}
	info.org, info.user = id.Org, id.User
	if info.audit == nil {
		return
	}
	row := &info.audit.row
	row.Org, row.Actor, row.ActorID = id.Org, string(id.Kind), string(id.User)
	switch id.Kind {
	case authn.KindContainer:
		row.ActorID = string(id.Scope.Workload)
	case authn.KindDatasource:
		row.ActorID = string(id.Datasource)
	case authn.KindUser:
	}
}

// actsBySignature is acts for a signed URL: what it is for belongs to an organization.
func actsBySignature(ctx context.Context, org plat.OrgID) {
	if info := infoOf(ctx); info != nil && info.audit != nil {
		info.audit.row.Actor, info.audit.named = actorSignedURL, string(org)
	}
}

// sourceOf is the address that a request came from: behind trusted proxies, the
// client's.
func sourceOf(r *http.Request) string {
	if addr := peerOf(r.Context()).Addr; addr.IsValid() {
		return addr.String()
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return r.RemoteAddr
}

// record leaves the row of a call whose answer is about to begin.
func (a *API) record(ctx context.Context, w *audited, status int) {
	row := w.row
	row.Status = status
	ctx = context.WithoutCancel(ctx) // the call has happened, whoever still listens
	if row.Org == "" {
		row.Org = a.auditOrg(ctx, w.named)
	}
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests:
		a.Audit.Refused(ctx, row)
	default:
		a.Audit.Record(ctx, row)
	}
}

// auditOrg returns whose row a call without an identity is: of the organization that
// it names, if there is one, else of the operator's.
func (a *API) auditOrg(ctx context.Context, named string) plat.OrgID {
	if named != "" {
		if id, err := a.names.lookup(ctx, a, named); err == nil {
			return id
		}
	}
	id, err := a.Orgs.Operator(ctx)
	if err != nil {
		return ""
	}
	return id
}

// AuditRow is one mutating call.
type AuditRow struct {
	Time           string            `json:"time"`
	OrganizationID string            `json:"organization_id" doc:"of the actor"`
	Actor          string            `json:"actor" doc:"user, container, datasource, signed_url, or none: without valid credentials"`
	ActorID        string            `json:"actor_id"`
	Operation      string            `json:"operation" doc:"as in this specification"`
	Method         string            `json:"method"`
	Path           string            `json:"path" doc:"without its query"`
	Targets        map[string]string `json:"targets" doc:"ids that the path names, and of what the call made; of changes to many, their number"`
	Status         int               `json:"status"`
	RequestID      string            `json:"request_id"`
	Source         string            `json:"source" doc:"address of the caller"`
	Missed         int64             `json:"missed" doc:"refused calls before this one that left no row: theirs are bounded in rate"`
}

// AuditAnswer is a page of rows, newest first.
type AuditAnswer struct {
	Rows          []AuditRow `json:"rows"`
	NextPageToken *string    `json:"next_page_token" doc:"null on the last page"`
}

func auditWire(r audit.Row) AuditRow {
	if r.Targets == nil {
		r.Targets = map[string]string{}
	}
	return AuditRow{
		Time: r.Time.Format(plat.TimeMicroZ), OrganizationID: string(r.Org), Actor: r.Actor, ActorID: r.ActorID, Operation: r.Operation,
		Method: r.Method, Path: r.Path, Targets: r.Targets, Status: r.Status, RequestID: r.ID, Source: r.Source, Missed: r.Missed,
	}
}

func (a *API) addAudit() {
	type listIn struct {
		OrgPath
		Start     string `query:"start" doc:"first moment, e.g. 2026-01-02T15:04:05Z"`
		End       string `query:"end" doc:"the moment after the last"`
		Actor     string `query:"actor" doc:"id of a user, a workload or a datasource"`
		Operation string `query:"operation" doc:"an operation's id, e.g. delete-file"`
		Limit     string `query:"limit" doc:"1 to 1000, default 100"`
		PageToken string `query:"next_page_token" doc:"of the page before; replaces all others"`
	}
	register(a, operation{
		ID: "list-audit", Method: http.MethodGet, Path: "/organizations/{organization_id}/audit", Tag: "audit", Family: familyLake, Op: authz.AuditList,
		Summary: "List the mutating calls of the organization's members, newest first (admins only)",
	}, func(ctx context.Context, in *listIn) (*AuditAnswer, error) {
		o, err := a.Orgs.Get(ctx, in.Org)
		if err != nil {
			return nil, err
		}
		q := audit.Query{Org: o.ID, Actor: strings.TrimPrefix(in.Actor, "user-"), Operation: in.Operation}
		if in.PageToken != "" {
			if q, err = audit.ParseToken(o.ID, in.PageToken); err != nil {
				return nil, err
			}
		} else {
			if q.Limit, err = a.pageSize("limit", in.Limit, 100); err != nil {
				return nil, err
			}
			for _, t := range []struct {
				name, text string
				to         *time.Time
			}{{"start", in.Start, &q.From}, {"end", in.End, &q.To}} {
				if t.text == "" {
					continue
				}
				if *t.to, err = plat.ParseTime(t.text); err != nil {
					return nil, plat.InvalidField(t.name, "%q is not a time; write it like 2026-01-02T15:04:05Z", t.text)
				}
			}
		}
		for name, v := range map[string]string{"actor": q.Actor, "operation": q.Operation} {
			if strings.IndexByte(v, 0) >= 0 || !utf8.ValidString(v) { // PostgreSQL can't compare with it
				return nil, plat.InvalidField(name, "must be UTF-8 text without NUL")
			}
		}
		rows, next, err := a.Audit.List(ctx, q)
		if err != nil {
			return nil, err
		}
		out := &AuditAnswer{Rows: make([]AuditRow, len(rows))}
		for i, r := range rows {
			out.Rows[i] = auditWire(r)
		}
		if next != "" {
			out.NextPageToken = &next
		}
		return out, nil
	})
}
