-- +goose Up
-- Channels whose files are the objects of a foreign bucket (docs/adr/0017).
CREATE TABLE link (
  channel     INTEGER PRIMARY KEY,
  endpoint    TEXT NOT NULL,
  region      TEXT NOT NULL,
  bucket      TEXT NOT NULL,
  prefix      TEXT NOT NULL,
  credentials TEXT NOT NULL,
  feed        TEXT NOT NULL,
  queue       TEXT NOT NULL,
  secret_hash TEXT NOT NULL,
  paused      BOOLEAN NOT NULL,
  created_at  INTEGER NOT NULL,
  walk_after  TEXT NOT NULL DEFAULT '',
  walk_seen   INTEGER NOT NULL DEFAULT 0,
  walk_found  INTEGER NOT NULL DEFAULT 0,
  drift       INTEGER NOT NULL DEFAULT 0,
  passed_at   INTEGER NOT NULL DEFAULT 0
);

-- What was seen last at each key; file is empty at a tombstone.
CREATE TABLE link_object (
  channel    INTEGER NOT NULL,
  key        TEXT NOT NULL,
  gen        INTEGER NOT NULL,
  sequencer  TEXT NOT NULL,
  file       TEXT NOT NULL,
  version    TEXT NOT NULL,
  etag       TEXT NOT NULL,
  size       INTEGER NOT NULL,
  modified   INTEGER NOT NULL,
  mark       TEXT NOT NULL,
  written_at INTEGER NOT NULL,
  PRIMARY KEY (channel, key)
) WITHOUT ROWID;
CREATE INDEX link_object_by_file ON link_object (channel, file) WHERE file <> '';
CREATE INDEX link_object_tombstones ON link_object (written_at) WHERE file = '';

-- Messages that led to nothing.
CREATE TABLE feed_letter (
  id       INTEGER PRIMARY KEY AUTOINCREMENT,
  channel  INTEGER NOT NULL,
  reason   TEXT NOT NULL,
  body     BLOB NOT NULL,
  at       INTEGER NOT NULL
);
CREATE INDEX feed_letter_by_channel ON feed_letter (channel, id);

-- The queue of webhookfeed.
CREATE TABLE feed_message (
  id       INTEGER PRIMARY KEY AUTOINCREMENT,
  channel  INTEGER NOT NULL,
  body     BLOB NOT NULL,
  sent     INTEGER NOT NULL,
  until    INTEGER NOT NULL,
  receipts INTEGER NOT NULL
);
CREATE INDEX feed_message_by_channel ON feed_message (channel, id);
