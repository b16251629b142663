// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"runtime/debug"

	"panal/internal/plat"
)

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(e *env) error {
	v := map[string]string{"version": plat.Version}
	if info, ok := debug.ReadBuildInfo(); ok {
		v["go"] = info.GoVersion
	}
	return e.print(v, []string{"VERSION", "GO"}, [][]string{{v["version"], v["go"]}})
}
