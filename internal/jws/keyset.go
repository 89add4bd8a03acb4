package jws

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
)

// MaxKeySet is the largest JSON Web Key Set that is parsed, in octets, and
// MaxForeignKeySet the largest of another issuer, which may have certificates
// beside its keys.
const (
	MaxKeySet        = 64 << 10
	MaxForeignKeySet = 1 << 20
)

// maxForeignKeys is how many keys another issuer may have.
const maxForeignKeys = 100

// KeySet is a set of public keys that differ in kid. The zero KeySet is empty.
type KeySet struct {
	keys []*PublicKey
	byID map[string]*PublicKey
}

// NewKeySet returns the set of these keys, in their order. Two with one kid
// are an error.
func NewKeySet(keys ...*PublicKey) (*KeySet, error) {
	s := &KeySet{keys: slices.Clone(keys), byID: make(map[string]*PublicKey, len(keys))}
	for _, k := range keys {
		if _, ok := s.byID[k.id]; ok {
			return nil, fmt.Errorf("key set: %w: two keys have the kid %q", ErrMalformed, k.id)
		}
		s.byID[k.id] = k
	}
	return s, nil
}

// ParseKeySet reads a JSON Web Key Set (RFC 7517, section 5).
//
// It refuses the whole set, with an [ErrMalformed], where publishing it was a
// mistake or an attack: it is longer than [MaxKeySet] or not strict JSON; two
// keys have one kid; a key is private or symmetric, or has the alg of another
// kind of key; an RSA modulus has fewer than 2048 or more than 8192 bits, is
// even or can be factored (CVE-2017-15361), an exponent is even or below 65537;
// a P-256 point is off the curve, an Ed25519 point of small order or not
// canonical; a value has the wrong length or leading zeros.
//
// It skips a key that this package has no use for: kty, crv or alg unknown, no
// kid that a token could name, use other than "sig", key_ops without "verify".
func ParseKeySet(jwks []byte) (*KeySet, error) {
	if len(jwks) > MaxKeySet {
		return nil, fmt.Errorf("key set: %w: it is longer than %d octets", ErrMalformed, MaxKeySet)
	}
	return parseKeySet(jwks, false)
}

// ParseForeignKeySet reads the JSON Web Key Set of another issuer. It differs
// from ParseKeySet in the bounds, [MaxForeignKeySet] and 100 keys, and in that a
// key may have no kid: its thumbprint (RFC 7638) stands for it.
func ParseForeignKeySet(jwks []byte) (*KeySet, error) {
	if len(jwks) > MaxForeignKeySet {
		return nil, fmt.Errorf("key set: %w: it is longer than %d octets", ErrMalformed, MaxForeignKeySet)
	}
	return parseKeySet(jwks, true)
}

func parseKeySet(jwks []byte, foreign bool) (*KeySet, error) {
	elements, err := keyElements(jwks)
	if err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	if foreign && len(elements) > maxForeignKeys {
		return nil, fmt.Errorf("key set: %w: it has %d keys, more than %d", ErrMalformed, len(elements), maxForeignKeys)
	}
	var keys []*PublicKey
	ids := make(map[string]bool, len(elements))
	for i, element := range elements {
		r, err := parseKeyRecord(element)
		if err != nil {
			return nil, fmt.Errorf("key set: key %d: %w", i, err)
		}
		if ids[r.ID] && r.ID != "" {
			return nil, fmt.Errorf("key set: key %d: %w: another key has its kid", i, ErrMalformed)
		}
		ids[r.ID] = true
		if !r.usable() || !validKeyID(r.ID) && (!foreign || r.ID != "") {
			continue
		}
		key, err := r.publicKey()
		if err != nil {
			return nil, fmt.Errorf("key set: key %d: %w: %w", i, ErrMalformed, err)
		}
		keys = append(keys, key)
	}
	return NewKeySet(keys...)
}

// Key returns the key that has this kid.
func (s *KeySet) Key(kid string) (*PublicKey, bool) {
	k, ok := s.byID[kid]
	return k, ok
}

// For returns the key that a token of this header is to be checked with: that
// of its kid, or, where it has none, the only one of its algorithm.
func (s *KeySet) For(h Header) (*PublicKey, bool) {
	if h.KeyID != "" {
		return s.Key(h.KeyID)
	}
	var only *PublicKey
	for _, k := range s.keys {
		if k.alg != algorithmOf(h.Algorithm) {
			continue
		}
		if only != nil {
			return nil, false
		}
		only = k
	}
	return only, only != nil
}

// Len returns how many keys the set has.
func (s *KeySet) Len() int { return len(s.keys) }

// MarshalJSON returns the set as a JSON Web Key Set, to be served as
// application/jwk-set+json.
func (s *KeySet) MarshalJSON() ([]byte, error) {
	set := struct {
		Keys []*PublicKey `json:"keys"`
	}{Keys: s.keys}
	if set.Keys == nil {
		set.Keys = []*PublicKey{}
	}
	return json.Marshal(set)
}

func keyElements(jwks []byte) ([][]byte, error) {
	members, err := Members(nil, jwks)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		if m.Name != "keys" {
			continue
		}
		if elements, ok := Elements(nil, m.Value); ok {
			return elements, nil
		}
	}
	return nil, fmt.Errorf("%w: there is no array keys", ErrMalformed)
}

// keyRecord is a JSON Web Key as it is read.
type keyRecord struct {
	jwk
	operations []string
	limited    bool // it has key_ops
}

func parseKeyRecord(object []byte) (r keyRecord, err error) {
	members, err := Members(nil, object)
	if err != nil {
		return r, err
	}
	for _, m := range members {
		ok := true
		switch m.Name {
		case "kty":
			r.Type, ok = String(m.Value)
		case "crv":
			r.Curve, ok = String(m.Value)
		case "x":
			r.X, ok = String(m.Value)
		case "y":
			r.Y, ok = String(m.Value)
		case "n":
			r.N, ok = String(m.Value)
		case "e":
			r.E, ok = String(m.Value)
		case "kid":
			r.ID, ok = String(m.Value)
		case "use":
			r.Use, ok = String(m.Value)
		case "alg":
			r.Algorithm, ok = String(m.Value)
		case "key_ops":
			r.limited = true
			r.operations, ok = texts(m.Value)
		case "d", "p", "q", "dp", "dq", "qi", "oth", "k":
			return r, fmt.Errorf("%w: it is not a public key; replace it, and never publish it again", ErrMalformed)
		}
		if !ok {
			return r, fmt.Errorf("%w: member %s has the wrong type", ErrMalformed, m.Name)
		}
	}
	if r.Type == "" {
		return r, fmt.Errorf("%w: it has no kty", ErrMalformed)
	}
	return r, nil
}

// usable says whether tokens that this package takes can be signed with the
// key, whatever its kid.
func (r *keyRecord) usable() bool {
	switch {
	case r.Use != "" && r.Use != "sig",
		r.limited && !slices.Contains(r.operations, "verify"),
		r.Algorithm != "" && algorithmOf(r.Algorithm) == "":
		return false
	}
	switch r.Type {
	case "EC":
		return r.Curve == "P-256"
	case "OKP":
		return r.Curve == "Ed25519"
	}
	return r.Type == "RSA"
}

func (r *keyRecord) publicKey() (*PublicKey, error) {
	key, err := r.key()
	if err != nil {
		return nil, err
	}
	p, err := newPublicKey(r.ID, key)
	if err == nil && r.Algorithm != "" && algorithmOf(r.Algorithm) != p.alg {
		return nil, fmt.Errorf("a key of type %s is not for %s", r.Type, r.Algorithm)
	}
	return p, err
}

func (r *keyRecord) key() (crypto.PublicKey, error) {
	switch r.Type {
	case "EC":
		x, errX := octets(r.X, 32)
		y, errY := octets(r.Y, 32)
		if err := errors.Join(errX, errY); err != nil {
			return nil, err
		}
		return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
	case "OKP":
		x, err := octets(r.X, ed25519.PublicKeySize)
		return ed25519.PublicKey(x), err
	}
	n, errN := positive(r.N)
	e, errE := positive(r.E)
	if err := errors.Join(errN, errE); err != nil {
		return nil, err
	}
	if !e.IsInt64() || e.Int64() > math.MaxInt32 {
		return nil, errors.New("the RSA exponent is above 2147483647")
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}

func octets(encoded string, size int) ([]byte, error) {
	b, err := decode(nil, []byte(encoded))
	if err != nil {
		return nil, errors.New("a value is not base64url without padding")
	}
	if len(b) != size {
		return nil, fmt.Errorf("a value has %d octets, not %d", len(b), size)
	}
	return b, nil
}

// positive reads a Base64urlUInt (RFC 7518, section 2), which has no leading
// zero octets.
func positive(encoded string) (*big.Int, error) {
	b, err := decode(nil, []byte(encoded))
	if err != nil {
		return nil, errors.New("a value is not base64url without padding")
	}
	if len(b) == 0 || b[0] == 0 {
		return nil, errors.New("a number is zero or has leading zeros")
	}
	return new(big.Int).SetBytes(b), nil
}

func texts(array []byte) ([]string, bool) {
	elements, ok := Elements(nil, array)
	list := make([]string, len(elements))
	for i := 0; ok && i < len(elements); i++ {
		list[i], ok = String(elements[i])
	}
	return list, ok
}
