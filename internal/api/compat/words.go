// SPDX-License-Identifier: Apache-2.0

package compat

import (
	"encoding/json"
	"errors"

	"github.com/danielgtaylor/huma/v2"
)

// Words is a command line: an array of words, or one string, which is a line for
// the shell (["/bin/sh", "-c", line], as Dockerfiles have it). Null and "" are none.
type Words []string

// UnmarshalJSON implements json.Unmarshaler.
func (w *Words) UnmarshalJSON(data []byte) error {
	var line string
	if json.Unmarshal(data, &line) == nil {
		*w = nil
		if line != "" {
			*w = Words{"/bin/sh", "-c", line}
		}
		return nil
	}
	var words []string
	if json.Unmarshal(data, &words) != nil {
		return errors.New(`must be an array of strings, such as ["python3", "server.py"], or one string for the shell`)
	}
	*w = words
	return nil
}

// Schema implements huma.SchemaProvider.
func (Words) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Description: "array of words, or one string, which is a line for the shell; null for none"}
}

var _ huma.SchemaProvider = Words(nil)
