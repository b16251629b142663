// SPDX-License-Identifier: Apache-2.0

// An HTTP server as a model service: it listens on $PORT of 127.0.0.1 and is told
// nothing else. Panal's gateway authenticates and balances in front of it.
//
//	eval "$(panal env)" # where the server runs; --data DIR names its data directory
//	CGO_ENABLED=0 go build -o server .
//	panal deployment create words # its ID is the one of the URL below
//	panal deployment version create words . --label 1 --command 'exec ./server' --health /healthz
//	panal service create words 1 --wait # its ID is for the next line
//	panal endpoint create words ser-…
//	curl -H "Authorization: Bearer $ABEJA_PLATFORM_PERSONAL_ACCESS_TOKEN" \
//	    "$ABEJA_API_URL/deployments/ID/default/count" -d 'to be or not to be'
//
// Paths: POST /count answers with the words of the body, counted; GET /ticks?n=3
// streams events; GET /chat is a WebSocket that counts the words of each message;
// GET /slow?ms=500 takes its time; anything else tells what was asked.
package main

import (
	"bufio"
	"context"
	"crypto/sha1" //nolint:gosec // RFC 6455 says so
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("POST /count", func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		answer(w, count(string(text)))
	})
	mux.HandleFunc("GET /ticks", ticks)
	mux.HandleFunc("GET /chat", chat)
	mux.HandleFunc("GET /slow", func(w http.ResponseWriter, r *http.Request) {
		ms, _ := strconv.Atoi(r.URL.Query().Get("ms"))
		time.Sleep(time.Duration(ms) * time.Millisecond)
		answer(w, os.Getpid())
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		_, authorized := r.Header["Authorization"]
		answer(w, map[string]any{"method": r.Method, "path": r.URL.EscapedPath(), "query": r.URL.RawQuery, "authorization": authorized})
	})
	srv := &http.Server{Addr: "127.0.0.1:" + os.Getenv("PORT"), Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		limit, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_ = srv.Shutdown(limit)
	}()
	log.Printf("listening on %s", srv.Addr)
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func count(text string) map[string]int {
	words := map[string]int{}
	for w := range strings.FieldsSeq(text) {
		words[w]++
	}
	return words
}

// ticks streams server-sent events.
func ticks(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.URL.Query().Get("n"))
	if err != nil {
		n = 3
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for i := range n {
		fmt.Fprintf(w, "data: %d\n\n", i)
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// chat is a WebSocket (RFC 6455) without a library: short text messages only.
func chat(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		http.Error(w, "this is a WebSocket", http.StatusUpgradeRequired)
		return
	}
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // RFC 6455
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	fmt.Fprintf(buf, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	if buf.Flush() != nil {
		return
	}
	for {
		op, text, err := readFrame(buf.Reader)
		switch {
		case err != nil:
			return
		case op == 8: // close: echo it
			_ = writeFrame(conn, 8, text)
			return
		case op == 1:
			reply, err := json.Marshal(count(string(text)))
			if err != nil || writeFrame(conn, 1, reply) != nil {
				return
			}
		}
	}
}

func readFrame(r *bufio.Reader) (op byte, text []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := uint64(head[1] & 0x7f)
	switch n {
	case 126:
		var long [2]byte
		_, err = io.ReadFull(r, long[:])
		n = uint64(binary.BigEndian.Uint16(long[:]))
	case 127:
		err = errors.New("the message is too long")
	}
	var mask [4]byte
	if err == nil && head[1]&0x80 != 0 {
		_, err = io.ReadFull(r, mask[:])
	}
	if err != nil {
		return 0, nil, err
	}
	text = make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return 0, nil, err
	}
	for i := range text {
		text[i] ^= mask[i%4]
	}
	return head[0] & 0x0f, text, nil
}

func writeFrame(c net.Conn, op byte, text []byte) error {
	frame := []byte{0x80 | op}
	if len(text) < 126 {
		frame = append(frame, byte(len(text)))
	} else {
		frame = binary.BigEndian.AppendUint16(append(frame, 126), uint16(len(text)))
	}
	_, err := c.Write(append(frame, text...))
	return err
}
