// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"panal/internal/dataplane"
	"panal/internal/plat"
)

func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			var before, after runtime.MemStats
			s := many(n)
			runtime.GC()
			runtime.ReadMemStats(&before)
			table := dataplane.NewTable()
			table.Replace(s)
			runtime.GC()
			runtime.ReadMemStats(&after)
			targets := make([]dataplane.Target, 1024)
			for i := range targets {
				targets[i] = dataplane.Target{Org: org, Deployment: s.Deployments[(i*7919)%n].ID}
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				if _, err := table.Lookup(targets[i&1023]); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "B/service")
			runtime.KeepAlive(table)
			runtime.KeepAlive(s)
		})
	}
}

func BenchmarkChange(b *testing.B) {
	const n = 100_000
	s := many(n)
	table := dataplane.NewTable()
	table.Replace(s)
	b.Run("Apply", func(b *testing.B) {
		v := uint64(2)
		for b.Loop() {
			v++
			table.Apply(dataplane.Delta{Version: v, Deployment: s.Deployments[v%n]})
		}
	})
	b.Run("Replace/unchanged", func(b *testing.B) {
		v := uint64(1 << 40)
		for b.Loop() {
			v++
			s.Version = v
			table.Replace(s)
		}
	})
	b.Run("Replace/changed", func(b *testing.B) {
		v := uint64(1 << 41)
		for b.Loop() {
			v++
			s.Version = v
			for i := range s.Deployments {
				s.Deployments[i].Services[0].Idle = time.Duration(v)
			}
			table.Replace(s)
		}
	})
}

const answer200 = 200 // bytes of the answer that is measured

// BenchmarkCall measures a POST of 100 bytes with an answer of 200, keep-alive on
// both sides, client and instance being bare sockets that send canned bytes.
// "floor" is net/http answering by itself: harness and front, no proxy. The
// proxy's own cost is cpu-us/op minus the floor's.
func BenchmarkCall(b *testing.B) {
	inst := cannedInstance(b)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, inst.Network, inst.Address)
	}
	b.Run("floor", func(b *testing.B) {
		body := []byte(strings.Repeat("a", answer200))
		benchFront(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = w.Write(body)
		}))
	})
	b.Run("reverseproxy", func(b *testing.B) {
		tr := &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 64, DisableCompression: true}
		b.Cleanup(tr.CloseIdleConnections)
		target, err := url.Parse("http://instance")
		if err != nil {
			b.Fatal(err)
		}
		benchFront(b, &httputil.ReverseProxy{
			Transport: tr, FlushInterval: -1, BufferPool: &bufferPool{},
			Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Header.Del("Authorization") },
		})
	})
	b.Run("panal", func(b *testing.B) {
		table := dataplane.NewTable()
		table.Apply(dataplane.Delta{Version: 1, Deployment: routes(svA, serviceOf(svA, inst))})
		b.Cleanup(func() { table.Replace(dataplane.Snapshot{Version: 2}) })
		p := dataplane.NewProxy(table, dataplane.Options{})
		benchFront(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p.ServeCall(w, r, dataplane.Call{
				Target: dataplane.Target{Org: org, Deployment: dep}, User: "1650000000031", RequestID: "5c8f9b9e-0f5a-4f1e-8f55-1d2f3a4b5c6d",
			})
		}))
	})
}

// bufferPool spares the standard proxy its 32 KiB per call.
type bufferPool struct{ p sync.Pool }

func (b *bufferPool) Get() []byte {
	if p, ok := b.p.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 32<<10)
}
func (b *bufferPool) Put(p []byte) { b.p.Put(&p) }

// cannedInstance answers every request of its one size with the same bytes.
func cannedInstance(b *testing.B) dataplane.Instance {
	l := listen(b)
	reply := []byte(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", answer200, strings.Repeat("a", answer200)))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 4096)
				tail := 0 // of the body, "z" each
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					tail += strings.Count(string(buf[:n]), "z")
					if tail >= 100 {
						tail = 0
						if _, err := c.Write(reply); err != nil {
							return
						}
					}
				}
			}()
		}
	}()
	b.Cleanup(func() { _ = l.Close(); <-done })
	return dataplane.Instance{ID: plat.WorkloadID("wl-bench"), Network: "unix", Address: l.Addr().String(), Limit: 64}
}

// benchFront sends b.N calls over two connections through h.
func benchFront(b *testing.B, h http.Handler) {
	s := httptest.NewServer(h)
	defer s.Close()
	request := []byte("POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer 0123456789\r\nUser-Agent: bench\r\nAccept: */*\r\n" +
		"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n" + strings.Repeat("z", 100))
	b.SetParallelism(1)
	cpu := cpuTime(b)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		c, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		br := bufio.NewReader(c)
		for pb.Next() {
			if _, err := c.Write(request); err != nil {
				b.Error(err)
				return
			}
			for { // the head, then the body
				line, err := br.ReadSlice('\n')
				if err != nil {
					b.Error(err)
					return
				}
				if len(line) == 2 {
					break
				}
			}
			if _, err := br.Discard(answer200); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64((cpuTime(b)-cpu).Nanoseconds())/1e3/float64(b.N), "cpu-us/op")
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
