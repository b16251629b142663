-- +goose Up
CREATE INDEX service_by_org ON service (org_id, created_at, id);
