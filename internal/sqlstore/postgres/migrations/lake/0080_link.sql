-- +goose Up
-- Channels whose files are the objects of a foreign bucket (docs/adr/0017).
CREATE TABLE link (
  channel     BIGINT PRIMARY KEY,
  endpoint    TEXT NOT NULL,
  region      TEXT NOT NULL,
  bucket      TEXT NOT NULL,
  prefix      TEXT NOT NULL,
  credentials TEXT NOT NULL,
  feed        TEXT COLLATE "C" NOT NULL,
  queue       TEXT NOT NULL,
  secret_hash TEXT NOT NULL,
  paused      BOOLEAN NOT NULL,
  created_at  BIGINT NOT NULL,
  walk_after  TEXT NOT NULL DEFAULT '',
  walk_seen   BIGINT NOT NULL DEFAULT 0,
  walk_found  BIGINT NOT NULL DEFAULT 0,
  drift       BIGINT NOT NULL DEFAULT 0,
  passed_at   BIGINT NOT NULL DEFAULT 0
);

-- What was seen last at each key; file is empty at a tombstone.
CREATE TABLE link_object (
  channel    BIGINT NOT NULL,
  key        TEXT COLLATE "C" NOT NULL,
  gen        BIGINT NOT NULL,
  sequencer  TEXT NOT NULL,
  file       TEXT COLLATE "C" NOT NULL,
  version    TEXT NOT NULL,
  etag       TEXT NOT NULL,
  size       BIGINT NOT NULL,
  modified   BIGINT NOT NULL,
  mark       TEXT NOT NULL,
  written_at BIGINT NOT NULL,
  PRIMARY KEY (channel, key)
);
CREATE INDEX link_object_by_file ON link_object (channel, file) WHERE file <> '';
CREATE INDEX link_object_tombstones ON link_object (written_at) WHERE file = '';

-- Messages that led to nothing.
CREATE TABLE feed_letter (
  id       BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  channel  BIGINT NOT NULL,
  reason   TEXT NOT NULL,
  body     BYTEA NOT NULL,
  at       BIGINT NOT NULL
);
CREATE INDEX feed_letter_by_channel ON feed_letter (channel, id);

-- The queue of webhookfeed.
CREATE TABLE feed_message (
  id       BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  channel  BIGINT NOT NULL,
  body     BYTEA NOT NULL,
  sent     BIGINT NOT NULL,
  until    BIGINT NOT NULL,
  receipts BIGINT NOT NULL
);
CREATE INDEX feed_message_by_channel ON feed_message (channel, id);
