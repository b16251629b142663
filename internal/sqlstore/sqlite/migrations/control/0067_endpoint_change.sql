-- +goose Up
-- How an endpoint shares its requests: a JSON array of parts, or [] for one service.
ALTER TABLE endpoint ADD COLUMN split TEXT NOT NULL DEFAULT '[]';
-- Every change of an alias, numbered. It outlives the endpoint, not the deployment.
CREATE TABLE endpoint_change (
  deployment_id TEXT NOT NULL REFERENCES deployment (id) ON DELETE CASCADE,
  alias         TEXT NOT NULL,
  number        INTEGER NOT NULL,
  endpoint_id   TEXT NOT NULL,
  kind          TEXT NOT NULL,
  from_id       TEXT NOT NULL,
  to_id         TEXT NOT NULL,
  split         TEXT NOT NULL,
  changed_by    TEXT NOT NULL,
  changed_at    INTEGER NOT NULL,
  PRIMARY KEY (deployment_id, alias, number)
) WITHOUT ROWID;
CREATE INDEX endpoint_change_by_endpoint ON endpoint_change (endpoint_id);
INSERT INTO endpoint_change (deployment_id, alias, number, endpoint_id, kind, from_id, to_id, split, changed_by, changed_at)
SELECT e.deployment_id, e.alias, ROW_NUMBER() OVER (PARTITION BY e.id ORDER BY s.seq), e.id,
  CASE WHEN s.from_id = '' THEN 'created' ELSE 'switched' END, s.from_id, s.to_id, '[]', s.switched_by, s.switched_at
FROM endpoint_switch s JOIN endpoint e ON e.id = s.endpoint_id;
DROP TABLE endpoint_switch;
