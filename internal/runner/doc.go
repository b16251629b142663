// SPDX-License-Identifier: Apache-2.0

// Package runner is the port to compute: it starts, watches and stops one
// workload at a time. A workload is an agent (panal agent …) and the user code
// under it. Adapters: procrunner (local processes), fakerunner (tests); the
// suite runnertest holds both to the contract.
//
// Invariants.
//   - A workload outlives the server: closing a Runner, or killing its process,
//     leaves workloads running; a new Runner over the same state finds them again
//     (List), same process, nothing lost.
//   - A workload id starts at most once, ever. Start with an id that is known is
//     not an error and starts nothing.
//   - User code dies with its agent; Stop leaves no process of the workload.
//   - The exit of a workload is reported until Remove: a crash of the server
//     between exit and record loses nothing.
//   - User code never has the server's identity or reach; where the machine can
//     give no such wall, Isolation says "none".
package runner
