package quash_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/lease"
	"github.com/quashdev/quash/internal/revset"
)

// machine is a clock of a verifier that can be put forward or back.
type machine struct {
	system lease.Clock
	wall   atomic.Int64
	mono   atomic.Int64
}

func newMachine(c *quash.Config) *machine {
	m := &machine{system: lease.System()}
	quash.SetClock(c, m.clock)
	return m
}

func (m *machine) clock() lease.Moment {
	now := m.system()
	now.Wall += m.wall.Load()
	now.Mono += time.Duration(m.mono.Load())
	return now
}

// cutOff takes the network away, without a word.
func (n *node) cutOff(off bool) {
	n.mute.Store(off)
	n.hang.Store(off)
}

// P5: a lease is counted from the sending of the ping, however late the pong.
func TestP5ALeaseIsCountedFromTheSending(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, _ := n.open(n.config())
		token := n.token(nil)
		n.delay.Store(int64(8 * time.Second))
		time.Sleep(5 * time.Second) // to the moment of the ping that is answered last
		synctest.Wait()
		sent := time.Now()
		time.Sleep(8 * time.Second)
		synctest.Wait()
		n.cutOff(true)
		time.Sleep(time.Until(sent.Add(30*time.Second - time.Millisecond)))
		wantAccepted(t, v, token, "29.999 s after the ping")
		if until := v.Status().LeaseUntil; !until.Equal(sent.Add(30 * time.Second)) {
			t.Errorf("status: got a lease until %s, want 30 s after the ping, %s", until, sent.Add(30*time.Second))
		}
		time.Sleep(time.Millisecond)
		wantError(t, v, token, quash.ErrStale, "30 s after the ping")
	})
}

// P5: a node that answers but grants nothing leaves the lease to end, and the
// next grant mends it.
func TestP5WithoutAGrantTheLeaseStandsStill(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, _ := n.open(n.config())
		token := n.token(nil)
		synctest.Wait()
		granted := time.Now()
		n.grant.Store(0)
		time.Sleep(time.Until(granted.Add(30*time.Second - time.Millisecond)))
		wantAccepted(t, v, token, "within the lease")
		time.Sleep(time.Millisecond)
		synctest.Wait()
		wantError(t, v, token, quash.ErrStale, "past the lease")
		if s := v.Status(); !s.Connected || !strings.Contains(s.Stale, "lease") || s.Spells != 1 || time.Since(s.LastHeard) > 5*time.Second {
			t.Errorf("status: got %+v, want connected, heard, and stale once by its lease", s)
		}
		n.grant.Store(int64(30 * time.Second))
		time.Sleep(6 * time.Second)
		wantAccepted(t, v, token, "granted again")
		if s := v.Status(); s.Stale != "" || s.Spells != 1 {
			t.Errorf("status: got %+v, want fresh, after one spell", s)
		}
	})
}

// P5: a pong that answers no ping of this connection grants nothing.
func TestP5AnUnknownStampGrantsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config())
		synctest.Wait()
		until := v.Status().LeaseUntil
		n.mute.Store(true)
		time.Sleep(2 * time.Second)
		for _, stamp := range []uint64{0, 99, 1<<64 - 1} {
			p.send(feed.AppendPong(nil, feed.Pong{Mark: p.mark, Stamp: stamp, Clock: time.Now().UnixMilli(), Grant: 30 * time.Second}))
		}
		synctest.Wait()
		if got := v.Status().LeaseUntil; !got.Equal(until) {
			t.Errorf("got a lease until %s, want it to stand at %s", got, until)
		}
	})
}

// P5: where more pings are open than are told apart, what answers the newest is
// counted from the first of those that it may be meant for.
func TestP5ManyOpenPings(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config())
		synctest.Wait()
		n.mute.Store(true)
		for i := uint64(1); i <= 200; i++ {
			p.records(n.record(i, "sub", "x"))
			synctest.Wait()
			time.Sleep(10 * time.Millisecond)
		}
		newest := *p.ping.Load()
		p.send(feed.AppendPong(nil, feed.Pong{Mark: p.mark, Stamp: newest.Stamp, Clock: time.Now().UnixMilli(), Grant: 30 * time.Second}))
		synctest.Wait()
		got := time.Until(v.Status().LeaseUntil)
		if want := 30*time.Second - (200-62)*10*time.Millisecond; got != want {
			t.Errorf("got a lease of %s more, want %s, from the 64th ping on", got, want)
		}
		n.mute.Store(false)
		p.records(n.record(201, "sub", "x"))
		synctest.Wait()
		if got := time.Until(v.Status().LeaseUntil); got != 30*time.Second {
			t.Errorf("got a lease of %s more once the pings are answered, want 30 s", got)
		}
	})
}

// P5: of several connections' leases the latest counts, a closed one's too,
// since that was not given back.
func TestP5DeadlinesBelongToConnections(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config())
		token := n.token(nil)
		synctest.Wait()
		first := time.Now()
		n.grant.Store(int64(2 * time.Second))
		p.conn.CloseNow()
		p = <-n.peers
		p.sendHello(true)
		synctest.Wait()
		if got := v.Status().LeaseUntil; !got.Equal(first.Add(30 * time.Second)) {
			t.Errorf("with two leases: got one until %s, want the latest, %s", got, first.Add(30*time.Second))
		}
		time.Sleep(4 * time.Second)
		wantAccepted(t, v, token, "the second connection's lease over, the first one's not")
		n.mute.Store(true)
		time.Sleep(time.Until(first.Add(30*time.Second - time.Millisecond)))
		wantAccepted(t, v, token, "before the end of the first one's")
		time.Sleep(time.Millisecond)
		wantError(t, v, token, quash.ErrStale, "at the end of the first one's")
	})
}

// P5: what was granted before a contradiction is not relied on after it.
func TestP5AContradictionEndsTheLease(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config())
		h := v.Protect(http.NotFoundHandler(), quash.AcceptStale(time.Hour))
		token := n.token(nil)
		synctest.Wait()
		n.grant.Store(0)
		go p.send([]byte{99})
		p = <-n.peers
		p.sendHello(true)
		synctest.Wait()
		if s := v.Status(); !s.Connected || s.Stale == "" {
			t.Errorf("status: got %+v, want in step and without a lease", s)
		}
		wantError(t, v, token, quash.ErrStale, "in step, but without a new lease")
		if w := request(h, token); w.Code != http.StatusServiceUnavailable {
			t.Errorf("a route that accepts when stale: got %d, want 503: there is no lease that has ended", w.Code)
		}
		n.grant.Store(int64(30 * time.Second))
		time.Sleep(6 * time.Second)
		wantAccepted(t, v, token, "granted")
	})
}

func request(h http.Handler, token string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// P8, P5: a resource server whose feed is blocked at the network serves until
// its lease ends, then refuses with 503 and never with 401, and recovers by
// itself.
func TestP8ABlockedFeedRefusesWith503AndRecovers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		n.hello.MaxLifetime = 3600
		v, _ := n.open(n.config())
		h := protected(v)
		ctx, stop := notify(t, v, n.token(claims{"jti": "stream", "exp": time.Now().Unix() + 3600}))
		defer stop()
		synctest.Wait()
		n.cutOff(true)
		lost := time.Now()
		healed := time.Time{}
		for time.Since(lost) < 3*time.Minute {
			time.Sleep(time.Second)
			w := request(h, n.token(nil))
			since := time.Since(lost)
			switch {
			case since < 30*time.Second && w.Code != http.StatusOK:
				t.Fatalf("after %s: got %d, want 200 within the lease", since, w.Code)
			case since >= 30*time.Second && since <= 2*time.Minute && w.Code != http.StatusServiceUnavailable:
				t.Fatalf("after %s: got %d, want 503 past the lease", since, w.Code)
			case w.Code == http.StatusServiceUnavailable && w.Header().Get("Retry-After") == "":
				t.Fatalf("after %s: 503 without Retry-After", since)
			case since == 30*time.Second:
				wantCause(t, ctx, quash.ErrStale, "a stream when the lease ended")
				wantProblem(t, w, http.StatusServiceUnavailable, "stale")
			case since == 2*time.Minute:
				n.cutOff(false)
				go func() { (<-n.peers).sendHello(true) }()
			case healed.IsZero() && since > 2*time.Minute && w.Code == http.StatusOK:
				healed = time.Now()
			case !healed.IsZero() && w.Code != http.StatusOK:
				t.Fatalf("after %s: got %d, want 200 once it has recovered", since, w.Code)
			}
		}
		if took := healed.Sub(lost.Add(2 * time.Minute)); healed.IsZero() || took > 17*time.Second {
			t.Errorf("recovered %s after the network, want 17 s at most", took)
		}
	})
}

// P4: a verifier that was paused, for however long, refuses at once when it
// goes on, before anything has told it.
func TestP4APausedVerifierRefusesAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		c := n.config()
		m := newMachine(&c)
		v, _ := n.open(c)
		token := n.token(nil)
		synctest.Wait()
		m.wall.Add(int64(29 * time.Second))
		m.mono.Add(int64(29 * time.Second))
		wantAccepted(t, v, token, "paused for less than a lease")
		m.wall.Add(int64(time.Second))
		m.mono.Add(int64(time.Second))
		wantError(t, v, token, quash.ErrStale, "paused for a lease")
		if s := v.Status(); s.Stale == "" {
			t.Errorf("status: got %+v, want stale, though no timer went off", s)
		}
		n.skew.Store(30_000) // the world did not wait
		time.Sleep(6 * time.Second)
		wantAccepted(t, v, token, "after the next pong")
	})
}

// P4: monotonic time stands still while a machine sleeps. Where the two clocks
// part, whatever moved, nothing is relied on until the next grant.
func TestP4ClocksThatPartEndTheLease(t *testing.T) {
	for about, wall := range map[string]time.Duration{
		"sleep": 5 * time.Second, "a night's sleep": 8 * time.Hour, "set back": -2 * time.Second, "set forward": 2 * time.Second,
	} {
		t.Run(about, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				n := newNode(t)
				c := n.config()
				m := newMachine(&c)
				v, _ := n.open(c)
				synctest.Wait()
				n.grant.Store(0)
				m.wall.Add(int64(wall))
				now := time.Now().Add(wall).Unix()
				wantError(t, v, n.token(claims{"iat": now, "exp": now + 300}), quash.ErrStale, "at once")
				if s := v.Status(); s.Stale == "" {
					t.Errorf("status: got %+v, want stale at once", s)
				}
				time.Sleep(1100 * time.Millisecond) // for it to be noticed
				m.wall.Add(int64(-wall))
				wantError(t, v, n.token(nil), quash.ErrStale, "the clocks agree again, but nothing was granted since")
				n.grant.Store(int64(30 * time.Second))
				time.Sleep(6 * time.Second)
				wantAccepted(t, v, n.token(nil), "granted")
			})
		})
	}
}

// P4: nor is a grant relied on whose ping was sent before the machine slept.
func TestP4AGrantFromBeforeASleepIsNone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		c := n.config()
		m := newMachine(&c)
		v, _ := n.open(c)
		synctest.Wait()
		n.delay.Store(int64(time.Second))
		time.Sleep(5500 * time.Millisecond) // a ping is on its way
		m.wall.Add(int64(3 * time.Second))
		time.Sleep(2 * time.Second)
		wantError(t, v, n.token(nil), quash.ErrStale, "answered after the sleep")
		time.Sleep(5 * time.Second)
		wantAccepted(t, v, n.token(nil), "the next ping answered")
	})
}

// Clocks that are slewed part a little, and drift: that is what half of the
// margin is for.
func TestClocksThatAreSlewedEndNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		c := n.config()
		m := newMachine(&c)
		v, _ := n.open(c)
		token := n.token(nil)
		synctest.Wait()
		for range 60 {
			m.wall.Add(int64(time.Millisecond)) // 1,000 ppm, twice what is usual
			time.Sleep(time.Second)
			wantAccepted(t, v, token, "slewed")
		}
	})
}

// P4: a verify that began while there was no lease must not accept on the
// strength of a grant that came in between, for a record that it missed. The
// token has so many values to look up that the grant falls into the middle.
func TestP4FreshnessIsLoadedBeforeTheSet(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		n.hello.Claims = append(n.hello.Claims, "groups")
		v, _ := n.open(n.config())
		synctest.Wait() // for the first ping: later ones would tell the node what it never sent
		groups := make([]string, 900)
		for i := range groups {
			groups[i] = strconv.FormatInt(int64(i), 36)
		}
		others := make([]revset.Record, 50_000) // so that a look-up takes its time
		for i := range others {
			others[i] = n.record(uint64(i+1), "sid", strconv.Itoa(i))
		}
		at, delay := uint64(len(others)), 20_000
		quash.Apply(v, at, others...)
		for i := range 300 {
			token := n.token(claims{"rev": at, "groups": groups})
			wantAccepted(t, v, token, "before")
			grant := quash.EndLease(v)
			other, record := n.record(at+1, "sub", "another"), n.record(at+2, "groups", "0")
			at += 2
			quash.Apply(v, at-1, other) // so that all is looked up again
			var ready atomic.Int32
			meet := func() {
				for ready.Add(1); ready.Load() < 2; {
					runtime.Gosched()
				}
			}
			var both sync.WaitGroup
			wait := delay
			both.Go(func() {
				meet()
				for range wait {
					_ = ready.Load()
				}
				quash.Apply(v, at, record)
				grant()
			})
			meet()
			switch _, err := v.Verify(token); {
			case err == nil:
				t.Fatalf("round %d: accepted a token that was dead before the grant", i)
			case errors.Is(err, quash.ErrRevoked):
				delay += 500 // the record came first
			default:
				delay = max(delay-500, 0)
			}
			both.Wait()
			wantError(t, v, token, quash.ErrRevoked, "after the grant")
		}
	})
}

// P4: a node that stops is left in order. The verifier moves, and gives back
// what it holds there only when it holds a lease elsewhere, and relies on it no
// longer.
func TestP4ANodeThatStopsIsLeftInOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, old := n.open(n.config())
		token := n.token(nil)
		synctest.Wait()
		n.grant.Store(0)
		old.sendJSON(feed.KindBye, feed.Bye{Code: feed.ByeStopping, Detail: "the node stops"})
		next := <-n.peers
		next.sendHello(true)
		next.records(n.record(1, "sub", "x")) // which the old node has not sent, so nothing may acknowledge it there
		time.Sleep(6 * time.Second)
		select {
		case <-old.goodbye:
			t.Error("goodbye before there was another lease")
		default:
		}
		old.send(feed.AppendRecords(nil, markAt(1), nil)) // nothing on it counts any more
		old.send([]byte{99})
		wantAccepted(t, v, token, "on the old node's lease")
		n.grant.Store(int64(4 * time.Second)) // which ends before the old one
		<-old.goodbye
		got := v.Status().LeaseUntil
		if left := time.Until(got); left != 4*time.Second {
			t.Errorf("at the goodbye: a lease of %s more, want the 4 s of the new node alone", left)
		}
		n.mute.Store(true)
		for range old.acked { // closed when the connection has ended
		}
		wantAccepted(t, v, token, "on the new node's lease")
		time.Sleep(time.Until(got))
		wantError(t, v, token, quash.ErrStale, "when the new node's has ended, though the old one's would not have")
	})
}

// P4: the lease is dropped before the goodbye is sent, not after: here the old
// node has stopped reading, so the goodbye never arrives.
func TestP4TheLeaseIsDroppedBeforeTheGoodbye(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, old := n.open(n.config())
		synctest.Wait()
		old.stuck.Store(true)
		time.Sleep(6 * time.Second) // it reads a ping, and then no more
		n.grant.Store(int64(2 * time.Second))
		old.sendJSON(feed.KindBye, feed.Bye{Code: feed.ByeStopping, Detail: "the node stops"})
		next := <-n.peers
		next.sendHello(true)
		<-next.acked
		synctest.Wait()
		if got := time.Until(v.Status().LeaseUntil); got != 2*time.Second {
			t.Errorf("while the goodbye is on its way: a lease of %s more, want 2 s", got)
		}
		time.Sleep(6 * time.Second) // by then the verifier waits no longer
		close(old.free)
		for range old.acked {
		}
		select {
		case <-old.goodbye:
			t.Error("the goodbye arrived after all: the test shows nothing")
		default:
		}
	})
}

// An old connection that closes before there is another lease gives nothing
// back, and its lease counts until it ends.
func TestP4AStoppedNodesLeaseCountsUntilItEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, old := n.open(n.config())
		token := n.token(nil)
		synctest.Wait()
		granted := time.Now()
		n.hang.Store(true)
		old.sendJSON(feed.KindBye, feed.Bye{Code: feed.ByeStopping, Detail: "the node stops"})
		time.Sleep(10 * time.Second)
		old.conn.CloseNow()
		time.Sleep(time.Until(granted.Add(30*time.Second - time.Millisecond)))
		wantAccepted(t, v, token, "within the lease")
		time.Sleep(time.Millisecond)
		wantError(t, v, token, quash.ErrStale, "past the lease")
		n.hang.Store(false)
		(<-n.peers).sendHello(true)
		synctest.Wait()
		wantAccepted(t, v, token, "on another node")
	})
}

// Nodes may stop one after the other, as in a rolling restart: no verify is
// refused, and every node gets its goodbye.
func TestARollingRestartOfNodesRefusesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config())
		token := n.token(claims{"exp": time.Now().Unix() + 300})
		for range 5 {
			time.Sleep(time.Second)
			p.sendJSON(feed.KindBye, feed.Bye{Code: feed.ByeStopping, Detail: "the node stops"})
			next := <-n.peers
			wantAccepted(t, v, token, "between two nodes")
			next.sendHello(true)
			<-p.goodbye
			wantAccepted(t, v, token, "moved")
			p = next
		}
		// One that stops before it was of use is left at once.
		n.grant.Store(0)
		stopped := time.Now()
		for i := range 3 {
			p.sendJSON(feed.KindBye, feed.Bye{Code: feed.ByeStopping, Detail: "the node stops"})
			if i > 0 {
				<-p.goodbye
			}
			p = <-n.peers
			p.sendHello(true)
			<-p.acked
		}
		if got := time.Since(stopped); got > time.Second {
			t.Errorf("those of no use were left after %s, want at once", got)
		}
		n.grant.Store(int64(30 * time.Second))
		time.Sleep(time.Until(stopped.Add(20 * time.Second)))
		wantAccepted(t, v, token, "after some that were of no use")
		if s := v.Status(); s.Spells != 0 {
			t.Errorf("got %d spells, want none", s.Spells)
		}
	})
}

// P4: Close drops what was granted, and then says so.
func TestP4CloseSaysGoodbyeWhenItAcceptsNothingAnyMore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config())
		token := n.token(nil)
		synctest.Wait()
		p.stuck.Store(true)
		time.Sleep(6 * time.Second) // it reads a ping, and then no more
		closed := make(chan error, 1)
		go func() { closed <- v.Close(context.Background()) }()
		synctest.Wait()
		wantError(t, v, token, quash.ErrStale, "the goodbye is on its way")
		close(p.free)
		<-p.goodbye
		if err := <-closed; err != nil {
			t.Errorf("close: %v", err)
		}
	})
	// While it moves, both nodes hear it.
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, old := n.open(n.config())
		synctest.Wait()
		n.grant.Store(0)
		old.sendJSON(feed.KindBye, feed.Bye{Code: feed.ByeStopping, Detail: "the node stops"})
		next := <-n.peers
		next.sendHello(true)
		<-next.acked
		if err := v.Close(t.Context()); err != nil {
			t.Errorf("close: %v", err)
		}
		<-old.goodbye
		<-next.goodbye
	})
}

// A start that is given up gives back what was granted by then.
func TestAStartThatIsGivenUpSaysGoodbye(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		n.skew.Store(time.Hour.Milliseconds())
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		peers := make(chan *peer, 1)
		go func() {
			p := <-n.peers
			p.sendHello(false)
			p.snapshot()
			peers <- p
		}()
		v, err := quash.Open(ctx, n.config())
		if v != nil || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "clock") {
			t.Errorf("got %v, want the deadline, and that the clocks are apart", err)
		}
		<-(<-peers).goodbye
	})
}

// Short leases are kept up by more pings, and a silent node is left sooner.
func TestTheLeaseSetsThePace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		n.hello.Lease = 1200
		n.grant.Store(int64(1200 * time.Millisecond))
		v, p := n.open(n.config())
		synctest.Wait()
		for len(p.acked) > 0 {
			<-p.acked
		}
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			wantAccepted(t, v, n.token(nil), "in step")
		}
		if got := len(p.acked); got < 45 || got > 55 {
			t.Errorf("got %d pings in 10 s, want 50 with leases of 1.2 s", got)
		}
		n.mute.Store(true)
		start := time.Now()
		<-n.peers
		if got := time.Since(start); got < 400*time.Millisecond || got > 700*time.Millisecond {
			t.Errorf("a silent node was left after %s, want 0.6 s", got)
		}
	})
}
