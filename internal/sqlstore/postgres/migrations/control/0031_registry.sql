-- +goose Up
CREATE TABLE repository (
  id          TEXT COLLATE "C" PRIMARY KEY,
  org_id      TEXT NOT NULL REFERENCES organization (id),
  creator     TEXT NOT NULL,
  name        TEXT COLLATE "C" NOT NULL,
  description TEXT,
  created_at  BIGINT NOT NULL,
  updated_at  BIGINT NOT NULL,
  UNIQUE (org_id, name)
);

CREATE TABLE repository_tag (
  id            BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  repository_id TEXT COLLATE "C" NOT NULL REFERENCES repository (id) ON DELETE CASCADE,
  creator       TEXT NOT NULL,
  name          TEXT COLLATE "C" NOT NULL,
  digest        TEXT NOT NULL,
  size          BIGINT NOT NULL,
  media_type    TEXT NOT NULL,
  created_at    BIGINT NOT NULL,
  updated_at    BIGINT NOT NULL,
  UNIQUE (repository_id, name)
);
