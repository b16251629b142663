// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"

	"github.com/schollz/progressbar/v3"
)

// progress draws a bar on stderr when that is a terminal, and nothing when not.
type progress struct {
	bar  *progressbar.ProgressBar
	what string // of a bar of bytes
}

// progress starts a bar of n steps (-1: unknown) that count things called unit.
func (e *env) progress(n int, what, unit string) progress {
	if !isTerminal(e.stderr) {
		return progress{}
	}
	return progress{bar: progressbar.NewOptions(n,
		progressbar.OptionSetWriter(e.stderr), progressbar.OptionSetDescription(what), progressbar.OptionSetItsString(unit),
		progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(100e6),
	)}
}

// progressBytes starts a bar of so many bytes (-1: unknown).
func (e *env) progressBytes(n int64, what string) progress {
	if !isTerminal(e.stderr) {
		return progress{}
	}
	return progress{what: what, bar: progressbar.NewOptions64(n,
		progressbar.OptionSetWriter(e.stderr), progressbar.OptionSetDescription(what), progressbar.OptionShowBytes(true),
		progressbar.OptionShowCount(), progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(100e6),
	)}
}

// clear makes room for a line on the terminal.
func (p progress) clear() {
	if p.bar != nil {
		_ = p.bar.Clear() // drawing is a courtesy
	}
}

// add counts n steps. It is safe for concurrent use.
func (p progress) add(n int) {
	if p.bar != nil {
		_ = p.bar.Add(n) // drawing is a courtesy
	}
}

// files says beside a bar of bytes how many files of total (-1: unknown) are done.
func (p progress) files(done, total int) {
	if p.what == "" {
		return
	}
	of := ""
	if total >= 0 {
		of = fmt.Sprintf(" of %d", total)
	}
	p.bar.Describe(fmt.Sprintf("%s, %d%s files done", p.what, done, of))
}

// done takes the bar away.
func (p progress) done() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
