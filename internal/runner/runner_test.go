// SPDX-License-Identifier: Apache-2.0

package runner_test

import (
	"errors"
	"strings"
	"testing"

	"panal/internal/plat"
	"panal/internal/runner"
)

func TestAdmit(t *testing.T) {
	const gib = int64(1) << 30
	res := func(milli, mem int64, gpus int) plat.Resources {
		return plat.Resources{MilliCPU: milli, Memory: mem * gib, GPUs: gpus}
	}
	total, share := res(4000, 8, 2), res(3000, 6, 2)
	none := res(0, 0, 0)
	tests := []struct {
		name          string
		used, jobUsed plat.Resources
		need          plat.Resources
		reserve       bool
		want          error
		text          string
	}{
		{"job fits", none, none, res(1000, 2, 0), false, nil, ""},
		{"exactly all for a service", none, none, res(4000, 8, 2), true, nil, ""},
		{"one job alone may take all", none, none, res(4000, 8, 0), false, nil, ""},
		{"one job alone must still fit beside services", res(1000, 1, 0), none, res(4000, 8, 0), false, plat.ErrExhausted, "CPU: 4 vCPU needed, 3 vCPU of 4 vCPU free"},
		{"second job stays in the share", res(2000, 2, 0), res(2000, 2, 0), res(2000, 1, 0), false, plat.ErrExhausted, "1 vCPU of 4 vCPU free for jobs"},
		{"service takes the reserve", res(3000, 6, 0), res(3000, 6, 0), res(1000, 2, 0), true, nil, ""},
		{"memory is short", res(0, 7, 0), none, res(250, 2, 0), true, plat.ErrExhausted, "memory: 2.00 GiB needed, 1.00 GiB"},
		{"GPU is taken", res(4, 1, 2), none, res(1, 0, 1), true, plat.ErrExhausted, "GPU slots: 1 needed, 0 of 2"},
		{"never CPU", none, none, res(4001, 0, 0), true, plat.ErrInvalid, "CPU"},
		{"never GPU", none, none, res(1, 0, 3), false, plat.ErrInvalid, "GPU"},
		{"negative", none, none, res(-1, 0, 0), false, plat.ErrInvalid, "negative"},
		{"a job without GPU ignores a full GPU share", res(0, 0, 2), res(0, 0, 2), res(1, 0, 0), false, nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := runner.Capacity{Total: total, JobShare: share, Used: tt.used, JobUsed: tt.jobUsed}
			err := c.Admit(tt.need, tt.reserve)
			if !errors.Is(err, tt.want) || (tt.want == nil) != (err == nil) {
				t.Fatalf("Admit = %v, want %v", err, tt.want)
			}
			if err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("text %q lacks %q", err, tt.text)
			}
		})
	}
}
