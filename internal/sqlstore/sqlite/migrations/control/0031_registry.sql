-- +goose Up
CREATE TABLE repository (
  id          TEXT PRIMARY KEY,
  org_id      TEXT NOT NULL REFERENCES organization (id),
  creator     TEXT NOT NULL,
  name        TEXT NOT NULL,
  description TEXT,
  created_at  INTEGER NOT NULL,
  updated_at  INTEGER NOT NULL,
  UNIQUE (org_id, name)
) WITHOUT ROWID;

CREATE TABLE repository_tag (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  repository_id TEXT NOT NULL REFERENCES repository (id) ON DELETE CASCADE,
  creator       TEXT NOT NULL,
  name          TEXT NOT NULL,
  digest        TEXT NOT NULL,
  size          INTEGER NOT NULL,
  media_type    TEXT NOT NULL,
  created_at    INTEGER NOT NULL,
  updated_at    INTEGER NOT NULL,
  UNIQUE (repository_id, name)
);
