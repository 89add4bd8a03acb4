package postgres

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/quashdev/quash/internal/feed"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migration brings the tables from the version before to its own. Programs from
// the version compatible on can work with them then.
type migration struct {
	version, compatible int
	sql                 string
}

// loadMigrations reads the files, whose names begin with their version and
// whose first line is "-- compatible: <version>".
func loadMigrations(files fs.FS) ([]migration, error) {
	names, err := fs.Glob(files, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	var all []migration
	for n, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		m := migration{version: n + 1, sql: string(text)}
		first, _, _ := strings.Cut(m.sql, "\n")
		m.compatible, err = strconv.Atoi(strings.TrimPrefix(first, "-- compatible: "))
		if err != nil || !strings.HasPrefix(name, fmt.Sprintf("migrations/%04d_", m.version)) {
			return nil, fmt.Errorf("migration %s: want the next version in its name and the oldest that it is compatible with in its first line", name)
		}
		all = append(all, m)
	}
	return all, nil
}

// migrationLock is held, until the end of its transaction, by who migrates.
const migrationLock = 0x7175617368 // "quash"

// migrate makes the tables, or brings them to the current version, in one
// transaction. Nodes that start at once wait for each other.
func migrate(ctx context.Context, c *pgx.Conn, all []migration) error {
	if err := ready(ctx, c); err != nil {
		return err
	}
	tx, err := c.Begin(ctx)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(migrationLock)); err != nil {
		return fmt.Errorf("migrate: wait for others that do: %w", err)
	}
	at, err := version(ctx, tx, all)
	if err != nil {
		return err
	}
	for _, m := range all[min(at, len(all)):] {
		if _, err := tx.Conn().PgConn().Exec(ctx, m.sql).ReadAll(); err != nil {
			return fmt.Errorf("migrate to version %d of the tables: %w", m.version, err)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO quash.migration VALUES ($1, $2)`, m.version, m.compatible); err != nil {
			return fmt.Errorf("migrate to version %d of the tables: %w", m.version, err)
		}
	}
	if err := begin(ctx, tx); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// ready checks what no migration can bring about.
func ready(ctx context.Context, c *pgx.Conn) error {
	var encoding string
	var number int
	var standby bool
	err := c.QueryRow(ctx, `SELECT current_setting('server_encoding'), current_setting('server_version_num')::int, pg_is_in_recovery()`).
		Scan(&encoding, &number, &standby)
	switch {
	case err != nil:
		return fmt.Errorf("ask what the database is: %w", err)
	case encoding != "UTF8":
		return fmt.Errorf("the database's encoding is %s; make one with ENCODING 'UTF8'", encoding)
	case number < 130000:
		return fmt.Errorf("the server is PostgreSQL %d; 13 or later is needed", number/10000)
	case standby:
		return errStandby
	}
	return nil
}

// version returns the version of the tables, 0 where there are none, and makes
// where it is kept.
func version(ctx context.Context, tx pgx.Tx, all []migration) (at int, err error) {
	// A schema that is there may be used by a role that may not make one.
	var there bool
	if err := tx.QueryRow(ctx, `SELECT to_regnamespace('quash') IS NOT NULL`).Scan(&there); err != nil {
		return 0, fmt.Errorf("look for the schema quash: %w", err)
	}
	if !there {
		if _, err := tx.Exec(ctx, `CREATE SCHEMA quash`); err != nil {
			return 0, fmt.Errorf("create the schema quash: %w; an administrator can, with CREATE SCHEMA quash AUTHORIZATION %s", err, pgx.Identifier{tx.Conn().Config().User}.Sanitize())
		}
	}
	if err := tx.QueryRow(ctx, `SELECT to_regclass('quash.migration') IS NOT NULL`).Scan(&there); err != nil {
		return 0, fmt.Errorf("look for the tables' version: %w", err)
	}
	if !there {
		_, err := tx.Exec(ctx, `CREATE TABLE quash.migration (version int PRIMARY KEY, compatible int NOT NULL, applied timestamptz NOT NULL DEFAULT now())`)
		if err != nil {
			return 0, fmt.Errorf("create tables in the schema quash: %w", err)
		}
	}
	var compatible int
	err = tx.QueryRow(ctx, `SELECT coalesce(max(version), 0), coalesce(max(compatible), 0) FROM quash.migration`).Scan(&at, &compatible)
	if err != nil {
		return 0, fmt.Errorf("read the tables' version: %w", err)
	}
	if compatible > len(all) {
		return 0, fmt.Errorf("the tables are of version %d, which a program for version %d cannot use: run a newer quash", at, len(all))
	}
	return at, nil
}

// begin gives a new log its id and its secret.
func begin(ctx context.Context, tx pgx.Tx) error {
	var id [16]byte
	var secret [32]byte
	_, _ = rand.Read(id[:])
	_, _ = rand.Read(secret[:])
	var zero feed.Digest
	_, err := tx.Exec(ctx, `INSERT INTO quash.meta VALUES (1, $1, 1, $2, 0, $3, 0, $3, 0, 1) ON CONFLICT DO NOTHING`,
		hex.EncodeToString(id[:]), secret[:], zero[:])
	if err == nil {
		_, err = tx.Exec(ctx, `INSERT INTO quash.life VALUES (1, gen_random_uuid()) ON CONFLICT DO NOTHING`)
	}
	if err != nil {
		return fmt.Errorf("begin the log: %w", err)
	}
	return nil
}

var errStandby = errors.New("the server is a standby, which cannot be written; name the primary, or add target_session_attrs=read-write to the URL")
