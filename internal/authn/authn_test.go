// SPDX-License-Identifier: Apache-2.0

package authn_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"panal/internal/authn"
	"panal/internal/plat"
)

// store is a token store whose answers a test sets.
type store struct {
	authn.Store
	tokens map[string]authn.Token
	role   authn.Role
	err    error
	calls  int
}

func (s *store) TokenByHash(_ context.Context, hash string) (authn.Token, authn.Role, error) {
	s.calls++
	if s.err != nil {
		return authn.Token{}, "", s.err
	}
	t, ok := s.tokens[hash]
	if !ok {
		return authn.Token{}, "", plat.NotFound("token", "")
	}
	return t, s.role, nil
}

func basic(user, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+secret))
}

func newStore() *store {
	return &store{role: authn.RoleDeveloper, tokens: map[string]authn.Token{
		authn.HashToken("pat"):     {Kind: authn.KindUser, Org: "o1", User: "u1"},
		authn.HashToken("job"):     {Kind: authn.KindContainer, Org: "o1", User: "u1", Scope: authn.Scope{Job: "j1"}},
		authn.HashToken("camera"):  {Kind: authn.KindDatasource, Org: "o1", Datasource: "d1", Channels: []plat.ChannelID{"c1"}},
		authn.HashToken("expired"): {Kind: authn.KindUser, Org: "o1", User: "u1", ExpiresAt: time.Unix(1000, 0)},
	}}
}

func TestHeader(t *testing.T) {
	now := func() time.Time { return time.Unix(2000, 0) }
	for _, c := range []struct {
		what, header string
		want         error
	}{
		{"user", basic("user-u1", "pat"), nil},
		{"user without prefix", basic("u1", "pat"), nil},
		{"bearer", "Bearer pat", nil},
		{"scheme in lower case", "bearer pat", nil},
		{"container", "Bearer job", nil},
		{"datasource", basic("datasource-d1", "camera"), nil},
		{"datasource as a user", basic("user-d1", "camera"), plat.ErrUnauthenticated},
		{"datasource without prefix", basic("d1", "camera"), plat.ErrUnauthenticated},
		{"datasource by bearer", "Bearer camera", plat.ErrUnauthenticated},
		{"other datasource's name", basic("datasource-d2", "camera"), plat.ErrUnauthenticated},
		{"no datasource's name", basic("datasource-", "camera"), plat.ErrUnauthenticated},
		{"user's token as a datasource's", basic("datasource-u1", "pat"), plat.ErrUnauthenticated},
		{"container's token as a datasource's", basic("datasource-", "job"), plat.ErrUnauthenticated},
		{"nothing", "", plat.ErrUnauthenticated},
		{"other user's name", basic("user-u2", "pat"), plat.ErrUnauthenticated},
		{"container's token as a user's", basic("user-u1", "job"), plat.ErrUnauthenticated},
		{"unknown", "Bearer nonsense", plat.ErrUnauthenticated},
		{"empty secret", basic("user-u1", ""), plat.ErrUnauthenticated},
		{"no name", basic("", "pat"), plat.ErrUnauthenticated},
		{"expired", "Bearer expired", plat.ErrUnauthenticated},
		{"not base64", "Basic %%%", plat.ErrUnauthenticated},
		{"no colon", "Basic " + base64.StdEncoding.EncodeToString([]byte("pat")), plat.ErrUnauthenticated},
		{"unknown scheme", "Digest x", plat.ErrUnauthenticated},
		{"endless", "Bearer " + strings.Repeat("x", 5000), plat.ErrUnauthenticated},
	} {
		_, err := authn.New(newStore(), now).Header(t.Context(), c.header)
		if !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "pat") {
			t.Errorf("%s: the error repeats the secret: %v", c.what, err)
		}
	}
}

func TestContainerNeverHasItsOwnersRole(t *testing.T) {
	s := newStore()
	s.role = "" // as the store's contract says for containers
	id, err := authn.New(s, plat.SystemClock).Header(t.Context(), "Bearer job")
	if err != nil || id.Kind != authn.KindContainer || id.Role != "" || id.Scope.Job != "j1" {
		t.Errorf("identity = %+v, %v", id, err)
	}
}

// TestClockSetBack: a revoked token must not live on until a clock that was set back
// has caught up.
func TestClockSetBack(t *testing.T) {
	s, now := newStore(), time.Unix(9000, 0)
	a := authn.New(s, func() time.Time { return now })
	if _, err := a.Header(t.Context(), "Bearer pat"); err != nil {
		t.Fatal(err)
	}
	delete(s.tokens, authn.HashToken("pat"))
	now = now.Add(-time.Hour)
	if _, err := a.Header(t.Context(), "Bearer pat"); !errors.Is(err, plat.ErrUnauthenticated) {
		t.Errorf("revoked, an hour earlier: %v", err)
	}
}

// TestStrangersWaitForEachOther: made-up tokens keep the store busy with a few
// questions at a time, and a known token is not held up by them.
func TestStrangersWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &countingStore{store: newStore()}
		a := authn.New(s, plat.SystemClock)
		if _, err := a.Header(t.Context(), "Bearer pat"); err != nil {
			t.Fatal(err)
		}
		s.slow = time.Second
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				if _, err := a.Header(t.Context(), fmt.Sprint("Bearer made-up-", i)); !errors.Is(err, plat.ErrUnauthenticated) {
					t.Errorf("a made-up token: %v", err)
				}
			})
		}
		time.Sleep(5 * time.Second) // the known one has to be asked for again
		start := time.Now()
		if _, err := a.Header(t.Context(), "Bearer pat"); err != nil || time.Since(start) != time.Second {
			t.Errorf("a known token: %v after %s", err, time.Since(start))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := a.Header(ctx, "Bearer left"); !errors.Is(err, context.Canceled) {
			t.Errorf("a caller that has left: %v", err)
		}
		all.Wait()
		if s.most > 9 { // the known one is one more
			t.Errorf("%d questions at a time", s.most)
		}
	})
}

// countingStore knows how many questions it had at a time.
type countingStore struct {
	*store
	slow time.Duration

	mu        sync.Mutex
	now, most int
}

func (s *countingStore) TokenByHash(ctx context.Context, hash string) (authn.Token, authn.Role, error) {
	s.mu.Lock()
	s.now++
	s.most = max(s.most, s.now)
	s.mu.Unlock()
	time.Sleep(s.slow)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now--
	return s.store.TokenByHash(ctx, hash)
}

// TestStaticStability: with the store down, a token seen lately goes on working
// and a new one is "try again", not "wrong".
func TestStaticStability(t *testing.T) {
	s, now := newStore(), time.Unix(2000, 0)
	a := authn.New(s, func() time.Time { return now })
	if _, err := a.Header(t.Context(), "Bearer pat"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Header(t.Context(), "Bearer pat"); err != nil || s.calls != 1 {
		t.Errorf("a fresh token asked the store again: %d calls, %v", s.calls, err)
	}
	s.err = errors.New("connection refused")
	now = now.Add(20 * time.Minute)
	if _, err := a.Header(t.Context(), "Bearer pat"); err != nil {
		t.Errorf("store down, token seen: %v", err)
	}
	if _, err := a.Header(t.Context(), "Bearer job"); !errors.Is(err, plat.ErrUnavailable) {
		t.Errorf("store down, new token: %v, want ErrUnavailable", err)
	}
	now = now.Add(11 * time.Minute)
	if _, err := a.Header(t.Context(), "Bearer pat"); !errors.Is(err, plat.ErrUnavailable) {
		t.Errorf("store down for longer than a stale token may live: %v", err)
	}
	s.err = nil
	now = now.Add(time.Second) // somebody finds out that the store is back
	delete(s.tokens, authn.HashToken("pat"))
	if _, err := a.Header(t.Context(), "Bearer pat"); !errors.Is(err, plat.ErrUnauthenticated) {
		t.Errorf("revoked: %v", err)
	}
}

func TestDatasourceHasItsLinksAndNoRole(t *testing.T) {
	s := newStore()
	s.role = ""
	id, err := authn.New(s, plat.SystemClock).Header(t.Context(), basic("datasource-d1", "camera"))
	if err != nil || id.Kind != authn.KindDatasource || id.Role != "" || id.User != "" || id.Datasource != "d1" || len(id.Channels) != 1 {
		t.Errorf("identity = %+v, %v", id, err)
	}
}

// TestForgetCountsAtOnce: what is revoked in this process is refused by the next
// request, also when a slow answer of the store from before comes in after it.
func TestForgetCountsAtOnce(t *testing.T) {
	for what, c := range map[string]struct {
		header, secret string
		forget         func(*authn.Authenticator)
	}{
		"user":       {"Bearer pat", "pat", func(a *authn.Authenticator) { a.ForgetUser("u1") }},
		"datasource": {basic("datasource-d1", "camera"), "camera", func(a *authn.Authenticator) { a.ForgetDatasource("d1") }},
	} {
		s := newStore()
		a := authn.New(s, plat.SystemClock)
		if _, err := a.Header(t.Context(), c.header); err != nil {
			t.Fatal(err)
		}
		delete(s.tokens, authn.HashToken(c.secret))
		c.forget(a)
		if _, err := a.Header(t.Context(), c.header); !errors.Is(err, plat.ErrUnauthenticated) {
			t.Errorf("%s, forgotten: %v", what, err)
		}
		slow := &slowStore{store: newStore()}
		a = authn.New(slow, plat.SystemClock)
		slow.meanwhile = func() {
			delete(slow.tokens, authn.HashToken(c.secret))
			c.forget(a)
		}
		if _, err := a.Header(t.Context(), c.header); err != nil { // asked before it was revoked
			t.Fatal(err)
		}
		slow.meanwhile = nil
		if _, err := a.Header(t.Context(), c.header); !errors.Is(err, plat.ErrUnauthenticated) {
			t.Errorf("%s, revoked while the store answered: %v", what, err)
		}
	}
}

// slowStore has time for something else before its answer arrives.
type slowStore struct {
	*store
	meanwhile func()
}

func (s *slowStore) TokenByHash(ctx context.Context, hash string) (authn.Token, authn.Role, error) {
	t, role, err := s.store.TokenByHash(ctx, hash)
	if s.meanwhile != nil {
		s.meanwhile()
	}
	return t, role, err
}
