package quash

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/quashdev/quash/internal/jws"
	"github.com/quashdev/quash/internal/revset"
)

// clockLeeway is how far iat and nbf may lie in the future, and by how much
// exp may exceed the longest lifetime: clocks differ. It never makes a token
// live longer.
const clockLeeway = time.Minute

// kidClaim is the name under which a revocation names a signing key. It stands
// for the header's kid; a claim of that name in the payload means nothing.
const kidClaim = "kid"

// state is what a verifier knows. But for the set it never changes: another
// state takes its place, of another generation, and what was found out under
// the former one holds no longer.
type state struct {
	generation uint64
	set        *revset.Set
	keys       *jws.KeySet
	keysText   []byte // what keys was parsed from
	names      []string
	secret     []byte
	issuer     string
	audience   string
	lifetime   time.Duration    // the longest of the issuer's tokens
	foreign    []*foreignIssuer // other issuers
}

// same says whether o differs from st in nothing but its generation.
func (st *state) same(o *state) bool {
	return st.set == o.set && st.issuer == o.issuer && st.audience == o.audience && st.lifetime == o.lifetime &&
		bytes.Equal(st.secret, o.secret) && bytes.Equal(st.keysText, o.keysText) && slices.Equal(st.names, o.names) &&
		slices.Equal(st.foreign, o.foreign)
}

// errUnknownKey says that a token names a key that the verifier does not have. It
// may be one that was made while the verifier was out of touch.
var errUnknownKey = invalid("the issuer has no key of that kid")

// scratch is the memory that verifying one token needs.
type scratch struct {
	token    jws.Token
	members  []jws.Member
	elements [][]byte
	value    []byte          // of a claim, as it is compared
	text     strings.Builder // what outlives the scratch
}

// keep returns a string claim, as a part of text.
func (s *scratch) keep(value []byte) (claim string, ok bool) {
	s.value, ok = jws.AppendString(s.value[:0], value)
	start := s.text.Len()
	s.text.Write(s.value)
	return s.text.String()[start:], ok
}

// begin makes text one piece of memory with room for what is kept of a token.
func (s *scratch) begin(token string) {
	n := len(token)
	for _, m := range s.members {
		switch m.Name {
		case "sub", "client_id", "sid", "jti":
			n += len(m.Value)
		}
	}
	s.text.Reset()
	s.text.Grow(n)
	s.text.WriteString(token)
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// verify checks everything of a token that no revocation changes, but for
// expiry, and returns what the cache keeps of it.
func (st *state) verify(token string, now time.Time) (*entry, error) {
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	o, err := st.identify(s, token)
	if err != nil {
		return nil, err
	}
	e := &entry{generation: st.generation, foreign: o}
	e.position.Store(nowhere)
	e.claims.Audience = e.one[:0]
	s.begin(token)
	e.claims.token = s.text.String()
	if err := st.read(s, &e.claims, o); err != nil {
		return nil, err
	}
	notBefore, err := notBefore(s.members)
	if err != nil {
		return nil, err
	}
	if err := st.judge(s, &e.claims, o, notBefore, now); err != nil {
		return nil, err
	}
	if e.keys, err = st.revocationKeys(s, o, e.few[:0]); err != nil {
		return nil, err
	}
	for i := range min(len(e.keys), len(e.groups)) {
		e.groups[i] = revset.GroupOf(&e.keys[i])
	}
	e.expires = e.claims.Expires.UnixNano()
	return e, nil
}

// authenticate proves that a key of the issuer signed the token as an access
// token (RFC 9068, section 4).
func (st *state) authenticate(s *scratch, token string) error {
	if err := s.token.Parse(token); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	key, ok := st.keys.Key(s.token.Header.KeyID)
	if !ok {
		return errUnknownKey
	}
	if err := key.Verify(&s.token); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	// Media types compare without regard to case, and may leave out
	// "application/" (RFC 7515, section 4.1.9).
	if typ := s.token.Header.Type; !strings.EqualFold(typ, "at+jwt") && !strings.EqualFold(typ, "application/at+jwt") {
		return invalid("typ is not at+jwt")
	}
	members, err := jws.Members(s.members[:0], s.token.Payload)
	s.members = members
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// read takes the claims out of the payload. A claim that is missing is left
// zero, which check refuses, or is seen here: but for sid, which the tokens that
// clients have for themselves lack. The rev of another issuer's token means
// nothing.
func (st *state) read(s *scratch, c *Claims, o *foreignIssuer) error {
	revision := o != nil
	for _, m := range s.members {
		ok := true
		switch m.Name {
		case "iss":
			c.Issuer, ok = st.text(m.Value)
		case "sub":
			c.Subject, ok = s.keep(m.Value)
		case "client_id":
			c.Client, ok = s.keep(m.Value)
		case "sid":
			c.Session, ok = s.keep(m.Value)
			ok = ok && (c.Session != "" || o != nil)
		case "jti":
			c.ID, ok = s.keep(m.Value)
		case "aud":
			c.Audience, ok = st.audiences(s, c.Audience, m.Value)
		case "iat":
			c.IssuedAt, ok = instant(m.Value)
		case "exp":
			c.Expires, ok = instant(m.Value)
		case "rev":
			if o == nil {
				c.Revision, ok = position(m.Value)
				revision = ok
			}
		}
		if !ok {
			return invalid("claim " + m.Name + " is not of its type")
		}
	}
	if !revision {
		return invalid("claim rev is missing")
	}
	return nil
}

// judge judges the claims of a token that o made, nil standing for Quash itself.
func (st *state) judge(s *scratch, c *Claims, o *foreignIssuer, notBefore, now time.Time) error {
	if o == nil {
		return st.check(c, notBefore, now)
	}
	err := o.check(s, c, notBefore, now)
	o.finish(c)
	return err
}

// check judges the claims of a token of the log's own issuer.
func (st *state) check(c *Claims, notBefore, now time.Time) error {
	latest := now.Add(clockLeeway)
	switch {
	case c.Issuer != st.issuer:
		return invalid("iss is not the issuer")
	case !slices.Contains(c.Audience, st.audience):
		return invalid("aud does not contain the audience")
	case c.Subject == "" || c.Client == "" || c.ID == "":
		return invalid("one of sub, client_id and jti is missing or empty")
	case c.IssuedAt.IsZero() || c.IssuedAt.After(latest):
		return invalid("iat is missing or in the future")
	case notBefore.After(latest) || notBefore.After(c.Expires):
		return invalid("nbf is in the future, or after exp")
	case c.Expires.IsZero() || c.Expires.After(latest.Add(st.lifetime)):
		return invalid("exp is missing, or further off than the longest lifetime")
	}
	return nil
}

// revocationKeys appends the keys of the revocations that would name the
// token: one for each value of each claim that any record names. A number that
// cannot be told from its neighbours leaves in doubt what names it, which
// refuses: but for other issuers' tokens, of which no revocation names one by
// such a number.
func (st *state) revocationKeys(s *scratch, o *foreignIssuer, keys []revset.Key) ([]revset.Key, error) {
	issuer, kid := st.issuer, s.token.Header.KeyID
	if o != nil {
		issuer, kid = o.Name, o.signer(s.token.Header)
		if s.claim(issClaim) == nil && st.revocable(issClaim) {
			keys = append(keys, revset.KeyOf(st.secret, issuer, issClaim, issuer))
		}
	}
	if kid != "" && st.revocable(kidClaim) {
		keys = append(keys, revset.KeyOf(st.secret, issuer, kidClaim, kid))
	}
	for _, m := range s.members {
		if m.Name == kidClaim || !st.revocable(m.Name) {
			continue
		}
		values, ok := jws.Elements(s.elements[:0], m.Value)
		if s.elements = values; !ok {
			s.elements = append(s.elements[:0], m.Value)
		}
		for _, value := range s.elements {
			if !nameable(value) {
				continue
			}
			if s.value, ok = jws.AppendText(s.value[:0], value); ok {
				keys = append(keys, revset.KeyOf(st.secret, issuer, m.Name, s.value))
			} else if o == nil {
				return nil, invalid("claim " + strconv.Quote(m.Name) + " is revocable and has a number that is too large to compare")
			}
		}
	}
	return keys, nil
}

// nameable says whether the value is of a type that revocations name: a string,
// a number or a boolean. Others leave the token to be judged by the rest, or
// else revoking one account's value would lock out another's tokens.
func nameable(value []byte) bool {
	switch value[0] {
	case 'n', '{', '[':
		return false
	}
	return true
}

// revocable says whether any record names the claim. Most tokens' claims are
// told apart from a few names by their length.
func (st *state) revocable(claim string) bool {
	if len(st.names) <= 16 {
		return slices.Contains(st.names, claim)
	}
	_, ok := slices.BinarySearch(st.names, claim)
	return ok
}

// revoked says whether a record kills the token. It looks up only those keys
// that may have changed since they were last looked up in vain. The position
// is loaded before the look-up: what is found is then true of that position at
// least.
func (st *state) revoked(e *entry) bool {
	at, since := st.set.Position(), e.position.Load()
	if since == at {
		return false
	}
	looked := false
	for i := range e.keys {
		if since != nowhere && st.set.Changed(e.group(i)) <= since {
			continue
		}
		if before, notBefore, ok := st.set.Lookup(e.keys[i]); ok && e.killedBy(before, notBefore) {
			return true
		}
		looked = true
	}
	if looked { // else it costs a few loads again, where a write would take the line from other processors
		e.position.Store(at)
	}
	return false
}

// text returns a string, of the one copy that the state has where it is the
// issuer or the audience, as in nearly every token.
func (st *state) text(value []byte) (string, bool) {
	if n := len(value) - 2; n > 0 && value[0] == '"' {
		for _, s := range [...]string{st.issuer, st.audience} {
			if s == string(value[1:n+1]) && !strings.ContainsAny(s, `"\`) {
				return s, true
			}
		}
	}
	return jws.String(value)
}

// audiences appends what aud says: a string, or an array of strings (RFC 7519,
// section 4.1.3).
func (st *state) audiences(s *scratch, list []string, value []byte) ([]string, bool) {
	elements, ok := jws.Elements(s.elements[:0], value)
	if s.elements = elements; !ok {
		s.elements = append(s.elements[:0], value)
	}
	for _, element := range s.elements {
		name, ok := st.text(element)
		if !ok {
			return nil, false
		}
		list = append(list, name)
	}
	return list, true
}

// notBefore returns nbf, and the zero time where the token has none.
func notBefore(members []jws.Member) (time.Time, error) {
	for _, m := range members {
		if m.Name != "nbf" {
			continue
		}
		t, ok := instant(m.Value)
		if !ok {
			return t, invalid("claim nbf is not of its type")
		}
		return t, nil
	}
	return time.Time{}, nil
}

func position(value []byte) (uint64, bool) {
	n, ok := jws.Integer(value)
	return uint64(n), ok && n >= 0 && uint64(n) < revset.MaxPosition
}

// instant reads a NumericDate (RFC 7519, section 2). A fraction is rounded to
// what a double can tell apart, never up to the next second.
func instant(value []byte) (time.Time, bool) {
	seconds, fraction, ok := jws.NumericDate(value)
	if !ok {
		return time.Time{}, false
	}
	nanos := int64(0)
	if fraction {
		f, err := strconv.ParseFloat(string(value), 64)
		if err != nil {
			return time.Time{}, false
		}
		nanos = min(int64((f-float64(seconds))*1e9), 999_999_999)
	}
	return time.Unix(seconds, max(nanos, 0)).UTC(), true
}
