package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/quashdev/quash/internal/issuer"
)

// op is one update that waits for the writer.
type op struct {
	fn       func(*tx) error
	gate     bool        // it needs the gate from the beginning
	apart    bool        // of an issue: its caller must run it
	taken    atomic.Bool // by the writer, or by a caller who gave up
	commit   issuer.Commit
	err      error
	done     chan struct{} // closed when commit and err are set
	answered bool          // the writer's own: done is closed
}

// do runs fn in an update and returns when it is durable.
func (s *Store) do(ctx context.Context, fn func(*tx) error) (issuer.Commit, error) {
	o := &op{fn: fn, done: make(chan struct{})}
	if err := s.await(ctx, s.updates, o); err != nil {
		return issuer.Commit{}, err
	}
	return o.commit, nil
}

// await puts o into a queue and returns when it was answered, or when ctx ends
// before somebody took it.
func (s *Store) await(ctx context.Context, queue chan *op, o *op) error {
	if err := s.enqueue(ctx, queue, o); err != nil {
		return err
	}
	select {
	case <-o.done:
	case <-ctx.Done():
		if o.taken.CompareAndSwap(false, true) {
			return ctx.Err()
		}
		<-o.done
	}
	return o.err
}

func (s *Store) enqueue(ctx context.Context, queue chan *op, o *op) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.closing.RLock()
	defer s.closing.RUnlock()
	if s.closed {
		return errClosed
	}
	select {
	case queue <- o:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// work serves a queue in groups until it ends.
func (s *Store) work(queue chan *op, run func([]*op)) {
	var due int // callers who may be on their way back
	for o := range queue {
		group := gather(queue, o, due)
		s.serve(queue, group, run)
		due = len(group) + len(queue)
	}
	s.workers.Done()
}

const (
	// gatherFor bounds the wait for more, by less than a group takes.
	gatherFor = 500 * time.Microsecond
	// quietFor is how long nobody has come when nobody is expected any more.
	quietFor = 50 * time.Microsecond
)

// gather takes what waits behind first, but for those whose callers gave up.
// Callers that the last group answered are about to queue again; where they
// are let run first, one flush carries more. A lone caller waits for nobody, but
// the first of them after a crowd.
func gather(queue chan *op, first *op, due int) []*op {
	began := time.Now()
	for seen, news := 0, began; len(queue)+1 < min(due, maxGroup); {
		runtime.Gosched()
		now := time.Now()
		if len(queue) > seen {
			seen, news = len(queue), now
		}
		if now.Sub(news) > quietFor || now.Sub(began) > gatherFor {
			break
		}
	}
	group := make([]*op, 0, maxGroup)
	for o := first; ; {
		if o.taken.CompareAndSwap(false, true) {
			group = append(group, o)
		}
		if len(group) == maxGroup {
			return group
		}
		select {
		case next, open := <-queue:
			if !open {
				return group
			}
			o = next
		default:
			return group
		}
	}
}

// serve runs a group, which answers it.
func (s *Store) serve(queue chan *op, group []*op, run func([]*op)) {
	returned := false
	defer func() {
		if !returned { // a function called runtime.Goexit: this goroutine ends
			answer(group, errors.New("postgres: a function of the same commit ended its goroutine; nothing changed, try again"))
			go s.work(queue, run)
		}
	}()
	run(group)
	returned = true
}

// update commits a group of updates, and what it can of it. Functions that cannot share a
// transaction run alone after the others. Each op is answered once.
func (s *Store) update(group []*op) {
	var tries tries
	for work := [][]*op{group}; len(work) > 0; {
		next := work[0]
		work = work[1:]
		if len(next) == 0 {
			continue
		}
		began := time.Now()
		apart, err := s.apply(next)
		switch {
		case len(apart) > 0 && err == nil:
			work = append(work, slices.DeleteFunc(slices.Clone(next), func(o *op) bool { return slices.Contains(apart, o) }))
			for _, o := range apart {
				work = append(work, []*op{o})
			}
		case again(err) && tries.again():
			work = append(work, next)
		default:
			if err == nil {
				s.told(time.Since(began), len(next))
			}
			answer(next, err)
		}
	}
}

// tries bounds how often a transaction is run again.
type tries struct {
	n     int
	began time.Time
}

const (
	maxTries = 20
	maxTrial = 10 * time.Second
)

// again waits a little, longer each time, and reports whether to try again.
func (t *tries) again() bool {
	if t.n == 0 {
		t.began = time.Now()
	}
	t.n++
	if t.n >= maxTries || time.Since(t.began) > maxTrial {
		return false
	}
	// The first time there is nothing to wait for: who was in the way is done.
	time.Sleep(time.Duration(rand.Int64N(int64(min(1<<t.n, 256)))) * time.Millisecond / 4)
	return true
}

// apply runs updates in one transaction and commits it. Where some must run
// apart nothing has changed, and it returns them.
func (s *Store) apply(group []*op) (apart []*op, err error) {
	if done, err := s.guess(group); done || err != nil {
		return nil, err
	}
	c, err := s.acquire(context.Background())
	if err != nil {
		return nil, err
	}
	defer c.end()
	u := s.newUnit(c, false)
	alone := len(group) == 1
	if apart := u.rehearse(group); len(apart) > 0 && !alone {
		return apart, nil
	}
	if err := u.beginUpdates(alone && group[0].gate); err != nil {
		return nil, err
	}
	found := u.log.Head
	if u.forked {
		s.fork(u.before)
		if !alone {
			return group, nil
		}
	}
	for _, o := range group {
		switch err := s.step(u, o); {
		case err == nil:
		case errors.Is(err, errGate):
			o.gate = true
			return []*op{o}, nil
		case alone || errors.Is(err, errAgain):
			return nil, err
		default:
			return []*op{o}, nil
		}
	}
	if !u.wrote {
		return nil, nil
	}
	if err := u.commit(); err != nil {
		return nil, err
	}
	s.leave(u, found == s.left.log.Head)
	s.committed(u, group)
	return nil, nil
}

// committed tells a group, and who waits for news, what it has become.
func (s *Store) committed(u *unit, group []*op) {
	for _, o := range group {
		o.commit.Head = u.log.Head
	}
	u.publish()
}

// rehearse runs functions once without effect, before the transaction begins,
// to learn which sessions they are about to read, so that these are read
// together. It returns the functions that close the gate, which nobody else
// should have to wait for.
func (u *unit) rehearse(group []*op) (apart []*op) {
	u.c.rehearsing = true
	for _, o := range group {
		t := u.newTx()
		u.wantsGate = false
		_ = call(o.fn, t)
		t.undo()
		if o.gate = o.gate || u.wantsGate; o.gate {
			apart = append(apart, o)
		}
	}
	u.c.rehearsing, u.wantsGate, u.issue, u.update = false, false, nil, nil
	return apart
}

// beginUpdates begins the transaction, with the gate closed if need be, and
// reads what a rehearsal asked for.
func (u *unit) beginUpdates(gate bool) error {
	var asked []statement
	if gate {
		asked, u.gated = append(asked, statement{query: closeGate}), true
	}
	if len(u.wanted) > 0 {
		asked = append(asked, u.fetching(u.wanted, u.sessions))
	}
	return u.open(asked...)
}

// step runs one op. An error of its function is the op's and undoes the op
// alone; one that step returns has broken the transaction.
func (s *Store) step(u *unit, o *op) error {
	t := u.newTx()
	err := call(o.fn, t)
	if p, ok := errors.AsType[*panicked](err); ok {
		s.log.Error("function of a transaction panicked; its changes are rolled back", "panic", p.value, "stack", string(p.stack))
	}
	switch {
	case u.wantsGate:
		return errGate
	case u.c.failed != nil:
		if errors.Is(u.c.failed, errAgain) || err == nil {
			return u.c.failed
		}
		return err
	case u.forked && !t.lifted:
		return issuer.ErrForked
	case err != nil && t.sent():
		return err
	case err != nil:
		t.undo()
		o.err = err
		return nil
	}
	t.keep()
	o.err, o.commit = nil, issuer.Commit{First: t.first, Last: t.last, Head: u.l.log.Head}
	return nil
}

// panicked is the error of a function that did.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string {
	return fmt.Sprintf("postgres: the transaction's function panicked: %v", p.value)
}

// call turns a panic of fn into an error, so that one caller's mistake does
// not take the writer from the others.
func call(fn func(*tx) error, t *tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicked{p, debug.Stack()}
		}
	}()
	return fn(t)
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

// Issue implements [issuer.Store]. Issues that need no more than a session and
// its account share a transaction with others that wait; the rest run by
// themselves.
func (s *Store) Issue(ctx context.Context, fn func(issuer.Tx) error) error {
	o := &op{fn: func(t *tx) error { return fn(t) }, done: make(chan struct{})}
	if err := s.await(ctx, s.issues, o); !o.apart {
		return err
	}
	var tries tries
	for {
		err := s.issueAlone(ctx, o.fn)
		if !again(err) || !tries.again() {
			return err
		}
		ctx = context.WithoutCancel(ctx) // it has begun, so it runs to its end
	}
}

// issueAlone runs one issue.
func (s *Store) issueAlone(ctx context.Context, fn func(*tx) error) error {
	c, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer c.end()
	u := s.newUnit(c, true)
	t := u.newTx()
	switch err := fn(t); {
	case c.failed != nil && (err == nil || errors.Is(c.failed, errAgain) || errors.Is(c.failed, issuer.ErrForked)):
		return c.failed
	case err != nil:
		return err
	}
	if t.dirtied > 0 {
		if err := u.commit(); err != nil {
			return err
		}
	}
	if u.began {
		u.publish()
	}
	return nil
}

// issue commits a group of issues, and leaves to their callers those that
// cannot be part of it.
func (s *Store) issue(group []*op) {
	apart, err := s.applyIssues(group)
	if again(err) { // they were in the way of somebody: each for itself
		apart, err = group, nil
	}
	for _, o := range apart {
		o.apart = true
	}
	answer(group, err)
}

// applyIssues runs issues in one transaction, as far as they need no round trip
// beyond its first, and returns the others. So while it holds locks it waits
// for nobody.
func (s *Store) applyIssues(group []*op) (apart []*op, err error) {
	c, err := s.acquire(context.Background())
	if err != nil {
		return nil, err
	}
	defer c.end()
	u := s.newUnit(c, true)
	u.rehearse(group)
	if len(u.wanted) == 0 {
		return group, nil
	}
	if err := u.open(u.fetchingIssues(u.wanted)); err != nil {
		return nil, err
	}
	if _, err := u.catalog(); err != nil {
		return nil, err
	}
	c.local = true
	for _, o := range group {
		if !s.stepIssue(u, o) {
			apart = append(apart, o)
		}
	}
	c.local = false
	if u.wrote {
		if err := u.commit(); err != nil {
			return nil, err
		}
	}
	u.publish()
	return apart, nil
}

// stepIssue runs one op of a group of issues and reports whether it got by
// without a round trip.
func (s *Store) stepIssue(u *unit, o *op) bool {
	u.c.missed = false
	t := u.newTx()
	o.err = call(o.fn, t)
	if u.c.missed || o.err != nil {
		t.undo()
		return !u.c.missed
	}
	t.keep()
	return true
}
