-- +goose Up
-- operator: the organization whose admins run the installation, the first there was.
-- state: active, suspended or deleting. quota: bytes of files, 0 for none.
ALTER TABLE organization ADD COLUMN operator BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE organization ADD COLUMN state TEXT NOT NULL DEFAULT 'active';
ALTER TABLE organization ADD COLUMN quota BIGINT NOT NULL DEFAULT 0;
UPDATE organization SET operator = TRUE WHERE id = (SELECT id FROM organization ORDER BY created_at, id LIMIT 1);
CREATE UNIQUE INDEX organization_operator ON organization (operator) WHERE operator;

-- One row for each mutating call. Ordered by time within an organization: reading
-- and dropping are ranges, and there is no other index to write.
CREATE TABLE audit (
  org_id    TEXT COLLATE "C" NOT NULL,
  at        BIGINT NOT NULL,
  id        TEXT COLLATE "C" NOT NULL,
  actor     TEXT NOT NULL,
  actor_id  TEXT NOT NULL,
  operation TEXT NOT NULL,
  method    TEXT NOT NULL,
  path      TEXT NOT NULL,
  targets   TEXT NOT NULL,
  status    INTEGER NOT NULL,
  source    TEXT NOT NULL,
  missed    INTEGER NOT NULL,
  PRIMARY KEY (org_id, at, id)
);
