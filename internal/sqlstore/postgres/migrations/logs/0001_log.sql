-- +goose Up
-- Partitions, one per day of ingest, are made on demand and dropped whole: a
-- position names its day (logs.Pos), so the position is the partition key.
CREATE TABLE log_hot (
  first_pos BIGINT NOT NULL PRIMARY KEY,
  last_pos  BIGINT NOT NULL,
  t_min     BIGINT NOT NULL,
  t_max     BIGINT NOT NULL,
  n         BIGINT NOT NULL,
  streams   TEXT COLLATE "C" NOT NULL,
  data      BYTEA NOT NULL
) PARTITION BY RANGE (first_pos);

CREATE TABLE log_packed (
  stream    TEXT COLLATE "C" NOT NULL,
  first_pos BIGINT NOT NULL,
  last_pos  BIGINT NOT NULL,
  t_min     BIGINT NOT NULL,
  t_max     BIGINT NOT NULL,
  n         BIGINT NOT NULL,
  data      BYTEA NOT NULL,
  PRIMARY KEY (stream, first_pos) INCLUDE (last_pos, t_min, t_max, n)
) PARTITION BY RANGE (first_pos);
-- The data is compressed already.
ALTER TABLE log_hot ALTER COLUMN data SET STORAGE EXTERNAL;
ALTER TABLE log_packed ALTER COLUMN data SET STORAGE EXTERNAL;

CREATE TABLE log_workload (
  workload   TEXT COLLATE "C" PRIMARY KEY,
  last_seq   BIGINT NOT NULL,
  updated_at BIGINT NOT NULL
);

-- The sequencer: the next position. Locked first by every append.
CREATE TABLE log_sequence (
  one  BIGINT PRIMARY KEY CHECK (one = 1),
  next BIGINT NOT NULL
) WITH (fillfactor = 10);
INSERT INTO log_sequence (one, next) VALUES (1, 0);
