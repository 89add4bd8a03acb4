package revlog

import (
	"iter"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/revset"
)

// snapshotRecords is how many records one part of a snapshot holds: 64 KiB.
const snapshotRecords = 64 << 10 / feed.RecordSize

// snapshot is the live set as frames, and the mark that it stands for: it has
// every live record up to there, and perhaps some of those that came while it
// was encoded. It is never changed, and shared by all who join at about the
// same time.
type snapshot struct {
	generation int
	set        *revset.Set
	blocks     []block
	mark       feed.Mark
	used       atomic.Int64 // when last, in Unix seconds
}

// block is the entries of some shards of the set as frames.
type block struct {
	version uint64 // of the shards, before they were encoded
	parts   [][]byte
}

// current returns a snapshot from which the ring still goes on. Encoding a
// large set takes long; the log goes on meanwhile, and only those who join
// wait, for one encoding. What did not change since the one before is not
// encoded again.
func (l *Log) current() *snapshot {
	l.encoding.Lock()
	defer l.encoding.Unlock()
	kept := l.snapshot.Load()
	l.mu.Lock()
	fresh := &snapshot{generation: l.generation, set: l.set, mark: l.ring.head}
	good := kept != nil && kept.generation == l.generation && l.leadsOn(kept.mark)
	l.mu.Unlock()
	now := time.Now().Unix()
	if good {
		kept.used.Store(now)
		return kept
	}
	var before []block
	if kept != nil && kept.set == fresh.set {
		before = kept.blocks
	}
	fresh.blocks = encodeSet(fresh.set, before)
	fresh.used.Store(now)
	l.snapshot.Store(fresh)
	return fresh
}

// leadsOn says whether the ring goes on from m and will for a while. The
// caller holds mu.
func (l *Log) leadsOn(m feed.Mark) bool {
	cursor, ok := l.find(m)
	return ok && l.ring.end-cursor <= uint64(l.cfg.BufferBytes/2)
}

// encodeSet takes the blocks that have not changed since before was encoded
// from there. A large set has a block for each shard; in a small one a block has
// as many as fill one part.
func encodeSet(set *revset.Set, before []block) []block {
	shards := revset.Shards
	for ; shards > 1 && set.Len()*shards > snapshotRecords*revset.Shards; shards /= 2 {
	}
	blocks := make([]block, revset.Shards/shards)
	batch := make([]revset.Record, 0, snapshotRecords)
	for i := range blocks {
		first, last := i*shards, (i+1)*shards
		version := set.Version(first, last)
		if len(before) == len(blocks) && before[i].version == version {
			blocks[i] = before[i]
			continue
		}
		blocks[i] = block{version, encode(set.Range(first, last), batch)}
	}
	return blocks
}

// encode makes parts of as many records as batch, which is empty, has room for.
func encode(records iter.Seq[revset.Record], batch []revset.Record) (parts [][]byte) {
	flush := func() {
		length := 1 + len(batch)*feed.RecordSize
		part := appendHeader(make([]byte, 0, ws.MaxHeaderSize+length), ws.OpBinary, length)
		parts = append(parts, feed.AppendSnapshot(part, batch))
		batch = batch[:0]
	}
	for r := range records {
		if batch = append(batch, r); len(batch) == cap(batch) {
			flush()
		}
	}
	if len(batch) > 0 {
		flush()
	}
	return parts
}

// find returns the cursor of whoever has everything up to m, if the ring can
// go on from there without repeating a claims or keys message that is older
// than hello. The caller holds mu.
func (l *Log) find(m feed.Mark) (uint64, bool) {
	cursor, ok := l.ring.find(m)
	return cursor, ok && cursor >= l.settled
}
