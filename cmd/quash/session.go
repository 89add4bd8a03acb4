package main

import (
	"github.com/spf13/cobra"

	"github.com/quashdev/quash/client"
)

func (p *program) session() *cobra.Command {
	return p.remote(group(
		"session", "Sessions: logins on devices",
		p.sessionList(), p.sessionOpen(), p.sessionEnd(), p.sessionEndAll(),
	))
}

func (p *program) sessionList() *cobra.Command {
	return &cobra.Command{
		Use: "list NAME|SUBJECT", Short: "List the live sessions of an account", Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := p.admin("listing sessions")
			if err != nil {
				return err
			}
			who, err := subject(cmd.Context(), admin, args[0])
			if err != nil {
				return err
			}
			sessions, err := admin.Sessions(cmd.Context(), who)
			if err != nil {
				return err
			}
			return p.print(sessions, func() {
				var rows [][]string
				for _, s := range sessions {
					rows = append(rows, []string{s.ID, s.Client, s.Device, s.Address, when(s.LastUsed), when(s.Expires)})
				}
				p.table("no live sessions", []string{"SESSION", "CLIENT", "DEVICE", "ADDRESS", "USED", "ENDS"}, rows)
			})
		},
	}
}

func (p *program) sessionOpen() *cobra.Command {
	var device client.Device
	cmd := &cobra.Command{
		Use: "open NAME|SUBJECT", Short: "Open a session without a password, and print its tokens", Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := p.admin("opening a session")
			if err != nil {
				return err
			}
			who, err := subject(cmd.Context(), admin, args[0])
			if err != nil {
				return err
			}
			t, err := admin.OpenSession(cmd.Context(), who, device)
			if err != nil {
				return err
			}
			return p.print(t, func() {
				p.fields("session", t.Session, "subject", t.Subject, "access token", t.AccessToken, "refresh token", t.RefreshToken)
			})
		},
	}
	cmd.Flags().StringVar(&device.Client, "client", "", "client_id of its tokens")
	cmd.Flags().StringVar(&device.Scope, "scope", "", "what a registered client is granted, separated by spaces (default: all that it may have)")
	cmd.Flags().StringVar(&device.Device, "device", "", "what the list of sessions shows")
	cmd.Flags().StringVar(&device.Address, "address", "", "the user's IP address")
	return cmd
}

func (p *program) sessionEnd() *cobra.Command {
	var change client.Change
	return p.changes(&cobra.Command{
		Use: "end SESSION", Short: "End a session and its tokens", Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := p.revoker(cmd.Context(), "ending the session")
			if err != nil {
				return err
			}
			e, err := admin.EndSession(cmd.Context(), args[0], change)
			return p.effect(cmd.Context(), e, err)
		},
	}, &change)
}

func (p *program) sessionEndAll() *cobra.Command {
	return p.accountEnd("end-all", "End all sessions of an account and their tokens", client.Admin.EndSessions)
}
