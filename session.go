package quash

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/jws"
	"github.com/quashdev/quash/internal/lease"
	"github.com/quashdev/quash/internal/revset"
)

// maxLifetime bounds what a hello may name as the longest lifetime.
const maxLifetime = 10 * 365 * 24 * time.Hour

// session is one connection to a node. Its life:
//
//	hello, resuming              hello, not resuming
//	                             snapshot* mark
//	(records | claims | keys | pong)* bye?
//
// Pings begin where records may begin. Claims and keys may also come before
// the mark. Anything else is a fault.
//
// A node that says bye because it stops keeps the connection open for a while.
// Nothing that comes after is applied; the verifier says goodbye once another
// connection has a lease.
type session struct {
	*follower
	conn    *websocket.Conn
	end     context.CancelCauseFunc
	silence *time.Timer // ends the connection, unless the node is heard
	hello   feed.Hello
	within  time.Duration // for the hello
	length  lease.Length  // by the hello
	aside   *state        // built from a snapshot; nil where none is on its way
	begun   bool          // records may come, and leases
	stepped bool
	over    chan error // one value: the connection has ended, or is being left

	applied atomic.Uint64 // position that is acknowledged
	sent    sendings
	left    atomic.Bool   // pings no more
	wake    chan struct{} // holds a value while there is something to acknowledge
	bid     atomic.Bool   // it is, or was, told to part
	parting chan struct{} // closed when the verifier is to say goodbye
	parted  chan struct{} // closed when it has, and closed the connection
	said    chan struct{} // closed when it says nothing any more

	message bytes.Buffer
	records []revset.Record
}

// newSession returns a session whose node has to say hello within a time.
func newSession(f *follower, conn *websocket.Conn, within time.Duration) *session {
	return &session{
		follower: f, conn: conn, within: within, over: make(chan error, 1),
		wake: make(chan struct{}, 1), parting: make(chan struct{}), parted: make(chan struct{}), said: make(chan struct{}),
	}
}

// live serves the connection until it has ended; when soft ends, it says
// goodbye.
func (s *session) live(soft, hard context.Context) {
	ctx, end := context.WithCancelCause(hard)
	s.end = end
	s.silence = time.AfterFunc(s.within, func() { end(errSilent) })
	go s.speak(ctx)
	parted := make(chan struct{})
	stop := context.AfterFunc(soft, func() {
		defer close(parted)
		s.part()
	})
	err := s.serve(ctx)
	_, left := errors.AsType[stopping](err)
	if left {
		s.linger(ctx, err)
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if !stop() {
		<-parted
	}
	s.silence.Stop()
	end(nil)
	s.conn.CloseNow()
	<-s.said
	s.closed(s)
	if !left {
		s.over <- err
	}
}

// linger lets the follower turn to another node, and reads on without looking
// until this one closes the connection, or the lease from it must have ended.
func (s *session) linger(ctx context.Context, why error) {
	s.left.Store(true)
	s.silence.Reset(time.Duration(s.length))
	s.leave(s)
	s.over <- why
	for {
		_, r, err := s.conn.Reader(ctx)
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		if err != nil {
			return
		}
	}
}

// part says goodbye, and then closes the connection. The verifier must not rely
// any more on what was granted on it.
func (s *session) part() {
	if s.bid.Swap(true) {
		<-s.parted
		return
	}
	defer close(s.parted)
	late := time.AfterFunc(partWithin, func() { s.end(errSilent) })
	defer late.Stop()
	close(s.parting)
	<-s.said
	s.conn.Close(websocket.StatusNormalClosure, "the verifier closes")
}

func (s *session) serve(ctx context.Context) error {
	kind, body, err := s.read(ctx)
	if err == nil {
		err = s.greet(kind, body)
	}
	for err == nil {
		if kind, body, err = s.read(ctx); err == nil {
			err = s.take(kind, body)
		}
	}
	return err
}

// read returns the next message, valid until the next read.
func (s *session) read(ctx context.Context) (feed.Kind, []byte, error) {
	kind, r, err := s.conn.Reader(ctx)
	if err == nil {
		s.message.Reset()
		_, err = io.Copy(&s.message, r)
	}
	switch {
	case errors.Is(err, websocket.ErrMessageTooBig):
		return 0, nil, faultf("the node sent a message larger than %d octets", feed.MaxMessage)
	case err != nil:
		return 0, nil, fmt.Errorf("read from the node: %w", err)
	case kind != websocket.MessageBinary:
		return 0, nil, faultf("the node sent a message that is not binary")
	}
	k, body, err := feed.Split(s.message.Bytes())
	if err != nil {
		return k, body, fault{err}
	}
	return k, body, nil
}

func (s *session) greet(kind feed.Kind, body []byte) error {
	if kind == feed.KindBye {
		return s.bye(body)
	}
	if kind != feed.KindHello {
		return faultf("the node began with a message of kind %d, not with hello", kind)
	}
	st, err := s.readHello(body)
	if err != nil {
		return fault{fmt.Errorf("the node's hello: %w", err)}
	}
	s.silence.Reset(s.length.Patience())
	s.arrive()
	at, present := s.bookmark(), s.state.Load()
	same := present != nil && at.log == s.hello.Log && at.epoch == s.hello.Epoch
	switch {
	case s.hello.Resumes && !same:
		return faultf("the node resumes a log that this verifier does not have")
	case s.hello.Resumes:
		st.set = present.set
		s.publish(st)
		s.begin()
		return nil
	case present != nil && !same:
		s.suspect("the node's log is another than the one that was followed")
	}
	st.set = revset.New(s.config.MaxRevocations)
	s.aside = st
	return nil
}

// readHello checks a hello and returns what it says, without a set.
func (s *session) readHello(body []byte) (*state, error) {
	h := &s.hello
	if err := json.Unmarshal(body, h); err != nil {
		return nil, err
	}
	st := &state{secret: h.HashSecret, issuer: h.Issuer, audience: s.config.Audience, lifetime: time.Duration(h.MaxLifetime) * time.Second}
	switch {
	case s.config.Issuer != "" && h.Issuer != s.config.Issuer:
		return nil, refusal{fmt.Errorf("the node serves issuer %q, not %q: check the URL", h.Issuer, s.config.Issuer)}
	case h.Log == "" || h.Issuer == "":
		return nil, errors.New("the log or the issuer has no name")
	case !visible(h.Log, 64):
		return nil, errors.New("the log's id is not 1 to 64 visible ASCII characters")
	case len(h.HashSecret) != 32:
		return nil, fmt.Errorf("a hash secret of %d octets, not 32", len(h.HashSecret))
	case h.MaxLifetime <= 0 || h.MaxLifetime > int64(maxLifetime/time.Second):
		return nil, fmt.Errorf("a longest lifetime of %d seconds", h.MaxLifetime)
	}
	if err := checkIssuers(h, s.issuers()); err != nil {
		return nil, err
	}
	if st.audience == "" {
		st.audience = h.Issuer
	}
	s.length = lease.Length(min(max(h.Lease, 0), 1<<40) * int64(time.Millisecond))
	if err := s.length.Check(); err != nil {
		return nil, err
	}
	if err := st.setKeys(h.Keys); err != nil {
		return nil, err
	}
	return st, st.setNames(h.Claims)
}

// take handles a message after hello.
func (s *session) take(kind feed.Kind, body []byte) error {
	switch kind {
	case feed.KindClaims:
		return s.takeClaims(body)
	case feed.KindKeys:
		return s.change(func(st *state) error { return st.setKeys(body) })
	case feed.KindRecords:
		return s.takeRecords(body)
	case feed.KindSnapshot:
		return s.takeSnapshot(body)
	case feed.KindMark:
		return s.takeMark(body)
	case feed.KindPong:
		return s.takePong(body)
	case feed.KindBye:
		return s.bye(body)
	}
	return faultf("the node sent a message of kind %d, which %s does not have", kind, feed.Subprotocol)
}

func (s *session) takeClaims(body []byte) error {
	var names []string
	if err := json.Unmarshal(body, &names); err != nil {
		return faultf("claim names: %w", err)
	}
	return s.change(func(st *state) error { return st.setNames(names) })
}

// change edits what a snapshot on its way will become, or else puts an edited
// copy in the place of the present state.
func (s *session) change(edit func(*state) error) error {
	st := s.aside
	if st == nil {
		present := *s.state.Load()
		st = &present
	}
	if err := edit(st); err != nil {
		return fault{err}
	}
	if s.aside == nil {
		s.publish(st)
	}
	return nil
}

func (s *session) takeRecords(body []byte) error {
	if s.aside != nil {
		return faultf("the node sent records in the middle of a snapshot")
	}
	m, records, err := feed.DecodeRecords(s.records[:0], body)
	s.records = records
	if err != nil {
		return fault{err}
	}
	if at := s.bookmark().Position; records[0].Position != at+1 {
		return faultf("the node sent record %d after %d", records[0].Position, at)
	}
	if err := s.apply(records, m); err != nil {
		return err
	}
	s.applied.Store(m.Position)
	s.acknowledge()
	s.watches.applied(records)
	s.reach(m.Position)
	return nil
}

func (s *session) takeSnapshot(body []byte) error {
	if s.aside == nil {
		return faultf("the node sent part of a snapshot that it had not announced")
	}
	records, err := feed.DecodeSnapshot(s.records[:0], body)
	s.records = records
	if err != nil {
		return fault{err}
	}
	s.silence.Reset(s.length.Patience())
	if err := s.aside.set.Apply(records, 0); err != nil {
		return fault{err}
	}
	return nil
}

// takeMark puts the snapshot in the place of what the verifier had.
func (s *session) takeMark(body []byte) error {
	if s.aside == nil {
		return faultf("the node sent a mark without a snapshot")
	}
	m, err := feed.DecodeMark(body)
	if err != nil {
		return fault{err}
	}
	at := s.bookmark()
	same := at.log == s.hello.Log && at.epoch == s.hello.Epoch
	if same && m.Position < at.Position {
		return faultf("the node's log ends at %d, before %d, which was applied already", m.Position, at.Position)
	}
	if err := s.aside.set.Apply(nil, m.Position); err != nil {
		return fault{err}
	}
	if at.log != "" && !same {
		s.log.Warn("following another log", "log", s.hello.Log, "epoch", s.hello.Epoch, "position", m.Position,
			"former_log", at.log, "former_epoch", at.epoch, "former_position", at.Position)
	}
	s.install(bookmark{s.hello.Log, s.hello.Epoch, m}, s.aside)
	// A snapshot's buffers are much larger than what comes after it needs.
	s.aside, s.message, s.records = nil, bytes.Buffer{}, nil
	s.begin()
	return nil
}

func (f *follower) install(at bookmark, st *state) {
	f.mu.Lock()
	f.at = at
	f.mu.Unlock()
	f.publish(st)
}

func (s *session) takePong(body []byte) error {
	p, err := feed.DecodePong(body)
	if err != nil {
		return fault{err}
	}
	if at := s.bookmark(); s.aside != nil || p.Mark != at.Mark {
		return faultf("the node speaks of position %d with digest %s where %d with %s was applied", p.Position, p.Digest, at.Position, at.Digest)
	}
	if p.Grant > time.Duration(s.length) {
		return faultf("the node grants %s, where its leases last %s", p.Grant, time.Duration(s.length))
	}
	s.silence.Reset(s.length.Patience())
	if sent, ok := s.sent.answered(p.Stamp); ok {
		s.hear(s, p, sent)
	}
	return nil
}

func (s *session) bye(body []byte) error {
	var b feed.Bye
	if err := json.Unmarshal(body, &b); err != nil {
		return faultf("bye: %w", err)
	}
	err := fmt.Errorf("the node said goodbye: %s: %s", b.Code, b.Detail)
	if b.Code == feed.ByeStopping && s.begun {
		return stopping{err}
	}
	return err
}

// begin starts the acknowledgements. From here on records may come.
func (s *session) begin() {
	s.silence.Reset(s.length.Patience())
	position := s.bookmark().Position
	s.begun = true
	s.applied.Store(position)
	s.speaks(s)
	s.acknowledge()
	s.reach(position)
}

// reach notes a position that was applied: at the head of the hello, the
// verifier is in step.
func (s *session) reach(position uint64) {
	if s.stepped || position < s.hello.Head {
		return
	}
	s.stepped = true
	s.step(&s.hello)
}

func (s *session) acknowledge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// speak says all that the verifier has to say: pings, as soon as there is
// something to acknowledge, many records in one, and otherwise at intervals; and
// last, where the node may have granted anything, goodbye. Where it fails,
// reading fails.
func (s *session) speak(ctx context.Context) {
	defer close(s.said)
	beat := time.NewTicker(time.Hour)
	defer beat.Stop()
	begun := false
	var message []byte
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.parting:
			if begun {
				_ = s.conn.Write(ctx, websocket.MessageBinary, feed.AppendGoodbye(nil))
			}
			return
		case <-s.wake:
		case <-beat.C:
		}
		if !begun {
			begun = true
			beat.Reset(s.length.Beat())
		}
		if s.left.Load() {
			continue
		}
		message = feed.AppendPing(message[:0], s.ping())
		if err := s.conn.Write(ctx, websocket.MessageBinary, message); err != nil {
			return
		}
	}
}

// ping returns the ping that is sent now.
func (s *session) ping() feed.Ping {
	s.mu.Lock()
	routes, most := s.tolerated()
	s.mu.Unlock()
	return feed.Ping{
		Applied: s.applied.Load(), Stamp: s.sent.stamp(s.config.clock()),
		Routes: uint16(min(routes, math.MaxUint16)), Tolerance: most,
	}
}

func (st *state) setKeys(text []byte) error {
	keys, err := jws.ParseKeySet(text)
	if err != nil {
		return fmt.Errorf("the issuer's keys: %w", err)
	}
	st.keys, st.keysText = keys, bytes.Clone(text)
	return nil
}

func (st *state) setNames(names []string) error {
	names = slices.Clone(names)
	slices.Sort(names)
	if len(names) > 0 && names[0] == "" {
		return errors.New("claim names: one is empty")
	}
	st.names = slices.Compact(names)
	return nil
}
