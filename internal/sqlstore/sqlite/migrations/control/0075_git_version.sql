-- +goose Up
-- Where the code of a version came from (JSON: url without credentials, ref, commit);
-- '{}' is code that was uploaded.
ALTER TABLE code_version ADD COLUMN git TEXT NOT NULL DEFAULT '{}';
ALTER TABLE train_version ADD COLUMN git TEXT NOT NULL DEFAULT '{}';
