package revset

import (
	"encoding/binary"
	"iter"
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"unsafe"
)

const (
	groupSlots = 8
	everySlot  = 0x0101010101010101
	overflowed = 1 << 63 // in a group's tags: an entry was placed beyond it

	fullNum, fullDen = 11, 12 // a table with so many of its slots taken is full

	// The first half of a slot's meta: a before as its distance from base, an
	// index of wides behind a flag, or all ones.
	window      = 1 << 31
	wideFlag    = 1 << 31
	foreverCode = 1<<32 - 1
)

// table holds the entries of one shard: open addressing in groups of eight
// slots, sorted by home but for what overflows into the groups that follow. A
// group's tags show which slots may have a key, and whether one that is not
// there may stand further on, so that most searches for an absent key end in
// their one word.
//
// Slots are taken from the first of a group on and never freed: a table
// without an entry is another table. The writer stores the tag last,
// atomically, and changes nothing of a taken slot but its meta, atomically.
// Before a table is published it is the writer's alone.
type table struct {
	seed  uint64   // odd
	base  uint64   // before that code 0 in meta stands for
	tags  []uint64 // one for each group: an octet for each slot, 0 where it is free
	slots []slot
	wides []wide

	_      [40]byte // what follows changes, and must not take the readers' cache lines away
	count  int      // slots taken
	used   int      // of wides, also by entries that have moved on to another
	oldest uint32   // no entry has a lesser Forget
	_      [44]byte // to whole cache lines, so that a search reads one of them
}

type slot struct {
	key  Key
	meta uint64 // 32 bits that stand for before and notBefore, 32 bits of forget
}

// wide is what does not fit in meta. It is never changed: an entry whose
// values change gets another one, so that readers see no mixture.
type wide struct {
	before    uint64
	notBefore uint32
}

// room is what a table has left, or must get.
type room struct {
	entries int
	wides   int
}

func (t *table) has(r room) bool {
	return (t.count+r.entries)*fullDen <= len(t.slots)*fullNum && t.used+r.wides <= len(t.wides)
}

// step returns more with what a growing table takes besides: little, to keep
// the memory close to what the entries need, but in proportion.
func (t *table) step(more room) room {
	return room{more.entries + t.count/16, more.wides + t.used/16 + min(t.used, t.count/64)}
}

// home returns the group in which the search for a key begins. The first
// octet has chosen the shard already. The seed differs from set to set, or
// else entries that come in the order of another set, as in a snapshot, would
// all begin in the same few groups.
func (t *table) home(k *Key) int {
	at, _ := bits.Mul64(binary.LittleEndian.Uint64(k[8:])*t.seed, uint64(len(t.tags)))
	return int(at)
}

// tag returns the octet that stands for k. Without its first bit, which the
// last of a group's slots does not have, it is at least 2, so that neither it
// nor a tag that differs from it in the last bit is that of a free slot.
func tag(k *Key) uint64 {
	t := uint64(k[7])
	if t&^0x80 < 2 {
		t |= 2
	}
	return t
}

// candidates marks, by its first bit, every octet of a group's tags that
// equals tag, and now and then one that differs in the last bit.
func candidates(tags, tag uint64) uint64 {
	x := (tags ^ tag*everySlot) &^ overflowed
	return (x - everySlot) &^ x & (0x80 * everySlot)
}

// taken returns how many slots of a group are taken.
func taken(tags uint64) int { return (bits.Len64(tags) + 7) / 8 }

// full tells whether the last of a group's slots, and so each, is taken.
func full(tags uint64) bool { return tags>>56 != 0 }

// find returns the slot of k, or nil.
func (t *table) find(k *Key) *slot {
	tag := tag(k)
	at := t.home(k)
	for range t.tags {
		tags := atomic.LoadUint64(&t.tags[at])
		for m := candidates(tags, tag); m != 0; m &= m - 1 {
			if s := &t.slots[at*groupSlots+bits.TrailingZeros64(m)/8]; s.key == *k {
				return s
			}
		}
		if tags&overflowed == 0 {
			return nil
		}
		if at++; at == len(t.tags) {
			at = 0
		}
	}
	return nil
}

// put merges r into its entry or adds one. It reports false, with the table
// as it was, where there is no room; a rebuilt table has it.
func (t *table) put(r *Record) bool {
	s := t.find(&r.Key)
	if s == nil {
		return t.add(r)
	}
	was := t.record(s)
	merged := was.Merge(*r)
	merged.Position = was.Position
	if merged == was {
		return true
	}
	meta, ok := t.encode(merged.Before, merged.NotBefore, merged.Forget)
	if ok {
		atomic.StoreUint64(&s.meta, meta)
	}
	return ok
}

func (t *table) add(r *Record) bool {
	if !t.has(room{entries: 1}) {
		return false
	}
	meta, ok := t.encode(r.Before, r.NotBefore, r.Forget)
	if !ok {
		return false
	}
	at, tags := t.place(slot{r.Key, meta})
	atomic.StoreUint64(&t.tags[at], tags)
	return true
}

// place fills the slot that is next for s and returns its group with the tags
// that are to be stored there. There is a free slot, by the bound on count.
func (t *table) place(s slot) (at int, tags uint64) {
	at = t.home(&s.key)
	for full(t.tags[at]) {
		if t.tags[at]&overflowed == 0 {
			atomic.StoreUint64(&t.tags[at], t.tags[at]|overflowed)
		}
		if at++; at == len(t.tags) {
			at = 0
		}
	}
	i := taken(t.tags[at])
	t.slots[at*groupSlots+i] = s
	if forget := uint32(s.meta); t.count == 0 || forget < t.oldest {
		t.oldest = forget
	}
	t.count++
	return at, t.tags[at] | tag(&s.key)<<(8*i)&^overflowed
}

// fits tells whether before and notBefore need no wide.
func (t *table) fits(before uint64, notBefore uint32) bool {
	return notBefore == 0 && (before == Forever || before-t.base < window)
}

// encode returns the meta of an entry, or false where it needs a wide and
// none is left.
func (t *table) encode(before uint64, notBefore, forget uint32) (meta uint64, ok bool) {
	code := before - t.base
	switch {
	case !t.fits(before, notBefore):
		if t.used == len(t.wides) {
			return 0, false
		}
		t.wides[t.used] = wide{before, notBefore}
		code = wideFlag | uint64(t.used)
		t.used++
	case before == Forever:
		code = foreverCode
	}
	return code<<32 | uint64(forget), true
}

func (t *table) decode(meta uint64) (before uint64, notBefore uint32) {
	code := meta >> 32
	switch {
	case code < window:
		return t.base + code, 0
	case code == foreverCode:
		return Forever, 0
	}
	w := &t.wides[code&^wideFlag]
	return w.before, w.notBefore
}

// record returns an entry.
func (t *table) record(s *slot) Record {
	meta := atomic.LoadUint64(&s.meta)
	before, notBefore := t.decode(meta)
	return Record{Position: 1, Key: s.key, Before: before, NotBefore: notBefore, Forget: uint32(meta)}
}

// all yields the taken slots.
func (t *table) all() iter.Seq[*slot] {
	return func(yield func(*slot) bool) {
		for at := range t.tags {
			group := t.slots[at*groupSlots:][:taken(atomic.LoadUint64(&t.tags[at]))]
			for i := range group {
				if !yield(&group[i]) {
					return
				}
			}
		}
	}
}

// rebuild returns a table of the entries that are not to be forgotten before
// now, with at least so much room for more. Befores around latest fit in its
// metas.
func (t *table) rebuild(now uint32, latest uint64, more room) *table {
	to := &table{seed: t.seed, base: latest - min(latest, window/2)}
	to.allot(t.need(to, now), more)
	for s := range t.all() {
		if uint32(s.meta) < now {
			continue
		}
		before, notBefore := t.decode(s.meta)
		meta, _ := to.encode(before, notBefore, uint32(s.meta))
		at, tags := to.place(slot{s.key, meta})
		to.tags[at] = tags
	}
	return to
}

// need returns what the entries that are not to be forgotten before now will
// take in to.
func (t *table) need(to *table, now uint32) (n room) {
	for s := range t.all() {
		if uint32(s.meta) < now {
			continue
		}
		n.entries++
		if !to.fits(t.decode(s.meta)) {
			n.wides++
		}
	}
	return n
}

// allot makes room for both and a little more, at random so that the shards
// do not all grow at the same time.
func (t *table) allot(need, more room) {
	entries, wides := need.entries+more.entries, need.wides+more.wides
	entries += rand.IntN(entries/16 + 1)
	wides += rand.IntN(wides/16 + 1)
	// Grow takes all of what the allocator would round up to.
	t.slots = slices.Grow([]slot(nil), entries*fullDen/fullNum+groupSlots)
	t.tags = make([]uint64, cap(t.slots)/groupSlots)
	t.slots = t.slots[:len(t.tags)*groupSlots]
	t.wides = make([]wide, wides)
}

func (t *table) bytes() int {
	return int(unsafe.Sizeof(*t)) +
		cap(t.slots)*int(unsafe.Sizeof(slot{})) +
		len(t.tags)*int(unsafe.Sizeof(uint64(0))) +
		len(t.wides)*int(unsafe.Sizeof(wide{}))
}
