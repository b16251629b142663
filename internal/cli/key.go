// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strconv"

	"panal/internal/app"
	"panal/internal/config"
)

type keyCmd struct {
	List   keyListCmd   `cmd:"" help:"List the keys of the key file and what they have sealed."`
	Rotate keyRotateCmd `cmd:"" help:"Make a new key that seals from now on."`
	Prune  keyPruneCmd  `cmd:"" help:"Remove the keys that have nothing sealed any more."`
}

// keyFlags say whose keys are meant.
type keyFlags struct {
	Data     string `help:"Data directory of the server." default:"./panal-data" env:"PANAL_DATA" type:"path"`
	KeyFile  string `name:"key-file" help:"The key file; default: secret.key in the data directory." env:"PANAL_KEY_FILE" type:"path"`
	Database string `help:"The server's --database, if it has one." env:"PANAL_DATABASE"`
}

func (f keyFlags) config() (config.Server, error) {
	cfg := config.Server{Data: f.Data, KeyFile: f.KeyFile, Database: f.Database}
	return cfg, app.CheckDataDir(cfg)
}

type keyListCmd struct{ keyFlags }

// Run lists the keys.
func (c *keyListCmd) Run(e *env) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	all, err := app.Keys(e.ctx, cfg)
	if err != nil {
		return err
	}
	rows := make([][]string, len(all))
	for i, k := range all {
		rows[i] = []string{k.ID, strconv.FormatBool(k.Active), strconv.Itoa(k.Sealed)}
	}
	return e.print(all, []string{"KEY", "ACTIVE", "SEALED"}, rows)
}

type keyRotateCmd struct{ keyFlags }

// Help is shown by panal key rotate --help.
func (keyRotateCmd) Help() string {
	return `The server need not stop: it reads the file again within seconds and seals every
secret with the new key in the background. 'panal key list' shows how far it is;
then 'panal key prune' removes the old key. Download URLs signed with a key that was
pruned answer 403; clients fetch a fresh one. Back the key file up after a
rotation, and keep each copy as long as backups that were made with it.`
}

// Run makes a new key.
func (c *keyRotateCmd) Run(e *env) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	id, err := app.RotateKey(cfg)
	if err != nil {
		return err
	}
	return e.print(map[string]string{"key": id}, []string{"KEY"}, [][]string{{id}})
}

type keyPruneCmd struct{ keyFlags }

// Run removes keys that are not used.
func (c *keyPruneCmd) Run(e *env) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	gone, err := app.PruneKeys(e.ctx, cfg)
	if err != nil {
		return err
	}
	rows := make([][]string, len(gone))
	for i, id := range gone {
		rows[i] = []string{id}
	}
	if len(gone) == 0 {
		e.say("no key was removed: what is not active still opens secrets, or there is none; 'panal key list' shows it")
	}
	return e.print(map[string][]string{"removed": gone}, []string{"REMOVED"}, rows)
}
