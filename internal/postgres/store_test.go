package postgres_test

import (
	"context"
	"log/slog"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/pgtest"
	"github.com/quashdev/quash/internal/postgres"
	"github.com/quashdev/quash/internal/storetest"
)

func open(t testing.TB, url string) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), postgres.Config{URL: url, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func connect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.WithoutCancel(t.Context())) })
	return c
}

func exec(t testing.TB, c *pgx.Conn, query string) {
	t.Helper()
	if _, err := c.PgConn().Exec(t.Context(), query).ReadAll(); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// lose makes the tables after fn what they were before, as the fail-over to a
// standby that lagged does.
func lose(t *testing.T, url string, fn func()) {
	t.Helper()
	db := connect(t, url)
	rows, err := db.Query(t.Context(), `SELECT tablename::text FROM pg_tables WHERE schemaname = 'quash' AND tablename NOT IN ('gate', 'life', 'migration')`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	back := "BEGIN; SET LOCAL session_replication_role = replica;"
	exec(t, db, "CREATE SCHEMA saved")
	for _, table := range tables {
		exec(t, db, "CREATE TABLE saved."+table+" AS TABLE quash."+table)
		back += "DELETE FROM quash." + table + "; INSERT INTO quash." + table + " OVERRIDING SYSTEM VALUE TABLE saved." + table + ";"
	}
	fn()
	exec(t, db, back+"COMMIT; DROP SCHEMA saved CASCADE")
}

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		url := pgtest.Start(t)
		s := open(t, url)
		fail := postgres.Faulty(s)
		return storetest.Harness{
			Store: s,
			Reopen: func(t *testing.T) issuer.Store {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open(t, url)
				fail = postgres.Faulty(s)
				return s
			},
			Fail: func(faults ...storetest.Fault) { fail(faults...) },
			Request: func(t *testing.T, claim, value, reason string) (ticket uint64) {
				db := connect(t, url)
				if err := db.QueryRow(t.Context(), `SELECT quash.revoke($1, $2, $3)`, claim, value, reason).Scan(&ticket); err != nil {
					t.Fatal(err)
				}
				return ticket
			},
			Lose: func(t *testing.T, fn func()) { lose(t, url, fn) },
		}
	})
}

// To look whether there is a store makes none.
func TestExists(t *testing.T) {
	url := pgtest.Start(t)
	for _, want := range []bool{false, false, true} {
		if want {
			open(t, url)
		}
		found, err := postgres.Exists(t.Context(), url)
		if err != nil || found != want {
			t.Errorf("got %v, %v, want %v", found, err, want)
		}
	}
	if _, err := postgres.Exists(t.Context(), "postgres://127.0.0.1:1/nowhere?connect_timeout=1"); err == nil {
		t.Error("there is no server, and no error")
	}
}
