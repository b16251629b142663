-- +goose Up
CREATE TABLE secret (
  id              TEXT COLLATE "C" PRIMARY KEY,
  org_id          TEXT NOT NULL REFERENCES organization (id),
  creator         TEXT NOT NULL,
  name            TEXT COLLATE "C" NOT NULL,
  description     TEXT,
  expires_at      BIGINT NOT NULL,
  integration     TEXT NOT NULL,
  integration_ids TEXT NOT NULL,
  last_number     BIGINT NOT NULL,
  created_at      BIGINT NOT NULL,
  updated_at      BIGINT NOT NULL,
  UNIQUE (org_id, name)
);
CREATE INDEX secret_in_order ON secret (org_id, created_at, id);

CREATE TABLE secret_version (
  id         TEXT COLLATE "C" PRIMARY KEY,
  secret_id  TEXT COLLATE "C" NOT NULL REFERENCES secret (id) ON DELETE CASCADE,
  org_id     TEXT NOT NULL,
  number     BIGINT NOT NULL,
  active     BOOLEAN NOT NULL,
  sealed     BYTEA NOT NULL,
  key_id     TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  UNIQUE (secret_id, number)
);
