package storetest

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revset"
)

// epochLifts begins two epochs among records, of which some are pruned.
func epochLifts(t *testing.T, h Harness) {
	update(t, h.Store, appending("sid", "1", "2", "3"))
	before := head(t, h.Store)
	var begun issuer.Epoch
	commit := update(t, h.Store, func(tx issuer.Tx) (err error) {
		if begun, err = tx.BeginEpoch("another", "a fail-over"); err != nil {
			return err
		}
		return appending("iss", "4")(tx)
	})
	want := before.Lift("another", "a fail-over", begun.Time)
	if d := cmp.Diff(want, begun); d != "" || begun.Number != 2 || begun.Begin.Position < 3+issuer.EpochLift {
		t.Errorf("BeginEpoch: got %+v (-want +got):\n%s", begun, d)
	}
	if commit.First != begun.Begin.Position+1 || commit.Last != commit.First {
		t.Errorf("the commit appended %d to %d, want the one after %d", commit.First, commit.Last, begun.Begin.Position)
	}
	l := head(t, h.Store)
	if l.ID != "another" || l.Epoch != 2 || l.Pruned != begun.Begin || l.Head != commit.Head || !slices.Equal(l.HashSecret, before.HashSecret) {
		t.Errorf("log: got %+v, want it to begin at %v", l, begun.Begin)
	}
	view(t, h.Store, func(r issuer.Reader) error {
		var live []uint64
		err := r.Live(func(rec revset.Record) error { live = append(live, rec.Position); return nil })
		if want := []uint64{1, 2, 3, commit.Last}; !slices.Equal(live, want) {
			t.Errorf("live: got %v, want %v", live, want)
		}
		past, err2 := r.History(1, 3)
		if len(past) != 3 || past[1].Position != 3 || past[2].Position != commit.Last {
			t.Errorf("History after 1, 3 of them: got %v, want it to go on over the gap", past)
		}
		for _, below := range []uint64{0, 3, 4, begun.Begin.Position - 1} {
			if _, _, err := r.Records(below, 1); err == nil {
				t.Errorf("Records after %d: got some, want an error: they would have a gap", below)
			}
		}
		return errors.Join(err, err2)
	})
	for _, below := range []feed.Mark{before.Head, {Position: 1 << 20, Digest: before.Head.Digest}} {
		got, err := h.Store.Tail(t.Context(), below, some)
		if err != nil || got.At != (feed.Mark{}) || len(got.Records) != 0 || got.Log.Epoch != 2 {
			t.Errorf("Tail after %v: got %+v, %v, want nothing but the log", below, got, err)
		}
	}
	check(t, h.Store)
	if n, _, err := h.Store.Prune(t.Context(), epoch.Add(time.Hour), time.Hour, 2); n != 2 || err != nil {
		t.Errorf("Prune: got %d records, %v, want 2", n, err)
	}
	if got := head(t, h.Store).Pruned; got != begun.Begin {
		t.Errorf("pruned: got %v, want it not to fall below %v", got, begun.Begin)
	}
	update(t, h.Store, beginEpoch("the next"))
	update(t, h.Store, appending("sid", "5"))
	check(t, h.Store)
	check(t, h.Reopen(t))
}

func epochUndone(t *testing.T, h Harness) {
	update(t, h.Store, appending("sid", "1"))
	before := head(t, h.Store)
	_, err := h.Store.Update(t.Context(), func(tx issuer.Tx) error {
		return errors.Join(errRefused, beginEpoch("nothing")(tx), appending("sid", "2")(tx))
	})
	if !errors.Is(err, errRefused) {
		t.Errorf("got %v, want the function's own error", err)
	}
	if err := h.Store.Issue(t.Context(), beginEpoch("nothing")); err == nil {
		t.Error("BeginEpoch in Issue: got success, want an error")
	}
	if d := cmp.Diff(before, head(t, h.Store)); d != "" {
		t.Errorf("log (-want +got):\n%s", d)
	}
	c := update(t, h.Store, appending("sid", "2"))
	if c.Last != 2 {
		t.Errorf("the next record stands at %d, want 2", c.Last)
	}
	check(t, h.Store)
}

// epochFull lifts a head that is near the highest position.
func epochFull(t *testing.T, h Harness) {
	l := head(t, h.Store)
	l.Head.Position = revset.MaxPosition - issuer.EpochLift - 2
	l.Pruned = l.Head
	update(t, h.Store, func(tx issuer.Tx) error { return tx.Restore(l, nil, sequence(nil)) })
	update(t, h.Store, beginEpoch("the last"))
	if _, err := h.Store.Update(t.Context(), beginEpoch("one too many")); err == nil {
		t.Error("BeginEpoch beyond the highest position: got success, want an error")
	}
	if c := update(t, h.Store, appending("sid", "1")); c.Last != revset.MaxPosition-1 {
		t.Errorf("appended at %d, want %d, the last there is", c.Last, uint64(revset.MaxPosition-1))
	}
	if _, err := h.Store.Update(t.Context(), appending("sid", "1")); err == nil {
		t.Error("a record beyond the highest position: got success, want an error")
	}
	if got := head(t, h.Store); got.Head.Position != revset.MaxPosition-1 || got.Epoch != 2 {
		t.Errorf("log: got %+v", got)
	}
}

func sequence(list []issuer.Revocation) iter.Seq2[issuer.Revocation, error] {
	return func(yield func(issuer.Revocation, error) bool) {
		for _, r := range list {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// other is the log of another store: two epochs, of which the first began with
// records that were pruned since.
func other(t *testing.T, own issuer.Log, now time.Time) *model {
	m := newModel(issuer.Log{ID: "other", Epoch: 1, HashSecret: own.HashSecret[:31:31], MaxLifetime: 5 * time.Minute})
	m.log.HashSecret = append(m.log.HashSecret, 'x')
	m.now = now
	for n := range 3 {
		if n == 1 {
			if _, err := m.BeginEpoch("other 2", "a fail-over"); err != nil {
				t.Fatal(err)
			}
		}
		for v := range 4 {
			r := revocation([]string{"sub", "sid", "tenant"}[n], fmt.Sprint(v))
			r.Time, r.Keep = now.Add(time.Duration(n-1)*time.Hour), v == 3
			if err := m.AppendRevocation(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	return m
}

// restoreIsTheOther gives a new store the log of another, which it then is:
// what is written next continues it.
func restoreIsTheOther(t *testing.T, h Harness) {
	now := time.Now().Truncate(time.Millisecond)
	from := other(t, head(t, h.Store), now)
	p := &pair{Harness: h, model: newModel(head(t, h.Store))}
	p.step(t, writes["01 PutAccount"], nil)
	restore := func(tx issuer.Tx) error { return tx.Restore(from.log, from.epochs, sequence(from.history)) }
	p.step(t, func(tx issuer.Tx) error { return errors.Join(errRefused, restore(tx)) }, nil)
	p.step(t, restore, []Fault{{}})
	if got := head(t, p.Store); got.ID != "other 2" || got.Head != from.log.Head || got.Pruned.Position < from.log.Pruned.Position {
		t.Errorf("log: got %+v, want %+v", got, from.log)
	}
	view(t, p.Store, func(r issuer.Reader) error {
		live := 0
		err := r.Live(func(revset.Record) error { live++; return nil })
		if live != 9 { // of the first four, from an hour ago, one is never forgotten
			t.Errorf("live: got %d records, want 9", live)
		}
		return err
	})
	check(t, p.Store)
	p.step(t, appending("jti", "next"), nil)
	p.step(t, beginEpoch("a restore"), nil)
	p.step(t, appending("iss", "all"), nil)
	check(t, p.Store)
	p.Store = p.Reopen(t)
	p.step(t, appending("jti", "another"), nil)
	check(t, p.Store)
}

func restoreOnlyEmpty(t *testing.T, h Harness) {
	from := other(t, head(t, h.Store), epoch)
	errBroken := errors.New("the file ends here")
	_, err := h.Store.Update(t.Context(), func(tx issuer.Tx) error {
		return tx.Restore(from.log, from.epochs, func(yield func(issuer.Revocation, error) bool) {
			_ = yield(from.history[0], nil) && yield(issuer.Revocation{}, errBroken)
		})
	})
	if !errors.Is(err, errBroken) {
		t.Errorf("from records that cannot be read: got %v, want their error", err)
	}
	check(t, h.Store)
	for _, fill := range []func(issuer.Tx) error{appending("sid", "1"), beginEpoch("another")} {
		update(t, h.Store, fill)
		before := head(t, h.Store)
		_, err = h.Store.Update(t.Context(), func(tx issuer.Tx) error { return tx.Restore(from.log, nil, sequence(nil)) })
		if err == nil {
			t.Error("Restore over a log that is not empty: got success, want an error")
		}
		if d := cmp.Diff(before, head(t, h.Store)); d != "" {
			t.Errorf("log (-want +got):\n%s", d)
		}
	}
	check(t, h.Store)
}

// forkedStands has the database lose what the store has seen of it.
func forkedStands(t *testing.T, h Harness) {
	if h.Lose == nil {
		t.Log("no other process may write to this database")
		return
	}
	update(t, h.Store, people(1, "u1"))
	update(t, h.Store, appending("sid", "1"))
	before := head(t, h.Store)
	h.Lose(t, func() { update(t, h.Store, appending("sid", "2", "3")) })
	refused := func(when string) {
		t.Helper()
		_, err := h.Store.Tail(t.Context(), before.Head, some)
		_, err2 := h.Store.Update(t.Context(), appending("sid", "4"))
		err3 := h.Store.Issue(t.Context(), func(tx issuer.Tx) error { return tx.PutSession(session("s1", "u1")) })
		for method, err := range map[string]error{"Tail": err, "Update": err2, "Issue": err3} {
			if !errors.Is(err, issuer.ErrForked) {
				t.Errorf("%s %s: got %v, want ErrForked", method, when, err)
			}
		}
	}
	refused("after the loss")
	refused("a second time")
	_, err := h.Store.Update(t.Context(), func(tx issuer.Tx) error { return errors.Join(beginEpoch("nothing")(tx), errRefused) })
	if !errors.Is(err, errRefused) {
		t.Errorf("an epoch that the function gave up: got %v, want its error", err)
	}
	refused("after an epoch that was given up")
	update(t, h.Store, func(tx issuer.Tx) error {
		return errors.Join(beginEpoch("a fail-over")(tx), appending("iss", "all")(tx))
	})
	got := head(t, h.Store)
	if got.Epoch != before.Epoch+1 || got.Head.Position <= before.Head.Position+issuer.EpochLift {
		t.Errorf("log: got %+v, want the next epoch after %+v", got, before)
	}
	check(t, h.Store)
}
