package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quashdev/quash/client"
)

func (p *program) oauthClient() *cobra.Command {
	return p.remote(group(
		"client", "Clients: programs that are registered to have tokens",
		p.clientCreate(), p.clientList(), p.clientShow(), p.clientChange(), p.clientReplace(), p.clientDelete(),
	))
}

// clientFlags are the flags that describe a client.
type clientFlags struct {
	client.ClientSettings
	keys string
}

func (s *clientFlags) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&s.Name, "name", "", "what people call it")
	flags.StringSliceVar(&s.Grants, "grant", nil, "refresh_token, to have sessions, or client_credentials, for tokens of its own; can be repeated")
	flags.StringSliceVar(&s.Scopes, "scope", nil, "member that the scope of its tokens may have; can be repeated")
	flags.StringSliceVar(&s.Audience, "audience", nil, "aud of its tokens (default: the server's); can be repeated")
	flags.StringVar(&s.keys, "keys", "", "`FILE` with its public keys, a JSON Web Key Set, for the method private_key_jwt")
}

// maxKeySet bounds what is read of a file with keys.
const maxKeySet = 64 << 10

// read reads the file that a flag names, if there is one.
func (s *clientFlags) read() error {
	if s.keys == "" {
		return nil
	}
	f, err := os.Open(s.keys)
	if err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	defer f.Close()
	if s.Keys, err = io.ReadAll(io.LimitReader(f, maxKeySet)); err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	if !json.Valid(s.Keys) {
		return fmt.Errorf("keys: %s is not JSON", s.keys)
	}
	return nil
}

func (p *program) clientCreate() *cobra.Command {
	s := clientFlags{}
	method := ""
	cmd := &cobra.Command{
		Use: "create CLIENT_ID", Short: "Register a client and print its secret, this once", Args: arguments(1, 1),
		Long: "Register a client and print its secret on the standard output; it is not shown again.\n\n" +
			"  quash client create shop --grant refresh_token --scope orders:read    for a program that keeps sessions\n" +
			"  quash client create nightly --grant client_credentials                for one that acts for itself\n" +
			"  quash client create app --method none --grant refresh_token           for one that cannot keep a secret",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(s.Grants) == 0 {
				return misuse(cmd, "want at least one --grant")
			}
			if err := s.read(); err != nil {
				return err
			}
			admin, err := p.admin("registering the client")
			if err != nil {
				return err
			}
			return p.clientSecret(admin.CreateClient(cmd.Context(), client.NewRegistration{
				ID: args[0], Method: method, Name: s.Name, Keys: s.Keys, Grants: s.Grants, Scopes: s.Scopes, Audience: s.Audience,
			}))
		},
	}
	cmd.Flags().StringVar(&method, "method", "client_secret_basic", "how it shows who it is: client_secret_basic, client_secret_post, private_key_jwt or none")
	s.flags(cmd)
	return cmd
}

// clientSecret prints a client with a new secret, alone on the standard output.
func (p *program) clientSecret(c client.NewClientSecret, err error) error {
	if err != nil {
		return err
	}
	return p.print(c, func() {
		what := fmt.Sprintf("client %s (%s, %s)", c.ID, c.Method, strings.Join(c.Grants, ", "))
		if c.Secret == "" {
			p.sayf("%s has no secret", what)
			return
		}
		fmt.Fprintln(p.stderr, visible(what+"; its secret is shown this once:"))
		p.sayf("%s", c.Secret)
	})
}

func (p *program) clientList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List registered clients", Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := p.admin("listing clients")
			if err != nil {
				return err
			}
			clients, err := admin.Clients(cmd.Context())
			if err != nil {
				return err
			}
			return p.print(clients, func() {
				var rows [][]string
				for _, c := range clients {
					rows = append(rows, []string{c.ID, c.Method, strings.Join(c.Grants, ","), cmp.Or(strings.Join(c.Scopes, ","), "-"), used(c.LastUsed)})
				}
				p.table("no clients", []string{"CLIENT_ID", "METHOD", "GRANTS", "SCOPES", "USED"}, rows)
			})
		},
	}
}

func (p *program) clientShow() *cobra.Command {
	return &cobra.Command{
		Use: "show CLIENT_ID", Short: "Show a client", Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := p.admin("reading the client")
			if err != nil {
				return err
			}
			c, err := admin.Client(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return p.print(c, func() {
				overlap := ""
				if time.Now().Before(c.PreviousUntil) {
					overlap = "ends " + when(c.PreviousUntil)
				}
				p.fields("client_id", c.ID, "name", c.Name, "method", c.Method, "grants", strings.Join(c.Grants, " "), "scopes", strings.Join(c.Scopes, " "),
					"audience", strings.Join(c.Audience, " "), "created", when(c.Created), "used", used(c.LastUsed), "old secret", overlap)
			})
		},
	}
}

func (p *program) clientChange() *cobra.Command {
	s, ch := clientFlags{}, client.Change{}
	cmd := &cobra.Command{
		Use: "change CLIENT_ID", Short: "Change what the flags name; the rest stays", Args: arguments(1, 1),
		Long: "Change what the flags name of a client; the rest stays.\n" +
			"Where its scopes, audience or grants are others then, its access tokens die, and its sessions go on with new ones.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := s.read(); err != nil {
				return err
			}
			ctx := cmd.Context()
			admin, err := p.revoker(ctx, "changing the client")
			if err != nil {
				return err
			}
			was, err := admin.Client(ctx, args[0])
			if err != nil {
				return err
			}
			e, err := admin.PutClient(ctx, args[0], s.over(cmd, was.ClientSettings), ch)
			return p.effect(ctx, e, err)
		},
	}
	s.flags(cmd)
	return p.changes(cmd, &ch)
}

// over returns what a client was, but for what the flags name.
func (s *clientFlags) over(cmd *cobra.Command, was client.ClientSettings) client.ClientSettings {
	for name, put := range map[string]func(){
		"name":     func() { was.Name = s.Name },
		"grant":    func() { was.Grants = s.Grants },
		"scope":    func() { was.Scopes = s.Scopes },
		"audience": func() { was.Audience = s.Audience },
		"keys":     func() { was.Keys = s.Keys },
	} {
		if cmd.Flags().Changed(name) {
			put()
		}
	}
	return was
}

func (p *program) clientReplace() *cobra.Command {
	var overlap time.Duration
	cmd := &cobra.Command{
		Use: "replace CLIENT_ID", Short: "Give a client a new secret; the old one works on for the overlap", Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := p.admin("replacing the secret")
			if err != nil {
				return err
			}
			return p.clientSecret(admin.ReplaceClientSecret(cmd.Context(), args[0], overlap))
		},
	}
	cmd.Flags().DurationVar(&overlap, "overlap", 24*time.Hour, "how long the old secret works on, 0 to 720h")
	return cmd
}

func (p *program) clientDelete() *cobra.Command {
	ch := client.Change{}
	return p.changes(&cobra.Command{
		Use: "delete CLIENT_ID", Short: "Delete a client and end all that it has", Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := p.revoker(cmd.Context(), "deleting the client")
			if err != nil {
				return err
			}
			e, err := admin.DeleteClient(cmd.Context(), args[0], ch)
			return p.effect(cmd.Context(), e, err)
		},
	}, &ch)
}
