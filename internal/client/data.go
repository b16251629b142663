// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Channel is a channel of the DataLake.
type Channel struct {
	ID          string  `json:"channel_id"`
	Name        string  `json:"name"`
	Description *string `json:"description"`
	StorageType string  `json:"storage_type"`
	Archived    bool    `json:"archived"`
	CreatedAt   string  `json:"created_at"`
}

type channelAnswer struct {
	Channel Channel `json:"channel"`
}

// CreateChannel makes a channel.
func (c *Client) CreateChannel(ctx context.Context, name, description string) (Channel, error) {
	in := map[string]string{"name": name}
	if description != "" {
		in["description"] = description
	}
	var out channelAnswer
	err := c.JSON(ctx, http.MethodPost, c.OrgPath("channels"), nil, in, &out)
	return out.Channel, err
}

// Channel returns a channel.
func (c *Client) Channel(ctx context.Context, id string) (Channel, error) {
	var out channelAnswer
	err := c.JSON(ctx, http.MethodGet, c.OrgPath("channels", id), nil, nil, &out)
	return out.Channel, err
}

// Channels returns all channels, newest first.
func (c *Client) Channels(ctx context.Context, archived bool) ([]Channel, error) {
	const limit = 1000
	all := []Channel{}
	for {
		q := url.Values{"limit": {strconv.Itoa(limit)}, "offset": {strconv.Itoa(len(all))}}
		if archived {
			q.Set("filter_archived", "include_archived")
		}
		var page struct {
			Channels []Channel `json:"channels"`
			HasNext  bool      `json:"has_next"`
		}
		if err := c.JSON(ctx, http.MethodGet, c.OrgPath("channels"), q, nil, &page); err != nil {
			return nil, err
		}
		if all = append(all, page.Channels...); !page.HasNext || len(page.Channels) == 0 {
			return all, nil
		}
	}
}

// ArchiveChannel archives a channel, or takes it back.
func (c *Client) ArchiveChannel(ctx context.Context, id string, archived bool) (Channel, error) {
	verb := "archive"
	if !archived {
		verb = "unarchive"
	}
	var out channelAnswer
	err := c.JSON(ctx, http.MethodPost, c.OrgPath("channels", id, verb), nil, nil, &out)
	return out.Channel, err
}

// File is a file of a channel. Metadata is as on the wire; see Meta.
type File struct {
	ID          string            `json:"file_id"`
	ContentType string            `json:"content_type"`
	Metadata    map[string]string `json:"metadata"`
	UploadedAt  string            `json:"uploaded_at"`
	Lifetime    *string           `json:"lifetime"`
	Size        int64             `json:"size"`
	ETag        string            `json:"etag"`
	DownloadURI string            `json:"download_uri,omitempty"`
}

const metaPrefix = "x-abeja-meta-"

// Meta returns the user metadata, decoded and without the prefix.
func (f File) Meta() map[string]string {
	out := map[string]string{}
	for k, v := range f.Metadata {
		if name, ok := strings.CutPrefix(k, metaPrefix); ok {
			out[unescape(name)] = unescape(v)
		}
	}
	return out
}

// StoredName is the plain metadata name under which Meta shows what was sent as
// name: the server folds names as they are on the wire.
func StoredName(name string) string { return unescape(strings.ToLower(Escape(name))) }

func unescape(s string) string {
	if d, err := url.PathUnescape(s); err == nil {
		return d
	}
	return s
}

// Escape percent-encodes a metadata name or value as the original clients do:
// everything but letters, digits and a few marks that any header takes.
func Escape(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		switch ch := s[i]; {
		case 'a' <= ch && ch <= 'z', 'A' <= ch && ch <= 'Z', '0' <= ch && ch <= '9', strings.IndexByte("-_.~", ch) >= 0:
			b.WriteByte(ch)
		default:
			b.WriteString("%" + string(hex[ch>>4]) + string(hex[ch&15]))
		}
	}
	return b.String()
}

// NewFile is an upload.
type NewFile struct {
	Body        io.Reader
	Size        int64             // -1 when unknown
	ContentType string            // empty: the server's default
	Metadata    map[string]string // plain
	Lifetime    string
	// ConflictTarget is a metadata name; see ConflictFile.
	ConflictTarget string
}

// Upload stores a file.
func (c *Client) Upload(ctx context.Context, channel string, n NewFile) (File, error) {
	h, q := http.Header{}, url.Values{}
	if n.ContentType != "" {
		h.Set("Content-Type", n.ContentType)
	}
	for k, v := range n.Metadata {
		h[metaPrefix+Escape(k)] = []string{Escape(v)}
	}
	if n.Lifetime != "" {
		q.Set("lifetime", n.Lifetime)
	}
	if n.ConflictTarget != "" {
		q.Set("conflict_target", n.ConflictTarget)
	}
	res, err := c.Do(ctx, Request{Method: http.MethodPost, Path: Path("channels", channel, "upload"), Query: q, Header: h, Body: n.Body, Size: n.Size})
	if err != nil {
		return File{}, err
	}
	defer func() { _ = res.Body.Close() }()
	var f File
	err = json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&f)
	return f, err
}

// ConflictFile returns the file that was there already, when err says so.
func ConflictFile(err error) (File, bool) {
	var e *Error
	var f File
	if !errors.As(err, &e) || e.Status != http.StatusConflict || json.Unmarshal(e.Body, &f) != nil {
		return File{}, false
	}
	return f, f.ID != ""
}

// File returns one file with a fresh download URL.
func (c *Client) File(ctx context.Context, channel, id string) (File, error) {
	var f File
	err := c.JSON(ctx, http.MethodGet, Path("channels", channel, id), nil, nil, &f)
	return f, err
}

// DeleteFile deletes a file.
func (c *Client) DeleteFile(ctx context.Context, channel, id string) error {
	return c.JSON(ctx, http.MethodDelete, Path("channels", channel, id), nil, nil, nil)
}

// SetFileMetadata replaces a file's metadata, which is given plain.
func (c *Client) SetFileMetadata(ctx context.Context, channel, id string, meta map[string]string) (File, error) {
	in := map[string]string{}
	for k, v := range meta {
		in[metaPrefix+Escape(k)] = Escape(v)
	}
	var f File
	err := c.JSON(ctx, http.MethodPut, Path("channels", channel, id, "metadata"), nil, in, &f)
	return f, err
}

// CountFiles returns how many files match q ("" for all).
func (c *Client) CountFiles(ctx context.Context, channel, q string) (int64, error) {
	var out struct {
		Count int64 `json:"count"`
	}
	err := c.JSON(ctx, http.MethodGet, Path("channels", channel, "count"), url.Values{"q": {q}}, nil, &out)
	return out.Count, err
}

// Facets is the values of a metadata key with the files that have them.
type Facets struct {
	Key    string `json:"key"`
	Values []struct {
		Value string `json:"value"`
		Count int64  `json:"count"`
	} `json:"values"`
	Distinct int64 `json:"distinct"`
	Files    int64 `json:"files"`
}

// Facets returns the most frequent values of a metadata key among the files that match
// q ("" for all).
func (c *Client) Facets(ctx context.Context, channel, key, q string, limit int) (Facets, error) {
	var out Facets
	err := c.JSON(ctx, http.MethodGet, Path("channels", channel, "facets"), url.Values{"key": {key}, "q": {q}, "limit": {strconv.Itoa(limit)}}, nil, &out)
	return out, err
}

// ErrStop ends a listing early, without an error.
var ErrStop = errors.New("stop")

func stopped(err error) error {
	if errors.Is(err, ErrStop) {
		return nil
	}
	return err
}

// Files calls each for every file that matches q ("" for all), oldest first, or
// newest first.
func (c *Client) Files(ctx context.Context, channel, q string, newestFirst bool, pageSize int, each func(File) error) error {
	query := url.Values{"q": {q}, "items_per_page": {strconv.Itoa(min(max(pageSize, 1), 1000))}}
	if newestFirst {
		query.Set("sort", "-uploaded_at")
	}
	for {
		var page struct {
			Files []File  `json:"files"`
			Next  *string `json:"next_page_token"`
		}
		if err := c.JSON(ctx, http.MethodGet, Path("channels", channel), query, nil, &page); err != nil {
			return err
		}
		for _, f := range page.Files {
			if err := each(f); err != nil {
				return stopped(err)
			}
		}
		if page.Next == nil {
			return nil
		}
		query = url.Values{"next_page_token": {*page.Next}}
	}
}

// Dataset is a dataset.
type Dataset struct {
	ID         string          `json:"dataset_id"`
	Name       string          `json:"name"`
	Type       string          `json:"type"`
	Props      json.RawMessage `json:"props"`
	TotalCount int64           `json:"total_count"`
	CreatedAt  string          `json:"created_at"`
}

// DatasetItem is an item of a dataset.
type DatasetItem struct {
	ID         int64           `json:"dataset_item_id,omitempty"`
	SourceData json.RawMessage `json:"source_data"`
	Attributes json.RawMessage `json:"attributes"`
}

// MaxDatasetItems is how many items one call takes.
const MaxDatasetItems = 500

// CreateDataset makes a dataset.
func (c *Client) CreateDataset(ctx context.Context, name, kind string, props any) (Dataset, error) {
	var out Dataset
	err := c.JSON(ctx, http.MethodPost, c.OrgPath("datasets"), nil, map[string]any{"name": name, "type": kind, "props": props}, &out)
	return out, err
}

// Datasets returns all datasets.
func (c *Client) Datasets(ctx context.Context) ([]Dataset, error) {
	var out []Dataset
	err := c.JSON(ctx, http.MethodGet, c.OrgPath("datasets"), nil, nil, &out)
	return out, err
}

// Dataset returns a dataset.
func (c *Client) Dataset(ctx context.Context, id string) (Dataset, error) {
	var out Dataset
	err := c.JSON(ctx, http.MethodGet, c.OrgPath("datasets", id), nil, nil, &out)
	return out, err
}

// DeleteDataset deletes a dataset with its items.
func (c *Client) DeleteDataset(ctx context.Context, id string) error {
	return c.JSON(ctx, http.MethodDelete, c.OrgPath("datasets", id), nil, nil, nil)
}

// AddDatasetItems adds up to MaxDatasetItems items, all or none.
func (c *Client) AddDatasetItems(ctx context.Context, id string, items []DatasetItem) error {
	return c.JSON(ctx, http.MethodPost, c.OrgPath("datasets", id, "items"), nil, items, nil)
}

// DatasetItems calls each for every item that matches q ("" for all), and returns
// how many match in all.
func (c *Client) DatasetItems(ctx context.Context, id, q string, pageSize int, each func(DatasetItem) error) (total int64, err error) {
	query := url.Values{"q": {q}, "limit": {strconv.Itoa(min(max(pageSize, 1), 1000))}}
	for {
		var page struct {
			Items []DatasetItem `json:"items"`
			Total int64         `json:"total_count"`
			Next  *string       `json:"next_page_token"`
		}
		if err := c.JSON(ctx, http.MethodGet, c.OrgPath("datasets", id, "items"), query, nil, &page); err != nil {
			return 0, err
		}
		for _, it := range page.Items {
			if err := each(it); err != nil {
				return page.Total, stopped(err)
			}
		}
		if page.Next == nil || len(page.Items) == 0 {
			return page.Total, nil
		}
		query = url.Values{"next_page_token": {*page.Next}}
	}
}
