package revlog_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/lease"
	"github.com/quashdev/quash/internal/revlog"
)

const (
	whole  = 33 * time.Second // a lease with its margin
	moment = time.Second + 10*time.Millisecond
)

// beating has the verifiers ping as real ones do, until the test ends.
func beating(t *testing.T, vs ...*recorder) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(lease.Default.Beat()):
			}
			for _, v := range vs {
				_ = sendPing(v.conn, v.position())
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// waitFor is WaitConfirmed with a bound on the wait.
func waitFor(w *world, position uint64, d time.Duration) revlog.Confirmation {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return w.log.WaitConfirmed(ctx, position)
}

func TestP4ConfirmedByAll(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		c := w.revoke("sid", 1)
		if got := waitFor(w, c.Last, time.Hour); !got.Confirmed || got.Applied != 0 {
			t.Errorf("without verifiers: %+v, want it confirmed by none", got)
		}
		own := newRecorder("own")
		own.key = "own"
		own.connect(w)
		vs := connected(w, 3)
		synctest.Wait()
		c = w.revoke("sid", 1)
		got := waitFor(w, c.Last, time.Hour)
		if want := (revlog.Confirmation{Position: c.Last, Confirmed: true, Applied: 3}); !cmp.Equal(got, want) {
			t.Errorf("three verifiers: %s", cmp.Diff(want, got))
		}
		for _, v := range w.log.Verifiers() {
			if v.Applied != c.Last || v.Sent != c.Last || !v.Connected {
				t.Errorf("verifier = %+v, want it connected and at %d", v, c.Last)
			}
		}
		_ = vs
	})
}

// A verifier that does not confirm is waited for as long as it may rely on
// what it has, and no longer.
func TestP4SlowVerifier(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		v := connected(w, 2)[0]
		synctest.Wait()
		resume := v.stall()
		w.revoke("sid", 1) // it waits for this one already, and takes it
		synctest.Wait()
		c := w.revoke("sid", 1)
		got := waitFor(w, c.Last, time.Second)
		if got.Confirmed || got.Applied != 1 || got.Pending != 1 || len(got.Slow) != 1 || got.Slow[0].Name != v.name || got.Slow[0].Applied >= c.Last {
			t.Errorf("one stalled: %+v, want it named as pending", got)
		}
		if got.Took != time.Second || !got.Until.Equal(time.Now().Add(whole-time.Second)) {
			t.Errorf("one stalled: waited %v, until %v; want a second, and a lease with its margin after the commit", got.Took, got.Until)
		}
		resume()
		if got := waitFor(w, c.Last, time.Second); !got.Confirmed || got.Applied != 2 {
			t.Errorf("after all: %+v, want it confirmed by both", got)
		}
	})
}

// P5: whatever a verifier does, a position is confirmed one lease and the
// margin after its commit; until then it is not.
func TestP5LeaseEnds(t *testing.T) {
	cut := map[string]func(*world, *recorder){
		"closed":    func(_ *world, v *recorder) { _ = v.conn.Close() },
		"deaf":      func(_ *world, v *recorder) { v.stall() },
		"withdrawn": func(w *world, _ *recorder) { w.log.KeyWithdrawn("key") },
	}
	for name, end := range cut {
		t.Run(name, func(t *testing.T) {
			run(t, revlog.Config{}, func(t *testing.T, w *world) {
				v := connected(w, 1)[0]
				synctest.Wait()
				end(w, v)
				w.revoke("sid", 1)
				synctest.Wait()
				c := w.revoke("sid", 1)
				at := time.Now()
				if got := waitFor(w, c.Last, 29*time.Second); got.Confirmed {
					t.Errorf("confirmed after %v, while the verifier may rely on its lease", time.Since(at))
				}
				got := waitFor(w, c.Last, time.Minute)
				if took := time.Since(at); !got.Confirmed || took > whole+moment {
					t.Errorf("confirmed = %v after %v, want it by %v", got.Confirmed, took, whole+moment)
				}
				if got.Lost != 1 || got.Applied != 0 {
					t.Errorf("%+v, want one verifier that lost its lease", got)
				}
				if v.gate != nil {
					close(v.gate)
				}
			})
		})
	}
}

// Whoever asks first after a lease has ended is told of it, though the node
// looks for leases that have only now and then.
func TestP11LeaseEndedUnnoticed(t *testing.T) {
	run(t, revlog.Config{Lease: lease.Length(6 * time.Second)}, func(t *testing.T, w *world) {
		time.Sleep(1010 * time.Millisecond) // a beat is at 1 s, and the node looks every 0.6 s
		v := connected(w, 1)[0]
		synctest.Wait()
		v.stall()
		w.revoke("sid", 1)
		synctest.Wait()
		c := w.revoke("sid", 1)
		for {
			got := waitFor(w, c.Last, time.Millisecond)
			if got.Confirmed {
				if got.Lost != 1 {
					t.Errorf("after %v: %+v, want one verifier that lost its lease", got.Took, got)
				}
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		close(v.gate)
	})
}

// A grant lasts a lease from the beginning of the renewal before it, and a
// verifier that lags gets none beyond what it has applied: it runs out by
// itself.
func TestP5GrantStandsStill(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		v := connected(w, 1)[0]
		synctest.Wait()
		if got := v.last(t, feed.KindPong).grant; got != time.Duration(lease.Default) {
			t.Errorf("first grant = %v, want a whole lease", got)
		}
		stuck := v.position()
		w.revoke("sid", 1)
		time.Sleep(20 * time.Second) // four renewals, none of which counts for it
		if err := sendPing(v.conn, stuck); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
		synctest.Wait()
		// The recorder itself has confirmed the record: what it was granted
		// then is of a renewal that had seen none.
		if got, most := v.last(t, feed.KindPong).grant, 10*time.Second; got <= 0 || got < most/2 {
			t.Errorf("grant for one in step = %v, want most of a lease", got)
		}
	})
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		v := newRecorder("v")
		conn, r, err := v.dial(w)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		grant := func() time.Duration {
			go func() { _ = sendPing(conn, 0) }()
			for {
				if e, err := decode(nextFrame(t, r).Payload); err != nil {
					t.Fatal(err)
				} else if e.kind == feed.KindPong {
					return e.grant
				}
			}
		}
		if got := grant(); got != time.Duration(lease.Default) {
			t.Errorf("first grant = %v, want a whole lease", got)
		}
		w.revoke("sid", 1)
		for want := 24 * time.Second; want > 0; want -= 6 * time.Second {
			time.Sleep(6*time.Second - 50*time.Millisecond)
			if got := grant(); (got - want).Abs() > time.Second {
				t.Errorf("grant for one that lags = %v, want about %v", got, want)
			}
		}
	})
}

// Below the floor nothing is granted: somebody may have been told that nobody
// is there.
func TestP4FloorRefuses(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		v := newRecorder("v")
		conn, r, err := v.dial(w) // it has a snapshot from before
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		nextFrame(t, r)
		c := w.revoke("sid", 1)
		if got := waitFor(w, c.Last, time.Second); !got.Confirmed {
			t.Fatalf("%+v, want it confirmed: nobody holds a lease", got)
		}
		go func() { _ = sendPing(conn, 0) }()
		for {
			e, err := decode(nextFrame(t, r).Payload)
			if err != nil {
				t.Fatal(err)
			}
			if sent := e.kind == feed.KindMark || e.kind == feed.KindRecords; sent && e.mark.Position == c.Last {
				go func() { _ = sendPing(conn, c.Last) }()
			}
			if e.kind == feed.KindPong && e.mark.Position < c.Last && e.grant != 0 {
				t.Fatalf("granted %v at position %d, below the floor %d", e.grant, e.mark.Position, c.Last)
			}
			if e.kind == feed.KindPong && e.mark.Position == c.Last {
				return
			}
		}
	})
}

// A goodbye gives back what its connection was granted; that a connection is
// closed gives back nothing.
func TestP4Goodbye(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		vs := connected(w, 2)
		synctest.Wait()
		if err := sendFrame(vs[0].conn, ws.NewBinaryFrame(feed.AppendGoodbye(nil))); err != nil {
			t.Fatal(err)
		}
		vs[0].done.Wait()
		c := w.revoke("sid", 1)
		if got := waitFor(w, c.Last, time.Second); !got.Confirmed || got.Applied != 1 {
			t.Errorf("after a goodbye: %+v, want it confirmed by the other", got)
		}
		vs[1].disconnect()
		c = w.revoke("sid", 1)
		if got := waitFor(w, c.Last, time.Second); got.Confirmed || got.Pending != 1 {
			t.Errorf("after a connection was closed: %+v, want its verifier pending", got)
		}
		vs[1].connect(w) // the same process
		if got := waitFor(w, c.Last, time.Second); !got.Confirmed {
			t.Errorf("after the process came back: %+v, want it confirmed", got)
		}
		if err := sendFrame(vs[1].conn, ws.NewBinaryFrame(feed.AppendGoodbye(nil))); err != nil {
			t.Fatal(err)
		}
		vs[1].done.Wait()
		c = w.revoke("sid", 1)
		if got := waitFor(w, c.Last, time.Second); got.Confirmed {
			t.Errorf("the goodbye of one connection gave back what another was granted")
		}
	})
}

// Another process does not answer for the one that it replaced.
func TestP4IdentityByProcess(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		old := connected(w, 1)[0]
		synctest.Wait()
		old.disconnect()
		renewed := newRecorder("new")
		renewed.connect(w)
		synctest.Wait()
		c := w.revoke("sid", 1)
		got := waitFor(w, c.Last, time.Second)
		if got.Confirmed || got.Pending != 1 || got.Slow[0].Name != old.name {
			t.Errorf("%+v, want it to wait for the process that is gone", got)
		}
		beating(t, renewed)
		time.Sleep(whole + moment)
		c = w.revoke("sid", 1)
		if got := waitFor(w, c.Last, time.Second); !got.Confirmed || got.Applied != 1 {
			t.Errorf("%+v, want it confirmed by the new process alone", got)
		}
	})
}

// A node that crashed leaves its row, and with it the leases that it owes.
func TestP4CrashedNode(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		crashed := issuer.Node{ID: "crashed", Counter: 7, Floor: 0, Lease: time.Duration(lease.Default)}
		w.update(func(tx issuer.Tx) error { return tx.PutNode(crashed) })
		began := time.Now()
		w.restart()
		c := w.revoke("sid", 1)
		got := waitFor(w, c.Last, time.Second)
		if got.Confirmed || !cmp.Equal(got.Nodes, []string{"crashed"}) {
			t.Errorf("%+v, want it to wait for the crashed node", got)
		}
		got = waitFor(w, c.Last, time.Minute)
		if took := time.Since(began); !got.Confirmed || took < whole || took > whole+moment {
			t.Errorf("confirmed = %v after %v, want it after a lease and its margin", got.Confirmed, took)
		}
		time.Sleep(2 * time.Second)
		if nodes := w.nodes(); len(nodes) != 1 || nodes[0].ID == "crashed" {
			t.Errorf("rows = %+v, want the dead one gone", nodes)
		}
	})
}

func (w *world) nodes() (nodes []issuer.Node) {
	w.t.Helper()
	err := w.store.View(context.Background(), func(r issuer.Reader) (err error) {
		nodes, err = r.Nodes()
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return nodes
}

// Two nodes: what one commits is confirmed when the holders of both have it.
func TestP4TwoNodes(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		other := &world{t: t, config: w.config, store: w.store, source: quietly{w.source}}
		other.start(newMemoryListener())
		defer other.halt()
		here, there := newRecorder("here"), newRecorder("there")
		here.connect(w)
		there.connect(other)
		beating(t, here, there)
		time.Sleep(2 * time.Second) // each has seen the other's row
		c := w.revoke("sid", 1)
		if got := waitFor(w, c.Last, 2*time.Second); !got.Confirmed {
			t.Errorf("%+v, want it confirmed", got)
		}
		if got := there.position(); got != c.Last {
			t.Errorf("confirmed while the verifier of the other node was at %d, want %d", got, c.Last)
		}
		resume := there.stall()
		w.revoke("sid", 1)
		time.Sleep(2 * time.Second)
		c = w.revoke("sid", 1)
		if got := waitFor(w, c.Last, 2*time.Second); got.Confirmed || len(got.Nodes) != 1 {
			t.Errorf("%+v, want it to wait for the other node", got)
		}
		resume()
		if got := waitFor(w, c.Last, 2*time.Second); !got.Confirmed {
			t.Errorf("%+v, want it confirmed", got)
		}
	})
}

// quietly is a source whose hints another node gets.
type quietly struct{ revlog.Source }

func (quietly) Changed() <-chan struct{} { return nil }

// A node whose row somebody took out starts over: it confirms nothing by
// looking until all that it granted before must have ended.
func TestP4RowGone(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		v := connected(w, 1)[0]
		synctest.Wait()
		w.update(func(tx issuer.Tx) error { return tx.DeleteNode(w.nodes()[0].ID) })
		v.done.Wait()
		if got := v.last(t, feed.KindBye).bye.Code; got != feed.ByeChanged {
			t.Errorf("bye = %q, want %q", got, feed.ByeChanged)
		}
		time.Sleep(moment)
		c := w.revoke("sid", 1)
		at := time.Now()
		if got := waitFor(w, c.Last, time.Second); got.Confirmed {
			t.Errorf("%+v, want it not confirmed: the verifier's lease was forgotten", got)
		}
		if got := waitFor(w, c.Last, time.Hour); !got.Confirmed || time.Since(at) > whole+moment {
			t.Errorf("confirmed = %v after %v", got.Confirmed, time.Since(at))
		}
	})
}

// P11: one can read of each verifier when it confirmed, or how it ended.
func TestP11Evidence(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		vs := connected(w, 3)
		synctest.Wait()
		resume := vs[1].stall()
		vs[2].stall()
		w.revoke("sid", 1)
		synctest.Wait()
		c := w.revoke("sid", 1)
		began := time.Now()
		time.Sleep(3 * time.Second)
		resume()
		beating(t, vs[0], vs[1])
		synctest.Wait()
		if got, known, ok := w.log.Evidence(c.Last); !ok || got.Confirmed != 2 || got.Lost != 0 || len(known) != 3 {
			t.Errorf("while one is waited for: %+v, %+v, %v", got, known, ok)
		}
		time.Sleep(whole)
		var stored []issuer.Confirmation
		var names []string
		err := w.store.View(context.Background(), func(r issuer.Reader) (err error) {
			if stored, err = r.Confirmations(c.Last); err != nil || len(stored) != 1 {
				return err
			}
			names = nil
			for _, o := range stored[0].Outcomes {
				v, err := r.Verifiers(stored[0].Node, []uint32{o.Verifier})
				if err != nil || len(v) != 1 {
					return err
				}
				names = append(names, v[0].Name)
			}
			return nil
		})
		if err != nil || len(stored) != 1 {
			t.Fatalf("stored evidence = %+v, %v", stored, err)
		}
		got := stored[0]
		if got.First > c.Last || got.Last < c.Last || !got.Began.Equal(began) || got.Confirmed != 2 || got.Lost != 1 {
			t.Errorf("evidence = %+v", got)
		}
		if want := []string{vs[2].name, vs[1].name, vs[0].name}; !cmp.Equal(names, want) {
			t.Errorf("slowest first: %v, want %v", names, want)
		}
		ends := []issuer.End{got.Outcomes[0].End, got.Outcomes[1].End, got.Outcomes[2].End}
		if want := []issuer.End{issuer.Lost, issuer.Confirmed, issuer.Confirmed}; !cmp.Equal(ends, want) {
			t.Errorf("ends = %v, want %v", ends, want)
		}
		if got.Outcomes[1].After != 3*time.Second || got.Outcomes[2].After != 0 {
			t.Errorf("outcomes = %+v, want one after 3 s and one at once", got.Outcomes)
		}
		close(vs[2].gate)
	})
}

// Routes that accept when stale are counted; those that may still accept what
// was revoked, by themselves.
func TestP4StaleRoutesCounted(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		v := connected(w, 1)[0]
		synctest.Wait()
		p := feed.Ping{Applied: v.position(), Routes: 3, Tolerance: time.Minute}
		if err := sendFrame(v.conn, ws.NewBinaryFrame(feed.AppendPing(nil, p))); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		v.disconnect()
		c := w.revoke("sid", 1)
		if got := waitFor(w, c.Last, time.Second); got.Confirmed || got.StaleRoutes != 3 || got.Accepting != 0 {
			t.Errorf("while its lease runs: %+v, want 3 routes with that policy", got)
		}
		if got := waitFor(w, c.Last, time.Minute); !got.Confirmed || got.StaleRoutes != 3 || got.Accepting != 3 {
			t.Errorf("after its lease: %+v, want 3 routes that may accept still", got)
		}
		time.Sleep(time.Minute + moment)
		if got := waitFor(w, c.Last, time.Second); !got.Confirmed || got.StaleRoutes != 0 || got.Accepting != 0 {
			t.Errorf("after the tolerance: %+v, want no routes", got)
		}
	})
}

// After a stop in order the next node need not wait for those who come to it.
func TestP4NodeStartedAnew(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		vs := connected(w, 2)
		synctest.Wait()
		w.restart()
		vs[0].connect(w)
		synctest.Wait()
		c := w.revoke("sid", 1)
		if got := waitFor(w, c.Last, time.Second); got.Confirmed || len(got.Nodes) != 1 {
			t.Errorf("%+v, want it to wait: one that held a lease has not come", got)
		}
		vs[1].connect(w)
		synctest.Wait()
		if got := waitFor(w, c.Last, time.Second); !got.Confirmed || got.Applied != 2 {
			t.Errorf("%+v, want it confirmed by both", got)
		}
	})
}

// A node that ends in order leaves no row, unless verifiers rely on it still.
func TestNodeLeaves(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		v := connected(w, 1)[0]
		synctest.Wait()
		w.halt()
		if got := len(w.nodes()); got != 1 {
			t.Errorf("%d rows after a stop while a verifier relies on the node, want 1", got)
		}
		w.start(newMemoryListener())
		v.connect(w)
		synctest.Wait()
		if err := sendFrame(v.conn, ws.NewBinaryFrame(feed.AppendGoodbye(nil))); err != nil {
			t.Fatal(err)
		}
		v.done.Wait()
		time.Sleep(whole + 2*time.Second)
		w.halt()
		if got := len(w.nodes()); got != 0 {
			t.Errorf("%d rows after a stop in order, want none", got)
		}
	})
}
