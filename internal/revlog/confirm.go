package revlog

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/quashdev/quash/internal/lease"
)

// Confirmation says how far it is with a position: whether some verifier could
// still accept what was revoked up to there.
type Confirmation struct {
	Position  uint64
	Confirmed bool          // no verify that begins now accepts it, but on routes that accept when stale
	Took      time.Duration // from when this node had it until it was confirmed, or until now; 0 where it is not known
	Until     time.Time     // when it is confirmed at the latest, whatever happens

	// Of the verifiers that relied on this node, or do: how many have
	// confirmed, are waited for, and ended otherwise.
	Applied, Pending, Lost, Left int
	Slow                         []Pending // those waited for, the first of them by name
	Nodes                        []string  // ids of other nodes that are waited for

	// StaleRoutes is how many routes of the known verifiers accept tokens when
	// stale; Accepting, how many of those are at verifiers whose lease ended
	// before they confirmed, so that they may accept what was revoked.
	StaleRoutes, Accepting int
}

// Pending is a verifier that a position waits for.
type Pending struct {
	Process, Name, Key string
	Applied            uint64
	Until              time.Time // its lease ends, with its margin
}

// maxSlow bounds how many pending verifiers are named.
const maxSlow = 100

// wait is one call of WaitConfirmed.
type wait struct {
	position  uint64
	committed lease.Moment // or later
	known     bool         // it is about then
	done      chan struct{}
	took      time.Duration // once done
}

// WaitConfirmed waits until a position that was committed before the call is
// confirmed, or ctx ends, and says how it stands. What is revoked stays so,
// whatever the wait ends with.
func (l *Log) WaitConfirmed(ctx context.Context, position uint64) Confirmation {
	now := l.cfg.Clock()
	l.mu.Lock()
	w := &wait{position: position, done: make(chan struct{})}
	w.committed, w.known = l.committed(position, now)
	if !l.settleWait(w, now) {
		l.waits[w] = struct{}{}
		if l.slowPeers(position) {
			wake(l.impatient)
		}
	}
	l.mu.Unlock()
	select {
	case <-w.done:
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waits, w)
	now = l.cfg.Clock()
	if w.over() && l.book.Floor() < position {
		l.lapse(now) // it is confirmed by time alone, and that is not noted yet
	}
	return l.describe(w, now)
}

// over says whether the wait ended because the position is confirmed.
func (w *wait) over() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// committed returns a moment at or after the commit of a position, the earliest
// that is known, and whether it was about then. The caller holds mu.
func (l *Log) committed(position uint64, now lease.Moment) (at lease.Moment, about bool) {
	if b := l.evidence.find(position); b != nil {
		return b.began, true
	}
	if l.loaded != nil && position <= l.loaded.position {
		return l.loaded.at, false
	}
	return now, position > l.ring.head.Position
}

// confirmed says whether a position is: by every node's floor, in rows that
// were looked at after its commit; or because every lease from before that has
// ended. The caller holds mu.
func (l *Log) confirmed(position uint64, committed, now lease.Moment) bool {
	return l.agreed(now) >= position || now.Mono-committed.Mono >= l.longest(l.cfg.Lease, position)
}

// slowPeers says whether a position waits for other nodes. The caller holds mu.
func (l *Log) slowPeers(position uint64) bool {
	return l.book.Floor() >= position && len(l.peers) > 0
}

// raise does what follows from a floor that has risen. The caller holds mu.
func (l *Log) raise() {
	floor := l.book.Floor()
	if floor <= l.raised {
		return
	}
	l.raised = floor
	if len(l.peers) > 0 {
		wake(l.risen)
	}
	l.settle()
}

// settle ends the waits that are over, after anything that they depend on
// changed. The caller holds mu.
func (l *Log) settle() {
	now := l.cfg.Clock()
	l.evidence.reached(l.agreed(now), now)
	for w := range l.waits {
		if l.settleWait(w, now) {
			delete(l.waits, w)
		} else if l.slowPeers(w.position) {
			wake(l.impatient)
		}
	}
}

func (l *Log) settleWait(w *wait, now lease.Moment) bool {
	if !l.confirmed(w.position, w.committed, now) {
		return false
	}
	if w.known {
		w.took = now.Mono - w.committed.Mono
	}
	if b := l.evidence.find(w.position); b != nil && b.closed {
		// It was over before somebody asked, perhaps before the commit returned.
		w.took = max(0, min(w.took, b.began.Mono-w.committed.Mono+b.took))
	}
	close(w.done)
	return true
}

// describe puts the state of a wait into words. The caller holds mu.
func (l *Log) describe(w *wait, now lease.Moment) Confirmation {
	c := Confirmation{Position: w.position, Took: w.took}
	if c.Confirmed = w.over(); !c.Confirmed {
		if w.known {
			c.Took = now.Mono - w.committed.Mono
		}
		c.Until = wallAt(now, w.committed.Mono+l.longest(l.cfg.Lease, w.position))
		c.Nodes = l.behind(w.position, now)
		slices.Sort(c.Nodes)
	}
	if b := l.evidence.find(w.position); b != nil {
		c.Lost, c.Left = b.ended()
	}
	l.describeVerifiers(&c, now)
	return c
}

func (l *Log) describeVerifiers(c *Confirmation, now lease.Moment) {
	for _, p := range l.processes {
		applied := p.Applied() >= c.Position
		holds := l.book.Holds(&p.Holder)
		if holds && !applied && !c.Confirmed {
			c.Slow = append(c.Slow, Pending{
				Process: p.id.process, Name: p.name(), Key: p.id.key, Applied: p.Applied(),
				Until: wallAt(now, p.Until()+l.cfg.Lease.Margin()),
			})
		}
		if p.own {
			continue
		}
		if holds && applied {
			c.Applied++
		}
		c.StaleRoutes += p.routes
		if !holds && !applied && p.mayAccept(now) {
			c.Accepting += p.routes
		}
	}
	c.Pending = len(c.Slow)
	slices.SortFunc(c.Slow, func(a, b Pending) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Process, b.Process))
	})
	c.Slow = c.Slow[:min(len(c.Slow), maxSlow)]
}

// wallAt returns what the wall clock shows when the monotonic one shows at.
func wallAt(now lease.Moment, at time.Duration) time.Time {
	return time.Unix(0, now.Wall).Add(at - now.Mono)
}
