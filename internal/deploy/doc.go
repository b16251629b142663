// SPDX-License-Identifier: Apache-2.0

// Package deploy holds what answers requests: deployments, their code versions,
// services (running instances of one version) and endpoints (stable aliases in
// front of services); compute.md §5–7. It has the nouns, their defaults and rules,
// the state machine of a service, and the store that keeps them. What makes a
// service run is control/service; what carries requests is dataplane.
//
// Invariants: a service changes its status only along Transitions, and each
// change is an event in the transaction of the change; an endpoint answers from
// exactly one service at any time, and a switch to one that is still starting
// takes effect in the transaction that makes it READY, or never; a switch is
// routed before its caller gets the answer; an instance is recorded before it is
// started and until nothing of it is left.
package deploy
