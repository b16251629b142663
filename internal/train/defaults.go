// SPDX-License-Identifier: Apache-2.0

package train

import (
	"maps"
	"strings"

	"panal/internal/plat"
)

// DefaultInstanceType is the instance type of a job that names none (compute.md §2.6).
func DefaultInstanceType(image string) string {
	if strings.Contains(image, "-gpu") {
		return "gpu-1"
	}
	return "cpu-1"
}

// MergeEnvironment lays the job's values over the version's (compute.md §12.3).
func MergeEnvironment(version, job map[string]string) map[string]string {
	return overlay(version, job)
}

// MergeDatasets lays the job's datasets over the version's.
func MergeDatasets(version, job map[string]plat.DatasetID) map[string]plat.DatasetID {
	return overlay(version, job)
}

func overlay[V any](base, over map[string]V) map[string]V {
	out := make(map[string]V, len(base)+len(over))
	maps.Copy(out, base)
	maps.Copy(out, over)
	return out
}
