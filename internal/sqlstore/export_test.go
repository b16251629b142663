// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"time"

	"panal/internal/lake"
	"panal/internal/plat"
)

// Statement is SQL that a search runs.
type Statement struct {
	SQL  string
	Args []any
}

// SearchStatements returns what the page after a stamp (0: the first one) of a filter
// reads, arm by arm.
func (s *Lake) SearchStatements(ctx context.Context, f lake.Filter, after int64, desc bool, now time.Time) ([]Statement, error) {
	q, err := s.newSearch(ctx, s.db.Read(), f, now)
	if err != nil {
		return nil, err
	}
	sp := span{desc: desc, limit: 101}
	if after != 0 {
		sp.after = &after
	}
	var out []Statement
	for _, m := range q.arms {
		var a sqlArgs
		stmt := q.armSQL(&a, m, true, sp)
		out = append(out, Statement{stmt, a.list})
	}
	return out, nil
}

// CountStatement returns what an exact count reads.
func (s *Lake) CountStatement(ctx context.Context, f lake.Filter, now time.Time) (Statement, error) {
	q, err := s.newSearch(ctx, s.db.Read(), f, now)
	if err != nil {
		return Statement{}, err
	}
	stmt, args := q.countSQL()
	return Statement{stmt, args}, nil
}

// LinkStatements returns what a batch of a link's events reads and deletes by.
func (s *Lake) LinkStatements(ctx context.Context, channel plat.ChannelID, keys []string, ids []plat.FileID) ([]Statement, error) {
	num, err := s.channelNum(ctx, s.db.Read(), channel)
	if err != nil {
		return nil, err
	}
	rows, rowArgs := NewLinks(s).rowsStatement(channel, keys)
	del, delArgs := deleteFilesStatement(&s.db.dialect, num, ids)
	return []Statement{{rows, rowArgs}, {del, delArgs}}, nil
}

// PendingStatement is how the switches are found that wait for a service.
func PendingStatement(id plat.ServiceID) Statement {
	return Statement{`UPDATE endpoint SET id = id WHERE ` + pendingOn, []any{string(id)}}
}

// PostPart makes the postings of about so many late files, then ends with an error, if
// there is one.
func (s *Lake) PostPart(ctx context.Context, files int, end error) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		if err := tx.postPart(ctx, files); err != nil {
			return err
		}
		return end
	})
}
