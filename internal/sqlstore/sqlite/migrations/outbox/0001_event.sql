-- +goose Up
CREATE TABLE event (
  seq     INTEGER PRIMARY KEY AUTOINCREMENT,
  txid    INTEGER NOT NULL,
  time    INTEGER NOT NULL,
  topic   TEXT NOT NULL,
  subject TEXT NOT NULL,
  what    TEXT NOT NULL
);
CREATE INDEX event_by_time ON event (time);
