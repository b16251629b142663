-- +goose Up
-- One file per day of ingest has all of these tables; the file index.db uses
-- log_workload only, for what dropped days knew.
CREATE TABLE log_hot (
  first_pos INTEGER PRIMARY KEY,
  last_pos  INTEGER NOT NULL,
  t_min     INTEGER NOT NULL,
  t_max     INTEGER NOT NULL,
  n         INTEGER NOT NULL,
  streams   TEXT NOT NULL,
  data      BLOB NOT NULL
);

CREATE TABLE log_packed (
  id        INTEGER PRIMARY KEY,
  stream    TEXT NOT NULL,
  first_pos INTEGER NOT NULL,
  last_pos  INTEGER NOT NULL,
  t_min     INTEGER NOT NULL,
  t_max     INTEGER NOT NULL,
  n         INTEGER NOT NULL,
  data      BLOB NOT NULL
);
CREATE UNIQUE INDEX log_packed_by_stream ON log_packed (stream, first_pos, last_pos, t_min, t_max, n);

CREATE TABLE log_workload (
  workload   TEXT PRIMARY KEY,
  last_seq   INTEGER NOT NULL,
  updated_at INTEGER NOT NULL
) WITHOUT ROWID;

-- The sequencer: the next position. Locked first by every append.
CREATE TABLE log_sequence (
  one  INTEGER PRIMARY KEY CHECK (one = 1),
  next INTEGER NOT NULL
);
INSERT INTO log_sequence (one, next) VALUES (1, 0);
