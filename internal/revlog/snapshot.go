package revlog

import (
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
	parts      [][]byte
	mark       feed.Mark
	taken      time.Time
}

// current returns a snapshot from which the ring still goes on. Encoding a
// large set takes long; the log goes on meanwhile, and only those who join
// wait.
func (l *Log) current() *snapshot {
	l.encoding.Lock()
	defer l.encoding.Unlock()
	kept := l.snapshot.Load()
	l.mu.Lock()
	set, fresh := l.set, &snapshot{generation: l.generation, mark: l.ring.head, taken: time.Now()}
	good := kept != nil && kept.generation == l.generation && l.leadsOn(kept.mark)
	l.mu.Unlock()
	if good {
		return kept
	}
	fresh.parts = encodeSet(set)
	l.snapshot.Store(fresh)
	return fresh
}

// leadsOn says whether the ring goes on from m and will for a while. The
// caller holds mu.
func (l *Log) leadsOn(m feed.Mark) bool {
	cursor, ok := l.find(m)
	return ok && l.ring.end-cursor <= uint64(l.cfg.BufferBytes/2)
}

func encodeSet(set *revset.Set) [][]byte {
	var parts [][]byte
	batch := make([]revset.Record, 0, snapshotRecords)
	flush := func() {
		part := appendHeader(nil, ws.OpBinary, 1+len(batch)*feed.RecordSize)
		parts = append(parts, feed.AppendSnapshot(part, batch))
		batch = batch[:0]
	}
	for r := range set.All {
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
