package sqlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/quashdev/quash/internal/issuer"
)

// op is one transaction that waits for the writer.
type op struct {
	fn       func(*tx) error
	taken    atomic.Bool // by the writer, or by a caller who gave up
	commit   issuer.Commit
	err      error
	done     chan struct{} // closed when commit and err are set
	answered bool          // the writer's own: done is closed
}

// ledger is what the writer knows without reading it. What its slices hold is
// never changed in place, so a copy is a checkpoint, and others may read it.
type ledger struct {
	log    issuer.Log
	keys   []issuer.SigningKey
	nodes  []issuer.Node
	recent recent
	unwritten
	group   uint64 // id of the latest group tried
	changed bool   // since the last commit, what Changed tells of
}

// do runs fn in a transaction and returns when it is durable.
func (s *Store) do(ctx context.Context, fn func(*tx) error) (issuer.Commit, error) {
	o := &op{fn: fn, done: make(chan struct{})}
	if err := s.enqueue(ctx, o); err != nil {
		return issuer.Commit{}, err
	}
	select {
	case <-o.done:
	case <-ctx.Done():
		if o.taken.CompareAndSwap(false, true) {
			return issuer.Commit{}, ctx.Err()
		}
		<-o.done
	}
	if o.err != nil {
		return issuer.Commit{}, o.err
	}
	return o.commit, nil
}

func (s *Store) enqueue(ctx context.Context, o *op) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.closing.RLock()
	defer s.closing.RUnlock()
	if s.closed {
		return errClosed
	}
	select {
	case s.queue <- o:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// write is the one goroutine that writes. It ends with the queue.
func (s *Store) write() {
	for o := range s.queue {
		s.serve(s.gather(o))
	}
	close(s.written)
}

// gather takes what waits behind first, but for those whose callers gave up.
func (s *Store) gather(first *op) []*op {
	// Callers that the last group answered are about to queue again; letting
	// them run first makes groups larger and costs a lone caller nothing.
	runtime.Gosched()
	group := make([]*op, 0, maxGroup)
	for o := first; ; {
		if o.taken.CompareAndSwap(false, true) {
			group = append(group, o)
		}
		if len(group) == maxGroup {
			return group
		}
		select {
		case next, open := <-s.queue:
			if !open {
				return group
			}
			o = next
		default:
			return group
		}
	}
}

// serve runs a group and answers it.
func (s *Store) serve(group []*op) {
	returned := false
	defer func() {
		if !returned { // a function called runtime.Goexit: this goroutine ends
			s.discard()
			answer(group, errors.New("sqlite: a function of the same commit ended its goroutine; nothing changed, try again"))
			go s.write()
		}
	}()
	s.run(group)
	returned = true
}

// run commits the group. Where one op cannot be undone alone, those before it,
// itself, and those behind it are each a group: its error then rests on nothing
// but what was committed, and no op runs more than twice for it. Whatever the
// way, each op is answered once.
func (s *Store) run(group []*op) {
	defer s.tell()
	for retried := false; len(group) > 0; retried = true {
		began := time.Now()
		broken, err := s.apply(group)
		switch {
		case broken >= 0 && len(group) == 1:
			answer(group, nil) // it has its error
			return
		case broken >= 0:
			s.run(group[:broken])
			s.run(group[broken : broken+1])
			s.run(group[broken+1:])
			return
		case err == nil:
			s.publish()
			s.told(time.Since(began), len(group))
			answer(group, nil)
			return
		case errors.Is(err, errNotBegun):
			answer(group, err)
			return
		}
		stands, err := s.outcome(err)
		switch {
		case stands:
			answer(group, nil)
			return
		case errors.Is(err, issuer.ErrUnknown) || retried:
			// After a second failure the file may hold a commit that a
			// recovery would find though nobody sees it now.
			answer(group, fmt.Errorf("%w: %w", issuer.ErrUnknown, err))
			return
		}
	}
}

// errNotBegun marks a failure before any commit was tried: nothing changed.
var errNotBegun = errors.New("sqlite: no commit was tried, so nothing changed")

// apply runs the group in one transaction and commits it. Where an op failed
// and has to be undone, nothing is left of any, and broken is its index, else
// that is -1; where it cannot be told whose the failure is, it is that of one in
// the middle. Any other error but errNotBegun is the commit's, and ambiguous.
func (s *Store) apply(group []*op) (broken int, err error) {
	if err := s.start(); err != nil {
		s.discard()
		return -1, fmt.Errorf("%w: %w", errNotBegun, err)
	}
	before := s.state
	for i, o := range group {
		if !s.step(o) {
			s.undo(before)
			return i, nil
		}
	}
	if !s.writer.wrote {
		s.undo(before)
		return -1, nil
	}
	if err := s.state.save(s.writer); err != nil {
		s.undo(before)
		if len(group) > 1 {
			return len(group) / 2, nil
		}
		return -1, fmt.Errorf("%w: save what the log has: %w", errNotBegun, err)
	}
	return -1, s.commit(s.writer)
}

func (s *Store) start() error {
	if s.writer == nil {
		if err := s.reconnect(context.Background()); err != nil {
			return err
		}
	}
	s.state.group++
	return s.writer.begin("BEGIN IMMEDIATE")
}

// step runs one op and reports whether the transaction can go on: an op that
// wrote nothing may fail.
func (s *Store) step(o *op) bool {
	c, wrote := s.writer, s.writer.wrote
	c.wrote = false
	t := &tx{reader: reader{c: c, now: clock(), log: &s.state.log, ledger: &s.state}}
	o.err = s.call(o.fn, t)
	if c.failed != nil {
		o.err = cmp.Or(o.err, c.failed)
		return false
	}
	if o.err != nil && c.wrote {
		return false
	}
	o.commit = issuer.Commit{First: t.first, Last: t.last, Head: s.state.log.Head}
	c.wrote = c.wrote || wrote
	return true
}

// undo takes back all that the transaction did.
func (s *Store) undo(before ledger) {
	s.state = before
	if s.writer.failed != nil || s.writer.rollback() != nil {
		s.discard()
	}
}

// call turns a panic of fn into an error, so that one caller's mistake does
// not take the writer from the others.
func (s *Store) call(fn func(*tx) error, t *tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("function of a transaction panicked; its changes are rolled back", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("sqlite: the transaction's function panicked: %v", p)
		}
	}()
	return fn(t)
}

// outcome finds out what became of a commit that failed with cause: it
// stands, or it is proven absent, or the error is ErrUnknown.
func (s *Store) outcome(cause error) (stands bool, err error) {
	tried := s.state.group
	s.discard()
	s.log.Error("a commit failed; looking whether it stands", "error", cause)
	found, err := s.look(context.Background())
	if err != nil {
		return false, fmt.Errorf("%w: commit: %w; look: %w", issuer.ErrUnknown, cause, err)
	}
	return found == tried, fmt.Errorf("sqlite: commit: %w", cause)
}

// discard drops the writer's connection with whatever transaction it has
// open. The next group, and Tail until then, start from what the file says.
func (s *Store) discard() {
	s.published.Store(nil)
	if s.writer != nil {
		_ = s.writer.rollback()
		s.writer.close()
		s.writer = nil
	}
}

// reconnect opens the writer's connection and reads the ledger.
func (s *Store) reconnect(ctx context.Context) error {
	c, err := connect(ctx, s.file.writer)
	if err != nil {
		return err
	}
	state, err := loadLedger(c)
	if err == nil {
		err = state.complete(c)
	}
	if err != nil {
		c.close()
		return fmt.Errorf("read the log's head: %w", err)
	}
	// An absent commit may come back when the file is recovered; its id must
	// not be taken for that of a later one.
	state.group, state.changed = max(state.group, s.state.group), s.state.changed
	s.writer, s.state = c, state
	return nil
}

// tell gives the hint of Changed.
func (s *Store) tell() {
	if !s.state.changed {
		return
	}
	s.state.changed = false
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// answer lets the callers go on that still wait. Err, where there is one, is
// everybody's: no function's own result counts when it rests on what was not
// committed.
func answer(group []*op, err error) {
	for _, o := range group {
		if o.answered {
			continue
		}
		if err != nil {
			o.err = err
		}
		o.answered = true
		close(o.done)
	}
}
