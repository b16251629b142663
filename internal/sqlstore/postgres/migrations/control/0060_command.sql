-- +goose Up
-- A version may name a command (a JSON array of its words) instead of a handler.
ALTER TABLE code_version ADD COLUMN command TEXT NOT NULL DEFAULT '[]';
ALTER TABLE code_version ADD COLUMN health_path TEXT NOT NULL DEFAULT '';
-- What a service's version is; the version never changes.
ALTER TABLE service ADD COLUMN command BOOLEAN NOT NULL DEFAULT FALSE;
CREATE INDEX service_with_command ON service (org_id) WHERE command;
