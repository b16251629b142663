// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"panal/internal/client"
)

func (s *story) tellBreak(ctx context.Context) error {
	if err := s.killInstance(ctx); err != nil {
		return err
	}
	return s.killServer(ctx)
}

// killInstance kills one of two instances under load.
func (s *story) killInstance(ctx context.Context) error {
	picture, err := s.picture()
	if err != nil {
		return err
	}
	stream := "service/" + s.services["rbf"]
	agents := s.srv.workloads(stream)
	if len(agents) < 2 {
		return fmt.Errorf("found %d instances of the service, want 2", len(agents))
	}
	st := s.startStream(ctx, picture, streamRate)
	time.Sleep(700 * time.Millisecond)
	begin := time.Now()
	born := startTime(agents[0])
	err = syscall.Kill(agents[0], syscall.SIGKILL)
	if err == nil {
		err = poll(ctx, "the instance's death", 10*time.Second, func() (bool, error) { return isDead(agents[0]) || startTime(agents[0]) != born, nil })
	}
	dead := time.Now() // a machine that is busy takes a moment to kill a process tree
	if err == nil {
		err = poll(ctx, "a new instance", 30*time.Second, func() (bool, error) {
			now := s.srv.workloads(stream)
			return len(now) >= 2 && !slices.Contains(now, agents[0]), nil
		})
	}
	took := time.Since(begin)
	time.Sleep(500 * time.Millisecond)
	all := st.stop()
	if err != nil {
		return err
	}
	// In flight on it: at most what was begun before it was dead, and not answered
	// when it was killed.
	inFlight := 0
	for _, a := range all {
		if a.begin.Before(dead) && a.end.After(begin) {
			inFlight++
		}
	}
	failed, why := failures(all)
	s.check(failed <= inFlight, "kill -9 of one of two instances: sent %d, failed %d (in flight at the kill: %d) %s", len(all), failed, inFlight, why)
	s.say("another instance was started %.1f s later", took.Seconds())
	s.note("instance_kill_sent", len(all))
	s.note("instance_kill_failed", failed)
	return nil
}

// killServer kills the server in the middle of a training job and of uploads, and
// counts what was lost: nothing that was acknowledged.
func (s *story) killServer(ctx context.Context) error {
	const steps = 10
	id, err := s.startJob(ctx, map[string]string{"KERNEL": "rbf", "GRID": fmt.Sprint(steps), "PAUSE": "0.5"})
	if err != nil {
		return err
	}
	s.jobs["killed"] = id
	var before job
	err = poll(ctx, "a third of the job", time.Minute, func() (bool, error) {
		before, err = s.getJob(ctx, id)
		if before.Status == "Failed" {
			return false, errors.New(before.Message)
		}
		return before.progress() >= 0.3, err
	})
	if err != nil {
		return err
	}
	pid := 0
	if agents := s.srv.workloads("job/" + id); len(agents) == 1 {
		pid = pythonUnder(agents[0])
	}
	if pid == 0 {
		return errors.New("the training process was not found")
	}
	born := startTime(pid)
	acked, err := s.uploadUntilKilled(ctx)
	if err != nil {
		return err
	}
	time.Sleep(300 * time.Millisecond)
	s.check(startTime(pid) == born, "kill -9 of the server at %.0f %%: the training process (pid %d) goes on without it", before.progress()*100, pid)
	if err := s.srv.start(ctx); err != nil {
		return err
	}
	s.say("server started again: ready after %.0f ms", s.srv.readyIn.Seconds()*1000)
	s.note("restart_ready_ms", round(s.srv.readyIn.Seconds()*1000))
	after, err := s.getJob(ctx, id)
	if err != nil {
		return err
	}
	s.check(before.Status == "Active" && after.Status == "Active" && before.progress() < 1 && startTime(pid) == born,
		"the kill fell inside the job (%s at %.0f %% before, %s after), same process", before.Status, before.progress()*100, after.Status)
	picture, err := s.picture()
	if err != nil {
		return err
	}
	if _, who, err := s.predict(ctx, client.Path("deployments", s.deployment), picture); err != nil {
		s.check(false, "the endpoint answers after the restart: %v", err)
	} else {
		s.check(who == s.services["rbf"], "the endpoint answers after the restart, by the same instances")
	}
	if err := s.checkAcked(ctx, acked); err != nil {
		return err
	}
	var end job
	err = poll(ctx, "the end of the job", 2*time.Minute, func() (bool, error) {
		end, err = s.getJob(ctx, id)
		if end.Status == "Failed" {
			return false, errors.New(end.Message)
		}
		return end.Status == "Complete", err
	})
	if err != nil {
		return err
	}
	s.check(end.progress() == 1, "the job is Complete, its statistics say 100 %%")
	if err := s.readModels(ctx, "killed"); err != nil {
		return err
	}
	lines, err := s.allLines(ctx, s.defPath("jobs", id, "logs"), nil)
	if err != nil {
		return err
	}
	var got []string
	for _, l := range lines {
		if strings.HasPrefix(l.Message, "step ") {
			got = append(got, strings.SplitN(l.Message, ":", 2)[0])
		}
	}
	var want []string
	for i := range steps {
		want = append(want, fmt.Sprintf("step %d/%d", i+1, steps))
	}
	s.check(slices.Equal(got, want), "log lines lost 0, doubled 0: each of the %d steps stands there once, in order", steps)
	s.note("kill_progress", before.progress())
	s.note("log_lines_lost", steps-len(got))
	return nil
}

// uploadUntilKilled uploads from several clients at once, kills the server in the
// middle, and returns the files that were acknowledged, with their content.
func (s *story) uploadUntilKilled(ctx context.Context) (map[string][]byte, error) {
	var mu sync.Mutex
	acked := map[string][]byte{}
	var dead atomic.Bool
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := 0; !dead.Load() && i < 100_000; i++ {
				body := bytes.Repeat([]byte(fmt.Sprintf("%d/%d ", w, i)), 1+(i%50)*20)
				f := file{path: fmt.Sprintf("crash/%d-%d.txt", w, i), label: "crash", split: "none", index: i}
				if s.upload(ctx, &f, body) == nil {
					mu.Lock()
					acked[f.id] = body
					mu.Unlock()
				} else {
					return
				}
			}
		})
	}
	time.Sleep(700 * time.Millisecond)
	err := s.srv.kill()
	dead.Store(true)
	wg.Wait()
	return acked, err
}

// checkAcked reads every acknowledged file back, byte for byte.
func (s *story) checkAcked(ctx context.Context, acked map[string][]byte) error {
	lost := 0
	ids, err := s.find(ctx, "label:crash")
	if err != nil {
		return err
	}
	for id, want := range acked {
		if !slices.Contains(ids, id) {
			lost++
			continue
		}
		var info struct {
			URI string `json:"download_uri"`
		}
		if err := s.api.JSON(ctx, http.MethodGet, client.Path("channels", s.channel, id), nil, nil, &info); err != nil {
			lost++
			continue
		}
		res, err := s.api.Do(ctx, client.Request{Method: http.MethodGet, Path: info.URI})
		if err != nil {
			lost++
			continue
		}
		got, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || !bytes.Equal(got, want) {
			lost++
		}
	}
	n, _, err := s.count(ctx, "label:crash")
	if err != nil {
		return err
	}
	s.check(lost == 0 && n == len(ids) && len(acked) > 0, "acknowledged files lost: %d of %d; count and list agree on %d", lost, len(acked), n)
	s.note("acked_files", len(acked))
	s.note("acked_files_lost", lost)
	return nil
}

// line is one log line of the API.
type line struct {
	Message   string `json:"message"`
	Timestamp string `json:"timestamp"`
}

// allLines reads a log from its beginning to its end.
func (s *story) allLines(ctx context.Context, path string, query url.Values) ([]line, error) {
	var all []line
	for {
		var page struct {
			Events []line `json:"events"`
			Next   string `json:"next_token"`
		}
		if err := s.api.JSON(ctx, http.MethodGet, path, query, nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Events...)
		if page.Next == "" {
			return all, nil
		}
		query = url.Values{"next_token": {page.Next}}
	}
}

func (s *story) tellLogs(ctx context.Context) error {
	from, to := s.started.UTC().Format(time.RFC3339), time.Now().UTC().Add(time.Second).Format(time.RFC3339)
	window := url.Values{"start_time": {from}, "end_time": {to}}
	total := 0
	for _, src := range []struct{ name, path, must string }{
		{"job linear", s.defPath("jobs", s.jobs["linear"], "logs"), "best: C="},
		{"job rbf", s.defPath("jobs", s.jobs["rbf"], "logs"), "best: C="},
		{"service rbf", s.depPath("services", s.services["rbf"], "logs"), "model ready: rbf"},
		{"service broken", s.depPath("services", s.services["broken"], "logs"), "planted: the weights file"},
	} {
		lines, err := s.allLines(ctx, src.path, window)
		if err != nil {
			return err
		}
		total += len(lines)
		shown := ""
		for _, l := range lines {
			if strings.Contains(l.Message, src.must) {
				shown = l.Timestamp + "  " + l.Message
			}
		}
		s.check(shown != "", "%s: %d lines between %s and %s; one of them: %s", src.name, len(lines), from[11:19], to[11:19], shown)
		early := url.Values{"end_time": {s.started.Add(-time.Hour).UTC().Format(time.RFC3339)}}
		if old, err := s.allLines(ctx, src.path, early); err != nil || len(old) > 0 {
			s.check(false, "%s has %d lines before the story began (%v)", src.name, len(old), err)
		}
	}
	s.note("log_lines", total)
	return os.WriteFile(filepath.Join(s.dir, "told"), nil, 0o644)
}
