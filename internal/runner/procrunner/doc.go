// SPDX-License-Identifier: Apache-2.0

// Package procrunner runs workloads as processes of this machine.
//
// Each workload has a directory RUN/<id>: spec.json, stop.json, end.json and
// agent.log belong to the server (0600); s/ (0700) holds the two sockets, whose
// listeners the agent inherits; work/ (0700) belongs to the workload.
//
// A workload is started in two stages. The server starts itself again as
// "agent-init" in new namespaces; that stage waits for its plan. The server puts
// it into its cgroup, records pid and start time durably, and only then sends the
// plan; the stage builds the walls, gives up every right and becomes the agent by
// exec. So a process that ever ran user code is always on record, and one that is
// on record is found again by pid, start time and boot id.
//
// Invariants.
//   - As root: one uid per workload, not used again before Remove; the agent is
//     pid 1 of its own pid namespace, so the kernel ends every process with it,
//     server or no server; everything but work/ is read-only or hidden.
//   - Not root: the same namespaces inside a user namespace, plus Landlock.
//   - The workload's environment is built from nothing, and it inherits no file
//     but the sockets and its log.
//   - Whatever lies below work/ is hostile: it is read through os.Root, without
//     following links, regular files only, and within bounds.
//
// docs/adr/0003-isolation.md has the reasons and the limits. Only app imports
// this package.
package procrunner
