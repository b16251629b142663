-- +goose Up
-- How often a file or channel was changed: what tells the newer of two entries of
-- the change journal (docs/adr/0012).
ALTER TABLE channel ADD COLUMN rev BIGINT NOT NULL DEFAULT 0;
ALTER TABLE file ADD COLUMN rev BIGINT NOT NULL DEFAULT 0;
