package jws

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
)

const hs256 = "HS256"

// MinSecret is the least that a [Secret] has, in octets: as much as the hash
// that it is used with (RFC 7518, section 3.2).
const MinSecret = 32

// Secret checks the MAC of foreign tokens that were made with HS256 (RFC 7518,
// section 3.2). It makes none.
type Secret struct{ key []byte }

// NewSecret returns the secret of these octets, at least [MinSecret] of them.
func NewSecret(key []byte) (*Secret, error) {
	if len(key) < MinSecret {
		return nil, fmt.Errorf("secret: want at least %d octets, got %d", MinSecret, len(key))
	}
	return &Secret{key: append([]byte(nil), key...)}, nil
}

// Verify checks that t was made with the secret: the header names HS256, and the
// MAC is good for the octets received. It returns an [ErrAlgorithm] or an
// [ErrSignature].
func (s *Secret) Verify(t *Token) error {
	if t.Header.Algorithm != hs256 {
		return fmt.Errorf("%w: the token says %q, the secret is for %s", ErrAlgorithm, t.Header.Algorithm, hs256)
	}
	mac := hmac.New(sha256.New, s.key)
	mac.Write(t.signed)
	if !hmac.Equal(mac.Sum(nil), t.signature) {
		return ErrSignature
	}
	return nil
}
