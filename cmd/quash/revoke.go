package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/quashdev/quash/client"
)

func (p *program) revoke() *cobra.Command {
	var r client.RevokeRequest
	var change client.Change
	cmd := p.changes(&cobra.Command{
		Use: "revoke CLAIM VALUE", Short: "End every token that has a value under a claim", Args: arguments(2, 2),
		Long: "End every token that was issued before now and has a value under a claim.\n\n" +
			"  quash revoke sub u_7            every token that a user holds now; the sessions go on without --end-sessions\n" +
			"  quash revoke client_id app      all that an application holds\n" +
			"  quash revoke tenant acme        or any claim that the accounts carry\n" +
			"  quash revoke kid KID            a stolen signing key, for ever\n" +
			"  quash revoke iss ISSUER         everything, by the server's own issuer\n" +
			"  quash revoke sub u_7 --issuer https://idp.example     the tokens that another issuer made (quash issuer add)",
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Claim, r.Value, r.Reason, r.DryRun = args[0], args[1], change.Reason, change.DryRun
			admin, err := p.revoker(cmd.Context(), "revoking")
			if err != nil {
				return err
			}
			if err := checkSubject(cmd.Context(), admin, r); err != nil {
				return err
			}
			e, err := admin.Revoke(cmd.Context(), r)
			return p.conclusion(cmd.Context(), e, err, func() {
				if r.Issuer != "" {
					p.sayf("%s", foreignText(e, r))
					return
				}
				p.sayf("%s", effectText(e))
				if e.Sessions == 0 && e.Tokens == 0 {
					p.sayf("no live session or token has %s %s", r.Claim, r.Value)
				}
			})
		},
	}, &change)
	cmd.Flags().StringVar(&r.Issuer, "issuer", "", "whose tokens, by their iss: a `NAME` (default: the server's own)")
	cmd.Flags().BoolVar(&r.EndSessions, "end-sessions", false, "end the sessions of these tokens too, so that nobody refreshes")
	return p.remote(cmd)
}

// foreignText says what became of a revocation of another issuer's tokens, of
// which nobody here knows how many there are.
func foreignText(e client.Effect, r client.RevokeRequest) string {
	if e.DryRun {
		return "dry run: would end every token of " + r.Issuer + " with " + r.Claim + " " + r.Value + "; nothing was changed"
	}
	text := fmt.Sprintf("revoked: every token of %s with %s %s; position %d", r.Issuer, r.Claim, r.Value, e.Position)
	if r.Claim == "sid" {
		text += "\nend the session at its issuer too: tokens that it makes later than the issuer's max lifetime and 11 minutes from now are accepted again"
	}
	return text
}

// checkSubject refuses the name of an account where its subject is meant: the
// revocation would succeed, and end nothing.
func checkSubject(ctx context.Context, admin client.Admin, r client.RevokeRequest) error {
	if r.Claim != "sub" || r.Issuer != "" {
		return nil
	}
	if a, found := named(ctx, admin, r.Value); found {
		return fmt.Errorf("%s is the name of %s: use quash session end-all %[1]s, or quash revoke sub %[2]s", r.Value, a.Subject)
	}
	return nil
}

func (p *program) verifier() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List the verifiers that are connected, or rely on the node still", Args: arguments(0, 0),
		Long: "List the verifiers that are connected to the node, and those that are not but hold a lease of\n" +
			"it or may accept tokens without. LEASE is how long they may yet rely on what they know, STALE\n" +
			"ROUTES how many of their routes accept tokens after that, and for how long.",
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
					rows = append(rows, []string{
						v.Name, v.Process, v.Key, number(v.Applied), number(v.Lag), leaseText(v), routesText(v), when(v.LastHeard), connectedText(v),
					})
				}
				p.table("no verifiers", []string{"NAME", "PROCESS", "KEY", "APPLIED", "LAG", "LEASE", "STALE ROUTES", "HEARD", "CONNECTED"}, rows)
			})
		},
	}
	return p.remote(group("verifier", "The verifiers that follow the log", list))
}

func leaseText(v client.Verifier) string {
	if v.LeaseMilliseconds == 0 {
		return "none"
	}
	return short(time.Duration(v.LeaseMilliseconds)*time.Millisecond) + " left"
}

func routesText(v client.Verifier) string {
	if v.StaleRoutes == 0 {
		return "none"
	}
	return fmt.Sprintf("%d, up to %s", v.StaleRoutes, short(time.Duration(v.ToleranceMilliseconds)*time.Millisecond))
}

func connectedText(v client.Verifier) string {
	if !v.Connected {
		return "no"
	}
	return when(v.Since)
}
