// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"reflect"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"panal/internal/api/compat"
	"panal/internal/authz"
	"panal/internal/dataset"
	"panal/internal/lake/query"
	"panal/internal/plat"
)

// Dataset is the wire's dataset (data.md §16).
type Dataset struct {
	DatasetID      string     `json:"dataset_id" example:"3310000000789"`
	OrganizationID string     `json:"organization_id"`
	Name           string     `json:"name"`
	Type           string     `json:"type"`
	Props          compat.Any `json:"props"`
	TotalCount     int64      `json:"total_count"`
	CreatedAt      string     `json:"created_at"`
	UpdatedAt      string     `json:"updated_at"`
}

// NewDataset is what a dataset is made of; all of it is required.
type NewDataset struct {
	Name  string     `json:"name"`
	Type  string     `json:"type" example:"classification"`
	Props compat.Any `json:"props"`
}

// NewAttributes replaces an item's attributes.
type NewAttributes struct {
	Attributes compat.Any `json:"attributes"`
}

func datasetWire(d dataset.Dataset) Dataset {
	return Dataset{
		DatasetID: string(d.ID), OrganizationID: string(d.Org), Name: d.Name, Type: d.Type, Props: compat.Any(d.Props), TotalCount: d.Items,
		CreatedAt: d.CreatedAt.Format(plat.TimeMicroNaive), UpdatedAt: d.UpdatedAt.Format(plat.TimeMicroNaive),
	}
}

func datasetAnswer(d dataset.Dataset, err error) (*Dataset, error) {
	if err != nil {
		return nil, err
	}
	out := datasetWire(d)
	return &out, nil
}

// DatasetItem is the wire's item: exactly these keys. An organization_id makes a
// known client fail (data.md §17).
type DatasetItem struct {
	DatasetID     string     `json:"dataset_id"`
	DatasetItemID int64      `json:"dataset_item_id"`
	SourceData    compat.Any `json:"source_data"`
	Attributes    compat.Any `json:"attributes"`
	CreatedAt     string     `json:"created_at"`
	UpdatedAt     string     `json:"updated_at"`
}

func itemWire(it dataset.Item) DatasetItem {
	return DatasetItem{
		DatasetID: string(it.Dataset), DatasetItemID: it.ID, SourceData: compat.Any(it.SourceData), Attributes: compat.Any(it.Attributes),
		CreatedAt: it.CreatedAt.Format(plat.TimeMicroNaive), UpdatedAt: it.UpdatedAt.Format(plat.TimeMicroNaive),
	}
}

func itemsWire(items []dataset.Item) []DatasetItem {
	out := make([]DatasetItem, len(items))
	for i, it := range items {
		out[i] = itemWire(it)
	}
	return out
}

func itemAnswer(it dataset.Item, err error) (*DatasetItem, error) {
	if err != nil {
		return nil, err
	}
	out := itemWire(it)
	return &out, nil
}

// ItemsAnswer is a page of items. Every page that is not empty has a token, and
// the empty one after it has none: only this ends both known clients' loops
// (data.md §6 rule 2).
type ItemsAnswer struct {
	Items         []DatasetItem `json:"items"`
	TotalCount    int64         `json:"total_count"`
	NextPageToken *string       `json:"next_page_token"`
}

// OneOrMany answers an object with an object and an array with an array.
type OneOrMany struct {
	items []DatasetItem
	many  bool
}

// MarshalJSON implements json.Marshaler.
func (o OneOrMany) MarshalJSON() ([]byte, error) {
	if o.many {
		return json.Marshal(o.items)
	}
	return json.Marshal(o.items[0])
}

// Schema implements huma.SchemaProvider.
func (OneOrMany) Schema(r huma.Registry) *huma.Schema {
	one := huma.SchemaFromType(r, reflect.TypeFor[DatasetItem]())
	return &huma.Schema{OneOf: []*huma.Schema{one, {Type: huma.TypeArray, Items: one}}}
}

// DatasetPath is the path parameters of everything below a dataset.
type DatasetPath struct {
	OrgPath
	Dataset string `path:"dataset_id"`
}

func (p DatasetPath) id() plat.DatasetID { return plat.DatasetID(p.Dataset) }

// ItemPath is the path parameters of one item.
type ItemPath struct {
	DatasetPath
	Item string `path:"dataset_item_id"`
}

func (p ItemPath) item() (int64, error) {
	n, err := strconv.ParseInt(p.Item, 10, 64)
	if err != nil {
		return 0, plat.NotFound("dataset item", p.Item)
	}
	return n, nil
}

// itemsToken is the whole state of a list of items.
type itemsToken struct {
	Dataset string `json:"d"`
	After   int64  `json:"a"`
	Query   string `json:"q,omitempty"`
	Limit   int    `json:"n"`
	// Total is how many items match Query, as the first page counted them.
	Total *int64 `json:"t,omitempty"`
}

func (t itemsToken) String() string {
	b, err := json.Marshal(t)
	if err != nil {
		panic("BUG: api: items token: " + err.Error())
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseItemsToken(dataset, s string) (itemsToken, error) {
	var t itemsToken
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.DisallowUnknownFields()
		err = dec.Decode(&t)
	}
	if err != nil || t.Dataset != dataset || t.Limit < 1 || t.Total != nil && *t.Total < 0 {
		return t, plat.InvalidField("next_page_token", "is not a token of this dataset's list; begin again without it")
	}
	return t, nil
}

const itemsBody = 64 << 20 // 500 items with large attributes

func (a *API) addDatasets() {
	const base = "/organizations/{organization_id}/datasets"
	const one, items = base + "/{dataset_id}", base + "/{dataset_id}/items"
	op := func(id, method, path, summary string, row authz.Op) operation {
		return operation{ID: id, Method: method, Path: path, Summary: summary, Tag: "dataset", Family: familyDataset, Op: row, MaxBody: itemsBody}
	}

	type createIn struct {
		OrgPath
		Body *NewDataset
	}
	register(a, op("create-dataset", http.MethodPost, base, "Create a dataset", authz.DatasetCreate), func(ctx context.Context, in *createIn) (*Dataset, error) {
		if in.Body == nil {
			return nil, plat.InvalidField("name", "name, type and props are required")
		}
		d, err := a.Datasets.Create(ctx, caller(ctx).Org, in.Body.Name, in.Body.Type, json.RawMessage(in.Body.Props))
		touched(ctx, "dataset_id", string(d.ID))
		return datasetAnswer(d, err)
	})

	type listIn struct {
		OrgPath
		MaxResults string `query:"max_results" doc:"default all"`
		NextToken  string `query:"next_token" doc:"the last dataset_id seen"`
	}
	register(a, op("list-datasets", http.MethodGet, base, "List datasets", authz.DatasetRead), func(ctx context.Context, in *listIn) (*[]Dataset, error) {
		limit, err := a.pageSize("max_results", in.MaxResults, 0)
		if err != nil {
			return nil, err
		}
		all, err := a.Datasets.List(ctx, caller(ctx).Org, plat.DatasetID(in.NextToken), limit)
		if err != nil {
			return nil, err
		}
		out := make([]Dataset, len(all))
		for i, d := range all {
			out[i] = datasetWire(d)
		}
		return &out, nil
	})

	register(a, op("get-dataset", http.MethodGet, one, "Get a dataset", authz.DatasetRead), func(ctx context.Context, in *DatasetPath) (*Dataset, error) {
		return datasetAnswer(a.Datasets.Get(ctx, caller(ctx).Org, in.id()))
	})
	register(a, op("delete-dataset", http.MethodDelete, one, "Delete a dataset with its items", authz.DatasetDelete), func(ctx context.Context, in *DatasetPath) (*Dataset, error) {
		return datasetAnswer(a.Datasets.Delete(ctx, caller(ctx).Org, in.id()))
	})

	type itemsIn struct {
		DatasetPath
		Body *compat.Any `doc:"an item, or an array of up to 500"`
	}
	register(a, op("create-dataset-items", http.MethodPost, items, "Add an item, or an array of items: all or none", authz.DatasetUpdate), func(ctx context.Context, in *itemsIn) (*OneOrMany, error) {
		var list []dataset.NewItem
		many, err := oneOrMany(in.Body, &list)
		if err != nil {
			return nil, err
		}
		made, err := a.Datasets.AddItems(ctx, caller(ctx).Org, in.id(), list)
		if err != nil {
			return nil, err
		}
		touchedItems(ctx, made)
		return &OneOrMany{items: itemsWire(made), many: many}, nil
	})
	register(a, op("update-dataset-items", http.MethodPut, items, "Replace the attributes of many items: all or none", authz.DatasetUpdate), func(ctx context.Context, in *itemsIn) (*[]DatasetItem, error) {
		var list []dataset.ItemChange
		if many, err := oneOrMany(in.Body, &list); err != nil || !many {
			return nil, plat.InvalidField("body", "must be an array of objects with dataset_item_id and attributes")
		}
		changed, err := a.Datasets.UpdateItems(ctx, caller(ctx).Org, in.id(), list)
		touchedItems(ctx, changed)
		out := itemsWire(changed)
		return &out, err
	})

	type listItemsIn struct {
		DatasetPath
		Limit       string `query:"limit" doc:"1 to 1000, default 100"`
		PageToken   string `query:"next_page_token"`
		Q           string `query:"q" doc:"search, for example label_id:1 AND tag:A"`
		Query       string `query:"query" doc:"the same as q"`
		PrecedingID string `query:"preceding_id" doc:"items with a greater id (older clients)"`
	}
	register(a, op("list-dataset-items", http.MethodGet, items, "List or search a dataset's items", authz.DatasetRead), func(ctx context.Context, in *listItemsIn) (*ItemsAnswer, error) {
		t := itemsToken{Dataset: in.Dataset, Query: cmp.Or(in.Q, in.Query), Limit: 100}
		var err error
		switch {
		case in.PageToken != "":
			if t, err = parseItemsToken(in.Dataset, in.PageToken); err != nil {
				return nil, err
			}
		case in.PrecedingID != "":
			if t.After, err = strconv.ParseInt(in.PrecedingID, 10, 64); err != nil {
				return nil, plat.InvalidField("preceding_id", "%q is not an item id", in.PrecedingID)
			}
		}
		// Known clients send the limit again beside the token.
		if t.Limit, err = a.pageSize("limit", in.Limit, min(t.Limit, a.Limits.Page)); err != nil {
			return nil, err
		}
		q, err := query.Parse(t.Query)
		if err != nil {
			return nil, err
		}
		total := int64(dataset.Unknown)
		if t.Total != nil {
			total = *t.Total
		}
		page, err := a.Datasets.Items(ctx, caller(ctx).Org, in.id(), q, t.After, t.Limit, total)
		if err != nil {
			return nil, err
		}
		out := &ItemsAnswer{Items: itemsWire(page.Items), TotalCount: page.Total}
		if n := len(page.Items); n > 0 {
			t.After = page.Items[n-1].ID
			if q != nil {
				t.Total = &page.Total
			}
			next := t.String()
			out.NextPageToken = &next
		}
		return out, nil
	})

	register(a, op("get-dataset-item", http.MethodGet, items+"/{dataset_item_id}", "Get an item", authz.DatasetRead), func(ctx context.Context, in *ItemPath) (*DatasetItem, error) {
		n, err := in.item()
		if err != nil {
			return nil, err
		}
		return itemAnswer(a.Datasets.Item(ctx, caller(ctx).Org, in.id(), n))
	})
	type itemIn struct {
		ItemPath
		Body *NewAttributes
	}
	register(a, op("update-dataset-item", http.MethodPut, items+"/{dataset_item_id}", "Replace an item's attributes", authz.DatasetUpdate), func(ctx context.Context, in *itemIn) (*DatasetItem, error) {
		n, err := in.item()
		if err != nil {
			return nil, err
		}
		if in.Body == nil || len(in.Body.Attributes) == 0 {
			return nil, plat.InvalidField("attributes", "is required")
		}
		return itemAnswer(a.Datasets.UpdateItem(ctx, caller(ctx).Org, in.id(), n, json.RawMessage(in.Body.Attributes)))
	})
	register(a, op("delete-dataset-item", http.MethodDelete, items+"/{dataset_item_id}", "Delete an item", authz.DatasetUpdate), func(ctx context.Context, in *ItemPath) (*DatasetItem, error) {
		n, err := in.item()
		if err != nil {
			return nil, err
		}
		return itemAnswer(a.Datasets.DeleteItem(ctx, caller(ctx).Org, in.id(), n))
	})
}

func touchedItems(ctx context.Context, items []dataset.Item) {
	switch len(items) {
	case 0:
	case 1:
		touched(ctx, "dataset_item_id", strconv.FormatInt(items[0].ID, 10))
	default:
		touched(ctx, "items", strconv.Itoa(len(items)))
	}
}

// oneOrMany decodes an object or an array of objects into list, and tells whether
// it was an array.
func oneOrMany[T any](raw *compat.Any, list *[]T) (many bool, err error) {
	bad := plat.InvalidField("body", "must be an object, or an array of objects")
	if raw == nil {
		return false, bad
	}
	text := bytes.TrimSpace(*raw)
	switch {
	case bytes.HasPrefix(text, []byte("[")):
		var each []*T
		if json.Unmarshal(text, &each) != nil {
			return true, bad
		}
		for _, e := range each {
			if e == nil {
				return true, bad
			}
			*list = append(*list, *e)
		}
		return true, nil
	case bytes.HasPrefix(text, []byte("{")):
		var one T
		if json.Unmarshal(text, &one) != nil {
			return false, bad
		}
		*list = []T{one}
		return false, nil
	}
	return false, bad
}
