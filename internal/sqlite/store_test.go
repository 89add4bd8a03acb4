package sqlite_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/sqlite"
	"github.com/quashdev/quash/internal/storetest"
)

func open(t testing.TB, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path, Logger: slog.New(slog.DiscardHandler)})
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

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		path := filepath.Join(t.TempDir(), "quash.db")
		s := open(t, path)
		fail := sqlite.Faulty(s)
		return storetest.Harness{
			Store: s,
			Reopen: func(t *testing.T) issuer.Store {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open(t, path)
				fail = sqlite.Faulty(s)
				return s
			},
			Fail: func(faults ...storetest.Fault) { fail(faults...) },
		}
	})
}

func revoke(tx issuer.Tx) error {
	return tx.AppendRevocation(issuer.Revocation{Issuer: "i", Claim: "sub", Value: "u1", Time: tx.Now()})
}

func TestSecondProcessIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "quash.db")
	s := open(t, path)
	_, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
	if err == nil || !strings.Contains(err.Error(), path+".lock") {
		t.Errorf("got %v, want an error that names the lock file", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, path)
}

func TestFilesAreTheirOwnersAlone(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "a name? with #100%.db"))
	if _, err := s.Update(t.Context(), revoke); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 4 {
		t.Errorf("got %v, %v, want the database, its log, its index and the lock", files, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got %v, %v, want mode 0600", f.Name(), info.Mode(), err)
		}
	}
}

// The clock of a synctest bubble stands still unless every goroutine in it
// waits, and the bubble ends only when they have ended.
func TestMemoryStoreWorksInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := open(t, ":memory:"), open(t, ":memory:")
		if _, err := a.Update(t.Context(), revoke); err != nil {
			t.Fatal(err)
		}
		for s, want := range map[*sqlite.Store]uint64{a: 1, b: 0} {
			err := s.View(t.Context(), func(r issuer.Reader) error {
				l, err := r.Log()
				if l.Head.Position != want || r.Now().Year() != 2000 {
					t.Errorf("got head %d at %v, want %d in the year 2000", l.Head.Position, r.Now(), want)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}

// The driver is a translation of SQLite's C code that was made for one version
// of the C library's translation; with another it may corrupt data.
func TestDriverAndItsLibraryBelongTogether(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\tmodernc.org/sqlite v1.60.1\n", "\tmodernc.org/libc v1.77.1 "} {
		if !bytes.Contains(mod, []byte(want)) {
			t.Errorf("go.mod: want%s: raise both to the pair that the driver's own go.mod names", strings.TrimRight(want, "\n"))
		}
	}
}

func TestAFunctionThatEndsItsGoroutine(t *testing.T) {
	s := open(t, ":memory:")
	if _, err := s.Update(t.Context(), func(tx issuer.Tx) error {
		runtime.Goexit()
		return nil
	}); err == nil {
		t.Error("got success, want an error")
	}
	if _, err := s.Update(t.Context(), revoke); err != nil {
		t.Errorf("the next: got %v, want success", err)
	}
}

// One function breaks the database transaction of its group, another ends the
// writer's goroutine when the group is run again: each caller is answered once.
func TestAFunctionThatEndsItsGoroutineInABrokenGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, ":memory:")
		leave := make(chan struct{})
		var g sync.WaitGroup
		var failed atomic.Int32
		put := func(fn func(issuer.Tx) error) {
			g.Go(func() {
				if _, err := s.Update(t.Context(), fn); err != nil {
					failed.Add(1)
				}
			})
			synctest.Wait() // for its place in the queue
		}
		put(func(issuer.Tx) error { <-leave; return nil })
		put(func(tx issuer.Tx) error {
			if err := errors.Join(revoke(tx), sqlite.FillDisk(tx)); err != nil {
				return err
			}
			return tx.AppendAudit(issuer.AuditEntry{Time: tx.Now(), Reason: strings.Repeat("x", 1<<20)})
		})
		put(func(issuer.Tx) error { runtime.Goexit(); return nil })
		put(revoke)
		close(leave)
		g.Wait()
		if got := failed.Load(); got != 3 {
			t.Errorf("%d callers were told of a failure, want the two that failed and the one beside them", got)
		}
		if c, err := s.Update(t.Context(), revoke); err != nil || c.First != 1 {
			t.Errorf("the next: got %+v, %v, want position 1", c, err)
		}
	})
}

// A reader's connection that cannot end its transaction must not be read from
// again: it would show the past for ever, or nothing.
func TestAReaderThatFailsIsReplaced(t *testing.T) {
	s := open(t, ":memory:")
	if err := s.View(t.Context(), sqlite.BreakRollback); err != nil {
		t.Fatal(err)
	}
	c, err := s.Update(t.Context(), revoke)
	if err != nil {
		t.Fatal(err)
	}
	for range 8 { // more than there are readers
		err := s.View(t.Context(), func(r issuer.Reader) error {
			l, err := r.Log()
			if err == nil && l.Head != c.Head {
				t.Errorf("a view shows the head %+v, want %+v", l.Head, c.Head)
			}
			return err
		})
		if err != nil {
			t.Errorf("a view after one that could not end: %v", err)
		}
	}
}

func TestACallerWhoLeavesTheQueueChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, ":memory:")
		leave := make(chan struct{})
		go s.Update(t.Context(), func(issuer.Tx) error { <-leave; return nil }) //nolint:errcheck // it only stands in the way
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error)
		go func() {
			_, err := s.Update(ctx, revoke)
			left <- err
		}()
		synctest.Wait() // it is in the queue
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled, before the transaction ahead has ended", err)
		}
		close(leave)
		if c, err := s.Update(t.Context(), revoke); err != nil || c.First != 1 {
			t.Errorf("the next: got %+v, %v, want position 1", c, err)
		}
	})
}

// A full disk ends the transaction that met it, and with it the database
// transaction of its whole group: the others must not suffer, whether the disk
// is met by the function or by what writes for all of them at the end.
func TestAFullDiskIsOnlyItsOwnersFailure(t *testing.T) {
	large := strings.Repeat("x", 1<<20)
	for name, fill := range map[string]func(issuer.Tx) error{
		"in the function": func(tx issuer.Tx) error { return tx.PutAccount(issuer.Account{Subject: large}) },
		"at the end":      func(tx issuer.Tx) error { return tx.AppendAudit(issuer.AuditEntry{Reason: large}) },
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { fullDisk(t, fill) }) })
	}
}

func fullDisk(t *testing.T, fill func(issuer.Tx) error) {
	s := open(t, ":memory:")
	leave := make(chan struct{})
	var working sync.WaitGroup
	put := func(fn func(issuer.Tx) error) *error {
		var err error
		working.Go(func() { _, err = s.Update(t.Context(), fn) })
		synctest.Wait() // for its place in the queue
		return &err
	}
	var others []*error
	others = append(others, put(func(issuer.Tx) error { <-leave; return nil }), put(revoke))
	owner := put(func(tx issuer.Tx) error {
		if err := errors.Join(revoke(tx), sqlite.FillDisk(tx)); err != nil {
			return err
		}
		_ = fill(tx)
		return nil // and so keeps silent about it
	})
	others = append(others, put(revoke))
	close(leave)
	working.Wait()
	if *owner == nil || !strings.Contains((*owner).Error(), "full") {
		t.Errorf("got %v, want that the disk is full", *owner)
	}
	for i, err := range others {
		if *err != nil {
			t.Errorf("other %d: got %v, want success", i, *err)
		}
	}
	report, err := issuer.VerifyLog(t.Context(), s)
	if err != nil || report.Checked != 2 || report.Break != nil {
		t.Errorf("log: got %+v, %v, want the two records of the others", report, err)
	}
}

// A function that fails after it wrote leaves nothing behind, and takes nothing
// from those that came before and after it in one commit; what it was told rests
// only on what was committed.
func TestP2TogetherAFailureInAGroupIsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, ":memory:")
		leave, errOwn := make(chan struct{}), errors.New("own")
		var working sync.WaitGroup
		put := func(want error, fn func(issuer.Tx) error) {
			working.Go(func() {
				if _, err := s.Update(t.Context(), fn); !errors.Is(err, want) {
					t.Errorf("got %v, want %v", err, want)
				}
			})
			synctest.Wait() // for its place in the queue
		}
		account := func(name string, then error) func(issuer.Tx) error {
			return func(tx issuer.Tx) error {
				return errors.Join(tx.PutAccount(issuer.Account{Subject: name, Name: "n"}), revoke(tx), tx.AppendAudit(issuer.AuditEntry{Subject: name}), then)
			}
		}
		put(nil, func(issuer.Tx) error { <-leave; return nil })
		put(errOwn, account("first", errOwn))
		put(nil, account("second", nil))
		put(issuer.ErrExists, account("third", nil))
		put(nil, revoke)
		close(leave)
		working.Wait()
		err := s.View(t.Context(), func(r issuer.Reader) error {
			accounts, err := r.Accounts("", 10)
			if len(accounts) != 1 || accounts[0].Subject != "second" {
				t.Errorf("got %+v, want the second account alone", accounts)
			}
			entries, err2 := r.Audit(issuer.AuditQuery{})
			if len(entries) != 1 || entries[0].Subject != "second" || entries[0].Position != 1 {
				t.Errorf("got %+v, want the second's entry alone, of record 1", entries)
			}
			return errors.Join(err, err2)
		})
		if err != nil {
			t.Error(err)
		}
		report, err := issuer.VerifyLog(t.Context(), s)
		if err != nil || report.Checked != 2 || report.Break != nil {
			t.Errorf("log: got %+v, %v, want two records", report, err)
		}
	})
}

// Whoever is told of a commit finds it in the tail. Committed comes before the
// answers, so what it finds they find.
func TestP4ConfirmedTailIsThereBeforeTheAnswer(t *testing.T) {
	var s *sqlite.Store
	var heads []uint64
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: ":memory:", Committed: func(time.Duration, int) {
		tail, err := s.Tail(t.Context(), feed.Mark{}, 0)
		if err != nil {
			t.Error(err)
		}
		heads = append(heads, tail.Log.Head.Position)
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 3 {
		if _, err := s.Update(t.Context(), revoke); err != nil {
			t.Fatal(err)
		}
	}
	if want := []uint64{1, 2, 3}; !slices.Equal(heads, want) {
		t.Errorf("after each commit: got heads %v, want %v", heads, want)
	}
}

// What Tail keeps in memory is bounded; the rest of the log it reads.
func TestP4ConfirmedTailBeyondWhatIsInMemory(t *testing.T) {
	s := open(t, ":memory:")
	const some = 1 << 20
	for n := range uint64(5) {
		if _, err := s.Update(t.Context(), func(tx issuer.Tx) error {
			for range sqlite.MaxRecent/2 + 1 {
				if err := revoke(tx); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		head := (n + 1) * (sqlite.MaxRecent/2 + 1)
		if first := sqlite.InMemoryFrom(s); head-first > 2*sqlite.MaxRecent {
			t.Errorf("%d records are in memory, want at most %d", head-first, 2*sqlite.MaxRecent)
		}
		for _, after := range []uint64{0, sqlite.InMemoryFrom(s) - min(1, sqlite.InMemoryFrom(s)), sqlite.InMemoryFrom(s), head - 1} {
			got, err := s.Tail(t.Context(), feed.Mark{Position: after}, some)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.View(t.Context(), func(r issuer.Reader) error {
				want, mark, err := r.Records(after, some)
				if !slices.Equal(got.Records, want) || got.Mark != mark || mark.Position != head {
					t.Errorf("after %d: got %d records to %v, want %d to %v", after, len(got.Records), got.Mark, len(want), mark)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestEarlierVersionsAreBroughtUpToDate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "quash.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, os.DirFS("migrations"), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	if _, err := s.Update(t.Context(), func(tx issuer.Tx) error { return tx.PutNode(issuer.Node{ID: "n"}) }); err != nil {
		t.Error(err)
	}
	if err := storetest.Check(t.Context(), s); err != nil {
		t.Error(err)
	}
}

func TestTablesOfANewerVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "quash.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var compatible int
	if err := db.QueryRow(`PRAGMA user_version`).Scan(&compatible); err != nil || compatible != 4 {
		t.Errorf("got %d, %v, want that programs for version 4 on may use the tables", compatible, err)
	}
	if _, err := db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (1000, 1)`); err != nil {
		t.Fatal(err)
	}
	if err := open(t, path).Close(); err != nil { // what was added does not matter to this program
		t.Fatal(err)
	}
	if _, err := db.Exec(`PRAGMA user_version = 1000`); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.Open(t.Context(), sqlite.Config{Path: path}); err == nil || !strings.Contains(err.Error(), "run a newer quash") {
		t.Errorf("got %v, want an error that says to run a newer quash", err)
	}
}

// A store in front of this one has an outbox; what the suite says of outboxes
// holds for it, so tests of what rests on them may use it.
func TestSharedStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		path := filepath.Join(t.TempDir(), "quash.db")
		s := open(t, path)
		fail := sqlite.Faulty(s)
		shared := storetest.Share(s)
		return storetest.Harness{
			Store: shared,
			Reopen: func(t *testing.T) issuer.Store {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open(t, path)
				fail = sqlite.Faulty(s)
				shared.Store = s
				return shared
			},
			Fail:    func(faults ...storetest.Fault) { fail(faults...) },
			Request: func(_ *testing.T, claim, value, reason string) uint64 { return shared.Request(claim, value, reason) },
			Lose: func(_ *testing.T, fn func()) {
				fn()
				shared.Fork()
			},
		}
	}, "Outbox", "Forked", "Epoch", "Restore", "Tail", "Transactions")
}
