-- +goose Up
-- Control walks the deployments a page at a time, with their instances.
CREATE INDEX instance_by_deployment ON instance (deployment_id, service_id, created_at, workload);
-- How many services are in each status is asked for by the metrics.
CREATE INDEX service_by_status ON service (status);
