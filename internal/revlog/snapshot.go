package revlog

import (
	"time"

	"github.com/gobwas/ws"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/revset"
)

// snapshotRecords is how many records one part of a snapshot holds: 64 KiB.
const snapshotRecords = 64 << 10 / feed.RecordSize

// snapshot is the live set as frames, and the mark that it stands for. It is
// never changed, and shared by all who join at about the same time.
type snapshot struct {
	parts [][]byte
	mark  feed.Mark
	taken time.Time
}

// current returns a snapshot from which the ring still goes on.
func (l *Log) current() *snapshot {
	l.setMu.Lock()
	defer l.setMu.Unlock()
	l.mu.Lock()
	head := l.ring.head
	fresh := false
	if l.snapshot != nil {
		cursor, ok := l.find(l.snapshot.mark)
		fresh = ok && l.ring.end-cursor <= uint64(l.cfg.BufferBytes/2)
	}
	l.mu.Unlock()
	if !fresh {
		l.snapshot = &snapshot{parts: encodeSet(l.set), mark: head, taken: time.Now()}
	}
	return l.snapshot
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
