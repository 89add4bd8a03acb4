package jws

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// Algorithm is a way to sign, by its name in RFC 7518 or RFC 9864.
type Algorithm string

// The algorithms.
const (
	ES256   Algorithm = "ES256"   // ECDSA with P-256 and SHA-256 (RFC 7518, section 3.4)
	Ed25519 Algorithm = "Ed25519" // EdDSA with edwards25519 (RFC 9864, section 2.2)
	RS256   Algorithm = "RS256"   // RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518, section 3.3)
)

// Sizes of RSA moduli, in bits.
const (
	minModulus = 2048
	maxModulus = 8192
)

// algorithmOf returns the algorithm that an alg names, and "" where there is
// none. EdDSA is what RFC 8037 called Ed25519.
func algorithmOf(alg string) Algorithm {
	switch alg {
	case "ES256":
		return ES256
	case "Ed25519", "EdDSA":
		return Ed25519
	case "RS256":
		return RS256
	}
	return ""
}

// PublicKey verifies the signatures of one private key, by one algorithm.
type PublicKey struct {
	id  string
	alg Algorithm
	key crypto.PublicKey
}

// newPublicKey takes a key whose values make sense together. An empty id
// stands for the key's thumbprint.
func newPublicKey(id string, key crypto.PublicKey) (*PublicKey, error) {
	p := &PublicKey{id: id, key: key}
	var err error
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		p.alg = ES256
		if key.Curve != elliptic.P256() {
			err = errors.New("the curve is not P-256")
		}
	case ed25519.PublicKey:
		p.alg = Ed25519
		err = checkEd25519(key)
	case *rsa.PublicKey:
		p.alg = RS256
		err = checkRSA(key)
	default:
		err = fmt.Errorf("%T is no key of ES256, Ed25519 or RS256", key)
	}
	if err == nil && p.id == "" {
		p.id, err = p.thumbprint()
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// ID returns the key's kid: of a key made by [Generate] or read by
// [ParsePrivateKey] the thumbprint (RFC 7638), of one from a key set what the
// set says.
func (p *PublicKey) ID() string { return p.id }

// Algorithm returns the one algorithm that the key is for.
func (p *PublicKey) Algorithm() Algorithm { return p.alg }

// Verify checks that t is signed with the key: the header names the key, or, of
// a foreign token, none, and its algorithm, and the signature is good for the
// octets received. It returns an [ErrAlgorithm] or an [ErrSignature]. An ECDSA
// signature has a second form that is as good (r, n-s); so a token has no
// identity but its claims.
func (p *PublicKey) Verify(t *Token) error {
	if algorithmOf(t.Header.Algorithm) != p.alg {
		return fmt.Errorf("%w: the token says %q, the key is for %s", ErrAlgorithm, t.Header.Algorithm, p.alg)
	}
	if t.Header.KeyID != p.id && t.Header.KeyID != "" {
		return fmt.Errorf("%w: the header names another key", ErrSignature)
	}
	if !p.signed(t.signed, t.signature) {
		return ErrSignature
	}
	return nil
}

func (p *PublicKey) signed(text, signature []byte) bool {
	switch key := p.key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(key, text, signature)
	case *ecdsa.PublicKey:
		if len(signature) != 64 {
			return false
		}
		digest := sha256.Sum256(text)
		var stack [72]byte
		return ecdsa.VerifyASN1(key, digest[:], appendASN1(stack[:0], signature))
	case *rsa.PublicKey:
		digest := sha256.Sum256(text)
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature) == nil
	}
	return false
}

// appendASN1 turns the signature of JWS, r and s of 32 octets each (RFC 7518,
// section 3.4), into the one of X9.62 in DER, as the standard library takes it.
func appendASN1(dst, signature []byte) []byte {
	const sequence, integer = 0x30, 2
	dst = append(dst, sequence, 0)
	for n := range slices.Chunk(signature, 32) {
		for len(n) > 1 && n[0] == 0 {
			n = n[1:]
		}
		if n[0] < 0x80 {
			dst = append(dst, integer, byte(len(n)))
		} else { // a 0 in front, or it would be negative
			dst = append(dst, integer, byte(len(n)+1), 0)
		}
		dst = append(dst, n...)
	}
	dst[1] = byte(len(dst) - 2)
	return dst
}

// MarshalJSON returns the key as a JSON Web Key (RFC 7517) with kid, use and
// alg.
func (p *PublicKey) MarshalJSON() ([]byte, error) {
	k, err := p.jwk()
	if err != nil {
		return nil, err
	}
	k.ID, k.Use, k.Algorithm = p.id, "sig", string(p.alg)
	return json.Marshal(k)
}

// thumbprint hashes the required members alone, in the order of their names
// (RFC 7638, section 3.2).
func (p *PublicKey) thumbprint() (string, error) {
	k, err := p.jwk()
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(k)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return base64url.EncodeToString(sum[:]), nil
}

// jwk is a JSON Web Key as it is written. The order of the fields is that of a
// thumbprint.
type jwk struct {
	Curve     string `json:"crv,omitempty"`
	E         string `json:"e,omitempty"`
	Type      string `json:"kty"`
	N         string `json:"n,omitempty"`
	X         string `json:"x,omitempty"`
	Y         string `json:"y,omitempty"`
	ID        string `json:"kid,omitempty"`
	Use       string `json:"use,omitempty"`
	Algorithm string `json:"alg,omitempty"`
}

func (p *PublicKey) jwk() (jwk, error) {
	encode := base64url.EncodeToString
	switch key := p.key.(type) {
	case *ecdsa.PublicKey:
		point, err := key.Bytes()
		if err != nil {
			return jwk{}, fmt.Errorf("encode the key: %w", err)
		}
		return jwk{Type: "EC", Curve: "P-256", X: encode(point[1:33]), Y: encode(point[33:])}, nil
	case *rsa.PublicKey:
		return jwk{Type: "RSA", N: encode(key.N.Bytes()), E: encode(big.NewInt(int64(key.E)).Bytes())}, nil
	case ed25519.PublicKey:
		return jwk{Type: "OKP", Curve: "Ed25519", X: encode(key)}, nil
	}
	return jwk{}, fmt.Errorf("encode the key: unknown type %T", p.key)
}

func checkRSA(key *rsa.PublicKey) error {
	switch {
	case key.N.BitLen() < minModulus || key.N.BitLen() > maxModulus:
		return fmt.Errorf("the RSA modulus has %d bits, not %d to %d", key.N.BitLen(), minModulus, maxModulus)
	case key.N.Bit(0) == 0:
		return errors.New("the RSA modulus is even")
	case key.E < 65537 || key.E&1 == 0:
		return errors.New("the RSA exponent is even or below 65537")
	case guessable(key.N):
		return errors.New("the RSA modulus is of a generator whose keys can be factored (CVE-2017-15361)")
	}
	return nil
}

// guessable says whether n is a power of 65537 modulo each of the odd primes
// below 168, as every modulus of that generator is, and of others one in 2^27.
func guessable(n *big.Int) bool {
	for p := int64(3); p < 168; p += 2 {
		prime := big.NewInt(p)
		if !prime.ProbablyPrime(0) {
			continue
		}
		rest := new(big.Int).Mod(n, prime).Int64()
		power := int64(1)
		for power != rest {
			if power = power * 65537 % p; power == 1 {
				return false
			}
		}
	}
	return true
}

// smallOrder are the y coordinates, little-endian and without the sign, of the
// points whose order divides 8, in every encoding that a decoder takes. With one
// of them as the key anyone can sign.
var smallOrder = [...]string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}

// fieldEd25519 is 2^255 - 19, big-endian: coordinates are below it. Decoders
// differ in whether they take others.
const fieldEd25519 = "7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffed"

func checkEd25519(key ed25519.PublicKey) error {
	if len(key) != ed25519.PublicKeySize {
		return fmt.Errorf("the Ed25519 key has %d octets, not %d", len(key), ed25519.PublicKeySize)
	}
	unsigned := bytes.Clone(key)
	unsigned[31] &= 0x7f
	if slices.Contains(smallOrder[:], hex.EncodeToString(unsigned)) {
		return errors.New("the Ed25519 key is a point of small order")
	}
	slices.Reverse(unsigned)
	if hex.EncodeToString(unsigned) >= fieldEd25519 {
		return errors.New("the Ed25519 key is not encoded as RFC 8032, section 5.1.2, has it: y is above the field")
	}
	return nil
}

// PrivateKey signs tokens.
type PrivateKey struct {
	key    crypto.Signer
	public *PublicKey
}

// Generate makes a new key. RSA keys have 2048 bits.
func Generate(a Algorithm) (*PrivateKey, error) {
	var key crypto.Signer
	var err error
	switch a {
	case ES256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case Ed25519:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case RS256:
		key, err = rsa.GenerateKey(rand.Reader, minModulus)
	default:
		return nil, fmt.Errorf("generate a key: %w: use ES256, Ed25519 or RS256", ErrAlgorithm)
	}
	if err != nil {
		return nil, fmt.Errorf("generate a key for %s: %w", a, err)
	}
	return newPrivateKey(key)
}

// ParsePrivateKey reads a PKCS #8 key in DER (RFC 5958). Its type says which
// algorithm it is for.
func ParsePrivateKey(der []byte) (*PrivateKey, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		// The text of the cause could quote the key.
		return nil, errors.New("parse the private key: it is no PKCS #8 key in DER")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("parse the private key: %T cannot sign", key)
	}
	return newPrivateKey(signer)
}

func newPrivateKey(key crypto.Signer) (*PrivateKey, error) {
	public, err := newPublicKey("", key.Public())
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	return &PrivateKey{key: key, public: public}, nil
}

// Marshal returns the key as PKCS #8 in DER, in clear.
func (k *PrivateKey) Marshal() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.key)
	if err != nil {
		return nil, fmt.Errorf("marshal the private key: %w", err)
	}
	return der, nil
}

// Public returns the key that verifies what k signs.
func (k *PrivateKey) Public() *PublicKey { return k.public }

// Sign returns the token with these claims in compact form. Its header is
// {"alg":…,"kid":…,"typ":…}. The typ must be of visible ASCII characters
// without quotation mark and backslash, and the claims one JSON object; that is
// the caller's to see to. A token longer than [MaxToken] is an error.
func (k *PrivateKey) Sign(typ string, claims []byte) (string, error) {
	if !validKeyID(typ) || bytes.ContainsAny([]byte(typ), `"\`) {
		return "", errors.New("sign the token: typ must be of visible ASCII characters without quotation mark and backslash")
	}
	header := fmt.Appendf(nil, `{"alg":"%s","kid":"%s","typ":"%s"}`, k.public.alg, k.public.id, typ)
	token := base64url.AppendEncode(nil, header)
	token = base64url.AppendEncode(append(token, '.'), claims)
	signature, err := k.sign(token)
	if err != nil {
		return "", fmt.Errorf("sign the token with %s: %w", k.public.alg, err)
	}
	token = base64url.AppendEncode(append(token, '.'), signature)
	if len(token) > MaxToken {
		return "", fmt.Errorf("sign the token: it would have %d octets, of %d at most: give it fewer claims", len(token), MaxToken)
	}
	return string(token), nil
}

func (k *PrivateKey) sign(text []byte) ([]byte, error) {
	switch key := k.key.(type) {
	case ed25519.PrivateKey:
		return ed25519.Sign(key, text), nil
	case *ecdsa.PrivateKey:
		digest := sha256.Sum256(text)
		r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
		if err != nil {
			return nil, err
		}
		signature := make([]byte, 64)
		r.FillBytes(signature[:32])
		s.FillBytes(signature[32:])
		return signature, nil
	case *rsa.PrivateKey:
		digest := sha256.Sum256(text)
		return rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest[:])
	}
	return nil, fmt.Errorf("unknown type of key %T", k.key)
}
