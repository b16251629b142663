// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
)

// wayOut is a proxy on the workload's own loopback, for programs that have no
// other way out: pip, and the command itself, where they heed the usual variables
// (http_proxy, …).
type wayOut struct {
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	forward *httputil.ReverseProxy
}

// openWayOut starts the proxy when the workload has a network of its own, and adds
// it to the environment of user code. The returned function ends it.
func (a *agent) openWayOut() (func(), error) {
	if a.cfg.dial == nil {
		return func() {}, nil
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not block
	if err != nil {
		return nil, err
	}
	var local net.Dialer
	w := &wayOut{dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		// What listens in here comes first: nothing else knows of it.
		if host, _, err := net.SplitHostPort(address); err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback()) {
			if c, err := local.DialContext(ctx, network, address); err == nil {
				return c, nil
			}
		}
		return a.cfg.dial.DialContext(ctx, network, address)
	}}
	tr := &http.Transport{DialContext: w.dial, DisableCompression: true}
	w.forward = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.RawQuery = r.In.URL.RawQuery }, Transport: tr, FlushInterval: -1,
		ErrorLog: log.New(io.Discard, "", 0),
	}
	end := serveHTTP(ln, w, func(err error) { a.sink.say("error", "proxy: %v", err) })
	proxy := "http://" + ln.Addr().String()
	for _, name := range []string{"http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"} {
		if !slices.ContainsFunc(a.cfg.environ, func(kv string) bool { return strings.HasPrefix(kv, name+"=") }) {
			a.cfg.environ = append(a.cfg.environ, name+"="+proxy)
		}
	}
	return func() {
		end(0)
		tr.CloseIdleConnections()
	}, nil
}

func (p *wayOut) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodConnect:
		p.tunnel(w, r)
	case r.URL.IsAbs() && r.URL.Scheme == "http":
		p.forward.ServeHTTP(w, r)
	default:
		writeJSON(w, http.StatusBadRequest, statusBody("this is a proxy"))
	}
}

func (p *wayOut) tunnel(w http.ResponseWriter, r *http.Request) {
	out, err := p.dial(r.Context(), "tcp", r.Host)
	if err != nil {
		writeJSON(w, http.StatusBadGateway, statusBody(err.Error()))
		return
	}
	defer func() { _ = out.Close() }()
	in, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = in.Close() }()
	if _, err := io.WriteString(in, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { splice(out, buf) })
	both.Go(func() { splice(in, out) })
	both.Wait()
}

// splice copies to the end of src and says so to dst; when it can't, it ends both.
func splice(dst net.Conn, src io.Reader) {
	_, err := io.Copy(dst, src)
	if half, ok := dst.(interface{ CloseWrite() error }); err == nil && ok {
		err = half.CloseWrite()
	} else if err == nil {
		err = errors.ErrUnsupported
	}
	if err != nil {
		_ = dst.Close()
		if c, ok := src.(io.Closer); ok {
			_ = c.Close()
		}
	}
}
