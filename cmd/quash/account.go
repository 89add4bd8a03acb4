package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/quashdev/quash/client"
)

func (p *program) account() *cobra.Command {
	return p.remote(group(
		"account", "Accounts, their claims and passwords",
		p.accountCreate(), p.accountImport(), p.accountList(), p.accountShow(), p.accountPassword(), p.accountClaims(),
		p.accountEnd("deactivate", "End all that an account has and refuse its logins", client.Admin.Deactivate),
		p.accountEnd("reactivate", "Allow logins again; what ended stays dead", client.Admin.Reactivate),
		p.accountEnd("delete", "End all that an account has and delete it", client.Admin.DeleteAccount),
	))
}

// subject returns the subject that a person means by a name or a subject.
func subject(ctx context.Context, admin client.Admin, who string) (string, error) {
	a, err := find(ctx, admin, who)
	return a.Subject, err
}

// errNoAccount begins what is said of a text that means no account.
var errNoAccount = errors.New("no account has the name or the subject")

func find(ctx context.Context, admin client.Admin, who string) (client.Account, error) {
	bySubject, err := found(admin.Account(ctx, who))
	if err != nil {
		return client.Account{}, err
	}
	byName, err := found(admin.AccountNamed(ctx, who))
	var refused *client.Problem
	if errors.As(err, &refused) && refused.Code == client.CodeInvalid {
		err = nil // what cannot be a name can still be a subject
	}
	switch {
	case err != nil:
		return client.Account{}, err
	case bySubject.Subject == "" && byName.Subject == "":
		return client.Account{}, fmt.Errorf("%w %q; quash account list shows them", errNoAccount, who)
	case bySubject.Subject == "":
		return byName, nil
	case byName.Subject != "" && byName.Subject != bySubject.Subject:
		return client.Account{}, fmt.Errorf("%q is the subject of one account and the name of another, %s: give the subject of the one, or the name of the other, that only it has", who, byName.Subject)
	}
	return bySubject, nil
}

// found turns the problem that there is no such account into an empty one.
func found(a client.Account, err error) (client.Account, error) {
	if isNotFound(err) {
		return client.Account{}, nil
	}
	return a, err
}

// named returns the account that has a name which is not also a subject. Where
// the key may not look, it finds none.
func named(ctx context.Context, admin client.Admin, name string) (a client.Account, found bool) {
	if name == "" {
		return a, false
	}
	a, err := admin.AccountNamed(ctx, name)
	if err != nil || a.Subject == name {
		return a, false
	}
	_, err = admin.Account(ctx, name)
	return a, isNotFound(err)
}

func (p *program) accountCreate() *cobra.Command {
	var n client.NewAccount
	var claims string
	var fromStdin, without bool
	cmd := &cobra.Command{
		Use: "create [NAME]", Short: "Make an account", Args: arguments(0, 1),
		Long: "Make an account that logs in with a name and a password, which is asked for.\n\n" +
			"An application that keeps its own passwords makes subjects instead:\n  quash account create --subject u_7",
		RunE: func(cmd *cobra.Command, args []string) error {
			n.Name = strings.Join(args, "")
			without = without || n.Name == ""
			switch {
			case n.Name == "" && n.Subject == "":
				return misuse(cmd, "want a name or --subject")
			case without && fromStdin:
				return misuse(cmd, "a password needs a name, and no --no-password")
			}
			if claims != "" {
				n.Claims = json.RawMessage(claims)
			}
			return p.createAccount(cmd.Context(), n, without, fromStdin)
		},
	}
	cmd.Flags().StringVar(&n.Subject, "subject", "", "sub of its tokens (default: one is made up)")
	cmd.Flags().StringVar(&claims, "claims", "", `claims for its tokens, such as '{"role":"editor"}'`)
	cmd.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from the standard input")
	cmd.Flags().BoolVar(&without, "no-password", false, "give it no password: it cannot log in until it has one")
	return cmd
}

func (p *program) createAccount(ctx context.Context, n client.NewAccount, without, fromStdin bool) error {
	if err := checkClaims(n.Claims); err != nil {
		return err
	}
	admin, err := p.admin("making the account")
	if err != nil {
		return err
	}
	if !without {
		if n.Password, err = p.password(ctx, fromStdin); err != nil {
			return err
		}
	}
	a, err := admin.CreateAccount(ctx, n)
	if err != nil {
		return err
	}
	return p.print(a, func() { p.sayf("made account %s", accountText(a)) })
}

// checkClaims finds early what would be hard to see in the server's answer:
// that it was the shell who ate the quotes.
func checkClaims(doc json.RawMessage) error {
	if doc != nil && !json.Valid(doc) {
		return fmt.Errorf(`claims: %q is not JSON; quote it for the shell, as in '{"role":"editor"}'`, doc)
	}
	return nil
}

func accountText(a client.Account) string {
	if a.Name == "" {
		return a.Subject
	}
	return a.Name + " (subject " + a.Subject + ")"
}

func accountState(a client.Account) string {
	switch {
	case a.Deactivated:
		return "deactivated"
	case !a.HasPassword:
		return "no password"
	}
	return "active"
}

func (p *program) accountList() *cobra.Command {
	var after string
	limit := limit(100)
	cmd := &cobra.Command{
		Use: "list", Short: "List accounts", Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := p.admin("listing accounts")
			if err != nil {
				return err
			}
			page, err := admin.Accounts(cmd.Context(), after, int(limit))
			if err != nil {
				return err
			}
			return p.print(page, func() {
				var rows [][]string
				for _, a := range page.Items {
					rows = append(rows, []string{a.Subject, a.Name, accountState(a), when(a.Changed), string(a.Claims)})
				}
				p.table("no accounts", []string{"SUBJECT", "NAME", "STATE", "CHANGED", "CLAIMS"}, rows)
				if page.Next != "" {
					p.sayf("\nmore: quash account list --after %s", page.Next)
				}
			})
		},
	}
	cmd.Flags().StringVar(&after, "after", "", "begin after this subject")
	cmd.Flags().Var(&limit, "limit", "at most so many, 1 to 1000")
	return cmd
}

func (p *program) accountShow() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME|SUBJECT", Short: "Show an account", Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := p.admin("reading the account")
			if err != nil {
				return err
			}
			a, err := find(cmd.Context(), admin, args[0])
			if err != nil {
				return err
			}
			return p.print(a, func() {
				p.fields("subject", a.Subject, "name", a.Name, "state", accountState(a), "created", when(a.Created), "changed", when(a.Changed), "claims", string(a.Claims))
			})
		},
	}
}

func (p *program) accountPassword() *cobra.Command {
	var change client.Change
	var fromStdin bool
	cmd := p.changes(&cobra.Command{
		Use: "set-password NAME|SUBJECT", Short: "Set a password and end all that the account has", Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := p.revoker(cmd.Context(), "setting the password")
			if err != nil {
				return err
			}
			who, err := subject(cmd.Context(), admin, args[0])
			if err != nil {
				return err
			}
			password, err := p.password(cmd.Context(), fromStdin)
			if err != nil {
				return err
			}
			e, err := admin.SetPassword(cmd.Context(), who, password, change)
			return p.effect(cmd.Context(), e, err)
		},
	}, &change)
	cmd.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from the standard input")
	return cmd
}

func (p *program) accountClaims() *cobra.Command {
	var change client.Change
	return p.changes(&cobra.Command{
		Use: "claims NAME|SUBJECT JSON", Short: "Replace the claims; tokens with the old ones die", Args: arguments(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			claims := json.RawMessage(args[1])
			if err := checkClaims(claims); err != nil {
				return err
			}
			admin, err := p.revoker(cmd.Context(), "replacing the claims")
			if err != nil {
				return err
			}
			who, err := subject(cmd.Context(), admin, args[0])
			if err != nil {
				return err
			}
			e, err := admin.PutClaims(cmd.Context(), who, claims, change)
			return p.effect(cmd.Context(), e, err)
		},
	}, &change)
}

// accountEnd is a verb that needs nothing but an account.
func (p *program) accountEnd(verb, short string, call func(client.Admin, context.Context, string, client.Change) (client.Effect, error)) *cobra.Command {
	var change client.Change
	return p.changes(&cobra.Command{
		Use: verb + " NAME|SUBJECT", Short: short, Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := p.revoker(cmd.Context(), verb)
			if err != nil {
				return err
			}
			who, err := subject(cmd.Context(), admin, args[0])
			if err != nil {
				return err
			}
			e, err := call(admin, cmd.Context(), who, change)
			return p.conclusion(cmd.Context(), e, err, func() { p.sayf("%s", accountEffect(args[0], e)) })
		},
	}, &change)
}

func accountEffect(who string, e client.Effect) string {
	switch {
	case e.Event != "reactivated":
		return effectText(e)
	case e.DryRun:
		return "dry run: " + who + " could log in again; nothing was changed"
	}
	return who + " can log in again; what ended stays dead"
}

// maxPassword bounds what is read of a password, with room for a line's end.
const maxPassword = 1<<10 + 2

// password reads a password from the standard input where that was asked for,
// and otherwise from the terminal, twice and without showing it.
func (p *program) password(ctx context.Context, fromStdin bool) (string, error) {
	if fromStdin {
		text, err := io.ReadAll(io.LimitReader(p.stdin, maxPassword))
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
		return strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r"), nil
	}
	if !terminal(p.stdin) {
		return "", errors.New("there is no terminal to ask for the password: pipe it to --password-stdin")
	}
	first, err := p.ask(ctx, "Password (15 characters or more): ")
	if err != nil {
		return "", err
	}
	second, err := p.ask(ctx, "Again: ")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", errors.New("the two passwords differ; nothing was changed")
	}
	return first, nil
}

// ask reads a line that is not shown. Where ctx ends first, the terminal shows
// again what is typed.
func (p *program) ask(ctx context.Context, prompt string) (string, error) {
	fd := int(p.stdin.(*os.File).Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	fmt.Fprint(p.stderr, prompt)
	defer fmt.Fprintln(p.stderr)
	type answer struct {
		text []byte
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		text, err := term.ReadPassword(fd)
		answered <- answer{text, err}
	}()
	select {
	case a := <-answered:
		if a.err != nil {
			return "", fmt.Errorf("read the password: %w", a.err)
		}
		return string(a.text), nil
	case <-ctx.Done():
		return "", errors.Join(ctx.Err(), term.Restore(fd, before))
	}
}
