// SPDX-License-Identifier: Apache-2.0

// Package audit keeps who changed what: a row for each mutating call of the API.
//
// Invariants: a row is durable before the call that it tells of is answered; rows are
// only added, and dropped whole when they are older than the time to live; a row holds
// no URL's query, no header and no body, so no secret; what an attacker without rights can
// add is bounded in rate (Refused).
package audit

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"panal/internal/plat"
)

// Row tells of one call.
type Row struct {
	// Org is the organization whose admins may read the row: the actor's.
	Org  plat.OrgID
	Time time.Time
	// ID is the request's id.
	ID string
	// Actor is what kind of credentials the caller had (user, container, datasource,
	// signed_url; none), ActorID which.
	Actor, ActorID string
	// Operation is the operation's id in the API's specification.
	Operation    string
	Method, Path string
	// Targets are the ids that the path names and those of what the call made; of changes
	// to many things, their number and the search that found them.
	Targets map[string]string
	Status  int
	// Source is the address that the call came from.
	Source string
	// Missed is how many refused calls before this one left no row of their own.
	Missed int64
}

// Query selects rows of an organization, newest first.
type Query struct {
	Org       plat.OrgID
	From, To  time.Time // [From, To); zero: no bound
	Actor     string    // id of the actor; "" for all
	Operation string    // "" for all
	Limit     int
	AfterTime time.Time // the last row of the page before; zero: from the newest
	AfterID   string
}

// Store keeps rows. Implemented by sqlstore; package audittest holds every
// implementation to this contract. All methods are safe for concurrent use.
type Store interface {
	// Append adds rows durably, all or none. A row that is there already (same
	// organization, time and id) is left as it is.
	Append(ctx context.Context, rows []Row) error
	// List returns up to q.Limit rows, newest first, and whether more follow.
	List(ctx context.Context, q Query) (rows []Row, more bool, err error)
	// Trim drops up to limit rows older than t of every organization and returns how
	// many there were.
	Trim(ctx context.Context, t time.Time, limit int) (int64, error)
}

// Config is what a Service stands on; only Store is needed.
type Config struct {
	Store Store
	Now   plat.Clock
	Log   *slog.Logger
	// TTL is how long rows stay; default 400 days.
	TTL time.Duration
	// Spool is a file for rows while Store can't take them; empty: the log gets them.
	Spool string
	// SpoolFirst: all rows go to Spool, and Settle gives them to Store, many at a time.
	SpoolFirst bool
	// Burst is how many refused calls leave a row before their rate counts; default
	// 100. See Refused.
	Burst float64
}

// DefaultTTL is how long rows stay: a year and the weeks in which one asks about it.
const DefaultTTL = 400 * 24 * time.Hour

// Service is the rules around the audit. It is safe for concurrent use.
type Service struct {
	cfg   Config
	group *group
	spool *spool // or nil

	mu      sync.Mutex
	refused map[plat.OrgID]*bucket
}

// New returns a Service.
func New(cfg Config) *Service {
	if cfg.TTL == 0 {
		cfg.TTL = DefaultTTL
	}
	if cfg.Burst == 0 {
		cfg.Burst = refusedBurst
	}
	if cfg.Now == nil {
		cfg.Now = plat.SystemClock
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{cfg: cfg, refused: map[plat.OrgID]*bucket{}}
	if cfg.Spool != "" {
		s.spool = &spool{path: cfg.Spool}
	}
	s.group = newGroup(s.append, s.owe)
	return s
}

// Bounds of a row's texts.
const (
	maxPath   = 1 << 10
	maxTarget = 256
)

// append makes rows durable.
func (s *Service) append(ctx context.Context, rows []Row) error {
	if s.spool != nil && s.cfg.SpoolFirst {
		err := s.spool.add(rows)
		if err == nil {
			return nil
		}
		s.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "the audit's file takes no rows; the database gets them at once", slog.String(plat.LogError, err.Error()))
	}
	return s.cfg.Store.Append(ctx, rows)
}

// owe keeps rows that the store did not take, with its reason.
func (s *Service) owe(rows []Row, reason error) error {
	if s.spool == nil {
		return reason
	}
	if err := s.spool.add(rows); err != nil {
		return errors.Join(reason, err)
	}
	return nil
}

// Settle hands the rows of the spool to the store, and returns how many there were.
// Called at the start and every few seconds.
func (s *Service) Settle(ctx context.Context) (int, error) {
	if s.spool == nil {
		return 0, nil
	}
	return s.spool.drain(ctx, s.cfg.Store.Append)
}

// Record stores a row and returns when it is durable: in the store or, while that
// can't take it, in the spool. It cannot undo the call: if both fail, the log gets the
// row, at error level, so that it is not lost.
func (s *Service) Record(ctx context.Context, r Row) {
	r.Path = clip(r.Path, maxPath)
	for k, v := range r.Targets {
		r.Targets[k] = clip(v, maxTarget)
	}
	err := s.group.do(ctx, r)
	if err == nil {
		return
	}
	raw, _ := json.Marshal(r) // strings, numbers and times always encode
	s.cfg.Log.LogAttrs(ctx, slog.LevelError, "an audit row could not be stored; this is it",
		slog.String(plat.LogError, err.Error()), slog.String("row", string(raw)))
}

// clip makes s storable text of at most n bytes.
func clip(s string, n int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// ActorNone is the Actor of a call without valid credentials.
const ActorNone = "none"

// Refused is Record for a call that was refused its credentials, its rights or its
// rate. Of those each organization leaves a burst of 100 and then one a second, and
// all calls without credentials together as many; the next row says how many were
// missed.
func (s *Service) Refused(ctx context.Context, r Row) {
	who := r.Org
	if r.Actor == ActorNone { // such calls can't use up what shows an organization's
		who = ""
	}
	s.mu.Lock()
	b := s.refused[who]
	if b == nil {
		b = &bucket{left: s.cfg.Burst, at: r.Time}
		s.refused[who] = b
	}
	ok := b.take(r.Time, s.cfg.Burst)
	if ok {
		r.Missed, b.missed = b.missed, 0
	} else {
		b.missed++
	}
	s.mu.Unlock()
	if ok {
		s.Record(ctx, r)
	}
}

const (
	refusedBurst = 100
	refusedRate  = 1 // a second
)

// bucket is a token bucket. There is one for each organization that exists.
type bucket struct {
	left   float64
	at     time.Time
	missed int64
}

func (b *bucket) take(now time.Time, burst float64) bool {
	if d := now.Sub(b.at).Seconds(); d > 0 {
		b.left, b.at = min(burst, b.left+d*refusedRate), now
	}
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// MaxPage is the most rows of one page.
const MaxPage = 1000

// List returns a page of rows, newest first, and the token of the next, "" on the
// last.
func (s *Service) List(ctx context.Context, q Query) ([]Row, string, error) {
	q.Limit = min(max(q.Limit, 1), MaxPage)
	if s.cfg.SpoolFirst {
		if _, err := s.Settle(ctx); err != nil {
			return nil, "", fmt.Errorf("list audit of organization %s: %w", q.Org, err)
		}
	}
	rows, more, err := s.cfg.Store.List(ctx, q)
	if err != nil {
		return nil, "", fmt.Errorf("list audit of organization %s: %w", q.Org, err)
	}
	if !more || len(rows) == 0 {
		return rows, "", nil
	}
	last := rows[len(rows)-1]
	q.AfterTime, q.AfterID = last.Time, last.ID
	return rows, q.token(), nil
}

// pageToken is the whole state of a listing. It names a row, so that rows which come
// meanwhile neither repeat nor hide others.
type pageToken struct {
	Org       plat.OrgID `json:"g"`
	From      int64      `json:"f,omitempty"`
	To        int64      `json:"u,omitempty"`
	Actor     string     `json:"a,omitempty"`
	Operation string     `json:"o,omitempty"`
	Limit     int        `json:"n"`
	At        int64      `json:"t"`
	ID        string     `json:"i"`
}

func (q Query) token() string {
	raw, _ := json.Marshal(pageToken{ // strings and numbers always encode
		Org: q.Org, From: micros(q.From), To: micros(q.To), Actor: q.Actor, Operation: q.Operation, Limit: q.Limit,
		At: micros(q.AfterTime), ID: q.AfterID,
	})
	return base64.RawURLEncoding.EncodeToString(raw)
}

// ParseToken returns the query that a token of List stands for; ErrInvalid for
// anything else, and for another organization's.
func ParseToken(org plat.OrgID, token string) (Query, error) {
	var t pageToken
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil {
		err = json.Unmarshal(raw, &t)
	}
	if err != nil || t.Org != org || t.Limit < 1 || t.At <= 0 || !utf8.ValidString(t.Actor+t.Operation+t.ID) || strings.ContainsRune(t.Actor+t.Operation+t.ID, 0) {
		return Query{}, plat.InvalidField("next_page_token", "is not a token of this list")
	}
	return Query{
		Org: org, From: fromMicros(t.From), To: fromMicros(t.To), Actor: t.Actor, Operation: t.Operation, Limit: min(t.Limit, MaxPage),
		AfterTime: fromMicros(t.At), AfterID: t.ID,
	}, nil
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// trimBatch bounds the rows that one transaction drops.
const trimBatch = 10_000

// Trim drops the rows that are past their time to live, and returns how many.
func (s *Service) Trim(ctx context.Context) (int64, error) {
	total := int64(0)
	for {
		n, err := s.cfg.Store.Trim(ctx, s.cfg.Now().Add(-s.cfg.TTL), trimBatch)
		total += n
		if err != nil || n == 0 {
			return total, err
		}
	}
}
