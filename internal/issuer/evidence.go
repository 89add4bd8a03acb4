package issuer

import (
	"context"
	"slices"

	"github.com/quashdev/quash/internal/jws"
	"github.com/quashdev/quash/internal/revset"
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

// Killers returns the revocations that kill an access token, at most ten, in
// the order of the log. Neither its signature nor its times are looked at.
func (i *Issuer) Killers(ctx context.Context, token string) ([]Revocation, error) {
	var t jws.Token
	if err := t.Parse(token); err != nil {
		return nil, refuse(CodeToken, "this is not a token: %v", err)
	}
	carried := Account{Claims: t.Payload}.ClaimValues()
	carried = append(carried, Match{"kid", t.Header.KeyID})
	var rev int64
	members, err := jws.Members(nil, t.Payload)
	if err != nil {
		return nil, refuse(CodeToken, "the token's claims are not one JSON object: %v", err)
	}
	for _, m := range members {
		if m.Name == "rev" {
			rev, _ = jws.Integer(m.Value)
		}
	}
	kills := func(r Revocation) bool {
		return r.Issuer == i.cfg.Issuer && slices.Contains(carried, Match{r.Claim, r.Value}) && (r.Before == revset.Forever || uint64(rev) < r.Before)
	}
	found, err := i.search(ctx, kills)
	return found, explain("revocation", err)
}

// search returns the first ten revocations that satisfy a condition.
func (i *Issuer) search(ctx context.Context, condition func(Revocation) bool) (found []Revocation, err error) {
	for after := uint64(0); ; {
		page, err := i.Revocations(ctx, after, maxListed)
		if err != nil || len(page) == 0 {
			return found, err
		}
		for _, r := range page {
			if condition(r) {
				found = append(found, r)
			}
			if len(found) == 10 {
				return found, nil
			}
		}
		after = page[len(page)-1].Position
	}
}
