package storetest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revset"
)

const writers, appends = 16, 20

// denseUnderWriters lets readers follow the log while it is written.
func denseUnderWriters(t *testing.T, h Harness) {
	var mu sync.Mutex
	ends := map[uint64]bool{0: true} // where some transaction ended
	owner := make(map[uint64]int)    // of each position
	var g errgroup.Group
	total := uint64(0)
	for w := range writers {
		total += uint64(appends * (1 + w%3))
		g.Go(func() error {
			for range appends {
				c, err := h.Store.Update(t.Context(), appending("sid", []string{"a", "b", "c"}[:1+w%3]...))
				if err != nil {
					return err
				}
				if c.Last-c.First != uint64(w%3) || c.Head.Position < c.Last {
					return fmt.Errorf("commit %+v of %d records", c, 1+w%3)
				}
				mu.Lock()
				ends[c.Last] = true
				for p := c.First; p <= c.Last; p++ {
					owner[p]++
				}
				mu.Unlock()
			}
			return nil
		})
	}
	heads := make([]map[uint64]bool, 3)
	for i := range heads {
		g.Go(func() (err error) {
			heads[i], err = follow(t, h.Store, total)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for p := uint64(1); p <= total; p++ {
		if owner[p] != 1 {
			t.Errorf("unique: position %d was given %d times", p, owner[p])
		}
	}
	for _, seen := range heads {
		for p := range maps.Keys(seen) {
			if !ends[p] {
				t.Errorf("atomic: a view ended at %d, in the middle of a transaction", p)
			}
		}
	}
	check(t, h.Store)
}

// follow reads the log until the given end and returns the heads it saw.
func follow(t *testing.T, s issuer.Store, end uint64) (map[uint64]bool, error) {
	heads := make(map[uint64]bool)
	for at := (feed.Mark{}); at.Position < end; {
		err := s.View(t.Context(), func(r issuer.Reader) error {
			l, err := r.Log()
			if err != nil {
				return err
			}
			list, mark, err := r.Records(at.Position, 7)
			if err != nil {
				return err
			}
			for i, rec := range list {
				if want := at.Position + 1 + uint64(i); rec.Position != want {
					return fmt.Errorf("ordered: record %d stands where %d belongs", rec.Position, want)
				}
			}
			if l.Head.Position < at.Position || mark.Position > l.Head.Position || len(list) == 0 && mark != at {
				return fmt.Errorf("ordered: after %v came %v with head %v", at, mark, l.Head)
			}
			heads[l.Head.Position], at = true, mark
			return nil
		})
		if err != nil {
			return heads, err
		}
	}
	return heads, nil
}

// issueReadsOneSnapshot keeps in an account's claims the position of its
// latest revocation; whoever sees one must see the other.
func issueReadsOneSnapshot(t *testing.T, h Harness) {
	update(t, h.Store, people(1, "u1"))
	revoke := func(tx issuer.Tx) error {
		l, err := tx.Log()
		if err != nil {
			return err
		}
		a := account("u1")
		a.Claims = fmt.Appendf(nil, `{"at":%d}`, l.Head.Position+1)
		return errors.Join(tx.PutAccount(a), tx.AppendRevocation(revocation("sub", "u1")))
	}
	agree := func(r issuer.Reader) error {
		a, err := r.Account("u1")
		if err != nil {
			return err
		}
		l, err := r.Log()
		if want := fmt.Sprintf(`{"at":%d}`, l.Head.Position); l.Head.Position > 0 && string(a.Claims) != want {
			return fmt.Errorf("account %s with head %d", a.Claims, l.Head.Position)
		}
		return err
	}
	var g errgroup.Group
	for range 4 {
		g.Go(func() error {
			for range 40 {
				_, err := h.Store.Update(t.Context(), revoke)
				if err = errors.Join(err, h.Store.View(t.Context(), agree)); err != nil {
					return err
				}
			}
			return nil
		})
		g.Go(func() error {
			for range 40 {
				err := h.Store.Issue(t.Context(), func(tx issuer.Tx) error {
					return errors.Join(agree(tx), tx.PutSession(session("u1-0", "u1")))
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func recordsBounds(t *testing.T, h Harness) {
	update(t, h.Store, appending("sid", "1", "2", "3", "4"))
	if n, _, err := h.Store.Prune(t.Context(), epoch.Add(2*time.Minute), time.Hour, 2); n != 2 || err != nil {
		t.Fatalf("Prune: got %d records, %v, want 2", n, err)
	}
	view(t, h.Store, func(r issuer.Reader) error {
		for after, ok := range map[uint64]bool{0: false, 1: false, 2: true, 3: true, 4: true, 5: false} {
			list, mark, err := r.Records(after, some)
			if (err == nil) != ok || ok && (len(list) != int(4-after) || mark.Position != 4) {
				t.Errorf("Records after %d: got %d up to %d, %v, want them: %v", after, len(list), mark.Position, err, ok)
			}
			if _, err := r.MarkAt(after); (err == nil) != ok {
				t.Errorf("MarkAt %d: got %v, want it: %v", after, err, ok)
			}
		}
		list, mark, err := r.Records(2, 1)
		if err != nil || len(list) != 1 || mark.Position != 3 {
			t.Errorf("Records after 2, 1 of them: got %v up to %v, %v", list, mark, err)
		}
		return nil
	})
}

func maxLifetime(t *testing.T, h Harness) {
	for _, d := range []time.Duration{time.Minute, time.Hour, 5 * time.Minute} {
		update(t, h.Store, func(tx issuer.Tx) error { return tx.SetMaxLifetime(d) })
	}
	if got := head(t, h.Store).MaxLifetime; got != time.Hour {
		t.Errorf("got %v, want 1h", got)
	}
	if got := head(t, h.Store); got.Head != (feed.Mark{}) {
		t.Errorf("head: got %v, want none", got.Head)
	}
}

// pruneBoundary revokes at epoch with tokens of 5 minutes: all is forgotten
// after the second 6 minutes later, a signing key never.
func pruneBoundary(t *testing.T, h Harness) {
	update(t, h.Store, func(tx issuer.Tx) error {
		kid := revocation("kid", "stolen")
		kid.Keep, kid.Before = true, revset.Forever
		return errors.Join(tx.SetMaxLifetime(5*time.Minute), tx.AppendRevocation(kid), appending("sid", "1", "2", "3")(tx))
	})
	for _, c := range []struct {
		at          time.Duration
		limit, want int
		pruned      uint64
	}{
		{6 * time.Minute, 10, 0, 0},
		{6*time.Minute + time.Second, 0, 0, 0},
		{6*time.Minute + time.Second, 2, 2, 3},
		{6*time.Minute + time.Second, 2, 1, 4},
		{1000 * time.Hour, 2, 0, 4},
	} {
		got, _, err := h.Store.Prune(t.Context(), epoch.Add(c.at), time.Hour, c.limit)
		if err != nil || got != c.want {
			t.Errorf("after %v, limit %d: got %d, %v, want %d", c.at, c.limit, got, err, c.want)
		}
		if l := head(t, h.Store); l.Pruned.Position != c.pruned || l.Head.Position != 4 {
			t.Errorf("after %v, limit %d: got pruned %d of %d, want %d of 4", c.at, c.limit, l.Pruned.Position, l.Head.Position, c.pruned)
		}
		check(t, h.Store)
	}
	var live []uint64
	view(t, h.Store, func(r issuer.Reader) error {
		return r.Live(func(rec revset.Record) error { live = append(live, rec.Position); return nil })
	})
	if !slices.Equal(live, []uint64{1}) {
		t.Errorf("live: got %v, want the signing key alone", live)
	}
}

// pruneOutOfOrder forgets a later record before an earlier one, as happens
// when clocks of nodes differ.
func pruneOutOfOrder(t *testing.T, h Harness) {
	for _, at := range []time.Duration{10 * time.Minute, 0, 20 * time.Minute} {
		r := revocation("sub", "u1")
		r.Time = epoch.Add(at)
		update(t, h.Store, func(tx issuer.Tx) error { return tx.AppendRevocation(r) })
	}
	for _, at := range []time.Duration{5 * time.Minute, 15 * time.Minute} {
		if n, _, err := h.Store.Prune(t.Context(), epoch.Add(at), time.Hour, some); n != 1 || err != nil {
			t.Errorf("after %v: got %d records, %v, want 1", at, n, err)
		}
		if got := head(t, h.Store).Pruned.Position; got != 2 {
			t.Errorf("after %v: got pruned %d, want 2, the highest ever", at, got)
		}
		check(t, h.Store)
	}
}

func pruneSessions(t *testing.T, h Harness) {
	put := func(id string, idle, left time.Duration) issuer.Session {
		s := session(id, "u1")
		s.LastUsed, s.Expires = epoch.Add(-idle), epoch.Add(left)
		return s
	}
	update(t, h.Store, func(tx issuer.Tx) error {
		return errors.Join(tx.PutAccount(account("u1")),
			tx.PutSession(put("fresh", 0, time.Hour)), tx.PutSession(put("just", time.Hour, time.Millisecond)),
			tx.PutSession(put("ended", 0, 0)), tx.PutSession(put("idle", time.Hour+time.Millisecond, time.Hour)), tx.PutSession(put("both", 2*time.Hour, -1)))
	})
	for _, want := range []int{2, 1, 0} {
		if _, got, err := h.Store.Prune(t.Context(), epoch, time.Hour, 2); err != nil || got != want {
			t.Errorf("got %d sessions, %v, want %d", got, err, want)
		}
	}
	view(t, h.Store, func(r issuer.Reader) error {
		got, err := match(r, issuer.Match{})
		if want := []string{"fresh", "just"}; !slices.Equal(got.Sessions, want) {
			t.Errorf("got %q left, want %q", got.Sessions, want)
		}
		return err
	})
}

// historyAfterPruning prunes in small steps, with appends between them.
func historyAfterPruning(t *testing.T, h Harness) {
	for n := range 30 {
		r := revocation("sub", fmt.Sprint("u", n))
		r.Time, r.Keep = epoch.Add(time.Duration(n)*time.Minute), n%7 == 0
		update(t, h.Store, func(tx issuer.Tx) error { return tx.AppendRevocation(r) })
		if _, _, err := h.Store.Prune(t.Context(), r.Time.Add(-5*time.Minute), time.Hour, 2); err != nil {
			t.Fatal(err)
		}
		check(t, h.Store)
	}
	view(t, h.Store, func(r issuer.Reader) error {
		list, err := r.History(9, 3)
		if err != nil || len(list) != 3 || list[0].Value != "u9" || list[2].Position != 12 {
			t.Errorf("History after 9, 3 of them: got %v, %v", list, err)
		}
		return nil
	})
	report, err := issuer.VerifyLog(t.Context(), h.Store)
	if err != nil || report.Break != nil || report.Checked != 30 {
		t.Errorf("VerifyLog: got %+v, %v, want 30 whole", report, err)
	}
}

func foreign(name string, lifetime time.Duration) issuer.Foreign {
	return issuer.Foreign{Name: name, MaxLifetime: lifetime, SameSubjects: lifetime%(2*time.Minute) == 0}
}

// foreignRevocation appends one of another issuer's tokens.
func foreignRevocation(tx issuer.Tx, name string) error {
	r := revocation("sub", "u1")
	r.Issuer, r.NotBefore = name, uint32(epoch.Unix())
	return tx.AppendRevocation(r)
}

// foreignLifetimes keeps what revokes another issuer's tokens for as long as
// those can live, which never shrinks.
func foreignLifetimes(t *testing.T, h Harness) {
	const name = "https://idp.example"
	for _, d := range []time.Duration{time.Hour, 24 * time.Hour, time.Minute} {
		update(t, h.Store, func(tx issuer.Tx) error { return tx.PutIssuer(foreign(name, d)) })
	}
	update(t, h.Store, func(tx issuer.Tx) error {
		return errors.Join(tx.SetMaxLifetime(5*time.Minute), foreignRevocation(tx, name), appending("sid", "1")(tx))
	})
	want := []issuer.Foreign{{Name: name, MaxLifetime: 24 * time.Hour}}
	if d := cmp.Diff(want, head(t, h.Store).Issuers); d != "" {
		t.Errorf("issuers (-want +got):\n%s", d)
	}
	view(t, h.Store, func(r issuer.Reader) error {
		records, _, err := r.Records(0, 9)
		if err != nil {
			return err
		}
		for i, want := range []time.Duration{24*time.Hour + 10*time.Minute + time.Minute, 6 * time.Minute} {
			if got := time.Duration(records[i].Forget-uint32(epoch.Unix())) * time.Second; got != want {
				t.Errorf("record %d: it may be forgotten after %s, want %s", i, got, want)
			}
		}
		return nil
	})
	err := h.Store.Issue(t.Context(), func(tx issuer.Tx) error { return tx.PutIssuer(foreign("b", time.Hour)) })
	if err == nil {
		t.Error("an Issue puts an issuer, want an error")
	}
}
