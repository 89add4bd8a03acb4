package revlog

import (
	"slices"
	"sort"

	"github.com/gobwas/ws"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/revset"
)

// ring holds the newest messages of the stream, each encoded once as a
// WebSocket frame. A place in the stream is an offset in bytes from its
// beginning; a connection holds one as its cursor.
//
// Bytes once appended never change, so what take returns may be written to a
// socket while the ring goes on: a segment that was dropped lives until its
// last reader is done with it.
type ring struct {
	limit    int // bytes of all segments, but for one large frame
	size     int
	segments []segment // oldest first
	end      uint64    // where the next frame goes
	head     feed.Mark // what the stream has said up to there
}

// segment is a contiguous part of the stream; no frame crosses its end.
type segment struct {
	start  uint64
	buf    []byte
	before feed.Mark // at start
	marks  []boundary
}

// boundary is the end of a frame of records.
type boundary struct {
	end  uint64
	mark feed.Mark
}

func (s *segment) after() feed.Mark {
	if len(s.marks) == 0 {
		return s.before
	}
	return s.marks[len(s.marks)-1].mark
}

func newRing(limit int, head feed.Mark, end uint64) *ring {
	return &ring{limit: limit, head: head, end: end}
}

// message appends one message that moves no position.
func (r *ring) message(payload []byte) {
	s := r.room(frameSize(len(payload)))
	s.buf = appendFrame(s.buf, ws.OpBinary, payload)
	r.end = s.start + uint64(len(s.buf))
}

// records appends the records that end at m as one message.
func (r *ring) records(m feed.Mark, records []revset.Record) {
	s := r.room(frameSize(recordsSize(len(records))))
	s.buf = appendRecords(s.buf, m, records)
	r.end = s.start + uint64(len(s.buf))
	r.head = m
	s.marks = append(s.marks, boundary{r.end, m})
}

// room returns the newest segment with at least n bytes to spare.
func (r *ring) room(n int) *segment {
	if last := len(r.segments) - 1; last >= 0 {
		if s := &r.segments[last]; cap(s.buf)-len(s.buf) >= n {
			return s
		}
	}
	n = max(n, min(r.limit/16, 64<<10))
	drop := 0
	for ; drop < len(r.segments) && r.size+n > r.limit; drop++ {
		r.size -= cap(r.segments[drop].buf)
	}
	r.segments = slices.Delete(r.segments, 0, drop)
	r.segments = append(r.segments, segment{start: r.end, buf: make([]byte, 0, n), before: r.head})
	r.size += n
	return &r.segments[len(r.segments)-1]
}

// take returns the bytes that follow a cursor, as many as lie together, and
// the mark that they end at. It reports false when the ring no longer holds
// them.
func (r *ring) take(cursor uint64) ([]byte, feed.Mark, bool) {
	if cursor == r.end {
		return nil, r.head, true
	}
	for i := len(r.segments) - 1; i >= 0; i-- {
		if s := &r.segments[i]; s.start <= cursor {
			return s.buf[cursor-s.start : len(s.buf) : len(s.buf)], s.after(), true
		}
	}
	return nil, feed.Mark{}, false
}

// find returns the cursor of whoever has everything up to m, if the ring
// reaches back so far and a frame ends there.
func (r *ring) find(m feed.Mark) (cursor uint64, ok bool) {
	if m == r.head {
		return r.end, true
	}
	i := sort.Search(len(r.segments), func(i int) bool { return r.segments[i].after().Position >= m.Position })
	if i == len(r.segments) {
		return 0, false
	}
	s := &r.segments[i]
	if s.before == m {
		return s.start, true
	}
	j := sort.Search(len(s.marks), func(j int) bool { return s.marks[j].mark.Position >= m.Position })
	if j == len(s.marks) || s.marks[j].mark != m {
		return 0, false
	}
	return s.marks[j].end, true
}
