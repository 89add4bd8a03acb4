package sqlite

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/pressly/goose/v3"

	"github.com/quashdev/quash/internal/feed"
)

//go:embed migrations/*.sql
var migrations embed.FS

// memory is the path of a store that lives as long as it is open. It is a
// directory of its own rather than a database without a file, because only
// the write-ahead log gives readers a snapshot beside a writer.
const memory = ":memory:"

// file is the database file, held against other processes.
type file struct {
	writer, readers *sql.DB // each connection is opened anew, none is kept idle
	lock            *os.File
	temporary       string // directory to remove at the end
}

func openFile(ctx context.Context, path string) (f file, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	flush := "FULL"
	if path == memory {
		flush = "OFF"
		if f.temporary, err = os.MkdirTemp("", "quash-"); err != nil {
			return f, err
		}
		path = filepath.Join(f.temporary, "db")
		if err := copyBlank(path); err != nil {
			return f, err
		}
	}
	if f.lock, err = hold(path + ".lock"); err != nil {
		return f, err
	}
	if err := create(path); err != nil {
		return f, err
	}
	shared := []string{"busy_timeout(5000)", "foreign_keys(ON)", "synchronous(" + flush + ")"}
	// A page that many commits change is written to the file itself once for
	// 16 MiB of the log, and the writer keeps as much of the file in memory.
	large := []string{"wal_autocheckpoint(4096)", "cache_size(-16384)"}
	if f.writer, err = open(path, "rw", slices.Concat(shared, large, []string{"journal_mode(WAL)", "journal_size_limit(67108864)"})); err != nil {
		return f, err
	}
	if f.readers, err = open(path, "ro", shared); err != nil {
		return f, err
	}
	if err := f.checkPragmas(ctx, flush); err != nil {
		return f, err
	}
	if f.temporary == "" {
		if err := migrate(ctx, f.writer); err != nil {
			return f, err
		}
	}
	return f, f.begin(ctx)
}

// copyBlank makes a file that has the tables and nothing in them. Many tests
// open many stores, and making the tables anew is most of what that costs.
func copyBlank(path string) error {
	blank, err := blankFile()
	if err != nil {
		return err
	}
	return os.WriteFile(path, blank, 0o600)
}

var blankFile = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "quash-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "db")
	db, err := open(path, "rwc", nil)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(migrate(context.Background(), db), db.Close()); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// create makes the file if there is none, readable by its owner alone: SQLite
// gives the files beside it the same mode.
func create(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func open(path, mode string, pragmas []string) (*sql.DB, error) {
	query := url.Values{"mode": {mode}, "_pragma": pragmas}
	source := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: query.Encode()}
	db, err := sql.Open("sqlite", source.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxIdleConns(-1)
	return db, nil
}

// checkPragmas checks what durability rests on.
func (f file) checkPragmas(ctx context.Context, flush string) error {
	c, err := f.writer.Conn(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	want := map[string]string{
		"journal_mode": "wal", "foreign_keys": "1", "busy_timeout": "5000",
		"synchronous": map[string]string{"OFF": "0", "FULL": "2"}[flush],
	}
	for name, value := range want {
		var got string
		if err := c.QueryRowContext(ctx, "PRAGMA "+name).Scan(&got); err != nil {
			return fmt.Errorf("read pragma %s: %w", name, err)
		}
		if got != value {
			return fmt.Errorf("pragma %s is %s where %s is needed; the file must be on a local disk that SQLite's write-ahead log works on", name, got, value)
		}
	}
	return nil
}

// migrate makes the tables, or brings them to the current version.
func migrate(ctx context.Context, db *sql.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files,
		goose.WithLogger(goose.NopLogger()), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	if err := checkVersion(ctx, db, len(p.ListSources())); err != nil {
		return err
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// checkVersion refuses tables that a program for version own of them cannot use.
// A migration that leaves older programs behind says so in the pragma
// user_version, which commits with it.
func checkVersion(ctx context.Context, db *sql.DB, own int) error {
	var compatible int
	if err := db.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&compatible); err != nil {
		return fmt.Errorf("read the tables' version: %w", err)
	}
	if compatible > own {
		return fmt.Errorf("the tables need a program for version %d of them, and this one is for version %d: run a newer quash", compatible, own)
	}
	return nil
}

// begin gives a new log its id and its secret.
func (f file) begin(ctx context.Context) error {
	var id [16]byte
	var secret [32]byte
	_, _ = rand.Read(id[:])
	_, _ = rand.Read(secret[:])
	var zero feed.Digest
	_, err := f.writer.ExecContext(ctx, `INSERT INTO meta VALUES (1, ?, 1, ?, 0, ?, 0, ?, 0, 0) ON CONFLICT DO NOTHING`,
		hex.EncodeToString(id[:]), secret[:], zero[:], zero[:])
	if err != nil {
		return fmt.Errorf("begin the log: %w", err)
	}
	return nil
}

// group reads, on a connection of its own, which group committed last.
func (f file) group(ctx context.Context) (id uint64, err error) {
	err = f.writer.QueryRowContext(ctx, `SELECT group_id FROM meta`).Scan(&id)
	return id, err
}

func (f file) close() error {
	var errs []error
	for _, db := range []*sql.DB{f.readers, f.writer} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	if f.lock != nil {
		errs = append(errs, f.lock.Close())
	}
	if f.temporary != "" {
		errs = append(errs, os.RemoveAll(f.temporary))
	}
	return errors.Join(errs...)
}
