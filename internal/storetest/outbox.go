package storetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
)

// inOutbox runs a test on a store that has an outbox. One that has none says so.
func inOutbox(test func(*testing.T, Harness)) func(*testing.T, Harness) {
	return func(t *testing.T, h Harness) {
		if h.Request != nil {
			test(t, h)
			return
		}
		update(t, h.Store, func(tx issuer.Tx) error {
			requested, err := tx.Requested()
			taken, err2 := tx.TakeRequests(some)
			_, err3 := tx.Answered(1)
			if requested || len(taken) > 0 || !errors.Is(err3, issuer.ErrNotFound) || !errors.Is(tx.AnswerRequest(1), issuer.ErrNotFound) {
				t.Errorf("a store without an outbox: got requests %v, %v, and an answer, %v", requested, taken, err3)
			}
			return errors.Join(err, err2)
		})
	}
}

// requested asks each way whether requests wait.
func requested(t *testing.T, s issuer.Store) bool {
	t.Helper()
	var viewed, issuing bool
	view(t, s, func(r issuer.Reader) (err error) {
		viewed, err = r.Requested()
		return err
	})
	err := s.Issue(t.Context(), func(tx issuer.Tx) (err error) {
		issuing, err = tx.Requested()
		return err
	})
	tail, err2 := s.Tail(t.Context(), feed.Mark{}, 1)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	if viewed != issuing || viewed != tail.Requested {
		t.Errorf("requests wait: %v for View, %v for Issue, %v for Tail", viewed, issuing, tail.Requested)
	}
	return viewed
}

func answered(t *testing.T, s issuer.Store, id uint64) (position uint64, err error) {
	t.Helper()
	view(t, s, func(r issuer.Reader) error {
		position, err = r.Answered(id)
		return nil
	})
	return position, err
}

// carryOut takes requests and makes the revocations that they ask for, but
// those with an empty reason.
func carryOut(tx issuer.Tx, limit int, taken *[]issuer.Request) error {
	list, err := tx.TakeRequests(limit)
	if err != nil {
		return err
	}
	*taken = list
	for _, r := range list {
		if r.Reason != "" {
			if err := appending(r.Claim, r.Value, r.Value)(tx); err != nil {
				return err
			}
		}
		if err := tx.AnswerRequest(r.ID); err != nil {
			return err
		}
	}
	return nil
}

func outboxOrder(t *testing.T, h Harness) {
	inOutbox(func(t *testing.T, h Harness) {
		if requested(t, h.Store) {
			t.Error("an empty outbox: requests wait")
		}
		if _, err := answered(t, h.Store, 1); !errors.Is(err, issuer.ErrNotFound) {
			t.Errorf("a request that was never made: got %v, want ErrNotFound", err)
		}
		asked := time.Now()
		ids := []uint64{h.Request(t, "sub", "u1", "hacked"), h.Request(t, "tenant", "acmé", ""), h.Request(t, "sid", "s1", "left")}
		for _, id := range ids {
			if got, err := answered(t, h.Store, id); got != 0 || err != nil {
				t.Errorf("request %d, which waits: got %d, %v, want 0", id, got, err)
			}
		}
		var taken []issuer.Request
		update(t, h.Store, func(tx issuer.Tx) error { return carryOut(tx, 2, &taken) })
		if len(taken) != 2 || !requested(t, h.Store) {
			t.Fatalf("the first two: got %v, and requests wait %v", taken, requested(t, h.Store))
		}
		first := taken[0]
		if skew := first.Time.Sub(asked).Abs(); first.Actor == "" || skew > time.Minute {
			t.Errorf("taken: got %+v, want who made it, and when", first)
		}
		for n, want := range []issuer.Request{{ID: ids[0], Claim: "sub", Value: "u1", Reason: "hacked"}, {ID: ids[1], Claim: "tenant", Value: "acmé"}} {
			want.Actor, want.Time = taken[n].Actor, taken[n].Time
			if taken[n] != want {
				t.Errorf("taken: got %+v, want %+v", taken[n], want)
			}
		}
		update(t, h.Store, func(tx issuer.Tx) error { return carryOut(tx, 2, &taken) })
		if len(taken) != 1 || taken[0].ID != ids[2] || requested(t, h.Store) {
			t.Errorf("the rest: got %v, want %d alone, and nothing to wait", taken, ids[2])
		}
		for n, want := range []uint64{2, 0, 4} {
			if got, err := answered(t, h.Store, ids[n]); got != want || err != nil {
				t.Errorf("request %d: got %d, %v, want %d", ids[n], got, err, want)
			}
		}
		h.Store = h.Reopen(t)
		if got, err := answered(t, h.Store, ids[2]); got != 4 || err != nil {
			t.Errorf("after opening again: got %d, %v, want 4", got, err)
		}
		check(t, h.Store)
	})(t, h)
}

func outboxUndone(t *testing.T, h Harness) {
	inOutbox(func(t *testing.T, h Harness) {
		id := h.Request(t, "sub", "u1", "hacked")
		var taken []issuer.Request
		_, err := h.Store.Update(t.Context(), func(tx issuer.Tx) error { return errors.Join(carryOut(tx, some, &taken), errRefused) })
		if !errors.Is(err, errRefused) || len(taken) != 1 {
			t.Errorf("got %v, %v, want the request and the function's error", taken, err)
		}
		if got, err := answered(t, h.Store, id); got != 0 || err != nil || !requested(t, h.Store) {
			t.Errorf("undone: got %d, %v, want it to wait", got, err)
		}
		h.Fail(Fault{}, Fault{Persisted: true})
		update(t, h.Store, func(tx issuer.Tx) error { return carryOut(tx, some, &taken) })
		h.Fail()
		if got, err := answered(t, h.Store, id); got != 2 || err != nil || requested(t, h.Store) {
			t.Errorf("after commits that failed and stood: got %d, %v, want 2", got, err)
		}
		check(t, h.Store)
	})(t, h)
}

// outboxSeen has many take requests while they are made: each is taken by one.
func outboxSeen(t *testing.T, h Harness) {
	inOutbox(func(t *testing.T, h Harness) {
		const makers, each = 4, 25
		var g errgroup.Group
		made := make([][]uint64, makers)
		for n := range makers {
			g.Go(func() error {
				for i := range each {
					made[n] = append(made[n], h.Request(t, "sub", fmt.Sprint(n, "-", i), "asked"))
				}
				return nil
			})
		}
		for range 3 {
			g.Go(func() error {
				for range 20 {
					var taken []issuer.Request
					if _, err := h.Store.Update(t.Context(), func(tx issuer.Tx) error { return carryOut(tx, 7, &taken) }); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		for requested(t, h.Store) {
			var taken []issuer.Request
			update(t, h.Store, func(tx issuer.Tx) error { return carryOut(tx, some, &taken) })
		}
		seen := map[uint64]bool{}
		for _, id := range slices.Concat(made...) {
			position, err := answered(t, h.Store, id)
			if err != nil || position == 0 || seen[position] {
				t.Errorf("request %d: got %d, %v, want a position of its own", id, position, err)
			}
			seen[position] = true
		}
		if got := head(t, h.Store).Head.Position; got != 2*makers*each {
			t.Errorf("the log ends at %d, want %d: each request twice, and once only", got, 2*makers*each)
		}
		check(t, h.Store)
	})(t, h)
}
