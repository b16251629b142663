// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"panal/internal/audit"
	"panal/internal/audit/audittest"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/postgres"
	"panal/internal/sqlstore/sqlite"
	"panal/internal/sqlstore/sqlstoretest"
)

func TestAudit(t *testing.T) {
	for engine, open := range map[string]func(*testing.T) *sqlstore.DB{"sqlite": sqlstoretest.SQLite, "postgres": sqlstoretest.Postgres} {
		t.Run(engine, func(t *testing.T) {
			audittest.Run(t, func(t *testing.T) audit.Store { return sqlstore.NewAudit(open(t)) })
		})
	}
}

// BenchmarkAuditRecord is what the audit costs each call: 16 callers, as many as
// upload at once. CPU is this process's own.
func BenchmarkAuditRecord(b *testing.B) {
	for _, engine := range []string{"sqlite", "postgres"} {
		b.Run(engine, func(b *testing.B) {
			var db *sqlstore.DB
			var err error
			if engine == "sqlite" {
				db, err = sqlite.Open(b.Context(), b.TempDir()+"/bench.db", "outbox", "control")
			} else {
				db, err = postgres.Open(b.Context(), sqlstoretest.PostgresURL(b), 8, "outbox", "control")
			}
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = db.Close() }()
			svc := audit.New(audit.Config{Store: sqlstore.NewAudit(db)})
			var n atomic.Int64
			b.SetParallelism(16)
			before := cpu(b)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					svc.Record(b.Context(), audit.Row{
						Org: "1580000000123", Time: time.Now(), ID: plat.NewUUID(), Actor: "user", ActorID: "1122334455667", Operation: "upload-file",
						Method: "POST", Path: "/channels/2290000000456/upload", Targets: map[string]string{"channel_id": fmt.Sprint(n.Add(1))}, Status: 200, Source: "192.0.2.7",
					})
				}
			})
			b.StopTimer()
			b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
