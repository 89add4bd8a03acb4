package revset

import (
	"errors"
	"iter"
	"math/rand/v2"
	"sync/atomic"
)

// ErrFull says that a set would exceed its limit. It no longer holds all that
// it was given, so its owner must refuse tokens until it has a complete one.
var ErrFull = errors.New("revocation set is full: raise its limit")

// Shards is how many parts a set has. A key's own bits decide which it is in.
const Shards = shardCount

const (
	defaultLimit = 16_000_000
	shardCount   = 128
	changeCount  = 1 << 12
)

// Set holds the merged record of every key, exactly: all 128 bits of a key
// are compared. One goroutine at a time may write (Apply, Forget); any number
// may call the other methods meanwhile, which take no lock and never wait, and
// of which Lookup allocates nothing.
//
// A large set takes less than 30 bytes an entry, and some 18 more where
// NotBefore is used. It grows one shard of 128 at a time.
type Set struct {
	shards  [shardCount]atomic.Pointer[table]
	changes [changeCount]atomic.Uint64 // when a key of each kind was last applied

	_      [64]byte // what readers use above stays apart from what changes below
	limit  int
	count  int    // of entries
	latest uint64 // greatest Before seen that is a position
	next   int    // shard at which Forget goes on

	versions [shardCount]atomic.Uint64 // of the shards
	length   atomic.Int64              // count as others see it
	position atomic.Uint64
}

// New returns an empty set at position 0 that will hold at most limit entries,
// or 16 million where limit is not positive.
func New(limit int) *Set {
	if limit <= 0 {
		limit = defaultLimit
	}
	s := &Set{limit: limit}
	empty := &table{seed: rand.Uint64() | 1}
	for i := range s.shards {
		s.shards[i].Store(empty)
	}
	return s
}

func shardOf(k *Key) int { return int(k[0]) % shardCount }

// Group is one of the groups that keys fall into, by which [Set.Changed] tells
// of changes.
type Group uint16

// GroupOf returns the group of a key. It is the same in every set.
func GroupOf(k *Key) Group { return (Group(k[1])<<8 | Group(k[2])) % changeCount }

// Apply merges the records into the set and then publishes position: who
// loads that position finds all of them. Records may come in any order and
// more than once.
//
// The only error is ErrFull. The position is then unchanged, while the set
// holds an unspecified part of the records.
func (s *Set) Apply(records []Record, position uint64) error {
	s.reserve(records)
	defer func() { s.length.Store(int64(s.count)) }()
	for i := range records {
		r := &records[i]
		if err := s.put(r); err != nil {
			return err
		}
		if c := &s.changes[GroupOf(&r.Key)]; c.Load() != position {
			c.Store(position)
		}
	}
	s.position.Store(position)
	return nil
}

// reserve makes room for all records at once, each taken for a new entry,
// which spares a snapshot most of the rebuilding.
func (s *Set) reserve(records []Record) {
	var more [shardCount]room
	for i := range records {
		r := &records[i]
		m := &more[shardOf(&r.Key)]
		m.entries++
		if r.NotBefore != 0 {
			m.wides++
		}
		if r.Before != Forever {
			s.latest = max(s.latest, r.Before)
		}
	}
	for i, m := range more {
		if m.entries > 0 {
			s.grow(i, m)
		}
	}
}

// grow sees to it that shard i has room for more.
func (s *Set) grow(i int, more room) {
	if t := s.shards[i].Load(); !t.has(more) {
		s.shards[i].Store(t.rebuild(0, s.latest, t.step(more)))
	}
}

func (s *Set) put(r *Record) error {
	shard := shardOf(&r.Key)
	t := s.shards[shard].Load()
	if s.count >= s.limit && t.find(&r.Key) == nil {
		return ErrFull
	}
	count := t.count
	if !t.put(r) {
		// It takes a wide that was not foreseen: its Before is far below the
		// latest, or its entry has a NotBefore already.
		s.grow(shard, room{entries: 1, wides: 1})
		t = s.shards[shard].Load()
		t.put(r)
	}
	s.count += t.count - count
	s.versions[shard].Add(1)
	return nil
}

// Position returns the position that was published last. A reader that wants
// to know up to where its look-ups are complete loads it before them.
func (s *Set) Position() uint64 { return s.position.Load() }

// Changed returns a position up to which the entries of a group stand as they
// do now, in as far as a reader needs to know: who found nothing of a key at a
// position that is not less still would. It takes no search in a large table.
// Positions must have grown with every Apply.
func (s *Set) Changed(g Group) uint64 { return s.changes[g].Load() }

// Len returns the number of entries.
func (s *Set) Len() int { return int(s.length.Load()) }

// Lookup returns the greatest Before and NotBefore of the records with key k,
// together as they stood at one moment, and whether there is any.
func (s *Set) Lookup(k Key) (before uint64, notBefore uint32, ok bool) {
	t := s.shards[shardOf(&k)].Load()
	e := t.find(&k)
	if e == nil {
		return 0, 0, false
	}
	before, notBefore = t.decode(atomic.LoadUint64(&e.meta))
	return before, notBefore, true
}

// Forget drops entries whose Forget lies before now and returns how many. It
// works on whole shards, goes on where the last call stopped, and ends after
// a round or once it has looked at budget entries; so the work of a call is
// bounded by budget and one shard. Whatever the budget, calls enough drop all.
func (s *Set) Forget(now uint32, budget int) (dropped int) {
	for range shardCount {
		if budget <= 0 {
			break
		}
		shard, version := &s.shards[s.next], &s.versions[s.next]
		s.next = (s.next + 1) % shardCount
		t := shard.Load()
		budget--
		if t.count == 0 || t.oldest >= now {
			continue
		}
		budget -= t.count
		rest := t.rebuild(now, s.latest, room{})
		shard.Store(rest)
		version.Add(1)
		dropped += t.count - rest.count
	}
	s.count -= dropped
	s.length.Store(int64(s.count))
	return dropped
}

// All calls yield with every entry until it returns false: those that the set
// has all the while, each once, and such as come, change or go meanwhile
// perhaps. The set keeps no positions of its entries: the records have
// Position 1.
func (s *Set) All(yield func(Record) bool) {
	for r := range s.Range(0, Shards) {
		if !yield(r) {
			return
		}
	}
}

// Range returns the entries of the shards from first up to, not including, last,
// as [Set.All] has them.
func (s *Set) Range(first, last int) iter.Seq[Record] {
	return func(yield func(Record) bool) {
		for i := first; i < last; i++ {
			t := s.shards[i].Load()
			for e := range t.all() {
				if !yield(t.record(e)) {
					return
				}
			}
		}
	}
}

// Version returns a number that rises after each change of the shards from
// first up to, not including, last. Who reads it and then their entries has
// what he would find as long as it is the same.
func (s *Set) Version(first, last int) (version uint64) {
	for i := first; i < last; i++ {
		version += s.versions[i].Load()
	}
	return version
}

// Bytes returns the memory that the entries take, free slots included.
func (s *Set) Bytes() (n int) {
	for i := range s.shards {
		n += s.shards[i].Load().bytes()
	}
	return n
}
