package sqlite

import (
	"context"
	"slices"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revset"
)

// maxRecent is how many records at the end of the log are kept in memory, and
// up to twice as many before the older half is let go.
const maxRecent = 2048

// recent is the end of the log. Appending leaves a copy made before it as it
// is: the two may share memory, but each reads only up to its own length.
type recent struct {
	before  feed.Mark // of the first record
	records []revset.Record
	digests []feed.Digest
}

func (r *recent) append(rec revset.Record, d feed.Digest) {
	if drop := len(r.records) - maxRecent; drop >= maxRecent {
		r.before = feed.Mark{Position: r.records[drop-1].Position, Digest: r.digests[drop-1]}
		r.records, r.digests = slices.Clone(r.records[drop:]), slices.Clone(r.digests[drop:])
	}
	r.records, r.digests = append(r.records, rec), append(r.digests, d)
}

// mark returns the mark that is n records in.
func (r *recent) mark(n int) feed.Mark {
	if n == 0 {
		return r.before
	}
	return feed.Mark{Position: r.records[n-1].Position, Digest: r.digests[n-1]}
}

// Tail implements [issuer.Store]. Nobody else writes the file, so what the
// writer published at its last commit is what the file has.
func (s *Store) Tail(ctx context.Context, after feed.Mark, limit int) (issuer.Tail, error) {
	if err := ctx.Err(); err != nil {
		return issuer.Tail{}, err
	}
	if l := s.published.Load(); l != nil {
		if t, ok := l.tail(after.Position, limit); ok {
			return t, nil
		}
	}
	var t issuer.Tail
	err := s.View(ctx, func(r issuer.Reader) (err error) {
		t, err = readTail(r, after.Position, limit)
		return err
	})
	return t, err
}

// tail answers Tail from memory where it can. It does not where records are
// asked for that are not in memory, nor where the position lies beyond the
// end: a view may have shown a commit that is about to be published.
func (l *ledger) tail(after uint64, limit int) (issuer.Tail, bool) {
	t := issuer.Tail{Log: l.log, SigningKeys: l.keys, Nodes: l.nodes}
	switch {
	case after > l.log.Head.Position:
		return t, false
	case after < l.log.Pruned.Position:
		return t, true
	case after < l.recent.before.Position:
		return t, false
	}
	from := int(after - l.recent.before.Position)
	to := from + min(max(limit, 0), len(l.recent.records)-from)
	t.At, t.Mark, t.Records = l.recent.mark(from), l.recent.mark(to), l.recent.records[from:to:to]
	return t, true
}

func readTail(r issuer.Reader, after uint64, limit int) (t issuer.Tail, err error) {
	if t.Log, err = r.Log(); err != nil {
		return t, err
	}
	if t.SigningKeys, err = r.SigningKeys(); err != nil {
		return t, err
	}
	if t.Nodes, err = r.Nodes(); err != nil {
		return t, err
	}
	if after < t.Log.Pruned.Position || after > t.Log.Head.Position {
		return t, nil
	}
	if t.At, err = r.MarkAt(after); err != nil {
		return t, err
	}
	t.Records, t.Mark, err = r.Records(after, limit)
	return t, err
}

// publish makes what was committed last known to Tail. It comes before the
// answers to those who committed it.
func (s *Store) publish() {
	l := s.state
	s.published.Store(&l)
}
