package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/quashdev/quash/client"
)

// The exit statuses.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnconfirmed = 3
	exitInterrupted = 130
)

// program is one run of the command line.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	environ        []string

	json      bool
	url       string
	keyFile   string
	keyFrom   string // where the API key came from, once there is one
	plaintext bool

	wait  time.Duration // for the confirmation of a change
	blind bool          // the API key may not see who confirmed it
}

// run carries out a command line and returns the exit status: 0, 1 where the
// command failed, 2 where it was not understood, 3 where a change stands that
// is not confirmed yet, 130 where ctx ended first.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, environ []string) int {
	p := &program{stdin: stdin, stdout: stdout, stderr: stderr, environ: environ}
	root := p.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var usage *usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage):
		p.complain(err)
		return exitUsage
	case ctx.Err() != nil:
		p.complain(errors.New("interrupted"))
		return exitInterrupted
	case errors.Is(err, errUnconfirmed):
		return exitUnconfirmed
	}
	p.complain(p.advise(ctx, err))
	return exitFailed
}

// advise adds to an error what only the command line knows: which server was
// called, and with whose key.
func (p *program) advise(ctx context.Context, err error) error {
	var unreached *url.Error
	var refused *client.Problem
	switch {
	case errors.Is(err, http.ErrSchemeMismatch):
		return fmt.Errorf("the server at %s speaks http: use http://", p.url)
	case errors.As(err, &unreached):
		return fmt.Errorf("no server answers at %s: %w; quash serve starts one, and --url or QUASH_URL says where it is", p.url, unreached.Err)
	case errors.As(err, &refused) && (refused.Status == http.StatusUnauthorized || refused.Status == http.StatusForbidden):
		return fmt.Errorf("%w; the key is from %s", err, p.keyFrom)
	case (isNotFound(err) || errors.Is(err, errNoAccount)) && p.misdirected(ctx):
		return fmt.Errorf("there is no administration at %s; is it the private listener? its default is http://%s", p.url, defaultPrivate)
	}
	return err
}

// misdirected reports whether the server is a listener without administration:
// to such a one every name is unknown.
func (p *program) misdirected(ctx context.Context) bool {
	admin, err := p.admin("")
	if err == nil {
		_, err = admin.Log(ctx)
	}
	return isNotFound(err)
}

func isNotFound(err error) bool {
	var p *client.Problem
	return errors.As(err, &p) && p.Code == client.CodeNotFound
}

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "quash",
		Short:         "Revocable JSON Web Tokens",
		Long:          "Quash issues JSON Web Tokens that can be revoked, and tells every service that verifies them.\n`quash demo` shows it; `quash serve` begins.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE:          verbless,
	}
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok && unknown.GetSpecifiedShortnames() != "" {
			return misuse(cmd, "%v; put -- before a value that begins with a dash", err)
		}
		return misuse(cmd, "%v", err)
	})
	root.PersistentFlags().BoolVar(&p.json, "json", false, "print JSON, for programs")
	root.AddCommand(
		p.demo(), p.demoResource(), p.serve(), p.account(), p.session(), p.revoke(), p.verifier(), p.tail(),
		p.log(), p.token(), p.key(), p.oauthClient(), p.issuer(), p.audit(), p.backup(), p.restore(), p.version(),
	)
	return root
}

// usageError is a command line that was not understood.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

// misuse returns a usageError that says where to look.
func misuse(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...) + "; see " + cmd.CommandPath() + " --help"}
}

// arguments wants as many arguments as use names: at least low, at most high.
func arguments(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < low || len(args) > high {
			return misuse(cmd, "want %s, got %s", strings.TrimSuffix(cmd.UseLine(), " [flags]"), count(len(args), "argument"))
		}
		return nil
	}
}

// group returns a command that only has others below it.
func group(use, short string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs, RunE: verbless}
	cmd.AddCommand(verbs...)
	return cmd
}

// verbless answers a command line that ends before its verb, or has a verb
// that there is not.
func verbless(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) > 0:
		return misuse(cmd, "%s has no verb %q%s", cmd.CommandPath(), args[0], suggestion(cmd, args[0]))
	case cmd.HasParent():
		return misuse(cmd, "%s needs a verb", cmd.CommandPath())
	}
	return cmd.Help()
}

// suggestion names the verbs that somebody who mistyped one may have meant.
func suggestion(cmd *cobra.Command, typed string) string {
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(typed); len(near) > 0 {
		return " (did you mean " + strings.Join(near, " or ") + "?)"
	}
	return ""
}

// remote gives cmd, and those below it, the flags of verbs that call a server.
func (p *program) remote(cmd *cobra.Command) *cobra.Command {
	flags := cmd.PersistentFlags()
	flags.StringVar(&p.url, "url", p.env("QUASH_URL", "http://"+defaultPrivate), "private listener of the server, a `URL` (QUASH_URL)")
	flags.StringVar(&p.keyFile, "key-file", "", "`FILE` with the API key (default: QUASH_ADMIN_KEY, then admin.key in QUASH_DATA or ./quash-data)")
	flags.BoolVar(&p.plaintext, "plaintext", false, "allow http to another host, where the network encrypts underneath")
	return cmd
}

// env returns the value of an environment variable, or otherwise a default.
func (p *program) env(name, otherwise string) string {
	for _, pair := range p.environ {
		if value, ok := strings.CutPrefix(pair, name+"="); ok && value != "" {
			otherwise = value
		}
	}
	return otherwise
}

// admin returns the calls of the private listener. On a terminal a call that
// takes long shows that it does.
func (p *program) admin(doing string) (client.Admin, error) {
	c, err := p.client(doing)
	if err != nil {
		return client.Admin{}, err
	}
	return c.Admin(), nil
}

func (p *program) client(doing string) (*client.Client, error) {
	if !strings.Contains(p.url, "://") {
		return nil, fmt.Errorf("--url %q: begin it with http:// or https://", p.url)
	}
	key, err := p.apiKey()
	if err != nil {
		return nil, err
	}
	c, err := client.New(client.Config{
		URL: p.url, Key: key, Plaintext: p.plaintext,
		HTTP: &http.Client{Timeout: 90 * time.Second, Transport: p.patient(doing)},
	})
	if errors.Is(err, client.ErrNotEncrypted) {
		return nil, fmt.Errorf("%s is not encrypted and leaves this machine: use https, or --plaintext where the network encrypts underneath", p.url)
	}
	return c, err
}

// maxKeyFile bounds what is read of a key's file.
const maxKeyFile = 4 << 10

func (p *program) apiKey() (string, error) {
	name, made := p.keyFile, filepath.Join(p.env("QUASH_DATA", defaultData), "admin.key")
	if name == "" {
		_, err := os.Stat(made)
		key := p.env("QUASH_ADMIN_KEY", "")
		switch {
		case key != "" && err == nil:
			p.keyFrom = "QUASH_ADMIN_KEY; unset it to use " + made
			return key, nil
		case key != "":
			p.keyFrom = "QUASH_ADMIN_KEY"
			return key, nil
		case errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("no API key: set QUASH_ADMIN_KEY or --key-file, or QUASH_DATA to the server's data directory, or run this where %s is", made)
		}
		name = made
	}
	p.keyFrom = name
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("API key: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return "", fmt.Errorf("API key: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

func (p *program) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print what was built, and from what", Args: arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			v := built()
			return p.print(v, func() { p.sayf("quash %s (%s, %s)", v.Version, v.Revision, v.Go) })
		},
	}
}

type build struct {
	Version  string `json:"version"`
	Revision string `json:"revision"`
	Go       string `json:"go"`
}

func built() build {
	b := build{Version: "(devel)", Revision: "unknown revision"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Go = info.GoVersion
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.Revision = s.Value
		}
	}
	return b
}
