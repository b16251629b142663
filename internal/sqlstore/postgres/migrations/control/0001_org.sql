-- +goose Up
CREATE TABLE organization (
  id         TEXT COLLATE "C" PRIMARY KEY,
  name       TEXT NOT NULL UNIQUE,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL
);

CREATE TABLE person (
  id           TEXT COLLATE "C" PRIMARY KEY,
  org_id       TEXT NOT NULL REFERENCES organization (id),
  email        TEXT NOT NULL,
  display_name TEXT NOT NULL,
  role         TEXT NOT NULL,
  created_at   BIGINT NOT NULL,
  updated_at   BIGINT NOT NULL,
  UNIQUE (org_id, email)
);

CREATE TABLE token (
  hash       TEXT COLLATE "C" PRIMARY KEY,
  kind       TEXT NOT NULL,
  org_id     TEXT NOT NULL REFERENCES organization (id),
  user_id    TEXT NOT NULL,
  workload   TEXT NOT NULL,
  scope      TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  ended_at   BIGINT NOT NULL,
  expires_at BIGINT NOT NULL
);
CREATE INDEX token_by_workload ON token (workload) WHERE workload <> '';
CREATE INDEX token_by_expiry ON token (expires_at) WHERE expires_at > 0;
