// SPDX-License-Identifier: Apache-2.0

// Package dataplane is the data path of the inference gateway: it takes a call
// that was authenticated and authorised, chooses a ready instance and streams
// the call through it. It sees neither control, nor records, nor the API; whoever
// knows the routes pushes them into a Table, whoever has a call hands it to
// Proxy.ServeCall.
//
// Invariants.
//   - A lookup takes no lock and allocates nothing. A change is visible to every
//     lookup that starts after Apply or Replace returned, and a reader sees a
//     deployment wholly before or wholly after it.
//   - The live state of an instance (calls under way, kept connections) belongs to
//     the instance, not to a snapshot: it survives every change that keeps the
//     instance. One that leaves gets no new call; Drained returns once its last
//     call has ended.
//   - An instance never has more calls under way than its limit; what does not fit
//     waits, bounded in number, bytes and time.
//   - A call is sent to a second instance only when the first cannot have acted on
//     it, or when repeating it is safe (GET and HEAD).
//   - Nothing that identifies or authorises the caller towards the platform reaches
//     user code, and no message framing is ever copied from one side to the other.
//   - Memory per call is constant; streams are bounded by idle progress, never by
//     total time. No goroutine outlives the call that started it.
package dataplane
