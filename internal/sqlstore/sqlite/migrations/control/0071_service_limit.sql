-- +goose Up
-- Calls a second, and calls under way, that a service takes; 0: any.
ALTER TABLE service ADD COLUMN rate_limit REAL NOT NULL DEFAULT 0;
ALTER TABLE service ADD COLUMN call_limit INTEGER NOT NULL DEFAULT 0;
