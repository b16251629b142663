// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strconv"

	"panal/internal/client"
	"panal/internal/plat"
)

type ipRuleCmd struct {
	Add    ipRuleAddCmd    `cmd:"" help:"Let a range of addresses in."`
	List   ipRuleListCmd   `cmd:"" help:"List the ranges that are let in; none means everybody."`
	Show   ipRuleShowCmd   `cmd:"" help:"Show a rule."`
	Update ipRuleUpdateCmd `cmd:"" help:"Change a rule."`
	Delete ipRuleDeleteCmd `cmd:"" help:"Delete a rule."`
	Check  ipRuleCheckCmd  `cmd:"" help:"Tell whether an address is let in."`
}

// Help is shown by panal ip-rule --help.
func (ipRuleCmd) Help() string {
	return `Without rules, everybody with credentials is let in; with rules, only who comes from
an address that one of them holds. They are for admins. A change that would shut out
the address it comes from is refused, unless --force; an admin on the server's own
machine, over loopback, is always let in. Behind a proxy, start the server with
--trusted-proxies: else all requests come from the proxy's address.

	panal ip-rule add 203.0.113.0/24 --description office
	panal ip-rule check 198.51.100.9`
}

// forceFlag is shared by changes that may shut their maker out.
type forceFlag struct {
	Force bool `help:"Also when it shuts out the address that this command comes from."`
}

type ipRuleArg struct {
	ID string `arg:"" name:"rule" help:"Rule id, as panal ip-rule list shows it."`
}

func ipRuleHeader() []string { return []string{"RULE", "CIDR", "DESCRIPTION", "CREATED"} }

func ipRuleRow(r client.IPRule) []string {
	return []string{r.ID, r.CIDR, r.Description, r.CreatedAt}
}

func (e *env) printIPRule(r client.IPRule, err error) error {
	if err != nil {
		return err
	}
	return e.print(r, ipRuleHeader(), [][]string{ipRuleRow(r)})
}

type ipRuleAddCmd struct {
	forceFlag
	CIDR        string `arg:"" help:"203.0.113.0/24, 2001:db8::/32, or one address."`
	Description string `help:"What it is."`
}

// Run adds a rule.
func (c *ipRuleAddCmd) Run(e *env) error {
	return e.printIPRule(e.api.CreateIPRule(e.ctx, c.CIDR, c.Description, c.Force))
}

type ipRuleListCmd struct{}

// Run lists rules.
func (ipRuleListCmd) Run(e *env) error {
	all, err := e.api.IPRules(e.ctx)
	if err != nil {
		return err
	}
	rows := make([][]string, len(all))
	for i, r := range all {
		rows[i] = ipRuleRow(r)
	}
	return e.print(all, ipRuleHeader(), rows)
}

type ipRuleShowCmd struct{ ipRuleArg }

// Run shows a rule.
func (c *ipRuleShowCmd) Run(e *env) error { return e.printIPRule(e.api.IPRule(e.ctx, c.ID)) }

type ipRuleUpdateCmd struct {
	ipRuleArg
	forceFlag
	CIDR        *string `name:"cidr" help:"New range."`
	Description *string `help:"New description."`
}

// Run changes a rule.
func (c *ipRuleUpdateCmd) Run(e *env) error {
	if c.CIDR == nil && c.Description == nil {
		return plat.Errorf(plat.ErrInvalid, "nothing to change: give --cidr or --description")
	}
	return e.printIPRule(e.api.UpdateIPRule(e.ctx, c.ID, client.IPRuleChange{CIDR: c.CIDR, Description: c.Description}, c.Force))
}

type ipRuleDeleteCmd struct {
	ipRuleArg
	forceFlag
}

// Run deletes a rule.
func (c *ipRuleDeleteCmd) Run(e *env) error {
	return e.printIPRule(e.api.DeleteIPRule(e.ctx, c.ID, c.Force))
}

type ipRuleCheckCmd struct {
	Address string `arg:"" help:"IPv4 or IPv6 address."`
}

// Run checks an address.
func (c *ipRuleCheckCmd) Run(e *env) error {
	ok, err := e.api.CheckIP(e.ctx, c.Address)
	if err != nil {
		return err
	}
	return e.print(struct {
		Accessible bool   `json:"accessible"`
		IPAddress  string `json:"ip_address"`
	}{ok, c.Address}, []string{"ADDRESS", "ACCESSIBLE"}, [][]string{{c.Address, strconv.FormatBool(ok)}})
}
