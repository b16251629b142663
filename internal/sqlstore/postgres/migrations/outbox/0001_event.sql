-- +goose Up
CREATE TABLE event (
  seq     BIGINT GENERATED ALWAYS AS IDENTITY,
  txid    BIGINT NOT NULL,
  time    BIGINT NOT NULL,
  topic   TEXT NOT NULL,
  subject TEXT NOT NULL,
  what    TEXT NOT NULL,
  PRIMARY KEY (txid, seq)
);
CREATE INDEX event_by_time ON event (time);
