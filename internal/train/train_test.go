// SPDX-License-Identifier: Apache-2.0

package train_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"panal/internal/plat"
	"panal/internal/train"
)

// TestStateMachine walks the table at random: once terminal, for ever terminal,
// and every walk ends within two steps of Active.
func TestStateMachine(t *testing.T) {
	table := train.Transitions()
	for s, next := range table {
		for _, n := range next {
			if _, ok := table[n]; !ok {
				t.Errorf("%s leads to %s, which is no state", s, n)
			}
			if train.CheckChange("1", s, n) != nil {
				t.Errorf("%s → %s is in the table and refused", s, n)
			}
		}
		if s.Terminal() != (s == train.Complete || s == train.Failed || s == train.Stopped) {
			t.Errorf("Terminal(%s) = %v", s, s.Terminal())
		}
	}
	if train.Status("Completed").Terminal() {
		t.Error("a state that does not exist is terminal")
	}
	states := []train.Status{train.Pending, train.Active, train.Complete, train.Failed, train.Stopped}
	rapid.Check(t, func(r *rapid.T) {
		s, done := train.Pending, train.Status("")
		for range 10 {
			next := rapid.SampledFrom(states).Draw(r, "next")
			if err := train.CheckChange("1", s, next); err == nil {
				s = next
			} else if !errors.Is(err, plat.ErrConflict) {
				r.Fatalf("%s → %s = %v", s, next, err)
			}
			if done != "" && s != done {
				r.Fatalf("%s became %s", done, s)
			}
			if s.Terminal() {
				done = s
			}
			if s == train.Pending && next != train.Pending && next != train.Complete {
				r.Fatalf("stayed Pending when asked to become %s", next)
			}
		}
	})
}

func TestChecks(t *testing.T) {
	long := strings.Repeat("x", 300)
	env := func(k, v string) error { return train.CheckEnvironment("environment", map[string]string{k: v}) }
	ds := func(k, v string) error {
		return train.CheckDatasets(map[string]plat.DatasetID{k: plat.DatasetID(v)})
	}
	image := func(s string) error { return train.CheckImage(s, "1480000000017") }
	handler := func(s string) error { return train.CheckHandler(s, "abeja-inc/all-cpu:19.10") }
	for _, c := range []struct {
		what string
		err  error
		ok   bool
	}{
		{"name", train.CheckName("leaf-classifier_1.0"), true},
		{"name empty", train.CheckName(""), false},
		{"name of digits", train.CheckName("1701000000012"), false},
		{"name with a slash", train.CheckName("a/b"), false},
		{"name that begins with a dot", train.CheckName(".a"), false},
		{"name of 128", train.CheckName(long[:128]), true},
		{"name of 129", train.CheckName(long[:129]), false},
		{"handler", handler("train:handler"), true},
		{"handler in a package", handler("pkg.sub.train:handler"), true},
		{"handler without function", handler("train"), false},
		{"handler with two colons", handler("a:b:c"), false},
		{"handler with a path", handler("../train:handler"), false},
		{"handler with a newline", handler("train:handler\n"), false},
		{"handler empty", handler(""), false},
		{"trial image's handler", train.CheckHandler("train", "abeja-inc/all-cpu:20.02a"), true},
		{"image of two parts", image("abeja-inc/all-cpu:19.10"), true},
		{"image of three parts", image("registry.example.com:5000/ns/name:tag"), true},
		{"image of one part", image("python:3.11"), false}, // compute.md §2.3: the SDK raises on it
		{"image of four parts", image("a/b/c/d:1"), false},
		{"image with an empty part", image("a//b"), false},
		{"image empty", image(""), false},
		{"own custom image", image("custom/1480000000017/repo:1"), true},
		{"another organization's custom image", image("custom/1480000000018/repo:1"), false},
		{"custom image of nobody", image("custom/repo:1"), false},
		{"env", env("EPOCHS", "5"), true},
		{"env that only tunes the output", env("STAGE", "stg"), true},
		{"env name with a digit first", env("5E", "5"), false},
		{"env name with =", env("A=B", "5"), false},
		{"env name empty", env("", "5"), false},
		{"env reserved", env("PLATFORM_AUTH_TOKEN", "x"), false},
		{"env reserved by the agent", env("ABEJA_IPC_PATH", "x"), false},
		{"env reserved by us", env("PANAL_AGENT_CONTROL_FD", "x"), false},
		{"env value with NUL", env("A", "\x00"), false},
		{"env value too long", env("A", strings.Repeat("x", 200<<10)), false},
		{"time limit", env("PANAL_HANDLER_TIMEOUT", "2m"), true},
		{"time limit that is not set", env("PANAL_HANDLER_TIMEOUT", ""), true},
		{"time limit without a unit", env("PANAL_HANDLER_TIMEOUT", "2"), false},
		{"time limit of nothing", env("PANAL_HANDLER_TIMEOUT", "0s"), false},
		{"dataset", ds("train_set-1", "1550000000077"), true},
		{"dataset alias with a space", ds("a b", "1"), false},
		{"dataset id of letters", ds("a", "x1"), false},
		{"description of 256 characters", train.CheckDescription(strings.Repeat("é", 256)), true},
		{"description of 257", train.CheckDescription(long[:257]), false},
		{"description with NUL", train.CheckDescription("a\x00"), false},
	} {
		if (c.err == nil) != c.ok || c.err != nil && !errors.Is(c.err, plat.ErrInvalid) {
			t.Errorf("%s: %v", c.what, c.err)
		}
	}
	big := map[string]string{}
	for i := range 10 {
		big[fmt.Sprintf("A%d", i)] = strings.Repeat("x", 90<<10)
	}
	if train.CheckEnvironment("environment", big) == nil {
		t.Error("900 KiB of environment passed")
	}
}

func TestMergesLayTheJobOverTheVersion(t *testing.T) {
	version := map[string]string{"A": "1", "B": "1"}
	got := train.MergeEnvironment(version, map[string]string{"B": "2", "C": "2"})
	if d := cmp.Diff(map[string]string{"A": "1", "B": "2", "C": "2"}, got); d != "" {
		t.Error(d)
	}
	if version["B"] != "1" {
		t.Error("the version's map was changed")
	}
	if train.MergeDatasets(nil, nil) == nil {
		t.Error("nothing merged is null on the wire")
	}
}

func TestDefaultInstanceType(t *testing.T) {
	for image, want := range map[string]string{"abeja-inc/all-gpu:19.10": "gpu-1", "abeja-inc/all-cpu:19.10": "cpu-1", "custom/1/x:1": "cpu-1"} {
		if got := train.DefaultInstanceType(image); got != want {
			t.Errorf("%s: %s, want %s", image, got, want)
		}
	}
}

func TestMetricsOf(t *testing.T) {
	for in, want := range map[string]string{
		``:          `{}`,
		`null`:      `{}`,
		`[]`:        `{}`,
		`{"a":1.0}`: `{"a":1.0}`,
		`{"num_epochs":10,"epoch":4,"progress_percentage":0.4,"stages":{"train":{"accuracy":0.910,"loss":"NaN"},"validation":{"f":-1e-9}},"lr":0.001,"name":"x","on":true,"o":{"a":1}}`: `{"lr":0.001,"train_accuracy":0.910,"train_loss":"NaN","validation_f":-1e-9}`,
		`{"stages":{"train":3},"a":1}`: `{"a":1}`,
	} {
		b, err := json.Marshal(train.MetricsOf(json.RawMessage(in)))
		if err != nil || string(b) != want {
			t.Errorf("%s: %s %v, want %s", in, b, err, want)
		}
	}
}

func TestCheckMetrics(t *testing.T) {
	for v, ok := range map[string]bool{
		`1`: true, `-0.5e10`: true, `"NaN"`: true, `"Infinity"`: true, `"-Infinity"`: true,
		`"0.9"`: false, `null`: false, `true`: false, `{}`: false, `01`: false, ``: false,
	} {
		if err := train.CheckMetrics(train.Metrics{"m": json.RawMessage(v)}); (err == nil) != ok {
			t.Errorf("%s: %v", v, err)
		}
	}
}
