// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"io"
	"net/url"
	"os"
	"strings"

	"panal/internal/client"
	"panal/internal/plat"
)

// gitFlags name a repository instead of a directory.
type gitFlags struct {
	Git      string `help:"Take the code from this git repository instead: https://HOST/PATH." placeholder:"URL"`
	Ref      string `help:"Its branch, tag or commit (40 digits); default master, or without that the repository's HEAD." placeholder:"NAME"`
	GitUser  string `name:"git-user" help:"User of the repository, for --git-token-file." default:"git"`
	GitToken string `name:"git-token-file" help:"File with the token or password of the repository; - for stdin. It is used for this fetch and not kept." placeholder:"FILE"`
}

// repository returns what the flags name; nil when the code is in a directory.
func (f gitFlags) repository(e *env, dir string) (*client.Git, error) {
	switch {
	case f.Git == "" && dir == "":
		return nil, plat.InvalidField("source", "name a directory of code, a repository with --git URL, or a template")
	case f.Git == "" && (f.Ref != "" || f.GitToken != ""):
		return nil, plat.InvalidField("git", "--ref and --git-token-file need --git URL")
	case f.Git == "":
		return nil, nil
	case dir != "":
		return nil, plat.InvalidField("source", "name either a directory of code or a repository with --git URL")
	}
	g := &client.Git{URL: f.Git, Ref: f.Ref}
	if f.GitToken == "" {
		return g, nil
	}
	in := e.stdin
	if f.GitToken != "-" {
		file, err := os.Open(f.GitToken)
		if err != nil {
			return nil, err
		}
		defer func() { _ = file.Close() }() // only read
		in = file
	}
	token, err := io.ReadAll(io.LimitReader(in, 4<<10))
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(f.Git)
	if err != nil || u.Host == "" {
		return nil, plat.InvalidField("git", "is no URL")
	}
	u.User = url.UserPassword(f.GitUser, strings.TrimSpace(string(token)))
	g.URL = u.String()
	return g, nil
}
