// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"panal/internal/client"
)

// service is what the story reads of a service.
type service struct {
	ID      string `json:"service_id"`
	Status  string `json:"status"`
	Message string `json:"status_message"`
}

func (s *story) depPath(segments ...string) string {
	return s.api.OrgPath(append([]string{"deployments", s.deployment}, segments...)...)
}

// newVersion makes a code version of a folder and uploads it.
func (s *story) newVersion(ctx context.Context, label, dir string) (string, error) {
	source, err := archive(filepath.Join(s.examples, dir))
	if err != nil {
		return "", err
	}
	var v struct {
		ID  string `json:"version_id"`
		URL string `json:"upload_url"`
	}
	err = s.api.JSON(ctx, http.MethodPost, s.depPath("versions"), nil, map[string]string{"version": label, "image": image, "handler": "predict:handler"}, &v)
	if err != nil {
		return "", err
	}
	res, err := s.api.Do(ctx, client.Request{Method: http.MethodPut, Path: v.URL, Body: bytes.NewReader(source), Size: int64(len(source))})
	if err != nil {
		return "", err
	}
	return v.ID, res.Body.Close()
}

func (s *story) newService(ctx context.Context, version, model string, instances int) (string, error) {
	var made service
	err := s.api.JSON(ctx, http.MethodPost, s.depPath("services"), nil, map[string]any{
		"version_id": version, "models": map[string]string{"alias": model}, "instance_type": "cpu-0.25", "instance_number": instances,
	}, &made)
	return made.ID, err
}

func (s *story) getService(ctx context.Context, id string) (service, error) {
	var v service
	err := s.api.JSON(ctx, http.MethodGet, s.depPath("services", id), nil, nil, &v)
	return v, err
}

func (s *story) waitReady(ctx context.Context, ids ...string) error {
	return poll(ctx, "READY", time.Minute, func() (bool, error) {
		for _, id := range ids {
			v, err := s.getService(ctx, id)
			if err != nil {
				return false, err
			}
			if v.Status == "FAILED" {
				return false, fmt.Errorf("service %s is FAILED: %s", id, v.Message)
			}
			if v.Status != "READY" {
				return false, nil
			}
		}
		return true, nil
	})
}

func (s *story) switchTo(ctx context.Context, id string) (time.Duration, error) {
	begin := time.Now()
	err := s.api.JSON(ctx, http.MethodPatch, s.depPath("endpoints", "default"), nil, map[string]string{"service_id": id}, nil)
	return time.Since(begin), err
}

func (s *story) tellServe(ctx context.Context) error {
	var dep struct {
		ID string `json:"deployment_id"`
	}
	if err := s.api.JSON(ctx, http.MethodPost, s.api.OrgPath("deployments"), nil, map[string]string{"name": "digits"}, &dep); err != nil {
		return err
	}
	s.deployment = dep.ID
	version, err := s.newVersion(ctx, "0.0.1", "predict")
	if err != nil {
		return err
	}
	begin := time.Now()
	for k, instances := range map[string]int{"linear": 1, "rbf": 2} {
		if s.services[k], err = s.newService(ctx, version, s.models[k], instances); err != nil {
			return err
		}
	}
	if err := s.api.JSON(ctx, http.MethodPost, s.depPath("endpoints"), nil, map[string]string{"service_id": s.services["linear"], "custom_alias": "default"}, nil); err != nil {
		return err
	}
	if err := s.waitReady(ctx, s.services["linear"], s.services["rbf"]); err != nil {
		return err
	}
	s.say("two services READY after %.1f s; endpoint default points at linear", time.Since(begin).Seconds())
	s.note("services_ready_s", round(time.Since(begin).Seconds()))
	for _, k := range []string{"linear", "rbf"} {
		if err := s.compare(ctx, k); err != nil {
			return err
		}
	}
	if err := s.switchUnderLoad(ctx); err != nil {
		return err
	}
	return s.switchToBroken(ctx)
}

// compare predicts every held-out picture through the gateway and without the
// platform: the answers must be the same, all of them.
func (s *story) compare(ctx context.Context, kernel string) error {
	var held []file
	for _, f := range s.files {
		if f.split == "test" {
			held = append(held, f)
		}
	}
	served := make([]string, len(held))
	errs := make([]error, 4)
	path := client.Path("deployments", s.deployment, "services", s.services[kernel])
	var next atomic.Int64
	var wg sync.WaitGroup
	begin := time.Now()
	for w := range errs {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(held) && errs[w] == nil; i = int(next.Add(1)) - 1 {
				b, err := os.ReadFile(held[i].path)
				if err == nil {
					served[i], _, err = s.predict(ctx, path, b)
				}
				errs[w] = err
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	offline, err := s.offline(ctx, kernel, held)
	if err != nil {
		return err
	}
	right, same, confused := 0, 0, map[string]int{}
	for i, f := range held {
		if served[i] == f.label {
			right++
		} else {
			confused[f.label+" as "+served[i]]++
		}
		if served[i] == offline[i] {
			same++
		}
	}
	accuracy := float64(right) / float64(len(held))
	s.say("%s: %d held-out pictures, accuracy %.4f, %.0f predictions/s; %s", kernel, len(held), accuracy, float64(len(held))/took.Seconds(), confusions(confused))
	s.check(same == len(held), "served predictions equal offline ones: %d of %d", same, len(held))
	s.note("accuracy_"+kernel, accuracy)
	s.note("predictions_per_s_"+kernel, round(float64(len(held))/took.Seconds()))
	if s.images == filepath.Join(s.dir, "images") {
		s.check(accuracy > 0.9, "the %s model is right on more than 90 %%", kernel)
	}
	return nil
}

func confusions(m map[string]int) string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool { return m[keys[i]] > m[keys[j]] || m[keys[i]] == m[keys[j]] && keys[i] < keys[j] })
	var parts []string
	for _, k := range keys[:min(4, len(keys))] {
		parts = append(parts, fmt.Sprintf("%s %dx", k, m[k]))
	}
	if len(parts) == 0 {
		return "none confused"
	}
	return "took " + strings.Join(parts, ", ")
}

// offline downloads the model and predicts without the platform.
func (s *story) offline(ctx context.Context, kernel string, held []file) ([]string, error) {
	var d struct {
		URI string `json:"download_uri"`
	}
	if err := s.api.JSON(ctx, http.MethodGet, s.defPath("models", s.models[kernel], "download"), nil, nil, &d); err != nil {
		return nil, err
	}
	res, err := s.api.Do(ctx, client.Request{Method: http.MethodGet, Path: d.URI})
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	zip := filepath.Join(s.dir, kernel+".zip")
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(zip, b, 0o644); err != nil {
		return nil, err
	}
	cmd := command(ctx, s.python, filepath.Join(s.examples, "offline.py"), zip)
	var paths strings.Builder
	for _, f := range held {
		paths.WriteString(f.path + "\n")
	}
	cmd.Stdin, cmd.Stderr = strings.NewReader(paths.String()), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("offline prediction: %w", err)
	}
	labels := strings.Split(strings.TrimRight(string(out), "\n"), "\n") // a label may hold spaces
	if len(labels) != len(held) {
		return nil, fmt.Errorf("offline prediction gave %d labels for %d pictures", len(labels), len(held))
	}
	return labels, nil
}

// picture is what the streams send.
func (s *story) picture() ([]byte, error) { return os.ReadFile(s.files[0].path) }

const streamRate = 40 // requests a second

// switchUnderLoad points the endpoint at the other service while customers call.
func (s *story) switchUnderLoad(ctx context.Context) error {
	picture, err := s.picture()
	if err != nil {
		return err
	}
	st := s.startStream(ctx, picture, streamRate)
	time.Sleep(1500 * time.Millisecond)
	took, err := s.switchTo(ctx, s.services["rbf"])
	switched := time.Now()
	time.Sleep(1500 * time.Millisecond)
	all := st.stop()
	if err != nil {
		return err
	}
	failed, why := failures(all)
	late, after := 0, lastOf(all, s.services["linear"]).Sub(switched)
	for _, a := range all {
		if a.begin.After(switched) && a.service != s.services["rbf"] {
			late++
		}
	}
	s.say("switch under load: sent %d, p50 %.1f ms, p99 %.1f ms; the switch was answered in %.1f ms; the last old answer came %.1f ms after it",
		len(all), quantile(all, 0.5), quantile(all, 0.99), took.Seconds()*1000, max(0, after.Seconds()*1000))
	s.check(failed == 0, "failed %d %s", failed, why)
	s.check(late == 0, "no request sent after the switch reached the old service")
	s.note("switch_sent", len(all))
	s.note("switch_failed", failed)
	s.note("switch_last_old_answer_ms", round(max(0, after.Seconds()*1000)))
	s.note("serve_p50_ms", round(quantile(all, 0.5)))
	s.note("serve_p99_ms", round(quantile(all, 0.99)))
	return nil
}

// switchToBroken points the endpoint at a version that raises on import, while it
// is still starting. The old service must keep answering.
func (s *story) switchToBroken(ctx context.Context) error {
	picture, err := s.picture()
	if err != nil {
		return err
	}
	version, err := s.newVersion(ctx, "0.0.2-broken", "broken")
	if err != nil {
		return err
	}
	st := s.startStream(ctx, picture, streamRate)
	id, err := s.newService(ctx, version, s.models["rbf"], 1)
	if err == nil {
		s.services["broken"] = id
		_, err = s.switchTo(ctx, id)
	}
	var v service
	if err == nil {
		err = poll(ctx, "FAILED", time.Minute, func() (bool, error) {
			v, err = s.getService(ctx, id)
			return v.Status == "FAILED", err
		})
	}
	all := st.stop()
	if err != nil {
		return err
	}
	failed, why := failures(all)
	s.check(failed == 0 && lastOf(all, id).IsZero(), "endpoint pointed at a bad version while it starts: sent %d, failed %d %s, none answered by it", len(all), failed, why)
	s.check(strings.Contains(v.Message, "planted: the weights file") && strings.Contains(v.Message, "Traceback"), "its status_message has the traceback")
	lines := strings.Split(strings.TrimSpace(v.Message), "\n")
	s.say("  status_message: %s … %s", lines[0], lines[len(lines)-1])
	var ep struct {
		Service string `json:"service_id"`
		Message string `json:"status_message"`
	}
	if err := s.api.JSON(ctx, http.MethodGet, s.depPath("endpoints", "default"), nil, nil, &ep); err != nil {
		return err
	}
	s.check(ep.Service == s.services["rbf"], "the endpoint stays on the old service and says so: %s", strings.SplitN(ep.Message, "\n", 2)[0])
	s.note("broken_sent", len(all))
	s.note("broken_failed", failed)
	return nil
}
