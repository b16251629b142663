// SPDX-License-Identifier: Apache-2.0

// Package templates holds the code that comes with the platform: small services that run
// as they are and that people change into theirs (compute.md §5.2). A template's id is
// part of the API: none is used again for something else.
package templates

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"panal/internal/plat"
)

//go:embed */*.py
var files embed.FS

// Template is code to begin with. It has a handler at main:handler.
type Template struct {
	ID          int
	Name        string // also its directory's
	Description string
}

// All returns the templates in the order of their ids.
func All() []Template {
	return []Template{
		{1, "echo", "answers each request with what arrived"},
		{2, "pickle", "predicts with a pickled model, as scikit-learn's: {\"instances\": [[…]]} to {\"predictions\": […]}"},
		{3, "stream", "answers piece by piece, as models that make text do"},
	}
}

// Find returns the template of that id, or says which there are.
func Find(id int) (Template, error) {
	all := All()
	if i := slices.IndexFunc(all, func(t Template) bool { return t.ID == id }); i >= 0 {
		return all[i], nil
	}
	known := make([]string, len(all))
	for i, t := range all {
		known[i] = strconv.Itoa(t.ID) + " (" + t.Name + ")"
	}
	return Template{}, plat.InvalidField("template_id", "must be one of %s", strings.Join(known, ", "))
}

// Source returns its code as a tar.gz, the same bytes each time.
func (t Template) Source() ([]byte, error) {
	dir, err := fs.Sub(files, t.Name)
	if err != nil {
		return nil, fmt.Errorf("template %s: %w", t.Name, err)
	}
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	if err := w.AddFS(dir); err != nil {
		return nil, fmt.Errorf("pack template %s: %w", t.Name, err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack template %s: %w", t.Name, err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("pack template %s: %w", t.Name, err)
	}
	return out.Bytes(), nil
}
