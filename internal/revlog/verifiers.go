package revlog

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/quashdev/quash/internal/feed"
)

// Verifier is a connected verifier.
type Verifier struct {
	Process   string // random id of its process
	Name      string // what people call it
	Key       string // id of the key it presented
	Address   string // where it connects from
	Since     time.Time
	LastHeard time.Time // its last ping, or Since
	Applied   uint64    // what it has confirmed
	Sent      uint64    // what it was sent
}

// identity of a verifier: a process cannot speak for one with another key.
type identity struct{ key, process string }

// Verifiers returns the connected verifiers in the order of their names.
func (l *Log) Verifiers() []Verifier {
	l.mu.Lock()
	vs := make([]Verifier, 0, len(l.connections))
	for _, c := range l.connections {
		vs = append(vs, c.verifier)
	}
	l.mu.Unlock()
	slices.SortFunc(vs, func(a, b Verifier) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Process, b.Process))
	})
	return vs
}

// Applied returns how many of the connected verifiers have confirmed a
// position. It knows of no others.
func (l *Log) Applied(position uint64) (applied, connected int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.connections {
		if c.verifier.Applied >= position {
			applied++
		}
	}
	return applied, len(l.connections)
}

// wait is one call of WaitApplied.
type wait struct {
	position uint64
	pending  int // connected verifiers that have not applied it
	done     chan struct{}
}

// WaitApplied waits until every verifier connected at that moment has
// confirmed position, or ctx ends, and returns what [Log.Applied] does. It
// returns at once where none is connected.
func (l *Log) WaitApplied(ctx context.Context, position uint64) (applied, connected int) {
	w := &wait{position: position, done: make(chan struct{})}
	l.mu.Lock()
	l.waits[w] = struct{}{}
	for _, c := range l.connections {
		if c.verifier.Applied < position {
			w.pending++
		}
	}
	l.settle(w)
	l.mu.Unlock()
	select {
	case <-w.done:
	case <-ctx.Done():
	}
	l.mu.Lock()
	delete(l.waits, w)
	l.mu.Unlock()
	return l.Applied(position)
}

// settle ends a wait that nobody is pending of. The caller holds mu.
func (l *Log) settle(w *wait) {
	if w.pending == 0 {
		close(w.done)
		delete(l.waits, w)
	}
}

// confirm notes that c has applied position. The caller holds mu.
func (l *Log) confirm(c *connection, position uint64) {
	before := c.verifier.Applied
	if position <= before || l.connections[c.identity()] != c {
		return
	}
	c.verifier.Applied = position
	for w := range l.waits {
		if before < w.position && w.position <= position {
			w.pending--
			l.settle(w)
		}
	}
}

// pulse has the pings that were not answered with records answered soon,
// together. An acknowledgement that follows records at once is then no reason
// for a write of its own while the records are on their way to others. The
// caller holds mu.
func (l *Log) pulse() {
	if l.pulsing {
		return
	}
	l.pulsing = true
	time.AfterFunc(pulseDelay, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.pulsing = false
		for _, c := range l.fanout {
			if c.answers.pinged {
				c.answers.due = true
				c.rouse()
			}
		}
	})
}

// KeyWithdrawn ends the connections of a verifier key that is good no more.
func (l *Log) KeyWithdrawn(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.overlaps, key)
	l.dismissKey(key, "the verifier's key was withdrawn")
}

// KeyReplaced ends the connections of a verifier key that has a new secret:
// at once, and again about a second after until, when the old secret ends.
// They come back with one that is good.
func (l *Log) KeyReplaced(key string, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if delete(l.overlaps, key); time.Now().Before(until) {
		l.overlaps[key] = until
	}
	l.dismissKey(key, "the verifier's key was replaced")
}

// endOverlaps ends the connections that may rest on a secret that is over.
func (l *Log) endOverlaps() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, until := range l.overlaps {
		if !time.Now().Before(until) {
			delete(l.overlaps, key)
			l.dismissKey(key, "the secret before the last one has ended")
		}
	}
}

// dismissKey ends the connections of a key. The caller holds mu.
func (l *Log) dismissKey(key, why string) {
	for _, c := range l.connections {
		if c.verifier.Key == key {
			c.dismiss(feed.Bye{Code: feed.ByeKey, Detail: why})
		}
	}
}

// Reasons not to admit a connection.
var (
	errNotReady = errors.New("the node is not ready; connect again")
	errCrowded  = errors.New("the key has as many connections as it may; connect again later")
	errKey      = errors.New("the key has changed in this moment; connect again")
)

// admit makes c a connection of the log, or says why not. It replaces an older
// one of the same process.
func (l *Log) admit(c *connection) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	id := c.identity()
	older := l.connections[id]
	open := l.open[id.key]
	if older != nil {
		open--
	}
	switch {
	case l.stopping || l.generation != c.start.generation:
		return errNotReady
	case open >= l.cfg.ConnectionsPerKey:
		return errCrowded
	}
	if older != nil {
		l.remove(older)
		older.dismiss(feed.Bye{Code: feed.ByeReplaced, Detail: "the process opened a newer connection"})
	}
	l.open[id.key]++
	l.connections[id] = c
	l.fanout = append(slices.Clone(l.fanout), c)
	for w := range l.waits {
		if c.verifier.Applied < w.position {
			w.pending++
		}
	}
	l.done.Add(1)
	return nil
}

// release forgets a connection that is closed.
func (l *Log) release(c *connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.connections[c.identity()] == c {
		l.remove(c)
	}
	l.fanout = slices.DeleteFunc(slices.Clone(l.fanout), func(o *connection) bool { return o == c })
	key := c.verifier.Key
	if l.open[key]--; l.open[key] == 0 {
		delete(l.open, key)
	}
	l.done.Done()
}

// remove takes c out of those that count. The caller holds mu.
func (l *Log) remove(c *connection) {
	delete(l.connections, c.identity())
	for w := range l.waits {
		if c.verifier.Applied < w.position {
			w.pending--
			l.settle(w)
		}
	}
}

// dismissAll ends every connection. The caller holds mu.
func (l *Log) dismissAll(bye feed.Bye) {
	for _, c := range l.fanout {
		c.dismiss(bye)
	}
}

// stop ends every connection and returns when they are closed.
func (l *Log) stop() {
	l.mu.Lock()
	l.stopping = true
	l.dismissAll(feed.Bye{Code: feed.ByeStopping, Detail: "the node stops; connect again"})
	left := l.fanout
	l.mu.Unlock()
	force := time.AfterFunc(2*linger, func() {
		for _, c := range left {
			c.close()
		}
	})
	defer force.Stop()
	l.cancel()
	l.done.Wait()
}
