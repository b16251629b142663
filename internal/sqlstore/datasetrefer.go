// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"encoding/json"
	"strings"

	"panal/internal/plat"
)

// AnySource implements dataset.Store. It reads the dataset from its beginning, a
// thousand hits of the text at a time.
func (s *Datasets) AnySource(ctx context.Context, d plat.DatasetID, part string, match func(json.RawMessage) bool) (bool, error) {
	like := "%" + strings.NewReplacer(`\`, `\\`, "%", `\%`, "_", `\_`).Replace(part) + "%"
	for after := int64(-1); ; {
		const page = 1000
		items, err := scanAll(ctx, s.db, s.db.Read(), scanItem,
			`SELECT `+itemColumns+` FROM dataset_item WHERE dataset_id = $1 AND id > $2 AND source_data LIKE $3 ESCAPE '\' ORDER BY id LIMIT $4`,
			string(d), after, like, page)
		if err != nil {
			return false, err
		}
		for _, it := range items {
			if after = it.ID; match(it.SourceData) {
				return true, nil
			}
		}
		if len(items) < page {
			return false, nil
		}
	}
}
