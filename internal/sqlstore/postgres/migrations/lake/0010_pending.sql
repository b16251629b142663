-- +goose Up
-- Uploads that were promised a URL and have not come (data.md §10.3).
CREATE TABLE file_pending (
  channel      BIGINT NOT NULL,
  id           TEXT COLLATE "C" NOT NULL,
  content_type TEXT NOT NULL,
  metadata     TEXT NOT NULL,
  lifetime     TEXT NOT NULL,
  conflict_key TEXT NOT NULL,
  until        BIGINT NOT NULL,
  PRIMARY KEY (channel, id)
);
CREATE INDEX file_pending_by_end ON file_pending (until);

-- Deleted channels whose rows and objects are still being removed.
CREATE TABLE channel_gone (
  num        BIGINT PRIMARY KEY,
  id         TEXT COLLATE "C" NOT NULL UNIQUE,
  org_id     TEXT COLLATE "C" NOT NULL,
  deleted_at BIGINT NOT NULL
);
