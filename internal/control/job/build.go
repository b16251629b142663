// SPDX-License-Identifier: Apache-2.0

package job

import (
	"encoding/json"
	"maps"
	"strconv"
	"strings"
	"unicode/utf8"

	"panal/internal/authn"
	"panal/internal/logs"
	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/train"
)

// Spec returns the workload of a job (compute.md §13.2, §13.8). The user's
// variables come first: the platform's win.
func Spec(d train.Definition, v train.Version, j train.Job, it plat.InstanceType, apiURL, token string) runner.Spec {
	datasets, err := json.Marshal(train.MergeDatasets(j.Datasets, nil)) // never null
	if err != nil {
		panic("BUG: job: datasets do not encode: " + err.Error())
	}
	env := maps.Clone(j.Environment)
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, map[string]string{
		"ABEJA_API_URL":                   apiURL,
		"ABEJA_ORGANIZATION_ID":           string(j.Org),
		"TRAINING_JOB_DEFINITION_NAME":    d.Name,
		"TRAINING_JOB_DEFINITION_ID":      string(d.ID),
		"TRAINING_JOB_DEFINITION_VERSION": strconv.Itoa(v.Number),
		"TRAINING_JOB_ID":                 string(j.ID),
		"ABEJA_TRAINING_JOB_ID":           string(j.ID),
		"HANDLER":                         v.Handler,
		"DATASETS":                        string(datasets),
		"PYTHONUNBUFFERED":                "x",
	})
	if j.ExportLog {
		env["ABEJA_EXPORT_TRAIN_LOG"] = "1"
	}
	return runner.Spec{
		ID: j.Workload, Org: j.Org, Kind: runner.KindTraining, Image: v.Image, Resources: it.Resources,
		Env: env, Token: token, LogStream: logs.JobStream(string(j.ID)),
	}
}

// Token returns the record of the container token of a job's workload.
func Token(j train.Job, secret string) authn.Token {
	return authn.Token{
		Hash: authn.HashToken(secret), Kind: authn.KindContainer, Org: j.Org, User: j.Creator,
		Scope: authn.Scope{Workload: j.Workload, Definition: j.Definition, Version: j.Version, Job: j.ID},
	}
}

// End tells how a job whose workload has exited ends.
func End(st runner.Status) (train.Status, string) {
	switch {
	case st.Stopped:
		return train.Stopped, "its workload was stopped"
	case st.ExitCode == 0:
		return train.Complete, ""
	}
	reason := Message(st.Reason)
	if reason == "" {
		reason = "the workload ended with code " + strconv.Itoa(st.ExitCode)
	}
	return train.Failed, reason
}

// maxMessage bounds a status message.
const maxMessage = 16 << 10

// Message makes user code's words fit to be stored: no NUL, no broken UTF-8, and
// of a long text the first line and the end, where a traceback says what it is.
func Message(s string) string {
	s = strings.TrimSpace(strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD"))
	if len(s) <= maxMessage {
		return s
	}
	first, rest, _ := strings.Cut(s, "\n")
	if len(first) > maxMessage/4 {
		first = strings.ToValidUTF8(first[:maxMessage/4], "")
		rest = s
	}
	tail := rest[max(0, len(rest)-maxMessage/2):]
	for len(tail) > 0 && !utf8.RuneStart(tail[0]) {
		tail = tail[1:]
	}
	return first + "\n…\n" + tail
}
