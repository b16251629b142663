-- +goose Up
CREATE TABLE channel (
  num         INTEGER PRIMARY KEY AUTOINCREMENT,
  id          TEXT NOT NULL UNIQUE,
  org_id      TEXT NOT NULL,
  name        TEXT NOT NULL,
  description TEXT,
  storage     TEXT NOT NULL,
  archived    BOOLEAN NOT NULL,
  created_at  INTEGER NOT NULL,
  updated_at  INTEGER NOT NULL
);
CREATE INDEX channel_by_org ON channel (org_id, created_at DESC, id);

-- at is the upload time, unique in the channel: the file's place in every index.
CREATE TABLE file (
  channel      INTEGER NOT NULL,
  at           INTEGER NOT NULL,
  id           TEXT NOT NULL,
  size         INTEGER NOT NULL,
  etag         TEXT NOT NULL,
  content_type TEXT NOT NULL,
  metadata     TEXT NOT NULL,
  lifetime     TEXT NOT NULL,
  expires_at   INTEGER NOT NULL,
  PRIMARY KEY (channel, at)
) WITHOUT ROWID;
CREATE UNIQUE INDEX file_by_id ON file (channel, id);
CREATE INDEX file_by_expiry ON file (channel, expires_at) WHERE expires_at > 0;
CREATE INDEX file_expiring ON file (expires_at) WHERE expires_at > 0;

CREATE TABLE posting (
  channel    INTEGER NOT NULL,
  key        TEXT NOT NULL,
  token      TEXT NOT NULL,
  at         INTEGER NOT NULL,
  whole      BOOLEAN NOT NULL,
  expires_at INTEGER NOT NULL,
  PRIMARY KEY (channel, key, token, at)
) WITHOUT ROWID;

-- What a channel holds is the sum of its rows; they are folded into one now and then.
CREATE TABLE file_delta (
  id      INTEGER PRIMARY KEY,
  channel INTEGER NOT NULL,
  files   INTEGER NOT NULL,
  bytes   INTEGER NOT NULL
);
CREATE INDEX file_delta_by_channel ON file_delta (channel, id);
