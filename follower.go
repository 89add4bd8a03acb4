package quash

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/revset"
)

const (
	pingEvery  = 5 * time.Second
	patience   = 15 * time.Second // without word from the node before the connection is given up
	clockSkew  = 10 * time.Second // between this clock and the node's that is borne
	retryFirst = 20 * time.Millisecond
	retryLast  = 2 * time.Second

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

var errSilent = fmt.Errorf("no word from the node for %s", patience)

// follower keeps a verifier's state in step with the feed of one node at a
// time. Its run is the only writer of state; forget shares the set with it.
type follower struct {
	config  Config
	address *url.URL
	client  *http.Client
	process string // random id of this verifier
	watches *watches
	log     *slog.Logger

	state   atomic.Pointer[state]  // nil before the first complete snapshot
	stale   atomic.Pointer[string] // why tokens are refused; nil while they are not
	started chan error             // one value: nil when first in step, or a refusal
	opening bool                   // nothing was sent to started yet; run's

	writing sync.Mutex // guards the writer's side of the set in state

	mu        sync.Mutex // guards what follows
	at        bookmark
	connected bool
	since     time.Time
	heard     time.Time     // when the latest pong came
	clock     time.Time     // the node's by that pong; zero before the first one
	trip      time.Duration // how long before heard the node may have read it
	doubt     string        // reasons to be stale, by weight
	skew      string
	closed    bool
	failure   error // why the latest connection failed; nil once in step
}

// bookmark says what history has been applied.
type bookmark struct {
	log   string
	epoch uint64
	feed.Mark
}

func (f *follower) init(c Config, address *url.URL, w *watches) {
	transport := &http.Transport{TLSClientConfig: c.TLS.Clone(), DialContext: c.Dial, Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(true)
	f.config, f.address, f.watches, f.log = c, address, w, c.Logger.With("verifier", c.Name)
	f.client = &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	f.process = rand.Text()
	f.started, f.opening = make(chan error, 1), true
	f.since = time.Now()
	f.skew = "the node's clock is not known yet"
	f.suspect("it has not caught up with the log yet")
}

// run follows the node, connection after connection, until soft ends; it then
// says goodbye, for as long as hard lives.
func (f *follower) run(soft, hard context.Context) {
	defer f.client.CloseIdleConnections()
	wait := retryFirst
	for {
		stepped, err := f.session(soft, hard)
		if soft.Err() != nil {
			return
		}
		if stepped {
			wait = retryFirst
		}
		f.lost(err)
		if _, ok := errors.AsType[refusal](err); ok && f.start(err) {
			return
		}
		select {
		case <-time.After(wait/2 + mathrand.N(wait/2)):
			wait = min(2*wait, retryLast)
		case <-soft.Done():
			return
		}
	}
}

// session opens a connection and serves it until it ends. It reports whether
// the verifier came in step.
func (f *follower) session(soft, hard context.Context) (stepped bool, err error) {
	conn, err := f.dial(soft)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancelCause(hard)
	s := &session{follower: f, conn: conn, wake: make(chan struct{}, 1)}
	s.silence = time.AfterFunc(patience, func() { cancel(errSilent) })
	parted := make(chan struct{})
	stop := context.AfterFunc(soft, func() {
		defer close(parted)
		conn.Close(websocket.StatusNormalClosure, "the verifier closes")
	})
	err = s.serve(ctx)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if !stop() {
		<-parted
	}
	s.silence.Stop()
	cancel(nil)
	conn.CloseNow()
	s.pinging.Wait()
	return s.stepped, err
}

func (f *follower) dial(ctx context.Context) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errSilent)
	defer cancel()
	conn, response, err := websocket.Dial(ctx, f.address.String(), &websocket.DialOptions{
		HTTPClient:   f.client,
		HTTPHeader:   f.header(),
		Subprotocols: []string{feed.Subprotocol},
	})
	switch {
	case err != nil && response != nil && (response.StatusCode == http.StatusUnauthorized || response.StatusCode == http.StatusForbidden):
		return nil, refusal{fmt.Errorf("the node refused the verifier's key with status %d: use an API key with scope feed", response.StatusCode)}
	case err != nil:
		return nil, fmt.Errorf("connect to the node: %w", err)
	case conn.Subprotocol() != feed.Subprotocol:
		conn.CloseNow()
		return nil, fmt.Errorf("connect to the node: it does not speak %s", feed.Subprotocol)
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

// publish makes st what the verifier knows. Where that differs from before, a
// new generation begins.
func (f *follower) publish(st *state) {
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
	now := f.clock.Add(time.Since(f.heard))
	known := !f.clock.IsZero()
	f.mu.Unlock()
	if st == nil || !known {
		return
	}
	if local := time.Now(); local.Before(now) {
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
	f.connected, f.since = true, time.Now()
}

// step notes that everything up to the head of the hello has been applied.
func (f *follower) step(h *feed.Hello) {
	f.mu.Lock()
	f.failure, f.doubt = nil, ""
	f.log.Info("in step with the node", "log", h.Log, "epoch", h.Epoch, "position", f.at.Position, "resumed", h.Resumes, "reason", h.Reason)
	f.weigh()
	f.mu.Unlock()
	f.settle()
}

// settle lets Open return once the verifier is in step and knows the
// node's clock.
func (f *follower) settle() {
	f.mu.Lock()
	settled := f.doubt == "" && !f.clock.IsZero()
	f.mu.Unlock()
	if settled {
		f.start(nil)
	}
}

// start tells Open how the start went, and reports whether it was still open.
func (f *follower) start(err error) bool {
	if !f.opening {
		return false
	}
	f.opening = false
	f.started <- err
	return true
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
		f.connected, f.since = false, time.Now()
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

// suspect makes the verifier stale until it is in step.
func (f *follower) suspect(doubt string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.doubt = doubt
	f.weigh()
}

// tell learns the node's clock from a pong: it was read between the ping's
// sending and now.
func (f *follower) tell(p feed.Pong) {
	now := time.Now()
	sent := time.UnixMilli(min(int64(p.Stamp), now.UnixMilli()))
	if earliest := now.Add(-patience); sent.Before(earliest) {
		sent = earliest
	}
	f.mu.Lock()
	f.heard, f.clock, f.trip = now, time.UnixMilli(p.Clock), now.Sub(sent)
	f.mu.Unlock()
	f.compare()
	f.settle()
}

// compare makes the verifier stale while its wall clock and the node's part.
// The node's is carried on by the monotonic clock, so that a step of the wall
// clock shows while no node is there to ask.
func (f *follower) compare() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.clock.IsZero() {
		return
	}
	now, earliest := time.Now(), f.clock.Add(time.Since(f.heard))
	latest := earliest.Add(f.trip)
	f.skew = ""
	if now.Before(earliest.Add(-clockSkew)) || now.After(latest.Add(clockSkew)) {
		f.skew = fmt.Sprintf("its clock is more than %s off the node's: set both by NTP", clockSkew)
	}
	f.weigh()
}

func (f *follower) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.weigh()
}

// reason says why the verifier is stale; empty: it is not. The caller holds mu.
func (f *follower) reason() string {
	if f.closed {
		return "it was closed"
	}
	return cmp.Or(f.doubt, f.skew)
}

// weigh makes the verifier stale or fresh by the reasons there are. The caller
// holds mu.
func (f *follower) weigh() {
	reason, old := f.reason(), f.stale.Load()
	switch {
	case reason == "" && old != nil:
		f.stale.Store(nil)
		f.log.Info("fresh: accepting tokens")
	case reason != "" && (old == nil || *old != reason):
		f.stale.Store(&reason)
		f.watches.recheck()
		level := slog.LevelWarn
		if f.closed || f.clock.IsZero() { // to be expected: it ends, or has not begun
			level = slog.LevelInfo
		}
		f.log.Log(context.Background(), level, "stale: refusing tokens", "reason", reason)
	}
}

func (f *follower) status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Status{Connected: f.connected && !f.closed, Log: f.at.log, Epoch: f.at.epoch, Since: f.since, LastHeard: f.heard}
}
