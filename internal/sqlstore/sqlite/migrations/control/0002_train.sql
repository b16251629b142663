-- +goose Up
CREATE TABLE train_definition (
  id           TEXT PRIMARY KEY,
  org_id       TEXT NOT NULL REFERENCES organization (id),
  name         TEXT NOT NULL,
  archived     BOOLEAN NOT NULL,
  next_version INTEGER NOT NULL,
  created_at   INTEGER NOT NULL,
  modified_at  INTEGER NOT NULL,
  UNIQUE (org_id, name)
) WITHOUT ROWID;
CREATE INDEX train_definition_by_age ON train_definition (org_id, created_at, id);

CREATE TABLE train_version (
  definition_id TEXT NOT NULL REFERENCES train_definition (id),
  number        INTEGER NOT NULL,
  org_id        TEXT NOT NULL,
  handler       TEXT NOT NULL,
  image         TEXT NOT NULL,
  environment   TEXT NOT NULL,
  datasets      TEXT NOT NULL,
  premounts     TEXT NOT NULL,
  description   TEXT NOT NULL,
  archived      BOOLEAN NOT NULL,
  source        TEXT NOT NULL,
  source_type   TEXT NOT NULL,
  created_at    INTEGER NOT NULL,
  modified_at   INTEGER NOT NULL,
  PRIMARY KEY (definition_id, number)
) WITHOUT ROWID;

CREATE TABLE train_job (
  id             TEXT PRIMARY KEY,
  org_id         TEXT NOT NULL,
  definition_id  TEXT NOT NULL,
  version        INTEGER NOT NULL,
  status         TEXT NOT NULL,
  status_message TEXT NOT NULL,
  instance_type  TEXT NOT NULL,
  exec_env       TEXT NOT NULL,
  environment    TEXT NOT NULL,
  datasets       TEXT NOT NULL,
  premounts      TEXT NOT NULL,
  export_log     BOOLEAN NOT NULL,
  description    TEXT NOT NULL,
  creator        TEXT NOT NULL,
  archived       BOOLEAN NOT NULL,
  statistics     TEXT NOT NULL,
  start_time     INTEGER NOT NULL,
  completed_at   INTEGER NOT NULL,
  created_at     INTEGER NOT NULL,
  modified_at    INTEGER NOT NULL,
  workload       TEXT NOT NULL,
  settled        BOOLEAN NOT NULL,
  revision       INTEGER NOT NULL,
  FOREIGN KEY (definition_id, version) REFERENCES train_version (definition_id, number)
) WITHOUT ROWID;
CREATE INDEX train_job_by_definition ON train_job (definition_id, created_at, id);
CREATE INDEX train_job_by_version ON train_job (definition_id, version);
CREATE INDEX train_job_unsettled ON train_job (created_at, id) WHERE NOT settled;

CREATE TABLE train_report (
  job_id     TEXT NOT NULL REFERENCES train_job (id),
  seq        INTEGER NOT NULL,
  time       INTEGER NOT NULL,
  statistics TEXT NOT NULL,
  PRIMARY KEY (job_id, seq)
) WITHOUT ROWID;

CREATE TABLE train_model (
  id            TEXT PRIMARY KEY,
  org_id        TEXT NOT NULL,
  definition_id TEXT NOT NULL REFERENCES train_definition (id),
  job_id        TEXT NOT NULL,
  environment   TEXT NOT NULL,
  metrics       TEXT NOT NULL,
  description   TEXT NOT NULL,
  exec_env      TEXT NOT NULL,
  archived      BOOLEAN NOT NULL,
  user_id       TEXT NOT NULL,
  object        TEXT NOT NULL,
  from_result   BOOLEAN NOT NULL,
  created_at    INTEGER NOT NULL,
  modified_at   INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX train_model_by_definition ON train_model (definition_id, created_at, id);
CREATE UNIQUE INDEX train_model_from_result ON train_model (job_id) WHERE from_result;

-- Prefixes of objects whose rows are gone.
CREATE TABLE train_trash (
  prefix     TEXT PRIMARY KEY,
  created_at INTEGER NOT NULL
) WITHOUT ROWID;
