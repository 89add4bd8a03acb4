package quash

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/jws"
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
type session struct {
	*follower
	conn    *websocket.Conn
	silence *time.Timer // ends the connection, unless the node is heard
	hello   feed.Hello
	aside   *state // built from a snapshot; nil where none is on its way
	stepped bool

	wake    chan struct{} // holds a value while there is something to acknowledge
	pinging sync.WaitGroup

	message bytes.Buffer
	records []revset.Record
}

func (s *session) serve(ctx context.Context) error {
	kind, body, err := s.read(ctx)
	if err == nil {
		err = s.greet(ctx, kind, body)
	}
	for err == nil {
		if kind, body, err = s.read(ctx); err == nil {
			err = s.take(ctx, kind, body)
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

func (s *session) greet(ctx context.Context, kind feed.Kind, body []byte) error {
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
	s.silence.Reset(patience)
	s.arrive()
	at, known := s.bookmark(), s.state.Load()
	same := known != nil && at.log == s.hello.Log && at.epoch == s.hello.Epoch
	switch {
	case s.hello.Resumes && !same:
		return faultf("the node resumes a log that this verifier does not have")
	case s.hello.Resumes:
		st.set = known.set
		s.publish(st)
		s.begin(ctx)
		return nil
	case known != nil && !same:
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
	if st.audience == "" {
		st.audience = h.Issuer
	}
	if err := st.setKeys(h.Keys); err != nil {
		return nil, err
	}
	return st, st.setNames(h.Claims)
}

// take handles a message after hello.
func (s *session) take(ctx context.Context, kind feed.Kind, body []byte) error {
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
		return s.takeMark(ctx, body)
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
	s.silence.Reset(patience)
	if err := s.aside.set.Apply(records, 0); err != nil {
		return fault{err}
	}
	return nil
}

// takeMark puts the snapshot in the place of what the verifier had.
func (s *session) takeMark(ctx context.Context, body []byte) error {
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
	s.begin(ctx)
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
	s.silence.Reset(patience)
	s.tell(p)
	return nil
}

func (s *session) bye(body []byte) error {
	var b feed.Bye
	if err := json.Unmarshal(body, &b); err != nil {
		return faultf("bye: %w", err)
	}
	return fmt.Errorf("the node said goodbye: %s: %s", b.Code, b.Detail)
}

// begin starts the acknowledgements. From here on records may come.
func (s *session) begin(ctx context.Context) {
	s.silence.Reset(patience)
	s.acknowledge()
	s.pinging.Go(func() { s.ping(ctx) })
	s.reach(s.bookmark().Position)
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

// ping acknowledges what has been applied, as soon as there is something, many
// records in one, and otherwise at intervals. Where it fails, reading fails.
func (s *session) ping(ctx context.Context) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	var message []byte
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-tick.C:
		}
		p := feed.Ping{Applied: s.state.Load().set.Position(), Stamp: uint64(time.Now().UnixMilli())}
		message = feed.AppendPing(message[:0], p)
		if err := s.conn.Write(ctx, websocket.MessageBinary, message); err != nil {
			return
		}
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
