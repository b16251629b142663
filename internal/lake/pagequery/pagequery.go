// SPDX-License-Identifier: Apache-2.0

// Package pagequery filters a page of a bucket's listing by a JMESPath expression
// over the page as S3 shows it (data.md §12.3), as boto3's paginators take it.
//
// An expression is a stranger's program, and the library that runs it has neither a
// limit nor a way to be stopped. So only what can be of use here is let through: it
// runs in a time that grows with its length times the page's, and no more.
package pagequery

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/jmespath-community/go-jmespath/pkg/functions"
	"github.com/jmespath-community/go-jmespath/pkg/interpreter"
	"github.com/jmespath-community/go-jmespath/pkg/parsing"

	"panal/internal/plat"
)

// Bounds of an expression.
const (
	MaxLength = 1024
	// maxLists is how many values all [a, b] of an expression hold together: each of
	// them multiplies what follows.
	maxLists = 8
)

// Query is a checked expression. It is safe for concurrent use.
type Query struct{ ast parsing.ASTNode }

// Invalid is the error of a query that can't be used.
func Invalid(format string, args ...any) error { return plat.InvalidField("q", format, args...) }

// Parse reads an expression.
func Parse(text string) (q *Query, err error) {
	if len(text) > MaxLength {
		return nil, Invalid("is longer than %d bytes", MaxLength)
	}
	defer func() {
		if p := recover(); p != nil {
			q, err = nil, Invalid("is no JMESPath expression")
		}
	}()
	ast, err := parsing.NewParser().Parse(quoteNumbers(text))
	if err != nil {
		return nil, Invalid("is no JMESPath expression: %v", err)
	}
	lists := 0
	if err := check(ast, &lists); err != nil {
		return nil, err
	}
	return &Query{ast: ast}, nil
}

// quoteNumbers puts the backquotes around bare numbers behind comparisons: data.md §12.3 writes
// Contents[?Size > 100], and no JMESPath expression has a bare number there.
func quoteNumbers(text string) string {
	var b strings.Builder
	var quote byte    // of the literal that text is in
	compared := false // a comparison is what came last
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quote != 0:
			if c == '\\' && i+1 < len(text) {
				b.WriteByte(c)
				i++
				break
			}
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"' || c == '`':
			quote, compared = c, false
		case c == '<' || c == '>' || c == '=':
			compared = true
		case c == ' ' || c == '\t':
		case compared && ('0' <= c && c <= '9' || c == '-'):
			n := 1
			for i+n < len(text) && (text[i+n] == '.' || '0' <= text[i+n] && text[i+n] <= '9') {
				n++
			}
			b.WriteString("`" + text[i:i+n] + "`")
			i, compared = i+n-1, false
			continue
		default:
			compared = false
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

// allowed are the functions that an expression may call: each looks once at what it is
// given, and makes nothing larger of it.
func allowed(name string) bool {
	switch name {
	case "abs", "ceil", "floor", "contains", "starts_with", "ends_with", "length", "lower", "upper",
		"not_null", "reverse", "sort_by", "max_by", "min_by", "to_number", "to_string", "type":
		return true
	}
	return false
}

func check(n parsing.ASTNode, lists *int) error {
	switch n.NodeType {
	case parsing.ASTEmpty, parsing.ASTComparator, parsing.ASTCurrentNode, parsing.ASTExpRef, parsing.ASTField, parsing.ASTFilterProjection,
		parsing.ASTFlatten, parsing.ASTIdentity, parsing.ASTIndex, parsing.ASTIndexExpression, parsing.ASTOrExpression, parsing.ASTAndExpression,
		parsing.ASTNotExpression, parsing.ASTPipe, parsing.ASTProjection, parsing.ASTSubexpression, parsing.ASTSlice, parsing.ASTValueProjection:
	case parsing.ASTLiteral:
		switch n.Value.(type) {
		case []any, map[string]any:
			return Invalid("holds an array or an object as a literal; compare with text, numbers, true, false or null")
		}
	case parsing.ASTFunctionExpression:
		if name, _ := n.Value.(string); !allowed(name) {
			return Invalid("calls %q, which can't be used here", name)
		}
	case parsing.ASTMultiSelectList:
		if *lists += len(n.Children); *lists > maxLists {
			return Invalid("makes lists of more than %d values", maxLists)
		}
	default:
		return Invalid("uses a form of expression that can't be used here; filter like Contents[?Size > `100`]")
	}
	for _, c := range n.Children {
		if err := check(c, lists); err != nil {
			return err
		}
	}
	return nil
}

// Object is an element of Contents.
type Object struct {
	Key, LastModified, ETag string
	Size                    int64
}

// Page is what an expression sees. Both lists are always there.
type Page struct {
	Contents       []Object
	CommonPrefixes []string
}

// Select returns the indexes of the elements of p that the expression gives, without
// repeats, in no order. ErrInvalid when it gives anything else.
func (q *Query) Select(p Page) (contents, prefixes []int, err error) {
	data := map[string]any{}
	elements := map[uintptr]func(){}
	list := func(n int, element func(int) map[string]any, take func(int)) []any {
		out := make([]any, n)
		for i := range out {
			m := element(i)
			out[i] = m
			elements[reflect.ValueOf(m).Pointer()] = func() { take(i) }
		}
		return out
	}
	data["Contents"] = list(len(p.Contents), func(i int) map[string]any {
		o := p.Contents[i]
		return map[string]any{"Key": o.Key, "Size": float64(o.Size), "LastModified": o.LastModified, "ETag": o.ETag}
	}, func(i int) { contents = append(contents, i) })
	data["CommonPrefixes"] = list(len(p.CommonPrefixes), func(i int) map[string]any {
		return map[string]any{"Prefix": p.CommonPrefixes[i]}
	}, func(i int) { prefixes = append(prefixes, i) })

	got, err := q.run(data)
	if err != nil {
		return nil, nil, err
	}
	taken := map[uintptr]bool{}
	var collect func(v any) error
	collect = func(v any) error {
		switch v := v.(type) {
		case nil:
			return nil
		case map[string]any:
			at := reflect.ValueOf(v).Pointer()
			take, ok := elements[at]
			if !ok {
				return errShape()
			}
			if !taken[at] {
				taken[at] = true
				take()
			}
			return nil
		case []any:
			for _, x := range v {
				if _, list := x.([]any); list {
					return errShape()
				}
				if err := collect(x); err != nil {
					return err
				}
			}
			return nil
		}
		return errShape()
	}
	if err := collect(got); err != nil {
		return nil, nil, err
	}
	return contents, prefixes, nil
}

func errShape() error {
	return Invalid("must give elements of Contents or of CommonPrefixes, as they are: for example Contents[?Size > `100`]")
}

func (q *Query) run(data map[string]any) (got any, err error) {
	defer func() {
		if p := recover(); p != nil {
			got, err = nil, &plat.Error{Kind: plat.ErrInvalid, Public: "q: can't be evaluated", Err: fmt.Errorf("panic: %v", p)}
		}
	}()
	in := interpreter.NewInterpreter(data, interpreter.NewFunctionCaller(functions.GetDefaultFunctions()...), nil)
	if got, err = in.Execute(q.ast, data); err != nil {
		return nil, Invalid("can't be evaluated: %v", err)
	}
	return got, nil
}
