package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejwt "github.com/go-jose/go-jose/v4/jwt"
	"github.com/golang-jwt/jwt/v5"
	"github.com/lestrrat-go/jwx/v3/jwa"
	jwxjwt "github.com/lestrrat-go/jwx/v3/jwt"
)

var errSignature = errors.New("the signature is wrong")

// verification checks a token, wholly or, where it is a floor, its signature.
type verification func(token string) error

// keyring is what a peer is given: public keys by kid.
type keyring map[string]crypto.PublicKey

func (k keyring) key(kid any) (crypto.PublicKey, error) {
	id, _ := kid.(string)
	if key, ok := k[id]; ok {
		return key, nil
	}
	return nil, errors.New("no such key")
}

type golangClaims struct {
	jwt.RegisteredClaims
	Client   string `json:"client_id"`
	Session  string `json:"sid"`
	Revision uint64 `json:"rev"`
}

// withGolangJWT checks what golang-jwt can: signature, iss, aud and times.
func withGolangJWT(keys keyring, alg string) verification {
	read := golangJWT(keys, alg)
	return func(token string) error {
		_, err := read(token)
		return err
	}
}

func golangJWT(keys keyring, alg string) func(token string) (*golangClaims, error) {
	parser := jwt.NewParser(jwt.WithValidMethods([]string{alg}), jwt.WithIssuer(issuerURL), jwt.WithAudience(audience), jwt.WithExpirationRequired())
	choose := func(t *jwt.Token) (any, error) { return keys.key(t.Header["kid"]) }
	return func(token string) (*golangClaims, error) {
		c := new(golangClaims)
		_, err := parser.ParseWithClaims(token, c, choose)
		return c, err
	}
}

type joseClaims struct {
	josejwt.Claims
	Client   string `json:"client_id"`
	Session  string `json:"sid"`
	Revision uint64 `json:"rev"`
}

// withGoJOSE checks what go-jose can: signature, iss, aud and times.
func withGoJOSE(keys keyring, alg string) verification {
	algorithms := []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)}
	return func(token string) error {
		t, err := josejwt.ParseSigned(token, algorithms)
		if err != nil {
			return err
		}
		key, err := keys.key(t.Headers[0].KeyID)
		if err != nil {
			return err
		}
		var c joseClaims
		if err := t.Claims(key, &c); err != nil {
			return err
		}
		return c.Validate(josejwt.Expected{Issuer: issuerURL, AnyAudience: josejwt.Audience{audience}, Time: time.Now()})
	}
}

// withJWX checks what jwx can, with its one key, which is faster than by kid.
func withJWX(key crypto.PublicKey, alg string) verification {
	algorithm, known := jwa.LookupSignatureAlgorithm(alg)
	return func(token string) error {
		if !known {
			return fmt.Errorf("jwx does not know %s", alg)
		}
		_, err := jwxjwt.ParseString(token, jwxjwt.WithKey(algorithm, key), jwxjwt.WithIssuer(issuerURL), jwxjwt.WithAudience(audience))
		return err
	}
}

// bare is a token taken apart: what nobody can check in less time than its
// signature takes.
type bare struct{ text, signature []byte }

func takeApart(tokens []string) ([]bare, error) {
	apart := make([]bare, len(tokens))
	for i, t := range tokens {
		dot := strings.LastIndexByte(t, '.')
		signature, err := base64.RawURLEncoding.DecodeString(t[dot+1:])
		if err != nil {
			return nil, err
		}
		apart[i] = bare{[]byte(t[:dot]), signature}
	}
	return apart, nil
}

func (b bare) check(key crypto.PublicKey) error {
	good := false
	switch key := key.(type) {
	case ed25519.PublicKey:
		good = ed25519.Verify(key, b.text, b.signature)
	case *ecdsa.PublicKey:
		digest := sha256.Sum256(b.text)
		r, s := new(big.Int).SetBytes(b.signature[:32]), new(big.Int).SetBytes(b.signature[32:])
		good = ecdsa.Verify(key, digest[:], r, s)
	case *rsa.PublicKey:
		digest := sha256.Sum256(b.text)
		good = rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], b.signature) == nil
	}
	if !good {
		return errSignature
	}
	return nil
}
