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
	"github.com/quashdev/quash/internal/revlog"
	"github.com/quashdev/quash/internal/sqlite"
)

// fullDisk is a source that, when full, takes no new row of a node.
type fullDisk struct {
	revlog.Source
	full atomic.Bool
}

type fullWriter struct{ revlog.Writer }

func (w fullWriter) PutNode(n issuer.Node) error {
	if n.Counter == 0 {
		return errors.New("disk full")
	}
	return w.Writer.PutNode(n)
}

func (s *fullDisk) Update(ctx context.Context, fn func(revlog.Writer) error) error {
	return s.Source.Update(ctx, func(w revlog.Writer) error {
		if s.full.Load() {
			w = fullWriter{w}
		}
		return fn(w)
	})
}

// A process that has lost its row, and cannot be another node yet, still owes
// what it granted: nothing is confirmed meanwhile.
func TestP4NoNode(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		s := &fullDisk{Source: w.source}
		w.source = s
		w.restart()
		time.Sleep(whole + moment) // the node before this one is dead
		v := connected(w, 1)[0]
		synctest.Wait()
		v.stall()
		w.revoke("sid", 1)
		synctest.Wait()
		c := w.revoke("sid", 1)
		synctest.Wait()
		began := time.Now()
		s.full.Store(true)
		w.update(func(tx issuer.Tx) error { return tx.DeleteNode(w.nodes()[0].ID) })
		if got := waitFor(w, c.Last, 20*time.Second); got.Confirmed {
			t.Errorf("confirmed after %v, while a verifier at %d relies on its lease", time.Since(began), v.position())
		}
		s.full.Store(false)
		close(v.gate)
	})
}

// switching is a source that can be exchanged for another.
type switching struct{ p atomic.Pointer[revlog.Source] }

func (s *switching) View(ctx context.Context, fn func(revlog.Reader) error) error {
	return (*s.p.Load()).View(ctx, fn)
}

func (s *switching) Tail(ctx context.Context, m feed.Mark, n int) (issuer.Tail, error) {
	return (*s.p.Load()).Tail(ctx, m, n)
}

func (s *switching) Update(ctx context.Context, fn func(revlog.Writer) error) error {
	return (*s.p.Load()).Update(ctx, fn)
}
func (s *switching) Changed() <-chan struct{} { return nil }

// Positions of another log have nothing to do with what was seen of those of
// the former one.
func TestP4AnotherLog(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		s := &switching{}
		a := w.source
		s.p.Store(&a)
		w.source = s
		w.restart()
		vs := connected(w, 1)
		beating(t, vs...)
		for range 3 {
			w.revoke("sid", 1)
			time.Sleep(2 * time.Second)
		}
		time.Sleep(time.Minute)
		other, err := sqlite.Open(t.Context(), sqlite.Config{Path: ":memory:"})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		b := revlog.FromStore(other, nil)
		s.p.Store(&b)
		vs[0].done.Wait()
		time.Sleep(2 * time.Second)
		old := w.store
		w.store = other
		w.update(func(tx issuer.Tx) error { return tx.SetMaxLifetime(5 * time.Minute) })
		v := newRecorder("b")
		time.Sleep(2 * time.Second)
		v.connect(w)
		synctest.Wait()
		v.stall()
		w.revoke("sid", 1)
		time.Sleep(1500 * time.Millisecond)
		c := w.revoke("sid", 1)
		time.Sleep(1500 * time.Millisecond)
		if got := waitFor(w, c.Last, 10*time.Millisecond); got.Confirmed {
			t.Errorf("%+v, while a verifier at %d relies on its lease", got, v.position())
		}
		close(v.gate)
		w.halt()
		w.store = old
	})
}

// How long a confirmation took is said only where it is known.
func TestTookUnknown(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		c := w.revoke("sid", 1)
		time.Sleep(time.Second)
		w.restart()
		time.Sleep(5 * time.Hour)
		if got := waitFor(w, c.Last, time.Second); !got.Confirmed || got.Took != 0 {
			t.Errorf("of what was committed before the node started: %+v, want it confirmed, and no time", got)
		}
	})
}
