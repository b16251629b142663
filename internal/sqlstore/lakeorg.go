// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"

	"panal/internal/lake"
	"panal/internal/plat"
)

// OrgUsage implements lake.Store.
func (s *Lake) OrgUsage(ctx context.Context, org plat.OrgID) (lake.Usage, error) {
	var u lake.Usage
	err := s.db.Read().QueryRowContext(ctx,
		`SELECT CAST(COALESCE(SUM(d.files), 0) AS BIGINT), CAST(COALESCE(SUM(d.bytes), 0) AS BIGINT)
		 FROM channel c JOIN file_delta d ON d.channel = c.num WHERE c.org_id = $1
		 AND NOT EXISTS (SELECT 1 FROM link l WHERE l.channel = c.num)`, string(org)).Scan(&u.Files, &u.Bytes)
	return u, s.db.translate(err)
}
