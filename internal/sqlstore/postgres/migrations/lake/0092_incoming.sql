-- +goose Up
-- Promised uploads whose bodies go straight to the storage (docs/adr/0028): which bytes
-- are taken in, and why none will be.
ALTER TABLE file_pending ADD COLUMN straight BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE file_pending ADD COLUMN tag TEXT NOT NULL DEFAULT '';
ALTER TABLE file_pending ADD COLUMN size BIGINT NOT NULL DEFAULT 0;
ALTER TABLE file_pending ADD COLUMN refused TEXT NOT NULL DEFAULT '';
CREATE INDEX file_pending_straight ON file_pending (until) WHERE straight AND refused = '';
