package quash

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/quashdev/quash/internal/jws"
)

const (
	mintIssuer   = "https://issuer.example"
	mintLifetime = 24 * time.Hour
	mintSubjects = 48
)

// mint is what is made once for all simulations: a key, and tokens.
type mint struct {
	key    *jws.PrivateKey
	tokens []string
	idle   string
}

// bubbles begin at this time.
var midnight = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func newMint() (*mint, error) {
	key, err := jws.Generate(jws.Ed25519)
	if err != nil {
		return nil, err
	}
	m := &mint{key: key}
	for i := range mintSubjects + 1 {
		payload, err := json.Marshal(map[string]any{
			"iss": mintIssuer, "aud": mintIssuer, "sub": subjectName(i), "client_id": "c", "sid": "s", "jti": "t",
			"iat": midnight.Add(-time.Hour).Unix(), "exp": midnight.Add(22 * time.Hour).Unix(), "rev": 0,
		})
		if err != nil {
			return nil, err
		}
		token, err := key.Sign("at+jwt", payload)
		if err != nil {
			return nil, err
		}
		m.tokens = append(m.tokens, token)
	}
	m.idle, m.tokens = m.tokens[mintSubjects], m.tokens[:mintSubjects]
	return m, nil
}

func subjectName(i int) string { return fmt.Sprintf("subject-%d", i) }

// subject is somebody whose one token is revoked once.
type subject struct {
	name, token string
	history     *history

	// Guarded by history.mu.
	begun, told int64 // ticks; 0: not yet. Told is when it was confirmed first
	position    uint64
	commit      time.Time // zero: not committed
	witnesses   []*node
	asked       []porcupine.Operation
}

// history is what was seen in a simulation, in an order that holds for all.
type history struct {
	clock    atomic.Int64
	accepted atomic.Int64
	refused  atomic.Int64
	stale    atomic.Int64

	mu       sync.Mutex
	subjects []*subject
	notes    []string
	failures []string
	last     time.Duration // of the latest note
}

func newHistory(tokens []string) *history {
	h := &history{}
	for i, t := range tokens {
		h.subjects = append(h.subjects, &subject{name: subjectName(i), token: t, history: h})
	}
	return h
}

// tick returns a place in the order.
func (h *history) tick() int64 { return h.clock.Add(1) }

func (h *history) note(at time.Duration, format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = at
	h.notes = append(h.notes, fmt.Sprintf("%12v  ", at)+fmt.Sprintf(format, args...))
}

func (h *history) fail(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	what := fmt.Sprintf(format, args...)
	h.failures = append(h.failures, what)
	h.notes = append(h.notes, "FAILURE       "+what)
}

func (h *history) subject(i int) *subject {
	if i >= len(h.subjects) {
		return nil
	}
	return h.subjects[i]
}

func (h *history) begin(s *subject) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.begun = h.tick()
}

func (h *history) committed(s *subject, position uint64, witnesses []*node) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.commit, s.position, s.witnesses = time.Now(), position, witnesses
}

func (h *history) confirmed(s *subject) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.told == 0 {
		s.told = h.tick()
	}
}

// due returns the subjects whose tokens are to be asked about: one that may be
// revoked next, and those revoked within a few leases.
func (h *history) due(bound time.Duration) (due []*subject) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	for _, s := range h.subjects {
		if s.begun == 0 {
			return append(due, s)
		}
		if s.commit.IsZero() || now.Sub(s.commit) < 3*bound {
			due = append(due, s)
		}
	}
	return due
}

// revoked returns the subjects that are.
func (h *history) revoked() (found []*subject) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.subjects {
		if s.position != 0 {
			found = append(found, s)
		}
	}
	return found
}

// head returns the latest position.
func (h *history) head() (head uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.subjects {
		head = max(head, s.position)
	}
	return head
}

func (s *subject) at() uint64 {
	s.history.mu.Lock()
	defer s.history.mu.Unlock()
	return s.position
}

func (s *subject) when() time.Time {
	s.history.mu.Lock()
	defer s.history.mu.Unlock()
	return s.commit
}

// lacking says whether a verifier may lack the revocation at a time: it was not
// committed a lease and a margin before.
func (s *subject) lacking(at time.Time, bound time.Duration) bool {
	commit := s.when()
	return commit.IsZero() || at.Sub(commit) <= bound
}

// asked notes what a verify that began at a tick returned.
func (h *history) asked(by string, s *subject, call int64, err error) {
	end := h.tick()
	var saw event
	switch {
	case err == nil:
		h.accepted.Add(1)
		saw = accepted
	case errors.Is(err, ErrRevoked):
		h.refused.Add(1)
		saw = refused
	case errors.Is(err, ErrStale), errors.Is(err, ErrNotReady):
		h.stale.Add(1)
		return
	default:
		h.fail("%s asked about %s: %v", by, s.name, err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s.asked = append(s.asked, porcupine.Operation{Input: saw, Call: call, Return: end, Metadata: by})
}

// event is something that concerns a token.
type event int

const (
	begun     event = iota + 1 // the revoke began
	confirmed                  // it was answered confirmed
	accepted                   // a verifier accepted it
	refused                    // a verifier refused it as revoked
)

// rule is P4 and P6 for one token: its state is the latest of begun and
// confirmed.
var rule = porcupine.Model{
	Init: func() any { return event(0) },
	Step: func(state, input, _ any) (bool, any) {
		switch was, e := state.(event), input.(event); e {
		case accepted:
			return was != confirmed, was
		case refused:
			return was >= begun, was
		default:
			return true, max(was, e)
		}
	},
	DescribeOperation: func(input, _ any) string {
		return [...]string{"", "begun", "confirmed", "accepted", "refused"}[input.(event)]
	},
}

// operations returns the history of the token.
func (s *subject) operations() []porcupine.Operation {
	ops := s.asked
	if s.begun != 0 {
		ops = append(ops, porcupine.Operation{Input: begun, Call: s.begun, Return: s.begun})
	}
	if s.told != 0 {
		ops = append(ops, porcupine.Operation{Input: confirmed, Call: s.begun, Return: s.told})
	}
	return ops
}

// judge looks for what must not be, once all has ended.
func (h *history) judge() {
	for _, s := range h.subjects {
		if porcupine.CheckOperations(rule, s.operations()) {
			continue
		}
		h.fail("P4, P6: the history of %s is not one of a revocation: begun at %d, confirmed at %d; %s", s.name, s.begun, s.told, s.wrong())
	}
}

// wrong names what is likely to be wrong.
func (s *subject) wrong() string {
	var b strings.Builder
	for _, o := range s.asked {
		if o.Input == accepted && s.told != 0 && o.Call > s.told || o.Input == refused && (s.begun == 0 || o.Return < s.begun) {
			fmt.Fprintf(&b, "%s by %v at %d; ", rule.DescribeOperation(o.Input, nil), o.Metadata, o.Call)
		}
	}
	return b.String()
}
