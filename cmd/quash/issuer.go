package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/quashdev/quash/client"
)

func (p *program) issuer() *cobra.Command {
	return p.remote(group("issuer", "Other issuers, whose tokens can be revoked too", p.issuerAdd(), p.issuerList()))
}

func (p *program) issuerAdd() *cobra.Command {
	var n client.NewIssuer
	var same bool
	var lifetime time.Duration
	cmd := &cobra.Command{
		Use: "add NAME", Short: "Keep revocations of another issuer's tokens, or change how", Args: arguments(1, 1),
		Long: "Keep revocations of another issuer's tokens. NAME is the iss of its tokens, or what an\n" +
			"application's tokens without one are to be called. Verifiers that are configured with an issuer\n" +
			"start only once it was added here. A lifetime never gets shorter, and --same-subjects stays as\n" +
			"it was where it is left out. Where the lifetime gets longer, or the subjects become the same,\n" +
			"every token that the issuer made before is revoked: begin as it is to stay.\n\n" +
			"  quash issuer add https://idp.example --max-lifetime 24h\n" +
			"  quash issuer add before --max-lifetime 720h --same-subjects    an application's tokens from before Quash",
		RunE: func(cmd *cobra.Command, args []string) error {
			if lifetime < time.Second || lifetime%time.Second != 0 {
				return misuse(cmd, "--max-lifetime: want whole seconds, such as 24h")
			}
			n.Name, n.MaxLifetime = args[0], int64(lifetime/time.Second)
			if cmd.Flags().Changed("same-subjects") {
				n.SameSubjects = &same
			}
			admin, err := p.admin("adding the issuer")
			if err != nil {
				return err
			}
			in, err := admin.AddIssuer(cmd.Context(), n)
			if err != nil {
				return err
			}
			return p.print(in, func() {
				p.sayf("issuer %s: revocations are kept for tokens that live up to %s; %s", in.Name, time.Duration(in.MaxLifetime)*time.Second, subjectsText(in))
			})
		},
	}
	cmd.Flags().DurationVar(&lifetime, "max-lifetime", 24*time.Hour, "the longest that its tokens live, up to 10 years")
	cmd.Flags().BoolVar(&same, "same-subjects", false, "its subjects are those of this server: what revokes a sub here revokes it there (left out: as it was)")
	return cmd
}

func subjectsText(i client.Issuer) string {
	if i.SameSubjects {
		return "what revokes a subject here revokes it there"
	}
	return "its subjects are its own"
}

func (p *program) issuerList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the other issuers", Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := p.admin("listing issuers")
			if err != nil {
				return err
			}
			all, err := admin.Issuers(cmd.Context())
			if err != nil {
				return err
			}
			return p.print(all, func() {
				var rows [][]string
				for _, i := range all {
					subjects := "its own"
					if i.SameSubjects {
						subjects = "the same"
					}
					rows = append(rows, []string{i.Name, (time.Duration(i.MaxLifetime) * time.Second).String(), subjects})
				}
				p.table("no other issuers", []string{"NAME", "MAX LIFETIME", "SUBJECTS"}, rows)
			})
		},
	}
}
