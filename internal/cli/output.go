// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"

	"panal/internal/client"
)

// printJSON writes v as JSON: indented, or on one line.
func (e *env) printJSON(v any) error {
	enc := json.NewEncoder(e.stdout)
	if !e.lines {
		enc.SetIndent("", "  ")
	}
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// print writes v as --output says: as JSON, each element of a slice on a line of its
// own, or rows as a table under header.
func (e *env) print(v any, header []string, rows [][]string) error {
	if e.lines {
		if all := reflect.ValueOf(v); all.Kind() == reflect.Slice {
			for _, one := range all.Seq2() {
				if err := e.printJSON(one.Interface()); err != nil {
					return err
				}
			}
			return nil
		}
	}
	if e.json {
		return e.printJSON(v)
	}
	return e.printTable(header, rows)
}

// list prints what comes one by one, perhaps without end, as --output says. Only a
// table is held, whose columns wait for the last row.
type list[T any] struct {
	e      *env
	header []string
	row    func(T) []string
	rows   [][]string
	n      int
}

func newList[T any](e *env, header []string, row func(T) []string) *list[T] {
	return &list[T]{e: e, header: header, row: row}
}

// add prints v, the last one that is wanted when there are limit (0: no limit) then.
func (l *list[T]) add(v T, limit int) error {
	var err error
	switch l.n++; {
	case l.e.lines:
		err = l.e.printJSON(v)
	case l.e.json:
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		enc.SetIndent("  ", "  ")
		if err = enc.Encode(v); err == nil {
			before := ",\n  "
			if l.n == 1 {
				before = "[\n  "
			}
			_, err = fmt.Fprint(l.e.stdout, before, strings.TrimSuffix(buf.String(), "\n"))
		}
	default:
		l.rows = append(l.rows, l.row(v))
	}
	if err == nil && l.n == limit {
		return client.ErrStop
	}
	return err
}

// end is called when there is no more. An array that an error cut short is not closed:
// nobody should take it for the whole.
func (l *list[T]) end() error {
	switch {
	case l.e.lines:
		return nil
	case !l.e.json:
		return l.e.printTable(l.header, l.rows)
	}
	last := "\n]\n"
	if l.n == 0 {
		last = "[]\n"
	}
	_, err := io.WriteString(l.e.stdout, last)
	return err
}

func (e *env) printTable(header []string, rows [][]string) error {
	tw := tabwriter.NewWriter(e.stdout, 0, 4, 2, ' ', 0)
	if _, err := fmt.Fprintln(tw, strings.Join(header, "\t")); err != nil {
		return err
	}
	for _, row := range rows {
		for i, cell := range row {
			row[i] = clean(cell)
		}
		if _, err := fmt.Fprintln(tw, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return tw.Flush()
}

// clean keeps one cell on one line and control characters off the terminal: the
// text may be somebody else's.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// isTerminal tells whether w is a terminal: then progress is drawn on it.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// say prints a line of progress for people, on stderr, so that stdout stays data.
func (e *env) say(format string, args ...any) {
	_, _ = fmt.Fprintf(e.stderr, format+"\n", args...)
}
