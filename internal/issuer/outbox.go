package issuer

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// maxDrained is how many requests one transaction carries out, so that none
// that waits behind it waits for long.
const maxDrained = 500

// requestRefused is a request that a rule refuses: nobody is there to be told.
var requestRefused = Event{Name: "request_refused"}

// Drain carries out requests of the outbox in a revoking transaction, in their
// order, and reports whether some may be left. A request is a revocation by
// claim, as [Issuer.Revoke] makes it, but that a sub ends its sessions too: it
// stands for what an application did to an account of its own. One that a rule
// refuses is answered with no position and noted in the audit; it is in no
// other's way.
func (i *Issuer) Drain(tx Tx) (left bool, err error) {
	requests, err := tx.TakeRequests(maxDrained)
	if err != nil {
		return false, fmt.Errorf("take requests out of the outbox: %w", err)
	}
	for _, r := range requests {
		if err := i.carryOut(tx, r); err != nil {
			return false, fmt.Errorf("carry out request %d: %w", r.ID, err)
		}
	}
	return len(requests) == maxDrained, nil
}

func (i *Issuer) carryOut(tx Tx, r Request) error {
	by := Actor{Name: "outbox:" + r.Actor}
	err := i.revoke(tx, by, RevokeRequest{Claim: r.Claim, Value: r.Value, Reason: r.Reason, End: r.Claim == "sub"}, &Effect{})
	var refusal *Error
	switch {
	case errors.Is(err, ErrNotFound):
		refusal = refuse(CodeNotFound, "there is no such signing key")
	case err != nil && !errors.As(err, &refusal):
		return err
	}
	if refusal != nil {
		if err := noteRefused(tx, by, r, refusal); err != nil {
			return err
		}
	}
	return tx.AnswerRequest(r.ID)
}

func noteRefused(tx Tx, by Actor, r Request, why *Error) error {
	detail, err := compact(map[string]any{"request": r.ID, "claim": r.Claim, "value": r.Value, "reason": r.Reason})
	if err != nil {
		return err
	}
	return tx.AppendAudit(AuditEntry{Time: tx.Now(), Event: requestRefused.Name, Actor: by.Name, Reason: why.Detail, Detail: detail})
}

// errRequested says that requests wait that must be carried out before a token
// is issued, or it would be dead on arrival, or of a session that has ended.
var errRequested = errors.New("requests wait in the outbox")

// issuing runs fn in an issuing transaction, after every request was carried
// out that waited when the call began. What comes in while it runs comes after
// what it issues.
func (i *Issuer) issuing(ctx context.Context, fn func(Tx) error) error {
	err := i.store.Issue(ctx, func(tx Tx) error {
		requested, err := tx.Requested()
		if err == nil && requested {
			err = errRequested
		}
		if err != nil {
			return err
		}
		return fn(tx)
	})
	if !errors.Is(err, errRequested) {
		return err
	}
	if err := i.drain(ctx); err != nil {
		return err
	}
	return i.store.Issue(ctx, fn)
}

// maxDrains bounds how many transactions one login or refresh drains the
// outbox with; the nodes go on with the rest.
const maxDrains = 20

var errFlooded = &Error{Code: CodeUnavailable, Detail: "more revocations wait than can be made at once; nothing changed, try again", RetryAfter: time.Second}

// drain empties the outbox of what waits there now.
func (i *Issuer) drain(ctx context.Context) error {
	for range maxDrains {
		var left bool
		_, err := i.store.Update(ctx, func(tx Tx) (err error) {
			left, err = i.Drain(tx)
			return err
		})
		if err != nil || !left {
			return err
		}
	}
	return errFlooded
}

// settled calls fn in a view that no request waits in. The question stands in
// the same snapshot as what fn has read; where one waits, it is carried out, and
// fn is called again, in a view of after, and sets afresh what it reports. An
// error of fn is returned as it is.
func (i *Issuer) settled(ctx context.Context, fn func(Reader) error) error {
	waiting := false
	err := i.store.View(ctx, func(rd Reader) (err error) {
		if err = fn(rd); err == nil {
			waiting, err = rd.Requested()
		}
		return err
	})
	if err == nil && waiting {
		if err = i.drain(ctx); err == nil {
			err = i.store.View(ctx, fn)
		}
	}
	return err
}

// Answer says what became of a request.
type Answer struct {
	Waiting  bool
	Position uint64 // of the last revocation that was made for it, 0 where none was
}

// Request returns what became of a request of the outbox, CodeNotFound where
// it was never made or is forgotten.
func (i *Issuer) Request(ctx context.Context, id uint64) (a Answer, err error) {
	err = i.store.View(ctx, func(rd Reader) (err error) {
		if a.Position, err = rd.Answered(id); err != nil {
			return err
		}
		// One that was refused has no position either, and once nothing waits
		// it does not.
		a.Waiting = false
		if a.Position == 0 {
			a.Waiting, err = rd.Requested()
		}
		return err
	})
	return a, explain("request", err)
}
