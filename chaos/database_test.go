//go:build linux

package chaos_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/quashdev/quash/internal/pgtest"
)

// database is the PostgreSQL server that nodes share, and an application that
// makes its revocations there.
type database struct {
	cluster *pgtest.Cluster
	paths   paths // of the nodes in their order, and of the application
	pool    *pgxpool.Pool
}

// newDatabase starts a server.
func newDatabase(t *testing.T) *database {
	t.Helper()
	return &database{cluster: pgtest.New(t, pgtest.Options{})}
}

// path makes a path to the database, and returns the URL at its other end.
func (d *database) path() (p *proxy, url string, err error) {
	if p, err = newProxy(socket(d.cluster)); err != nil {
		return nil, "", err
	}
	d.paths = append(d.paths, p)
	return p, fmt.Sprintf("postgres://quash@%s/postgres?sslmode=disable&pool_max_conns=8", p.address()), nil
}

func socket(c *pgtest.Cluster) string { return filepath.Join(c.Dir(), ".s.PGSQL.5432") }

// connect has an application come, once nodes have made their tables.
func (d *database) connect(ctx context.Context) error {
	_, url, err := d.path()
	if err != nil {
		return err
	}
	d.pool, err = pgxpool.New(ctx, url)
	return err
}

// moves has everybody speak to another server from now on.
func (d *database) moves(to *pgtest.Cluster) {
	d.cluster = to
	d.paths.each(func(p *proxy) { p.lead(socket(to)) })
}

func (d *database) close() {
	if d.pool != nil {
		d.pool.Close()
	}
	d.paths.close()
}

// query asks a server for one value.
func query[T any](t *testing.T, c *pgtest.Cluster, text string) (value T) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), c.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if err := conn.QueryRow(t.Context(), text).Scan(&value); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return value
}

func execute(t *testing.T, c *pgtest.Cluster, text string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), c.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), text); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}
