-- +goose Up
CREATE TABLE channel (
  num         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  id          TEXT COLLATE "C" NOT NULL UNIQUE,
  org_id      TEXT COLLATE "C" NOT NULL,
  name        TEXT NOT NULL,
  description TEXT,
  storage     TEXT NOT NULL,
  archived    BOOLEAN NOT NULL,
  created_at  BIGINT NOT NULL,
  updated_at  BIGINT NOT NULL
);
CREATE INDEX channel_by_org ON channel (org_id, created_at DESC, id);

-- at is the upload time, unique in the channel: the file's place in every index.
CREATE TABLE file (
  channel      BIGINT NOT NULL,
  at           BIGINT NOT NULL,
  id           TEXT COLLATE "C" NOT NULL,
  size         BIGINT NOT NULL,
  etag         TEXT NOT NULL,
  content_type TEXT NOT NULL,
  metadata     TEXT NOT NULL,
  lifetime     TEXT NOT NULL,
  expires_at   BIGINT NOT NULL,
  PRIMARY KEY (channel, at)
);
CREATE UNIQUE INDEX file_by_id ON file (channel, id);
CREATE INDEX file_by_expiry ON file (channel, expires_at) WHERE expires_at > 0;
CREATE INDEX file_expiring ON file (expires_at) WHERE expires_at > 0;

CREATE TABLE posting (
  channel    BIGINT NOT NULL,
  key        TEXT COLLATE "C" NOT NULL,
  token      TEXT COLLATE "C" NOT NULL,
  at         BIGINT NOT NULL,
  whole      BOOLEAN NOT NULL,
  expires_at BIGINT NOT NULL,
  PRIMARY KEY (channel, key, token, at) INCLUDE (whole, expires_at)
);

-- What a channel holds is the sum of its rows; they are folded into one now and then.
CREATE TABLE file_delta (
  id      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  channel BIGINT NOT NULL,
  files   BIGINT NOT NULL,
  bytes   BIGINT NOT NULL
);
CREATE INDEX file_delta_by_channel ON file_delta (channel, id);
