// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"panal/internal/client"
	"panal/internal/plat"
)

type orgCmd struct {
	Create  orgCreateCmd  `cmd:"" help:"Create an organization with its first admin."`
	List    orgListCmd    `cmd:"" help:"List organizations, oldest first."`
	Show    orgShowCmd    `cmd:"" help:"Show an organization."`
	Usage   orgUsageCmd   `cmd:"" help:"Show what an organization holds."`
	Quota   orgQuotaCmd   `cmd:"" help:"Limit the bytes of an organization's files."`
	Suspend orgSuspendCmd `cmd:"" help:"Stop serving an organization; nothing of it is lost."`
	Resume  orgResumeCmd  `cmd:"" help:"Serve a suspended organization again."`
	Delete  orgDeleteCmd  `cmd:"" help:"Delete a suspended organization with everything of it."`
}

// Help is shown by panal org --help.
func (orgCmd) Help() string {
	return `Organizations share an installation and nothing else. They are the operator's: an
admin of the first organization, which the server made at its first start
('panal env' prints its credentials). An organization's own admin may ask for its
'show' and 'usage'.

  panal org create acme --quota 100GB
  panal org suspend acme
  panal org delete acme --yes`
}

type orgArg struct {
	Org string `arg:"" help:"Organization id or name."`
}

func orgHeader() []string { return []string{"ORGANIZATION", "NAME", "STATE", "QUOTA", "CREATED"} }

func orgRow(o client.Organization) []string {
	return []string{o.ID, o.Name, o.State, quotaText(o.StorageQuota), o.CreatedAt}
}

func quotaText(n int64) string {
	if n == 0 {
		return "none"
	}
	return strconv.FormatInt(n, 10)
}

func (e *env) printOrg(o client.Organization, err error) error {
	if err != nil {
		return err
	}
	return e.print(o, orgHeader(), [][]string{orgRow(o)})
}

type orgCreateCmd struct {
	Name       string    `arg:"" help:"Name: 1 to 63 of a-z, 0-9 and -."`
	AdminEmail string    `help:"E-mail of the first admin; default admin@NAME.localdomain."`
	AdminName  string    `help:"Display name of the first admin."`
	Quota      byteCount `help:"Bytes that its files may take, e.g. 10GB or 512MiB; 0: no limit." default:"0"`
}

// Help is shown by panal org create --help.
func (orgCreateCmd) Help() string {
	return `Prints the credentials of the first admin. They are shown only this once: the
server keeps a hash. As export lines they are good for eval in a shell.`
}

// Run creates an organization.
func (c *orgCreateCmd) Run(e *env) error {
	f, err := e.api.CreateOrganization(e.ctx, client.NewOrganization{
		Name: c.Name, AdminEmail: c.AdminEmail, AdminName: c.AdminName, StorageQuota: int64(c.Quota),
	})
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(f)
	}
	e.say("organization %s (%s) is there; its admin %s signs in with these, shown only now:", f.Name, f.ID, f.Admin.Email)
	_, err = fmt.Fprintf(e.stdout, "export ABEJA_ORGANIZATION_ID='%s'\nexport ABEJA_PLATFORM_USER_ID='%s'\nexport ABEJA_PLATFORM_PERSONAL_ACCESS_TOKEN='%s'\n", f.ID, f.Admin.ID, f.Token)
	return err
}

type orgListCmd struct{}

// Run lists organizations.
func (orgListCmd) Run(e *env) error {
	all, err := e.api.Organizations(e.ctx)
	if err != nil {
		return err
	}
	return e.print(all, orgHeader(), table(all, orgRow))
}

type orgShowCmd struct{ orgArg }

// Run shows an organization.
func (c *orgShowCmd) Run(e *env) error { return e.printOrg(e.api.Organization(e.ctx, c.Org)) }

type orgUsageCmd struct{ orgArg }

// Run shows what an organization holds.
func (c *orgUsageCmd) Run(e *env) error {
	u, err := e.api.OrganizationUsage(e.ctx, c.Org)
	if err != nil {
		return err
	}
	n := func(v int64) string { return strconv.FormatInt(v, 10) }
	return e.print(u, []string{"FILES", "BYTES", "QUOTA", "JOBS", "SERVICES", "LOG BYTES", "USERS"},
		[][]string{{n(u.Files), n(u.Bytes), quotaText(u.StorageQuota), n(u.Jobs), n(u.Services), n(u.LogBytes), n(u.Users)}})
}

type orgQuotaCmd struct {
	orgArg
	Bytes byteCount `arg:"" help:"Bytes that its files may take, e.g. 10GB or 512MiB; 0: no limit."`
}

// Help is shown by panal org quota --help.
func (orgQuotaCmd) Help() string {
	return `Counts the bytes of the files in the organization's channels. An upload that would
pass the quota is refused with 507 before its body is read; one of unknown length is
cut where the quota ends. A quota below what is stored deletes nothing.`
}

// Run sets a quota.
func (c *orgQuotaCmd) Run(e *env) error {
	return e.printOrg(e.api.SetQuota(e.ctx, c.Org, int64(c.Bytes)))
}

type orgSuspendCmd struct{ orgArg }

// Help is shown by panal org suspend --help.
func (orgSuspendCmd) Help() string {
	return `All requests of the organization are then 403, inference too, and its jobs that
wait are not started. Jobs that run go on to their end, and their logs and results
are kept. 'panal org resume' brings everything back.`
}

// Run suspends an organization.
func (c *orgSuspendCmd) Run(e *env) error { return e.printOrg(e.api.SuspendOrganization(e.ctx, c.Org)) }

type orgResumeCmd struct{ orgArg }

// Run resumes an organization.
func (c *orgResumeCmd) Run(e *env) error { return e.printOrg(e.api.ResumeOrganization(e.ctx, c.Org)) }

type orgDeleteCmd struct {
	orgArg
	Yes  bool          `help:"Don't ask for the name."`
	Wait time.Duration `help:"How long to wait until nothing is left; 0: don't wait." default:"10m"`
}

// Help is shown by panal org delete --help.
func (orgDeleteCmd) Help() string {
	return `Deletes files, datasets, jobs, models, deployments, logs, users and tokens, for ever,
and gives their bytes back. The organization has to be suspended first. Without --yes
its name is asked for. The server goes on when this command, or the server itself, is
interrupted. What was done in the organization stays in its audit (--audit-ttl).`
}

// Run deletes an organization.
func (c *orgDeleteCmd) Run(e *env) error {
	o, err := e.api.Organization(e.ctx, c.Org)
	if err != nil {
		return err
	}
	confirm := o.Name
	if !c.Yes {
		e.say("everything of organization %s (%s) will be deleted, for ever. Write its name to confirm:", o.Name, o.ID)
		line, err := bufio.NewReader(io.LimitReader(e.stdin, 1<<10)).ReadString('\n')
		if err != nil && line == "" {
			return plat.InvalidField("yes", "nothing was confirmed; write the name, or pass --yes")
		}
		confirm = strings.TrimSpace(line)
	}
	if o, err = e.api.DeleteOrganization(e.ctx, o.ID, confirm); err != nil {
		return err
	}
	for deadline := time.Now().Add(c.Wait); c.Wait > 0; {
		switch _, err := e.api.Organization(e.ctx, o.ID); {
		case errors.Is(err, plat.ErrNotFound):
			e.say("organization %s is deleted", o.Name)
			return nil
		case err != nil:
			return err
		case time.Now().After(deadline):
			return plat.Errorf(plat.ErrUnavailable, "organization %s is still being deleted after %s; the server goes on", o.Name, c.Wait)
		}
		select {
		case <-e.ctx.Done():
			return e.ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	return e.printOrg(o, nil)
}

// byteCount is a number of bytes as people write it: 1000, 10GB, 512MiB.
type byteCount int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *byteCount) UnmarshalText(text []byte) error {
	s := strings.ToUpper(strings.ReplaceAll(string(text), " ", ""))
	unit := 1.0
	for i, suffix := range []string{"K", "M", "G", "T", "P"} {
		if rest, ok := strings.CutSuffix(s, suffix+"IB"); ok {
			s, unit = rest, math.Pow(1024, float64(i+1))
		} else if rest, ok := strings.CutSuffix(strings.TrimSuffix(s, "B"), suffix); ok {
			s, unit = rest, math.Pow(1000, float64(i+1))
		}
	}
	n, err := strconv.ParseFloat(strings.TrimSuffix(s, "B"), 64)
	if err != nil || n < 0 || n*unit > 1<<60 || math.IsNaN(n) {
		return fmt.Errorf("%q is not a number of bytes such as 1000, 10GB or 512MiB", text)
	}
	*b = byteCount(n * unit)
	return nil
}
