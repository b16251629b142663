// SPDX-License-Identifier: Apache-2.0

package memblob_test

import (
	"testing"

	"panal/internal/blob"
	"panal/internal/blob/blobtest"
	"panal/internal/blob/memblob"
)

func harness() blobtest.Harness {
	return blobtest.Harness{
		New: func(testing.TB) blob.Driver { return memblob.New() },
		Caps: blobtest.Caps{
			BuffersBody: true,
			NeverFull:   true,
		},
	}
}

func TestContract(t *testing.T) { blobtest.Run(t, harness()) }

func BenchmarkContract(b *testing.B) { blobtest.Bench(b, harness()) }
