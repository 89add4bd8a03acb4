package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/pgtest"
	"github.com/quashdev/quash/internal/postgres"
	"github.com/quashdev/quash/internal/storetest"
)

// Connections are killed while nodes write: what was answered with success is
// there once, and what was not is not.
func TestP1DurableWhenConnectionsAreKilled(t *testing.T) {
	t.Parallel()
	url := pgtest.Start(t)
	s := open(t, url)
	killer := connect(t, url)
	var done atomic.Bool
	var g, killing errgroup.Group
	killing.Go(func() error {
		for !done.Load() {
			if _, err := killer.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`); err != nil {
				return err
			}
			if _, err := killer.Exec(t.Context(), `SELECT pg_sleep(0.05)`); err != nil {
				return err
			}
		}
		return nil
	})
	var succeeded, unknown atomic.Int64
	each := soak(15, 1500)
	for w := range 8 {
		g.Go(func() error {
			for n := range each {
				_, err := s.Update(t.Context(), appendOne(fmt.Sprint(w, "-", n)))
				switch {
				case err == nil:
					succeeded.Add(1)
				case errors.Is(err, issuer.ErrUnknown):
					unknown.Add(1)
				}
			}
			return nil
		})
	}
	_ = g.Wait()
	done.Store(true)
	if err := killing.Wait(); err != nil {
		t.Fatal(err)
	}
	var list []issuer.Revocation
	if err := s.View(t.Context(), func(r issuer.Reader) (err error) {
		list, err = r.History(0, 8*each)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, r := range list {
		if seen[r.Value] {
			t.Errorf("%s stands twice", r.Value)
		}
		seen[r.Value] = true
	}
	if got := int64(len(list)); got < succeeded.Load() || got > succeeded.Load()+unknown.Load() {
		t.Errorf("got %d records, want the %d that succeeded and at most %d more", got, succeeded.Load(), unknown.Load())
	}
	if err := storetest.Check(t.Context(), s); err != nil {
		t.Error(err)
	}
	t.Logf("soak: PostgreSQL's connections killed under load, %d changes acknowledged, none lost, none twice", succeeded.Load())
}

// soak is how much to do: a little, unless QUASH_SOAK asks for much.
func soak(few, many int) int {
	if os.Getenv("QUASH_SOAK") != "" {
		return many
	}
	return few
}

// A crash of the server loses nothing that was answered, and the store goes on
// by itself when the server is back.
func TestP1DurableWhenTheServerCrashes(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{Fsync: true})
	s := open(t, c.Database(t))
	crashes := soak(1, 50)
	for n := range crashes {
		if _, err := s.Update(t.Context(), appendOne(fmt.Sprint("before", n))); err != nil {
			t.Fatal(err)
		}
		c.Stop(t, "immediate")
		if _, err := s.Update(t.Context(), appendOne("meanwhile")); err == nil || !strings.Contains(err.Error(), "refuses connections") {
			t.Errorf("while the server is down: got %v, want an error that says so", err)
		}
		c.Start(t)
		if _, err := s.Update(t.Context(), appendOne(fmt.Sprint("after", n))); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Tail(t.Context(), feed.Mark{}, 10)
	if want := uint64(2 * crashes); err != nil || got.Log.Head.Position != want {
		t.Errorf("got head %d, %v, want %d", got.Log.Head.Position, err, want)
	}
	t.Logf("soak: PostgreSQL crashed %d times, %d changes acknowledged, none lost", crashes, 2*crashes)
}

// The server crashes in the middle of a commit. Numbers of transactions are given
// again after that, so they prove nothing, but the log does.
func TestP1DurableWhenTheServerCrashesInACommit(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{Fsync: true})
	s := open(t, c.Database(t))
	crash := func() {
		c.Stop(t, "immediate")
		c.Start(t)
	}
	for n, persisted := range []bool{true, false} {
		postgres.Interrupt(s, persisted, crash)
		commit, err := s.Update(t.Context(), appendOne(fmt.Sprint(n)))
		if want := uint64(n + 1); err != nil || commit.Last != want || commit.Head.Position != want {
			t.Errorf("persisted %v: got %+v, %v, want position %d", persisted, commit, err, want)
		}
	}
	postgres.Interrupt(s, true, crash)
	_, err := s.Update(t.Context(), func(tx issuer.Tx) error { return tx.PutNode(issuer.Node{ID: "n1"}) })
	if !errors.Is(err, issuer.ErrUnknown) || strings.Contains(err.Error(), "rolled back") {
		t.Errorf("without a record: got %v, want ErrUnknown, and no word of what is not known", err)
	}
	if err := storetest.Check(t.Context(), s); err != nil {
		t.Error(err)
	}
}

// With a synchronous standby, what is answered with success is there as well.
func TestP1DurableWhenTheStandbyTakesOver(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	standby := c.Standby(t, true)
	s := open(t, c.URL("postgres"))
	if _, err := s.Update(t.Context(), appendOne("1")); err != nil {
		t.Fatal(err)
	}
	c.Stop(t, "immediate")
	standby.Promote(t)
	got, err := open(t, standby.URL("postgres")).Tail(t.Context(), feed.Mark{}, 10)
	if err != nil || got.Log.Head.Position != 1 {
		t.Errorf("got head %d, %v, want 1", got.Log.Head.Position, err)
	}
}

// No notification comes through a pooler.
func TestChangesAreFoundWithoutNotifications(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	direct := c.Database(t)
	writer, deaf, app := open(t, direct), open(t, c.Bouncer(t, databaseOf(direct))), connect(t, direct)
	for name, change := range map[string]func(){
		"a revocation of another node": func() {
			if _, err := writer.Update(t.Context(), appendOne("1")); err != nil {
				t.Fatal(err)
			}
		},
		"a request of an application": func() { exec(t, app, `SELECT quash.revoke('sub', 'u1')`) },
	} {
		change()
		select {
		case <-deaf.Changed():
		case <-time.After(10 * time.Second):
			t.Errorf("%s: no hint", name)
		}
	}
}

func TestChangesOfOthersAreNotified(t *testing.T) {
	t.Parallel()
	url := pgtest.Start(t)
	a, b := open(t, url), open(t, url)
	for n := range 3 {
		if _, err := a.Update(t.Context(), appendOne(fmt.Sprint(n))); err != nil {
			t.Fatal(err)
		}
		select {
		case <-b.Changed():
		case <-time.After(10 * time.Second):
			t.Error("no hint")
		}
	}
}

func TestNodesThatStartAtOnceMigrateOnce(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{2, 8} {
		url := pgtest.Start(t)
		var g errgroup.Group
		ids := make([]string, nodes)
		for n := range nodes {
			g.Go(func() error {
				s, err := postgres.Open(t.Context(), postgres.Config{URL: url})
				if err != nil {
					return err
				}
				defer s.Close()
				return s.View(t.Context(), func(r issuer.Reader) error {
					l, err := r.Log()
					ids[n] = l.ID
					return err
				})
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			if id != ids[0] || id == "" {
				t.Errorf("%d nodes found logs %q, want one", nodes, ids)
			}
		}
	}
}

func TestTablesOfANewerVersion(t *testing.T) {
	t.Parallel()
	url := pgtest.Start(t)
	open(t, url)
	db := connect(t, url)
	exec(t, db, `INSERT INTO quash.migration VALUES (1000, 1)`)
	open(t, url)
	exec(t, db, `UPDATE quash.migration SET compatible = 1000 WHERE version = 1000`)
	if _, err := postgres.Open(t.Context(), postgres.Config{URL: url}); err == nil || !strings.Contains(err.Error(), "run a newer quash") {
		t.Errorf("got %v, want an error that says to run a newer quash", err)
	}
}

func TestAStandbyIsRefused(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	s := open(t, c.URL("postgres"))
	if _, err := s.Update(t.Context(), appendOne("1")); err != nil {
		t.Fatal(err)
	}
	_, err := postgres.Open(t.Context(), postgres.Config{URL: c.Standby(t, false).URL("postgres")})
	if err == nil || !strings.Contains(err.Error(), "standby") {
		t.Errorf("got %v, want an error that names the standby", err)
	}
}

func TestErrorsNameNoPassword(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"postgres://quash:hunter2@/nothing?host=/nowhere", "postgres://quash:hunter2@host:port/x", "postgres://quash:hun%ter2@h/x",
		"host=/nowhere password=hunter2 user=quash", "host=/nowhere password=hunter2 port=x", "postgres://quash:hunter2@h/x?pool_max_conns=many",
		"postgres://quash:hunter2@h/x?sslmode=wrong",
	} {
		_, err := postgres.Open(t.Context(), postgres.Config{URL: url})
		if err == nil || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "hun%ter2") {
			t.Errorf("%s: got %v, want an error without the password", url, err)
		}
	}
}

func TestTextThatCannotBeHeldIsRefusedAlone(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Start(t))
	if _, err := s.Update(t.Context(), appendOne("a\x00b")); err == nil || !strings.Contains(err.Error(), "U+0000") {
		t.Errorf("got %v, want an error that names the character", err)
	}
	err := s.View(t.Context(), func(r issuer.Reader) error {
		_, err := r.Session("\xff")
		return err
	})
	if !errors.Is(err, issuer.ErrNotFound) {
		t.Errorf("a session that cannot be: got %v, want ErrNotFound", err)
	}
}

// A backup reads in a view, and writes in between at the pace of whoever asked
// for it. A server that ends idle transactions must not break it off.
func TestAViewMayBeIdle(t *testing.T) {
	t.Parallel()
	url := pgtest.Start(t)
	admin := connect(t, url)
	exec(t, admin, `ALTER DATABASE `+databaseOf(url)+` SET idle_in_transaction_session_timeout = '50ms'`)
	s := open(t, url)
	begun := 0
	err := s.View(t.Context(), func(r issuer.Reader) error {
		begun++
		if _, err := r.Log(); err != nil {
			return err
		}
		exec(t, admin, `SELECT pg_sleep(0.3)`)
		_, err := r.Accounts("", 10)
		return err
	})
	if err != nil || begun != 1 {
		t.Errorf("got %v after %d beginnings, want success at the first", err, begun)
	}
}

func TestThePoolIsBounded(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Start(t)+"&pool_max_conns=2")
	if got := s.Stats().Max; got != 2 {
		t.Errorf("got at most %d connections, want 2", got)
	}
	hold := make(chan struct{})
	var g errgroup.Group
	for range 2 {
		entered := make(chan struct{})
		g.Go(func() error {
			return s.View(t.Context(), func(r issuer.Reader) error {
				_ = r.Now()
				close(entered)
				<-hold
				return nil
			})
		})
		<-entered
	}
	err := s.View(context.Background(), func(issuer.Reader) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("got %v, want an error that says that the database is busy", err)
	}
	close(hold)
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}
