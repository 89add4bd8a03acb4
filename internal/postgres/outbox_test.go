package postgres_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/pgtest"
	"github.com/quashdev/quash/internal/postgres"
)

// take takes what waits in the outbox.
func take(t *testing.T, s *postgres.Store) (values []string) {
	t.Helper()
	_, err := s.Update(t.Context(), func(tx issuer.Tx) error {
		values = nil
		list, err := tx.TakeRequests(100)
		for _, r := range list {
			values = append(values, r.Value)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// The request is part of the application's own transaction, at each level of
// isolation, whatever becomes of the application.
func TestP2TogetherWithTheApplicationsOwnChange(t *testing.T) {
	t.Parallel()
	url := pgtest.Start(t)
	s, app := open(t, url), connect(t, url)
	for _, level := range []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable} {
		for name, end := range map[string]func(pgx.Tx) error{
			"committed":   func(tx pgx.Tx) error { return tx.Commit(t.Context()) },
			"rolled back": func(tx pgx.Tx) error { return tx.Rollback(t.Context()) },
		} {
			tx, err := app.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(t.Context(), `SELECT quash.revoke('sub', $1, 'password changed')`, name); err != nil {
				t.Fatal(err)
			}
			if got := take(t, s); len(got) > 0 {
				t.Errorf("%s: before its end: got %q, want nothing", level, got)
			}
			if err := end(tx); err != nil {
				t.Fatal(err)
			}
			if got, want := strings.Join(take(t, s), " "), strings.ReplaceAll(name, "rolled back", ""); got != want {
				t.Errorf("%s, %s: got %q, want %q", level, name, got, want)
			}
		}
	}
	crashed := connect(t, url)
	exec(t, crashed, `BEGIN; SELECT quash.revoke('sub', 'crashed')`)
	exec(t, app, `SELECT pg_terminate_backend(`+fmt.Sprint(crashed.PgConn().PID())+`, 5000)`)
	if got := take(t, s); len(got) > 0 {
		t.Errorf("of an application that crashed: got %q, want nothing", got)
	}
}

// A request that commits late has a lower id than those that were taken before.
func TestARequestThatCommitsLateIsNotMissed(t *testing.T) {
	t.Parallel()
	url := pgtest.Start(t)
	s, late, early := open(t, url), connect(t, url), connect(t, url)
	exec(t, late, `BEGIN; SELECT quash.revoke('sub', 'late')`)
	exec(t, early, `SELECT quash.revoke('sub', 'early')`)
	if got := take(t, s); !slices.Equal(got, []string{"early"}) {
		t.Errorf("got %q, want the early one", got)
	}
	exec(t, late, `COMMIT`)
	if got := take(t, s); !slices.Equal(got, []string{"late"}) {
		t.Errorf("got %q, want the late one", got)
	}
}

func TestEachRequestIsTakenOnce(t *testing.T) {
	t.Parallel()
	const requests = 60
	url := pgtest.Start(t)
	app := connect(t, url)
	var mu sync.Mutex
	taken := map[uint64]int{}
	var g errgroup.Group
	for range 2 {
		s := open(t, url)
		for range 4 {
			g.Go(func() error {
				for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
					var list []issuer.Request
					_, err := s.Update(t.Context(), func(tx issuer.Tx) (err error) {
						list, err = tx.TakeRequests(3)
						return err
					})
					mu.Lock()
					for _, r := range list {
						taken[r.ID]++
					}
					all := len(taken) == requests
					mu.Unlock()
					if err != nil || all {
						return err
					}
				}
				return nil
			})
		}
	}
	for range requests {
		exec(t, app, `SELECT quash.revoke('sub', 'u1')`)
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for id, times := range taken {
		if times != 1 {
			t.Errorf("request %d was taken %d times", id, times)
		}
	}
	if len(taken) != requests {
		t.Errorf("got %d requests, want %d", len(taken), requests)
	}
}

func TestRevokeSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	url := pgtest.Start(t)
	open(t, url)
	app := connect(t, url)
	for name, c := range map[string][3]any{
		"claim: want":  {"", "u1", ""},
		"1 to 64":      {"a claim", "u1", ""},
		"value: want":  {"sub", "", ""},
		"1 to 512":     {"sub", strings.Repeat("x", 513), ""},
		"value":        {"sub", nil, ""},
		"claim":        {nil, "u1", ""},
		"reason: want": {"sub", "u1", "a\u0085b"},
		"256":          {"sub", "u1", strings.Repeat("ä", 257)},
	} {
		if _, err := app.Exec(t.Context(), `SELECT quash.revoke($1, $2, $3)`, c[0], c[1], c[2]); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v: got %v, want an error with %q", c, err, name)
		}
	}
	for _, c := range [][3]string{{"sub", "u1", strings.Repeat("ä", 256)}, {strings.Repeat("c", 64), strings.Repeat("ä", 256), ""}} {
		if _, err := app.Exec(t.Context(), `SELECT quash.revoke($1, $2, $3)`, c[0], c[1], c[2]); err != nil {
			t.Errorf("%v: %v", c, err)
		}
	}
}

// An application's role can ask, and can read and write nothing.
func TestAnApplicationMayOnlyAsk(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t, pgtest.Options{}).Database(t)
	s, admin, app := open(t, url), connect(t, url), connect(t, url)
	exec(t, admin, `CREATE ROLE shop`)
	exec(t, app, `SET ROLE shop`)
	refused := func(query string) {
		t.Helper()
		if _, err := app.Exec(t.Context(), query); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("%s: got %v, want permission denied", query, err)
		}
	}
	refused(`SELECT quash.revoke('sub', 'u1')`)
	exec(t, admin, `GRANT USAGE ON SCHEMA quash TO shop`)
	refused(`SELECT quash.revoke('sub', 'u1')`)
	exec(t, admin, `GRANT EXECUTE ON FUNCTION quash.revoke(text, text, text) TO shop`)
	exec(t, app, `CREATE TEMP TABLE outbox (x int); SELECT quash.revoke('sub', 'u1')`)
	for _, table := range []string{"outbox", "session", "account", "meta", "ticket"} {
		refused(`SELECT FROM quash.` + table)
		refused(`DELETE FROM quash.` + table)
	}
	if got := take(t, s); !slices.Equal(got, []string{"u1"}) {
		t.Errorf("got %q, want u1", got)
	}
}
