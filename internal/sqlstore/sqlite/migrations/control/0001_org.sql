-- +goose Up
CREATE TABLE organization (
  id         TEXT PRIMARY KEY,
  name       TEXT NOT NULL UNIQUE,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE person (
  id           TEXT PRIMARY KEY,
  org_id       TEXT NOT NULL REFERENCES organization (id),
  email        TEXT NOT NULL,
  display_name TEXT NOT NULL,
  role         TEXT NOT NULL,
  created_at   INTEGER NOT NULL,
  updated_at   INTEGER NOT NULL,
  UNIQUE (org_id, email)
) WITHOUT ROWID;

CREATE TABLE token (
  hash       TEXT PRIMARY KEY,
  kind       TEXT NOT NULL,
  org_id     TEXT NOT NULL REFERENCES organization (id),
  user_id    TEXT NOT NULL,
  workload   TEXT NOT NULL,
  scope      TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  ended_at   INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX token_by_workload ON token (workload) WHERE workload <> '';
CREATE INDEX token_by_expiry ON token (expires_at) WHERE expires_at > 0;
