// SPDX-License-Identifier: Apache-2.0

// Command demo tells one true story through the whole platform: raw data in, model
// out, traffic served, logs read; then it breaks things on stage and counts what
// was lost. Everything goes through the public API of a real server; every number
// it prints it measured, and asserts.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"panal/internal/client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var s story
	flag.StringVar(&s.step, "step", "", "data, train or serve; empty tells the whole story")
	flag.StringVar(&s.images, "data", "", "folder of images, one folder per label")
	flag.StringVar(&s.dir, "dir", "", "working folder, emptied first")
	flag.StringVar(&s.examples, "examples", "examples/digits", "the example project")
	flag.StringVar(&s.binary, "panal", "bin/panal", "the binary to show")
	flag.StringVar(&s.python, "python", "/usr/bin/python3", "interpreter with scikit-learn")
	flag.StringVar(&s.reportFile, "report", "demo-report.json", "where the numbers go")
	exit := flag.Bool("exit", false, "end after the story instead of staying up")
	flag.Parse()
	code, err := s.tell(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
	}
	if code == 0 && !*exit {
		s.stayUp(ctx)
	}
	s.close()
	os.Exit(code)
}

// story is everything that the steps know of each other.
type story struct {
	step, images, dir, examples, binary, python, reportFile string

	srv     *server
	api     *client.Client
	started time.Time
	report  map[string]any
	failed  []string

	channel string
	files   []file // every image, with the id it got
	dataset string
	labels  []string

	definition string
	jobs       map[string]string // kernel → job id
	models     map[string]string // kernel → model id

	deployment string
	services   map[string]string // kernel, or "broken" → service id
}

// step is one chapter.
type chapter struct {
	name  string
	title string
	tell  func(ctx context.Context) error
}

func (s *story) chapters() []chapter {
	all := []chapter{
		{"data", "Raw data in: a channel of files, searched, counted, made a dataset", s.tellData},
		{"train", "Model out: two jobs train on the dataset, through the API", s.tellTrain},
		{"serve", "Traffic served: the models behind one endpoint, switched under load", s.tellServe},
		{"break", "Break it: kill an instance, kill -9 the server mid-training", s.tellBreak},
		{"logs", "Logs: what jobs and services said, by time range", s.tellLogs},
	}
	for i, c := range all {
		if c.name == s.step {
			return all[:i+1]
		}
	}
	return all
}

func (s *story) tell(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	switch s.step {
	case "", "data", "train", "serve":
	default:
		return 2, fmt.Errorf("STEP=%s: choose data, train or serve", s.step)
	}
	s.report = map[string]any{"go": runtime.Version(), "cpus": runtime.NumCPU()}
	s.jobs, s.models, s.services = map[string]string{}, map[string]string{}, map[string]string{}
	if err := s.prepare(ctx); err != nil {
		return 1, err
	}
	s.started = time.Now()
	for i, c := range s.chapters() {
		fmt.Printf("\n%d. %s\n", i+1, c.title)
		begin := time.Now()
		if err := c.tell(ctx); err != nil {
			s.tailServerLog()
			return 1, fmt.Errorf("%s: %w", c.name, err)
		}
		s.note("seconds_"+c.name, round(time.Since(begin).Seconds()))
	}
	total := time.Since(s.started)
	s.note("seconds", round(total.Seconds()))
	if s.step == "" {
		s.check(total < time.Minute, "the whole story took %.1f s, under 60", total.Seconds())
	}
	s.report["failed_checks"] = s.failed
	b, err := json.MarshalIndent(s.report, "", "  ")
	if err != nil {
		return 1, err
	}
	if err := os.WriteFile(s.reportFile, append(b, '\n'), 0o644); err != nil {
		return 1, err
	}
	if len(s.failed) > 0 {
		return 1, fmt.Errorf("%d checks failed: %v", len(s.failed), s.failed)
	}
	fmt.Printf("\nAll checks passed in %.1f s; the numbers are in %s.\n", total.Seconds(), s.reportFile)
	return 0, nil
}

// prepare empties the working folder, makes the images and starts the server.
func (s *story) prepare(ctx context.Context) error {
	if err := os.RemoveAll(s.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	if s.images == "" {
		s.images = filepath.Join(s.dir, "images")
		if out, err := command(ctx, s.python, filepath.Join(s.examples, "make_images.py"), s.images).CombinedOutput(); err != nil {
			return fmt.Errorf("make images: %w\n%s", err, out)
		}
	}
	var err error
	if s.srv, err = startServer(ctx, s.binary, filepath.Join(s.dir, "data"), s.python); err != nil {
		return err
	}
	s.api = s.srv.client()
	fmt.Printf("Panal is up at %s: ready after %.0f ms on an empty directory, %.0f MB resident.\n", s.srv.url, s.srv.readyIn.Seconds()*1000, s.srv.rss())
	s.note("ready_ms", round(s.srv.readyIn.Seconds()*1000))
	s.note("idle_rss_mb", round(s.srv.rss()))
	s.check(s.srv.readyIn < time.Second, "ready in under 1 s")
	s.check(s.srv.rss() < 200, "idle memory is under 200 MB")
	return nil
}

// say prints a line of the story.
func (s *story) say(format string, args ...any) { fmt.Printf("   "+format+"\n", args...) }

// note keeps a measured number for the report.
func (s *story) note(key string, value any) { s.report[key] = value }

// check asserts; a failed check is shown, and fails the demo at its end.
func (s *story) check(ok bool, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if ok {
		s.say("\u2713 %s", text)
		return
	}
	s.say("\u2717 NOT TRUE: %s", text)
	s.failed = append(s.failed, text)
}

func (s *story) stayUp(ctx context.Context) {
	a := s.srv.admin
	fmt.Printf(`
Panal stays up. In another terminal:

  eval "$(%[1]s env --data %[2]s)"      # API %[3]s, token %[4]s
  %[1]s channel list
  %[1]s file find %[5]s 'label:7 AND split:test' | head
  %[1]s job list %[6]s
  curl -s -u "user-$ABEJA_PLATFORM_USER_ID:$ABEJA_PLATFORM_PERSONAL_ACCESS_TOKEN" $ABEJA_API_URL/channels/%[5]s/count?q=label:3
`, s.binary, s.srv.data, a.APIURL, a.Token, s.channel, s.definition)
	if s.deployment != "" {
		fmt.Printf(`  curl -s -u "user-$ABEJA_PLATFORM_USER_ID:$ABEJA_PLATFORM_PERSONAL_ACCESS_TOKEN" -H 'Content-Type: image/png' \
       --data-binary @%s $ABEJA_API_URL/deployments/%s
`, s.files[0].path, s.deployment)
	}
	fmt.Println("\nCtrl-C ends it, workloads included.")
	<-ctx.Done()
}

func (s *story) close() {
	if s.srv != nil {
		s.srv.stopAll()
	}
}

func (s *story) tailServerLog() {
	if s.srv == nil {
		return
	}
	b, err := os.ReadFile(s.srv.logFile)
	if err != nil {
		return
	}
	if len(b) > 4000 {
		b = b[len(b)-4000:]
	}
	fmt.Fprintf(os.Stderr, "--- end of the server's log ---\n%s\n", b)
}

// poll calls f until it says done, fails, or the time is up.
func poll(ctx context.Context, what string, limit time.Duration, f func() (bool, error)) error {
	deadline := time.Now().Add(limit)
	for {
		done, err := f()
		if done || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New(what + " did not happen in " + limit.String())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func round(v float64) float64 { return float64(int64(v*10+0.5)) / 10 }
