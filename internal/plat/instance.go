// SPDX-License-Identifier: Apache-2.0

package plat

import (
	"regexp"
	"strconv"
	"strings"
)

// Resources is what a workload asks for and what a machine has.
type Resources struct {
	MilliCPU int64 // 1000 = one vCPU
	Memory   int64 // bytes
	GPUs     int   // exclusive slots
}

// InstanceType is a parsed instance type such as "cpu-1", "cpu-0.25", "gpu:a-2"
// (compute.md §12.1).
type InstanceType struct {
	Name      string
	Resources Resources
}

var instancePattern = regexp.MustCompile(`^(cpu|gpu)(:[abcd])?-([0-9]+(?:\.[0-9]+)?)$`)

const gib = int64(1) << 30

// InstanceTypes lists the catalogue of compute.md §12.1, smallest first. It is what
// people are offered: any other count of the same grammar is accepted too.
func InstanceTypes() []InstanceType {
	names := []string{"cpu-0.25", "cpu-1", "cpu-2", "cpu-4", "cpu-8", "cpu-16", "gpu-1", "gpu:a-1", "gpu:b-1", "gpu:b-4", "gpu:b-8"}
	all := make([]InstanceType, len(names))
	for i, name := range names {
		it, err := ParseInstanceType(name)
		if err != nil {
			panic("BUG: plat: " + err.Error())
		}
		all[i] = it
	}
	return all
}

// ParseInstanceType reads the grammar that the clients accept. Memory is 2 GiB
// per vCPU (0.5 GiB for cpu-0.25) and 4 vCPUs go with each GPU.
func ParseInstanceType(name string) (InstanceType, error) {
	bad := func(why string) (InstanceType, error) {
		return InstanceType{}, InvalidField("instance_type", "%q %s; use one of cpu-0.25, cpu-1, cpu-2, cpu-4, cpu-8, cpu-16, gpu-1", name, why)
	}
	m := instancePattern.FindStringSubmatch(name)
	if m == nil {
		return bad("is not an instance type")
	}
	n, err := strconv.ParseFloat(m[3], 64)
	if err != nil || n <= 0 || n > 1024 {
		return bad("has a count out of range")
	}
	if strings.HasSuffix(m[3], "0") {
		return bad("has a count that ends in 0, which known clients cut off")
	}
	if m[1] == "gpu" {
		if n != float64(int(n)) {
			return bad("asks for part of a GPU")
		}
		return InstanceType{Name: name, Resources: Resources{MilliCPU: int64(n) * 4000, Memory: int64(n) * 8 * gib, GPUs: int(n)}}, nil
	}
	milli := int64(n * 1000)
	return InstanceType{Name: name, Resources: Resources{MilliCPU: milli, Memory: milli * 2 * gib / 1000}}, nil
}
