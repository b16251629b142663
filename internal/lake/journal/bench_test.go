// SPDX-License-Identifier: Apache-2.0

package journal_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"panal/internal/blob"
	"panal/internal/blob/dirblob"
	"panal/internal/lake"
	"panal/internal/lake/journal"
	"panal/internal/plat"
)

// BenchmarkAppend is what a commit pays for the journal: entries of 64 callers at once
// on a directory store, made durable.
func BenchmarkAppend(b *testing.B) {
	d, err := dirblob.Open(b.Context(), b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	j := journal.New(blob.New(d), plat.SystemClock)
	e := journal.Entry{
		Org: org, Channel: "2290000000456", File: plat.NewFileID(plat.SystemClock()), At: plat.SystemClock().UnixMicro(), Size: 4096,
		ETag: fmt.Sprintf("%032d", 7), ContentType: "image/jpeg", Metadata: lake.Metadata{"filename": "a.jpg", "label": "cat", "split": "train"},
	}
	b.ReportAllocs()
	var wg sync.WaitGroup
	next := make(chan struct{})
	for range 64 {
		wg.Go(func() {
			for range next {
				if err := j.Append(context.Background(), e); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for b.Loop() {
		next <- struct{}{}
	}
	close(next)
	wg.Wait()
}
