package revlog_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/lease"
	"github.com/quashdev/quash/internal/revlog"
	"github.com/quashdev/quash/internal/storetest"
)

// drainer carries out requests, so many at once, unless it is stuck.
type drainer struct {
	limit int
	stuck atomic.Bool
}

func (d *drainer) drain(tx issuer.Tx) (left bool, err error) {
	if d.stuck.Load() {
		return false, errors.New("stuck")
	}
	requests, err := tx.TakeRequests(d.limit)
	for _, r := range requests {
		err = errors.Join(err, tx.AppendRevocation(issuer.Revocation{Issuer: testIssuer, Claim: r.Claim, Value: r.Value, Time: tx.Now()}), tx.AnswerRequest(r.ID))
	}
	return len(requests) == d.limit, err
}

// share starts the node again on a store that is shared with other programs.
func (w *world) share(d *drainer) *storetest.Shared {
	shared := storetest.Share(w.store)
	w.source = revlog.FromStore(shared, d.drain)
	w.restart()
	return shared
}

// A request becomes a revocation as soon as the node sees it, however many
// there are.
func TestP5RequestsAreDrained(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		shared := w.share(&drainer{limit: 3})
		v := connected(w, 1)[0]
		for range 20 {
			shared.Request("sub", "u1", "")
		}
		time.Sleep(2 * moment)
		synctest.Wait()
		if l, _ := w.truth(); shared.Waiting() != 0 || l.Head.Position != 20 || v.position() != 20 {
			t.Errorf("%d requests wait, the log ends at %d, and the verifier has %d of it, want 20", shared.Waiting(), l.Head.Position, v.position())
		}
	})
}

// hidden is a source whose tail tells of no request.
type hidden struct{ revlog.Source }

func (s hidden) Tail(ctx context.Context, m feed.Mark, n int) (issuer.Tail, error) {
	t, err := s.Source.Tail(ctx, m, n)
	t.Requested = false
	return t, err
}

// A renewal drains the outbox: whoever holds a lease of it has what was asked
// for before it began.
func TestP5ARenewalDrains(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		shared := storetest.Share(w.store)
		w.source = hidden{revlog.FromStore(shared, (&drainer{limit: 3}).drain)}
		w.restart()
		v := connected(w, 1)[0]
		beating(t, v)
		for range 20 {
			shared.Request("sub", "u1", "")
		}
		time.Sleep(lease.Default.Beat() + moment)
		synctest.Wait()
		if shared.Waiting() != 0 || v.position() != 20 {
			t.Errorf("after a beat %d requests wait, and the verifier has %d, want all 20", shared.Waiting(), v.position())
		}
	})
}

// A renewal that cannot drain the outbox counts for nothing: what was asked for
// holds a lease after it was committed, because nobody relies on anything then.
func TestP5NoLeaseBesideRequests(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		d := &drainer{limit: 3}
		shared := w.share(d)
		v := connected(w, 1)[0]
		beating(t, v)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := v.last(t, feed.KindPong).grant; got < 20*time.Second {
			t.Fatalf("granted %v before, want most of a lease", got)
		}
		d.stuck.Store(true)
		shared.Request("sub", "u1", "")
		asked := time.Now()
		for time.Since(asked) < 2*whole {
			time.Sleep(time.Second)
			synctest.Wait()
			left := v.last(t, feed.KindPong).grant - time.Since(asked)
			if left > time.Duration(lease.Default) || time.Since(asked) > time.Duration(lease.Default) && v.last(t, feed.KindPong).grant > 0 {
				t.Fatalf("%v after the request, granted %v", time.Since(asked), v.last(t, feed.KindPong).grant)
			}
		}
		d.stuck.Store(false)
		time.Sleep(2*lease.Default.Beat() + moment)
		synctest.Wait()
		if got := v.last(t, feed.KindPong).grant; got < 20*time.Second || v.position() != 1 {
			t.Errorf("once it is drained: granted %v at %d, want most of a lease", got, v.position())
		}
	})
}

// healing begins epochs as the rules do.
func healing(s issuer.Store, times *atomic.Int64) func(context.Context) error {
	return func(ctx context.Context) error {
		times.Add(1)
		_, err := s.Update(ctx, func(tx issuer.Tx) error {
			_, err := issuer.StartEpoch(tx, "forked", false)
			return errors.Join(err, tx.AppendRevocation(issuer.Revocation{Issuer: testIssuer, Claim: "iss", Value: testIssuer, Time: tx.Now()}))
		})
		return err
	}
}

// Where the database lost what the node had read, a new epoch begins at once:
// the verifiers get a snapshot of it, and nothing is confirmed while a lease of
// before may run.
func TestP4AForkedDatabase(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		var healed atomic.Int64
		shared := storetest.Share(w.store)
		w.config.Heal = healing(shared, &healed)
		w.source = revlog.FromStore(shared, nil)
		w.restart()
		vs := connected(w, 2)
		beating(t, vs...)
		w.revoke("sid", 3)
		time.Sleep(time.Minute)
		synctest.Wait()
		before, _ := w.truth()
		shared.Fork()
		time.Sleep(2 * moment)
		after, _ := w.truth()
		if healed.Load() != 1 || after.Epoch != 2 || after.ID == before.ID || w.log.Head() != after.Head {
			t.Fatalf("healed %d times: the log is %+v after %+v, and the node has read to %v", healed.Load(), after, before, w.log.Head())
		}
		if err := w.log.Err(); err != nil {
			t.Errorf("the node cannot read: %v", err)
		}
		for _, v := range vs {
			v.done.Wait() // its connection was ended
			v.connect(w)
		}
		synctest.Wait()
		for _, v := range vs {
			hello := v.last(t, feed.KindHello).hello
			if hello.Resumes || hello.Reason != "log" || hello.Epoch != 2 || hello.Log != after.ID || v.position() != after.Head.Position {
				t.Errorf("hello: got %+v, and the verifier is at %d, want a snapshot of epoch 2 at %d", hello, v.position(), after.Head.Position)
			}
		}
		c := w.revoke("sid", 1)
		began := time.Now()
		got := waitFor(w, c.Last, time.Hour)
		if took, want := time.Since(began), lease.Max.Whole(); !got.Confirmed || took < want-2*moment || took > want+2*moment {
			t.Errorf("confirmed = %v after %v, want it about %v after the epoch began", got.Confirmed, took, want)
		}
		c = w.revoke("sid", 1)
		if got := waitFor(w, c.Last, time.Hour); !got.Confirmed || got.Took > time.Second {
			t.Errorf("the next: %+v, want it confirmed at once", got)
		}
		for _, n := range w.nodes() {
			if n.ID == "epoch-2" {
				t.Error("the epoch's row was not taken out")
			}
		}
	})
}

// What cannot be healed is tried again, and is an error meanwhile.
func TestAForkIsTriedAgain(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		var healed atomic.Int64
		shared := storetest.Share(w.store)
		heal := healing(shared, &healed)
		w.config.Heal = func(ctx context.Context) error {
			if healed.Load() < 3 {
				healed.Add(1)
				return errors.New("disk full")
			}
			return heal(ctx)
		}
		w.source = revlog.FromStore(shared, nil)
		w.restart()
		shared.Fork()
		time.Sleep(2 * moment)
		if w.log.Err() == nil {
			t.Error("the node reads a log that is forked")
		}
		time.Sleep(5 * time.Second)
		if l, _ := w.truth(); w.log.Err() != nil || l.Epoch != 2 {
			t.Errorf("epoch %d, %v, want the second", l.Epoch, w.log.Err())
		}
	})
}
