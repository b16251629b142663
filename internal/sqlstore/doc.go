// SPDX-License-Identifier: Apache-2.0

// Package sqlstore implements every domain's store once, in SQL that SQLite and
// PostgreSQL both take; what differs is a Dialect value. The engines live beside
// it: sqlite and postgres open a DB and carry its migrations.
//
// Conventions. Placeholders are $1, $2, …. Times are BIGINT Unix microseconds
// (both engines order and compare them alike), booleans BOOLEAN, JSON is TEXT,
// ids are TEXT; on PostgreSQL every text column whose order is API is declared
// COLLATE "C". Writes go through DB.Write (one writer on SQLite), reads through
// DB.Read. Errors leave as plat kinds. A change and the events that tell of it
// are one transaction (package outbox).
package sqlstore
