package quash

import (
	"hash/maphash"
	"math"
	"math/bits"
	"sync/atomic"

	"github.com/quashdev/quash/internal/revset"
)

const (
	// ways is how many slots a token may stand in.
	ways = 4
	// entryBytes is what an entry takes beside its strings and keys: its
	// struct, the allocator's rounding, and its share of the slots.
	entryBytes = 384
	// nowhere is no position of a log.
	nowhere = math.MaxUint64
)

// entry is a token whose signature and claims were found good under one
// generation of the state. Whether it has expired or was revoked is asked
// again each time.
type entry struct {
	hash       uint64
	expires    int64 // Unix nanoseconds
	generation uint64
	position   atomic.Uint64 // of the set when the token was last found alive
	keys       []revset.Key
	claims     Claims
}

func (e *entry) bytes() int64 {
	if e == nil {
		return 0
	}
	c := &e.claims
	n := entryBytes + len(c.token) + len(c.Subject) + len(c.Client) + len(c.Session) + len(c.ID) + len(revset.Key{})*len(e.keys)
	for _, a := range c.Audience {
		n += 16 + len(a)
	}
	return int64(n)
}

// cache keeps entries by their whole token, in bounded memory. A token's hash
// says in which ways slots it may stand; it says no more, so the tokens are
// compared. All methods may be called concurrently; none waits.
type cache struct {
	seed  maphash.Seed
	slots []atomic.Pointer[entry]
	mask  uint64 // of sets of slots
	limit int64
	bytes atomic.Int64
	hand  atomic.Uint64 // slot that is emptied next when there is too much
}

func newCache(limit int) *cache {
	// Twice the slots that small tokens could fill, so that the bound in
	// bytes is met before tokens push each other out.
	sets := uint64(1) << bits.Len(uint(limit/(ways*768)))
	return &cache{seed: maphash.MakeSeed(), slots: make([]atomic.Pointer[entry], sets*ways), mask: sets - 1, limit: int64(limit)}
}

func (c *cache) set(hash uint64) []atomic.Pointer[entry] {
	return c.slots[(hash&c.mask)*ways:][:ways]
}

// get returns the token's entry, or nil, and the token's hash.
func (c *cache) get(token string) (*entry, uint64) {
	hash := maphash.String(c.seed, token)
	set := c.set(hash)
	for i := range set {
		if e := set[i].Load(); e != nil && e.hash == hash && e.claims.token == token {
			return e, hash
		}
	}
	return nil, hash
}

// put keeps e under its hash, and empties slots until the bound holds again.
func (c *cache) put(e *entry, now int64) {
	old := c.victim(e, now).Swap(e)
	c.bytes.Add(e.bytes() - old.bytes())
	for c.bytes.Load() > c.limit {
		i := c.hand.Add(1) % uint64(len(c.slots))
		c.bytes.Add(-c.slots[i].Swap(nil).bytes())
	}
}

// victim returns the slot for e: its own, else an empty one, else that of a
// token that is of no more use, else any.
func (c *cache) victim(e *entry, now int64) *atomic.Pointer[entry] {
	set := c.set(e.hash)
	victim, empty := &set[e.hash>>62], false
	for i := range set {
		switch o := set[i].Load(); {
		case o == nil:
			victim, empty = &set[i], true
		case o.hash == e.hash && o.claims.token == e.claims.token:
			return &set[i]
		case !empty && (o.generation != e.generation || o.expires <= now):
			victim = &set[i]
		}
	}
	return victim
}
