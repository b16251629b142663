// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"panal/internal/blob"
	"panal/internal/plat"
)

// Bounds of asynchronous calls.
const (
	// ResultLife is how long a result is kept, and how long one may be waited for.
	ResultLife = 24 * time.Hour
	// MaxResultBytes is the longest body of a result.
	MaxResultBytes = 1 << 30
	// MaxAsyncCalls is how many calls of an organization may be waited for at a time.
	MaxAsyncCalls = 10_000
	// asyncBatch is how many calls one sweep looks at in one go.
	asyncBatch = 500
)

// AsyncCall is a call whose answer is fetched later (compute.md §8.3). Its body is
// an object of blob.
type AsyncCall struct {
	ID         string
	Org        plat.OrgID
	Deployment plat.DeploymentID
	Workload   plat.WorkloadID // the instance that took it; empty until it has
	TokenHash  string          // of what the instance shows when it brings the result
	CreatedAt  time.Time

	// The result; FinishedAt is zero while there is none.
	FinishedAt time.Time
	Status     int
	Headers    map[string]string
	Size       int64

	// Record, when not nil, has the result recorded once it is there.
	Record *AsyncRecord
}

// AsyncRecord is what the file of a recorded result says of its call. The call's input is a
// file already.
type AsyncRecord struct {
	Channel plat.ChannelID `json:"channel"`
	Service plat.ServiceID `json:"service"`
	Version string         `json:"version"` // label
	Request string         `json:"request"` // id of the request that was the call
	Method  string         `json:"method"`
	At      time.Time      `json:"at"`
	Input   plat.FileID    `json:"input"`
}

// Done tells whether the result is there.
func (c AsyncCall) Done() bool { return !c.FinishedAt.IsZero() }

// ResultKey is where the result's body is in blob.
func (c AsyncCall) ResultKey() string { return fmt.Sprintf("results/%s/%s", c.Org, c.ID) }

// expired tells whether the call is to be known no more.
func (c AsyncCall) expired(now time.Time) bool {
	at := c.CreatedAt
	if c.Done() {
		at = c.FinishedAt
	}
	return now.Sub(at) >= ResultLife
}

// AsyncStore keeps asynchronous calls.
type AsyncStore interface {
	// CreateAsync stores a new call. ErrExhausted when the organization has limit
	// calls without a result.
	CreateAsync(ctx context.Context, c AsyncCall, limit int) error
	// Async returns one call.
	Async(ctx context.Context, id string) (AsyncCall, error)
	// TakeAsync notes the instance that took a call. One that is finished or gone is
	// left as it is.
	TakeAsync(ctx context.Context, id string, w plat.WorkloadID) error
	// FinishAsync stores the result of a call: c's FinishedAt, Status, Headers and
	// Size. false: it has one already, which stays. ErrNotFound when it is gone.
	FinishAsync(ctx context.Context, c AsyncCall) (bool, error)
	// LostAsync returns calls that have no result and whose instance, which took them, is
	// no longer on record, oldest first, at most limit.
	LostAsync(ctx context.Context, limit int) ([]AsyncCall, error)
	// RecordAsync notes that a call's result is to be recorded, or with nil that it is.
	// ErrNotFound when the call is gone.
	RecordAsync(ctx context.Context, id string, r *AsyncRecord) error
	// UnrecordedAsync returns calls whose result is there and to be recorded, oldest
	// result first, after a given one (by result and id), at most limit.
	UnrecordedAsync(ctx context.Context, after AsyncCall, limit int) ([]AsyncCall, error)
	// CountOpenAsync returns how many calls an instance took that have no result.
	CountOpenAsync(ctx context.Context, w plat.WorkloadID) (int, error)
	// OldAsync returns calls that were finished before a time, or were created
	// before it and have no result, at most limit of each.
	OldAsync(ctx context.Context, before time.Time, limit int) ([]AsyncCall, error)
	// DeleteAsync forgets a call; an unknown one is not an error.
	DeleteAsync(ctx context.Context, id string) error
}

// StartAsync notes a call that is about to be sent; secret is what its instance
// brings the result with, hash its hash.
func (m *Manager) StartAsync(ctx context.Context, org plat.OrgID, dep plat.DeploymentID, hash string) (AsyncCall, error) {
	c := AsyncCall{ID: plat.NewUUID(), Org: org, Deployment: dep, TokenHash: hash, CreatedAt: m.Now()}
	if err := m.Store.CreateAsync(ctx, c, MaxAsyncCalls); err != nil {
		return AsyncCall{}, fmt.Errorf("note asynchronous call: %w", err)
	}
	return c, nil
}

// AsyncTaken notes which instance took a call.
func (m *Manager) AsyncTaken(ctx context.Context, c AsyncCall, w plat.WorkloadID) error {
	return m.Store.TakeAsync(ctx, c.ID, w)
}

// DropAsync forgets a call that no instance took.
func (m *Manager) DropAsync(ctx context.Context, c AsyncCall) error {
	return m.Store.DeleteAsync(ctx, c.ID)
}

// Async returns an organization's call.
func (m *Manager) Async(ctx context.Context, org plat.OrgID, dep plat.DeploymentID, id string) (AsyncCall, error) {
	c, err := m.Store.Async(ctx, id)
	if err == nil && (c.Org != org || c.Deployment != dep || c.expired(m.Now())) {
		err = plat.NotFound("result", id)
	}
	return c, err
}

// AsyncBy returns the call that a result's bringer may finish.
func (m *Manager) AsyncBy(ctx context.Context, dep plat.DeploymentID, id, hash string) (AsyncCall, error) {
	c, err := m.Store.Async(ctx, id)
	switch {
	case err != nil:
		return c, err
	case c.Deployment != dep || c.expired(m.Now()):
		return c, plat.NotFound("result", id)
	case subtle.ConstantTimeCompare([]byte(c.TokenHash), []byte(hash)) != 1:
		return c, plat.Errorf(plat.ErrUnauthenticated, "the token is not this call's")
	}
	return c, nil
}

// OpenResult returns the body of a finished call; the caller closes it.
func (m *Manager) OpenResult(ctx context.Context, c AsyncCall) (io.ReadCloser, error) {
	rc, _, err := m.Blobs.Open(ctx, c.ResultKey(), 0, -1)
	return rc, err
}

// FinishAsync stores a result. The first one counts; repeating it is no error.
func (m *Manager) FinishAsync(ctx context.Context, c AsyncCall, status int, headers map[string]string, body io.Reader) error {
	if status < 200 || status > 599 {
		return plat.InvalidField("status", "must be 200 to 599")
	}
	if c.Done() {
		return nil
	}
	put, err := m.Blobs.Put(ctx, c.ResultKey(), io.LimitReader(body, MaxResultBytes+1), -1, blob.PutOptions{})
	if err != nil {
		return fmt.Errorf("store result: %w", err)
	}
	if put.Size > MaxResultBytes {
		m.dropResult(ctx, c)
		return plat.InvalidField("body", "is longer than %d bytes", int64(MaxResultBytes))
	}
	c.FinishedAt, c.Status, c.Headers, c.Size = m.Now(), status, headers, put.Size
	_, err = m.Store.FinishAsync(ctx, c)
	return err
}

func (m *Manager) dropResult(ctx context.Context, c AsyncCall) {
	if err := m.Blobs.Delete(context.WithoutCancel(ctx), c.ResultKey()); err != nil {
		m.Log.LogAttrs(ctx, slog.LevelWarn, "a result stays behind", slog.String(plat.LogKey, c.ResultKey()), slog.String(plat.LogError, err.Error()))
	}
}

// RecordAsync has the result of a call recorded. A call that is gone has none.
func (m *Manager) RecordAsync(ctx context.Context, id string, r AsyncRecord) error {
	if err := m.Store.RecordAsync(ctx, id, &r); err != nil && !errors.Is(err, plat.ErrNotFound) {
		return fmt.Errorf("note that a result is recorded: %w", err)
	}
	return nil
}

// RecordResults makes files of the results that are to be recorded and returns of how many. It
// looks at the store alone, so it matters neither which of input and result came first
// nor what was restarted in between; a crash between the file and the note of it makes the
// file twice. What can't be recorded for good (its channel is gone) is given up.
func (m *Manager) RecordResults(ctx context.Context) (recorded int, err error) {
	var failed error
	for after := (AsyncCall{}); ; {
		some, err := m.Store.UnrecordedAsync(ctx, after, asyncBatch)
		if err != nil {
			return recorded, fmt.Errorf("list results to record: %w", err)
		}
		if len(some) == 0 {
			return recorded, failed
		}
		after = some[len(some)-1]
		for _, c := range some {
			switch err := m.recordResult(ctx, c); {
			case err == nil:
				recorded++
			case errors.Is(err, plat.ErrNotFound), errors.Is(err, plat.ErrForbidden), errors.Is(err, plat.ErrInvalid):
				m.Log.LogAttrs(ctx, slog.LevelWarn, "the result of an asynchronous call is not recorded",
					slog.String(plat.LogRequest, c.Record.Request), slog.String(plat.LogError, err.Error()))
			default:
				failed = fmt.Errorf("record the result of %s: %w", c.ID, err)
				continue
			}
			if err := m.Store.RecordAsync(ctx, c.ID, nil); err != nil && !errors.Is(err, plat.ErrNotFound) {
				return recorded, fmt.Errorf("note a recorded result: %w", err)
			}
		}
	}
}

func (m *Manager) recordResult(ctx context.Context, c AsyncCall) error {
	body, err := m.OpenResult(ctx, c)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	return m.RecordResult(ctx, c, body)
}

// SweepAsync gives up calls whose instance is gone without having brought a result,
// and deletes what is past its time. It returns how many of each.
func (m *Manager) SweepAsync(ctx context.Context) (lost, expired int, err error) {
	for {
		gone, err := m.Store.LostAsync(ctx, asyncBatch)
		if err != nil {
			return lost, expired, fmt.Errorf("list calls: %w", err)
		}
		if len(gone) == 0 {
			break
		}
		for _, c := range gone {
			if err := m.FinishAsync(ctx, c, 502, map[string]string{"content-type": "application/json"}, lostBody()); err != nil && !errors.Is(err, plat.ErrNotFound) {
				return lost, expired, err
			}
			lost++
		}
	}
	for {
		old, err := m.Store.OldAsync(ctx, m.Now().Add(-ResultLife), asyncBatch)
		if err != nil || len(old) == 0 {
			return lost, expired, err
		}
		for _, c := range old {
			// The object first: its row is how it is found.
			if err := m.Blobs.Delete(ctx, c.ResultKey()); err != nil {
				return lost, expired, fmt.Errorf("delete result: %w", err)
			}
			if err := m.Store.DeleteAsync(ctx, c.ID); err != nil {
				return lost, expired, fmt.Errorf("forget call: %w", err)
			}
			expired++
		}
	}
}

// lostBody is the result of a call whose instance died.
func lostBody() io.Reader {
	return strings.NewReader(`{"error":"bad_gateway","error_description":"the service's instance ended before it had finished the call","error_detail":null}`)
}
