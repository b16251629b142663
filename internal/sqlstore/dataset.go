// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"panal/internal/dataset"
	"panal/internal/plat"
)

// Datasets keeps datasets and their items. It implements dataset.Store.
type Datasets struct{ db *DB }

var _ dataset.Store = (*Datasets)(nil)

// NewDatasets returns the store on the lake database.
func NewDatasets(db *DB) *Datasets { return &Datasets{db: db} }

// CreateDataset implements dataset.Store.
func (s *Datasets) CreateDataset(ctx context.Context, d dataset.Dataset) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.ExecContext(ctx,
			`INSERT INTO dataset (id, org_id, name, type, props, items, last_item, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, 0, 0, $6, $7)`,
			string(d.ID), string(d.Org), d.Name, d.Type, string(d.Props), micros(d.CreatedAt), micros(d.UpdatedAt))
		if err != nil {
			return err
		}
		return tx.Event(ctx, "dataset", string(d.ID), "created", d.CreatedAt)
	})
}

const datasetColumns = `id, org_id, name, type, props, items, created_at, updated_at`

func scanDataset(r interface{ Scan(...any) error }) (dataset.Dataset, error) {
	var d dataset.Dataset
	var props string
	var created, updated int64
	err := r.Scan(&d.ID, &d.Org, &d.Name, &d.Type, &props, &d.Items, &created, &updated)
	d.Props, d.CreatedAt, d.UpdatedAt = []byte(props), fromMicros(created), fromMicros(updated)
	return d, err
}

func (s *Datasets) dataset(row *sql.Row, id plat.DatasetID) (dataset.Dataset, error) {
	d, err := scanDataset(row)
	if errors.Is(err, sql.ErrNoRows) {
		return dataset.Dataset{}, plat.NotFound("dataset", id)
	}
	return d, s.db.translate(err)
}

// Dataset implements dataset.Store.
func (s *Datasets) Dataset(ctx context.Context, org plat.OrgID, id plat.DatasetID) (dataset.Dataset, error) {
	return s.dataset(s.db.Read().QueryRowContext(ctx,
		`SELECT `+datasetColumns+` FROM dataset WHERE id = $1 AND org_id = $2`, string(id), string(org)), id)
}

// Datasets implements dataset.Store.
func (s *Datasets) Datasets(ctx context.Context, org plat.OrgID, after plat.DatasetID, limit int) ([]dataset.Dataset, error) {
	if limit <= 0 {
		limit = 1 << 30
	}
	return scanAll(ctx, s.db, s.db.Read(), scanDataset,
		`SELECT `+datasetColumns+` FROM dataset WHERE org_id = $1 AND id > $2 ORDER BY id LIMIT $3`, string(org), string(after), limit)
}

// DeleteDataset implements dataset.Store.
func (s *Datasets) DeleteDataset(ctx context.Context, org plat.OrgID, id plat.DatasetID) (dataset.Dataset, error) {
	var d dataset.Dataset
	err := s.db.Write(ctx, func(tx *Tx) error {
		var err error
		d, err = s.dataset(tx.QueryRowContext(ctx, `DELETE FROM dataset WHERE id = $1 AND org_id = $2 RETURNING `+datasetColumns, string(id), string(org)), id)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM dataset_item WHERE dataset_id = $1`, string(id)); err != nil {
			return err
		}
		return tx.Event(ctx, "dataset", string(id), "deleted", plat.SystemClock())
	})
	return d, err
}

// grow changes the number of items and returns the last id given so far. Writers
// of one dataset wait for each other here, so ids commit in order.
func grow(ctx context.Context, tx *Tx, d plat.DatasetID, n int, newIDs int, at time.Time) (last int64, err error) {
	err = tx.QueryRowContext(ctx, `UPDATE dataset SET items = items + $1, last_item = last_item + $2, updated_at = $3 WHERE id = $4 RETURNING last_item`,
		n, newIDs, micros(at), string(d)).Scan(&last)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, plat.NotFound("dataset", d)
	}
	return last, err
}

// CreateItems implements dataset.Store.
func (s *Datasets) CreateItems(ctx context.Context, d plat.DatasetID, items []dataset.Item) ([]dataset.Item, error) {
	if len(items) == 0 {
		return nil, nil
	}
	out := make([]dataset.Item, len(items))
	err := s.db.Write(ctx, func(tx *Tx) error {
		last, err := grow(ctx, tx, d, len(items), len(items), items[0].UpdatedAt)
		if err != nil {
			return err
		}
		rows := make([]any, 0, len(items)*6)
		for i, it := range items {
			it.Dataset, it.ID = d, last-int64(len(items)-1-i)
			out[i] = it
			rows = append(rows, string(d), it.ID, string(it.SourceData), string(it.Attributes), micros(it.CreatedAt), micros(it.UpdatedAt))
		}
		return tx.insert(ctx, "dataset_item (dataset_id, id, source_data, attributes, created_at, updated_at)", "", 6, rows)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

const itemColumns = `dataset_id, id, source_data, attributes, created_at, updated_at`

func scanItem(r interface{ Scan(...any) error }) (dataset.Item, error) {
	var it dataset.Item
	var source, attributes string
	var created, updated int64
	err := r.Scan(&it.Dataset, &it.ID, &source, &attributes, &created, &updated)
	it.SourceData, it.Attributes = []byte(source), []byte(attributes)
	it.CreatedAt, it.UpdatedAt = fromMicros(created), fromMicros(updated)
	return it, err
}

func (s *Datasets) item(row *sql.Row, id int64) (dataset.Item, error) {
	it, err := scanItem(row)
	if errors.Is(err, sql.ErrNoRows) {
		return dataset.Item{}, plat.NotFound("dataset item", id)
	}
	return it, s.db.translate(err)
}

// Items implements dataset.Store.
func (s *Datasets) Items(ctx context.Context, d plat.DatasetID, after int64, limit int) ([]dataset.Item, error) {
	return scanAll(ctx, s.db, s.db.Read(), scanItem,
		`SELECT `+itemColumns+` FROM dataset_item WHERE dataset_id = $1 AND id > $2 ORDER BY id LIMIT $3`, string(d), after, limit)
}

// Item implements dataset.Store.
func (s *Datasets) Item(ctx context.Context, d plat.DatasetID, id int64) (dataset.Item, error) {
	return s.item(s.db.Read().QueryRowContext(ctx, `SELECT `+itemColumns+` FROM dataset_item WHERE dataset_id = $1 AND id = $2`, string(d), id), id)
}

// UpdateItems implements dataset.Store.
func (s *Datasets) UpdateItems(ctx context.Context, d plat.DatasetID, items []dataset.Item) ([]dataset.Item, error) {
	out := make([]dataset.Item, len(items))
	err := s.db.Write(ctx, func(tx *Tx) error {
		if len(items) > 0 {
			if _, err := grow(ctx, tx, d, 0, 0, items[0].UpdatedAt); err != nil {
				return err
			}
		}
		for i, it := range items {
			var err error
			out[i], err = s.item(tx.QueryRowContext(ctx,
				`UPDATE dataset_item SET attributes = $1, updated_at = $2 WHERE dataset_id = $3 AND id = $4 RETURNING `+itemColumns,
				string(it.Attributes), micros(it.UpdatedAt), string(d), it.ID), it.ID)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// DeleteItem implements dataset.Store.
func (s *Datasets) DeleteItem(ctx context.Context, d plat.DatasetID, id int64) (dataset.Item, error) {
	var it dataset.Item
	err := s.db.Write(ctx, func(tx *Tx) error {
		if _, err := grow(ctx, tx, d, -1, 0, plat.SystemClock()); err != nil {
			return err
		}
		var err error
		it, err = s.item(tx.QueryRowContext(ctx, `DELETE FROM dataset_item WHERE dataset_id = $1 AND id = $2 RETURNING `+itemColumns, string(d), id), id)
		return err
	})
	return it, err
}
