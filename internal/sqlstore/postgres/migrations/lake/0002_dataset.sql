-- +goose Up
CREATE TABLE dataset (
  id         TEXT COLLATE "C" PRIMARY KEY,
  org_id     TEXT COLLATE "C" NOT NULL,
  name       TEXT COLLATE "C" NOT NULL,
  type       TEXT NOT NULL,
  props      TEXT NOT NULL,
  items      BIGINT NOT NULL,
  last_item  BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  UNIQUE (org_id, name)
);
CREATE INDEX dataset_by_org ON dataset (org_id, id);

CREATE TABLE dataset_item (
  dataset_id  TEXT COLLATE "C" NOT NULL,
  id          BIGINT NOT NULL,
  source_data TEXT NOT NULL,
  attributes  TEXT NOT NULL,
  created_at  BIGINT NOT NULL,
  updated_at  BIGINT NOT NULL,
  PRIMARY KEY (dataset_id, id)
);
