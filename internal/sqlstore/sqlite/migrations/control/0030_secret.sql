-- +goose Up
CREATE TABLE secret (
  id              TEXT PRIMARY KEY,
  org_id          TEXT NOT NULL REFERENCES organization (id),
  creator         TEXT NOT NULL,
  name            TEXT NOT NULL,
  description     TEXT,
  expires_at      INTEGER NOT NULL,
  integration     TEXT NOT NULL,
  integration_ids TEXT NOT NULL,
  last_number     INTEGER NOT NULL,
  created_at      INTEGER NOT NULL,
  updated_at      INTEGER NOT NULL,
  UNIQUE (org_id, name)
) WITHOUT ROWID;
CREATE INDEX secret_in_order ON secret (org_id, created_at, id);

CREATE TABLE secret_version (
  id         TEXT PRIMARY KEY,
  secret_id  TEXT NOT NULL REFERENCES secret (id) ON DELETE CASCADE,
  org_id     TEXT NOT NULL,
  number     INTEGER NOT NULL,
  active     INTEGER NOT NULL,
  sealed     BLOB NOT NULL,
  key_id     TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  UNIQUE (secret_id, number)
) WITHOUT ROWID;
