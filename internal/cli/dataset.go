// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"panal/internal/client"
	"panal/internal/plat"
)

type datasetCmd struct {
	Create datasetCreateCmd `cmd:"" help:"Create a dataset."`
	List   datasetListCmd   `cmd:"" help:"List datasets."`
	Get    datasetGetCmd    `cmd:"" help:"Show a dataset."`
	Delete datasetDeleteCmd `cmd:"" help:"Delete a dataset with its items; files stay."`
	Items  datasetItemsCmd  `cmd:"" help:"List or search items."`
	Import datasetImportCmd `cmd:"" help:"Add items from JSON lines, or from the files of a channel."`
}

// datasetArg is the argument of commands about a dataset.
type datasetArg struct {
	Dataset string `arg:"" help:"Dataset id or name."`
}

func (a datasetArg) get(e *env) (client.Dataset, error) {
	d, err := e.api.Dataset(e.ctx, a.Dataset)
	if !errors.Is(err, plat.ErrNotFound) {
		return d, err
	}
	all, listErr := e.api.Datasets(e.ctx)
	if listErr != nil {
		return d, listErr
	}
	for _, d := range all {
		if d.Name == a.Dataset {
			return d, nil
		}
	}
	return d, err
}

func datasetHeader() []string { return []string{"DATASET", "NAME", "TYPE", "ITEMS", "CREATED"} }

func datasetRow(d client.Dataset) []string {
	return []string{d.ID, d.Name, d.Type, fmt.Sprint(d.TotalCount), d.CreatedAt}
}

type datasetCreateCmd struct {
	Name   string   `arg:"" help:"Name, unique in the organization."`
	Type   string   `help:"classification, detection, segmentation, custom, or any other." default:"classification"`
	Labels []string `help:"Labels of the one category, separated by commas." xor:"props"`
	Props  string   `help:"Props as JSON, or @FILE." xor:"props"`
}

type label struct {
	ID    int    `json:"label_id"`
	Label string `json:"label"`
}

type category struct {
	ID     int     `json:"category_id"`
	Name   string  `json:"name"`
	Labels []label `json:"labels"`
}

type props struct {
	Categories []category `json:"categories"`
}

// Run creates a dataset.
func (c *datasetCreateCmd) Run(e *env) error {
	var p any = props{Categories: []category{}}
	if len(c.Labels) > 0 {
		cat := category{Name: "label"}
		for i, l := range c.Labels {
			cat.Labels = append(cat.Labels, label{ID: i, Label: l})
		}
		p = props{Categories: []category{cat}}
	}
	if c.Props != "" {
		raw := []byte(c.Props)
		if path, ok := strings.CutPrefix(c.Props, "@"); ok {
			var err error
			if raw, err = os.ReadFile(path); err != nil {
				return plat.InvalidField("props", "%v", err)
			}
		}
		if !json.Valid(raw) {
			return plat.InvalidField("props", "is not JSON")
		}
		p = json.RawMessage(raw)
	}
	d, err := e.api.CreateDataset(e.ctx, c.Name, c.Type, p)
	if err != nil {
		return err
	}
	return e.print(d, datasetHeader(), [][]string{datasetRow(d)})
}

type datasetListCmd struct{}

// Run lists datasets.
func (datasetListCmd) Run(e *env) error {
	all, err := e.api.Datasets(e.ctx)
	if err != nil {
		return err
	}
	rows := make([][]string, len(all))
	for i, d := range all {
		rows[i] = datasetRow(d)
	}
	return e.print(all, datasetHeader(), rows)
}

type datasetGetCmd struct{ datasetArg }

// Run shows a dataset.
func (c *datasetGetCmd) Run(e *env) error {
	d, err := c.get(e)
	if err != nil {
		return err
	}
	return e.print(d, datasetHeader(), [][]string{datasetRow(d)})
}

type datasetDeleteCmd struct {
	datasetArg
	Yes bool `help:"Really do it, also when it has items."`
}

// Help implements kong's interface.
func (*datasetDeleteCmd) Help() string {
	return `An empty dataset goes at once; one with items only with --yes, for their labels go with it. The files that they refer to stay.`
}

// Run deletes a dataset.
func (c *datasetDeleteCmd) Run(e *env) error {
	d, err := c.get(e)
	if err != nil {
		return err
	}
	if d.TotalCount > 0 && !c.Yes {
		return plat.Errorf(plat.ErrInvalid, "dataset %s has %d items; add --yes to delete them with it", d.ID, d.TotalCount)
	}
	if err := e.api.DeleteDataset(e.ctx, d.ID); err != nil {
		return err
	}
	return e.print(d, append([]string{"DELETED"}, datasetHeader()[1:]...), [][]string{datasetRow(d)})
}

type datasetItemsCmd struct {
	datasetArg
	Query string `help:"Search, for example: label_id:1 AND tag:A." short:"q"`
	Limit int    `help:"At most so many; 0 for all." default:"100"`
}

// Run lists items.
func (c *datasetItemsCmd) Run(e *env) error {
	d, err := c.get(e)
	if err != nil {
		return err
	}
	items := newList(e, []string{"ITEM", "SOURCE", "ATTRIBUTES"}, func(it client.DatasetItem) []string {
		return []string{fmt.Sprint(it.ID), string(it.SourceData), string(it.Attributes)}
	})
	size := 1000
	if c.Limit > 0 {
		size = min(size, c.Limit)
	}
	total, err := e.api.DatasetItems(e.ctx, d.ID, c.Query, size, func(it client.DatasetItem) error { return items.add(it, c.Limit) })
	if err != nil {
		return err
	}
	if err := items.end(); err != nil {
		return err
	}
	e.say("%d of %d", items.n, total)
	return nil
}

type datasetImportCmd struct {
	datasetArg
	Source  string `arg:"" optional:"" help:"A file of JSON lines, one item each ({\"source_data\":[…],\"attributes\":{…}}); - for stdin; or a channel (id or name): one item for each of its files …"`
	Find    string `arg:"" optional:"" name:"query" help:"… that this finds."`
	Channel string `help:"The channel, where a file of its name is in the way."`
	Query   string `help:"The same as the argument." short:"q"`
	Label   string `help:"Metadata key of a channel's files whose values are labels of the dataset." default:"label"`
	Any     bool   `help:"Add files that have no such metadata too, without attributes." name:"unlabelled"`
}

// Help implements kong's interface.
func (*datasetImportCmd) Help() string {
	return `  panal dataset import pets items.jsonl
  panal dataset import pets raw 'split:train AND NOT label:unknown' --label label

Items are added 500 at a time; what was added before an error stays.`
}

// resolve tells a file from a channel.
func (c *datasetImportCmd) resolve() error {
	if c.Source != "" && c.Channel != "" {
		return plat.Errorf(plat.ErrInvalid, "name a file of JSON lines or a channel, not both")
	}
	if c.Source != "" && c.Source != "-" {
		if info, err := os.Stat(c.Source); err != nil || info.IsDir() {
			c.Channel, c.Source = c.Source, ""
		}
	}
	if c.Find != "" && c.Query != "" {
		return plat.InvalidField("query", "is given twice")
	}
	c.Query += c.Find
	switch {
	case c.Source == "" && c.Channel == "":
		return plat.Errorf(plat.ErrInvalid, "name a file of JSON lines, or a channel")
	case c.Source != "" && c.Query != "":
		return plat.InvalidField("query", "is about a channel's files; %s is a file of JSON lines", c.Source)
	}
	return nil
}

// Run adds items.
func (c *datasetImportCmd) Run(e *env) error {
	if err := c.resolve(); err != nil {
		return err
	}
	d, err := c.get(e)
	if err != nil {
		return err
	}
	total := int64(-1)
	if c.Channel != "" {
		channel, err := channelArg{c.Channel}.id(e)
		if errors.Is(err, plat.ErrNotFound) {
			return plat.Errorf(plat.ErrNotFound, "there is neither a file nor a channel named %q", c.Channel)
		}
		if err != nil {
			return err
		}
		if c.Channel = channel; isTerminal(e.stderr) { // for the bar alone
			if total, err = e.api.CountFiles(e.ctx, channel, fileQuery(c.Query)); err != nil {
				return err
			}
		}
	}
	bar := e.progress(int(total), "importing", "items")
	defer bar.done()
	var batch []client.DatasetItem
	count := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		if err := e.api.AddDatasetItems(e.ctx, d.ID, batch); err != nil {
			return fmt.Errorf("after %d items: %w", count, err)
		}
		bar.add(len(batch))
		count += len(batch)
		batch = batch[:0]
		return nil
	}
	add := func(it client.DatasetItem) error {
		if batch = append(batch, it); len(batch) == client.MaxDatasetItems {
			return flush()
		}
		return nil
	}
	if c.Channel != "" {
		err = c.fromChannel(e, d, add)
	} else {
		err = c.fromFile(e, add)
	}
	if err == nil {
		err = flush()
	}
	if err != nil {
		return err
	}
	bar.done()
	return e.print(map[string]any{"dataset_id": d.ID, "imported": count}, []string{"DATASET", "IMPORTED"}, [][]string{{d.ID, fmt.Sprint(count)}})
}

// maxLine is the longest line of JSON that is read.
const maxLine = 16 << 20

func (c *datasetImportCmd) fromFile(e *env, add func(client.DatasetItem) error) error {
	in := e.stdin
	if c.Source != "-" {
		f, err := os.Open(c.Source)
		if err != nil {
			return plat.Errorf(plat.ErrInvalid, "%v", err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		var it client.DatasetItem
		if err := json.Unmarshal(lines.Bytes(), &it); err != nil {
			return plat.Errorf(plat.ErrInvalid, "line %d is not an item: %v", n, err)
		}
		it.ID = 0
		if err := add(it); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil && !errors.Is(err, io.EOF) {
		return plat.Errorf(plat.ErrInvalid, "%v", err)
	}
	return nil
}

func (c *datasetImportCmd) fromChannel(e *env, d client.Dataset, add func(client.DatasetItem) error) error {
	channel := c.Channel
	var p props
	_ = json.Unmarshal(d.Props, &p) // props of another shape have no labels, as the loop below will say
	type entry struct {
		Category int    `json:"category_id"`
		LabelID  int    `json:"label_id"`
		Label    string `json:"label"`
	}
	labels := map[string]entry{}
	for _, cat := range p.Categories {
		for _, l := range cat.Labels {
			labels[l.Label] = entry{cat.ID, l.ID, l.Label}
		}
	}
	return e.api.Files(e.ctx, channel, fileQuery(c.Query), false, 1000, func(f client.File) error {
		source, err := json.Marshal([]map[string]string{{"data_uri": "datalake://" + channel + "/" + f.ID, "data_type": f.ContentType}})
		if err != nil {
			return err
		}
		value, ok := f.Meta()[c.Label]
		switch {
		case !ok && c.Any:
			return add(client.DatasetItem{SourceData: source, Attributes: json.RawMessage("null")})
		case !ok:
			return plat.Errorf(plat.ErrInvalid, "file %s has no metadata %s; leave it out by a query, or add --unlabelled", f.ID, c.Label)
		}
		l, ok := labels[value]
		if !ok {
			return plat.Errorf(plat.ErrInvalid, "file %s: %q is no label of the dataset; make it with --labels", f.ID, value)
		}
		attributes, err := json.Marshal(map[string][]entry{"classification": {l}})
		if err != nil {
			return err
		}
		return add(client.DatasetItem{SourceData: source, Attributes: attributes})
	})
}
