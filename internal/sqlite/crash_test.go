package sqlite_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/sqlite"
	"github.com/quashdev/quash/internal/storetest"
)

// crashDatabase, in the environment, makes the test binary write to that
// database until it is killed.
const crashDatabase = "QUASH_CRASH_DATABASE"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashDatabase); path != "" {
		fmt.Fprintln(os.Stderr, writeForEver(path))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// step is one change that the writers make: together a session, what its
// account counts, and a revocation.
type step struct {
	Writer   string
	N        int
	Position uint64
}

func (s step) sid() string { return fmt.Sprintf("%s-%d", s.Writer, s.N) }

func (s *step) take(ctx context.Context, store *sqlite.Store) error {
	c, err := store.Update(ctx, func(tx issuer.Tx) error {
		now := tx.Now()
		return errors.Join(
			tx.PutAccount(issuer.Account{Subject: s.Writer, Claims: fmt.Appendf(nil, `{"n":%d}`, s.N), Created: now, Changed: now}),
			tx.PutSession(issuer.Session{ID: s.sid(), Subject: s.Writer, Client: "c", Created: now, LastUsed: now, Expires: now.Add(time.Hour)}),
			tx.AppendRevocation(issuer.Revocation{Issuer: "i", Claim: "sid", Value: s.sid(), Time: now}),
		)
	})
	s.Position = c.First
	return err
}

// writeForEver prints each step when it was acknowledged.
func writeForEver(path string) error {
	store, err := sqlite.Open(context.Background(), sqlite.Config{Path: path})
	if err != nil {
		return err
	}
	failed := make(chan error)
	for w := range 32 {
		go func() {
			s := step{Writer: fmt.Sprintf("p%d.%d", os.Getpid(), w)}
			for {
				if err := s.take(context.Background(), store); err != nil {
					failed <- err
					return
				}
				line, _ := json.Marshal(s)
				_, _ = os.Stdout.Write(append(line, '\n'))
				s.N++
			}
		}()
	}
	return <-failed
}

// soak is how many rounds to run: few, unless QUASH_SOAK asks for many.
func soak(few, many int) int {
	if os.Getenv("QUASH_SOAK") != "" {
		return many
	}
	return few
}

// P1, P2: what was acknowledged before kill -9 is there, and nothing is half
// there.
func TestP1DurableUnderKill(t *testing.T) {
	dir, rounds, changes := t.TempDir(), soak(5, 100), 0
	for round := range rounds {
		path := filepath.Join(dir, strconv.Itoa(round/5)) // rounds go on from one another, but not for ever
		acknowledged := killed(t, path, 10+rand.IntN(100))
		s := open(t, path)
		for _, a := range acknowledged {
			if err := stands(t.Context(), s, a); err != nil {
				t.Fatalf("round %d: acknowledged %+v: %v", round, a, err)
			}
		}
		if err := whole(t.Context(), s); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		changes += len(acknowledged)
	}
	t.Logf("soak: killed %d times under load, %d changes acknowledged, none lost, none half done", rounds, changes)
}

// killed runs a writing process, kills it some steps later, in the midst of
// what comes next, and returns the steps that it had acknowledged.
func killed(t *testing.T, path string, after int) (steps []step) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), crashDatabase+"="+path)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var s step
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			t.Fatalf("%v: %s", err, lines.Text())
		}
		if steps = append(steps, s); len(steps) == after {
			_ = cmd.Process.Kill()
		}
	}
	_ = cmd.Wait()
	if len(steps) < after {
		t.Fatalf("the writing process ended by itself after %d steps: %s", len(steps), stderr.String())
	}
	return steps
}

// stands reports what is missing of an acknowledged step.
func stands(ctx context.Context, s *sqlite.Store, want step) error {
	return s.View(ctx, func(r issuer.Reader) error {
		h, err := r.History(want.Position-1, 1)
		if err != nil || len(h) != 1 || h[0].Value != want.sid() {
			return fmt.Errorf("record: got %+v, %w", h, err)
		}
		_, err = r.Session(want.sid())
		return err
	})
}

// whole reports where a step stands in part, beside what every store keeps.
func whole(ctx context.Context, s *sqlite.Store) error {
	if err := storetest.Check(ctx, s); err != nil {
		return err
	}
	return s.View(ctx, func(r issuer.Reader) error {
		history, err := r.History(0, 1<<30)
		if err != nil {
			return err
		}
		for _, h := range history {
			if _, err := r.Session(h.Value); err != nil {
				return fmt.Errorf("session of record %d: %w", h.Position, err)
			}
		}
		accounts, err := r.Accounts("", 1<<30)
		sessions := 0
		for _, a := range accounts {
			var counted struct{ N int }
			if err := json.Unmarshal(a.Claims, &counted); err != nil {
				return err
			}
			sessions += counted.N + 1
		}
		n, _, countErr := r.CountSessions(issuer.Match{}, r.Now())
		if n != len(history) || n != sessions {
			return fmt.Errorf("got %d sessions, %d records, and accounts that count %d", n, len(history), sessions)
		}
		return errors.Join(err, countErr)
	})
}

const (
	walHeader = 32
	walFrame  = 24 + 4096
)

// P1: a power cut leaves the log that is written ahead cut off, at a flush or
// anywhere else. What had been acknowledged before that is there, exactly.
func TestP1DurableWhereverTheFileIsCut(t *testing.T) {
	database, wal, acknowledged := recorded(t, soak(4, 60))
	dir := t.TempDir()
	for frame := 0; walHeader+frame*walFrame <= len(wal); frame++ {
		boundary := walHeader + frame*walFrame
		for _, cut := range []int{boundary, boundary + 1 + rand.IntN(walFrame-1)} {
			if cut > len(wal) {
				continue
			}
			path := filepath.Join(dir, strconv.Itoa(cut))
			torn := append(bytes.Clone(wal[:cut]), bytes.Repeat([]byte{0xa5}, cut-boundary)...)
			if err := errors.Join(os.WriteFile(path, database, 0o600), os.WriteFile(path+"-wal", torn, 0o600)); err != nil {
				t.Fatal(err)
			}
			want := uint64(0)
			for position, size := range acknowledged {
				if size <= cut {
					want = max(want, position)
				}
			}
			if err := opensAt(t, path, want); err != nil {
				t.Fatalf("cut at %d of %d: %v", cut, len(wal), err)
			}
		}
	}
}

// recorded makes some steps and returns the files as they are then, and how
// long the log was when each position was acknowledged.
func recorded(t *testing.T, steps int) (database, wal []byte, acknowledged map[uint64]int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "quash.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	acknowledged = make(map[uint64]int)
	for n := range steps {
		one := step{Writer: "w", N: n}
		if err := one.take(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		acknowledged[one.Position] = int(info.Size())
	}
	database, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	wal, err = os.ReadFile(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	return database, wal, acknowledged
}

func opensAt(t *testing.T, path string, want uint64) error {
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
	if err != nil {
		return err
	}
	report, err := issuer.VerifyLog(t.Context(), s)
	if err == nil && (report.Break != nil || report.Checked != want) {
		err = fmt.Errorf("got %d records, break %v, want %d and none", report.Checked, report.Break, want)
	}
	return errors.Join(err, whole(t.Context(), s), s.Close())
}
