// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"panal/internal/client"
)

// file is one image of the story.
type file struct {
	path, label, split string
	index              int
	id                 string
}

// splitOf puts a fifth of the files into the test split, by a stable hash of label
// and name: the same file is always on the same side.
func splitOf(label, name string) string {
	if sha256.Sum256([]byte(label + "/" + name))[0]%5 == 0 {
		return "test"
	}
	return "train"
}

// readImages finds the pictures: one folder per label.
func (s *story) readImages() error {
	err := filepath.WalkDir(s.images, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		switch filepath.Ext(path) {
		case ".png", ".jpg", ".jpeg", ".gif", ".bmp":
		default:
			return nil
		}
		label := filepath.Base(filepath.Dir(path))
		s.files = append(s.files, file{path: path, label: label, split: splitOf(label, d.Name()), index: len(s.files)})
		if !slices.Contains(s.labels, label) {
			s.labels = append(s.labels, label)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(s.labels) < 2 || len(s.files) < 20 {
		return fmt.Errorf("%s holds %d images in %d folders; it takes at least 20 in 2, one folder per label", s.images, len(s.files), len(s.labels))
	}
	return nil
}

// upload sends one file with its metadata and returns the id it got.
func (s *story) upload(ctx context.Context, f *file, body []byte) error {
	h := http.Header{
		"Content-Type":          {mime.TypeByExtension(filepath.Ext(f.path))},
		"x-abeja-meta-filename": {url.PathEscape(f.label + "/" + filepath.Base(f.path))},
		"x-abeja-meta-label":    {url.PathEscape(f.label)},
		"x-abeja-meta-index":    {strconv.Itoa(f.index)},
		"x-abeja-meta-split":    {f.split},
	}
	res, err := s.api.Do(ctx, client.Request{
		Method: http.MethodPost, Path: client.Path("channels", s.channel, "upload"), Header: h,
		Body: bytes.NewReader(body), Size: int64(len(body)),
	})
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var out struct {
		ID string `json:"file_id"`
	}
	if err := json.NewDecoder(res.Body).Decode(&out); err != nil {
		return err
	}
	f.id = out.ID
	return nil
}

// count asks how many files match.
func (s *story) count(ctx context.Context, q string) (int, time.Duration, error) {
	var out struct {
		Count int `json:"count"`
	}
	begin := time.Now()
	err := s.api.JSON(ctx, http.MethodGet, client.Path("channels", s.channel, "count"), url.Values{"q": {q}}, nil, &out)
	return out.Count, time.Since(begin), err
}

// find returns the ids of all files that match, page by page.
func (s *story) find(ctx context.Context, q string) ([]string, error) {
	var ids []string
	query := url.Values{"q": {q}, "items_per_page": {"100"}}
	for {
		var page struct {
			Files []struct {
				ID string `json:"file_id"`
			} `json:"files"`
			Next *string `json:"next_page_token"`
		}
		if err := s.api.JSON(ctx, http.MethodGet, client.Path("channels", s.channel), query, nil, &page); err != nil {
			return nil, err
		}
		for _, f := range page.Files {
			ids = append(ids, f.ID)
		}
		if page.Next == nil {
			return ids, nil
		}
		query = url.Values{"next_page_token": {*page.Next}}
	}
}

func (s *story) tellData(ctx context.Context) error {
	if err := s.readImages(); err != nil {
		return err
	}
	var made struct {
		Channel struct {
			ID string `json:"channel_id"`
		} `json:"channel"`
	}
	if err := s.api.JSON(ctx, http.MethodPost, s.api.OrgPath("channels"), nil, map[string]string{"name": "digits", "description": "labelled images"}, &made); err != nil {
		return err
	}
	s.channel = made.Channel.ID

	begin := time.Now()
	if err := s.uploadAll(ctx); err != nil {
		return err
	}
	took := time.Since(begin)
	rate := float64(len(s.files)) / took.Seconds()
	s.say("%d images uploaded with metadata in %.1f s: %.0f/s, each durable and searchable when answered", len(s.files), took.Seconds(), rate)
	s.note("files", len(s.files))
	s.note("uploads_per_s", round(rate))

	label := s.labels[min(7, len(s.labels)-1)]
	q := "label:" + strconv.Quote(label) + " AND split:train"
	want := 0
	for _, f := range s.files {
		if f.label == label && f.split == "train" {
			want++
		}
	}
	n, lat, err := s.count(ctx, q)
	if err != nil {
		return err
	}
	ids, err := s.find(ctx, q)
	if err != nil {
		return err
	}
	slices.Sort(ids)
	s.check(n == want && len(slices.Compact(ids)) == want, "count of %s is %d, exactly, in %.1f ms; the search finds each of them once", q, n, lat.Seconds()*1000)
	s.note("count_ms", round(lat.Seconds()*1000))
	return s.makeDataset(ctx)
}

func (s *story) uploadAll(ctx context.Context) error {
	var next atomic.Int64
	errs := make([]error, 16)
	var wg sync.WaitGroup
	for w := range errs {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(s.files) {
					return
				}
				b, err := os.ReadFile(s.files[i].path)
				if err == nil {
					err = s.upload(ctx, &s.files[i], b)
				}
				if err != nil {
					errs[w] = fmt.Errorf("%s: %w", s.files[i].path, err)
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// makeDataset makes a dataset of the train split: items point at the files, their
// attributes carry the class.
func (s *story) makeDataset(ctx context.Context) error {
	labels := make([]map[string]any, len(s.labels))
	for i, l := range s.labels {
		labels[i] = map[string]any{"label_id": i, "label": l}
	}
	var made struct {
		ID string `json:"dataset_id"`
	}
	err := s.api.JSON(ctx, http.MethodPost, s.api.OrgPath("datasets"), nil, map[string]any{
		"name": "digits-train", "type": "classification",
		"props": map[string]any{"categories": []any{map[string]any{"category_id": 0, "name": "label", "labels": labels}}},
	}, &made)
	if err != nil {
		return err
	}
	s.dataset = made.ID
	var items []map[string]any
	for _, f := range s.files {
		if f.split != "train" {
			continue
		}
		items = append(items, map[string]any{
			"source_data": []any{map[string]any{"data_uri": "datalake://" + s.channel + "/" + f.id, "data_type": "image/png"}},
			"attributes":  map[string]any{"classification": []any{map[string]any{"category_id": 0, "label_id": slices.Index(s.labels, f.label), "label": f.label}}},
		})
	}
	for batch := range slices.Chunk(items, 500) {
		if err := s.api.JSON(ctx, http.MethodPost, s.api.OrgPath("datasets", s.dataset, "items"), nil, batch, nil); err != nil {
			return err
		}
	}
	var got struct {
		Total int `json:"total_count"`
	}
	if err := s.api.JSON(ctx, http.MethodGet, s.api.OrgPath("datasets", s.dataset), nil, nil, &got); err != nil {
		return err
	}
	s.check(got.Total == len(items), "the dataset of the train split has %d items", got.Total)
	s.note("dataset_items", got.Total)
	return nil
}
