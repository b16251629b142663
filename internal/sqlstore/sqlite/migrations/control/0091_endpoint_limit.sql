-- +goose Up
-- What an endpoint takes of requests: a second, and under way; 0 is no limit.
ALTER TABLE endpoint ADD COLUMN rate_limit REAL NOT NULL DEFAULT 0;
ALTER TABLE endpoint ADD COLUMN call_limit INTEGER NOT NULL DEFAULT 0;
