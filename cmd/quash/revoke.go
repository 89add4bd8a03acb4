package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/quashdev/quash/client"
)

func (p *program) revoke() *cobra.Command {
	var r client.RevokeRequest
	var change client.Change
	cmd := changes(&cobra.Command{
		Use: "revoke CLAIM VALUE", Short: "End every token that has a value under a claim", Args: arguments(2, 2),
		Long: "End every token that was issued before now and has a value under a claim.\n\n" +
			"  quash revoke sub u_7            all that a user holds\n" +
			"  quash revoke client_id app      all that an application holds\n" +
			"  quash revoke tenant acme        or any claim that the accounts carry\n" +
			"  quash revoke kid KID            a stolen signing key, for ever",
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Claim, r.Value, r.Reason, r.DryRun = args[0], args[1], change.Reason, change.DryRun
			admin, err := p.admin("revoking")
			if err != nil {
				return err
			}
			if err := checkSubject(cmd.Context(), admin, r); err != nil {
				return err
			}
			e, err := admin.Revoke(cmd.Context(), r)
			if err != nil {
				return err
			}
			return p.print(e, func() {
				p.sayf("%s", effectText(e))
				if e.Sessions == 0 && e.Tokens == 0 {
					p.sayf("no live session or token has %s %s", r.Claim, r.Value)
				}
			})
		},
	}, &change)
	cmd.Flags().BoolVar(&r.EndSessions, "end-sessions", false, "end the sessions of these tokens too, so that nobody refreshes")
	return p.remote(cmd)
}

// checkSubject refuses the name of an account where its subject is meant: the
// revocation would succeed, and end nothing.
func checkSubject(ctx context.Context, admin client.Admin, r client.RevokeRequest) error {
	if r.Claim != "sub" {
		return nil
	}
	if a, found := named(ctx, admin, r.Value); found {
		return fmt.Errorf("%s is the name of %s: use quash session end-all %[1]s, or quash revoke sub %[2]s", r.Value, a.Subject)
	}
	return nil
}

func (p *program) verifier() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List the verifiers that are connected", Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := p.admin("listing verifiers")
			if err != nil {
				return err
			}
			all, err := admin.Verifiers(cmd.Context())
			if err != nil {
				return err
			}
			return p.print(all, func() {
				var rows [][]string
				for _, v := range all {
					rows = append(rows, []string{v.Name, v.Process, v.Key, number(v.Applied), number(v.Lag), when(v.LastHeard), when(v.Since)})
				}
				p.table("no verifiers are connected", []string{"NAME", "PROCESS", "KEY", "APPLIED", "LAG", "HEARD", "SINCE"}, rows)
			})
		},
	}
	return p.remote(group("verifier", "The verifiers that follow the log", list))
}
