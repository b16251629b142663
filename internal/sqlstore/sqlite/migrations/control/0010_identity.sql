-- +goose Up
ALTER TABLE person ADD COLUMN preferred_language TEXT NOT NULL DEFAULT 'en';
CREATE INDEX person_by_age ON person (org_id, created_at, id);

-- Tokens get a public name, so that one can be ended by who does not hold it.
ALTER TABLE token ADD COLUMN id TEXT NOT NULL DEFAULT '';
ALTER TABLE token ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE token ADD COLUMN datasource_id TEXT NOT NULL DEFAULT '';
UPDATE token SET id = 'tok-' || substr(hash, 1, 16) WHERE kind = 'user';
CREATE UNIQUE INDEX token_by_id ON token (id) WHERE id <> '';
CREATE INDEX token_by_user ON token (user_id, created_at) WHERE kind = 'user';
CREATE INDEX token_by_datasource ON token (datasource_id) WHERE datasource_id <> '';

CREATE TABLE datasource (
  id           TEXT PRIMARY KEY,
  org_id       TEXT NOT NULL REFERENCES organization (id),
  display_name TEXT NOT NULL,
  sealed       BLOB NOT NULL,
  key_id       TEXT NOT NULL,
  created_at   INTEGER NOT NULL,
  updated_at   INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX datasource_by_org ON datasource (org_id, created_at, id);

-- Channels live in another database: no foreign key.
CREATE TABLE datasource_link (
  channel_id    TEXT NOT NULL,
  datasource_id TEXT NOT NULL REFERENCES datasource (id),
  created_at    INTEGER NOT NULL,
  PRIMARY KEY (channel_id, datasource_id)
) WITHOUT ROWID;
CREATE INDEX datasource_link_by_datasource ON datasource_link (datasource_id, channel_id);

-- AUTOINCREMENT: the number of a rule that is gone never names another one.
CREATE TABLE ip_rule (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  org_id      TEXT NOT NULL REFERENCES organization (id),
  cidr        TEXT NOT NULL,
  description TEXT NOT NULL,
  created_at  INTEGER NOT NULL,
  updated_at  INTEGER NOT NULL
);
CREATE INDEX ip_rule_by_org ON ip_rule (org_id, id);
