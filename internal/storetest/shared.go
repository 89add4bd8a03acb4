package storetest

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
)

// Shared makes of a store one that seems to be shared with other programs: it
// has an outbox, in memory, and can be told that the database lost something.
// It runs one transaction at a time.
type Shared struct {
	issuer.Store

	turn   chan struct{} // has a value while a transaction runs
	mu     sync.Mutex
	forked bool
	outbox outbox
}

type outbox struct {
	made    uint64
	waiting []issuer.Request
	answers map[uint64]uint64
}

// Share returns s as a shared store.
func Share(s issuer.Store) *Shared {
	return &Shared{Store: s, turn: make(chan struct{}, 1), outbox: outbox{answers: map[uint64]uint64{}}}
}

// Request puts a request into the outbox and returns its id. Nothing hints at it.
func (s *Shared) Request(claim, value, reason string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := &s.outbox
	o.made++
	o.waiting = append(o.waiting, issuer.Request{ID: o.made, Claim: claim, Value: value, Reason: reason, Actor: "shop", Time: time.Now()})
	o.answers[o.made] = 0
	return o.made
}

// Waiting is how many requests are in the outbox.
func (s *Shared) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.outbox.waiting)
}

// Fork has the store return [issuer.ErrForked] until an epoch begins.
func (s *Shared) Fork() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forked = true
}

// View implements [issuer.Store].
func (s *Shared) View(ctx context.Context, fn func(issuer.Reader) error) error {
	s.mu.Lock()
	o := s.outbox.copy()
	s.mu.Unlock()
	return s.Store.View(ctx, func(r issuer.Reader) error { return fn(sharedReader{r, &o}) })
}

// enter waits for the turn, and returns the outbox as it is then.
func (s *Shared) enter(ctx context.Context) (o outbox, forked bool, err error) {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return o, false, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.outbox.copy(), s.forked, nil
}

func (s *Shared) leave() { <-s.turn }

// Issue implements [issuer.Store].
func (s *Shared) Issue(ctx context.Context, fn func(issuer.Tx) error) error {
	o, forked, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer s.leave()
	if forked {
		return issuer.ErrForked
	}
	return s.Store.Issue(ctx, func(tx issuer.Tx) error { return fn(&sharedTx{Tx: tx, outbox: &o}) })
}

// Update implements [issuer.Store].
func (s *Shared) Update(ctx context.Context, fn func(issuer.Tx) error) (issuer.Commit, error) {
	found, forked, err := s.enter(ctx)
	if err != nil {
		return issuer.Commit{}, err
	}
	defer s.leave()
	var after outbox
	c, err := s.Store.Update(ctx, func(tx issuer.Tx) error {
		after = found.copy()
		shared := &sharedTx{Tx: tx, outbox: &after}
		err := fn(shared)
		if err == nil && forked && !shared.begun {
			err = issuer.ErrForked
		}
		return err
	})
	if err == nil {
		s.commit(found, after)
	}
	return c, err
}

// commit notes what a transaction took and answered, and that no fork stands.
func (s *Shared) commit(found, after outbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forked = false
	taken := len(found.waiting) - len(after.waiting)
	s.outbox.waiting = s.outbox.waiting[taken:]
	for id := range found.answers {
		s.outbox.answers[id] = after.answers[id]
	}
}

// Tail implements [issuer.Store].
func (s *Shared) Tail(ctx context.Context, after feed.Mark, limit int) (issuer.Tail, error) {
	s.mu.Lock()
	forked, requested := s.forked, len(s.outbox.waiting) > 0
	s.mu.Unlock()
	if forked {
		return issuer.Tail{}, issuer.ErrForked
	}
	t, err := s.Store.Tail(ctx, after, limit)
	t.Requested = requested
	return t, err
}

func (o *outbox) copy() outbox {
	return outbox{o.made, slices.Clone(o.waiting), maps.Clone(o.answers)}
}

func (o *outbox) answered(id uint64) (uint64, error) {
	position, known := o.answers[id]
	if !known {
		return 0, issuer.ErrNotFound
	}
	return position, nil
}

type sharedReader struct {
	issuer.Reader
	outbox *outbox
}

func (r sharedReader) Requested() (bool, error)           { return len(r.outbox.waiting) > 0, nil }
func (r sharedReader) Answered(id uint64) (uint64, error) { return r.outbox.answered(id) }

type sharedTx struct {
	issuer.Tx
	outbox *outbox
	last   uint64 // position appended since requests were taken or one was answered
	begun  bool
}

func (t *sharedTx) Requested() (bool, error)           { return len(t.outbox.waiting) > 0, nil }
func (t *sharedTx) Answered(id uint64) (uint64, error) { return t.outbox.answered(id) }

func (t *sharedTx) TakeRequests(limit int) ([]issuer.Request, error) {
	n := min(limit, len(t.outbox.waiting))
	taken := t.outbox.waiting[:n:n]
	t.outbox.waiting, t.last = t.outbox.waiting[n:], 0
	return taken, nil
}

func (t *sharedTx) AnswerRequest(id uint64) error {
	t.outbox.answers[id], t.last = t.last, 0
	return nil
}

func (t *sharedTx) AppendRevocation(r issuer.Revocation) error {
	if err := t.Tx.AppendRevocation(r); err != nil {
		return err
	}
	l, err := t.Log()
	t.last = l.Head.Position
	return err
}

func (t *sharedTx) BeginEpoch(id, reason string) (issuer.Epoch, error) {
	t.begun = true
	return t.Tx.BeginEpoch(id, reason)
}
