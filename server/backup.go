package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/quashdev/quash/internal/backup"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/postgres"
	"github.com/quashdev/quash/internal/sqlite"
)

// ErrInUse says that a running server has the embedded database open.
var ErrInUse = sqlite.ErrHeld

// Restored is what a restore has restored.
type Restored = backup.Summary

// Backup writes all that the store that c names holds at one moment to w, but
// not the secret. No server may have an embedded one open; several nodes may
// share the other. Told, if not nil, is told how many rows of one kind were
// written so far.
func Backup(ctx context.Context, c Config, w io.Writer, told func(what string, rows int)) error {
	store, err := openExisting(ctx, c)
	if err != nil {
		return err
	}
	return errors.Join(backup.Write(ctx, store, w, told), store.Close())
}

// openExisting opens a store where there is one, and makes none.
func openExisting(ctx context.Context, c Config) (issuer.Store, error) {
	c.complete()
	if path := filepath.Join(c.Data, databaseFile); c.Store == "" && !exists(path) {
		return nil, fmt.Errorf("there is no database at %s: name the data directory of the server", path)
	}
	if c.Store != "" {
		found, err := postgres.Exists(ctx, c.Store)
		if err != nil {
			return nil, err
		}
		if !found {
			return nil, errors.New("the database has no tables of Quash: name the one that the server uses")
		}
	}
	s := &Server{cfg: c, metrics: newMetrics()}
	return s.openStore(ctx)
}

// Restore fills the store that c names, which must be empty, from a backup, and
// begins a new epoch: everything issued before is dead once a server starts.
// Sessions are restored only where c keeps them. The file is read several times,
// through open, and as a whole before anything is written. A restore that breaks
// off leaves a store that no server starts on.
func Restore(ctx context.Context, c Config, open func() (io.ReadCloser, error), told func(what string, rows int)) (Restored, error) {
	c.complete()
	if err := makeData(c.Data); err != nil {
		return Restored{}, err
	}
	s := &Server{cfg: c, metrics: newMetrics()}
	store, err := s.openStore(ctx)
	if err != nil {
		return Restored{}, err
	}
	done, err := backup.Restore(ctx, store, open, backup.Options{KeepSessions: c.KeepSessions, Progress: told})
	return done, errors.Join(err, store.Close())
}
