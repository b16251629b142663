-- +goose Up
-- The DataLake: tables follow in later files of this folder.
SELECT 1;
