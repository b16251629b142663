-- +goose Up
CREATE TABLE train_definition (
  id           TEXT COLLATE "C" PRIMARY KEY,
  org_id       TEXT NOT NULL REFERENCES organization (id),
  name         TEXT COLLATE "C" NOT NULL,
  archived     BOOLEAN NOT NULL,
  next_version BIGINT NOT NULL,
  created_at   BIGINT NOT NULL,
  modified_at  BIGINT NOT NULL,
  UNIQUE (org_id, name)
);
CREATE INDEX train_definition_by_age ON train_definition (org_id, created_at, id);

CREATE TABLE train_version (
  definition_id TEXT COLLATE "C" NOT NULL REFERENCES train_definition (id),
  number        BIGINT NOT NULL,
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
  created_at    BIGINT NOT NULL,
  modified_at   BIGINT NOT NULL,
  PRIMARY KEY (definition_id, number)
);

CREATE TABLE train_job (
  id             TEXT COLLATE "C" PRIMARY KEY,
  org_id         TEXT NOT NULL,
  definition_id  TEXT COLLATE "C" NOT NULL,
  version        BIGINT NOT NULL,
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
  start_time     BIGINT NOT NULL,
  completed_at   BIGINT NOT NULL,
  created_at     BIGINT NOT NULL,
  modified_at    BIGINT NOT NULL,
  workload       TEXT NOT NULL,
  settled        BOOLEAN NOT NULL,
  revision       BIGINT NOT NULL,
  FOREIGN KEY (definition_id, version) REFERENCES train_version (definition_id, number)
);
CREATE INDEX train_job_by_definition ON train_job (definition_id, created_at, id);
CREATE INDEX train_job_by_version ON train_job (definition_id, version);
CREATE INDEX train_job_unsettled ON train_job (created_at, id) WHERE NOT settled;

CREATE TABLE train_report (
  job_id     TEXT COLLATE "C" NOT NULL REFERENCES train_job (id),
  seq        BIGINT NOT NULL,
  time       BIGINT NOT NULL,
  statistics TEXT NOT NULL,
  PRIMARY KEY (job_id, seq)
);

CREATE TABLE train_model (
  id            TEXT COLLATE "C" PRIMARY KEY,
  org_id        TEXT NOT NULL,
  definition_id TEXT COLLATE "C" NOT NULL REFERENCES train_definition (id),
  job_id        TEXT COLLATE "C" NOT NULL,
  environment   TEXT NOT NULL,
  metrics       TEXT NOT NULL,
  description   TEXT NOT NULL,
  exec_env      TEXT NOT NULL,
  archived      BOOLEAN NOT NULL,
  user_id       TEXT NOT NULL,
  object        TEXT NOT NULL,
  from_result   BOOLEAN NOT NULL,
  created_at    BIGINT NOT NULL,
  modified_at   BIGINT NOT NULL
);
CREATE INDEX train_model_by_definition ON train_model (definition_id, created_at, id);
CREATE UNIQUE INDEX train_model_from_result ON train_model (job_id) WHERE from_result;

-- Prefixes of objects whose rows are gone.
CREATE TABLE train_trash (
  prefix     TEXT COLLATE "C" PRIMARY KEY,
  created_at BIGINT NOT NULL
);
