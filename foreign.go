package quash

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/jws"
	"github.com/quashdev/quash/internal/revset"
)

const (
	maxIssuers      = 16
	defaultLifetime = 24 * time.Hour
	maxSkew         = 10 * time.Minute
	issClaim        = "iss"
)

// Issuer is another issuer whose tokens a verifier accepts beside Quash's own:
// an identity provider, or the application itself before it came to Quash. The
// node must have been told of it with "quash issuer add", because it keeps what
// revokes its tokens.
//
// Such tokens carry no rev, and none is believed. A revocation kills those whose
// iat lies at or before its second, plus Skew; one for ever, of a sid, a jti or
// a kid, kills whatever iat says; and a token without iat is dead once any
// revocation names one of its claims. Of a token's claims exp alone is required,
// and aud where Audience is set.
//
// Exactly one of JWKS, Keys and Secret says how its tokens are checked. A key of
// one issuer never checks a token of another.
type Issuer struct {
	// Name is the iss of its tokens, 1 to 256 visible ASCII characters, and
	// what revocations call it. It differs from the node's own. Required.
	Name string

	// JWKS is the URL of its JSON Web Key Set: https, or http to loopback.
	// It is fetched when the verifier opens, every 15 minutes or as its
	// Cache-Control has it (1 minute to 1 hour), and at most once a minute
	// besides where a token names a key that is not there. The last good set
	// stays in use whatever comes later; before the first one the issuer's
	// tokens answer ErrNotReady.
	JWKS string
	// Keys is a JSON Web Key Set that does not change.
	Keys []byte
	// Secret, of 32 octets or more, checks tokens that an application made
	// with HS256, until the moment Until, which is then required: whoever has
	// the secret can make tokens. Such a token may have no iss.
	Secret []byte
	// Until is when the last of those that Secret checks is dead.
	Until time.Time

	// Audience is what a token's aud must contain. Required, but with Secret:
	// there, empty means that tokens must have no aud.
	Audience string
	// Types are the typ that are accepted, without regard to case and to
	// "application/" in front; "" stands for a header without one. Nil:
	// "at+jwt" (RFC 9068). Many libraries write "JWT", which ID tokens have as
	// well: name it where nothing else that the issuer signs has the audience.
	Types []string
	// MaxLifetime is the longest that its tokens live, up to 10 years. One that
	// lives longer is refused. 0: 24 hours. The node must keep revocations of
	// the issuer for at least as long.
	MaxLifetime time.Duration
	// Skew is by how much its clock may be off, up to 10 minutes. 0: 1 minute.
	Skew time.Duration
}

// foreignIssuer is an issuer as a state has it. It does not change: another
// takes its place where its keys do.
type foreignIssuer struct {
	Issuer
	secret   *jws.Secret
	keys     *jws.KeySet // nil before the first good set
	keysText []byte      // what keys was parsed from
	source   *keySource  // nil but with JWKS
}

// foreignIssuers checks the issuers and fills in their defaults.
func (c *Config) foreignIssuers() ([]*foreignIssuer, error) {
	if len(c.Issuers) > maxIssuers {
		return nil, fmt.Errorf("issuers: %d of them, want at most %d", len(c.Issuers), maxIssuers)
	}
	var all []*foreignIssuer
	for _, i := range c.Issuers {
		o, err := newForeignIssuer(i)
		if err != nil {
			return nil, fmt.Errorf("issuer %q: %w", i.Name, err)
		}
		for _, former := range all {
			switch {
			case former.Name == o.Name:
				return nil, fmt.Errorf("issuer %q: there are two of this name", o.Name)
			case o.Secret != nil && bytes.Equal(former.Secret, o.Secret):
				return nil, fmt.Errorf("issuer %q: it has the secret of %q, so that nobody could tell their tokens apart", o.Name, former.Name)
			}
		}
		all = append(all, o)
	}
	return all, nil
}

func newForeignIssuer(i Issuer) (*foreignIssuer, error) {
	if err := i.check(); err != nil {
		return nil, err
	}
	i.Keys, i.Secret, i.Types = bytes.Clone(i.Keys), bytes.Clone(i.Secret), slices.Clone(i.Types)
	if i.Types == nil {
		i.Types = []string{"at+jwt"}
	}
	for at, typ := range i.Types {
		i.Types[at] = shortType(typ)
	}
	if i.MaxLifetime == 0 {
		i.MaxLifetime = defaultLifetime
	}
	if i.Skew == 0 {
		i.Skew = clockLeeway
	}
	o := &foreignIssuer{Issuer: i}
	var err error
	switch {
	case i.JWKS != "":
		o.source = newKeySource(i.Name, i.JWKS)
	case i.Secret != nil:
		o.secret, err = jws.NewSecret(i.Secret)
	default:
		err = o.setKeys(i.Keys)
	}
	return o, err
}

func (i *Issuer) check() error {
	ways := 0
	for _, given := range [...]bool{i.JWKS != "", i.Keys != nil, i.Secret != nil} {
		ways += bit(given)
	}
	switch {
	case !visible(i.Name, 256):
		return errors.New("name: want the iss of its tokens, 1 to 256 visible ASCII characters")
	case ways != 1:
		return fmt.Errorf("want exactly one of JWKS, Keys and Secret, got %d", ways)
	case i.JWKS != "" && !fetchable(i.JWKS):
		return errors.New("JWKS: want an https URL, or an http one to loopback, without credentials and fragment")
	case (i.Secret == nil) != i.Until.IsZero():
		return errors.New("until: want it with a secret, and with nothing else: it says when the secret is accepted no more")
	case i.Secret == nil && i.Audience == "":
		return errors.New("audience: want what the aud of its tokens contains, or else tokens for other services would be accepted")
	case i.MaxLifetime < 0 || i.MaxLifetime > maxLifetime || i.MaxLifetime%time.Second != 0:
		return fmt.Errorf("max lifetime %s: want whole seconds, at most 10 years", i.MaxLifetime)
	case i.Skew < 0 || i.Skew > maxSkew || i.Skew%time.Second != 0:
		return fmt.Errorf("skew %s: want whole seconds, at most %s", i.Skew, maxSkew)
	case i.Types != nil && len(i.Types) == 0:
		return errors.New(`types: want at least one, or nil for "at+jwt"`)
	}
	return nil
}

func fetchable(text string) bool {
	u, err := url.Parse(text)
	return err == nil && u.Host != "" && u.User == nil && u.Fragment == "" && (u.Scheme == "https" || u.Scheme == "http" && loopback(u.Hostname()))
}

// setKeys refuses a set without a key of use, too: it could only be a mistake.
func (o *foreignIssuer) setKeys(text []byte) error {
	keys, err := jws.ParseForeignKeySet(text)
	if err == nil && keys.Len() == 0 {
		err = errors.New("the set has no key for ES256, Ed25519 or RS256")
	}
	if err != nil {
		return fmt.Errorf("its keys: %w", err)
	}
	o.keys, o.keysText = keys, bytes.Clone(text)
	return nil
}

// checkIssuers checks that the node keeps revocations of every issuer, for long
// enough. What "quash issuer add" mends is no refusal: the node may only not
// have read yet what was committed.
func checkIssuers(h *feed.Hello, issuers []*foreignIssuer) error {
	for _, o := range issuers {
		at := slices.IndexFunc(h.Issuers, func(i feed.Issuer) bool { return i.Name == o.Name })
		switch longest := int64(o.MaxLifetime / time.Second); {
		case o.Name == h.Issuer:
			return refusal{fmt.Errorf("issuer %q is the node's own: give one of the two another name", o.Name)}
		case at < 0:
			return fmt.Errorf("the node does not know issuer %q: run quash issuer add %s --max-lifetime %s", o.Name, o.Name, o.MaxLifetime)
		case h.Issuers[at].MaxLifetime < longest:
			return fmt.Errorf("the node keeps revocations of issuer %q for tokens that live %s, which is shorter than MaxLifetime: run quash issuer add %s --max-lifetime %s",
				o.Name, time.Duration(h.Issuers[at].MaxLifetime)*time.Second, o.Name, o.MaxLifetime)
		}
	}
	return nil
}

// identify proves which issuer made the token, nil standing for Quash itself.
// Only the issuer that iss names is asked; a secret stands for its issuer where
// there is no iss.
func (st *state) identify(s *scratch, token string) (*foreignIssuer, error) {
	if len(st.foreign) == 0 {
		return nil, st.authenticate(s, token)
	}
	if err := s.parseForeign(token); err != nil {
		return nil, err
	}
	claim := s.claim(issClaim)
	if claim == nil {
		return st.unnamed(s)
	}
	iss, ok := jws.String(claim)
	if !ok {
		return nil, invalid("claim iss is not of its type")
	}
	if iss == st.issuer {
		return nil, st.authenticate(s, token)
	}
	for _, o := range st.foreign {
		if o.Name == iss {
			return o, o.authenticate(s)
		}
	}
	return nil, invalid("iss is none of the issuers")
}

// unnamed finds the issuer of a token without iss.
func (st *state) unnamed(s *scratch) (*foreignIssuer, error) {
	for _, o := range st.foreign {
		if o.secret != nil && o.secret.Verify(&s.token) == nil {
			return o, o.checkType(s.token.Header.Type)
		}
	}
	return nil, invalid("iss is missing, and no secret of an issuer made the token")
}

func (s *scratch) parseForeign(token string) error {
	if err := s.token.ParseForeign(token); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	members, err := jws.Members(s.members[:0], s.token.Payload)
	s.members = members
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// claim returns the JSON text of a claim, nil where there is none.
func (s *scratch) claim(name string) []byte {
	for i := range s.members {
		if s.members[i].Name == name {
			return s.members[i].Value
		}
	}
	return nil
}

// authenticate proves that the issuer made the token as one of the accepted
// types.
func (o *foreignIssuer) authenticate(s *scratch) error {
	if o.secret != nil {
		if err := o.secret.Verify(&s.token); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		return o.checkType(s.token.Header.Type)
	}
	if o.keys == nil {
		return fmt.Errorf("%w: the keys of issuer %q could not be fetched yet", ErrNotReady, o.Name)
	}
	key, ok := o.keys.For(s.token.Header)
	if !ok {
		o.source.want()
		return errForeignKey
	}
	if err := key.Verify(&s.token); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return o.checkType(s.token.Header.Type)
}

var errForeignKey = invalid("its issuer has no key of that kid, or, without a kid, not exactly one of that algorithm")

func (o *foreignIssuer) checkType(typ string) error {
	typ = shortType(typ)
	if !slices.ContainsFunc(o.Types, func(t string) bool { return strings.EqualFold(t, typ) }) {
		return invalid("typ is none of its issuer's types")
	}
	return nil
}

// shortType returns a media type without the "application/" that a typ may leave
// out (RFC 7515, section 4.1.9).
func shortType(typ string) string {
	const prefix = "application/"
	if len(typ) > len(prefix) && strings.EqualFold(typ[:len(prefix)], prefix) {
		return typ[len(prefix):]
	}
	return typ
}

// check judges the claims of a token that the issuer made. It bounds how long
// the token lives in all, too: it must not outlive a revocation that was
// forgotten. That bound has no leeway, because both moments are by one clock.
func (o *foreignIssuer) check(s *scratch, c *Claims, notBefore, now time.Time) error {
	latest := now.Add(o.Skew)
	switch {
	case o.Audience == "" && s.claim("aud") != nil:
		return invalid("it has an aud, where its issuer's tokens have none")
	case o.Audience != "" && !slices.Contains(c.Audience, o.Audience):
		return invalid("aud does not contain the audience")
	case c.IssuedAt.After(latest):
		return invalid("iat is in the future")
	case notBefore.After(latest) || notBefore.After(c.Expires):
		return invalid("nbf is in the future, or after exp")
	case c.Expires.IsZero() || c.Expires.After(now.Add(o.MaxLifetime+max(o.Skew, clockLeeway))):
		return invalid("exp is missing, or further off than its issuer's longest lifetime")
	case !c.IssuedAt.IsZero() && c.Expires.Sub(c.IssuedAt) > o.MaxLifetime:
		return invalid("it lives longer than its issuer's longest lifetime")
	}
	return nil
}

// finish puts the issuer's name in the place of an iss that is missing, and ends
// the token with the secret that made it.
func (o *foreignIssuer) finish(c *Claims) {
	c.Issuer = o.Name
	if !o.Until.IsZero() && o.Until.Before(c.Expires) {
		c.Expires = o.Until.UTC()
	}
}

// signer returns the kid that a revocation names the token's key by, empty where
// it has none.
func (o *foreignIssuer) signer(h jws.Header) string {
	if o.keys == nil {
		return h.KeyID
	}
	if key, ok := o.keys.For(h); ok {
		return key.ID()
	}
	return ""
}

// killedBy says whether a record kills the token. One without a time leaves in
// doubt what it kills, as a token without iat does: that refuses.
func (e *entry) killedBy(before uint64, notBefore uint32) bool {
	switch {
	case e.foreign == nil:
		return e.claims.Revision < before
	case before == revset.Forever || notBefore == 0 || e.claims.IssuedAt.IsZero():
		return true
	}
	return e.claims.IssuedAt.Unix() <= int64(notBefore)+int64(e.foreign.Skew/time.Second)
}
