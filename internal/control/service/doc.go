// SPDX-License-Identifier: Apache-2.0

// Package service makes services run: a level-triggered reconciler compares the
// records with the runner's view and takes the next step of each service, and a
// registry keeps the gateway's routes as the records and the instances are.
// Imported by app only.
//
// Invariants. Every step is idempotent and ordered such that the server may be
// killed between any two: an instance is recorded before it is started and until
// its log lines are stored and its workload is removed. A request is only routed
// to an instance that is meant to be up and answers its health check; one that
// exits leaves the routes before anything else happens to it, without asking the
// database. Capacity is kept while a new generation replaces an old one. No
// instance is told to end while a request is under way on it, up to a limit.
//
// The instance count follows the load between minimum and maximum (scale.go,
// docs/adr/0021-autoscaling.md), or is instance_number without autoscale.
package service
