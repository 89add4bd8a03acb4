package main

import (
	"io"
	"net/url"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/quashdev/quash/server"
)

func (p *program) restore() *cobra.Command {
	s := newSettings()
	var config string
	cmd := &cobra.Command{
		Use: "restore FILE", Short: "Fill an empty database from a backup", Args: arguments(1, 1),
		Long: "Fill the database that --data or --store name, as serve has them, from a backup. It must be empty:\n" +
			"a data directory that no server has run in, or a database without Quash's tables. The database may\n" +
			"be of another kind than the one that was backed up.\n\n" +
			"Nobody knows what happened after the backup, so a new epoch begins: every access token of before is\n" +
			"refused, signing keys are made anew, and everybody logs in again. With --keep-sessions sessions go\n" +
			"on, and those that ended after the backup live again. API keys, passwords and accounts are as they\n" +
			"were: withdraw again what was withdrawn since.\n\n" +
			"Put the server's secret, which is not in the backup, where serve looks for it. A restore that breaks\n" +
			"off leaves a database that no server starts on: restore again, into an empty one.",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.load(config, p.environ, p.stderr)
			if err != nil {
				return err
			}
			told, done := p.counting("restoring")
			restored, err := server.Restore(cmd.Context(), c, func() (io.ReadCloser, error) { return os.Open(args[0]) }, told)
			done()
			if err != nil {
				return err
			}
			return p.print(restored, func() { p.restored(c, restored) })
		},
	}
	stored(cmd, s, "keep-sessions")
	cmd.Flags().StringVar(&config, "config", p.env("QUASH_CONFIG", ""), "`FILE` with the settings of serve (QUASH_CONFIG)")
	return cmd
}

func (p *program) restored(c server.Config, r server.Restored) {
	p.fields(
		"restored into", place(c), "backup of", r.Taken.Local().Format(seconds), "accounts", strconv.Itoa(r.Accounts), "sessions", strconv.Itoa(r.Sessions),
		"log", count(int(r.Records), "record"), "epoch", number(r.Epoch),
	)
	if !c.KeepSessions {
		p.sayf("\nEverybody logs in again. Withdraw again what was withdrawn since the backup: API keys, passwords, accounts.")
	}
	p.sayf("For eleven minutes no revocation is confirmed: verifiers from before may hold leases that nobody remembers. All hold all the same.")
	p.sayf("Before the server starts, put its secret where it looks for it; it is not in the backup.")
}

// place says where a server keeps what it knows, without what could be secret.
func place(c server.Config) string {
	u, err := url.Parse(c.Store)
	switch {
	case c.Store == "":
		return c.Data
	case err != nil:
		return "the database of --store"
	}
	return u.Scheme + "://" + u.Host + u.Path
}
