// SPDX-License-Identifier: Apache-2.0

package link_test

import (
	"testing"

	"panal/internal/lake"
	"panal/internal/lake/link/linktest"
	"panal/internal/plat"
)

func TestMemStoreKeepsTheContract(t *testing.T) {
	linktest.Run(t, linktest.Harness{New: func(_ *testing.T, now plat.Clock) linktest.World {
		m := linktest.NewMem(now)
		return linktest.World{Store: m, AddChannel: m.AddChannel, Files: func(c plat.ChannelID) []lake.File { return m.Files(c) }}
	}})
}
