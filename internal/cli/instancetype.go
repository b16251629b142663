// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strconv"

	"panal/internal/client"
	"panal/internal/plat"
)

// instanceTypeCmd is the noun for instance types.
type instanceTypeCmd struct {
	List instanceTypeListCmd `cmd:"" help:"List the instance types, and which there is room for."`
}

type instanceTypeListCmd struct{}

// Run lists instance types. What is taken goes to stderr, so that the table is all
// of stdout.
func (instanceTypeListCmd) Run(e *env) error {
	all, err := e.api.InstanceTypes(e.ctx)
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(all)
	}
	if err := e.print(nil, []string{"NAME", "VCPUS", "MEMORY", "GPUS", "FITS", "JOB NOW", "SERVICE NOW"}, table(all.Entries, instanceTypeRow)); err != nil {
		return err
	}
	used, total := all.Capacity.Used, all.Capacity.Total
	e.say("in use: %s of %s vCPUs, %s of %s, %d of %d GPUs",
		vcpus(used.VCPUs), vcpus(total.VCPUs), gibibytes(used.Memory), gibibytes(total.Memory), used.GPUs, total.GPUs)
	return nil
}

func instanceTypeRow(t client.InstanceType) []string {
	return []string{t.Name, vcpus(t.VCPUs), gibibytes(t.Memory), strconv.Itoa(t.GPUs), yesNo(t.Fits), yesNo(t.JobFitsNow), yesNo(t.ServiceFitsNow)}
}

func vcpus(n float64) string { return plat.Digits(n) }

func gibibytes(n int64) string {
	return strconv.FormatFloat(float64(n)/(1<<30), 'f', 1, 64) + " GiB"
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
