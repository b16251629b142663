-- +goose Up
-- Calls a second, and calls under way, that a service takes; 0: any.
ALTER TABLE service ADD COLUMN rate_limit DOUBLE PRECISION NOT NULL DEFAULT 0;
ALTER TABLE service ADD COLUMN call_limit BIGINT NOT NULL DEFAULT 0;
