package quash

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/lease"
	"github.com/quashdev/quash/internal/revset"
)

const (
	clockSkew  = 10 * time.Second // between this clock and the node's that is borne
	partWithin = 5 * time.Second  // for a goodbye, and the closing of a connection

	// forgetBudget is how many entries a second are looked at: a set of 16
	// million is gone through in four minutes, in well under a millisecond each.
	forgetBudget = 1 << 16
)

// fault is what leaves a verifier in doubt whether it knows every revocation:
// it is stale until a connection has brought it in step.
type fault struct{ error }

func (f fault) Unwrap() error { return f.error }

func faultf(format string, args ...any) error { return fault{fmt.Errorf(format, args...)} }

// refusal is what trying again cannot mend.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

// stopping is the end of a connection that is open still: the node said that it
// is about to close it.
type stopping struct{ error }

func (s stopping) Unwrap() error { return s.error }

var errSilent = errors.New("no word from the node for too long")

// follower keeps a verifier's state in step with the feed of one node at a
// time. Its run is the only writer of state, but for the keys of other issuers;
// forget shares the set with it.
type follower struct {
	config  Config
	nodes   round
	client  *http.Client
	process string // random id of this verifier
	watches *watches
	log     *slog.Logger

	state   atomic.Pointer[state]     // nil before the first complete snapshot
	fresh   atomic.Pointer[freshness] // never nil once init has run
	started chan error                // one value: nil when first fresh, or a refusal

	sessions sync.WaitGroup
	writing  sync.Mutex // guards the writer's side of the set in state

	publishing sync.Mutex       // held by who puts another state in the place of the present
	foreign    []*foreignIssuer // what the next state has; never changed in place

	mu        sync.Mutex // guards what follows
	opening   bool       // nothing was sent to started yet
	at        bookmark
	connected bool
	since     time.Time
	current   *session // that acknowledges; nil while there is none
	leaving   *session // whose node stops; nil while there is none

	leases map[*session]deadline // by connection; under nil the latest of those that are closed
	relied deadline              // the latest lease, though it has ended
	alarm  *time.Timer           // rings when that ends

	heard     lease.Moment  // when the latest pong came
	clock     time.Time     // the node's by that pong; zero before the first one
	trip      time.Duration // how long before heard the node may have read it
	doubt     string        // reasons to be stale, by weight
	skew      string
	closing   bool
	announced string // why it is stale, as was told; empty: it is not
	spells    int    // how often it became so
	failure   error  // why the latest connection failed; nil once in step

	routes     int             // that accept tokens while stale
	tolerances []time.Duration // for how long, each once
}

// bookmark says what history has been applied.
type bookmark struct {
	log   string
	epoch uint64
	feed.Mark
}

func (f *follower) init(c Config, addresses []*url.URL, issuers []*foreignIssuer, w *watches) {
	transport := &http.Transport{TLSClientConfig: c.TLS.Clone(), DialContext: c.Dial, Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(true)
	f.foreign = issuers
	f.config, f.nodes, f.watches, f.log = c, newRound(addresses), w, c.Logger.With("verifier", c.Name)
	f.client = &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	f.process = rand.Text()
	f.started, f.opening = make(chan error, 1), true
	f.since = f.now()
	f.leases = make(map[*session]deadline)
	f.alarm = time.AfterFunc(time.Hour, f.ring)
	f.fresh.Store(new(freshness))
	f.announced = "it has not begun yet"
	f.skew = "the node's clock is not known yet"
	f.suspect("it has not caught up with the log yet")
}

// issuers returns the others whose tokens are accepted, as they are now.
func (f *follower) issuers() []*foreignIssuer {
	f.publishing.Lock()
	defer f.publishing.Unlock()
	return f.foreign
}

func (f *follower) now() time.Time { return time.Unix(0, f.config.clock().Wall) }

// run follows a node, connection after connection, until soft ends; it then
// says goodbye, for as long as hard lives.
func (f *follower) run(soft, hard context.Context) {
	defer f.client.CloseIdleConnections()
	defer f.sessions.Wait()
	for {
		stepped, err := f.session(soft, hard)
		if soft.Err() != nil {
			return
		}
		f.lost(err)
		if _, ok := errors.AsType[refusal](err); ok && f.fail(err) {
			return
		}
		select {
		case <-time.After(f.nodes.next(stepped, errors.Is(err, errSilent))):
		case <-soft.Done():
			return
		}
	}
}

// session opens a connection and serves it until it has ended, or the node is
// about to end it. It reports whether the verifier came in step.
func (f *follower) session(soft, hard context.Context) (stepped bool, err error) {
	address, within := f.nodes.now()
	began := time.Now()
	conn, err := f.dial(soft, address, within)
	if err != nil {
		return false, err
	}
	s := newSession(f, conn, within-time.Since(began))
	f.sessions.Go(func() { s.live(soft, hard) })
	err = <-s.over
	if s.stepped {
		f.nodes.length = s.length
	}
	return s.stepped, err
}

func (f *follower) dial(ctx context.Context, address *url.URL, within time.Duration) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, within, errSilent)
	defer cancel()
	conn, response, err := websocket.Dial(ctx, address.String(), &websocket.DialOptions{
		HTTPClient:   f.client,
		HTTPHeader:   f.header(),
		Subprotocols: []string{feed.Subprotocol},
	})
	switch {
	case err != nil && response != nil && (response.StatusCode == http.StatusUnauthorized || response.StatusCode == http.StatusForbidden):
		return nil, refusal{fmt.Errorf("the node at %s refused the verifier's key with status %d: make one with quash key create NAME --verifier", address.Host, response.StatusCode)}
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("connect to the node at %s: %w", address.Host, context.Cause(ctx))
	case err != nil:
		return nil, fmt.Errorf("connect to the node at %s: %w", address.Host, err)
	case conn.Subprotocol() != feed.Subprotocol:
		conn.CloseNow()
		return nil, fmt.Errorf("connect to the node at %s: it does not speak %s", address.Host, feed.Subprotocol)
	}
	conn.SetReadLimit(feed.MaxMessage)
	return conn, nil
}

// header introduces the verifier, and says what it has.
func (f *follower) header() http.Header {
	h := make(http.Header)
	h.Set("Authorization", "Bearer "+f.config.Key)
	h.Set(feed.HeaderProcess, f.process)
	h.Set(feed.HeaderName, f.config.Name)
	if at := f.bookmark(); f.state.Load() != nil {
		h.Set(feed.HeaderLog, at.log)
		h.Set(feed.HeaderEpoch, strconv.FormatUint(at.epoch, 10))
		h.Set(feed.HeaderPosition, strconv.FormatUint(at.Position, 10))
		h.Set(feed.HeaderDigest, at.Digest.String())
	}
	return h
}

// publish makes st what the verifier knows, with the keys that other issuers
// have now.
func (f *follower) publish(st *state) {
	f.publishing.Lock()
	defer f.publishing.Unlock()
	f.replace(st)
}

// replace puts st in the place of the present state. Where the two differ, a new
// generation begins. The caller holds publishing.
func (f *follower) replace(st *state) {
	st.foreign = f.foreign
	generation := uint64(1)
	if old := f.state.Load(); old != nil {
		if old.same(st) {
			return
		}
		generation = old.generation + 1
	}
	st.generation = generation
	f.state.Store(st)
	f.watches.recheck()
}

// apply takes records that follow what has been applied already.
func (f *follower) apply(records []revset.Record, m feed.Mark) error {
	f.writing.Lock()
	err := f.state.Load().set.Apply(records, m.Position)
	f.writing.Unlock()
	if err != nil {
		return fault{err}
	}
	f.mu.Lock()
	f.at.Mark = m
	f.mu.Unlock()
	return nil
}

// forget drops records that have nothing left to kill. It goes by the node's
// clock, too, lest a jump of this one drop a record that is needed still.
func (f *follower) forget() {
	st := f.state.Load()
	f.mu.Lock()
	moment := f.config.clock()
	now := f.clock.Add(moment.Mono - f.heard.Mono)
	known := !f.clock.IsZero()
	f.mu.Unlock()
	if st == nil || !known {
		return
	}
	if local := time.Unix(0, moment.Wall); local.Before(now) {
		now = local
	}
	f.writing.Lock()
	defer f.writing.Unlock()
	st.set.Forget(uint32(max(now.Unix(), 0)), forgetBudget)
}

func (f *follower) bookmark() bookmark {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at
}

// arrive notes that a node said hello.
func (f *follower) arrive() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.connected, f.since = true, f.now()
}

// step notes that everything up to the head of the hello has been applied.
func (f *follower) step(h *feed.Hello) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failure, f.doubt = nil, ""
	f.log.Info("in step with the node", "log", h.Log, "epoch", h.Epoch, "position", f.at.Position, "resumed", h.Resumes, "reason", h.Reason)
	f.weigh(f.config.clock())
}

// start tells Open how the start went, and reports whether it was still open.
// The caller holds mu.
func (f *follower) start(err error) bool {
	if !f.opening {
		return false
	}
	f.opening = false
	f.started <- err
	return true
}

func (f *follower) fail(err error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.start(err)
}

// lost notes the end of a connection, or that there was none.
func (f *follower) lost(err error) {
	if _, ok := errors.AsType[fault](err); ok {
		f.suspect(err.Error())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure == nil {
		f.log.Warn("no connection to the node: trying again", "error", err)
	}
	if f.connected {
		f.connected, f.since = false, f.now()
	}
	f.failure = err
}

// unready explains why the verifier is not ready when its start is given up.
func (f *follower) unready(cause error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure == nil {
		return fmt.Errorf("not ready yet: %s: %w", f.reason(), cause)
	}
	return fmt.Errorf("not ready yet: %w: latest attempt: %w", cause, f.failure)
}

// check looks at the clocks.
func (f *follower) check() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.compare(f.config.clock())
}

// close makes the verifier stale for good. What was granted is dropped before
// any node is told.
func (f *follower) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closing = true
	f.weigh(f.config.clock())
}

// speaks notes which connection acknowledges from now on.
func (f *follower) speaks(s *session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.current = s
}

// leave keeps a connection whose node stops until another has a lease. One that
// stops before it was of use is not waited for.
func (f *follower) leave(s *session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.current = nil
	if f.leaving != nil {
		f.sessions.Go(s.part)
		return
	}
	f.leaving = s
}

// tolerate notes a route that accepts tokens for some time after the lease.
func (f *follower) tolerate(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.routes++
	if !slices.Contains(f.tolerances, d) {
		f.tolerances = append(f.tolerances, d)
	}
	if f.current != nil {
		f.current.acknowledge()
	}
}

// tolerated returns how many routes accept tokens while stale, and for how long
// at most. The caller holds mu.
func (f *follower) tolerated() (routes int, most time.Duration) {
	for _, t := range f.tolerances {
		most = max(most, t)
	}
	return f.routes, most
}

// status fills in what a follower knows of it.
func (f *follower) status(s *Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fresh := f.fresh.Load()
	if fresh == nil {
		return
	}
	now := f.config.clock()
	s.Connected, s.Since = f.connected && !f.closing, f.since
	s.Log, s.Epoch, s.Spells = f.at.log, f.at.epoch, f.spells
	if f.heard != (lease.Moment{}) {
		s.LastHeard = time.Unix(0, f.heard.Wall)
	}
	routes, most := f.tolerated()
	s.TolerantRoutes, s.ToleranceSeconds = routes, most.Seconds()
	_, err := fresh.bear(now, most)
	s.Stale, s.accepting = fresh.reason(now), err == nil
	if d := fresh.lease; d.length != 0 {
		s.LeaseSeconds, s.LeaseUntil = time.Duration(d.length).Seconds(), time.Unix(0, d.wall())
		if !d.over(now) {
			s.left = d.until - now.Mono
		}
	}
}
