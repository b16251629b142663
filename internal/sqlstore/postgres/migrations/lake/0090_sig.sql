-- +goose Up
-- Each entry has a Bloom filter of its file's terms (lake.Signature). Older ones
-- have all bits, which is right, and as slow as before.
ALTER TABLE posting ADD COLUMN sig BIGINT NOT NULL DEFAULT -1;
ALTER TABLE posting DROP CONSTRAINT posting_pkey;
ALTER TABLE posting ADD PRIMARY KEY (channel, key, token, at) INCLUDE (whole, expires_at, sig);
