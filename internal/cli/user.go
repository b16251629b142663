// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"strings"
	"time"

	"panal/internal/client"
	"panal/internal/plat"
)

type userCmd struct {
	List   userListCmd   `cmd:"" help:"List users, oldest first."`
	Add    userAddCmd    `cmd:"" help:"Add a user; admins only."`
	Role   userRoleCmd   `cmd:"" help:"Change a user's role; admins only."`
	Remove userRemoveCmd `cmd:"" help:"Delete a user and end its tokens; admins only."`
}

// Help is shown by panal user --help.
func (userCmd) Help() string {
	return `A user has one role: admin (everything), developer (everything but users, tokens
of others, datasources and IP rules), or regular (reads only). The last admin who
holds a token can be neither removed nor demoted.

	panal user add mika@example.com --role developer
	panal token create --user-of mika@example.com --name laptop`
}

// userArg is the argument of commands about a user.
type userArg struct {
	Who string `arg:"" name:"user" help:"User id or e-mail address."`
}

// userID returns the id of a user that is named by id or e-mail address.
func (e *env) userID(who string) (string, error) {
	if !strings.Contains(who, "@") {
		return strings.TrimPrefix(who, "user-"), nil
	}
	all, err := e.api.Users(e.ctx)
	if err != nil {
		return "", err
	}
	var ids []string
	for _, u := range all {
		if u.Email == who {
			return u.ID, nil
		}
		if strings.EqualFold(u.Email, who) {
			ids = append(ids, u.ID)
		}
	}
	switch len(ids) {
	case 0:
		return "", plat.NotFound("user", who)
	case 1:
		return ids[0], nil
	}
	return "", plat.Errorf(plat.ErrInvalid, "%d users have the address %q in another case; give the id: %s", len(ids), who, strings.Join(ids, ", ")) // older versions took them
}

func userHeader() []string { return []string{"USER", "EMAIL", "ROLE", "NAME", "CREATED"} }

func userRow(u client.User) []string {
	name := ""
	if u.DisplayName != nil {
		name = *u.DisplayName
	}
	return []string{u.ID, u.Email, u.Role, name, u.CreatedAt}
}

func (e *env) printUser(u client.User, err error) error {
	if err != nil {
		return err
	}
	return e.print(u, userHeader(), [][]string{userRow(u)})
}

type userListCmd struct{}

// Run lists users.
func (userListCmd) Run(e *env) error {
	all, err := e.api.Users(e.ctx)
	if err != nil {
		return err
	}
	rows := make([][]string, len(all))
	for i, u := range all {
		rows[i] = userRow(u)
	}
	return e.print(all, userHeader(), rows)
}

type userAddCmd struct {
	Email    string `arg:"" help:"E-mail address; one user each in the organization."`
	Role     string `help:"admin, developer or regular." required:"" enum:"admin,developer,regular"`
	Name     string `help:"Display name."`
	Language string `help:"Preferred language: ja or en." default:"en" enum:"ja,en"`
}

// Run adds a user.
func (c *userAddCmd) Run(e *env) error {
	return e.printUser(e.api.CreateUser(e.ctx, client.NewUser{Email: c.Email, DisplayName: c.Name, PreferredLanguage: c.Language, Role: c.Role}))
}

type userRoleCmd struct {
	userArg
	Role string `arg:"" help:"admin, developer or regular." enum:"admin,developer,regular"`
}

// Run changes a role.
func (c *userRoleCmd) Run(e *env) error {
	id, err := e.userID(c.Who)
	if err != nil {
		return err
	}
	return e.printUser(e.api.SetRole(e.ctx, id, c.Role))
}

type userRemoveCmd struct{ userArg }

// Run deletes a user.
func (c *userRemoveCmd) Run(e *env) error {
	id, err := e.userID(c.Who)
	if err != nil {
		return err
	}
	return e.printUser(e.api.DeleteUser(e.ctx, id))
}

type tokenCmd struct {
	List   tokenListCmd   `cmd:"" help:"List tokens, without their secrets."`
	Create tokenCreateCmd `cmd:"" help:"Make a token. Its secret is printed this once."`
	Revoke tokenRevokeCmd `cmd:"" help:"End a token, at once."`
}

// Help is shown by panal token --help.
func (tokenCmd) Help() string {
	return `Everybody manages the own tokens; admins those of all users of the organization,
with --user-of. A token's secret is stored as its SHA-256 only: it can't be shown
again, only replaced.

	panal token create --name laptop --expires-in 720h
	panal token revoke tok-0123456789abcdef`
}

// ownerFlag says whose tokens a command is about.
type ownerFlag struct {
	UserOf string `name:"user-of" help:"User id or e-mail address; default: who calls." placeholder:"USER"`
}

func (f ownerFlag) id(e *env) (string, error) {
	who := f.UserOf
	if who == "" {
		who = e.api.User()
	}
	if who == "" {
		return "", plat.InvalidField("user-of", "say whose tokens: these credentials do not tell who calls")
	}
	return e.userID(who)
}

func tokenHeader() []string { return []string{"TOKEN", "NAME", "CREATED", "EXPIRES"} }

func tokenRow(t client.Token) []string {
	expires := "never"
	if t.ExpiresAt != nil {
		expires = *t.ExpiresAt
	}
	return []string{t.ID, t.Name, t.CreatedAt, expires}
}

type tokenListCmd struct{ ownerFlag }

// Run lists tokens.
func (c *tokenListCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	all, err := e.api.Tokens(e.ctx, id)
	if err != nil {
		return err
	}
	rows := make([][]string, len(all))
	for i, t := range all {
		rows[i] = tokenRow(t)
	}
	return e.print(all, tokenHeader(), rows)
}

type tokenCreateCmd struct {
	ownerFlag
	Name      string        `help:"What it is for."`
	ExpiresIn time.Duration `name:"expires-in" help:"How long it is good for, e.g. 720h; default: for ever." placeholder:"DURATION"`
}

// Run makes a token.
func (c *tokenCreateCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	expires := ""
	switch {
	case c.ExpiresIn < 0:
		return plat.InvalidField("expires-in", "can't be negative")
	case c.ExpiresIn > 0:
		expires = time.Now().Add(c.ExpiresIn).UTC().Format(time.RFC3339)
	}
	t, err := e.api.CreateToken(e.ctx, id, c.Name, expires)
	if err != nil {
		return err
	}
	if !e.json {
		e.say("keep it now: it is not shown again")
	}
	return e.print(t, append(tokenHeader(), "SECRET"), [][]string{append(tokenRow(t), t.Secret)})
}

type tokenRevokeCmd struct {
	ownerFlag
	ID string `arg:"" name:"token" help:"Token id, as panal token list shows it."`
}

// Run ends a token.
func (c *tokenRevokeCmd) Run(e *env) error {
	if !strings.HasPrefix(c.ID, "tok-") { // a secret on a command line is in logs soon
		return plat.Errorf(plat.ErrInvalid, "token: give its id (tok-…, see panal token list), not its secret")
	}
	id, err := c.id(e)
	if err != nil {
		return err
	}
	t, err := e.api.RevokeToken(e.ctx, id, c.ID)
	if err != nil {
		return fmt.Errorf("revoke %s: %w", c.ID, err)
	}
	return e.print(t, tokenHeader(), [][]string{tokenRow(t)})
}
