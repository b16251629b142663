-- +goose Up
CREATE TABLE dataset (
  id         TEXT PRIMARY KEY,
  org_id     TEXT NOT NULL,
  name       TEXT NOT NULL,
  type       TEXT NOT NULL,
  props      TEXT NOT NULL,
  items      INTEGER NOT NULL,
  last_item  INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  UNIQUE (org_id, name)
);
CREATE INDEX dataset_by_org ON dataset (org_id, id);

CREATE TABLE dataset_item (
  dataset_id  TEXT NOT NULL,
  id          INTEGER NOT NULL,
  source_data TEXT NOT NULL,
  attributes  TEXT NOT NULL,
  created_at  INTEGER NOT NULL,
  updated_at  INTEGER NOT NULL,
  PRIMARY KEY (dataset_id, id)
) WITHOUT ROWID;
