package jws_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"

	"github.com/quashdev/quash/internal/jws"
)

// rfcKeys are private keys that RFCs publish: appendices A.2 and A.3 of RFC
// 7515, and A.1 of RFC 8037. Nothing may be kept safe with them.
//
//go:embed testdata/rfc_keys.json
var rfcKeys []byte

// A signer makes tokens that PrivateKey would not, and always the same ones.
type signer struct {
	key crypto.Signer
	jws *jws.PrivateKey
}

var es, ed, rs = loadSigners()

func loadSigners() (es, ed, rs signer) {
	var keys map[string]struct{ X, Y, D, N, P, Q string }
	if err := json.Unmarshal(rfcKeys, &keys); err != nil {
		panic(err)
	}
	k := keys["ES256"]
	ec := must(ecdsa.ParseRawPrivateKey(elliptic.P256(), unb64(k.D)))
	k = keys["RS256"]
	rsaKey := &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: unb64Int(k.N), E: 65537},
		D:         unb64Int(k.D),
		Primes:    []*big.Int{unb64Int(k.P), unb64Int(k.Q)},
	}
	rsaKey.Precompute()
	return newSigner(ec), newSigner(ed25519.NewKeyFromSeed(unb64(keys["Ed25519"].D))), newSigner(rsaKey)
}

func newSigner(key crypto.Signer) signer {
	return signer{key: key, jws: must(jws.ParsePrivateKey(must(x509.MarshalPKCS8PrivateKey(key))))}
}

func (s signer) id() string { return s.jws.Public().ID() }

func (s signer) alg() string { return string(s.jws.Public().Algorithm()) }

// header returns the header that PrivateKey writes, with more members at its end.
func (s signer) header(more string) string {
	return fmt.Sprintf(`{"alg":"%s","kid":"%s","typ":"at+jwt"%s}`, s.alg(), s.id(), more)
}

// token signs any header and payload.
func (s signer) token(header, payload string) string {
	signed := b64(header) + "." + b64(payload)
	return signed + "." + b64(string(s.sign(signed)))
}

// sign is deterministic for every algorithm (for ECDSA by RFC 6979).
func (s signer) sign(text string) []byte {
	digest := sha256.Sum256([]byte(text))
	switch key := s.key.(type) {
	case ed25519.PrivateKey:
		return ed25519.Sign(key, []byte(text))
	case *ecdsa.PrivateKey:
		return p1363(must(key.Sign(nil, digest[:], crypto.SHA256)))
	case *rsa.PrivateKey:
		return must(rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest[:]))
	}
	panic("unknown key")
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func unb64(s string) []byte { return must(base64.RawURLEncoding.DecodeString(s)) }

func unb64Int(s string) *big.Int { return new(big.Int).SetBytes(unb64(s)) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
