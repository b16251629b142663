// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/bmatcuk/doublestar/v4"
	"golang.org/x/sync/errgroup"

	"panal/internal/client"
	"panal/internal/plat"
)

// globs choose files by name.
type globs struct {
	Include []string `help:"Only names that match one of these, for example '**/*.jpg'. * stays within a directory, ** does not." placeholder:"GLOB" sep:"none"`
	Exclude []string `help:"Not names that match one of these; a directory's name leaves out all of it. One without a slash is looked for at every depth, for example .git." placeholder:"GLOB" sep:"none"`
}

// check refuses a pattern that could never match.
func (g globs) check() error {
	for field, patterns := range map[string][]string{"include": g.Include, "exclude": g.Exclude} {
		for _, p := range patterns {
			if p == "" || !doublestar.ValidatePattern(p) {
				return plat.InvalidField(field, "%q is not a glob", p)
			}
		}
	}
	return nil
}

// anyGlob tells whether a name (with slashes) matches one of the patterns.
func anyGlob(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return doublestar.MatchUnvalidated(p, name) })
}

// excludes tells whether a name alone is left out, whatever is above it.
func (g globs) excludes(name string) bool {
	return slices.ContainsFunc(g.Exclude, func(p string) bool {
		return doublestar.MatchUnvalidated(p, name) || !strings.Contains(p, "/") && doublestar.MatchUnvalidated(p, path.Base(name))
	})
}

// takes tells whether a file of that name is wanted: every directory above it
// counts for exclusion.
func (g globs) takes(name string) bool {
	if len(g.Include) > 0 && !anyGlob(g.Include, name) {
		return false
	}
	for i, r := range name {
		if r == '/' && i > 0 && g.excludes(name[:i]) {
			return false
		}
	}
	return !g.excludes(name)
}

// leaveNone is the error of a command that was to take what these choose, and found no
// such file.
func (g globs) leaveNone() error {
	if len(g.Include)+len(g.Exclude) == 0 {
		return nil
	}
	return plat.Errorf(plat.ErrInvalid, "nothing matched: --include and --exclude leave no file")
}

// jobs is how many files are worked on at a time.
type jobs int

// Validate implements kong's interface.
func (j jobs) Validate() error {
	if j < 1 || j > 256 {
		return errors.New("must be 1 to 256")
	}
	return nil
}

// lifetime is one of those that the server knows; empty for ever.
type lifetime string

// Validate implements kong's interface: refused here, it is refused once, not for each file.
func (l lifetime) Validate() error {
	if !slices.Contains([]lifetime{"", "1day", "1week", "1month", "6months", "1year"}, l) {
		return errors.New("must be one of 1day, 1week, 1month, 6months, 1year")
	}
	return nil
}

// contentType is a content type; empty where the file's name tells it.
type contentType string

// Validate implements kong's interface: no request could have another as a header.
func (c contentType) Validate() error {
	if len(c) > 1<<10 || !utf8.ValidString(string(c)) || strings.ContainsFunc(string(c), unicode.IsControl) {
		return errors.New("must be at most 1024 bytes of text, on one line")
	}
	return nil
}

// metadata returns what -m gives under the names that it is stored under.
func metadata(given map[string]string) (map[string]string, error) {
	all := map[string]string{}
	for k, v := range given {
		name := client.StoredName(k)
		if _, twice := all[name]; twice || name == "" {
			return nil, plat.InvalidField("metadata", "%q is given twice, or is no name; upper and lower case are the same", name)
		}
		all[name] = v
	}
	return all, nil
}

// hasAll tells whether a file's metadata holds what is given, also where a value is empty.
func hasAll(have, given map[string]string) bool {
	for k, v := range given {
		if got, ok := have[client.StoredName(k)]; !ok || got != v {
			return false
		}
	}
	return true
}

// reportFlags are of every command that does something with many files.
type reportFlags struct {
	Jobs  jobs `help:"How many at a time, 1 to 256." default:"8" short:"j"`
	Lines bool `name:"json" help:"The same as --output jsonl: one JSON object a line for each file, as it is done."`
}

// outcome is what became of one file.
type outcome struct {
	Path    string `json:"path,omitempty"`
	FileID  string `json:"file_id,omitempty"`
	Status  string `json:"status"` // the command's verb, skipped or failed
	Skipped bool   `json:"skipped,omitempty"`
	Size    int64  `json:"size"`
	Error   string `json:"error,omitempty"`
}

// sent ends the upload of a file to the place to: what was skipped counts for the bar
// alone, and where the place is gone no other file will do better.
func (o outcome) sent(bar progress, to string, err error) (outcome, error) {
	if o.Skipped {
		bar.add(int(o.Size))
		o.Size = 0
	}
	if errors.Is(err, plat.ErrNotFound) {
		err = &plat.Error{Kind: plat.ErrForbidden, Public: to + " is gone", Err: err}
	}
	return o, err
}

// openTo makes and opens the directory of a download. Nothing outside of it can be
// reached through it, whatever the names say and whatever links there are.
func openTo(dir string) (*os.Root, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, plat.InvalidField("to", "%v", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, plat.InvalidField("to", "%v", err)
	}
	return root, nil
}

const (
	statusSkipped = "skipped"
	statusFailed  = "failed"
)

// transfer is what a command does with many files, some at a time. A file that fails
// does not stop the others.
type transfer struct {
	e     *env
	flags reportFlags
	globs globs
	bar   progress
	start time.Time
	verb  string // what a success is called

	mu       sync.Mutex
	Files    []outcome `json:"files"`
	Skipped  int       `json:"skipped"`
	Failed   int       `json:"failed"`
	NotTried int       `json:"not_tried"` // or not to the end, when something stopped the command
	Bytes    int64     `json:"bytes"`
	total    int       // -1: nobody knows
	begun    int
	done     int
	firstErr error

	group *errgroup.Group
	ctx   context.Context //nolint:containedctx // one command, one context
}

// newTransfer begins a transfer of so many files (-1: nobody knows).
func (e *env) newTransfer(flags reportFlags, g globs, verb string, total int, bar progress) *transfer {
	flags.Lines = flags.Lines || e.lines
	r := &transfer{e: e, flags: flags, globs: g, bar: bar, start: time.Now(), verb: verb, total: total, Files: []outcome{}}
	r.group, r.ctx = errgroup.WithContext(e.ctx)
	r.group.SetLimit(int(flags.Jobs))
	return r
}

// fatal tells whether after err no other file will do better.
func fatal(err error) bool {
	for _, kind := range []error{plat.ErrUnauthenticated, plat.ErrForbidden, plat.ErrExhausted, plat.ErrUnavailable, context.Canceled} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// do runs one file's work, when there is room for it. It returns an error when the
// command should not begin more.
func (r *transfer) do(work func(ctx context.Context) (outcome, error)) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	r.begun++
	r.group.Go(func() error {
		if err := r.ctx.Err(); err != nil { // while there was no room
			return err
		}
		o, err := work(r.ctx)
		if err != nil && r.ctx.Err() != nil {
			return err // ended with the others: that is not this file's failure
		}
		r.add(o, err)
		if err != nil && fatal(err) {
			return err
		}
		return nil
	})
	return nil
}

// all does the work of n files.
func (r *transfer) all(n int, work func(ctx context.Context, i int) (outcome, error)) error {
	for i := range n {
		if err := r.do(func(ctx context.Context) (outcome, error) { return work(ctx, i) }); err != nil {
			return err
		}
	}
	return nil
}

func (r *transfer) add(o outcome, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil:
		o.Status, o.Error = statusFailed, err.Error()
		if r.Failed++; r.firstErr == nil {
			r.firstErr = err
		}
		r.bar.clear()
		name := o.Path
		if name == "" {
			name = o.FileID
		}
		r.e.say("panal: %s: %s", clean(name), clean(err.Error()))
	case o.Skipped:
		o.Status = statusSkipped
		r.Skipped++
	default:
		o.Status = r.verb
		r.done++
		r.Bytes += o.Size
	}
	r.bar.files(r.done+r.Skipped+r.Failed, r.total)
	if !r.flags.Lines {
		r.Files = append(r.Files, o)
		return
	}
	line, err := json.Marshal(o)
	if err == nil {
		_, err = r.e.stdout.Write(append(line, '\n'))
	}
	if err != nil && r.firstErr == nil { // nobody reads any more
		r.firstErr = err
	}
}

// finish waits for the files under way and tells what was done. stop is what kept the
// command from beginning more.
func (r *transfer) finish(stop error) error {
	err := r.group.Wait()
	r.bar.done()
	if err == nil {
		err = stop
	}
	if err != nil && r.total >= 0 {
		r.NotTried = max(r.total-r.done-r.Skipped-r.Failed, 0) // of a channel, files may have come since
	}
	if err == nil && r.begun == 0 {
		err = r.globs.leaveNone()
	}
	if !r.flags.Lines {
		slices.SortFunc(r.Files, func(a, b outcome) int { return strings.Compare(a.Path+"\x00"+a.FileID, b.Path+"\x00"+b.FileID) })
		rows := make([][]string, len(r.Files))
		for i, o := range r.Files {
			rows[i] = []string{o.FileID, o.Status, o.Path}
		}
		if perr := r.e.print(r, []string{"FILE", "STATUS", "PATH"}, rows); perr != nil {
			return errors.Join(err, perr)
		}
	}
	seconds := time.Since(r.start).Seconds()
	notTried := ""
	if r.NotTried > 0 {
		notTried = fmt.Sprintf(", %d not tried", r.NotTried)
	}
	r.e.say("%d %s, %d skipped, %d failed%s, %.1f MB in %.1fs", r.done, r.verb, r.Skipped, r.Failed, notTried, float64(r.Bytes)/1e6, seconds)
	if r.Failed > 0 && r.e.ctx.Err() == nil {
		return &filesError{failed: r.Failed, first: r.firstErr}
	}
	if err == nil {
		err = r.firstErr
	}
	return err
}

// filesError says that some files failed; the exit code is that of the first.
type filesError struct {
	failed int
	first  error
}

// Error implements error.
func (e *filesError) Error() string {
	if e.failed == 1 {
		return "1 file failed; run the command again to go on: what is done is skipped"
	}
	return fmt.Sprintf("%d files failed; run the command again to go on: what is done is skipped", e.failed)
}

// Unwrap returns the first failure.
func (e *filesError) Unwrap() error { return e.first }

// attempts is how often a file is tried while the server says "later"; where that is
// because the caller is too fast, it is only slower.
const (
	attempts     = 5
	slowAttempts = 100
)

// again calls try until it succeeds, or fails for good. later tells which failures
// may pass.
func again(ctx context.Context, later func(error) bool, try func() error) error {
	for n, slow := 1, 0; ; n++ {
		err := try()
		if err == nil || n == attempts || ctx.Err() != nil || !later(err) {
			return err
		}
		wait := time.Duration(n) * time.Second
		if ae, ok := errors.AsType[*client.Error](err); ok && ae.RetryAfter > 0 {
			wait = ae.RetryAfter
		}
		if longer := client.TooFast(err); longer > 0 && slow < slowAttempts {
			wait = longer
			n, slow = n-1, slow+1
		}
		wait = min(wait, time.Minute)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// notNow tells whether the server itself asked for another try: then it has stored
// nothing.
func notNow(err error) bool {
	ae, ok := errors.AsType[*client.Error](err)
	return ok && (ae.Status == http.StatusServiceUnavailable || ae.Status == http.StatusTooManyRequests)
}

// passing tells whether another try may do better.
func passing(err error) bool { return notNow(err) || errors.Is(err, plat.ErrUnavailable) }

// quoteQuery writes text as a quoted value of the search language.
func quoteQuery(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
