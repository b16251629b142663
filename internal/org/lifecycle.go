// SPDX-License-Identifier: Apache-2.0

package org

import (
	"context"
	"errors"
	"fmt"
	"time"

	"panal/internal/authn"
	"panal/internal/plat"
)

// Founding is an organization that was just made, with its first admin.
type Founding struct {
	Organization Organization
	Admin        User
	Token        string // the admin's; seen only here
}

// Found makes an organization with a quota and a first admin. What a crash leaves of
// it is an organization without users, which can be deleted.
func (s *Service) Found(ctx context.Context, name, email, displayName string, quota int64) (Founding, error) {
	if err := checkName(name); err != nil {
		return Founding{}, err
	}
	if email == "" {
		email = "admin@" + name + ".localdomain"
	}
	if err := errors.Join(checkEmail(email), checkQuota(quota)); err != nil {
		return Founding{}, err
	}
	o, err := s.Create(ctx, name)
	if err != nil {
		return Founding{}, err
	}
	f := Founding{Organization: o}
	if quota != 0 {
		if f.Organization, err = s.Change(ctx, o.ID, Edit{Quota: &quota}); err != nil {
			return Founding{}, err
		}
	}
	if f.Admin, err = s.AddUser(ctx, o.ID, email, displayName, authn.RoleAdmin); err != nil {
		return Founding{}, err
	}
	f.Token, err = s.NewToken(ctx, f.Admin)
	return f, err
}

// Edit is a change of an organization; nil keeps.
type Edit struct {
	Name  *string
	Quota *int64 // bytes; 0 for no limit
}

const maxQuota = 1 << 60

func checkQuota(n int64) error {
	if n < 0 || n > maxQuota {
		return plat.InvalidField("storage_quota_bytes", "must be 0 (no limit) to %d", int64(maxQuota))
	}
	return nil
}

// Change changes an organization's name or quota.
func (s *Service) Change(ctx context.Context, id plat.OrgID, e Edit) (Organization, error) {
	if e.Name != nil {
		if err := checkName(*e.Name); err != nil {
			return Organization{}, err
		}
	}
	if e.Quota != nil {
		if err := checkQuota(*e.Quota); err != nil {
			return Organization{}, err
		}
	}
	o, err := s.update(ctx, id, func(o *Organization) error {
		if o.State == Deleting {
			return errDeleting(o)
		}
		if e.Name != nil {
			o.Name = *e.Name
		}
		if e.Quota != nil {
			o.Quota = *e.Quota
		}
		return nil
	})
	if e.Name != nil {
		err = taken(*e.Name, err)
	}
	return o, err
}

func errDeleting(o *Organization) error {
	return plat.Errorf(plat.ErrConflict, "organization %s is being deleted", o.Name)
}

func taken(name string, err error) error {
	if !errors.Is(err, plat.ErrExists) {
		return err
	}
	return &plat.Error{
		Kind: plat.ErrExists, Public: fmt.Sprintf("there is an organization named %q already", name),
		Detail: map[string][]string{"name": {"is taken"}}, Err: err,
	}
}

// Suspend stops serving an organization: nothing of it is lost. Suspending twice is
// fine.
func (s *Service) Suspend(ctx context.Context, id plat.OrgID) (Organization, error) {
	return s.update(ctx, id, func(o *Organization) error {
		switch {
		case o.Operator:
			return plat.Errorf(plat.ErrConflict, "organization %s runs this installation; it can't be suspended or deleted", o.Name)
		case o.State == Deleting:
			return errDeleting(o)
		}
		o.State = Suspended
		return nil
	})
}

// Resume serves a suspended organization again.
func (s *Service) Resume(ctx context.Context, id plat.OrgID) (Organization, error) {
	return s.update(ctx, id, func(o *Organization) error {
		if o.State == Deleting {
			return errDeleting(o)
		}
		o.State = Active
		return nil
	})
}

// Delete marks a suspended organization for deletion: Purge does it, and goes on
// after a crash. confirm is its name, as the caller wrote it. Deleting twice is fine.
func (s *Service) Delete(ctx context.Context, id plat.OrgID, confirm string) (Organization, error) {
	return s.update(ctx, id, func(o *Organization) error {
		switch {
		case o.Operator:
			return plat.Errorf(plat.ErrConflict, "organization %s runs this installation; it can't be suspended or deleted", o.Name)
		case confirm != o.Name:
			return plat.InvalidField("confirm", "must be the organization's name, %s: everything of it will be deleted", o.Name)
		case o.State == Active:
			return plat.Errorf(plat.ErrConflict, "organization %s is active; suspend it first", o.Name)
		}
		o.State = Deleting
		return nil
	})
}

func (s *Service) update(ctx context.Context, id plat.OrgID, change func(*Organization) error) (Organization, error) {
	now := s.now()
	o, err := s.store.UpdateOrganization(ctx, id, func(o *Organization) error {
		before := *o
		if err := change(o); err != nil {
			return err
		}
		if *o != before {
			o.UpdatedAt = now
		}
		return nil
	})
	if err != nil {
		return Organization{}, fmt.Errorf("change organization %s: %w", id, err)
	}
	s.mu.Lock()
	s.seen[id] = seen{o, now}
	s.mu.Unlock()
	return o, nil
}

// seen is an organization as it was looked up at a time.
type seen struct {
	org Organization
	at  time.Time
}

const (
	freshFor = time.Second // how long another server's change may go unnoticed
)

// Standing returns an organization as an edge asks for it with every request: at
// most a second old. A change made here counts at once. While the store can't answer,
// what was known goes on. The ids are those of tokens, so there are few.
func (s *Service) Standing(ctx context.Context, id plat.OrgID) (Organization, error) {
	now := s.now()
	s.mu.Lock()
	c, hit := s.seen[id]
	s.mu.Unlock()
	age := now.Sub(c.at)
	if hit && age >= 0 && age < freshFor {
		return c.org, nil
	}
	missing := false
	var o Organization
	err := s.watch.Ask(ctx, now, hit, func(ctx context.Context) (err error) {
		o, err = s.store.Organization(ctx, string(id))
		if missing = errors.Is(err, plat.ErrNotFound); missing {
			return nil
		}
		return err
	})
	switch {
	case missing:
		s.mu.Lock()
		delete(s.seen, id)
		s.mu.Unlock()
		return Organization{}, plat.NotFound("organization", id)
	case err == nil:
		s.mu.Lock()
		// What came here meanwhile, a change perhaps, is newer than what was read.
		if cur, ok := s.seen[id]; ok && (!hit || !cur.at.Equal(c.at)) {
			o = cur.org
		} else {
			s.seen[id] = seen{o, now}
		}
		s.mu.Unlock()
		return o, nil
	case hit && s.watch.Good(c.at, now):
		return c.org, nil
	}
	return Organization{}, err
}

// Operator returns the operator's organization. It never changes.
func (s *Service) Operator(ctx context.Context) (plat.OrgID, error) {
	s.mu.Lock()
	id := s.operator
	s.mu.Unlock()
	if id != "" {
		return id, nil
	}
	all, err := s.store.Organizations(ctx)
	if err != nil {
		return "", err
	}
	for _, o := range all {
		if o.Operator {
			s.mu.Lock()
			s.operator = o.ID
			s.mu.Unlock()
			return o.ID, nil
		}
	}
	return "", plat.Errorf(plat.ErrNotFound, "there is no organization yet")
}

// Served returns ErrForbidden, and says why, unless the organization is active.
func (o Organization) Served() error {
	switch o.State {
	case Suspended:
		return plat.Errorf(plat.ErrForbidden, "organization %s is suspended: nothing of it is lost, and its administrator should ask the operator of this installation to resume it", o.Name)
	case Deleting:
		return plat.Errorf(plat.ErrForbidden, "organization %s is being deleted", o.Name)
	case Active:
	}
	return nil
}

// Purge deletes what a domain holds of an organization. It is called again and again
// until it returns nil, which means: there was nothing left to delete. ErrUnavailable
// says that something still has to end (a workload).
type Purge struct {
	Name string
	Run  func(ctx context.Context, id plat.OrgID) error
}

// OnDelete registers a purge. They run in the order in which they were registered,
// each once those before it have nothing left to do. Called while wiring.
func (s *Service) OnDelete(p Purge) { s.purges = append(s.purges, p) }

// PurgeDeleted works on every organization that is Deleting, and removes those of
// which nothing is left. It can be interrupted anywhere: the next call goes on. It
// returns how many are still to be deleted.
func (s *Service) PurgeDeleted(ctx context.Context) (int, error) {
	all, err := s.store.Organizations(ctx)
	if err != nil {
		return 0, fmt.Errorf("list organizations: %w", err)
	}
	left := 0
	var errs []error
	for _, o := range all {
		if o.State != Deleting {
			continue
		}
		if err := s.purge(ctx, o); err != nil {
			left++
			if !errors.Is(err, plat.ErrUnavailable) {
				errs = append(errs, fmt.Errorf("delete organization %s: %w", o.ID, err))
			}
		}
	}
	return left, errors.Join(errs...)
}

func (s *Service) purge(ctx context.Context, o Organization) error {
	for _, p := range s.purges {
		if err := p.Run(ctx, o.ID); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	if err := s.store.DeleteOrganization(ctx, o.ID, s.now()); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.seen, o.ID)
	s.mu.Unlock()
	return nil
}
