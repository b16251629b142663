// SPDX-License-Identifier: Apache-2.0

// Package front is an HTTP/1.1 server that reads ordinary requests by a loop of its own
// and leaves everything else to net/http, on the same connection.
//
// What is ordinary is a narrow subset, on which no two readers can disagree: a whole
// request line in origin form, CRLF at each line's end, plain fields, one Host, at most
// one Content-Length, a short body, no coding, no trailer, no upgrade, no expectation
// (parse). The loop refuses nothing: the first request that is not ordinary gives the
// connection to net/http for good, with the bytes that were read. So the rules on
// hostile, rare and broken requests are net/http's alone, and FuzzParse holds that what
// the loop does take is read as net/http reads it.
//
// What that saves: net/http starts a goroutine per request that reads on in case the
// caller leaves, moves the connection's deadline four times, and has a buffer and some
// twenty objects for each. Here one goroutine serves a connection, deadlines move
// when they must, and callers who have left are found by looking at the sockets of those
// calls that take long.
//
// It is for handlers that end with their call: that keep neither request nor writer, read
// the body and set deadlines in the goroutine that called them, and do not hijack.
package front
