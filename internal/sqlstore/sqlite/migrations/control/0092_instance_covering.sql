-- +goose Up
-- All that a row has is in the index: whoever reads the instances of all deployments, in their
-- order, as a server that starts does, need not fetch each row from elsewhere.
DROP INDEX instance_by_deployment;
CREATE INDEX instance_by_deployment ON instance (deployment_id, service_id, created_at, workload, org_id, generation, state, ready_at);
