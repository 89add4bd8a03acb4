package issuer

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"unicode/utf8"
)

// Target is what a change is done to.
type Target struct {
	Subject string
	Session string // the one that ends, or the one that is spared
	Claim   string // of a revocation by claim
	Value   string
	End     bool   // whether sessions that match a revocation by claim end too
	Reason  string // for the log and the audit; at most 256 characters
	DryRun  bool   // answer what would happen, and change nothing

	unused bool // the signing key that is withdrawn has signed nothing
}

// Effect is what a change did, or would do.
type Effect struct {
	Event    string
	Sessions int    // ended
	Tokens   int    // access tokens that are dead now, as far as is known: see end
	Position uint64 // of the last revocation; 0 where none was needed
	DryRun   bool
}

// errDryRun rolls a finished change back.
var errDryRun = errors.New("dry run")

// change carries out an event that needs nothing but what its row of the
// table says.
func (i *Issuer) change(ctx context.Context, e Event, by Actor, t Target) (Effect, error) {
	out, err := i.update(ctx, t.DryRun, func(tx Tx, out *Effect) error { return i.apply(tx, e, by, t, out) })
	return out, explain("session", err)
}

// update runs fn in a revoking transaction. A dry run is the same transaction,
// rolled back, so what it answers is what would happen.
func (i *Issuer) update(ctx context.Context, dry bool, fn func(Tx, *Effect) error) (Effect, error) {
	var out Effect
	commit, err := i.store.Update(ctx, func(tx Tx) error {
		out = Effect{}
		if err := fn(tx, &out); err != nil {
			return err
		}
		if dry {
			return errDryRun
		}
		return nil
	})
	if dry && errors.Is(err, errDryRun) {
		out.DryRun = true
		return out, nil
	}
	if err != nil {
		return Effect{}, err
	}
	out.Position = commit.Last
	return out, nil
}

// apply does what the event's row of the table says: it ends the sessions,
// appends the revocations and notes it all in the audit.
func (i *Issuer) apply(tx Tx, e Event, by Actor, t Target, out *Effect) error {
	if err := checkReason(t.Reason); err != nil {
		return err
	}
	if err := present(tx, by); err != nil {
		return err
	}
	out.Event = e.Name
	revocations, err := named(tx, e, t)
	if err != nil {
		return err
	}
	if err := i.end(tx, e, t, out); err != nil {
		return err
	}
	if e.Ends == This && out.Sessions == 0 {
		return nil // it had ended before, and was revoked then
	}
	for _, m := range revocations {
		r := Revocation{
			Issuer: i.cfg.Issuer, Claim: m.Claim, Value: m.Value, Before: e.before(m.Claim), Keep: m.Claim == "kid",
			Time: tx.Now(), Event: e.Name, Actor: by.Name, Reason: t.Reason,
		}
		if err := appendShared(tx, r); err != nil {
			return err
		}
	}
	detail, err := t.detail()
	if err != nil {
		return err
	}
	return tx.AppendAudit(AuditEntry{
		Time: tx.Now(), Event: e.Name, Actor: by.Name, Address: by.Address, Subject: t.Subject, Session: t.Session, Reason: t.Reason, Detail: detail,
	})
}

// detail is what the audit says of a revocation by claim besides.
func (t Target) detail() (json.RawMessage, error) {
	if t.Claim == "" {
		return nil, nil
	}
	return compact(map[string]string{"claim": t.Claim, "value": t.Value})
}

// named returns the claims and values that the event's revocations name.
func named(tx Tx, e Event, t Target) ([]Match, error) {
	switch {
	case e.Claim == "":
		return nil, nil
	case e.Claim == "sub":
		return []Match{{"sub", t.Subject}}, nil
	case e.Claim == "sid" && e.Ends == This:
		return []Match{{"sid", t.Session}}, nil
	case e.Claim == "sid":
		return others(tx, t)
	}
	return []Match{{t.Claim, t.Value}}, nil
}

func others(tx Tx, t Target) ([]Match, error) {
	sessions, err := tx.Sessions(Match{"sub", t.Subject}, "", maxListed)
	if err != nil {
		return nil, err
	}
	var all []Match
	for _, s := range sessions {
		if s.ID != t.Session {
			all = append(all, Match{"sid", s.ID})
		}
	}
	return all, nil
}

// end ends the sessions that the event reaches and counts the tokens that die,
// those of sessions that go on included. It knows the tokens by the expiries in
// the sessions' rows: at most the newest [maxTokens] of each, and neither their
// jti nor their kid. So a jti counts as one token, whether or not there is one,
// and a signing key counts the tokens of every key, which is at least its own.
func (i *Issuer) end(tx Tx, e Event, t Target, out *Effect) (err error) {
	now := tx.Now()
	switch {
	case e.Ends == This:
		out.Sessions, out.Tokens, err = tx.EndSessions(Match{"sid", t.Session}, "", now)
		return err
	case e.Ends == Others && e.Claim == "sid":
		out.Sessions, out.Tokens, err = tx.EndSessions(Match{"sub", t.Subject}, t.Session, now)
		return err
	case e.Claim == "" || t.unused:
		return nil
	case t.Claim == "jti": // there is no telling whose it is
		out.Tokens = 1
		return nil
	}
	held, err := i.holders(tx, e, t)
	if err != nil {
		return err
	}
	ends := e.Ends == All || e.Ends == Others || e.Ends == Matching && t.End
	if len(held.but) > 0 {
		return i.countBut(tx, held, ends, out)
	}
	spared := ""
	if e.Ends == Others {
		spared = t.Session
	}
	for _, m := range held.by {
		if err := reach(tx, m, ends, spared, out); err != nil {
			return err
		}
	}
	return nil
}

// reach counts the tokens of the sessions that match, which die, and ends the
// sessions, if so, but for the one that is spared.
func reach(tx Tx, m Match, ends bool, spared string, out *Effect) error {
	_, tokens, err := tx.CountSessions(m, tx.Now())
	if err != nil {
		return err
	}
	out.Tokens += tokens
	if ends {
		ended, _, err := tx.EndSessions(m, spared, tx.Now())
		if err != nil {
			return err
		}
		out.Sessions += ended
	}
	return tx.ForgetTokens(m)
}

// countBut counts the tokens that die of sessions that no Match selects. They
// are not forgotten, and so are counted again by what revokes them again.
func (i *Issuer) countBut(tx Tx, held holders, ends bool, out *Effect) error {
	if ends {
		return refuse(CodeInvalid, "value: %d registered clients have an audience of their own without it, and the sessions of the others cannot be ended by it; to end everything, revoke iss with the value %q, and else the client_id of each client that is meant", len(held.but), i.cfg.Issuer)
	}
	_, all, err := tx.CountSessions(Match{}, tx.Now())
	out.Tokens = all
	for _, m := range held.but {
		if err != nil {
			return err
		}
		var others int
		_, others, err = tx.CountSessions(m, tx.Now())
		out.Tokens -= others
	}
	return err
}

// holders selects sessions: those of each Match, of which no two select the
// same, or all but those of some.
type holders struct{ by, but []Match }

// holders selects the sessions whose tokens the event's revocation kills.
func (i *Issuer) holders(rd Reader, e Event, t Target) (holders, error) {
	switch {
	case e.Claim == "sub":
		return holders{by: []Match{{"sub", t.Subject}}}, nil
	case t.Claim == "kid", Match{t.Claim, t.Value} == i.everything():
		return holders{by: []Match{{}}}, nil
	case t.Claim == "aud":
		return i.audience(rd, t.Value)
	}
	return holders{by: []Match{{t.Claim, t.Value}}}, nil
}

// audience selects the sessions whose tokens have a value in their aud, which is
// the server's but for registered clients that have an audience of their own.
func (i *Issuer) audience(rd Reader, value string) (holders, error) {
	clients, err := rd.Clients()
	if err != nil {
		return holders{}, err
	}
	var with, without []Match
	for _, c := range clients {
		switch m := (Match{"client_id", c.ID}); {
		case len(c.Audience) == 0:
		case slices.Contains(c.Audience, value):
			with = append(with, m)
		default:
			without = append(without, m)
		}
	}
	switch {
	case !slices.Contains(i.cfg.Audience, value):
		return holders{by: with}, nil
	case len(without) == 0:
		return holders{by: []Match{{}}}, nil
	}
	return holders{but: without}, nil
}

// present refuses a user whose own session has ended since the access token
// was checked.
func present(tx Tx, by Actor) error {
	if by.Session == "" {
		return nil
	}
	s, err := tx.Session(by.Session)
	if errors.Is(err, ErrNotFound) || err == nil && s.Subject != by.Subject {
		return refuse(CodeToken, "the session has ended; log in again")
	}
	return err
}

func checkReason(reason string) error {
	if !printable(reason, 0, 256) {
		return refuse(CodeInvalid, "reason: want at most 256 characters, none of them a control character")
	}
	return nil
}

// holdable reports whether every store can hold s: PostgreSQL has no U+0000.
func holdable(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// RevokeRequest is a revocation by claim.
type RevokeRequest struct {
	Issuer string // whose tokens; empty: the server's own
	Claim  string
	Value  string
	Reason string
	End    bool // sessions whose tokens match end too
	DryRun bool
}

const maxValue = 512

// Revoke ends every token that has a value under a claim and was issued before
// now. A sid ends its session with it, a kid withdraws the signing key, and
// both, like a jti, are revoked for ever. The server's own iss ends all that was
// issued. A claim that no token carries is CodeUnknownClaim, and scope
// CodeInvalid. Of another issuer's tokens it is not known what they carry,
// nor how many there are; an issuer that was not added is CodeNotFound.
func (i *Issuer) Revoke(ctx context.Context, by Actor, r RevokeRequest) (Effect, error) {
	out, err := i.update(ctx, r.DryRun, func(tx Tx, out *Effect) error { return i.revoke(tx, by, r, out) })
	return out, explain("signing key", err)
}

// revoke is the transaction of a revocation by claim. A refusal, or
// ErrNotFound of a signing key, comes before anything is written.
func (i *Issuer) revoke(tx Tx, by Actor, r RevokeRequest, out *Effect) error {
	if r.Value == "" || len(r.Value) > maxValue || !holdable(r.Value) {
		return refuse(CodeInvalid, "value: want 1 to %d octets of UTF-8 without the character U+0000; to end every token, revoke iss, which all of them have, with the value %q", maxValue, i.cfg.Issuer)
	}
	if err := checkReason(r.Reason); err != nil {
		return err
	}
	if r.Issuer != "" && r.Issuer != i.cfg.Issuer {
		return i.revokeForeign(tx, by, r, out)
	}
	t := Target{Claim: r.Claim, Value: r.Value, End: r.End, Reason: r.Reason, DryRun: r.DryRun}
	switch r.Claim {
	case "sid":
		t.End, t.Session = true, r.Value
	case "sub":
		t.Subject = r.Value
	case "kid":
		return i.withdraw(tx, by, t, out)
	case "iss":
		if r.Value != i.cfg.Issuer {
			return refuse(CodeInvalid, "value: to end every token of this server, name its issuer, %q; to end those of another, name that as the issuer, too", i.cfg.Issuer)
		}
	case "scope":
		return refuse(CodeInvalid, "claim: scope is one text of all that was granted, and not the same in all tokens of a session; revoke a client_id or a sub, or change the scopes of the client, which revokes its tokens")
	}
	if err := knownClaim(tx, r.Claim); err != nil {
		return err
	}
	return i.apply(tx, ClaimRevoked, by, t, out)
}

// maxClaimNames bounds the claims that the log names, all of which verifiers
// learn when they connect and look for in each token that they see.
const maxClaimNames = 1000

// knownClaim refuses a claim that no token carries, and one too many.
func knownClaim(tx Tx, claim string) error {
	if slices.Contains(revocable, claim) {
		return nil
	}
	if !visible(claim, 1, maxClaimName) {
		return refuse(CodeInvalid, "claim: want its name, 1 to %d visible ASCII characters", maxClaimName)
	}
	names, err := tx.AccountClaims()
	if err != nil {
		return err
	}
	if !slices.Contains(names, claim) {
		all := append(slices.Clone(revocable), names[:min(len(names), 50)]...)
		return refuse(CodeUnknownClaim, "claim: no token carries %q, so this would end nothing; the claims that tokens carry are %q", claim, all)
	}
	log, err := tx.Log()
	if err != nil {
		return err
	}
	return roomForClaim(log, claim)
}

// roomForClaim refuses one name too many.
func roomForClaim(l Log, claim string) error {
	if len(l.Claims) >= maxClaimNames && !slices.Contains(l.Claims, claim) {
		return refuse(CodeFull, "claim: revocations name %d claims already, as many as verifiers take; name sub or sid, or a claim that was named before", len(l.Claims))
	}
	return nil
}
