package postgres_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/pgtest"
	"github.com/quashdev/quash/internal/postgres"
)

// assure revokes until the next revocation is written on a guess, and returns
// the position of the last. On a slow machine that can take some.
func assure(t *testing.T, s *postgres.Store, value string) (last uint64) {
	t.Helper()
	for range 1000 {
		last = revokeOne(t, s, value).Last
		if postgres.Sure(s) {
			return last
		}
	}
	t.Fatal("1,000 revocations after each other, and the next is not guessed")
	return 0
}

func revokeOne(t *testing.T, s *postgres.Store, value string) issuer.Commit {
	t.Helper()
	commit, err := s.Update(t.Context(), appendOne(value))
	if err != nil {
		t.Fatal(err)
	}
	return commit
}

// wantLog checks that the log is whole and ends with some values.
func wantLog(t *testing.T, s *postgres.Store, values ...string) {
	t.Helper()
	report, err := issuer.VerifyLog(t.Context(), s)
	if err != nil || report.Break != nil {
		t.Errorf("the log: got %+v, %v, want it whole", report, err)
	}
	err = s.View(t.Context(), func(r issuer.Reader) error {
		l, err := r.Log()
		if err != nil {
			return err
		}
		list, err := r.History(l.Head.Position-uint64(len(values)), 100)
		var got []string
		for _, r := range list {
			got = append(got, r.Value)
		}
		if fmt.Sprint(got) != fmt.Sprint(values) {
			t.Errorf("the end of the log: got %q, want %q", got, values)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// P9: a store that guesses wrong how the log stands writes nothing on that.
func TestP9AWrongGuessIsRefused(t *testing.T) {
	t.Parallel()
	url := pgtest.Start(t)
	s, other, db := open(t, url), open(t, url), connect(t, url)
	for what, change := range map[string]func(){
		"another node wrote":              func() { revokeOne(t, other, "other") },
		"the catalog is another":          func() { exec(t, db, `UPDATE quash.meta SET catalog = catalog + 1`) },
		"the server may have lost a tail": func() { exec(t, db, `UPDATE quash.life SET id = gen_random_uuid()`) },
		"a token may live for longer":     func() { exec(t, db, `UPDATE quash.meta SET max_lifetime = max_lifetime + 1`) },
	} {
		last := assure(t, s, "before")
		change()
		commit := revokeOne(t, s, "after")
		if what == "another node wrote" {
			last++
			wantLog(t, s, "before", "other", "after")
		} else {
			wantLog(t, s, "before", "after")
		}
		if commit.First != last+1 {
			t.Errorf("%s: got position %d after %d", what, commit.First, last)
		}
	}
}

// P9: a commit on a guess whose answer was lost, and which reaches the database
// after it was asked for there, does nothing any more.
func TestP9ALateCommitDoesNothing(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Start(t))
	before := assure(t, s, "before")
	ended := postgres.Late(s)
	if once := revokeOne(t, s, "once").Last; once != before+1 {
		t.Errorf("got position %d after %d", once, before)
	}
	if err := ended(); err == nil || !strings.Contains(err.Error(), "23502") {
		t.Errorf("the late commit: got %v, want that the head may not be null", err)
	}
	revokeOne(t, s, "next")
	wantLog(t, s, "before", "once", "next")
}

// P1: a commit on a guess that broke off stands once, whether it had come or not.
func TestP1AGuessThatBrokeOffStandsOnce(t *testing.T) {
	t.Parallel()
	for _, persisted := range []bool{false, true} {
		s := open(t, pgtest.Start(t))
		before := assure(t, s, "before")
		looked := false
		postgres.Interrupt(s, persisted, func() { looked = true })
		if once := revokeOne(t, s, "once").Last; once != before+1 || !looked {
			t.Errorf("persisted %v: got position %d after %d", persisted, once, before)
		}
		revokeOne(t, s, "next")
		wantLog(t, s, "before", "once", "next")
	}
}

// P9: a store that was contradicted writes nothing until an epoch has begun, on a
// guess neither.
func TestP9AForkedStoreDoesNotGuess(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Start(t))
	assure(t, s, "before")
	postgres.Fork(s)
	if _, err := s.Update(t.Context(), appendOne("after")); !errors.Is(err, issuer.ErrForked) {
		t.Errorf("got %v, want ErrForked", err)
	}
}

// P6: a guess that waited for the head does not carry the time before the wait.
func TestP6AGuessThatWaitedIsNotOld(t *testing.T) {
	t.Parallel()
	url := pgtest.Start(t)
	s, db := open(t, url), connect(t, url)
	assure(t, s, "before")
	exec(t, db, `BEGIN; SELECT FROM quash.meta FOR UPDATE`)
	var g errgroup.Group
	g.Go(func() error {
		_, err := s.Update(t.Context(), appendOne("waited"))
		return err
	})
	for waits := false; !waits; {
		err := db.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid() AND pg_backend_pid() = ANY(pg_blocking_pids(pid)))`).Scan(&waits)
		if err != nil {
			t.Fatal(err)
		}
	}
	exec(t, db, `SELECT pg_sleep(0.1)`)
	var released time.Time
	if err := db.QueryRow(t.Context(), `SELECT clock_timestamp()`).Scan(&released); err != nil {
		t.Fatal(err)
	}
	exec(t, db, `ROLLBACK`)
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	list := history(t, s)
	if got := list[len(list)-1]; got.Value != "waited" || got.Time.Before(released.Add(-30*time.Millisecond)) {
		t.Errorf("got %s of %v, want one of %v or later", got.Value, got.Time, released)
	}
}
