-- +goose Up
-- What an endpoint takes of requests: a second, and under way; 0 is no limit.
ALTER TABLE endpoint ADD COLUMN rate_limit DOUBLE PRECISION NOT NULL DEFAULT 0;
ALTER TABLE endpoint ADD COLUMN call_limit BIGINT NOT NULL DEFAULT 0;
