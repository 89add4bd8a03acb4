package issuer

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/quashdev/quash/internal/jws"
)

// Revocations lists revocations after a position, with who made them and why,
// those that verifiers have forgotten too, at most limit.
func (i *Issuer) Revocations(ctx context.Context, after uint64, limit int) (all []Revocation, err error) {
	err = i.store.View(ctx, func(rd Reader) error {
		all, err = rd.History(after, min(limit, maxListed))
		return err
	})
	return all, explain("revocation", err)
}

// Log returns what the log is, and where it ends.
func (i *Issuer) Log(ctx context.Context) (l Log, err error) {
	err = i.store.View(ctx, func(rd Reader) error {
		l, err = rd.Log()
		return err
	})
	return l, explain("log", err)
}

// Audit lists what happened, newest first.
func (i *Issuer) Audit(ctx context.Context, q AuditQuery) (all []AuditEntry, err error) {
	q.Limit = min(q.Limit, maxListed)
	err = i.store.View(ctx, func(rd Reader) error {
		all, err = rd.Audit(q)
		return err
	})
	return all, explain("audit entry", err)
}

// VerifyLog checks the log's chain, as [VerifyLog] does.
func (i *Issuer) VerifyLog(ctx context.Context) (LogReport, error) {
	report, err := VerifyLog(ctx, i.store)
	return report, explain("log", err)
}

// maxKillers is how many revocations are named for one token.
const maxKillers = 10

// Killers returns the revocations that kill an access token, at most ten, in
// the order of the log: those made from its issue until it expired. A token
// that was not signed with a published key is CodeToken. Where the key was
// withdrawn, nothing else that the token says can be believed, and the
// revocation of the key is the answer.
func (i *Issuer) Killers(ctx context.Context, token string) (found []Revocation, err error) {
	var t jws.Token
	if err := t.Parse(token); err != nil {
		return nil, refuse(CodeToken, "this is not a token: %v", err)
	}
	keys, err := i.PublicKeys(ctx)
	if err != nil {
		return nil, err
	}
	key, ok := keys.Key(t.Header.KeyID)
	if !ok {
		return i.withdrawal(ctx, t.Header.KeyID)
	}
	if err := key.Verify(&t); err != nil {
		return nil, refuse(CodeToken, "the token's signature was not made with the key that it names")
	}
	members, err := jws.Members(nil, t.Payload)
	if err != nil {
		return nil, refuse(CodeToken, "the token's claims are not one JSON object: %v", err)
	}
	times := map[string]int64{}
	for _, m := range members {
		if n, ok := jws.Integer(m.Value); ok && n >= 0 {
			times[m.Name] = n
		}
	}
	carried := map[Match]bool{}
	for _, m := range (Account{Claims: t.Payload}).ClaimValues() {
		carried[m] = m.Claim != "kid"
	}
	carried[Match{"kid", t.Header.KeyID}] = true // which is the header's alone
	return i.naming(ctx, carried, uint64(times["rev"]), time.Unix(times["exp"], 0))
}

// naming returns the first revocations that name one of the claims carried, of
// those after a position. It stops at what was made after a time, by the clock
// of whichever node: so it reads as much as is live at once and no more.
func (i *Issuer) naming(ctx context.Context, carried map[Match]bool, after uint64, until time.Time) (found []Revocation, err error) {
	until = until.Add(forgetMargin)
	for {
		page, err := i.Revocations(ctx, after, maxListed)
		if err != nil || len(page) == 0 {
			return found, err
		}
		for _, r := range page {
			if r.Time.After(until) || len(found) == maxKillers {
				return found, nil
			}
			if r.Issuer == i.cfg.Issuer && carried[Match{r.Claim, r.Value}] {
				found = append(found, r)
			}
		}
		after = page[len(page)-1].Position
	}
}

// withdrawal returns the revocation of a signing key, CodeToken where the key
// was not withdrawn. The audit knows where it stands.
func (i *Issuer) withdrawal(ctx context.Context, kid string) (found []Revocation, err error) {
	err = i.store.View(ctx, func(rd Reader) error {
		entries, err := rd.Audit(AuditQuery{Event: KeyCompromised.Name, Limit: maxListed})
		if err != nil {
			return err
		}
		for _, e := range entries {
			r, err := revocationAt(rd, e.Position)
			if err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
			if err == nil && r.Claim == "kid" && r.Value == kid {
				found = []Revocation{r}
				return nil
			}
		}
		found, err = withdrawnWithAll(rd, kid)
		return err
	})
	return found, explain("revocation", err)
}

// withdrawnWithAll returns the first record of the epoch that a signing key was
// withdrawn by, with all others.
func withdrawnWithAll(rd Reader, kid string) ([]Revocation, error) {
	keys, err := rd.SigningKeys()
	if err != nil {
		return nil, err
	}
	epochs, err := rd.Epochs()
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(keys, func(k SigningKey) bool { return k.ID == kid && k.Withdrawn })
	for _, e := range epochs {
		if at >= 0 && !e.Time.Before(keys[at].Retired.Truncate(time.Millisecond)) {
			return rd.History(e.Begin.Position, 1)
		}
	}
	return nil, refuse(CodeToken, "the token names no key that this server signs with, or did within the lifetime of a token")
}
