// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"errors"
	"strings"

	"panal/internal/deploy"
	"panal/internal/plat"
)

// Deploys keeps deployments and what belongs to them. It implements deploy.Store.
//
// Locks. A change locks the records it reads by an UPDATE that changes nothing
// (both engines take that), services before endpoints.
type Deploys struct{ db *DB }

var _ deploy.Store = (*Deploys)(nil)

// NewDeploys returns the store on the control database.
func NewDeploys(db *DB) *Deploys { return &Deploys{db: db} }

const deploymentColumns = `id, org_id, name, description, environment, creator, created_at, modified_at`

func scanDeployment(r scanner) (deploy.Deployment, error) {
	var d deploy.Deployment
	var env string
	var created, modified int64
	if err := r.Scan(&d.ID, &d.Org, &d.Name, &d.Description, &env, &d.Creator, &created, &modified); err != nil {
		return d, err
	}
	d.CreatedAt, d.ModifiedAt = fromMicros(created), fromMicros(modified)
	return d, fromJSON(env, &d.Environment)
}

// CreateDeployment implements deploy.Store.
func (s *Deploys) CreateDeployment(ctx context.Context, d deploy.Deployment) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO deployment (`+deploymentColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			string(d.ID), string(d.Org), d.Name, d.Description, toJSON(d.Environment), string(d.Creator), micros(d.CreatedAt), micros(d.ModifiedAt)); err != nil {
			return err
		}
		return tx.Event(ctx, deploy.TopicDeployment, string(d.ID), "created", d.CreatedAt)
	})
}

// Deployment implements deploy.Store.
func (s *Deploys) Deployment(ctx context.Context, org plat.OrgID, id plat.DeploymentID) (deploy.Deployment, error) {
	return s.deployment(ctx, s.db.Read(), org, id)
}

func (s *Deploys) deployment(ctx context.Context, q Querier, org plat.OrgID, id plat.DeploymentID) (deploy.Deployment, error) {
	return first(scanAll(ctx, s.db, q, scanDeployment,
		`SELECT `+deploymentColumns+` FROM deployment WHERE id = $1 AND org_id = $2`, string(id), string(org)))(deploymentNoun, id)
}

const (
	deploymentNoun = "deployment"
	versionNoun    = "version"
	serviceNoun    = "service"
	endpointNoun   = "endpoint"
)

// first returns the first row of a query, or ErrNotFound.
func first[T any](rows []T, err error) func(noun string, id any) (T, error) {
	return func(noun string, id any) (T, error) {
		var zero T
		switch {
		case err != nil:
			return zero, err
		case len(rows) == 0:
			return zero, plat.NotFound(noun, id)
		}
		return rows[0], nil
	}
}

// Deployments implements deploy.Store.
func (s *Deploys) Deployments(ctx context.Context, org plat.OrgID) ([]deploy.Deployment, error) {
	return scanAll(ctx, s.db, s.db.Read(), scanDeployment,
		`SELECT `+deploymentColumns+` FROM deployment WHERE org_id = $1 ORDER BY created_at, id`, string(org))
}

// UpdateDeployment implements deploy.Store.
func (s *Deploys) UpdateDeployment(ctx context.Context, org plat.OrgID, id plat.DeploymentID, change func(*deploy.Deployment) error) (deploy.Deployment, error) {
	var d deploy.Deployment
	err := s.db.Write(ctx, func(tx *Tx) (err error) {
		if err := lock(ctx, tx, deploymentNoun, string(id)); err != nil {
			return err
		}
		if d, err = s.deployment(ctx, tx, org, id); err != nil {
			return err
		}
		if err := change(&d); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE deployment SET name = $1, description = $2, environment = $3, modified_at = $4 WHERE id = $5`,
			d.Name, d.Description, toJSON(d.Environment), micros(d.ModifiedAt), string(id)); err != nil {
			return err
		}
		return tx.Event(ctx, deploy.TopicDeployment, string(id), "changed", d.ModifiedAt)
	})
	if err != nil {
		return deploy.Deployment{}, err
	}
	return d, nil
}

// lock holds a record for the rest of the transaction; a missing one is left to
// the read that follows. table is one of the constants above.
func lock(ctx context.Context, tx *Tx, table, id string) error {
	_, err := tx.exec(ctx, `UPDATE `+table+` SET id = id WHERE id = $1`, id)
	return err
}

// DeleteDeployment implements deploy.Store.
func (s *Deploys) DeleteDeployment(ctx context.Context, org plat.OrgID, id plat.DeploymentID) ([]deploy.Version, error) {
	var versions []deploy.Version
	err := s.db.Write(ctx, func(tx *Tx) error {
		d, err := s.deployment(ctx, tx, org, id)
		if err != nil {
			return err
		}
		users, err := s.services(ctx, tx, `deployment_id = $1`, string(id))
		if err != nil {
			return err
		}
		if len(users) > 0 {
			return inUse("deployment "+string(id), "has services", serviceIDs(users))
		}
		if versions, err = scanAll(ctx, s.db, tx, scanCode, `SELECT `+codeColumns+` FROM code_version WHERE deployment_id = $1`, string(id)); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM code_version WHERE deployment_id = $1`, string(id)); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM deployment WHERE id = $1`, string(id)); err != nil {
			return err
		}
		return tx.Event(ctx, deploy.TopicDeployment, string(id), "deleted", d.ModifiedAt)
	})
	return versions, err
}

// inUse is the error for a record that others need.
func inUse(what, why string, ids []string) error {
	const show = 10
	more := ""
	if len(ids) > show {
		ids, more = ids[:show], ", …"
	}
	return plat.Errorf(plat.ErrConflict, "%s %s: %s%s", what, why, strings.Join(ids, ", "), more)
}

func serviceIDs(all []deploy.Service) []string {
	ids := make([]string, len(all))
	for i, s := range all {
		ids[i] = string(s.ID)
	}
	return ids
}

const codeColumns = `id, org_id, deployment_id, label, handler, image, environment, description, creator, created_at, modified_at, command, health_path, git`

func scanCode(r scanner) (deploy.Version, error) {
	var v deploy.Version
	var env, command, git string
	var created, modified int64
	if err := r.Scan(&v.ID, &v.Org, &v.Deployment, &v.Label, &v.Handler, &v.Image, &env, &v.Description, &v.Creator, &created, &modified,
		&command, &v.HealthPath, &git); err != nil {
		return v, err
	}
	v.CreatedAt, v.ModifiedAt = fromMicros(created), fromMicros(modified)
	if command != noCommand {
		if err := fromJSON(command, &v.Command); err != nil {
			return v, err
		}
	}
	return v, errors.Join(fromJSON(env, &v.Environment), fromJSON(git, &v.Git))
}

// CreateVersion implements deploy.Store.
func (s *Deploys) CreateVersion(ctx context.Context, v deploy.Version) error {
	err := s.db.Write(ctx, func(tx *Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO code_version (`+codeColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`,
			string(v.ID), string(v.Org), string(v.Deployment), v.Label, v.Handler, v.Image, toJSON(v.Environment), v.Description,
			string(v.Creator), micros(v.CreatedAt), micros(v.ModifiedAt), commandJSON(v.Command), v.HealthPath, toJSON(v.Git)); err != nil {
			return err
		}
		return tx.Event(ctx, deploy.TopicVersion, string(v.ID), "created", v.CreatedAt)
	})
	return missing(err, deploymentNoun, v.Deployment)
}

// noCommand is how no command is stored.
const noCommand = "[]"

func commandJSON(words []string) string {
	if len(words) == 0 {
		return noCommand
	}
	return toJSON(words)
}

// missing turns a broken foreign key of an INSERT into ErrNotFound of what it
// refers to.
func missing(err error, noun string, id any) error {
	if errors.Is(err, plat.ErrConflict) {
		return plat.NotFound(noun, id)
	}
	return err
}

// Version implements deploy.Store.
func (s *Deploys) Version(ctx context.Context, dep plat.DeploymentID, id plat.VersionID) (deploy.Version, error) {
	return first(scanAll(ctx, s.db, s.db.Read(), scanCode,
		`SELECT `+codeColumns+` FROM code_version WHERE id = $1 AND deployment_id = $2`, string(id), string(dep)))(versionNoun, id)
}

// Versions implements deploy.Store.
func (s *Deploys) Versions(ctx context.Context, dep plat.DeploymentID) ([]deploy.Version, error) {
	return scanAll(ctx, s.db, s.db.Read(), scanCode,
		`SELECT `+codeColumns+` FROM code_version WHERE deployment_id = $1 ORDER BY created_at, id`, string(dep))
}

// DeleteVersion implements deploy.Store.
func (s *Deploys) DeleteVersion(ctx context.Context, dep plat.DeploymentID, id plat.VersionID) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		users, err := s.services(ctx, tx, `version_id = $1`, string(id))
		if err != nil {
			return err
		}
		if len(users) > 0 {
			return inUse("version "+string(id), "is used by services", serviceIDs(users))
		}
		v, err := first(scanAll(ctx, s.db, tx, scanCode,
			`SELECT `+codeColumns+` FROM code_version WHERE id = $1 AND deployment_id = $2`, string(id), string(dep)))(versionNoun, id)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM code_version WHERE id = $1`, string(id)); err != nil {
			return err
		}
		return tx.Event(ctx, deploy.TopicVersion, string(id), "deleted", v.ModifiedAt)
	})
}
