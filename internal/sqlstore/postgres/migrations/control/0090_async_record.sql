-- +goose Up
-- What makes a file of a result that is to be recorded; '' when none is, or it is done.
ALTER TABLE async_call ADD COLUMN record TEXT NOT NULL DEFAULT '';
CREATE INDEX async_call_unrecorded ON async_call (finished_at, id) WHERE record <> '' AND finished_at <> 0;
