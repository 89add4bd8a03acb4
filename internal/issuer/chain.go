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
}

func (b LogBreak) String() string {
	if b.Flaw == Reordered {
		return fmt.Sprintf("record %d: %s: it stands at %d", b.Position, b.Flaw, b.Found)
	}
	return fmt.Sprintf("record %d: %s", b.Position, b.Flaw)
}

// historyPage is how many records one view reads, so that a long log holds no
// snapshot for long.
const historyPage = 1000

// VerifyLog seals every record of the log again, pruned ones too, from the
// first to the head that the log had when it began, and reports the first
// that is not what was sealed. The digests have no key and stand beside the
// records, so a whole chain proves that nothing was changed only as far as one
// of its digests is also kept where the log's writers cannot reach. The error
// is the store's alone.
func VerifyLog(ctx context.Context, s Store) (LogReport, error) {
	var l Log
	err := s.View(ctx, func(r Reader) (err error) {
		l, err = r.Log()
		return err
	})
	if err != nil {
		return LogReport{}, fmt.Errorf("verify the log: %w", err)
	}
	c := chain{store: s, secret: l.HashSecret, end: l.Head}
	report := LogReport{Head: l.Head}
	var at feed.Mark
	report.Break, err = c.walk(ctx, &at)
	report.Checked = at.Position
	if err != nil {
		return report, fmt.Errorf("verify the log after %d: %w", at.Position, err)
	}
	return report, nil
}

type chain struct {
	store  Store
	secret []byte
	end    feed.Mark
}

// walk moves at along the chain until its end or its first break.
func (c chain) walk(ctx context.Context, at *feed.Mark) (*LogBreak, error) {
	var broken *Revocation
	err := c.each(ctx, func(r Revocation) bool {
		if !c.follows(r, *at) {
			broken = &r
			return false
		}
		*at = feed.Mark{Position: r.Position, Digest: r.Digest}
		return true
	})
	switch {
	case err != nil:
		return nil, err
	case broken != nil:
		return c.diagnose(ctx, *broken, *at)
	case at.Position < c.end.Position:
		return &LogBreak{Position: at.Position + 1, Flaw: Missing}, nil
	case *at != c.end:
		return &LogBreak{Position: at.Position, Flaw: Changed}, nil
	}
	return nil, nil
}

// each calls yield with the records up to the end, in order, until it returns
// false.
func (c chain) each(ctx context.Context, yield func(Revocation) bool) error {
	for after := uint64(0); after < c.end.Position; {
		var page []Revocation
		err := c.store.View(ctx, func(r Reader) (err error) {
			page, err = r.History(after, historyPage)
			return err
		})
		if err != nil || len(page) == 0 {
			return err
		}
		for _, r := range page {
			if r.Position > c.end.Position || !yield(r) {
				return nil
			}
		}
		after = page[len(page)-1].Position
	}
	return nil
}

// follows reports whether r is what was sealed next after at.
func (c chain) follows(r Revocation, at feed.Mark) bool {
	return r.Position == at.Position+1 &&
		r.Key == revset.KeyOf(c.secret, r.Issuer, r.Claim, r.Value) &&
		r.Digest == at.Digest.Next(r.Record(), r.evidence())
}

// diagnose says what is wrong after at, where r stands and does not follow.
func (c chain) diagnose(ctx context.Context, r Revocation, at feed.Mark) (*LogBreak, error) {
	b := LogBreak{Position: at.Position + 1, Flaw: Changed}
	if r.Position != b.Position {
		b.Flaw = Missing
	}
	err := c.each(ctx, func(o Revocation) bool {
		found := o.Position
		o.Position = b.Position
		if !c.follows(o, at) {
			return true
		}
		if b.Flaw, b.Found = Reordered, found; found == b.Position {
			b.Flaw, b.Found = Inserted, 0
		}
		return false
	})
	return &b, err
}
