package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/quashdev/quash/server"
)

// stored gives cmd the flags that name a store, as serve has them, and those
// besides.
func stored(cmd *cobra.Command, s *settings, besides ...string) {
	for _, name := range append([]string{"data", "store"}, besides...) {
		cmd.Flags().AddFlag(s.flags.Lookup(name))
	}
}

func (p *program) backup() *cobra.Command {
	s := newSettings()
	var config string
	cmd := &cobra.Command{
		Use: "backup FILE", Short: "Write all that the server's database holds into one file", Args: arguments(1, 1),
		Long: "Write accounts, sessions, keys, the log and the audit into one file, as they are at one moment.\n\n" +
			"It reads the database that --data or --store name, as serve has them. A server that runs on the\n" +
			"embedded database makes the backup itself: name it by --url or QUASH_URL; the API key needs the\n" +
			"scope backup.\n\n" +
			"The server's secret is not in the file: keep a copy of it elsewhere. Guard the file like the\n" +
			"database: it has what can be guessed from, if not what is sealed.",
		RunE: func(cmd *cobra.Command, args []string) error {
			write, err := p.source(cmd, s, config)
			if err != nil {
				return err
			}
			size, err := create(args[0], func(w io.Writer) error { return write(cmd.Context(), w) })
			if err != nil {
				return err
			}
			result := struct {
				File  string `json:"file"`
				Bytes int64  `json:"bytes"`
			}{args[0], size}
			return p.print(result, func() {
				p.sayf("%s: %d bytes", args[0], size)
				p.sayf("The server's secret is not in it; without that, nobody stays logged in after a restore.")
			})
		},
	}
	stored(cmd, s)
	cmd.Flags().StringVar(&config, "config", p.env("QUASH_CONFIG", ""), "`FILE` with the settings of serve (QUASH_CONFIG)")
	return p.remote(cmd)
}

// source returns what writes the backup: a running server where one is named,
// and otherwise this process.
func (p *program) source(cmd *cobra.Command, s *settings, config string) (func(context.Context, io.Writer) error, error) {
	here := cmd.Flags().Changed("data") || cmd.Flags().Changed("store")
	named := cmd.Flags().Changed("url")
	if here && named {
		return nil, misuse(cmd, "want either --url, for a server that runs, or the database by --data or --store")
	}
	if named || !here && p.env("QUASH_URL", "") != "" {
		admin, err := p.admin("reading the backup")
		if err != nil {
			return nil, err
		}
		return admin.Backup, nil
	}
	c, err := s.load(config, p.environ, p.stderr)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, w io.Writer) error {
		told, done := p.counting("backing up")
		defer done()
		err := server.Backup(ctx, c, w, told)
		if errors.Is(err, server.ErrInUse) {
			err = fmt.Errorf("a server runs on %s: have it make the backup with --url, whose default is http://%s", c.Data, defaultPrivate)
		}
		return err
	}, nil
}

// create makes a file that only its owner may read, as a whole or not at all,
// where there is none, and returns its size.
func create(path string, write func(io.Writer) error) (size int64, err error) {
	if _, err := os.Lstat(path); err == nil {
		return 0, fmt.Errorf("%s exists: choose another name, or remove it", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".quash-backup-*") // with mode 0600
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	out := bufio.NewWriterSize(f, 1<<16)
	err = write(out)
	if err == nil {
		err = errors.Join(out.Flush(), f.Sync())
	}
	info, errStat := f.Stat()
	if err := errors.Join(err, errStat, f.Close()); err != nil {
		return 0, err
	}
	return info.Size(), publish(f.Name(), path)
}

// publish gives a file its name, unless another has it.
func publish(temporary, path string) error {
	err := os.Link(temporary, path)
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%s exists: choose another name, or remove it", path)
	case err != nil: // not every file system has links
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	_ = dir.Sync() // which not every system can do
	return dir.Close()
}

// counting shows on a terminal how far something is, a few times a second.
func (p *program) counting(doing string) (told func(what string, rows int), done func()) {
	if !terminal(p.stderr) {
		return nil, func() {}
	}
	var shown time.Time
	told = func(what string, rows int) {
		if time.Since(shown) > 200*time.Millisecond {
			shown = time.Now()
			fmt.Fprintf(p.stderr, "\r\x1b[K%s … %d %s", doing, rows, what)
		}
	}
	return told, func() {
		if !shown.IsZero() {
			fmt.Fprint(p.stderr, "\r\x1b[K")
		}
	}
}
