-- +goose Up
CREATE TABLE deployment (
  id          TEXT COLLATE "C" PRIMARY KEY,
  org_id      TEXT NOT NULL REFERENCES organization (id),
  name        TEXT NOT NULL,
  description TEXT NOT NULL,
  environment TEXT NOT NULL,
  creator     TEXT NOT NULL,
  created_at  BIGINT NOT NULL,
  modified_at BIGINT NOT NULL
);
CREATE INDEX deployment_by_org ON deployment (org_id, created_at, id);

CREATE TABLE code_version (
  id            TEXT COLLATE "C" PRIMARY KEY,
  org_id        TEXT NOT NULL,
  deployment_id TEXT NOT NULL REFERENCES deployment (id),
  label         TEXT NOT NULL,
  handler       TEXT NOT NULL,
  image         TEXT NOT NULL,
  environment   TEXT NOT NULL,
  description   TEXT NOT NULL,
  creator       TEXT NOT NULL,
  created_at    BIGINT NOT NULL,
  modified_at   BIGINT NOT NULL,
  UNIQUE (deployment_id, label)
);

CREATE TABLE service (
  id               TEXT COLLATE "C" PRIMARY KEY,
  org_id           TEXT NOT NULL,
  deployment_id    TEXT NOT NULL REFERENCES deployment (id),
  version_id       TEXT NOT NULL REFERENCES code_version (id),
  version_label    TEXT NOT NULL,
  models           TEXT NOT NULL,
  status           TEXT NOT NULL,
  status_message   TEXT NOT NULL,
  instance_type    TEXT NOT NULL,
  number           BIGINT NOT NULL,
  min_number       BIGINT NOT NULL,
  max_number       BIGINT NOT NULL,
  autoscale        BOOLEAN NOT NULL,
  record_channel   TEXT NOT NULL,
  environment      TEXT NOT NULL,
  merged           TEXT NOT NULL,
  creator          TEXT NOT NULL,
  created_at       BIGINT NOT NULL,
  modified_at      BIGINT NOT NULL,
  generation       BIGINT NOT NULL,
  ready_generation BIGINT NOT NULL,
  failures         BIGINT NOT NULL,
  last_failure     BIGINT NOT NULL,
  retry_at         BIGINT NOT NULL
);
CREATE INDEX service_by_deployment ON service (deployment_id, created_at, id);
CREATE INDEX service_by_version ON service (version_id);
CREATE INDEX service_with_model ON service (org_id) WHERE models <> '{}';

-- An instance outlives its service's record, so it refers to nothing.
CREATE TABLE instance (
  workload      TEXT COLLATE "C" PRIMARY KEY,
  org_id        TEXT NOT NULL,
  deployment_id TEXT NOT NULL,
  service_id    TEXT NOT NULL,
  generation    BIGINT NOT NULL,
  state         TEXT NOT NULL,
  created_at    BIGINT NOT NULL,
  ready_at      BIGINT NOT NULL
);
CREATE INDEX instance_by_service ON instance (service_id, created_at, workload);

CREATE TABLE endpoint (
  id             TEXT COLLATE "C" PRIMARY KEY,
  org_id         TEXT NOT NULL,
  deployment_id  TEXT NOT NULL REFERENCES deployment (id),
  alias          TEXT NOT NULL,
  service_id     TEXT NOT NULL REFERENCES service (id),
  pending_id     TEXT NOT NULL,
  pending_by     TEXT NOT NULL,
  status_message TEXT NOT NULL,
  created_at     BIGINT NOT NULL,
  modified_at    BIGINT NOT NULL,
  UNIQUE (deployment_id, alias)
);
CREATE INDEX endpoint_by_service ON endpoint (service_id);
CREATE INDEX endpoint_by_pending ON endpoint (pending_id) WHERE pending_id <> '';

CREATE TABLE endpoint_switch (
  seq         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  endpoint_id TEXT NOT NULL REFERENCES endpoint (id) ON DELETE CASCADE,
  from_id     TEXT NOT NULL,
  to_id       TEXT NOT NULL,
  switched_by TEXT NOT NULL,
  switched_at BIGINT NOT NULL
);
CREATE INDEX endpoint_switch_by_endpoint ON endpoint_switch (endpoint_id, seq);
