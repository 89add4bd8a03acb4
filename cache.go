package quash

import (
	"hash/maphash"
	"math"
	"math/bits"
	"sync/atomic"
	"unsafe"

	"github.com/quashdev/quash/internal/revset"
)

const (
	// ways is how many places a token may stand in: those of a cache line.
	ways = 4
	// entryBytes is what an entry takes beside what its text, audience and
	// keys take elsewhere: its struct, its share of the places, and the
	// allocator's rounding.
	entryBytes = int(unsafe.Sizeof(entry{})) + 128
	// nowhere is no position of a log.
	nowhere = math.MaxUint64
	// patience is how many tokens in use are passed over for one that is not.
	patience = 64
)

// entry is a token whose signature and claims were found good under one
// generation of the state. Whether it has expired or was revoked is asked
// again each time, of what stands first, in as few cache lines as may be.
type entry struct {
	expires    int64 // Unix nanoseconds
	generation uint64
	position   atomic.Uint64 // of the set when a key was last looked up, and the token found alive
	keys       []revset.Key
	groups     [fewKeys]revset.Group // of the first keys
	used       atomic.Bool           // since the token came, or was last passed over

	claims  Claims
	foreign *foreignIssuer // who made it; nil: Quash itself
	one     [1]string      // where claims.Audience stands unless it is more
	hash    uint64
	few     [fewKeys]revset.Key // where keys stands unless they are more
}

// fewKeys is as many as nearly every token has at most.
const fewKeys = 6

// group returns the group of one of the keys.
func (e *entry) group(i int) revset.Group {
	if i < len(e.groups) {
		return e.groups[i]
	}
	return revset.GroupOf(&e.keys[i])
}

func (e *entry) bytes() int64 {
	if e == nil {
		return 0
	}
	n := entryBytes + e.claims.textBytes()
	if len(e.keys) > len(e.few) {
		n += len(revset.Key{}) * cap(e.keys)
	}
	for _, a := range e.claims.Audience {
		n += 16 + len(a)
	}
	return int64(n)
}

// cache keeps entries by their whole token, in bounded memory. A token's hash
// says in which places it may stand; it says no more, so the tokens are
// compared. All methods may be called concurrently; none waits.
//
// What makes room goes by turns, but passes over tokens that were used since
// its last turn. A storm of tokens that are seen once drives itself out.
type cache struct {
	seed  maphash.Seed
	sets  []places
	limit int64
	bytes atomic.Int64
	hand  atomic.Uint64 // place that is emptied next when there is too much
}

// places is a set of them, in one cache line. The hashes spare looking at
// entries in vain; one that has not caught up with its entry costs a
// verification.
type places struct {
	hashes  [ways]atomic.Uint64
	entries [ways]atomic.Pointer[entry]
}

func newCache(limit int) *cache {
	// A set for each KiB of the bound, which a small token takes, or up to twice
	// as many. Of tokens that fill it then, not one in two hundred finds its
	// places taken; each that does costs a signature every time.
	sets := 1 << bits.Len(uint(max(limit, 1)-1)/1024)
	return &cache{seed: maphash.MakeSeed(), sets: make([]places, sets), limit: int64(limit)}
}

func (c *cache) places(hash uint64) *places { return &c.sets[hash&uint64(len(c.sets)-1)] }

// get returns the token's entry, or nil, and the token's hash.
func (c *cache) get(token string) (*entry, uint64) {
	hash := maphash.String(c.seed, token)
	p := c.places(hash)
	for i := range p.hashes {
		if p.hashes[i].Load() != hash {
			continue
		}
		if e := p.entries[i].Load(); e != nil && e.claims.token == token {
			if !e.used.Load() {
				e.used.Store(true)
			}
			return e, hash
		}
	}
	return nil, hash
}

// put keeps e under its hash, and empties places until the bound holds again.
func (c *cache) put(e *entry, now int64) {
	p := c.places(e.hash)
	i := p.victim(e, now)
	old := p.entries[i].Swap(e)
	p.hashes[i].Store(e.hash)
	c.bytes.Add(e.bytes() - old.bytes())
	for passed := 0; c.bytes.Load() > c.limit; {
		at := c.hand.Add(1)
		place := &c.sets[at/ways%uint64(len(c.sets))].entries[at%ways]
		old := place.Load()
		if old == nil {
			continue
		}
		if passed < patience && old.used.Swap(false) {
			passed++
			continue
		}
		if place.CompareAndSwap(old, nil) {
			c.bytes.Add(-old.bytes())
		}
	}
}

// victim returns the place for e: its own, else an empty one, else that of a
// token that is of no more use, else of one that was not used, else any.
func (p *places) victim(e *entry, now int64) int {
	victim, least := int(e.hash>>62), inUse
	for i := range p.entries {
		o := p.entries[i].Load()
		if o != nil && o.hash == e.hash && o.claims.token == e.claims.token {
			return i
		}
		if w := o.worth(e.generation, now); w < least {
			victim, least = i, w
		}
	}
	if least == inUse {
		for i := range p.entries {
			if o := p.entries[i].Load(); o != nil {
				o.used.Store(false)
			}
		}
	}
	return victim
}

// What an entry is worth.
const (
	empty = iota
	dead
	unused
	inUse
)

func (e *entry) worth(generation uint64, now int64) int {
	switch {
	case e == nil:
		return empty
	case e.generation != generation || e.expires <= now:
		return dead
	case !e.used.Load():
		return unused
	}
	return inUse
}
