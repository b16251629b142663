-- +goose Up
-- An asynchronous call, and its result once finished_at is not 0. It refers to
-- nothing: a result outlives the service that made it.
CREATE TABLE async_call (
  id            TEXT PRIMARY KEY,
  org_id        TEXT NOT NULL,
  deployment_id TEXT NOT NULL,
  workload      TEXT NOT NULL,
  token_hash    TEXT NOT NULL,
  created_at    BIGINT NOT NULL,
  finished_at   BIGINT NOT NULL,
  status        BIGINT NOT NULL,
  headers       TEXT NOT NULL,
  size          BIGINT NOT NULL
);
CREATE INDEX async_call_by_org ON async_call (org_id, finished_at);
CREATE INDEX async_call_open ON async_call (created_at, id) WHERE finished_at = 0;
CREATE INDEX async_call_done ON async_call (finished_at, id) WHERE finished_at <> 0;
