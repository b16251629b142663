-- +goose Up
-- What a service asks of the scaler (0: the default), and what the scaler decided
-- last: how many instances, when and why.
ALTER TABLE service ADD COLUMN target_concurrency REAL NOT NULL DEFAULT 0;
ALTER TABLE service ADD COLUMN idle_timeout INTEGER NOT NULL DEFAULT 0;
ALTER TABLE service ADD COLUMN desired INTEGER NOT NULL DEFAULT 1;
ALTER TABLE service ADD COLUMN scaled_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE service ADD COLUMN scale_message TEXT NOT NULL DEFAULT '';
UPDATE service SET desired = number;
-- An instance does not leave before its asynchronous calls are done.
CREATE INDEX async_call_by_workload ON async_call (workload) WHERE finished_at = 0;
