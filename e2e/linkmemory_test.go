// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"panal/internal/client"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/postgres"
	"panal/internal/sqlstore/sqlite"
	"panal/internal/sqlstore/sqlstoretest"
)

// TestLinkMemory: whatever waits in a feed, working it off takes a bounded memory: 40,000 events
// (PANAL_LINK_BACKLOG=200000: as many), and messages of a megabyte that name thousands of objects each.
// SQLite's own caches are in it.
func TestLinkMemory(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		linkMemory(t, func(p *platform) (*sqlstore.DB, error) {
			return sqlite.Open(t.Context(), filepath.Join(p.data, "lake.db"), "outbox", "lake")
		})
	})
	t.Run("postgres", func(t *testing.T) {
		dsn := sqlstoretest.PostgresURL(t)
		linkMemory(t, func(*platform) (*sqlstore.DB, error) { return postgres.Open(t.Context(), dsn, 2, "outbox", "lake") }, "--database", dsn)
	})
}

func linkMemory(t *testing.T, open func(*platform) (*sqlstore.DB, error), engine ...string) {
	messages := 40_000
	if n, err := strconv.Atoi(os.Getenv("PANAL_LINK_BACKLOG")); err == nil {
		messages = n
	}
	const large, keys = 60, 3000
	const limit = int64(200 << 20)
	_, endpoint, bucket := ownBucket(t)
	p := startPlatform(t, append(engine, "--link-endpoint", endpoint)...)
	c, err := p.api.CreateChannel(t.Context(), "linked", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.api.LinkChannel(t.Context(), c.ID, client.NewLink{
		Endpoint: endpoint, Bucket: bucket, Feed: "webhook", AccessKey: os.Getenv("PANAL_S3_ACCESS_KEY"), SecretKey: os.Getenv("PANAL_S3_SECRET_KEY"),
	}); err != nil {
		t.Fatal(err)
	}
	p.kill()

	// Posting them would take longer than everything else.
	db, err := open(p)
	if err != nil {
		t.Fatal(err)
	}
	record := func(key int, sequencer int) string {
		return fmt.Sprintf(`{"eventVersion":"2.1","eventSource":"aws:s3","awsRegion":"us-east-1","eventTime":"2026-11-26T00:00:00.000Z","eventName":"ObjectCreated:Put",`+
			`"userIdentity":{"principalId":"x"},"requestParameters":{"sourceIPAddress":"127.0.0.1"},"responseElements":{"x-amz-request-id":"%016X"},`+
			`"s3":{"s3SchemaVersion":"1.0","bucket":{"name":"%s","arn":"arn:aws:s3:::%s"},"object":{"key":"in/object+%d","size":1,"sequencer":"%016X"}}}`,
			sequencer, bucket, bucket, key, sequencer)
	}
	push := func(body string, times int) {
		if err := db.Write(t.Context(), func(tx *sqlstore.Tx) error {
			for range times {
				if _, err := tx.ExecContext(t.Context(),
					`INSERT INTO feed_message (channel, body, sent, until, receipts) SELECT num, $2, 1, 0, 0 FROM channel WHERE id = $1`, c.ID, []byte(body)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range messages / 200 { // runs of a key, as a busy writer makes them
		push(`{"Records":[`+record(i%keys, i)+`]}`, 200)
	}
	for i := range large {
		var b strings.Builder
		b.WriteString(`{"Records":[` + record(i, messages+i*keys))
		for k := 1; b.Len() < 1000<<10; k++ {
			b.WriteString("," + record((i+k)%keys, messages+i*keys+k))
		}
		push(b.String()+"]}", 1)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	begun := time.Now()
	p.start()
	var l client.Link
	p.until("the end of the backlog", 8*time.Minute, func() bool {
		l, err = p.api.Link(t.Context(), c.ID)
		return err == nil && l.Waiting == 0
	})
	peak, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var kb int64
	_, rest, _ := strings.Cut(string(peak), "VmHWM:")
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d messages and %d of a megabyte in %.0f s; peak RSS %d MB", messages, large, time.Since(begun).Seconds(), kb>>10)
	if kb<<10 > limit {
		t.Errorf("peak RSS %d MB, limit %d MB", kb>>10, limit>>20)
	}
	if l.Dead != 0 {
		t.Errorf("%d dead letters", l.Dead)
	}
}
