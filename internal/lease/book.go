package lease

import (
	"math"
	"slices"
	"time"
)

// Book is what a node knows of the leases that it has granted. Its floor is a
// position that the node and every holder of a lease has applied: nobody who
// relies on this node accepts what was revoked up to there.
//
// A Book is not safe for concurrent use. All that it is told must be in the
// order in which it became true.
type Book struct {
	length   Length
	held     bool      // the floor is kept down
	begun    bool      // there was a renewal
	renewals []renewal // newest last
	read     uint64
	floor    uint64
	holders  map[*Holder]struct{} // those that hold a lease
	levels   levels               // what they have applied
}

// renewal is a transaction that renewed the node's row and read the log.
type renewal struct {
	began Moment
	head  uint64
}

// Holder is a verifier's process, across its connections.
type Holder struct {
	applied uint64
	grants  []grant
}

// grant is what one connection was told last.
type grant struct {
	connection uint64
	until      time.Duration
}

// NewBook returns the book of a node that has renewed nothing yet and so can
// grant nothing.
func NewBook(l Length) *Book {
	return &Book{length: l, holders: map[*Holder]struct{}{}}
}

// Applied returns what the holder has confirmed.
func (h *Holder) Applied() uint64 { return h.applied }

// Until returns when the holder's lease ends, by the clock of its grants; zero
// where it has none.
func (h *Holder) Until() (until time.Duration) {
	for _, g := range h.grants {
		until = max(until, g.until)
	}
	return until
}

// Renewed notes a renewal that began at a moment, before its transaction did,
// and found the log's head. The first one must have begun after the row was
// committed, or a node that looks for rows could miss this one and its leases.
func (b *Book) Renewed(began Moment, head uint64) {
	if !b.begun && !b.held {
		b.floor = head
	}
	b.begun = true
	b.trim(began)
	if n := len(b.renewals); n > 0 && b.renewals[n-1].head == head {
		b.renewals[n-1].began = began
		return
	}
	b.renewals = append(b.renewals, renewal{began, head})
}

// Hold keeps the floor at 0 until Release, for a node that has forgotten what
// it granted before: nobody must take it for one that owes nothing. It is
// called first.
func (b *Book) Hold() { b.held = true }

// Release ends what Hold began.
func (b *Book) Release() {
	b.held = false
	b.settle()
}

// Held reports whether the floor is kept down.
func (b *Book) Held() bool { return b.held }

// Read notes that the node itself has the log up to a position, for all who
// connect.
func (b *Book) Read(head uint64) {
	b.read = max(b.read, head)
	b.settle()
}

// Floor returns the floor. It only rises.
func (b *Book) Floor() uint64 { return b.floor }

// Acknowledge notes that h has applied the log up to a position. It returns
// what h had before; positions that it had already change nothing.
func (b *Book) Acknowledge(h *Holder, position uint64) (before uint64) {
	before = h.applied
	if position <= before {
		return before
	}
	h.applied = position
	if b.Holds(h) {
		b.levels.remove(before)
		b.levels.add(position)
		b.settle()
	}
	return before
}

// Grant extends what h may rely on by the connection and returns for how long,
// counted from now or from any moment before; 0: no longer than before. It is a
// lease from the beginning of the last renewal whose head h has applied, so one
// that lags runs out by itself, and whoever lacks a record is stale one lease
// after the record's commit. Below the floor nothing is granted: somebody may
// have been told already that nobody is there.
func (b *Book) Grant(h *Holder, connection uint64, now Moment) time.Duration {
	b.trim(now)
	i := b.latest(h.applied)
	if h.applied < b.floor || i < 0 {
		return 0
	}
	until := b.renewals[i].began.Mono + time.Duration(b.length)
	h.extend(connection, until)
	if !b.Holds(h) {
		b.holders[h] = struct{}{}
		b.levels.add(h.applied)
		b.settle()
	}
	return until - now.Mono
}

// trim drops the renewals that grant nothing any more: they began a lease ago,
// or the machine has slept since.
func (b *Book) trim(now Moment) {
	b.renewals = slices.DeleteFunc(b.renewals, func(r renewal) bool {
		return now.Mono-r.began.Mono >= time.Duration(b.length) || b.length.Slept(r.began, now)
	})
}

// latest returns the last renewal whose head is at or below a position, -1
// where there is none.
func (b *Book) latest(position uint64) int {
	for i := len(b.renewals) - 1; i >= 0; i-- {
		if b.renewals[i].head <= position {
			return i
		}
	}
	return -1
}

func (h *Holder) extend(connection uint64, until time.Duration) {
	for i := range h.grants {
		if g := &h.grants[i]; g.connection == connection {
			g.until = max(g.until, until)
			return
		}
	}
	h.grants = append(h.grants, grant{connection, until})
}

// Holds reports whether h holds a lease.
func (b *Book) Holds(h *Holder) bool {
	_, ok := b.holders[h]
	return ok
}

// Return takes back what h was granted on a connection, because h relies on it
// no longer, and nothing else. It reports whether h holds no lease any more
// where it held one.
func (b *Book) Return(h *Holder, connection uint64) (ended bool) {
	return b.drop(h, func(g grant) bool { return g.connection == connection })
}

// Expire drops what ended a margin ago or earlier and returns the holders that
// hold no lease any more.
func (b *Book) Expire(now Moment) (ended []*Holder) {
	for h := range b.holders {
		if b.drop(h, func(g grant) bool { return g.until+b.length.Margin() <= now.Mono }) {
			ended = append(ended, h)
		}
	}
	return ended
}

func (b *Book) drop(h *Holder, over func(grant) bool) (ended bool) {
	h.grants = slices.DeleteFunc(h.grants, over)
	if len(h.grants) > 0 || !b.Holds(h) {
		return false
	}
	delete(b.holders, h)
	b.levels.remove(h.applied)
	b.settle()
	return true
}

// Len returns how many hold a lease.
func (b *Book) Len() int { return len(b.holders) }

func (b *Book) settle() {
	if !b.held {
		b.floor = max(b.floor, min(b.read, b.levels.lowest()))
	}
}

// levels counts the holders at each position. Records go out in batches, so
// that however many holders there are, they stand at few positions.
type levels []level // lowest first

type level struct {
	position uint64
	holders  int
}

// lowest returns the lowest position, and more than any where there is none.
func (s levels) lowest() uint64 {
	if len(s) == 0 {
		return math.MaxUint64
	}
	return s[0].position
}

func (s levels) find(position uint64) (int, bool) {
	return slices.BinarySearchFunc(s, position, func(l level, p uint64) int {
		switch {
		case l.position < p:
			return -1
		case l.position > p:
			return 1
		}
		return 0
	})
}

func (s *levels) add(position uint64) {
	i, ok := s.find(position)
	if !ok {
		*s = slices.Insert(*s, i, level{position: position})
	}
	(*s)[i].holders++
}

func (s *levels) remove(position uint64) {
	i, _ := s.find(position)
	if (*s)[i].holders--; (*s)[i].holders == 0 {
		*s = slices.Delete(*s, i, i+1)
	}
}
