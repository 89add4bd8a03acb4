package postgres_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/pgtest"
	"github.com/quashdev/quash/internal/postgres"
	"github.com/quashdev/quash/internal/revset"
)

// many appends records that fill several rows: one is longer than a row, and one
// in their middle is forgotten never.
func many(tx issuer.Tx) error {
	for n := range 60 {
		r := issuer.Revocation{Issuer: "i", Claim: "sid", Value: fmt.Sprint("s_", n), Time: tx.Now(), Event: "logout", Actor: "user"}
		switch n {
		case 20:
			r.Claim, r.Keep, r.Before = "kid", true, revset.Forever
		case 40:
			r.Value = strings.Repeat("v", 3000)
		}
		if err := tx.AppendRevocation(r); err != nil {
			return err
		}
	}
	return nil
}

func history(t *testing.T, s *postgres.Store) (list []issuer.Revocation) {
	t.Helper()
	err := s.View(t.Context(), func(r issuer.Reader) (err error) {
		list, err = r.History(0, 1000)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// P9: a log that one commit appended to can be read on from any of its records,
// a part at a time, and so it stays when it is pruned in small steps.
func TestP9TheLogIsReadOnFromAnywhere(t *testing.T) {
	t.Parallel()
	url := pgtest.Start(t)
	s := open(t, url)
	if _, err := s.Update(t.Context(), many); err != nil {
		t.Fatal(err)
	}
	other := open(t, url) // it remembers where the commit ended
	all := history(t, s)
	if len(all) != 60 {
		t.Fatalf("got %d records, want 60", len(all))
	}
	for pruned, live := uint64(0), 60; ; {
		readOn(t, s, all, pruned)
		n, _, err := s.Prune(t.Context(), time.Now().Add(time.Hour), time.Hour, 7)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			if live != 1 {
				t.Errorf("left are %d records, want the key alone", live)
			}
			break
		}
		if want := min(7, live-1); n != want {
			t.Errorf("pruned %d of %d, want %d", n, live, want)
		}
		live -= n
		if got := history(t, s); !slices.EqualFunc(got, all, func(a, b issuer.Revocation) bool { return a == b }) {
			t.Fatalf("after %d are pruned, the history is another", 60-live)
		}
		if _, err := other.Update(t.Context(), func(tx issuer.Tx) error {
			l, err := tx.Log()
			pruned = l.Pruned.Position
			return err
		}); err != nil {
			t.Errorf("a store that remembers the end: %v", err)
		}
	}
	wantLog(t, s, all[59].Value)
}

// readOn reads the live log behind each of its positions.
func readOn(t *testing.T, s *postgres.Store, all []issuer.Revocation, pruned uint64) {
	t.Helper()
	for after := pruned; after <= 60; after++ {
		var at feed.Mark
		if after > 0 {
			at = feed.Mark{Position: after, Digest: all[after-1].Digest}
		}
		want := all[after:min(after+7, 60)]
		same := func(list []revset.Record) bool {
			return slices.EqualFunc(list, want, func(a revset.Record, b issuer.Revocation) bool { return a == b.Record() })
		}
		tail, err := s.Tail(t.Context(), feed.Mark{Position: after}, 7)
		if err != nil || tail.At != at || !same(tail.Records) {
			t.Fatalf("tail behind %d: got %d records at %v, %v", after, len(tail.Records), tail.At, err)
		}
		err = s.View(t.Context(), func(r issuer.Reader) error {
			list, _, err := r.Records(after, 7)
			if !same(list) {
				t.Errorf("records behind %d: got %d", after, len(list))
			}
			if got, err := r.MarkAt(after); err != nil || got != at {
				t.Errorf("mark at %d: got %v, %v, want %v", after, got, err, at)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// P6: whoever changes the columns beside the records does not go unnoticed, and
// gets nothing forgotten by it.
func TestP6ChangedRowsAreNoticed(t *testing.T) {
	t.Parallel()
	for _, change := range []string{`forget = 0`, `last = last + 100`, `count = count + 1`, `digest = sha256(digest)`, `records = substr(records, 2)`} {
		url := pgtest.Start(t)
		s := open(t, url)
		revokeOne(t, s, "revoked")
		exec(t, connect(t, url), `UPDATE quash.revocation SET `+change)
		if report, err := issuer.VerifyLog(t.Context(), s); err == nil && report.Break == nil {
			t.Errorf("%s: the log is whole", change)
		}
		if n, _, _ := s.Prune(t.Context(), time.Now(), time.Hour, 10); n != 0 {
			t.Errorf("%s: pruned %d", change, n)
		}
	}
}

// P9: records that are missing at the end of the log are not taken for its end.
func TestP9AMissingEndIsNoticed(t *testing.T) {
	t.Parallel()
	url := pgtest.Start(t)
	s := open(t, url)
	revokeOne(t, s, "there")
	revokeOne(t, s, "missing")
	exec(t, connect(t, url), `DELETE FROM quash.revocation WHERE last = 2`)
	for after := range uint64(2) {
		if tail, err := s.Tail(t.Context(), feed.Mark{Position: after}, 10); err == nil || !strings.Contains(err.Error(), "record 2 of the log is missing") {
			t.Errorf("tail behind %d: got %+v, %v, want that record 2 is missing", after, tail, err)
		}
	}
}
