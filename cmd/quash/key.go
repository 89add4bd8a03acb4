package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/server"
)

func (p *program) key() *cobra.Command {
	return p.remote(group(
		"key", "API keys, of verifiers and administrators, and signing keys",
		p.keyCreate(), p.keyList(), p.keyReplace(), p.keyDelete(), p.keyRecover(),
		group("signing", "The keys that tokens are signed with", p.keySigningList(), p.keySigningRotate()),
	))
}

func (p *program) keyCreate() *cobra.Command {
	n := client.NewKey{}
	var verifier bool
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a key and print its secret, this once", Args: arguments(1, 1),
		Long: "Make a key and print its secret on the standard output; it is not shown again.\n\n" +
			"  quash key create orders --verifier              for a service that verifies tokens\n" +
			"  quash key create support --scope sessions       for a program that ends sessions",
		RunE: func(cmd *cobra.Command, args []string) error {
			n.Name = args[0]
			if verifier == (len(n.Scopes) > 0) {
				return misuse(cmd, "want either --verifier, or at least one --scope")
			}
			if verifier {
				n.Scopes = []string{"feed"}
			}
			admin, err := p.admin("making the key")
			if err != nil {
				return err
			}
			return p.secret(admin.CreateKey(cmd.Context(), n))
		},
	}
	cmd.Flags().BoolVar(&verifier, "verifier", false, "for a verifier: it opens the feed and nothing else")
	cmd.Flags().StringSliceVar(&n.Scopes, "scope", nil, "revoke, sessions, accounts, audit, keys, backup or clients; can be repeated")
	return cmd
}

// secret prints a new key: its secret alone on the standard output, what it
// is beside it.
func (p *program) secret(k client.NewSecret, err error) error {
	if err != nil {
		return err
	}
	return p.print(k, func() {
		fmt.Fprintln(p.stderr, visible(fmt.Sprintf("key %s (id %s, %s); its secret is shown this once:", k.Name, k.ID, strings.Join(k.Scopes, ", "))))
		p.sayf("%s", k.Secret)
	})
}

func (p *program) keyList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List API keys", Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := p.admin("listing keys")
			if err != nil {
				return err
			}
			keys, err := admin.Keys(cmd.Context())
			if err != nil {
				return err
			}
			return p.print(keys, func() {
				var rows [][]string
				for _, k := range keys {
					overlap := ""
					if time.Now().Before(k.PreviousUntil) {
						overlap = "old secret ends " + when(k.PreviousUntil)
					}
					rows = append(rows, []string{k.ID, k.Name, strings.Join(k.Scopes, ","), when(k.Created), used(k.LastUsed), overlap})
				}
				p.table("no keys", []string{"ID", "NAME", "SCOPES", "CREATED", "USED", ""}, rows)
			})
		},
	}
}

// used says when a key was used, which is known to the minute.
func used(t time.Time) string {
	if time.Since(t) < 2*time.Minute {
		return "just now"
	}
	return when(t)
}

// findKey returns the key that a person means by a name or an ID.
func findKey(ctx context.Context, admin client.Admin, which string) (client.Key, error) {
	keys, err := admin.Keys(ctx)
	if err != nil {
		return client.Key{}, err
	}
	keys = slices.DeleteFunc(keys, func(k client.Key) bool { return k.ID != which && k.Name != which })
	switch len(keys) {
	case 0:
		return client.Key{}, fmt.Errorf("no key has the name or the ID %q; quash key list shows them", which)
	case 1:
		return keys[0], nil
	}
	return client.Key{}, fmt.Errorf("%q is the ID of one key and the name of another: give the name of the one, or the ID of the other", which)
}

func (p *program) keyReplace() *cobra.Command {
	var overlap time.Duration
	cmd := &cobra.Command{
		Use: "replace NAME|ID", Short: "Give a key a new secret; the old one works on for the overlap", Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := p.admin("replacing the key")
			if err != nil {
				return err
			}
			k, err := findKey(cmd.Context(), admin, args[0])
			if err != nil {
				return err
			}
			return p.secret(admin.ReplaceKey(cmd.Context(), k.ID, overlap))
		},
	}
	cmd.Flags().DurationVar(&overlap, "overlap", 24*time.Hour, "how long the old secret works on, 0 to 720h")
	return cmd
}

func (p *program) keyDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME|ID", Short: "End a key at once", Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := p.admin("deleting the key")
			if err != nil {
				return err
			}
			k, err := findKey(cmd.Context(), admin, args[0])
			if err != nil {
				return err
			}
			if err := admin.DeleteKey(cmd.Context(), k.ID); err != nil {
				return err
			}
			return p.print(map[string]string{"deleted": k.ID}, func() { p.sayf("deleted key %s (id %s)", k.Name, k.ID) })
		},
	}
}

func (p *program) keySigningList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List signing keys; `quash revoke kid KID` ends a stolen one", Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := p.admin("listing signing keys")
			if err != nil {
				return err
			}
			keys, err := admin.SigningKeys(cmd.Context())
			if err != nil {
				return err
			}
			return p.print(keys, func() {
				var rows [][]string
				state := "signs"
				for _, k := range keys {
					rows = append(rows, []string{k.ID, k.Algorithm, cmp.Or(ended(k), state), when(k.Created)})
					if ended(k) == "" {
						state = "next"
					}
				}
				p.table("no signing keys", []string{"KID", "ALGORITHM", "STATE", "CREATED"}, rows)
			})
		},
	}
}

func (p *program) keySigningRotate() *cobra.Command {
	var now bool
	cmd := &cobra.Command{
		Use: "rotate", Short: "Have the next key sign from now on; tokens of the one before live on", Args: arguments(0, 0),
		Long: "Have the next key sign from now on. The one before stays published until its tokens have\n" +
			"expired, and nobody notices. The server does so by itself, every --key-lifetime.\n\n" +
			"A stolen key is not rotated but revoked: quash revoke kid KID ends its tokens at once.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := p.admin("rotating the signing key")
			if err != nil {
				return err
			}
			k, err := admin.RotateSigningKey(cmd.Context(), now)
			if err != nil {
				return err
			}
			return p.print(k, func() { p.sayf("key %s (%s) signs from now on", k.ID, k.Algorithm) })
		},
	}
	cmd.Flags().BoolVar(&now, "now", false, "though the next was published less than a day ago, and whoever keeps a JWKS may lack it")
	return cmd
}

// ended says why a key does not sign any more, and nothing of one that can.
func ended(k client.SigningKey) string {
	switch {
	case k.Withdrawn:
		return "revoked"
	case !k.Retired.IsZero():
		return "retired " + when(k.Retired)
	}
	return ""
}

func (p *program) keyRecover() *cobra.Command {
	s := newSettings()
	var config string
	cmd := &cobra.Command{
		Use: "recover NAME", Short: "Make an administrator's key in the database itself, where those that there were are lost", Args: arguments(1, 1),
		Long: "Make a key with every scope of an administrator, and print its secret, this once. It asks for no key,\n" +
			"but for the database that --data or --store name, as serve has them: stop a server that runs on the\n" +
			"embedded one; nodes on PostgreSQL may run. Then delete the key that is lost, with quash key delete.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if f := cmd.Flags(); f.Changed("url") || f.Changed("key-file") || f.Changed("plaintext") {
				return misuse(cmd, "want the database, by --data or --store: no server is asked")
			}
			c, err := s.load(config, p.environ, p.stderr)
			if err != nil {
				return err
			}
			k, err := server.RecoverAdminKey(cmd.Context(), c, args[0])
			if errors.Is(err, server.ErrInUse) {
				err = fmt.Errorf("a server runs on %s: stop it first", c.Data)
			}
			return p.secret(client.NewSecret{Key: client.Key{ID: k.ID, Name: k.Name, Scopes: k.Scopes, Created: k.Created}, Secret: k.Secret}, err)
		},
	}
	stored(cmd, s)
	cmd.Flags().StringVar(&config, "config", p.env("QUASH_CONFIG", ""), "`FILE` with the settings of serve (QUASH_CONFIG)")
	return cmd
}
