package issuer

import (
	"context"
	"fmt"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/revset"
)

// Flaw is how a log contradicts its own chain.
type Flaw string

// The flaws.
const (
	Changed   Flaw = "changed"   // a record is not as it was sealed
	Missing   Flaw = "missing"   // a record was taken out
	Reordered Flaw = "reordered" // the record that belongs here stands at another position
	Inserted  Flaw = "inserted"  // a record stands before the one that comes next
)

// LogReport is what [VerifyLog] found.
type LogReport struct {
	Head    feed.Mark // where the log says it ends
	Checked uint64    // records that stand as they were sealed, from the first on
	Break   *LogBreak // nil where the chain is whole
}

// LogBreak is the first place at which a log contradicts its chain. Nothing
// after it was checked.
type LogBreak struct {
	Position uint64
	Flaw     Flaw
	Found    uint64 // where the record that belongs here stands, if it is Reordered
	Epoch    uint64 // that begins here, if it is not a record but this that has the flaw
}

func (b LogBreak) String() string {
	switch {
	case b.Epoch != 0:
		return fmt.Sprintf("the beginning of epoch %d at %d: %s", b.Epoch, b.Position, b.Flaw)
	case b.Flaw == Reordered:
		return fmt.Sprintf("record %d: %s: it stands at %d", b.Position, b.Flaw, b.Found)
	}
	return fmt.Sprintf("record %d: %s", b.Position, b.Flaw)
}

// historyPage is how many records one view reads, so that a long log holds no
// snapshot for long.
const historyPage = 1000

// VerifyLog seals every record of the log again, pruned ones too, and the
// beginning of every epoch, from the
// first to the head that the log had when it began, and reports the first
// that is not what was sealed. The digests have no key and stand beside the
// records, so a whole chain proves that nothing was changed only as far as one
// of its digests is also kept where the log's writers cannot reach. The error
// is the store's alone.
func VerifyLog(ctx context.Context, s Store) (LogReport, error) {
	c := walker{store: s}
	err := s.View(ctx, func(r Reader) (err error) {
		if c.log, err = r.Log(); err != nil {
			return err
		}
		c.Chain.Secret = c.log.HashSecret
		c.Chain.Epochs, err = r.Epochs()
		return err
	})
	if err != nil {
		return LogReport{}, fmt.Errorf("verify the log: %w", err)
	}
	report := LogReport{Head: c.log.Head}
	report.Break, err = c.walk(ctx)
	report.Checked = c.Checked
	if err != nil {
		return report, fmt.Errorf("verify the log after %d: %w", c.At.Position, err)
	}
	return report, nil
}

// Chain follows the records of a log from the first on, and the epochs between
// them, and looks whether each is what was sealed.
type Chain struct {
	Secret  []byte  // Log.HashSecret
	Epochs  []Epoch // that are still to come
	At      feed.Mark
	Checked uint64 // records so far
	epoch   uint64 // how many have begun since the first
}

// Next moves on to r and reports whether it is what was sealed next.
func (c *Chain) Next(r Revocation) *LogBreak {
	if r.Position != c.At.Position+1 {
		if b := c.cross(); b != nil {
			return b
		}
	}
	if !c.follows(r) {
		b := &LogBreak{Position: c.At.Position + 1, Flaw: Changed}
		if r.Position != b.Position {
			b.Flaw = Missing
		}
		return b
	}
	c.At = feed.Mark{Position: r.Position, Digest: r.Digest}
	c.Checked++
	return nil
}

// End looks whether l is what has been followed, as a whole.
func (c *Chain) End(l Log) *LogBreak {
	if b := c.cross(); b != nil {
		return b
	}
	switch {
	case len(c.Epochs) > 0 || c.At.Position < l.Head.Position:
		return &LogBreak{Position: c.At.Position + 1, Flaw: Missing}
	case c.At != l.Head:
		return &LogBreak{Position: c.At.Position, Flaw: Changed}
	case l.Epoch != c.epoch+1:
		return &LogBreak{Position: c.At.Position, Flaw: Changed, Epoch: l.Epoch}
	}
	return nil
}

// cross moves on to the beginning of the epochs that were begun here. One that
// is not what was sealed is a break wherever it says that it began.
func (c *Chain) cross() *LogBreak {
	for crossed := false; len(c.Epochs) > 0; crossed = true {
		e := c.Epochs[0]
		if crossed && e.Before.Position != c.At.Position {
			return nil // it is not the turn of this one
		}
		if e.Number != c.epoch+2 || e.Begin.Position < e.Before.Position+EpochLift || e.Begin.Digest != e.seal() {
			return &LogBreak{Position: e.Begin.Position, Flaw: Changed, Epoch: e.Number}
		}
		if e.Before.Position != c.At.Position {
			return nil
		}
		if e.Before != c.At {
			return &LogBreak{Position: c.At.Position, Flaw: Changed}
		}
		c.At, c.Epochs = e.Begin, c.Epochs[1:]
		c.epoch++
	}
	return nil
}

// follows reports whether r is what was sealed next after where c is.
func (c *Chain) follows(r Revocation) bool {
	return r.Position == c.At.Position+1 &&
		r.Key == revset.KeyOf(c.Secret, r.Issuer, r.Claim, r.Value) &&
		r.Digest == r.digest(c.At.Digest)
}

// walker follows the chain of the log in a store.
type walker struct {
	Chain
	store Store
	log   Log
}

// walk moves along the chain until its end or its first break.
func (w *walker) walk(ctx context.Context) (broken *LogBreak, err error) {
	err = w.each(ctx, func(r Revocation) bool {
		broken = w.Next(r)
		return broken == nil
	})
	switch {
	case err != nil:
		return nil, err
	case broken == nil:
		return w.End(w.log), nil
	case broken.Epoch == 0:
		return broken, w.diagnose(ctx, broken)
	}
	return broken, nil
}

// each calls yield with the records up to the end, in order, until it returns
// false.
func (w *walker) each(ctx context.Context, yield func(Revocation) bool) error {
	for after := uint64(0); after < w.log.Head.Position; {
		var page []Revocation
		err := w.store.View(ctx, func(r Reader) (err error) {
			page, err = r.History(after, historyPage)
			return err
		})
		if err != nil || len(page) == 0 {
			return err
		}
		for _, r := range page {
			if r.Position > w.log.Head.Position || !yield(r) {
				return nil
			}
		}
		after = page[len(page)-1].Position
	}
	return nil
}

// diagnose looks for the record that belongs where b is.
func (w *walker) diagnose(ctx context.Context, b *LogBreak) error {
	return w.each(ctx, func(o Revocation) bool {
		found := o.Position
		o.Position = b.Position
		if !w.follows(o) {
			return true
		}
		if b.Flaw, b.Found = Reordered, found; found == b.Position {
			b.Flaw, b.Found = Inserted, 0
		}
		return false
	})
}
