// SPDX-License-Identifier: Apache-2.0

// Package dataset holds labelled lists of data: items that point at files or URLs
// and carry attributes (data.md §16–17).
//
// Invariants: a dataset's name is unique in its organization; an item's id grows
// within its dataset and is never used again; props and attributes are kept as the
// JSON that was sent.
package dataset

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"panal/internal/lake/query"
	"panal/internal/plat"
)

// Dataset is a named list of items.
type Dataset struct {
	ID        plat.DatasetID
	Org       plat.OrgID
	Name      string
	Type      string // free text: classification, detection, …
	Props     json.RawMessage
	Items     int64 // how many there are
	CreatedAt time.Time
	UpdatedAt time.Time
}

// Item is one entry of a dataset.
type Item struct {
	Dataset    plat.DatasetID
	ID         int64           // given by the store, from 1
	SourceData json.RawMessage // an array of objects
	Attributes json.RawMessage // an object, or null
	CreatedAt  time.Time
	UpdatedAt  time.Time
}

// MaxItems is how many items one call creates or changes by default.
const MaxItems = 500

// Store keeps datasets and items. Implemented by sqlstore; package datasettest
// holds every implementation to this contract.
type Store interface {
	// CreateDataset stores d; ErrExists when the organization has one of that name.
	CreateDataset(ctx context.Context, d Dataset) error
	// Dataset returns a dataset of the organization.
	Dataset(ctx context.Context, org plat.OrgID, id plat.DatasetID) (Dataset, error)
	// Datasets returns up to limit of the organization's datasets (0: all) with ids
	// greater than after, in order of the id.
	Datasets(ctx context.Context, org plat.OrgID, after plat.DatasetID, limit int) ([]Dataset, error)
	// DeleteDataset removes a dataset and its items, and returns what it was.
	DeleteDataset(ctx context.Context, org plat.OrgID, id plat.DatasetID) (Dataset, error)

	// CreateItems adds items to the dataset, all or none, and returns them with
	// their ids, which ascend. ErrNotFound for an unknown dataset.
	CreateItems(ctx context.Context, d plat.DatasetID, items []Item) ([]Item, error)
	// Items returns up to limit items with ids greater than after, in order of the id.
	Items(ctx context.Context, d plat.DatasetID, after int64, limit int) ([]Item, error)
	// AnySource tells whether match holds for the source data of some item of the
	// dataset whose source data contains the text part.
	AnySource(ctx context.Context, d plat.DatasetID, part string, match func(source json.RawMessage) bool) (bool, error)
	// Item returns one item.
	Item(ctx context.Context, d plat.DatasetID, id int64) (Item, error)
	// UpdateItems replaces the attributes and update times of the items with those
	// ids, all or none, and returns them whole. ErrNotFound when one is missing.
	UpdateItems(ctx context.Context, d plat.DatasetID, items []Item) ([]Item, error)
	// DeleteItem removes an item and returns what it was.
	DeleteItem(ctx context.Context, d plat.DatasetID, id int64) (Item, error)
}

// Service is the rules around datasets.
type Service struct {
	store Store
	now   plat.Clock
	// maxItems is how many items one call creates or changes.
	maxItems int
}

// NewService returns a Service over s.
func NewService(s Store, now plat.Clock) *Service {
	return &Service{store: s, now: now, maxItems: MaxItems}
}

// LimitItems changes how many items one call creates or changes; 0: the default.
// Called while wiring.
func (s *Service) LimitItems(n int) { s.maxItems = cmp.Or(n, MaxItems) }

const maxName = 1024

// Create makes a dataset. All three are required; props is any JSON.
func (s *Service) Create(ctx context.Context, org plat.OrgID, name, kind string, props json.RawMessage) (Dataset, error) {
	switch {
	case name == "" || len(name) > maxName || !plain(name):
		return Dataset{}, plat.InvalidField("name", "is required: 1 to %d bytes of text", maxName)
	case kind == "" || len(kind) > maxName || !plain(kind):
		return Dataset{}, plat.InvalidField("type", "is required, for example classification")
	case len(props) == 0 || string(props) == "null":
		return Dataset{}, plat.InvalidField("props", `is required, for example {"categories":[]}`)
	}
	props, err := tidy("props", props)
	if err != nil {
		return Dataset{}, err
	}
	now := s.now()
	d := Dataset{ID: plat.DatasetID(plat.NewDecimalID()), Org: org, Name: name, Type: kind, Props: props, CreatedAt: now, UpdatedAt: now}
	switch err := s.store.CreateDataset(ctx, d); {
	case errors.Is(err, plat.ErrExists):
		return Dataset{}, &plat.Error{
			Kind: plat.ErrExists, Public: fmt.Sprintf("there is a dataset named %q already", name),
			Detail: map[string][]string{"name": {"is taken"}}, Err: err,
		}
	case err != nil:
		return Dataset{}, fmt.Errorf("create dataset %s: %w", name, err)
	}
	return d, nil
}

func plain(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// tidy returns JSON without spaces, otherwise as it was: numbers and escapes stay
// as they were written.
func tidy(field string, raw json.RawMessage) (json.RawMessage, error) {
	var b bytes.Buffer
	if !utf8.Valid(raw) {
		return nil, plat.InvalidField(field, "is not UTF-8")
	}
	if err := json.Compact(&b, raw); err != nil {
		return nil, plat.InvalidField(field, "is not JSON: %v", err)
	}
	return b.Bytes(), checkDepth(field, b.Bytes())
}

// Get returns a dataset of the organization.
func (s *Service) Get(ctx context.Context, org plat.OrgID, id plat.DatasetID) (Dataset, error) {
	return s.store.Dataset(ctx, org, id)
}

// List returns up to limit datasets (0: all) after the given id.
func (s *Service) List(ctx context.Context, org plat.OrgID, after plat.DatasetID, limit int) ([]Dataset, error) {
	if strings.Trim(string(after), "0123456789") != "" {
		return nil, plat.InvalidField("next_token", "is no dataset's id; begin again without it")
	}
	return s.store.Datasets(ctx, org, after, limit)
}

// Delete removes a dataset with its items; the files that they point at stay.
func (s *Service) Delete(ctx context.Context, org plat.OrgID, id plat.DatasetID) (Dataset, error) {
	return s.store.DeleteDataset(ctx, org, id)
}

// Purge deletes every dataset of an organization. It can be repeated; nil means that
// there was nothing left.
func (s *Service) Purge(ctx context.Context, org plat.OrgID) error {
	for {
		all, err := s.store.Datasets(ctx, org, "", 100)
		if err != nil {
			return fmt.Errorf("list datasets: %w", err)
		}
		if len(all) == 0 {
			return nil
		}
		for _, d := range all {
			if _, err := s.store.DeleteDataset(ctx, org, d.ID); err != nil && !errors.Is(err, plat.ErrNotFound) {
				return fmt.Errorf("delete dataset %s: %w", d.ID, err)
			}
		}
	}
}

// NewItem is what an item is made of.
type NewItem struct {
	SourceData json.RawMessage `json:"source_data"`
	Attributes json.RawMessage `json:"attributes"`
}

// AddItems adds up to MaxItems items, all or none. Unlike elsewhere an unknown
// dataset is ErrInvalid (data.md §17).
func (s *Service) AddItems(ctx context.Context, org plat.OrgID, id plat.DatasetID, items []NewItem) ([]Item, error) {
	d, err := s.datasetOfItems(ctx, org, id)
	if err != nil {
		return nil, err
	}
	if len(items) > s.maxItems {
		return nil, plat.InvalidField("items", "%d items in one call; the limit is %d", len(items), s.maxItems)
	}
	rules, now := rulesOf(d.Props), s.now()
	out := make([]Item, len(items))
	for i, in := range items {
		it := Item{Dataset: id, CreatedAt: now, UpdatedAt: now}
		if it.SourceData, err = checkSource(in.SourceData); err == nil {
			it.Attributes, err = rules.check(in.Attributes)
		}
		if err != nil {
			return nil, at(i, len(items), err)
		}
		out[i] = it
	}
	if len(out) == 0 {
		return out, nil
	}
	return s.store.CreateItems(ctx, id, out)
}

func (s *Service) datasetOfItems(ctx context.Context, org plat.OrgID, id plat.DatasetID) (Dataset, error) {
	d, err := s.store.Dataset(ctx, org, id)
	if errors.Is(err, plat.ErrNotFound) {
		return Dataset{}, plat.InvalidField("dataset_id", "dataset %s was not found", id)
	}
	return d, err
}

// at names the item of an array that an error is about.
func at(i, n int, err error) error {
	var pe *plat.Error
	if n == 1 || !errors.As(err, &pe) {
		return err
	}
	out := &plat.Error{Kind: pe.Kind, Public: fmt.Sprintf("item %d: %s", i, pe.Public), Detail: map[string][]string{}}
	for field, msgs := range pe.Detail {
		out.Detail[fmt.Sprintf("%d.%s", i, field)] = msgs
	}
	return out
}

// Page is a part of a dataset's items.
type Page struct {
	Items []Item
	Total int64 // items that match, in the whole dataset
}

// chunk is how many items a search reads at once.
const chunk = 1000

// Unknown says that a total is not known yet.
const Unknown = -1

// Items returns up to limit items after an id, those that match q (nil: all). The
// first page of a search reads the whole dataset, so that the total is exact; the
// others are given that total and read on from where the page before ended.
func (s *Service) Items(ctx context.Context, org plat.OrgID, id plat.DatasetID, q query.Node, after int64, limit int, total int64) (Page, error) {
	d, err := s.store.Dataset(ctx, org, id)
	if err != nil {
		return Page{}, err
	}
	if q == nil {
		items, err := s.store.Items(ctx, id, after, limit)
		return Page{Items: items, Total: d.Items}, err
	}
	page, last, size := Page{Items: []Item{}, Total: total}, after, min(chunk, 2*limit+16) // few, where a few will do
	if total < 0 {
		page.Total, last, size = 0, 0, chunk
	}
	for ; ; size = min(chunk, 2*size) {
		items, err := s.store.Items(ctx, id, last, size)
		if err != nil {
			return Page{}, err
		}
		for _, it := range items {
			if last = it.ID; !Match(q, it.Attributes) {
				continue
			}
			if total < 0 {
				page.Total++
			}
			if it.ID > after && len(page.Items) < limit {
				page.Items = append(page.Items, it)
			}
			if total >= 0 && len(page.Items) == limit {
				return page, nil
			}
		}
		if len(items) < size {
			return page, nil
		}
	}
}

// Item returns one item.
func (s *Service) Item(ctx context.Context, org plat.OrgID, id plat.DatasetID, item int64) (Item, error) {
	if _, err := s.store.Dataset(ctx, org, id); err != nil {
		return Item{}, err
	}
	return s.store.Item(ctx, id, item)
}

// UpdateItem replaces an item's attributes.
func (s *Service) UpdateItem(ctx context.Context, org plat.OrgID, id plat.DatasetID, item int64, attributes json.RawMessage) (Item, error) {
	d, err := s.store.Dataset(ctx, org, id)
	if err != nil {
		return Item{}, err
	}
	out, err := s.update(ctx, d, []ItemChange{{ID: &item, Attributes: attributes}})
	if err != nil {
		return Item{}, err
	}
	return out[0], nil
}

// ItemChange replaces the attributes of one item.
type ItemChange struct {
	ID         *int64          `json:"dataset_item_id"`
	Attributes json.RawMessage `json:"attributes"`
}

// UpdateItems replaces the attributes of up to MaxItems items, all or none; an
// unknown id or dataset is ErrInvalid (data.md §17).
func (s *Service) UpdateItems(ctx context.Context, org plat.OrgID, id plat.DatasetID, changes []ItemChange) ([]Item, error) {
	d, err := s.datasetOfItems(ctx, org, id)
	if err != nil {
		return nil, err
	}
	if len(changes) > s.maxItems {
		return nil, plat.InvalidField("items", "%d items in one call; the limit is %d", len(changes), s.maxItems)
	}
	if len(changes) == 0 {
		return []Item{}, nil
	}
	out, err := s.update(ctx, d, changes)
	if errors.Is(err, plat.ErrNotFound) {
		return nil, &plat.Error{Kind: plat.ErrInvalid, Public: "one of the items was not found; nothing was changed", Detail: map[string][]string{"dataset_item_id": {"was not found"}}}
	}
	return out, err
}

func (s *Service) update(ctx context.Context, d Dataset, changes []ItemChange) ([]Item, error) {
	rules, now := rulesOf(d.Props), s.now()
	items := make([]Item, len(changes))
	seen := map[int64]bool{}
	for i, ch := range changes {
		if ch.ID == nil {
			return nil, at(i, len(changes), plat.InvalidField("dataset_item_id", "is required"))
		}
		if len(ch.Attributes) == 0 { // null is said, not left out
			return nil, at(i, len(changes), plat.InvalidField("attributes", "is required"))
		}
		if seen[*ch.ID] {
			return nil, at(i, len(changes), plat.InvalidField("dataset_item_id", "%d is given twice", *ch.ID))
		}
		seen[*ch.ID] = true
		attributes, err := rules.check(ch.Attributes)
		if err != nil {
			return nil, at(i, len(changes), err)
		}
		items[i] = Item{Dataset: d.ID, ID: *ch.ID, Attributes: attributes, UpdatedAt: now}
	}
	return s.store.UpdateItems(ctx, d.ID, items)
}

// DeleteItem removes an item and returns what it was.
func (s *Service) DeleteItem(ctx context.Context, org plat.OrgID, id plat.DatasetID, item int64) (Item, error) {
	if _, err := s.store.Dataset(ctx, org, id); err != nil {
		return Item{}, err
	}
	return s.store.DeleteItem(ctx, id, item)
}
