-- +goose Up
-- Files that have no postings yet (docs/adr/0029).
CREATE TABLE file_late (
  channel INTEGER NOT NULL,
  at      INTEGER NOT NULL,
  PRIMARY KEY (channel, at)
) WITHOUT ROWID;
