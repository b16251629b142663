-- +goose Up
-- The key of a bucket's file (data.md §15): a bucket is a channel whose storage is
-- 'bucket', and its files are files with a path, one of each (docs/adr/0011).
ALTER TABLE file ADD COLUMN path TEXT COLLATE "C" NOT NULL DEFAULT '';
CREATE UNIQUE INDEX file_by_path ON file (channel, path) WHERE path <> '';
