// SPDX-License-Identifier: Apache-2.0

// Package cli is the command line: one file per noun, each command a struct whose
// fields are its flags and whose Run does it. Commands that talk to a server use
// package client only.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"

	"panal/internal/client"
	"panal/internal/plat"
)

// root is every command.
type root struct {
	File   configFlag `name:"config" help:"YAML file of flags (see panal config print)." placeholder:"FILE" env:"PANAL_CONFIG" type:"path"`
	Output string     `help:"table, json, or jsonl: JSON lines, one object a line, as it comes." default:"table" enum:"table,json,jsonl" short:"o" env:"PANAL_OUTPUT"`
	API    apiFlags   `embed:"" group:"Connection"`

	Channel channelCmd `cmd:"" help:"Channels of the DataLake." group:"Data"`
	Files   fileCmd    `cmd:"" name:"file" help:"Files of a channel." group:"Data"`
	Feed    feedCmd    `cmd:"" help:"Linked channels: how they follow their buckets." group:"Data"`
	Bucket  bucketCmd  `cmd:"" help:"Buckets: files under paths." group:"Data"`
	Dataset datasetCmd `cmd:"" help:"Datasets and their items." group:"Data"`

	Secret     secretCmd     `cmd:"" help:"Secrets: named values, sealed, with versions." group:"Data"`
	Repository repositoryCmd `cmd:"" help:"Records of image repositories and their tags." group:"Data"`

	Lake       lakeCmd       `cmd:"" help:"The index of the DataLake as a whole." group:"Server"`
	User       userCmd       `cmd:"" help:"Users of the organization and their roles." group:"Identity"`
	Tokens     tokenCmd      `cmd:"" name:"token" help:"Personal access tokens." group:"Identity"`
	Datasource datasourceCmd `cmd:"" help:"Datasources: machines that send to channels." group:"Identity"`
	IPRule     ipRuleCmd     `cmd:"" name:"ip-rule" help:"From which addresses the organization may be reached." group:"Identity"`

	Serve     serveCmd     `cmd:"" help:"Run the platform." group:"Server"`
	Supervise superviseCmd `cmd:"" help:"Keep a server running, and replace it without a lost request." group:"Server"`
	Stop      stopCmd      `cmd:"" help:"Stop the server of a data directory." group:"Server"`
	Env       envCmd       `cmd:"" help:"Print how to reach a server, as export lines." group:"Server"`
	Config    configCmd    `cmd:"" help:"Show the configuration." group:"Server"`
	Backup    backupCmd    `cmd:"" help:"Back an installation up, while it runs or not." group:"Server"`
	Restore   restoreCmd   `cmd:"" help:"Make a data directory from a backup." group:"Server"`
	Key       keyCmd       `cmd:"" help:"The keys that seal secrets." group:"Server"`
	Version   versionCmd   `cmd:"" help:"Print the version." group:"Server"`

	Job   jobCmd   `cmd:"" help:"Training: definitions, versions and jobs." group:"Training"`
	Model modelCmd `cmd:"" help:"Training models." group:"Training"`
	Log   logCmd   `cmd:"" help:"Show what jobs and services wrote."`

	Deployment deploymentCmd `cmd:"" help:"Deployments and their code versions." group:"Serving"`
	Service    serviceCmd    `cmd:"" help:"Services: instances that answer requests." group:"Serving"`
	Endpoint   endpointCmd   `cmd:"" help:"Endpoints: stable names in front of services." group:"Serving"`
	Top        topCmd        `cmd:"" help:"Live table of services: requests, times, errors, instances." group:"Serving"`
	Why        whyCmd        `cmd:"" help:"Explain why a service is as it is." group:"Serving"`

	Audit auditCmd `cmd:"" help:"Who changed what in the organization." group:"Administration"`
	Org   orgCmd   `cmd:"" help:"Organizations: create, suspend, delete, usage and quota." group:"Administration"`

	InstanceType instanceTypeCmd `cmd:"" help:"Instance types, and which there is room for."`
}

// apiFlags say which server is called, and as whom. The original clients'
// variables are read too.
type apiFlags struct {
	URL   string `name:"api-url" help:"API base URL." default:"http://127.0.0.1:8600" env:"PANAL_API_URL,ABEJA_API_URL"`
	Org   string `name:"organization" help:"Organization id or name." default:"default" env:"PANAL_ORGANIZATION_ID,ABEJA_ORGANIZATION_ID"`
	User  string `name:"user" help:"User id." env:"PANAL_USER_ID,ABEJA_PLATFORM_USER_ID"`
	Token string `name:"token" help:"Personal access token. Better given by the environment: others can read a command line." env:"PANAL_PERSONAL_ACCESS_TOKEN,ABEJA_PLATFORM_PERSONAL_ACCESS_TOKEN"`
	// Used when there is no token (data.md §2).
	Datasource string `name:"datasource" help:"Datasource id, for machines; used when there is no token." env:"PANAL_DATASOURCE_ID,ABEJA_PLATFORM_DATASOURCE_ID"`
	Secret     string `name:"datasource-secret" help:"Its secret. Better given by the environment." env:"PANAL_DATASOURCE_SECRET,ABEJA_PLATFORM_DATASOURCE_SECRET"`
}

// client returns a client as the flags say. A user's credentials come before a
// datasource's, whole pair by whole pair (data.md §2).
func (a apiFlags) client() *client.Client {
	if a.Token == "" && a.Datasource != "" && a.Secret != "" {
		return client.NewDatasource(a.URL, a.Org, a.Datasource, a.Secret)
	}
	return client.New(a.URL, a.Org, a.User, a.Token)
}

// explain says how to give credentials where none were: the server knows of headers only.
func (a apiFlags) explain(err error) error {
	if !errors.Is(err, plat.ErrUnauthenticated) || a.Token != "" || a.Datasource != "" && a.Secret != "" {
		return err
	}
	return plat.Errorf(plat.ErrUnauthenticated, `there are no credentials. Those of a server on this machine: eval "$(panal env --data DIR)"; others: `+
		"--user and --token, or PANAL_USER_ID and PANAL_PERSONAL_ACCESS_TOKEN; a datasource's: --datasource and --datasource-secret, or PANAL_DATASOURCE_ID and PANAL_DATASOURCE_SECRET")
}

// env is what a command works with. Run methods take *env.
type env struct {
	ctx    context.Context //nolint:containedctx // one command, one context: kong passes values, not parameters
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	json   bool     // JSON of either form
	lines  bool     // of one line each
	args   []string // all of the command line
	api    *client.Client
}

// Main runs the command line and returns the exit code.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if code, ok := hidden(args); ok {
		return code
	}
	var r root
	exit := -1
	parser, err := kong.New(&r,
		kong.Name("panal"),
		kong.Description("A self-hosted machine-learning platform in one binary.\n\nStart a server with 'panal serve', then: eval \"$(panal env)\" and try 'panal channel list'.\n\n"+
			"Exit codes: 0 done, 1 failed, 2 wrong use, 3 no or wrong credentials, 4 forbidden, 5 not found, 6 conflict,\n"+
			"7 a limit, quota or disk is full, 8 unavailable, 9 unsupported, 130 interrupted."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exit = code }),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "panal:", err)
		return 1
	}
	kctx, err := parser.Parse(args)
	if exit >= 0 { // --help
		return exit
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "panal: %v\n", err)
		return exitInvalid
	}
	e := &env{
		ctx: ctx, stdin: stdin, stdout: stdout, stderr: stderr, json: r.Output != "table", lines: r.Output == "jsonl", args: args,
		api: r.API.client(),
	}
	if err := kctx.Run(e); err != nil {
		if code, ok := errors.AsType[exitError](err); ok { // what there is to say was said
			return int(code)
		}
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			_, _ = fmt.Fprintln(stderr, "panal: interrupted")
			return exitInterrupted
		}
		report(stderr, r.API.explain(err))
		return exitCode(err)
	}
	return 0
}

// Exit codes by kind of error; 1 is anything else.
const (
	exitInvalid         = 2
	exitUnauthenticated = 3
	exitForbidden       = 4
	exitNotFound        = 5
	exitConflict        = 6
	exitExhausted       = 7
	exitUnavailable     = 8
	exitUnsupported     = 9
	exitInterrupted     = 130
)

func exitCode(err error) int {
	for _, c := range []struct {
		kind error
		code int
	}{
		{context.Canceled, exitInterrupted},
		{plat.ErrInvalid, exitInvalid},
		{plat.ErrUnauthenticated, exitUnauthenticated},
		{plat.ErrForbidden, exitForbidden},
		{plat.ErrNotFound, exitNotFound},
		{plat.ErrExists, exitConflict},
		{plat.ErrConflict, exitConflict},
		{plat.ErrExhausted, exitExhausted},
		{plat.ErrUnavailable, exitUnavailable},
		{plat.ErrUnsupported, exitUnsupported},
	} {
		if errors.Is(err, c.kind) {
			return c.code
		}
	}
	return 1
}

// report prints an error for people, with the fields that are wrong.
func report(w io.Writer, err error) {
	_, _ = fmt.Fprintln(w, "panal:", err)
	if ae, ok := errors.AsType[*client.Error](err); ok {
		for field, msgs := range ae.Detail {
			for _, m := range msgs {
				if strings.Contains(err.Error(), m) {
					continue // said
				}
				_, _ = fmt.Fprintf(w, "  %s: %s\n", field, m)
			}
		}
	}
}

// configFlag loads a YAML file of flag values, below flags and environment.
type configFlag string

// BeforeResolve implements kong's hook: it adds the file as a resolver.
func (c configFlag) BeforeResolve(k *kong.Kong, ctx *kong.Context, trace *kong.Path) error {
	path := string(ctx.FlagValue(trace.Flag).(configFlag))
	if path == "" {
		return nil
	}
	b, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return plat.InvalidField("config", "%v", err)
	}
	values := map[string]any{}
	if err := yaml.Unmarshal(b, &values); err != nil {
		return plat.InvalidField("config", "%s is not YAML: %v", path, err)
	}
	ctx.AddResolver(fileResolver{path: path, values: values})
	return nil
}

// fileResolver gives flags the values of a configuration file. kong lets a resolver
// override the environment, so it keeps away from flags that have a variable set.
type fileResolver struct {
	path   string
	values map[string]any
}

// Validate implements kong.Resolver: a key that is no flag is a mistake that nobody
// would notice otherwise.
func (r fileResolver) Validate(app *kong.Application) error {
	known := map[string]bool{}
	var gather func(n *kong.Node)
	gather = func(n *kong.Node) {
		for _, f := range n.Flags {
			known[f.Name] = true
		}
		for _, c := range n.Children {
			gather(c)
		}
	}
	gather(app.Node)
	for _, key := range slices.Sorted(maps.Keys(r.values)) {
		if !known[key] {
			return plat.InvalidField("config", "%s: there is no setting named %q", r.path, key)
		}
	}
	return nil
}

// Resolve implements kong.Resolver.
func (r fileResolver) Resolve(_ *kong.Context, _ *kong.Path, f *kong.Flag) (any, error) {
	for _, name := range f.Envs {
		if _, ok := os.LookupEnv(name); ok {
			return nil, nil //nolint:nilnil // kong's way to say: no value from here
		}
	}
	return r.values[f.Name], nil
}
