// SPDX-License-Identifier: Apache-2.0

// Package authn turns the credentials of a request into an Identity, once per
// request, wherever it enters. Nobody trusts an identity header.
//
// Invariants: a token is stored and looked up only as its SHA-256; a container's
// token never carries its owner's role; the store being down makes new tokens
// ErrUnavailable while those seen lately go on (static stability).
package authn

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"panal/internal/plat"
	"panal/internal/x/outage"
)

// Role is a user's role in the organization (data.md §3).
type Role string

// Roles.
const (
	RoleAdmin     Role = "admin"
	RoleDeveloper Role = "developer"
	RoleRegular   Role = "regular"
)

// Kind tells what holds the credential.
type Kind string

// Kinds of identity.
const (
	KindUser      Kind = "user"
	KindContainer Kind = "container"
	// KindDatasource is a machine that sends to the channels it is linked to.
	KindDatasource Kind = "datasource"
)

// Scope is what a container token may touch (compute.md §13.3). Zero for users.
type Scope struct {
	Workload plat.WorkloadID
	// Training containers: their definition, version and job.
	Definition     plat.JobDefinitionID
	DefinitionName string // agents name the definition by it in paths
	Version        int
	Job            plat.JobID
	// Service containers: their deployment, code version and service, and the
	// models that they may download.
	Deployment  plat.DeploymentID
	CodeVersion plat.VersionID
	Service     plat.ServiceID
	Models      []plat.ModelID
}

// Identity is an authenticated caller.
type Identity struct {
	Kind  Kind
	Org   plat.OrgID
	User  plat.UserID // the owner; for a container, who created the workload
	Role  Role        // empty for a container
	Scope Scope
	// Credential is the token's HashToken: it tells tokens of one user apart.
	Credential string
	// Datasource, and the channels that it is linked to, in order; for a datasource only.
	Datasource plat.DatasourceID
	Channels   []plat.ChannelID
	// Operator: of the organization whose admins run the installation. Set by the
	// edge (ADR 0009).
	Operator bool
	// Ended is true for a container token whose workload has ended: it is good
	// only for results and logs, until it expires.
	Ended bool
}

// Token is a stored credential.
type Token struct {
	Hash       string       // HashToken of the secret
	ID         plat.TokenID // a user's; empty for others
	Name       string       // what its owner calls it
	Kind       Kind
	Org        plat.OrgID
	User       plat.UserID
	Scope      Scope
	Datasource plat.DatasourceID
	// Channels are those that the datasource is linked to, in order. TokenByHash
	// fills it in; it is not part of what is stored with the token.
	Channels  []plat.ChannelID
	CreatedAt time.Time
	EndedAt   time.Time // container: when its workload ended; zero while it lives
	ExpiresAt time.Time // zero = never
}

// Store keeps tokens. Implemented by sqlstore.
type Store interface {
	// CreateToken stores t; ErrExists for a hash that is there.
	CreateToken(ctx context.Context, t Token) error
	// TokenByHash returns the token and its user's current role (empty for
	// containers and datasources), and a datasource's links; ErrNotFound for an
	// unknown or deleted one.
	TokenByHash(ctx context.Context, hash string) (Token, Role, error)
	// EndWorkloadTokens marks the workload's tokens ended at and expiring at.
	EndWorkloadTokens(ctx context.Context, w plat.WorkloadID, at, expires time.Time) error
	// DeleteExpiredTokens removes tokens that expired before t.
	DeleteExpiredTokens(ctx context.Context, t time.Time) error
}

// HashToken returns the form in which a token is stored.
func HashToken(secret string) string {
	return digest(sha256.Sum256([]byte(secret))).String()
}

func (d digest) String() string { return hex.EncodeToString(d[:]) }

const (
	freshFor  = 2 * time.Second // how long a revocation may go unnoticed while the store answers
	cacheSize = 50_000          // some 25 MB
	maxHeader = 4 << 10
	// maxStrangers is enough for thousands a second.
	maxStrangers = 8
	textWrong    = "the token is unknown, expired or of another user"
)

// Authenticator authenticates requests. It is safe for concurrent use.
type Authenticator struct {
	store Store
	now   plat.Clock
	watch *outage.Watch
	// strangers is full while maxStrangers tokens that are not known are being looked
	// up, so that who sends made-up ones takes neither the store nor its connections
	// from those who are known.
	strangers chan struct{}

	mu    sync.Mutex
	cache map[digest]*cached
	// forgets counts what was forgotten: an answer that the store gave before is
	// not remembered after.
	forgets uint64
}

// digest is the SHA-256 of a token: what HashToken is the text of.
type digest [sha256.Size]byte

// cached is what the store said of a token. It is never changed.
type cached struct {
	token Token
	role  Role
	at    time.Time
}

// New returns an Authenticator over s.
func New(s Store, now plat.Clock) *Authenticator {
	return &Authenticator{store: s, now: now, watch: new(outage.Watch), strangers: make(chan struct{}, maxStrangers), cache: map[digest]*cached{}}
}

// Share makes the Authenticator know of the store's outages what others know, and
// bounds by the same grace how long tokens that were seen go on meanwhile. It is
// called before the first request.
func (a *Authenticator) Share(w *outage.Watch) { a.watch = w }

// Request authenticates an HTTP request by its Authorization header: Basic
// "user-<id>:<token>" or "datasource-<id>:<secret>", or Bearer. ErrUnauthenticated when there is none or it is
// wrong; ErrUnavailable when it can't be checked now.
func (a *Authenticator) Request(r *http.Request) (Identity, error) {
	return a.Header(r.Context(), r.Header.Get("Authorization"))
}

// Header authenticates the value of an Authorization header.
func (a *Authenticator) Header(ctx context.Context, h string) (Identity, error) {
	if h == "" {
		return Identity{}, plat.Errorf(plat.ErrUnauthenticated, "no credentials; send Authorization: Basic user-<id>:<token> or Bearer <token>")
	}
	if len(h) > maxHeader {
		return Identity{}, plat.Errorf(plat.ErrUnauthenticated, "the Authorization header is longer than %d bytes", maxHeader)
	}
	scheme, rest, _ := strings.Cut(h, " ")
	rest = strings.TrimSpace(rest)
	switch {
	case strings.EqualFold(scheme, "bearer"):
		return a.token(ctx, []byte(rest), func(t *Token) bool { return t.Kind != KindDatasource })
	case strings.EqualFold(scheme, "basic"):
		var room [256]byte // most fit; no copy of a secret is left behind
		raw, err := base64.StdEncoding.AppendDecode(room[:0], []byte(rest))
		if err != nil {
			return Identity{}, plat.Errorf(plat.ErrUnauthenticated, "the Basic credentials are not base64")
		}
		name, secret, ok := bytes.Cut(raw, []byte(":"))
		if !ok || len(name) == 0 {
			return Identity{}, plat.Errorf(plat.ErrUnauthenticated, "the Basic credentials are not user-<id>:<token>")
		}
		if id, ok := bytes.CutPrefix(name, []byte("datasource-")); ok {
			return a.token(ctx, secret, func(t *Token) bool { return t.Kind == KindDatasource && string(t.Datasource) == string(id) })
		}
		user := bytes.TrimPrefix(name, []byte("user-"))
		return a.token(ctx, secret, func(t *Token) bool { return t.Kind == KindUser && string(t.User) == string(user) })
	}
	return Identity{}, plat.Errorf(plat.ErrUnauthenticated, "unknown authorization scheme; use Basic or Bearer")
}

// token authenticates by secret; own tells whether the token is that of the name
// that came with it.
func (a *Authenticator) token(ctx context.Context, secret []byte, own func(*Token) bool) (Identity, error) {
	if len(secret) == 0 {
		return Identity{}, plat.Errorf(plat.ErrUnauthenticated, textWrong)
	}
	c, err := a.lookup(ctx, sha256.Sum256(secret))
	if err != nil {
		return Identity{}, err
	}
	t, now := &c.token, a.now()
	if !t.ExpiresAt.IsZero() && !now.Before(t.ExpiresAt) || !own(t) {
		return Identity{}, plat.Errorf(plat.ErrUnauthenticated, textWrong)
	}
	return Identity{
		Kind: t.Kind, Org: t.Org, User: t.User, Role: c.role, Scope: t.Scope, Ended: !t.EndedAt.IsZero(),
		Datasource: t.Datasource, Channels: t.Channels, Credential: t.Hash,
	}, nil
}

// lookup finds a token by hash, from the cache while it is fresh, and from a
// stale cache while the store can't answer. Unknown hashes are not cached: a
// caller must not be able to fill it with nonsense.
func (a *Authenticator) lookup(ctx context.Context, sum digest) (*cached, error) {
	now := a.now()
	a.mu.Lock()
	c, hit := a.cache[sum]
	forgets := a.forgets
	a.mu.Unlock()
	if hit {
		if age := now.Sub(c.at); age >= 0 && age < freshFor { // a clock set back makes nothing fresh again
			return c, nil
		}
	}
	if !hit {
		select {
		case a.strangers <- struct{}{}:
			defer func() { <-a.strangers }()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	hash, unknown := sum.String(), false
	var t Token
	var role Role
	err := a.watch.Ask(ctx, now, hit, func(ctx context.Context) (err error) {
		t, role, err = a.store.TokenByHash(ctx, hash)
		if unknown = errors.Is(err, plat.ErrNotFound); unknown {
			return nil
		}
		return err
	})
	switch {
	case unknown:
		a.forget(sum)
		return nil, plat.Errorf(plat.ErrUnauthenticated, textWrong)
	case err == nil:
		t.Hash = hash
		c = &cached{token: t, role: role, at: now}
		a.remember(sum, c, forgets)
		return c, nil
	case hit && a.watch.Good(c.at, now):
		return c, nil
	default:
		return nil, &plat.Error{Kind: plat.ErrUnavailable, Public: "credentials can't be checked right now; try again", Err: fmt.Errorf("look up token: %w", err)}
	}
}

func (a *Authenticator) remember(sum digest, c *cached, forgets uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if forgets != a.forgets {
		return
	}
	if len(a.cache) >= cacheSize {
		for k := range a.cache { // any will do: the map's order is random
			delete(a.cache, k)
			break
		}
	}
	a.cache[sum] = c
}

// forget drops a token from the cache.
func (a *Authenticator) forget(sum digest) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.forgets++
	delete(a.cache, sum)
}

// ForgetUser drops the user's own tokens from the cache: it was deleted, its role
// has changed, or one of its tokens has ended.
func (a *Authenticator) ForgetUser(u plat.UserID) {
	a.forgetAll(func(t *Token) bool { return t.Kind == KindUser && t.User == u })
}

// ForgetDatasource drops the datasource's credential from the cache: it was
// deleted, or its links have changed.
func (a *Authenticator) ForgetDatasource(d plat.DatasourceID) {
	a.forgetAll(func(t *Token) bool { return t.Kind == KindDatasource && t.Datasource == d })
}

func (a *Authenticator) forgetAll(which func(*Token) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.forgets++
	for sum, c := range a.cache { // at most cacheSize, at a change only
		if which(&c.token) {
			delete(a.cache, sum)
		}
	}
}

type ctxKey struct{}

// WithIdentity returns a context that carries id.
func WithIdentity(ctx context.Context, id Identity) context.Context {
	return context.WithValue(ctx, ctxKey{}, id)
}

// FromContext returns the identity that an edge put into ctx.
func FromContext(ctx context.Context) (Identity, bool) {
	id, ok := ctx.Value(ctxKey{}).(Identity)
	return id, ok
}
