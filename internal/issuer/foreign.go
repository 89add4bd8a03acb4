package issuer

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/quashdev/quash/internal/jws"
)

// Foreign is another issuer, whose tokens the log revokes too.
type Foreign struct {
	Name        string        // iss of its tokens
	MaxLifetime time.Duration // the longest of its tokens ever, in whole seconds
	// SameSubjects says that its subjects are those of Quash: what revokes a
	// sub here revokes it there.
	SameSubjects bool
}

const (
	maxForeign         = 100
	maxForeignLifetime = 10 * 365 * 24 * time.Hour
	// foreignSkew is the most by which the clock of another issuer may be off:
	// a revocation kills what it issued up to so much later.
	foreignSkew = 10 * time.Minute
)

// IssuerRequest says what is to be kept of another issuer.
type IssuerRequest struct {
	Name         string        // iss of its tokens
	MaxLifetime  time.Duration // the longest that they live, in whole seconds
	SameSubjects *bool         // see [Foreign]; nil: as it was, false at first
}

var issuerAdded = Event{Name: "issuer_added"}

// Foreign returns the other issuer of a name, and whether the log knows it.
func (l Log) Foreign(name string) (Foreign, bool) {
	at, found := slices.BinarySearchFunc(l.Issuers, name, compareName)
	if !found {
		return Foreign{}, false
	}
	return l.Issuers[at], true
}

// With returns l with f, in place of one of the same name, whose lifetime it
// does not shorten. Stores call it while they hold the lock of the head.
func (l Log) With(f Foreign) Log {
	at, found := slices.BinarySearchFunc(l.Issuers, f.Name, compareName)
	list := slices.Clone(l.Issuers)
	if found {
		f.MaxLifetime = max(f.MaxLifetime, list[at].MaxLifetime)
		list[at] = f
	} else {
		list = slices.Insert(list, at, f)
	}
	l.Issuers = list
	return l
}

func compareName(f Foreign, name string) int {
	switch {
	case f.Name < name:
		return -1
	case f.Name > name:
		return 1
	}
	return 0
}

// lifetime returns how long after a revocation a token can expire that it kills.
func (l Log) lifetime(name string) time.Duration {
	f, found := l.Foreign(name)
	if !found {
		return l.MaxLifetime
	}
	// The server may have taken the name of an issuer that it knew.
	return max(l.MaxLifetime, f.MaxLifetime+foreignSkew)
}

// ForeignIssuers returns the other issuers that the log knows, in the order of
// their names.
func (i *Issuer) ForeignIssuers(ctx context.Context) (list []Foreign, err error) {
	err = i.store.View(ctx, func(rd Reader) error {
		l, err := rd.Log()
		list = l.Issuers
		return err
	})
	return list, explain("issuer", err)
}

// AddIssuer has the log keep revocations of another issuer's tokens, or changes
// how it does, and returns what is in force. A lifetime never gets shorter.
// Every token that the issuer made before is revoked where something that should
// have revoked one of them may be missing (see doubt).
func (i *Issuer) AddIssuer(ctx context.Context, by Actor, r IssuerRequest) (Foreign, error) {
	switch {
	case !visible(r.Name, 1, 256):
		return Foreign{}, refuse(CodeInvalid, "name: want the iss of its tokens, 1 to 256 visible ASCII characters")
	case r.Name == i.cfg.Issuer:
		return Foreign{}, refuse(CodeInvalid, "name: %q is this server's own issuer, which it knows", r.Name)
	case r.MaxLifetime < time.Second || r.MaxLifetime > maxForeignLifetime || r.MaxLifetime%time.Second != 0:
		return Foreign{}, refuse(CodeInvalid, "max lifetime: want whole seconds, from 1 to %d", maxForeignLifetime/time.Second)
	}
	var made Foreign
	_, err := i.store.Update(ctx, func(tx Tx) (err error) {
		made, err = addIssuer(tx, by, r)
		return err
	})
	return made, explain("issuer", err)
}

func addIssuer(tx Tx, by Actor, r IssuerRequest) (Foreign, error) {
	l, err := tx.Log()
	if err != nil {
		return Foreign{}, err
	}
	former, found := l.Foreign(r.Name)
	if !found && len(l.Issuers) >= maxForeign {
		return Foreign{}, refuse(CodeFull, "the log knows %d other issuers, as many as it can", len(l.Issuers))
	}
	f := Foreign{Name: r.Name, MaxLifetime: max(r.MaxLifetime, former.MaxLifetime), SameSubjects: former.SameSubjects}
	if r.SameSubjects != nil {
		f.SameSubjects = *r.SameSubjects
	}
	if err := tx.PutIssuer(f); err != nil {
		return f, err
	}
	if reason := doubt(l, former, f, found); reason != "" {
		if err := revokeIssuer(tx, f.Name, issuerAdded, by, reason); err != nil {
			return f, err
		}
	}
	detail, err := compact(map[string]any{"issuer": f.Name, "max_lifetime": int64(f.MaxLifetime / time.Second), "same_subjects": f.SameSubjects})
	if err != nil {
		return f, err
	}
	return f, tx.AppendAudit(AuditEntry{Time: tx.Now(), Event: issuerAdded.Name, Actor: by.Name, Address: by.Address, Detail: detail})
}

// doubt returns why revocations of tokens that the issuer f made before may be
// missing from the log l, empty where none can be. Former is what the log knows
// of it, if found.
func doubt(l Log, former, f Foreign, found bool) string {
	switch {
	case !found && l.Epoch > 1:
		return "what the log had of it before the epoch began may be lost"
	case found && f.MaxLifetime > former.MaxLifetime:
		return "its tokens may live longer than those revocations were kept for"
	case found && f.SameSubjects && !former.SameSubjects:
		return "what revoked its subjects before did not revoke them there"
	}
	return ""
}

// revokeIssuer revokes every token that another issuer made before.
func revokeIssuer(tx Tx, name string, e Event, by Actor, reason string) error {
	return tx.AppendRevocation(Revocation{
		Issuer: name, Claim: "iss", Value: name, NotBefore: second(tx.Now()),
		Time: tx.Now(), Event: e.Name, Actor: by.Name, Reason: reason,
	})
}

// second returns a moment as records have it.
func second(t time.Time) uint32 { return uint32(t.Unix()) }

// appendShared appends a revocation of the server's own tokens, and where it
// names a subject, that of every issuer whose subjects are the same. Tokens of
// others do not carry the claims that are kept here, and would be dead with
// nothing to refresh them: those live on where claims change.
func appendShared(tx Tx, r Revocation) error {
	if err := tx.AppendRevocation(r); err != nil || r.Claim != "sub" || r.Event == ClaimsChanged.Name {
		return err
	}
	l, err := tx.Log()
	if err != nil {
		return err
	}
	for _, f := range l.Issuers {
		if !f.SameSubjects {
			continue
		}
		r.Issuer, r.NotBefore = f.Name, second(r.Time)
		if err := tx.AppendRevocation(r); err != nil {
			return err
		}
	}
	return nil
}

// revokeForeign is the transaction of a revocation of another issuer's tokens.
// What claims they carry nobody here can know.
func (i *Issuer) revokeForeign(tx Tx, by Actor, r RevokeRequest, out *Effect) error {
	switch {
	case r.End:
		return refuse(CodeInvalid, "end: the sessions of issuer %q are not kept here; leave it out", r.Issuer)
	case !visible(r.Claim, 1, maxClaimName):
		return refuse(CodeInvalid, "claim: want its name, 1 to %d visible ASCII characters", maxClaimName)
	case r.Claim == "iss" && r.Value != r.Issuer:
		return refuse(CodeInvalid, "value: to end every token of the issuer, name it: %q", r.Issuer)
	case uncountable(r.Claim, r.Value):
		return refuse(CodeInvalid, "value: a number of 2^53 or more cannot be told from its neighbours, and no revocation names it; name another claim of the token")
	}
	l, err := tx.Log()
	if err != nil {
		return err
	}
	if _, found := l.Foreign(r.Issuer); !found {
		return refuse(CodeNotFound, "there is no such issuer; add it first")
	}
	if err := roomForClaim(l, r.Claim); err != nil {
		return err
	}
	out.Event = ClaimRevoked.Name
	err = tx.AppendRevocation(Revocation{
		Issuer: r.Issuer, Claim: r.Claim, Value: r.Value, Before: ClaimRevoked.before(r.Claim), NotBefore: second(tx.Now()), Keep: r.Claim == "kid",
		Time: tx.Now(), Event: ClaimRevoked.Name, Actor: by.Name, Reason: r.Reason,
	})
	if err != nil {
		return err
	}
	detail, err := compact(map[string]string{"issuer": r.Issuer, "claim": r.Claim, "value": r.Value})
	if err != nil {
		return err
	}
	return tx.AppendAudit(AuditEntry{Time: tx.Now(), Event: ClaimRevoked.Name, Actor: by.Name, Address: by.Address, Reason: r.Reason, Detail: detail})
}

// uncountable says whether the value is the text of a number of 2^53 or more,
// which verifiers pass over. The claims that they take as strings alone are told
// apart by every digit.
func uncountable(claim, value string) bool {
	switch claim {
	case "iss", "sub", "aud", "client_id", "sid", "jti", "kid":
		return false
	}
	if first := value[0]; first != '-' && (first < '0' || first > '9') || !json.Valid([]byte(value)) {
		return false
	}
	_, ok := jws.Text([]byte(value))
	return !ok
}
