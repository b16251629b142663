// SPDX-License-Identifier: Apache-2.0

// Package query is the search language of files and dataset items (data.md §12):
// its lexer, parser and syntax tree. It knows no fields; what a clause means is
// its user's matter (package lake for files, package dataset for items).
//
// Invariants: a query is bounded in length, depth and clauses before anything
// walks it; Parse(n.String()) gives n again.
package query

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"panal/internal/plat"
)

// Bounds of a query.
const (
	MaxLen     = 4096 // bytes
	MaxDepth   = 32   // nested parentheses
	MaxClauses = 64
)

// Node is And, Or, Not or Clause.
type Node interface {
	fmt.Stringer
	node()
}

// And is true when all of its parts are. It has at least two, none of them an And.
type And []Node

// Or is true when one of its parts is. It has at least two, none of them an Or.
type Or []Node

// Not is true when X is false.
type Not struct{ X Node }

// Kind tells how a clause's value was written.
type Kind int

// Kinds of value.
const (
	Word   Kind = iota // bare
	Quoted             // "in quotes"
	Glob               // bare, with * or ?
)

// Clause asks whether a field has a value.
type Clause struct {
	Field string
	Kind  Kind
	Value string
}

func (And) node()    {}
func (Or) node()     {}
func (Not) node()    {}
func (Clause) node() {}

// String writes the tree as a query, which is never longer than its source.
func (a And) String() string { return join(a, "") }

// String writes the tree as a query.
func (o Or) String() string { return join(o, "OR") }

// String writes the tree as a query.
func (n Not) String() string {
	if c, ok := n.X.(Clause); ok {
		return "NOT " + c.String()
	}
	return "NOT(" + n.X.String() + ")"
}

// String writes the clause.
func (c Clause) String() string {
	if c.Kind != Quoted {
		return c.Field + ":" + c.Value
	}
	var b strings.Builder
	b.WriteString(c.Field + `:"`)
	for i := range len(c.Value) {
		switch ch := c.Value[i]; {
		case ch == '"':
			b.WriteByte('\\')
		case ch == '\\' && (i+1 == len(c.Value) || c.Value[i+1] == '"' || c.Value[i+1] == '\\'):
			b.WriteByte('\\')
		}
		b.WriteByte(c.Value[i])
	}
	b.WriteByte('"')
	return b.String()
}

// join puts spaces only where the words would run together.
func join(nodes []Node, op string) string {
	text := ""
	add := func(word string) {
		if text != "" && !strings.HasSuffix(text, ")") && word[0] != '(' {
			text += " "
		}
		text += word
	}
	for i, n := range nodes {
		if i > 0 && op != "" {
			add(op)
		}
		if _, or := n.(Or); or { // inside an And
			add("(" + n.String() + ")")
		} else {
			add(n.String())
		}
	}
	return text
}

// Clauses calls f for each clause of n.
func Clauses(n Node, f func(Clause)) {
	switch n := n.(type) {
	case And:
		for _, x := range n {
			Clauses(x, f)
		}
	case Or:
		for _, x := range n {
			Clauses(x, f)
		}
	case Not:
		Clauses(n.X, f)
	case Clause:
		f(n)
	}
}

// Match walks n and asks leaf about each clause that decides.
func Match(n Node, leaf func(Clause) bool) bool {
	switch n := n.(type) {
	case And:
		for _, x := range n {
			if !Match(x, leaf) {
				return false
			}
		}
		return true
	case Or:
		for _, x := range n {
			if Match(x, leaf) {
				return true
			}
		}
		return false
	case Not:
		return !Match(n.X, leaf)
	case Clause:
		return leaf(n)
	}
	panic(fmt.Sprintf("BUG: query: node %T", n))
}

// Invalid returns the error for a query that can't be read: 400 with
// error_detail {"q": […]}.
func Invalid(format string, args ...any) error { return plat.InvalidField("q", format, args...) }

// Parse reads a query. A blank one is nil: no filter. Errors name the place.
//
//	query := or ; or := and ("OR" and)* ; and := unary (("AND")? unary)*
//	unary := "NOT"? (clause | "(" query ")") ; clause := field ":" value
//	value := "quoted text" | bare-word, may contain * and ?
func Parse(s string) (Node, error) {
	switch {
	case len(s) > MaxLen:
		return nil, Invalid("is %d bytes long; the limit is %d", len(s), MaxLen)
	case !utf8.ValidString(s):
		return nil, Invalid("is not UTF-8")
	case strings.ContainsRune(s, 0):
		return nil, Invalid("contains a NUL character")
	case strings.TrimFunc(s, unicode.IsSpace) == "":
		return nil, nil
	}
	p := &parser{src: s}
	if err := p.next(); err != nil {
		return nil, err
	}
	n, err := p.or(0)
	if err != nil {
		return nil, err
	}
	if p.tok.kind != tokEnd {
		return nil, p.unexpected("AND, OR or the end")
	}
	return n, nil
}

type tokenKind int

const (
	tokEnd tokenKind = iota
	tokOpen
	tokClose
	tokAnd
	tokOr
	tokNot
	tokClause
)

type token struct {
	kind   tokenKind
	pos    int
	clause Clause
}

type parser struct {
	src     string
	pos     int
	tok     token
	clauses int
}

func (p *parser) fail(pos int, format string, args ...any) error {
	return Invalid("at character %d: %s", utf8.RuneCountInString(p.src[:pos])+1, fmt.Sprintf(format, args...))
}

func (p *parser) unexpected(want string) error {
	if p.tok.kind == tokEnd {
		return p.fail(p.tok.pos, "the query ends where %s is expected", want)
	}
	return p.fail(p.tok.pos, "expected %s", want)
}

// next reads one token.
func (p *parser) next() error {
	for p.pos < len(p.src) {
		r, n := utf8.DecodeRuneInString(p.src[p.pos:])
		if !unicode.IsSpace(r) {
			break
		}
		p.pos += n
	}
	start := p.pos
	set := func(k tokenKind, width int) error {
		p.pos += width
		p.tok = token{kind: k, pos: start}
		return nil
	}
	if start == len(p.src) {
		return set(tokEnd, 0)
	}
	switch p.src[start] {
	case '(':
		return set(tokOpen, 1)
	case ')':
		return set(tokClose, 1)
	}
	end := start + strings.IndexFunc(p.src[start:]+" ", func(r rune) bool { return r == ':' || r == '"' || ends(r) })
	word := p.src[start:end]
	if end < len(p.src) && p.src[end] == ':' && word != "" {
		return p.clause(start, word, end+1)
	}
	switch word {
	case "AND":
		return set(tokAnd, 3)
	case "OR":
		return set(tokOr, 2)
	case "NOT":
		return set(tokNot, 3)
	case "":
		return p.fail(start, "expected field:value, for example label:cat")
	}
	return p.fail(start, "expected field:value, AND, OR or NOT, not %q", word)
}

// ends tells whether r ends a bare word.
func ends(r rune) bool { return r == '(' || r == ')' || unicode.IsSpace(r) }

// clause reads the value, which begins at pos.
func (p *parser) clause(start int, field string, pos int) error {
	if p.clauses++; p.clauses > MaxClauses {
		return p.fail(start, "more than %d clauses", MaxClauses)
	}
	c := Clause{Field: field}
	rest := p.src[pos:]
	if strings.HasPrefix(rest, `"`) {
		value, n, ok := unquote(rest)
		if !ok {
			return p.fail(pos, "the quote is not closed")
		}
		if after, _ := utf8.DecodeRuneInString(rest[n:] + " "); !ends(after) {
			return p.fail(pos+n, "expected a space after the quoted text")
		}
		c.Kind, c.Value = Quoted, value
		p.pos = pos + n
	} else {
		n := strings.IndexFunc(rest+" ", ends)
		if c.Value = rest[:n]; n == 0 {
			return p.fail(pos, `the value is missing; write %s:value, or %s:"" for the empty value`, field, field)
		}
		if strings.ContainsAny(c.Value, "*?") {
			c.Kind = Glob
		}
		p.pos = pos + n
	}
	p.tok = token{kind: tokClause, pos: start, clause: c}
	return nil
}

// unquote reads a quoted text at the start of s; \" and \\ are escapes, any
// other backslash stands for itself. n is how long it was.
func unquote(s string) (text string, n int, ok bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), i + 1, true
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\'):
			i++
		}
		b.WriteByte(s[i])
	}
	return "", 0, false
}

func (p *parser) or(depth int) (Node, error) {
	first, err := p.and(depth)
	if err != nil {
		return nil, err
	}
	all := Or{}.with(first)
	for p.tok.kind == tokOr {
		if err := p.next(); err != nil {
			return nil, err
		}
		n, err := p.and(depth)
		if err != nil {
			return nil, err
		}
		all = all.with(n)
	}
	if len(all) == 1 {
		return all[0], nil
	}
	return all, nil
}

// with appends n, or its parts.
func (o Or) with(n Node) Or {
	if inner, ok := n.(Or); ok {
		return append(o, inner...)
	}
	return append(o, n)
}

// with appends n, or its parts.
func (a And) with(n Node) And {
	if inner, ok := n.(And); ok {
		return append(a, inner...)
	}
	return append(a, n)
}

func (p *parser) and(depth int) (Node, error) {
	first, err := p.unary(depth)
	if err != nil {
		return nil, err
	}
	all := And{}.with(first)
	for {
		switch p.tok.kind {
		case tokAnd:
			if err := p.next(); err != nil {
				return nil, err
			}
		case tokClause, tokOpen, tokNot: // juxtaposition means AND
		default:
			if len(all) == 1 {
				return all[0], nil
			}
			return all, nil
		}
		n, err := p.unary(depth)
		if err != nil {
			return nil, err
		}
		all = all.with(n)
	}
}

func (p *parser) unary(depth int) (Node, error) {
	if depth >= MaxDepth {
		return nil, p.fail(p.tok.pos, "more than %d nested parentheses", MaxDepth)
	}
	if p.tok.kind == tokNot {
		if err := p.next(); err != nil {
			return nil, err
		}
		if p.tok.kind == tokNot {
			return nil, p.unexpected("field:value or ( after NOT")
		}
		x, err := p.unary(depth)
		if err != nil {
			return nil, err
		}
		return Not{x}, nil
	}
	switch p.tok.kind {
	case tokClause:
		c := p.tok.clause
		return c, p.next()
	case tokOpen:
		if err := p.next(); err != nil {
			return nil, err
		}
		n, err := p.or(depth + 1)
		if err != nil {
			return nil, err
		}
		if p.tok.kind != tokClose {
			return nil, p.unexpected(") or another clause")
		}
		return n, p.next()
	default:
		return nil, p.unexpected("field:value, NOT or (")
	}
}
