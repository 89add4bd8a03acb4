package issuer

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/quashdev/quash/internal/jws"
)

// ownClaims are set by the issuer and cannot be in an account's document. A
// scope can: it goes into the tokens of clients that are not registered, to
// which the issuer grants none. No revocation names it, because tokens of
// registered clients, and of one account, have another.
var ownClaims = []string{"iss", "sub", "aud", "client_id", "iat", "exp", "nbf", "jti", "sid", "rev", "cnf", "act", "may_act"}

// revocable are the claims that every token carries and a revocation may name.
var revocable = []string{"sub", "sid", "jti", "client_id", "aud", "iss", "kid"}

// maxClaims bounds an account's document, so that its tokens stay within what
// verifiers accept.
const maxClaims = 4 << 10

// maxClaimName bounds the name of a claim in octets.
const maxClaimName = 64

// ClaimValues returns the claims of a's document as revocations can name
// them, an array by its members, each once.
func (a Account) ClaimValues() []Match {
	members, err := jws.Members(nil, a.Claims)
	if err != nil {
		return nil
	}
	var all []Match
	add := func(name string, value []byte) {
		if text, ok := jws.Text(value); ok && text != "" && !slices.Contains(all, Match{name, text}) {
			all = append(all, Match{name, text})
		}
	}
	for _, m := range members {
		add(m.Name, m.Value)
		if elements, ok := jws.Elements(nil, m.Value); ok {
			for _, e := range elements {
				add(m.Name, e)
			}
		}
	}
	return all
}

// checkClaims returns the document in its canonical form.
func checkClaims(doc json.RawMessage) (json.RawMessage, error) {
	if len(doc) == 0 {
		return json.RawMessage("{}"), nil
	}
	if len(doc) > maxClaims {
		return nil, refuse(CodeInvalid, "claims: %d octets are more than the %d that fit in a token", len(doc), maxClaims)
	}
	members, err := jws.Members(nil, doc)
	if err != nil {
		return nil, refuse(CodeInvalid, "claims: want one JSON object with each name once: %v", err)
	}
	for _, m := range members {
		if slices.Contains(ownClaims, m.Name) {
			return nil, refuse(CodeInvalid, "claims: %q is set by the server; leave it out", m.Name)
		}
		if !visible(m.Name, 1, maxClaimName) || m.Name == "kid" {
			return nil, refuse(CodeInvalid, "claims: the name %q: want 1 to %d visible ASCII characters, and not kid", m.Name, maxClaimName)
		}
		if !nameable(m.Value) {
			return nil, refuse(CodeInvalid, "claims: %q has what no revocation could name: a number of 2^53 or more, which can be written as a string, or the character U+0000", m.Name)
		}
	}
	return canonical(doc)
}

// nameable reports whether a revocation can name each number and string that a
// claim's value is or has as a member.
func nameable(value []byte) bool {
	elements, array := jws.Elements(nil, value)
	if !array {
		elements = [][]byte{value}
	}
	return !slices.ContainsFunc(elements, func(e []byte) bool {
		text, ok := jws.Text(e)
		return ok && !holdable(text) || !ok && (e[0] == '-' || '0' <= e[0] && e[0] <= '9')
	})
}

// canonical returns the document with its names in order and in the form that
// goes into tokens, which is what is bounded.
func canonical(doc json.RawMessage) (json.RawMessage, error) {
	var members map[string]any
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	if err := d.Decode(&members); err != nil {
		return nil, refuse(CodeInvalid, "claims: want one JSON object: %v", err)
	}
	ordered, err := json.Marshal(members)
	if err == nil && len(ordered) > maxClaims {
		return nil, refuse(CodeInvalid, "claims: %d octets are more than the %d that fit in a token", len(ordered), maxClaims)
	}
	return ordered, err
}

// printable reports whether s is low to high characters of valid UTF-8, none
// of them a control character.
func printable(s string, low, high int) bool {
	if !utf8.ValidString(s) {
		return false
	}
	n := 0
	for _, r := range s {
		if unicode.IsControl(r) {
			return false
		}
		n++
	}
	return n >= low && n <= high
}

func randomize(b []byte) { rand.Read(b) }
