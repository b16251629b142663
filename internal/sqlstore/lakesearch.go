// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"time"

	"panal/internal/lake"
	"panal/internal/lake/query"
)

// A search runs over one or more arms: ranges of an index, each in order of the
// upload time, whose union holds every match. Each arm filters by the rest of the
// query, as far as the index can tell. Where it can tell all (exact), SQL answers
// alone; where not, it narrows, and lake.Match decides on the rows.
type search struct {
	lake  *Lake
	read  Querier // the pool, or a snapshot
	late  lateFound
	f     lake.Filter
	num   int64
	now   int64
	from  int64 // upload time, inclusive
	to    int64 // exclusive; 0: no bound
	arms  []arm
	exact bool
	// fence is Dialect.Fence where rows are to be looked up one by one; joined is set where
	// it is left to the engine, whose estimates a signature would mislead.
	fence  string
	joined bool
}

// arm is one range and what must hold besides.
type arm struct {
	term *lake.Term // a posting list; nil: the file table
	ids  [2]string  // on the file table: ids in [0], [1]); "" for none
	rest query.Node
	cost int // an estimate of the range's length, up to costCap
}

// costCap bounds how many index entries an estimate looks at. Longer ranges are told
// apart by how close together these are.
const costCap = 1000

func (s *Lake) newSearch(ctx context.Context, read Querier, f lake.Filter, now time.Time) (*search, error) {
	num, err := s.channelNum(ctx, read, f.Channel)
	if err != nil {
		return nil, err
	}
	q := &search{lake: s, read: read, f: f, num: num, now: micros(now), from: micros(f.From), to: micros(f.To)}
	q.narrow(f.Query)
	if f.Query != nil { // else the file table has all
		if err := q.findLate(ctx, func(x lake.File) bool { return lake.Match(f.Query, x) }); err != nil {
			return nil, err
		}
	}
	if q.arms, err = q.plan(ctx, f.Query); err != nil {
		return nil, err
	}
	if q.arms == nil {
		q.arms = []arm{{rest: f.Query}}
	}
	q.exact = f.Query == nil || exact(f.Query)
	// The range is read in order, or is short: then the rest is looked up row by row.
	// Left alone, PostgreSQL makes joins of it, and of a NOT one that reads all of the
	// other term. Only a count over long ranges (see Count) is better off so.
	q.fence = s.db.dialect.Fence
	return q, nil
}

// narrow takes time spans that every match is in out of the query.
func (q *search) narrow(n query.Node) {
	switch n := n.(type) {
	case query.And:
		for _, x := range n {
			q.narrow(x)
		}
	case query.Clause:
		if n.Field != lake.FieldUploadedAt || n.Kind != query.Word {
			return
		}
		if from, to, err := lake.TimeRange(n.Value); err == nil {
			q.from = max(q.from, from.UnixMicro())
			if end := to.UnixMicro(); q.to == 0 || end < q.to {
				q.to = end
			}
		}
	}
}

// plan returns the arms that cover n, or nil when the index can't: then the whole
// channel is read in order.
func (q *search) plan(ctx context.Context, n query.Node) ([]arm, error) {
	switch n := n.(type) {
	case query.Or:
		var all []arm
		for _, x := range n {
			arms, err := q.plan(ctx, x)
			if err != nil || arms == nil {
				return nil, err
			}
			all = append(all, arms...)
		}
		return all, nil
	case query.And:
		return q.planAnd(ctx, n)
	case query.Clause:
		return q.planClause(ctx, n)
	}
	return nil, nil
}

// planAnd picks the part with the shortest range; the others become its rest.
func (q *search) planAnd(ctx context.Context, n query.And) ([]arm, error) {
	var best []arm
	pick, bestCost := -1, 0
	for i, x := range n {
		arms, err := q.plan(ctx, x)
		if err != nil {
			return nil, err
		}
		if arms == nil {
			continue
		}
		cost := 0
		for _, a := range arms {
			cost += a.cost
		}
		if pick < 0 || cost < bestCost {
			pick, best, bestCost = i, arms, cost
		}
	}
	if pick < 0 {
		return nil, nil
	}
	others := slices.Delete(slices.Clone(n), pick, pick+1)
	for i := range best {
		rest := others
		if best[i].rest != nil {
			rest = append(slices.Clone(others), best[i].rest)
		}
		if len(rest) == 1 {
			best[i].rest = rest[0]
		} else {
			best[i].rest = rest
		}
	}
	return best, nil
}

var stampPattern = regexp.MustCompile(`^\d{8}t\d{6}$`)

func (q *search) planClause(ctx context.Context, c query.Clause) ([]arm, error) {
	switch c.Field {
	case lake.FieldUploadedAt:
		return nil, nil
	case lake.FieldFileID:
		if c.Kind == query.Quoted {
			return []arm{{ids: [2]string{c.Value, c.Value + "\x01"}, cost: 1, rest: c}}, nil
		}
		if toks := query.Tokens(c.Value); c.Kind == query.Word && len(toks) > 0 && stampPattern.MatchString(toks[0]) {
			// The stamp can only be the id's first token.
			stamp := strings.ToUpper(toks[0])
			cost := costCap / 2
			if len(toks) > 1 {
				stamp += "-" + strings.Join(toks[1:], "-")
				cost = 1
			}
			return []arm{{ids: [2]string{stamp, stamp + "\x7f"}, cost: cost, rest: c}}, nil
		}
		return nil, nil
	}
	terms := clauseTerms(c)
	if len(terms) == 0 {
		return nil, nil
	}
	var best arm
	for i := range terms {
		cost, err := q.termCost(ctx, terms[i])
		if err != nil {
			return nil, err
		}
		if i == 0 || cost < best.cost {
			best = arm{term: &terms[i], cost: cost}
		}
	}
	if len(terms) > 1 || !exactClause(c) {
		best.rest = c
	}
	return []arm{best}, nil
}

// termCost estimates the length of a posting list.
func (q *search) termCost(ctx context.Context, t lake.Term) (int, error) {
	var n, first, last int64
	err := q.read.QueryRowContext(ctx,
		`SELECT COUNT(*), COALESCE(MIN(at), 0), COALESCE(MAX(at), 0)
		 FROM (SELECT at FROM posting WHERE channel = $1 AND key = $2 AND token = $3 ORDER BY at LIMIT $4) AS few`,
		q.num, t.Key, t.Token, costCap).Scan(&n, &first, &last)
	if err != nil || n < costCap {
		return int(n), q.lake.db.translate(err)
	}
	// As if it went on so until now. At least one: of two full samples none is free.
	return int(float64(costCap) * max(1, float64(q.now-first)/float64(max(1, last-first)))), nil
}

// clauseKey is the index key of a clause on text.
func clauseKey(c query.Clause) string {
	if c.Field == lake.FieldContentType {
		return lake.KeyContentType
	}
	return lake.TermKey(lake.FieldKey(c.Field))
}

// clauseTerms returns terms that every match of the clause has; none when the
// index does not help.
func clauseTerms(c query.Clause) []lake.Term {
	key := clauseKey(c)
	if c.Field != lake.FieldContentType && key == lake.KeyContentType {
		return nil
	}
	switch c.Kind {
	case query.Quoted:
		return []lake.Term{{Key: key, Token: lake.WholeToken(c.Value), Whole: true}}
	case query.Glob:
		return tokenTerms(key, globTokens(c.Value))
	case query.Word:
	}
	toks := query.Tokens(c.Value)
	if len(toks) == 0 {
		return []lake.Term{{Key: key, Token: lake.WholeToken(c.Value), Whole: true}}
	}
	return tokenTerms(key, toks)
}

func tokenTerms(key string, toks []string) []lake.Term {
	var terms []lake.Term
	for _, tok := range toks {
		t := lake.Term{Key: key, Token: lake.TermToken(tok)}
		if len(terms) < 8 && !slices.Contains(terms, t) { // more would not narrow much
			terms = append(terms, t)
		}
	}
	return terms
}

// globTokens returns the tokens that a glob holds whole: those that no wildcard
// touches.
func globTokens(glob string) []string {
	var toks []string
	parts := strings.FieldsFunc(" "+glob+" ", func(r rune) bool { return r == ' ' }) // a bare word has no space
	for _, part := range parts {
		// A wildcard becomes a letter of no alphabet, so that a token it touches is
		// seen to contain it.
		const wild = "\u02bc" // a modifier letter: part of a token
		if strings.Contains(part, wild) {
			return nil
		}
		for _, tok := range query.Tokens(strings.NewReplacer("*", wild, "?", wild).Replace(part)) {
			if !strings.Contains(tok, wild) {
				toks = append(toks, tok)
			}
		}
	}
	return toks
}

// exactClause tells whether the index alone decides the clause.
func exactClause(c query.Clause) bool {
	switch c.Field {
	case lake.FieldUploadedAt:
		return c.Kind == query.Word
	case lake.FieldFileID:
		return c.Kind == query.Quoted
	}
	switch c.Kind {
	case query.Quoted:
		return true
	case query.Glob:
		return false
	case query.Word:
	}
	return len(query.Tokens(c.Value)) < 2 // none: compared whole
}

func exact(n query.Node) bool {
	all := true
	query.Clauses(n, func(c query.Clause) { all = all && exactClause(c) })
	return all
}

// predicate writes n as SQL about the row alias (which has channel and at). Where
// the index can't decide a clause, it is an upper bound (over) or a lower one.
func (q *search) predicate(a *sqlArgs, alias string, n query.Node, over bool) string {
	list := func(nodes []query.Node, op string) string {
		parts := make([]string, len(nodes))
		for i, x := range nodes {
			parts[i] = q.predicate(a, alias, x, over)
		}
		return "(" + strings.Join(parts, op) + ")"
	}
	switch n := n.(type) {
	case query.And:
		return list(n, " AND ")
	case query.Or:
		return list(n, " OR ")
	case query.Not:
		return "NOT " + q.predicate(a, alias, n.X, !over)
	case query.Clause:
		return q.clause(a, alias, n, over)
	}
	return "1 = 1"
}

func (q *search) clause(a *sqlArgs, alias string, c query.Clause, over bool) string {
	switch {
	case !exactClause(c) && !over:
		return "(1 = 0)"
	case c.Field == lake.FieldUploadedAt:
		if c.Kind != query.Word {
			return "(1 = 1)"
		}
		from, to, _ := lake.TimeRange(c.Value) // ParseQuery has checked it
		return "(" + alias + ".at >= " + a.add(from.UnixMicro()) + " AND " + alias + ".at < " + a.add(to.UnixMicro()) + ")"
	case c.Field == lake.FieldFileID:
		if c.Kind != query.Quoted {
			return "(1 = 1)"
		}
		return "EXISTS (SELECT 1 FROM file x WHERE x.channel = " + a.add(q.num) + " AND x.id = " + a.add(c.Value) + " AND x.at = " + alias + ".at" + q.fence + ")"
	}
	if clauseKey(c) == lake.KeyContentType && c.Field != lake.FieldContentType {
		return "(1 = 0)" // no metadata name is empty
	}
	terms := clauseTerms(c)
	if len(terms) == 0 {
		return "(1 = 1)"
	}
	var parts []string
	if alias != "f" && !q.joined { // an entry of the index: most that have not all terms are told at once
		sig := a.add(lake.Signature(terms))
		parts = append(parts, "("+alias+".sig & "+sig+") = "+sig)
	}
	for _, t := range terms {
		whole := ""
		if t.Whole {
			whole = " AND p.whole"
		}
		parts = append(parts, "EXISTS (SELECT 1 FROM posting p WHERE p.channel = "+a.add(q.num)+" AND p.key = "+a.add(t.Key)+
			" AND p.token = "+a.add(t.Token)+" AND p.at = "+alias+".at"+whole+q.fence+")")
	}
	return "(" + strings.Join(parts, " AND ") + ")"
}

// span is a part of the channel in order: after (or before, descending) a stamp.
type span struct {
	after *int64 // exclusive; nil: from the beginning
	desc  bool
	limit int // 0: all
}

// armSQL writes the rows of an arm; columns are of the file f or, where only the
// place is asked for, of the arm's own table d.
func (q *search) armSQL(a *sqlArgs, m arm, rows bool, sp span) string {
	var b strings.Builder
	d := "f"
	switch {
	case m.term == nil && rows:
		b.WriteString("SELECT " + fileColumns + " FROM file f WHERE f.channel = " + a.add(q.num))
	case m.term == nil:
		b.WriteString("SELECT f.at FROM file f WHERE f.channel = " + a.add(q.num))
	default:
		d = "d"
		if rows {
			b.WriteString("SELECT " + fileColumns + " FROM posting d CROSS JOIN file f WHERE f.channel = d.channel AND f.at = d.at AND d.channel = ")
		} else {
			b.WriteString("SELECT d.at FROM posting d WHERE d.channel = ")
		}
		b.WriteString(a.add(q.num) + " AND d.key = " + a.add(m.term.Key) + " AND d.token = " + a.add(m.term.Token))
		if m.term.Whole {
			b.WriteString(" AND d.whole")
		}
	}
	if m.ids[0] != "" {
		b.WriteString(" AND f.id >= " + a.add(m.ids[0]) + " AND f.id < " + a.add(m.ids[1]))
	}
	from, to := q.from, q.to
	if sp.after != nil && !sp.desc {
		from = max(from, *sp.after+1)
	}
	if sp.after != nil && sp.desc && (to == 0 || *sp.after < to) {
		to = *sp.after
	}
	if from != 0 {
		b.WriteString(" AND " + d + ".at >= " + a.add(from))
	}
	if to != 0 {
		b.WriteString(" AND " + d + ".at < " + a.add(to))
	}
	b.WriteString(" AND " + live(d, a.add(q.now)))
	b.WriteString(q.late.without(a, d))
	if m.rest != nil {
		b.WriteString(" AND " + q.predicate(a, d, m.rest, true))
	}
	if rows {
		b.WriteString(" ORDER BY " + d + ".at")
		if sp.desc {
			b.WriteString(" DESC")
		}
	}
	if sp.limit > 0 {
		b.WriteString(" LIMIT " + a.add(sp.limit))
	}
	return b.String()
}

// chunk returns up to sp.limit candidates in order, without repeats, and whether
// there may be more. Late files are an arm of their own.
func (q *search) chunk(ctx context.Context, sp span) ([]lake.File, bool, error) {
	var all []lake.File
	more := false
	for _, m := range q.arms {
		var a sqlArgs
		stmt := q.armSQL(&a, m, true, sp)
		files, err := scanAll(ctx, q.lake.db, q.read, scanFile(q.f.Channel), stmt, a.list...)
		if err != nil {
			return nil, false, err
		}
		more = more || len(files) == sp.limit
		all = append(all, files...)
	}
	late := q.late.in(sp)
	more = more || len(late) == sp.limit
	all = append(all, late...)
	if len(q.arms) > 1 || len(late) > 0 {
		slices.SortFunc(all, func(x, y lake.File) int {
			if sp.desc {
				x, y = y, x
			}
			return x.UploadedAt.Compare(y.UploadedAt)
		})
		all = slices.CompactFunc(all, func(x, y lake.File) bool { return x.UploadedAt.Equal(y.UploadedAt) })
		if len(all) > sp.limit { // beyond it an arm may have rows that were not read
			all, more = all[:sp.limit], true
		}
	}
	return all, more, nil
}

// each calls f for every match in order of the upload time until it says stop.
func (q *search) each(ctx context.Context, sp span, f func(lake.File) bool) error {
	for {
		files, more, err := q.chunk(ctx, sp)
		if err != nil {
			return err
		}
		for _, file := range files {
			if (q.exact || lake.Match(q.f.Query, file)) && !f(file) {
				return nil
			}
		}
		if !more {
			return nil
		}
		last := micros(files[len(files)-1].UploadedAt)
		sp.after = &last
	}
}

// reading runs fn on what the search for a query reads from.
func (s *Lake) reading(ctx context.Context, n query.Node, fn func(Querier) error) error {
	_, not := n.(query.Not) // a difference of two counts: both of one moment
	if not || s.db.dialect.Late && n != nil {
		return s.db.snapshot(ctx, fn)
	}
	return fn(s.db.Read())
}

// Files implements lake.Store.
func (s *Lake) Files(ctx context.Context, in lake.Search, now time.Time) (page []lake.File, more bool, err error) {
	err = s.reading(ctx, in.Query, func(read Querier) error {
		page, more, err = s.files(ctx, read, in, now)
		return err
	})
	return page, more, err
}

func (s *Lake) files(ctx context.Context, read Querier, in lake.Search, now time.Time) ([]lake.File, bool, error) {
	q, err := s.newSearch(ctx, read, in.Filter, now)
	if err != nil {
		return nil, false, err
	}
	desc, ordered := lake.ByUploadTime(in.Sort)
	if !ordered {
		return q.sorted(ctx, in)
	}
	sp := span{desc: desc, limit: in.Limit + 1}
	if !q.exact {
		sp.limit = max(sp.limit, 512)
	}
	if in.After != nil {
		sp.after = &in.After.At
	}
	page := make([]lake.File, 0, min(in.Limit, 1000))
	more := false
	err = q.each(ctx, sp, func(f lake.File) bool {
		if more = len(page) == in.Limit; !more {
			page = append(page, f)
		}
		return !more
	})
	return page, more, err
}

// sorted lists in an order that no index has: it reads every match and keeps the
// page's worth that comes first after the position.
func (q *search) sorted(ctx context.Context, in lake.Search) ([]lake.File, bool, error) {
	type entry struct {
		pos  *lake.Position
		file lake.File
	}
	order := func(a, b entry) int { return a.pos.Compare(b.pos, in.Sort) }
	var kept []entry
	keep := in.Limit + 1
	shrink := func() {
		slices.SortFunc(kept, order)
		kept = kept[:min(len(kept), keep)]
	}
	err := q.each(ctx, span{limit: 1000}, func(f lake.File) bool {
		e := entry{lake.PositionOf(f, in.Sort), f}
		if in.After != nil && e.pos.Compare(in.After, in.Sort) <= 0 {
			return true
		}
		if kept = append(kept, e); len(kept) >= 2*keep+1000 {
			shrink()
		}
		return true
	})
	if err != nil {
		return nil, false, err
	}
	shrink()
	page := make([]lake.File, 0, len(kept))
	for _, e := range kept[:min(len(kept), in.Limit)] {
		page = append(page, e.file)
	}
	return page, len(kept) > in.Limit, nil
}

// joinFrom is how long the ranges of a count must be for joins to be worth it.
const joinFrom = 20_000

// Count implements lake.Store.
func (s *Lake) Count(ctx context.Context, f lake.Filter, now time.Time) (n int64, err error) {
	err = s.reading(ctx, f.Query, func(read Querier) error {
		n, err = s.count(ctx, read, f, now)
		return err
	})
	return n, err
}

func (s *Lake) count(ctx context.Context, read Querier, f lake.Filter, now time.Time) (int64, error) {
	if f.Query == nil && f.From.IsZero() && f.To.IsZero() {
		u, err := s.usage(ctx, read, f.Channel, now)
		return u.Files, err
	}
	if not, ok := f.Query.(query.Not); ok {
		// The index knows what has a term, not what lacks it.
		all, inner := f, f
		all.Query, inner.Query = nil, not.X
		total, err := s.count(ctx, read, all, now)
		if err != nil {
			return 0, err
		}
		n, err := s.count(ctx, read, inner, now)
		return total - n, err
	}
	q, err := s.newSearch(ctx, read, f, now)
	if err != nil {
		return 0, err
	}
	var n int64
	if !q.exact {
		err = q.each(ctx, span{limit: 1000}, func(lake.File) bool { n++; return true })
		return n, err
	}
	stmt, args := q.countSQL()
	row := read.QueryRowContext(ctx, stmt, args...)
	err = row.Scan(&n)
	return n + int64(len(q.late.files)), s.db.translate(err)
}

// cost estimates how many entries all arms read.
func (q *search) cost() int {
	cost := 0
	for _, m := range q.arms {
		cost += m.cost
		if m.term == nil && m.ids[0] == "" {
			cost += joinFrom // the whole channel
		}
	}
	return cost
}

// join leaves it to the engine how ranges are compared if they are long.
func (q *search) join() {
	if q.fence != "" && q.cost() >= joinFrom {
		q.fence, q.joined = "", true
	}
}

// countSQL counts the rows of all arms.
func (q *search) countSQL() (string, []any) {
	var a sqlArgs
	q.join()
	parts := make([]string, len(q.arms))
	for i, m := range q.arms {
		parts[i] = q.armSQL(&a, m, false, span{})
	}
	return "SELECT COUNT(*) FROM (" + strings.Join(parts, " UNION ") + ") AS hits", a.list
}
