// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"time"

	"panal/internal/client"
)

const image = "abeja-inc/all-cpu:19.10"

// job is what the story reads of a training job.
type job struct {
	ID         string         `json:"training_job_id"`
	Status     string         `json:"status"`
	Message    string         `json:"status_message"`
	Statistics map[string]any `json:"statistics"`
	Started    string         `json:"start_time"`
	Completed  string         `json:"completion_time"`
}

// progress is how far the job says it is, 0..1.
func (j job) progress() float64 {
	p, _ := j.Statistics["progress_percentage"].(float64)
	return p
}

// archive packs a folder's files as tar.gz, flat at the root.
func archive(dir string) ([]byte, error) {
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	tw := tar.NewWriter(zw)
	names, err := filepath.Glob(filepath.Join(dir, "*.*"))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if err := tw.WriteHeader(&tar.Header{Name: filepath.Base(name), Mode: 0o644, Size: int64(len(b))}); err != nil {
			return nil, err
		}
		if _, err := tw.Write(b); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// twoParts is the multipart body of a code upload (compute.md §2.4).
func twoParts(source []byte, parameters any) (*bytes.Buffer, string, error) {
	var buf bytes.Buffer
	w := multipart.NewWriter(&buf)
	part := func(name, file, contentType string, content []byte) error {
		h := textproto.MIMEHeader{}
		h.Set("Content-Disposition", fmt.Sprintf(`form-data; name="%s"; filename="%s"`, name, file))
		h.Set("Content-Type", contentType)
		p, err := w.CreatePart(h)
		if err == nil {
			_, err = p.Write(content)
		}
		return err
	}
	params, err := json.Marshal(parameters)
	if err != nil {
		return nil, "", err
	}
	if err := part("source_code", "archive.tar.gz", "application/tar+gzip", source); err != nil {
		return nil, "", err
	}
	if err := part("parameters", "params.json", "application/json", params); err != nil {
		return nil, "", err
	}
	return &buf, w.FormDataContentType(), w.Close()
}

func (s *story) defPath(segments ...string) string {
	return s.api.OrgPath(append([]string{"training", "definitions", s.definition}, segments...)...)
}

func (s *story) getJob(ctx context.Context, id string) (job, error) {
	var j job
	err := s.api.JSON(ctx, http.MethodGet, s.defPath("jobs", id), nil, nil, &j)
	return j, err
}

func (s *story) startJob(ctx context.Context, env map[string]string) (string, error) {
	var j job
	err := s.api.JSON(ctx, http.MethodPost, s.defPath("versions", "1", "jobs"), nil,
		map[string]any{"environment": env, "datasets": map[string]string{"train": s.dataset}, "instance_type": "cpu-1"}, &j)
	return j.ID, err
}

func (s *story) tellTrain(ctx context.Context) error {
	s.definition = "digits"
	if err := s.api.JSON(ctx, http.MethodPost, s.api.OrgPath("training", "definitions"), nil, map[string]string{"name": s.definition}, nil); err != nil {
		return err
	}
	source, err := archive(filepath.Join(s.examples, "train"))
	if err != nil {
		return err
	}
	body, contentType, err := twoParts(source, map[string]any{"handler": "train:handler", "image": image, "description": "SVM over a grid"})
	if err != nil {
		return err
	}
	res, err := s.api.Do(ctx, client.Request{
		Method: http.MethodPost, Path: s.defPath("versions"), Body: body, Size: int64(body.Len()),
		Header: http.Header{"Content-Type": {contentType}},
	})
	if err != nil {
		return err
	}
	_ = res.Body.Close()

	seen := map[string][]string{}
	kernels := []string{"linear", "rbf"}
	for _, k := range kernels {
		if s.jobs[k], err = s.startJob(ctx, map[string]string{"KERNEL": k, "GRID": "4"}); err != nil {
			return err
		}
	}
	last := ""
	err = poll(ctx, "the end of both jobs", 3*time.Minute, func() (bool, error) {
		done, line := true, ""
		for _, k := range kernels {
			j, err := s.getJob(ctx, s.jobs[k])
			if err != nil {
				return false, err
			}
			if h := seen[k]; len(h) == 0 || h[len(h)-1] != j.Status {
				seen[k] = append(h, j.Status)
			}
			line += fmt.Sprintf("%s %s %3.0f%%   ", k, j.Status, j.progress()*100)
			if j.Status == "Failed" || j.Status == "Stopped" {
				return false, fmt.Errorf("job %s is %s: %s", k, j.Status, j.Message)
			}
			done = done && j.Status == "Complete"
		}
		if line != last {
			s.say("%s", line)
			last = line
		}
		return done, nil
	})
	if err != nil {
		return err
	}
	for _, k := range kernels {
		path := strings.Join(seen[k], " \u2192 ")
		s.check(strings.HasSuffix(path, "Active \u2192 Complete"), "%s went %s", k, path)
	}
	return s.readModels(ctx, kernels...)
}

// readModels finds the model that each of the jobs left, with its metrics.
func (s *story) readModels(ctx context.Context, names ...string) error {
	var list struct {
		Total   int `json:"total"`
		Entries []struct {
			ID      string         `json:"training_model_id"`
			Job     string         `json:"training_job_id"`
			Metrics map[string]any `json:"metrics"`
		} `json:"entries"`
	}
	if err := s.api.JSON(ctx, http.MethodGet, s.defPath("models"), nil, nil, &list); err != nil {
		return err
	}
	for _, k := range names {
		id, n := s.jobs[k], 0
		for _, m := range list.Entries {
			if m.Job == id {
				n++
				s.models[k] = m.ID
				b, err := json.Marshal(m.Metrics)
				if err != nil {
					return err
				}
				s.say("model %s of the %s job: metrics %s", m.ID, k, b)
				s.check(len(m.Metrics) > 0, "the model carries the job's metrics")
			}
		}
		s.check(n == 1, "the %s job registered exactly one model", k)
	}
	s.note("models", list.Total)
	return nil
}
