-- +goose Up
-- Each entry has a Bloom filter of its file's terms (lake.Signature). Older ones
-- have all bits, which is right, and as slow as before.
ALTER TABLE posting ADD COLUMN sig INTEGER NOT NULL DEFAULT -1;
