// Package wycheproof_test holds internal/jws to the vectors of Project
// Wycheproof (github.com/c2sp/wycheproof), which collect what implementations
// got wrong. What they call valid and is refused here is named, with the reason.
package wycheproof_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/c2sp/wycheproof"

	"github.com/quashdev/quash/internal/jws"
)

// vector is one test of a file: a token in compact form, or octets and what may be
// their signature.
type vector struct {
	ID        int    `json:"tcId"`
	Comment   string `json:"comment"`
	Token     text   `json:"jws"`
	Message   octets `json:"msg"`
	Signature octets `json:"sig"`
	Result    string `json:"result"`
}

// text is a JSON string, or the JSON text of anything else.
type text string

func (t *text) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) != nil {
		s = string(b)
	}
	*t = text(s)
	return nil
}

// octets are written in hexadecimal.
type octets []byte

func (o *octets) UnmarshalText(b []byte) (err error) {
	*o, err = hex.DecodeString(string(b))
	return err
}

type group struct {
	Comment string          `json:"comment"`
	Public  json.RawMessage `json:"public"`
	Private json.RawMessage `json:"private"`
	Key     struct {
		Point octets `json:"uncompressed"` // of P-256, as SEC 1 writes it
		Ed    octets `json:"pk"`
	} `json:"publicKey"`
	Vectors []vector `json:"tests"`
}

func groups(t *testing.T, name string) []group {
	t.Helper()
	b, err := fs.ReadFile(wycheproof.TestVectors, name)
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ TestGroups []group }
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	return file.TestGroups
}

// tally compares answers with results, and counts them.
type tally struct {
	t                 *testing.T
	reason            func(g group, v vector) string // why a valid one is refused, or ""
	accepted, refused int
	exceptions        map[string]int
}

func (y *tally) judge(g group, v vector, err error) {
	y.t.Helper()
	want := v.Result == "valid"
	if reason := y.reason(g, v); want && reason != "" {
		want = false
		y.exceptions[reason]++
	}
	if got := err == nil; got != want {
		y.t.Errorf("tcId %d (%s): got accepted = %t (%v), want %t", v.ID, v.Comment, got, err, want)
	}
	if err == nil {
		y.accepted++
	} else {
		y.refused++
	}
}

// report says what was run; nothing of a file may have been passed over.
func (y *tally) report(accepted, refused int) {
	y.t.Helper()
	y.t.Logf("%d accepted, %d refused; refused though called valid: %v", y.accepted, y.refused, y.exceptions)
	if y.accepted != accepted || y.refused != refused {
		y.t.Errorf("got %d accepted and %d refused, want %d and %d", y.accepted, y.refused, accepted, refused)
	}
}

func newTally(t *testing.T, reason func(g group, v vector) string) *tally {
	return &tally{t: t, reason: reason, exceptions: map[string]int{}}
}

func none(group, vector) string { return "" }

func TestEd25519Signatures(t *testing.T) {
	y := newTally(t, none)
	y.signatures("ed25519_test.json")
	y.report(88, 63)
}

func TestP256Signatures(t *testing.T) {
	y := newTally(t, none)
	y.signatures("ecdsa_secp256r1_sha256_p1363_test.json")
	y.report(173, 89)
}

func (y *tally) signatures(name string) {
	y.t.Helper()
	for _, g := range groups(y.t, name) {
		set, err := jws.ParseKeySet([]byte(`{"keys":[` + g.jwk() + `]}`))
		if err != nil || set.Len() != 1 {
			y.t.Fatalf("tcId %d: its key was not taken: %v", g.Vectors[0].ID, err)
		}
		key, _ := set.Key("k")
		for _, v := range g.Vectors {
			y.judge(g, v, key.VerifyOctets(v.Message, v.Signature))
		}
	}
}

// jwk writes the key as a JSON Web Key. Not every group has it in that form.
func (g group) jwk() string {
	if len(g.Key.Ed) > 0 {
		return `{"kty":"OKP","crv":"Ed25519","kid":"k","x":"` + encode(g.Key.Ed) + `"}`
	}
	return `{"kty":"EC","crv":"P-256","kid":"k","x":"` + encode(g.Key.Point[1:33]) + `","y":"` + encode(g.Key.Point[33:]) + `"}`
}

// served are the names of the algorithms that there is code for.
func served(alg string) bool { return alg == "ES256" || alg == "RS256" }

func algorithmOf(key json.RawMessage) string {
	var k struct{ Alg string }
	_ = json.Unmarshal(key, &k)
	return k.Alg
}

func TestTokens(t *testing.T) {
	y := newTally(t, func(g group, v vector) string {
		switch {
		case !served(algorithmOf(first(g.Public, g.Private))):
			return "an algorithm that is not served (RFC 8725, section 3.2)"
		case v.Comment == "emptyPayload":
			return "no claims (RFC 7519, section 7.2)"
		}
		return ""
	})
	for _, g := range groups(t, "json_web_signature_test.json") {
		set := fmt.Appendf(nil, `{"keys":[%s]}`, first(g.Public, g.Private))
		for _, v := range g.Vectors {
			y.judge(g, v, verify(t, set, string(v.Token)))
		}
	}
	y.report(9, 392)
}

func TestKeys(t *testing.T) {
	y := newTally(t, func(g group, _ vector) string {
		if g.Public == nil {
			return "a symmetric key in a key set (RFC 8725, section 3.1)"
		}
		return ""
	})
	for _, g := range groups(t, "json_web_key_test.json") {
		for _, v := range g.Vectors {
			y.judge(g, v, verify(t, first(g.Public, g.Private), string(v.Token)))
		}
	}
	y.report(1, 25)
}

// The file's tests of base64url are of HS256. What they test is not the MAC, so
// here their headers say ES256, and they are parsed.
func TestEncodings(t *testing.T) {
	y := newTally(t, func(_ group, v vector) string {
		if v.ID == 372 || v.ID == 373 {
			return "a character outside the alphabet in the header or the payload (RFC 7515, section 2)"
		}
		return ""
	})
	for _, g := range groups(t, "json_web_signature_test.json") {
		if g.Comment != "base64" {
			continue
		}
		for _, v := range g.Vectors {
			if v.ID == 367 || v.ID == 370 {
				continue // well-formed: it is the MAC that is of something else
			}
			header, rest, _ := strings.Cut(string(v.Token), ".")
			if object, err := decode(header); err == nil {
				header = encode(bytes.Replace(object, []byte("HS256"), []byte("ES256"), 1))
			}
			_, err := parse(header + "." + rest)
			y.judge(g, v, err)
		}
	}
	y.report(5, 14)
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func first(texts ...json.RawMessage) json.RawMessage {
	for _, text := range texts {
		if text != nil {
			return text
		}
	}
	return nil
}

// verify does with a token what [jws.Token.Parse] and [jws.PublicKey.Verify] do,
// but for its typ, which the tokens of these files lack.
func verify(t *testing.T, set []byte, token string) error {
	t.Helper()
	keys, err := jws.ParseKeySet(set)
	if err != nil {
		return err
	}
	parsed, err := parse(token)
	if err != nil {
		return err
	}
	key, ok := keys.Key(parsed.Header.KeyID)
	if !ok {
		return fmt.Errorf("no key is called %q", parsed.Header.KeyID)
	}
	if string(key.Algorithm()) != parsed.Header.Algorithm {
		return fmt.Errorf("the key is for %s, not for %s", key.Algorithm(), parsed.Header.Algorithm)
	}
	last := strings.LastIndexByte(token, '.')
	signature, err := decode(token[last+1:])
	if err != nil {
		return err
	}
	return key.VerifyOctets([]byte(token[:last]), signature)
}

// parse parses a token with a typ put into its header.
func parse(token string) (*jws.Token, error) {
	parsed := new(jws.Token)
	encoded, rest, _ := strings.Cut(token, ".")
	header, err := decode(encoded)
	if err != nil {
		return nil, err
	}
	typed := bytes.Replace(header, []byte("{"), []byte(`{"typ":"at+jwt",`), 1)
	return parsed, parsed.Parse(encode(typed) + "." + rest)
}

// decode has a part of a token read as the payload of another.
func decode(part string) ([]byte, error) {
	var token jws.Token
	if err := token.Parse(encode([]byte(`{"alg":"ES256","kid":"k","typ":"at+jwt"}`)) + "." + part + ".AAAA"); err != nil {
		return nil, err
	}
	return token.Payload, nil
}
