// SPDX-License-Identifier: Apache-2.0

package etag

import (
	"crypto/md5" //nolint:gosec // see etag.go
	"hash"
	"runtime"
	"sync"

	md5simd "github.com/minio/md5-simd"
)

// lanesFrom is how many streams, beside those in pairs, there must be at once before vector lanes
// hash one for less CPU than it takes alone: they have 0.8 times the speed with one stream, 1.5
// with four and 3 with sixteen (AVX-512, BenchmarkStreams).
const lanesFrom = 4

// laneCount is how many streams a round of a server can take.
const laneCount = 16

// lanes hash many streams at once on the CPU's vector units. Each server is a
// goroutine that does a round for all its streams that have bytes; it is never ended, and
// neither are the hashes, which serve one stream after another: the library forgets
// no hash that was closed (v1.1.2).
var lanes struct { //nolint:gochecknoglobals // as the CPU's units are
	mu      sync.Mutex
	streams int
	servers []md5simd.Server
	free    [][]md5simd.Hasher // by server: the first are filled first
}

// begin enters a stream.
func begin() {
	lanes.mu.Lock()
	defer lanes.mu.Unlock()
	lanes.streams++
}

// end takes a stream out.
func end() {
	lanes.mu.Lock()
	defer lanes.mu.Unlock()
	lanes.streams--
}

// take returns a hash for a part of a stream, and the server that it is to be given
// back to, or -1.
func take() (hash.Hash, int) {
	lanes.mu.Lock()
	defer lanes.mu.Unlock()
	if lanes.streams-(maxPairs-len(places)) < lanesFrom {
		return md5.New(), -1 //nolint:gosec // see etag.go
	}
	if lanes.servers == nil {
		n := (runtime.GOMAXPROCS(0) + 1) / 2
		lanes.servers = make([]md5simd.Server, n)
		lanes.free = make([][]md5simd.Hasher, n)
	}
	for i, s := range lanes.servers {
		if s == nil {
			s = md5simd.NewServer()
			lanes.servers[i] = s
			for range laneCount {
				lanes.free[i] = append(lanes.free[i], s.NewHash())
			}
		}
		if last := len(lanes.free[i]) - 1; last >= 0 {
			h := lanes.free[i][last]
			lanes.free[i] = lanes.free[i][:last]
			return h, i
		}
	}
	return md5.New(), -1 //nolint:gosec // see etag.go
}

// give gives a hash back to its server.
func give(h hash.Hash, server int) {
	if server < 0 {
		return
	}
	h.Reset()
	lanes.mu.Lock()
	defer lanes.mu.Unlock()
	lane, ok := h.(md5simd.Hasher)
	if !ok {
		panic("BUG: not one of the lanes")
	}
	lanes.free[server] = append(lanes.free[server], lane)
}
