-- +goose Up
-- Uploads that were promised a URL and have not come (data.md §10.3).
CREATE TABLE file_pending (
  channel      INTEGER NOT NULL,
  id           TEXT NOT NULL,
  content_type TEXT NOT NULL,
  metadata     TEXT NOT NULL,
  lifetime     TEXT NOT NULL,
  conflict_key TEXT NOT NULL,
  until        INTEGER NOT NULL,
  PRIMARY KEY (channel, id)
) WITHOUT ROWID;
CREATE INDEX file_pending_by_end ON file_pending (until);

-- Deleted channels whose rows and objects are still being removed.
CREATE TABLE channel_gone (
  num        INTEGER PRIMARY KEY,
  id         TEXT NOT NULL UNIQUE,
  org_id     TEXT NOT NULL,
  deleted_at INTEGER NOT NULL
);
