package issuer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quashdev/quash/internal/jws"
)

// ClientProof is what a client shows of who it is.
type ClientProof struct {
	Method    AuthMethod
	ID        string // client_id; may be empty beside an assertion, which names it
	Secret    string // of SecretBasic and SecretPost
	Assertion string // of PrivateKeyJWT
	Address   string // where it comes from
}

var errClient = refuse(CodeClient, "the client is not known here, or did not show by its method that it is it")

// AuthenticateClient returns the client that a proof is good for, and notes its
// use. Every other proof is CodeClient, after as much work where there is no
// such client; too many of them are CodeLimited.
func (i *Issuer) AuthenticateClient(ctx context.Context, p ClientProof) (Client, error) {
	var a assertion
	var malformed error
	if p.Method == PrivateKeyJWT {
		a, malformed = readAssertion(p.Assertion)
		setDefault(&p.ID, p.ID == "", a.subject)
	}
	if err := i.limits.client(ctx, p); err != nil {
		return Client{}, err
	}
	if malformed != nil {
		return Client{}, i.limits.refused(ctx, p, malformed)
	}
	c, now, err := i.proven(ctx, p, &a)
	if CodeOf(err) == CodeClient {
		err = i.limits.refused(ctx, p, err)
	}
	if err != nil {
		return Client{}, explain("client", err)
	}
	if now.Sub(c.LastUsed) >= time.Minute {
		if err := i.noteClientUse(ctx, c.ID); err != nil {
			i.cfg.Logger.Warn("the use of a client could not be noted; it was let in all the same", "client", c.ID, "error", err)
		}
	}
	return c, nil
}

// proven returns the client, and the time of the database.
func (i *Issuer) proven(ctx context.Context, p ClientProof, a *assertion) (c Client, now time.Time, err error) {
	err = i.store.View(ctx, func(rd Reader) (err error) {
		c, err = rd.Client(p.ID)
		now = rd.Now()
		return err
	})
	if err != nil && !errors.Is(err, ErrNotFound) {
		return c, now, err
	}
	known, good := err == nil, true
	switch p.Method {
	case SecretBasic, SecretPost:
		good = c.holds(p.Secret, now)
	case PrivateKeyJWT:
		good = a.signed(c)
	}
	if !known || !good || c.Method != p.Method {
		return c, now, errClient
	}
	if p.Method != PrivateKeyJWT {
		return c, now, nil
	}
	return c, now, i.redeem(ctx, c, a, now)
}

// noteClientUse writes down that a client was used; others may have done so
// meanwhile.
func (i *Issuer) noteClientUse(ctx context.Context, id string) error {
	_, err := i.store.Update(ctx, func(tx Tx) error {
		c, err := tx.Client(id)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		c.LastUsed = tx.Now().Truncate(time.Minute)
		return tx.PutClient(c)
	})
	return err
}

// assertion is a JSON Web Token by which a client shows who it is (RFC 7523,
// section 2.2).
type assertion struct {
	token           jws.Token
	issuer, subject string
	id              string   // jti
	audience        []string // nil where it is not of its type
	expires, before int64    // exp and nbf or, if that is later, iat; 0 where there is none
}

const (
	// maxAssertionLife is how far off exp may be: for so long a jti is
	// remembered, and for so long one that was stolen can be used first.
	maxAssertionLife = 5 * time.Minute
	assertionLeeway  = time.Minute // for iat and nbf, because clocks differ
	maxAssertionID   = 255
)

// readAssertion reads what an assertion says. Nothing of it is proved.
func readAssertion(text string) (a assertion, err error) {
	if err := a.token.ParseForeign(text); err != nil {
		return a, refuse(CodeClient, "client_assertion: not a token as it is taken here: %v", err)
	}
	switch typ := strings.TrimPrefix(strings.ToLower(a.token.Header.Type), "application/"); typ {
	case "", "jwt", "client-authentication+jwt":
	default:
		return a, refuse(CodeClient, "client_assertion: its typ is that of another kind of token; want client-authentication+jwt")
	}
	members, err := jws.Members(nil, a.token.Payload)
	if err != nil {
		return a, refuse(CodeClient, "client_assertion: its claims are not one JSON object with each name once")
	}
	for _, m := range members {
		if !a.take(m) {
			return a, refuse(CodeClient, "client_assertion: the claim %s is not of its type", m.Name)
		}
	}
	return a, nil
}

func (a *assertion) take(m jws.Member) (ok bool) {
	var at int64
	switch m.Name {
	case "iss":
		a.issuer, ok = jws.String(m.Value)
	case "sub":
		a.subject, ok = jws.String(m.Value)
	case "jti":
		a.id, ok = jws.String(m.Value)
	case "aud":
		a.audience, ok = audiences(m.Value)
	case "exp":
		a.expires, _, ok = jws.NumericDate(m.Value)
	case "nbf", "iat":
		at, _, ok = jws.NumericDate(m.Value)
		a.before = max(a.before, at)
	default:
		return true
	}
	return ok
}

// audiences reads aud: a string or an array of them (RFC 7519, section 4.1.3).
func audiences(value []byte) ([]string, bool) {
	if one, ok := jws.String(value); ok {
		return []string{one}, true
	}
	elements, ok := jws.Elements(nil, value)
	all := make([]string, len(elements))
	for n := range elements {
		if ok {
			all[n], ok = jws.String(elements[n])
		}
	}
	return all, ok
}

// decoys are a key of each algorithm whose private halves nobody has.
const decoys = `{"keys":[
	{"crv":"P-256","kty":"EC","x":"AE7lWrjZODzO9rwYH5DsfLZ2mk5e4JDI4c-hMizgTAU","y":"Iyo03nIS01KJ9pWh4i6IQ_Lv_LYS_aMJzbfi22R9o8M","kid":"lNWxjOR3nfL4GnnfIbXs22kaJX9ofqbp-23mhLvThS4","use":"sig","alg":"ES256"},
	{"crv":"Ed25519","kty":"OKP","x":"q-LnX7KIgAFUqTOjRhYr4czKQ-5NewbtTZ-6MuP53W0","kid":"swI9_YjGv07Zyzfd79sRf4GSMp7_IG9i_fZm7r0urVU","use":"sig","alg":"Ed25519"},
	{"e":"AQAB","kty":"RSA","n":"s8TUk73JUv1TurhkjpJgI68ZougSsyLaE6JxfkS3U7FFO4fA_Y69Ey-Ij_ifTBpL1qR9EjX9m1zs-929a3X6Irqd3nOJ9QjRefAPe0Lm4359fF8uAvPuFTNf6sHk-nbEpDz3ytHLOYdmV7ncge6Zc7M0hqGWaXgZxGn3-7PLiEB85FNx8ZYc9aMIu7swV-LVFqUXFwOt3m7DF4ViaNVgAbeaUl8s8yhHhkuUxoUssPpK0GqnnteNVh46HmGXnVK-Nb9IFLH5z80g9-015YaYM_JKDcT6U8NI0xaCwUXIV0X5M4E2TUK9PhIgfbJYGev-zgVXnM0iiZV4_MlSVspstw","kid":"rOZ6WdEp3O5FbDADQUgVcrnpaMG1UNOacw8-ln0w88I","use":"sig","alg":"RS256"}
]}`

var decoyKeys = sync.OnceValues(func() (*jws.KeySet, error) { return jws.ParseKeySet([]byte(decoys)) })

// signed reports whether one of the client's keys signed the assertion. Where
// there is no such key, a decoy stands in, so that it takes as long.
func (a *assertion) signed(c Client) bool {
	text := []byte(c.Keys)
	setDefault(&text, text == nil, []byte(decoys))
	keys, err := jws.ParseKeySet(text)
	if err != nil {
		return false
	}
	key, found := keys.For(a.token.Header)
	if !found {
		key = decoy(a.token.Header.Algorithm)
	}
	return key != nil && key.Verify(&a.token) == nil && found && c.Keys != nil
}

// decoy returns the decoy of an algorithm, nil where no client has a key for it.
func decoy(algorithm string) *jws.PublicKey {
	keys, err := decoyKeys()
	if err != nil {
		return nil
	}
	key, _ := keys.For(jws.Header{Algorithm: algorithm})
	return key
}

// redeem judges a signed assertion and spends it. The audience is the issuer
// and nothing else, or whoever a client sends an assertion to could use it here.
func (i *Issuer) redeem(ctx context.Context, c Client, a *assertion, now time.Time) error {
	expires := time.Unix(a.expires, 0)
	switch {
	case a.issuer != c.ID || a.subject != c.ID:
		return refuse(CodeClient, "client_assertion: want the client_id as iss and sub")
	case !slices.Equal(a.audience, []string{i.cfg.Issuer}):
		return refuse(CodeClient, "client_assertion: want the issuer, %s, and nothing else as aud", i.cfg.Issuer)
	case a.expires == 0 || !now.Before(expires) || expires.After(now.Add(maxAssertionLife)):
		return refuse(CodeClient, "client_assertion: want an exp that is ahead, and at most %v", maxAssertionLife)
	case time.Unix(a.before, 0).After(now.Add(assertionLeeway)):
		return refuse(CodeClient, "client_assertion: its iat or nbf is in the future")
	case a.id == "" || len(a.id) > maxAssertionID:
		return refuse(CodeClient, "client_assertion: want a jti of 1 to %d octets", maxAssertionID)
	}
	id := sha256.Sum256(fmt.Appendf(nil, "%d:%s%s", len(c.ID), c.ID, a.id))
	_, err := i.store.Update(ctx, func(tx Tx) error { return tx.SpendAssertion(id, expires) })
	if errors.Is(err, ErrExists) {
		err = refuse(CodeClient, "client_assertion: it was used before; make a new one, with another jti, for each request")
	}
	return err
}
