package revlog

import (
	"cmp"
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/lease"
)

// Verifier is one that is connected, or that may still rely on what this node
// granted it.
type Verifier struct {
	Process   string // random id of its process
	Name      string // what people call it
	Key       string // id of the key it presented
	Address   string // where it connects from
	Since     time.Time
	LastHeard time.Time // its last ping, or Since
	Applied   uint64    // what it has confirmed
	Sent      uint64    // what it was sent

	Connected bool
	Lease     time.Duration // how long it may yet rely on this node's leases; 0: it has none
	Routes    int           // that accept tokens when it is stale
	Tolerance time.Duration // for how long at most they do
}

// identity of a verifier: a process cannot speak for one with another key.
type identity struct{ key, process string }

// process is a verifier's process, from its first connection until it has
// neither a connection nor a lease, nor routes that may accept without. The
// mutex of the log guards it.
type process struct {
	lease.Holder
	id     identity
	own    bool        // the server's own
	conn   *connection // the newest; nil where it is closed
	last   Verifier    // as the connection before left it
	number uint32      // in the evidence; 0: none yet

	routes    int
	tolerance time.Duration
	lost      time.Duration // when its lease ended, if it has none; 0: it never had one, or gave it back
}

// forget drops what a node that starts over must not count on.
func (p *process) forget() {
	if until := p.Until(); until > 0 {
		p.lost = until
	}
	p.Holder, p.number = lease.Holder{}, 0
}

func (p *process) state() Verifier {
	if p.conn != nil {
		return p.conn.verifier
	}
	return p.last
}

func (p *process) name() string { return p.state().Name }

// mayAccept says whether a route of p may accept tokens though its lease ended.
func (p *process) mayAccept(now lease.Moment) bool {
	return p.routes > 0 && p.lost != 0 && now.Mono < p.lost+p.tolerance
}

// named returns p as the evidence names it.
func (p *process) named(node string) issuer.Verifier {
	v := p.state()
	return issuer.Verifier{Node: node, Number: p.number, Process: p.id.process, Name: v.Name, Key: p.id.key, Address: v.Address, Since: v.Since}
}

// Verifiers returns the verifiers in the order of their names, but not the
// server's own.
func (l *Log) Verifiers() []Verifier {
	l.mu.Lock()
	now := l.cfg.Clock()
	vs := make([]Verifier, 0, len(l.processes))
	for _, p := range l.processes {
		if p.own {
			continue
		}
		v := p.state()
		v.Applied, v.Connected, v.Routes, v.Tolerance = p.Applied(), p.conn != nil, p.routes, p.tolerance
		v.Lease = max(p.Until()-now.Mono, 0)
		vs = append(vs, v)
	}
	l.mu.Unlock()
	slices.SortFunc(vs, func(a, b Verifier) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Process, b.Process))
	})
	return vs
}

// confirm notes that the process of c has applied the log up to a position. The
// caller holds mu.
func (l *Log) confirm(c *connection, position uint64) {
	p := c.process
	if c.start.generation != l.generation {
		return // it speaks of another log, or of one that was cut
	}
	held := l.book.Holds(&p.Holder)
	before := l.book.Acknowledge(&p.Holder, position)
	if position <= before {
		return
	}
	if held {
		l.ended(p, issuer.Confirmed, before, position)
	}
	l.raise()
	if len(l.peers) > 0 {
		l.settle() // p may be who was waited for on behalf of a node that ended
	}
}

// ended notes for the evidence how it ended with p, for what was sent after one
// position and up to another. The caller holds mu.
func (l *Log) ended(p *process, end issuer.End, after, upTo uint64) {
	if p.number != 0 {
		l.evidence.note(p.number, end, after, upTo, l.cfg.Clock())
	}
}

// grant returns for how long the verifier may rely on what it has, counted from
// the ping that is answered. The caller holds mu.
func (l *Log) grant(c *connection) time.Duration {
	p := c.process
	if c.bye != nil || l.stopping || c.start.generation != l.generation {
		return 0
	}
	rest := l.book.Grant(&p.Holder, c.id, l.cfg.Clock())
	if rest > 0 {
		p.lost = 0
		if p.number == 0 && !p.own {
			l.evidence.numbers++
			p.number = l.evidence.numbers
			l.evidence.named = append(l.evidence.named, p.named(l.row.ID))
		}
	}
	return rest
}

// goodbye takes back what the connection was granted, because the verifier
// relies on it no longer. The caller holds mu.
func (l *Log) goodbye(c *connection) {
	p := c.process
	if l.book.Return(&p.Holder, c.id) {
		p.routes = 0
		l.ended(p, issuer.Left, p.Applied(), math.MaxUint64)
		l.raise()
	}
}

// expire notes the leases that have ended.
func (l *Log) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lapse(l.cfg.Clock())
}

// lapse is expire for a caller that holds mu.
func (l *Log) lapse(now lease.Moment) {
	if l.book.Held() && now.Mono >= l.owed {
		l.book.Release()
	}
	ended := map[*lease.Holder]bool{}
	for _, h := range l.book.Expire(now) {
		ended[h] = true
	}
	for _, p := range l.processes {
		if ended[&p.Holder] {
			p.lost = now.Mono
			l.stats.Lost++
			l.ended(p, issuer.Lost, p.Applied(), math.MaxUint64)
			l.cfg.Logger.Warn("a verifier's lease has ended: it refuses tokens, but on routes that accept when stale",
				"verifier", p.name(), "process", p.id.process, "applied", p.Applied())
		}
		l.dismissProcess(p, now)
	}
	l.raise()
	l.settle()
}

// maxRemembered bounds how many processes are remembered only because a route
// of theirs may accept tokens still.
const maxRemembered = 10_000

// dismissProcess forgets a process that nothing depends on any more. The caller
// holds mu.
func (l *Log) dismissProcess(p *process, now lease.Moment) {
	crowded := len(l.processes) > len(l.fanout)+l.book.Len()+maxRemembered
	if p.conn == nil && !l.book.Holds(&p.Holder) && (crowded || !p.mayAccept(now)) {
		delete(l.processes, p.id)
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
	for _, c := range l.fanout {
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
	id := identity{c.verifier.Key, c.verifier.Process}
	p := l.processes[id]
	open := l.open[id.key]
	if p != nil && p.conn != nil {
		open--
	}
	switch {
	case l.stopping || l.generation != c.start.generation:
		return errNotReady
	case open >= l.cfg.ConnectionsPerKey:
		return errCrowded
	}
	if p == nil {
		p = &process{id: id, own: id.key == l.cfg.Own}
		l.processes[id] = p
	}
	if p.conn != nil {
		p.conn.dismiss(feed.Bye{Code: feed.ByeReplaced, Detail: "the process opened a newer connection"})
	}
	l.connections++
	c.id, c.process, p.conn = l.connections, p, c
	l.open[id.key]++
	l.fanout = append(slices.Clone(l.fanout), c)
	l.done.Add(1)
	return nil
}

// release forgets a connection that is closed. What its verifier was granted
// it may still rely on.
func (l *Log) release(c *connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := c.process; p.conn == c {
		p.conn, p.last = nil, c.verifier
		l.dismissProcess(p, l.cfg.Clock())
	}
	l.fanout = slices.DeleteFunc(slices.Clone(l.fanout), func(o *connection) bool { return o == c })
	key := c.verifier.Key
	if l.open[key]--; l.open[key] == 0 {
		delete(l.open, key)
	}
	l.done.Done()
}

// dismissAll ends every connection. The caller holds mu.
func (l *Log) dismissAll(bye feed.Bye) {
	for _, c := range l.fanout {
		c.dismiss(bye)
	}
}

// handover is how long at most a node that stops waits until its verifiers have
// moved to another.
const handover = 10 * time.Second

// stop ends every connection and returns when they are closed. Where there is
// another node, verifiers get the time to move there.
func (l *Log) stop() {
	l.mu.Lock()
	l.stopping = true
	l.linger = linger
	if !l.alone(l.cfg.Clock()) {
		l.linger = handover
	}
	patience := l.linger + linger
	l.dismissAll(feed.Bye{Code: feed.ByeStopping, Detail: "the node stops; connect again"})
	left := l.fanout
	l.mu.Unlock()
	force := time.AfterFunc(patience, func() {
		for _, c := range left {
			c.close()
		}
	})
	defer force.Stop()
	l.cancel()
	l.done.Wait()
}
