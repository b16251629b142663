// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"panal/internal/org"
	"panal/internal/plat"
)

func scanIPRule(r interface{ Scan(...any) error }) (org.IPRule, error) {
	var rule org.IPRule
	var cidr string
	var created, updated int64
	if err := r.Scan(&rule.ID, &rule.Org, &cidr, &rule.Description, &created, &updated); err != nil {
		return rule, err
	}
	rule.CreatedAt, rule.UpdatedAt = fromMicros(created), fromMicros(updated)
	var err error
	if rule.Prefix, err = netip.ParsePrefix(cidr); err != nil {
		return rule, fmt.Errorf("stored IP rule %d: %w", rule.ID, err)
	}
	return rule, nil
}

func (db *DB) ipRules(ctx context.Context, q Querier, o plat.OrgID) ([]org.IPRule, error) {
	return scanAll(ctx, db, q, scanIPRule,
		`SELECT id, org_id, cidr, description, created_at, updated_at FROM ip_rule WHERE org_id = $1 ORDER BY id`, string(o))
}

// IPRules implements org.IPRuleStore.
func (s *Orgs) IPRules(ctx context.Context, o plat.OrgID) ([]org.IPRule, error) {
	return s.db.ipRules(ctx, s.db.Read(), o)
}

// changeIPRules runs change in turn with other changes of the organization's list,
// and keeps it when guard takes the list that comes out.
func (s *Orgs) changeIPRules(ctx context.Context, o plat.OrgID, guard func([]org.IPRule) error, change func(tx *Tx, before []org.IPRule) error) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		if err := tx.lockOrg(ctx, o); err != nil {
			return err
		}
		before, err := s.db.ipRules(ctx, tx, o)
		if err != nil {
			return err
		}
		if err := change(tx, before); err != nil {
			return err
		}
		after, err := s.db.ipRules(ctx, tx, o)
		if err != nil {
			return err
		}
		return guard(after)
	})
}

func findIPRule(all []org.IPRule, id int64) (org.IPRule, error) {
	i := slices.IndexFunc(all, func(r org.IPRule) bool { return r.ID == id })
	if i < 0 {
		return org.IPRule{}, plat.NotFound("IP rule", id)
	}
	return all[i], nil
}

// CreateIPRule implements org.IPRuleStore.
func (s *Orgs) CreateIPRule(ctx context.Context, r org.IPRule, guard func([]org.IPRule) error) (org.IPRule, error) {
	err := s.changeIPRules(ctx, r.Org, guard, func(tx *Tx, _ []org.IPRule) error {
		return tx.QueryRowContext(ctx, `INSERT INTO ip_rule (org_id, cidr, description, created_at, updated_at) VALUES ($1, $2, $3, $4, $5) RETURNING id`,
			string(r.Org), r.Prefix.String(), r.Description, micros(r.CreatedAt), micros(r.UpdatedAt)).Scan(&r.ID)
	})
	return r, err
}

// UpdateIPRule implements org.IPRuleStore.
func (s *Orgs) UpdateIPRule(ctx context.Context, o plat.OrgID, id int64, change func(*org.IPRule), guard func([]org.IPRule) error) (r org.IPRule, err error) {
	err = s.changeIPRules(ctx, o, guard, func(tx *Tx, before []org.IPRule) error {
		if r, err = findIPRule(before, id); err != nil {
			return err
		}
		change(&r)
		_, err := tx.ExecContext(ctx, `UPDATE ip_rule SET cidr = $1, description = $2, updated_at = $3 WHERE id = $4`, r.Prefix.String(), r.Description, micros(r.UpdatedAt), id)
		return err
	})
	return r, err
}

// DeleteIPRule implements org.IPRuleStore.
func (s *Orgs) DeleteIPRule(ctx context.Context, o plat.OrgID, id int64, guard func([]org.IPRule) error) (r org.IPRule, err error) {
	err = s.changeIPRules(ctx, o, guard, func(tx *Tx, before []org.IPRule) error {
		if r, err = findIPRule(before, id); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM ip_rule WHERE id = $1`, id)
		return err
	})
	return r, err
}
