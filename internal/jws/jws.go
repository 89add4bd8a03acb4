// Package jws signs and reads JSON Web Signatures in their compact form (RFC
// 7515) and the JSON that they carry. It is the only place that touches a
// signature.
//
// The rules are those of RFC 8725: three algorithms, each pinned to its kind of
// key; strict base64url; strict JSON; nothing in a header that could choose a
// key or an algorithm. No option relaxes one of them. Of tokens that others
// issue, [Token.ParseForeign] takes those without kid or typ, and HS256, which
// a [Secret] alone checks. Claims are not judged here; [Members] and the
// functions beside it read them for whoever does.
//
// Keys and key sets do not change once made, and may be used concurrently.
package jws

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
)

// MaxToken is the longest token that is parsed or signed, in octets.
const MaxToken = 8 << 10

// Errors to compare with errors.Is. What is wrapped around them says more, and
// holds nothing of a token but names of this package's algorithms.
var (
	// ErrMalformed marks input that is not a token, a JSON object or a key
	// set as this package takes them.
	ErrMalformed = errors.New("jws: malformed")
	// ErrAlgorithm marks an algorithm that is unknown or is not the key's.
	ErrAlgorithm = errors.New("jws: algorithm refused")
	// ErrSignature marks a signature that the key did not make.
	ErrSignature = errors.New("jws: wrong signature")
)

// Errors of [Token.Parse].
var (
	errSize      = fmt.Errorf("%w: the token is longer than %d octets", ErrMalformed, MaxToken)
	errParts     = fmt.Errorf("%w: a token has three parts with a dot between, none of them empty", ErrMalformed)
	errEncoding  = fmt.Errorf("%w: not base64url without padding (RFC 7515, section 2)", ErrMalformed)
	errParameter = fmt.Errorf("%w: the header has a parameter that is never accepted", ErrMalformed)
	errAlg       = fmt.Errorf("%w: the header has no alg that is a string", ErrMalformed)
	errKid       = fmt.Errorf("%w: the header has no kid of 1 to %d visible ASCII characters", ErrMalformed, maxKeyID)
	errTyp       = fmt.Errorf("%w: the header has no typ that is a string with something in it", ErrMalformed)
	errName      = fmt.Errorf("%w: the header's alg is not ES256, Ed25519, EdDSA or RS256", ErrAlgorithm)
	errForeign   = fmt.Errorf("%w: the header's alg is not ES256, Ed25519, EdDSA, RS256 or HS256", ErrAlgorithm)
)

// Header is what a token's protected header says. Nothing in it is proved
// before the signature is.
type Header struct {
	Algorithm string // "ES256", "Ed25519", "EdDSA" or "RS256"; of a foreign token also "HS256"
	KeyID     string // kid: 1 to 128 visible ASCII characters; of a foreign token perhaps none
	Type      string // typ, as written; media types compare without regard to case (RFC 7515, section 4.1.9)
}

// Token is a parsed token. The zero Token is ready for Parse. A Token may be
// used for one token after the other, so that one kept in a pool parses without
// allocating; it must not be used concurrently.
type Token struct {
	Header  Header
	Payload []byte // valid until the next Parse

	text      []byte // the token as received
	signed    []byte // the part of text that the signature covers
	payload   []byte
	signature []byte

	seen   []byte // the latest good header in base64url, and
	header header // what it said
}

// Parse reads a token in compact form. It looks at no claim and checks no
// signature: what it sets says only what somebody wrote. After an error the
// Token holds nothing, and no key verifies it.
//
// It refuses what is longer than [MaxToken]; what has not three parts; every
// character outside the alphabet of base64url, and bits left over; a header
// that is not one strict JSON object (see [Members]) with alg, kid and typ, or
// that has one of jku, jwk, x5u, x5c, x5t, x5t#S256, zip, enc, crit, b64 and
// cty. It ignores other parameters, as RFC 7515, section 4, requires.
func (t *Token) Parse(token string) error { return t.parse(token, false) }

// ParseForeign reads a token that another issuer made. It differs from Parse in
// that the header may have no kid, no typ, and the alg HS256, and that it
// ignores x5t and x5t#S256: they name a certificate, and choose nothing here.
func (t *Token) ParseForeign(token string) error { return t.parse(token, true) }

func (t *Token) parse(token string, foreign bool) error {
	t.Header, t.Payload, t.signed, t.signature = Header{}, nil, nil, t.signature[:0]
	if len(token) > MaxToken {
		return errSize
	}
	t.text = append(t.text[:0], token...)
	first := bytes.IndexByte(t.text, '.')
	last := bytes.LastIndexByte(t.text, '.')
	if first <= 0 || last <= first+1 || last == len(t.text)-1 || bytes.IndexByte(t.text[first+1:last], '.') >= 0 {
		return errParts
	}
	h, err := t.readHeader(t.text[:first])
	if err == nil {
		err = h.check(foreign)
	}
	if err != nil {
		return err
	}
	if t.payload, err = decode(t.payload, t.text[first+1:last]); err != nil {
		return err
	}
	if t.signature, err = decode(t.signature, t.text[last+1:]); err != nil {
		return err
	}
	t.Header, t.Payload, t.signed = h.Header, t.payload, t.text[:last]
	return nil
}

// readHeader remembers the latest good header, because an issuer's tokens all
// have the same one until its key changes.
func (t *Token) readHeader(encoded []byte) (header, error) {
	if len(t.seen) > 0 && bytes.Equal(t.seen, encoded) {
		return t.header, nil
	}
	object, err := decode(nil, encoded)
	if err != nil {
		return header{}, err
	}
	h, err := parseHeader(object)
	if err == nil {
		t.seen, t.header = append(t.seen[:0], encoded...), h
	}
	return h, err
}

// header is a header and what it has: a parameter of another type than its own
// counts as there, and is never good.
type header struct {
	Header
	alg                   bool
	kid, typ, certificate presence
}

// presence says whether a parameter is there, and good.
type presence uint8

const (
	missing presence = iota
	wrong
	good
)

func present(ok bool) presence {
	if ok {
		return good
	}
	return wrong
}

func parseHeader(object []byte) (header, error) {
	members, err := Members(nil, object)
	if err != nil {
		return header{}, err
	}
	var h header
	for _, m := range members {
		var ok bool
		switch m.Name {
		case "alg":
			h.Algorithm, h.alg = String(m.Value)
		case "kid":
			h.KeyID, ok = String(m.Value)
			h.kid = present(ok && validKeyID(h.KeyID))
		case "typ":
			h.Type, ok = String(m.Value)
			h.typ = present(ok && h.Type != "")
		case "x5t", "x5t#S256":
			h.certificate = good
		case "jku", "jwk", "x5u", "x5c", "zip", "enc", "crit", "b64", "cty":
			return header{}, errParameter
		}
	}
	if !h.alg {
		return header{}, errAlg
	}
	return h, nil
}

// check says why Parse, or ParseForeign, refuses h.
func (h *header) check(foreign bool) error {
	if foreign {
		return h.checkForeign()
	}
	switch {
	case h.certificate != missing:
		return errParameter
	case algorithmOf(h.Algorithm) == "":
		return errName
	case h.kid != good:
		return errKid
	case h.typ != good:
		return errTyp
	}
	return nil
}

func (h *header) checkForeign() error {
	switch {
	case algorithmOf(h.Algorithm) == "" && h.Algorithm != hs256:
		return errForeign
	case h.kid == wrong:
		return errKid
	case h.typ == wrong:
		return errTyp
	}
	return nil
}

const maxKeyID = 128

func validKeyID(id string) bool {
	if id == "" || len(id) > maxKeyID {
		return false
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return true
}

var base64url = base64.RawURLEncoding.Strict()

// decode replaces dst by what src encodes.
func decode(dst, src []byte) ([]byte, error) {
	// The decoder of the standard library skips line breaks, even when strict.
	if bytes.IndexByte(src, '\n') >= 0 || bytes.IndexByte(src, '\r') >= 0 {
		return dst[:0], errEncoding
	}
	dst = slices.Grow(dst[:0], base64url.DecodedLen(len(src)))
	n, err := base64url.Decode(dst[:cap(dst)], src)
	if err != nil {
		return dst[:0], errEncoding
	}
	return dst[:n], nil
}
