package revlog

import (
	"cmp"
	"context"
	"slices"
	"sort"
	"time"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/lease"
)

const (
	// recordEvery is how often evidence is written to the store.
	recordEvery = 250 * time.Millisecond
	// recordAtOnce is how many batches one transaction writes.
	recordAtOnce = 256
	// Beyond these bounds records are watched in larger batches: what is kept
	// of when a verifier confirmed them is then the time of the last of them.
	maxBatches  = 1024
	maxOutcomes = 1 << 20
)

// evidence notes when each holder of a lease confirmed what was sent, until it
// stands in the store. The mutex of the log guards it.
type evidence struct {
	batches  []*batch          // oldest first; the newest of those written stay a while
	former   []*batch          // of the node that this process was before, not written yet
	outcomes int               // in all of them
	named    []issuer.Verifier // not written yet
	numbers  uint32            // given to verifiers
	told     func(time.Duration)
	dropped  bool // evidence had to be given up
}

// batch is what was sent together.
type batch struct {
	first, last uint64
	began       lease.Moment
	node        string // this one, as it was then
	outcomes    []issuer.Outcome
	took        time.Duration
	closed      bool // nobody is left to wait for
	written     bool
}

// sent begins to watch records.
func (e *evidence) sent(node string, first, last uint64, now lease.Moment) {
	if n := len(e.batches); n > 0 {
		b := e.batches[n-1]
		if !b.closed && (n >= maxBatches || e.outcomes >= maxOutcomes) {
			// Who confirmed some of it has yet to confirm the rest.
			e.outcomes -= len(b.outcomes)
			b.outcomes = slices.DeleteFunc(b.outcomes, func(o issuer.Outcome) bool { return o.End == issuer.Confirmed })
			e.outcomes += len(b.outcomes)
			b.last, b.began = last, now
			return
		}
	}
	e.batches = append(e.batches, &batch{node: node, first: first, last: last, began: now})
}

// from returns the index of the first batch that has a position or a later one.
func (e *evidence) from(position uint64) int {
	return sort.Search(len(e.batches), func(i int) bool { return e.batches[i].last >= position })
}

// find returns the batch of a position, nil where there is none any more.
func (e *evidence) find(position uint64) *batch {
	if i := e.from(position); i < len(e.batches) && e.batches[i].first <= position {
		return e.batches[i]
	}
	return nil
}

// note adds how it ended with a verifier, to the batches that end after one
// position and at or before another.
func (e *evidence) note(number uint32, end issuer.End, after, upTo uint64, now lease.Moment) {
	for _, b := range e.batches[e.from(after+1):] {
		if b.last > upTo {
			return
		}
		if !b.closed {
			b.outcomes = append(b.outcomes, issuer.Outcome{Verifier: number, End: end, After: now.Mono - b.began.Mono})
			e.outcomes++
		}
	}
}

// reached closes the batches up to a position.
func (e *evidence) reached(floor uint64, now lease.Moment) {
	// Most of what is kept is closed already.
	i := sort.Search(len(e.batches), func(i int) bool { return !e.batches[i].closed })
	for _, b := range e.batches[i:] {
		if b.last > floor {
			return
		}
		b.closed, b.took = true, now.Mono-b.began.Mono
		e.told(b.took)
	}
}

// abandon gives up what is still watched: this process will be another node,
// which does not know how it ends, and whose positions may mean something else.
func (e *evidence) abandon() {
	for _, b := range e.batches {
		if b.closed && !b.written && len(e.former) < maxBatches {
			e.former = append(e.former, b)
		}
	}
	e.batches, e.outcomes = nil, 0
}

// ended returns how many verifiers lost their lease, and said goodbye, instead.
func (b *batch) ended() (lost, left int) {
	for _, o := range b.latest() {
		switch o.End {
		case issuer.Lost:
			lost++
		case issuer.Left:
			left++
		}
	}
	return lost, left
}

// unwritten returns what is to be written next.
func (e *evidence) unwritten() (verifiers []issuer.Verifier, batches []*batch) {
	for _, kept := range [][]*batch{e.former, e.batches} {
		for _, b := range kept {
			if b.closed && !b.written && len(batches) < recordAtOnce {
				batches = append(batches, b)
			}
		}
	}
	return e.named, batches
}

// wrote notes that both are in the store.
func (e *evidence) wrote(verifiers int, batches []*batch) {
	e.named = slices.Clone(e.named[verifiers:])
	for _, b := range batches {
		b.written = true
	}
	e.former = slices.DeleteFunc(e.former, func(b *batch) bool { return b.written })
	e.trim()
}

// trim keeps the bounds: what is written goes first, and what is not at last.
func (e *evidence) trim() {
	drop := 0
	for drop < len(e.batches) && e.batches[drop].closed && (len(e.batches)-drop > maxBatches || e.outcomes > maxOutcomes) {
		e.dropped = e.dropped || !e.batches[drop].written
		e.outcomes -= len(e.batches[drop].outcomes)
		drop++
	}
	e.batches = slices.Delete(e.batches, 0, drop)
}

// latest returns one outcome for each verifier: one that lost its lease may have
// come back, and confirmed.
func (b *batch) latest() []issuer.Outcome {
	last := make(map[uint32]int, len(b.outcomes))
	for i, o := range b.outcomes {
		last[o.Verifier] = i
	}
	kept := make([]issuer.Outcome, 0, len(last))
	for i, o := range b.outcomes {
		if last[o.Verifier] == i {
			kept = append(kept, o)
		}
	}
	return kept
}

// confirmation puts a batch into the form that is kept.
func (b *batch) confirmation() issuer.Confirmation {
	c := issuer.Confirmation{
		Node: b.node, First: b.first, Last: b.last, Began: time.Unix(0, b.began.Wall).UTC(), Took: b.took, Outcomes: b.latest(),
	}
	slices.SortStableFunc(c.Outcomes, func(x, y issuer.Outcome) int { return cmp.Compare(y.After, x.After) })
	for _, o := range c.Outcomes {
		switch o.End {
		case issuer.Confirmed:
			c.Confirmed++
		case issuer.Lost:
			c.Lost++
		case issuer.Left:
			c.Left++
		}
	}
	c.Outcomes = c.Outcomes[:min(len(c.Outcomes), issuer.MaxOutcomes)]
	return c
}

// record writes evidence until ctx ends.
func (l *Log) record(ctx context.Context) {
	tick := time.NewTicker(recordEvery)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := l.writeEvidence(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			l.cfg.Logger.Warn("evidence of confirmations cannot be written; it is kept in memory, within bounds, and tried again", "error", err)
		}
		failing = err != nil
	}
}

// writeEvidence writes what there is to write.
func (l *Log) writeEvidence(ctx context.Context) error {
	for {
		l.mu.Lock()
		verifiers, batches := l.evidence.unwritten()
		l.mu.Unlock()
		if len(verifiers)+len(batches) == 0 {
			return nil
		}
		err := l.update(ctx, func(w Writer) error {
			for _, v := range verifiers {
				if err := w.PutVerifier(v); err != nil {
					return err
				}
			}
			for _, b := range batches {
				if err := w.PutConfirmation(b.confirmation()); err != nil {
					return err
				}
			}
			return nil
		})
		l.mu.Lock()
		if err == nil {
			l.evidence.wrote(len(verifiers), batches)
		} else {
			l.evidence.trim()
		}
		dropped := l.evidence.dropped
		l.evidence.dropped = false
		l.mu.Unlock()
		if dropped {
			l.cfg.Logger.Error("evidence of confirmations was given up: the store takes it more slowly than it comes")
		}
		if err != nil || len(batches) < recordAtOnce {
			return err
		}
	}
}

// Evidence returns what is known of a position that may not stand in the store
// yet: how it ended with each verifier so far, and the verifiers. It reports
// false where this node does not watch the position, or does no longer.
func (l *Log) Evidence(position uint64) (issuer.Confirmation, []issuer.Verifier, bool) {
	now := l.cfg.Clock()
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.evidence.find(position)
	if b == nil || b.written {
		return issuer.Confirmation{}, nil, false
	}
	c := b.confirmation()
	if !b.closed {
		c.Took = now.Mono - b.began.Mono
	}
	known := slices.Clone(l.evidence.named)
	for _, p := range l.processes {
		if p.number != 0 {
			known = append(known, p.named(l.row.ID))
		}
	}
	return c, known, true
}
