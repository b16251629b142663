// SPDX-License-Identifier: Apache-2.0

package dataset_test

import (
	"context"
	"fmt"
	"testing"

	"panal/internal/dataset"
	"panal/internal/lake/query"
	"panal/internal/plat"
)

// counted is a dataset of n items, every tenth with the tag A, that counts what is read.
type counted struct {
	dataset.Store
	n, read int
}

func (c *counted) Dataset(context.Context, plat.OrgID, plat.DatasetID) (dataset.Dataset, error) {
	return dataset.Dataset{Items: int64(c.n)}, nil
}

func (c *counted) Items(_ context.Context, _ plat.DatasetID, after int64, limit int) ([]dataset.Item, error) {
	var out []dataset.Item
	for id := after + 1; id <= int64(c.n) && len(out) < limit; id++ {
		out = append(out, dataset.Item{ID: id, Attributes: fmt.Appendf(nil, `{"tag":"%c"}`, 'A'+rune(id%10))})
	}
	c.read += len(out)
	return out, nil
}

// TestSearchReadsOn: the pages of a search read the dataset about twice in all, however
// many they are, and find what one page finds.
func TestSearchReadsOn(t *testing.T) {
	c := &counted{n: 30_000}
	s := dataset.NewService(c, plat.SystemClock)
	q, err := query.Parse("tag:A")
	if err != nil {
		t.Fatal(err)
	}
	found, after, total := 0, int64(0), int64(dataset.Unknown)
	for {
		page, err := s.Items(t.Context(), "1", "2", q, after, 100, total)
		if err != nil {
			t.Fatal(err)
		}
		if page.Total != 3000 {
			t.Fatalf("total %d", page.Total)
		}
		if len(page.Items) == 0 {
			break
		}
		for _, it := range page.Items {
			if it.ID%10 != 0 || it.ID <= after {
				t.Fatalf("item %d after %d", it.ID, after)
			}
			after = it.ID
		}
		found, total = found+len(page.Items), page.Total
	}
	if found != 3000 || c.read > 3*c.n {
		t.Errorf("%d found, %d items read of %d", found, c.read, c.n)
	}
}
