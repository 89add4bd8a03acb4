package main

import (
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
			return p.effect(admin.Revoke(cmd.Context(), r))
		},
	}, &change)
	cmd.Flags().BoolVar(&r.EndSessions, "end-sessions", false, "end the sessions of these tokens too, so that nobody refreshes")
	return p.remote(cmd)
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
				p.table([]string{"NAME", "PROCESS", "KEY", "APPLIED", "LAG", "HEARD", "SINCE"}, rows)
			})
		},
	}
	return p.remote(group("verifier", "The verifiers that follow the log", list))
}
