package issuer

import (
	"context"
	"math"
	"slices"
)

// Evidence is what is known of one revocation: who made it and why, and how it
// ended with each verifier.
type Evidence struct {
	Revocation    Revocation
	Audit         *AuditEntry    // nil where it was not made by an event
	Confirmations []Confirmation // at most one of each node
	Verifiers     []Verifier     // those that the outcomes name
}

// Evidence returns what the store has of the revocation at a position, and
// CodeNotFound where there is none. Watched are confirmations of it that the
// store may not have yet.
func (i *Issuer) Evidence(ctx context.Context, position uint64, watched ...Confirmation) (e Evidence, err error) {
	err = i.store.View(ctx, func(rd Reader) (err error) {
		if e.Revocation, err = revocationAt(rd, position); err != nil {
			return err
		}
		if e.Audit, err = noted(rd, e.Revocation); err != nil {
			return err
		}
		if e.Confirmations, err = rd.Confirmations(position); err != nil {
			return err
		}
		for _, w := range watched {
			if !slices.ContainsFunc(e.Confirmations, func(c Confirmation) bool { return c.Node == w.Node }) {
				e.Confirmations = append(e.Confirmations, w)
			}
		}
		e.Verifiers, err = mentioned(rd, e.Confirmations)
		return err
	})
	return e, explain("revocation", err)
}

func revocationAt(rd Reader, position uint64) (Revocation, error) {
	if position == 0 || position > math.MaxInt64 {
		return Revocation{}, ErrNotFound
	}
	found, err := rd.History(position-1, 1)
	if err == nil && (len(found) == 0 || found[0].Position != position) {
		err = ErrNotFound
	}
	if err != nil {
		return Revocation{}, err
	}
	return found[0], nil
}

// noted returns the entry of the audit that was written with a revocation.
func noted(rd Reader, r Revocation) (*AuditEntry, error) {
	found, err := rd.Audit(AuditQuery{Position: r.Position, Event: r.Event, Limit: 1})
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

// mentioned returns the verifiers that the outcomes name.
func mentioned(rd Reader, all []Confirmation) (verifiers []Verifier, err error) {
	for _, c := range all {
		numbers := make([]uint32, len(c.Outcomes))
		for n, o := range c.Outcomes {
			numbers[n] = o.Verifier
		}
		found, err := rd.Verifiers(c.Node, numbers)
		if err != nil {
			return nil, err
		}
		verifiers = append(verifiers, found...)
	}
	return verifiers, nil
}
