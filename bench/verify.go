package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"runtime"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/jws"
	"github.com/quashdev/quash/internal/revset"
)

// signer makes tokens that every candidate accepts.
type signer struct {
	alg     string // as RFC 7518 and RFC 8037 name it
	kid     string
	private crypto.PrivateKey
	public  crypto.PublicKey
	jwk     json.RawMessage
}

func newSigner(a jws.Algorithm) (*signer, error) {
	key, err := jws.Generate(a)
	if err != nil {
		return nil, err
	}
	der, err := key.Marshal()
	if err != nil {
		return nil, err
	}
	private, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	s := &signer{alg: string(a), kid: key.Public().ID(), private: private, public: private.(crypto.Signer).Public()}
	if a == jws.Ed25519 {
		s.alg = "EdDSA"
	}
	s.jwk, err = json.Marshal(key.Public())
	return s, err
}

func (s *signer) tokens(n int, head uint64) ([]string, error) {
	return s.tokensFor(maxLifetime, n, head)
}

func (s *signer) tokensFor(lifetime time.Duration, n int, head uint64) ([]string, error) {
	now := time.Now().Unix()
	tokens := make([]string, n)
	for i := range tokens {
		t := jwt.NewWithClaims(jwt.GetSigningMethod(s.alg), jwt.MapClaims{
			"iss": issuerURL, "sub": "u_" + random(), "aud": audience, "client_id": "web",
			"iat": now, "exp": now + int64(lifetime/time.Second), "jti": random(), "sid": "s_" + random(), "rev": head,
		})
		t.Header["typ"], t.Header["kid"] = "at+jwt", s.kid
		var err error
		if tokens[i], err = t.SignedString(s.private); err != nil {
			return nil, err
		}
	}
	return tokens, nil
}

func random() string { return fmt.Sprintf("%016x%06x", rand.Uint64(), rand.N(1<<24)) }

// measureVerify measures Verifier.Verify beside a log of live revocations,
// none of which names a token, so that every look-up is made.
func measureVerify(b *bench) (rows []row, err error) {
	b.progress.show("verify: %d revocations", b.revocations)
	log := newMemoryLog(b.revocations)
	var signers []*signer
	for _, a := range []jws.Algorithm{jws.ES256, jws.Ed25519, jws.RS256} {
		s, err := newSigner(a)
		if err != nil {
			return nil, err
		}
		signers = append(signers, s)
		log.keys = append(log.keys, issuer.SigningKey{ID: s.kid, Algorithm: string(a), Public: s.jwk, Created: time.Now()})
	}
	n, err := startNode(log, nil)
	if err != nil {
		return nil, err
	}
	defer n.stop()
	for _, s := range signers {
		found, err := b.verifyCold(n, s)
		if err != nil {
			return nil, err
		}
		rows = append(rows, found...)
	}
	for _, hot := range []cacheLoad{{b.hot / 10, bound{Least: 250}}, {b.hot, bound{Least: 80}}, {10 * b.hot, bound{Least: 40}}} {
		found, err := b.verifyCached(n, log, signers[1], hot)
		if err != nil {
			return nil, err
		}
		rows = append(rows, found...)
	}
	return rows, nil
}

// cacheLoad is how many tokens are in the cache, and how many times as fast as
// golang-jwt they should be verified.
type cacheLoad struct {
	tokens int
	target bound
}

// verifyCold measures tokens that the verifier has not seen: its cache holds
// none.
func (b *bench) verifyCold(n *node, s *signer) ([]row, error) {
	v, err := openVerifier(b.ctx, n.address, "cold", 1, nil)
	if err != nil {
		return nil, err
	}
	defer v.Close(context.Background())
	tokens, err := s.tokens(10*b.tokens, v.Status().Position)
	if err != nil {
		return nil, err
	}
	apart, err := takeApart(tokens)
	if err != nil {
		return nil, err
	}
	keys := keyring{s.kid: s.public}
	samples, err := b.alternate("verify cold "+s.alg, b.rounds,
		each(tokens, b.tokens, ours(v)), each(apart, b.tokens, func(t bare) error { return t.check(s.public) }),
		each(tokens, b.tokens, withGolangJWT(keys, s.alg)), each(tokens, b.tokens, withGoJOSE(keys, s.alg)),
		each(tokens, b.tokens, withJWX(s.public, s.alg)))
	if err != nil {
		return nil, err
	}
	what, cold := "uncached, "+s.alg, samples[0]
	return []row{
		// The microsecond is for hashing the claims' values and looking them up.
		times(what, seconds, cold, "floor: bare signature", samples[1], bound{Most: 1.10 + 1e-6/median(samples[1])}),
		faster(what, cold, "golang-jwt", samples[2], bound{Least: 1.1}),
		faster(what, cold, "go-jose", samples[3], bound{Least: 1.2}),
		faster(what, cold, "lestrrat jwx", samples[4], bound{Least: 1.5}),
	}, nil
}

func ours(v *quash.Verifier) verification {
	return func(token string) error {
		_, err := v.Verify(token)
		return err
	}
}

// each verifies the next n tokens in every round.
func each[T any](tokens []T, n int, verify func(T) error) candidate {
	next := 0
	return func() (float64, error) {
		return perCall(n, func(int) error {
			next = (next + 1) % len(tokens)
			return verify(tokens[next])
		})
	}
}

// verifyCached measures tokens that the verifier has seen: right after the set
// has changed, and where it has not since they were verified last.
func (b *bench) verifyCached(n *node, log *memoryLog, s *signer, hot cacheLoad) ([]row, error) {
	// Room for twice as many.
	v, err := openVerifier(b.ctx, n.address, "cached", max(32<<20, hot.tokens*2048), nil)
	if err != nil {
		return nil, err
	}
	defer v.Close(context.Background())
	tokens, err := s.tokens(hot.tokens, v.Status().Position)
	if err != nil {
		return nil, err
	}
	rand.Shuffle(len(tokens), func(i, j int) { tokens[i], tokens[j] = tokens[j], tokens[i] })
	// As many of each: what was done meanwhile has taken the processor's caches.
	all, some := each(tokens, len(tokens), ours(v)), each(tokens, b.hot, ours(v))
	if _, err := all(); err != nil {
		return nil, err
	}
	afterChange := func() (float64, error) {
		if _, err := all(); err != nil {
			return 0, err
		}
		n.log.WaitConfirmed(b.ctx, log.append(revset.Key([]byte(random())[:16])))
		return some()
	}
	unchanged := func() (float64, error) {
		if _, err := all(); err != nil {
			return 0, err
		}
		return some()
	}
	golang := each(tokens, b.tokens, withGolangJWT(keyring{s.kid: s.public}, s.alg))
	samples, err := b.alternate("verify cached", b.rounds, afterChange, unchanged, golang, b.lookUpFloor(log, tokens))
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("cached, %s hot, set changed", thousands(float64(hot.tokens)))
	return []row{
		faster(what, samples[0], "golang-jwt EdDSA", samples[2], hot.target),
		times(what, seconds, samples[0], "floor: maphash, 5 look-ups", samples[3], bound{Most: 3.5}),
		faster(strings.Replace(what, "changed", "unchanged", 1), samples[1], "golang-jwt EdDSA", samples[2], bound{}),
	}, nil
}

// lookUpFloor hashes each token and looks five keys up: what a cached verify
// cannot do without, in a set as large.
func (b *bench) lookUpFloor(log *memoryLog, tokens []string) candidate {
	set := revset.New(0)
	seed := maphash.MakeSeed()
	keys := randomKeys(len(tokens)*len(claimNames), 2)
	full := set.Apply(log.records, uint64(len(log.records)))
	next := 0
	return func() (float64, error) {
		if full != nil {
			return 0, full
		}
		return perCall(b.hot, func(int) error {
			next = (next + 1) % len(tokens)
			runtime.KeepAlive(maphash.String(seed, tokens[next]))
			for _, k := range keys[next*len(claimNames):][:len(claimNames)] {
				if _, _, ok := set.Lookup(k); ok {
					return errLookup
				}
			}
			return nil
		})
	}
}
