// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"panal/internal/client"
	"panal/internal/plat"
)

type secretCmd struct {
	Create  secretCreateCmd  `cmd:"" help:"Create a secret; its value comes from standard input or a file."`
	List    secretListCmd    `cmd:"" help:"List secrets, oldest first, without their values."`
	Get     secretGetCmd     `cmd:"" help:"Show a secret and its versions, without their values."`
	Value   secretValueCmd   `cmd:"" help:"Print a value, as it is."`
	Update  secretUpdateCmd  `cmd:"" help:"Change a secret's description or expiry."`
	Delete  secretDeleteCmd  `cmd:"" help:"Delete a secret with its versions."`
	Version secretVersionCmd `cmd:"" help:"Versions of a secret."`
}

// secretArg is the argument of commands about a secret.
type secretArg struct {
	Secret string `arg:"" help:"Secret id or name."`
}

// id returns the secret's id.
func (a secretArg) id(e *env) (string, error) {
	if len(a.Secret) == 13 && strings.Trim(a.Secret, "0123456789") == "" {
		return a.Secret, nil
	}
	all, err := e.api.Secrets(e.ctx)
	if err != nil {
		return "", err
	}
	for _, s := range all {
		if s.Name == a.Secret {
			return s.ID, nil
		}
	}
	return "", plat.NotFound("secret", a.Secret)
}

// valueFlags say where a value comes from. It is no argument: others can read a
// command line.
type valueFlags struct {
	File string `help:"File that holds the value; - is standard input." default:"-" type:"path"`
}

// maxSecret is more than the server takes, so that its error is what people see.
const maxSecret = 128 << 10

// read returns the value. One line end at its end is the editor's, not the secret's.
func (f valueFlags) read(e *env) ([]byte, error) {
	in := e.stdin
	if f.File != "-" {
		file, err := os.Open(f.File)
		if err != nil {
			return nil, plat.InvalidField("file", "%v", err)
		}
		defer func() { _ = file.Close() }()
		in = file
	} else if isTerminal(e.stderr) {
		e.say("type the value, then end with Ctrl-D:")
	}
	b, err := io.ReadAll(io.LimitReader(in, maxSecret))
	if err != nil {
		return nil, fmt.Errorf("read the value: %w", err)
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if value == "" {
		return nil, plat.InvalidField("value", "is empty; give the text itself on standard input, or with --file")
	}
	if !utf8.ValidString(value) {
		return nil, plat.InvalidField("value", "is no UTF-8 text; give bytes as text, for example by base64")
	}
	return []byte(value), nil
}

func orDash(s *string) string {
	if s == nil || *s == "" {
		return "-"
	}
	return *s
}

func (e *env) printSecrets(v any, all ...client.Secret) error {
	rows := make([][]string, len(all))
	for i, s := range all {
		rows[i] = []string{s.ID, s.Name, strconv.Itoa(len(s.Versions)), orDash(s.ExpiredAt), s.UpdatedAt, orDash(s.Description)}
	}
	return e.print(v, []string{"SECRET", "NAME", "VERSIONS", "EXPIRES", "UPDATED", "DESCRIPTION"}, rows)
}

func (e *env) printVersions(v any, all ...client.SecretVersion) error {
	rows := make([][]string, len(all))
	for i, s := range all {
		rows[i] = []string{s.ID, strconv.Itoa(s.Version), s.Status, s.CreatedAt}
	}
	return e.print(v, []string{"VERSION ID", "VERSION", "STATUS", "CREATED"}, rows)
}

type secretCreateCmd struct {
	Name        string `arg:"" help:"Name: A-Z, a-z, 0-9, _ and -."`
	Description string `help:"Description."`
	Expires     string `help:"Time past which the secret gives out no value, e.g. 2027-01-01T00:00:00Z."`
	valueFlags
}

// Help is shown by panal secret create --help.
func (secretCreateCmd) Help() string {
	return "For example: printf %s \"$PASSWORD\" | panal secret create db-password"
}

// Run creates a secret.
func (c *secretCreateCmd) Run(e *env) error {
	value, err := c.read(e)
	if err != nil {
		return err
	}
	fields := map[string]any{}
	if c.Description != "" {
		fields["description"] = c.Description
	}
	if c.Expires != "" {
		fields["expired_at"] = c.Expires
	}
	s, err := e.api.CreateSecret(e.ctx, c.Name, value, fields)
	if err != nil {
		return err
	}
	for i := range s.Versions {
		s.Versions[i].Value = "" // it was just given; it need not stand in a log
	}
	return e.printSecrets(s, s)
}

type secretListCmd struct{}

// Run lists secrets.
func (c *secretListCmd) Run(e *env) error {
	all, err := e.api.Secrets(e.ctx)
	if err != nil {
		return err
	}
	return e.printSecrets(all, all...)
}

type secretGetCmd struct{ secretArg }

// Run shows a secret.
func (c *secretGetCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	s, err := e.api.Secret(e.ctx, id, false)
	if err != nil {
		return err
	}
	return e.printSecrets(s, s)
}

type secretValueCmd struct {
	secretArg
	Version int `help:"Version number; default: the newest active one."`
}

// Run prints a value.
func (c *secretValueCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	s, err := e.api.Secret(e.ctx, id, true)
	if err != nil {
		return err
	}
	for _, v := range slices.Backward(s.Versions) {
		if c.Version != 0 && v.Version != c.Version || c.Version == 0 && v.Status != "active" {
			continue
		}
		if v.Value == "" && v.Status != "active" {
			return plat.Errorf(plat.ErrForbidden, "version %d is inactive; panal secret version activate %s %d", v.Version, c.Secret, v.Version)
		}
		if v.Value == "" {
			return plat.Errorf(plat.ErrForbidden, "your role sees no values")
		}
		text, err := base64.StdEncoding.DecodeString(v.Value)
		if err != nil {
			return fmt.Errorf("decode the value: %w", err)
		}
		if e.json {
			return e.printJSON(map[string]any{"id": s.ID, "name": s.Name, "version": v.Version, "value": string(text)})
		}
		_, err = e.stdout.Write(text)
		return err
	}
	if c.Version != 0 {
		return plat.NotFound("version", c.Version)
	}
	return plat.Errorf(plat.ErrNotFound, "the secret has no active version")
}

type secretUpdateCmd struct {
	secretArg
	Description *string `help:"New description."`
	Expires     *string `help:"New time past which the secret gives out no value; never takes it away."`
}

// Run changes a secret.
func (c *secretUpdateCmd) Run(e *env) error {
	fields := map[string]any{}
	if c.Description != nil {
		fields["description"] = *c.Description
	}
	if c.Expires != nil {
		if fields["expired_at"] = any(*c.Expires); *c.Expires == "never" {
			fields["expired_at"] = nil
		}
	}
	if len(fields) == 0 {
		return plat.Errorf(plat.ErrInvalid, "nothing to change; give --description or --expires")
	}
	id, err := c.id(e)
	if err != nil {
		return err
	}
	s, err := e.api.UpdateSecret(e.ctx, id, fields)
	if err != nil {
		return err
	}
	return e.printSecrets(s, s)
}

type secretDeleteCmd struct{ secretArg }

// Run deletes a secret.
func (c *secretDeleteCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	if err := e.api.DeleteSecret(e.ctx, id); err != nil {
		return err
	}
	e.say("secret %s deleted", id)
	return nil
}

type secretVersionCmd struct {
	List       secretVersionListCmd       `cmd:"" help:"List a secret's versions."`
	Add        secretVersionAddCmd        `cmd:"" help:"Add the next version; its value comes from standard input or a file."`
	Activate   secretVersionActivateCmd   `cmd:"" help:"Make a version active."`
	Deactivate secretVersionDeactivateCmd `cmd:"" help:"Make a version inactive: it gives out no value."`
	Delete     secretVersionDeleteCmd     `cmd:"" help:"Delete a version."`
}

// versionArgs are the arguments of commands about a version.
type versionArgs struct {
	secretArg
	Version int `arg:"" help:"Version number."`
}

// ids returns the ids of secret and version.
func (a versionArgs) ids(e *env) (id, version string, err error) {
	if id, err = a.id(e); err != nil {
		return "", "", err
	}
	s, err := e.api.Secret(e.ctx, id, false)
	if err != nil {
		return "", "", err
	}
	for _, v := range s.Versions {
		if v.Version == a.Version {
			return id, v.ID, nil
		}
	}
	return "", "", plat.NotFound("version", a.Version)
}

type secretVersionListCmd struct{ secretArg }

// Run lists versions.
func (c *secretVersionListCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	s, err := e.api.Secret(e.ctx, id, false)
	if err != nil {
		return err
	}
	return e.printVersions(s.Versions, s.Versions...)
}

type secretVersionAddCmd struct {
	secretArg
	valueFlags
}

// Run adds a version.
func (c *secretVersionAddCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	value, err := c.read(e)
	if err != nil {
		return err
	}
	v, err := e.api.AddSecretVersion(e.ctx, id, value)
	if err != nil {
		return err
	}
	return e.printVersions(v, v)
}

type secretVersionActivateCmd struct{ versionArgs }

// Run makes a version active.
func (c *secretVersionActivateCmd) Run(e *env) error {
	return setSecretVersion(e, c.versionArgs, "active")
}

type secretVersionDeactivateCmd struct{ versionArgs }

// Run makes a version inactive.
func (c *secretVersionDeactivateCmd) Run(e *env) error {
	return setSecretVersion(e, c.versionArgs, "inactive")
}

func setSecretVersion(e *env, a versionArgs, status string) error {
	id, version, err := a.ids(e)
	if err != nil {
		return err
	}
	v, err := e.api.SetSecretVersion(e.ctx, id, version, status)
	if err != nil {
		return err
	}
	return e.printVersions(v, v)
}

type secretVersionDeleteCmd struct{ versionArgs }

// Run deletes a version.
func (c *secretVersionDeleteCmd) Run(e *env) error {
	id, version, err := c.ids(e)
	if err != nil {
		return err
	}
	if err := e.api.DeleteSecretVersion(e.ctx, id, version); err != nil {
		return err
	}
	e.say("version %d deleted", c.Version)
	return nil
}
