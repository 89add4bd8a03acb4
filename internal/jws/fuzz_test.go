package jws_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/quashdev/quash/internal/jws"
)

var compact = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

// FuzzParse checks that a token that Parse takes is the one encoding of what
// it holds, and that a check that shares no code with Parse would take it.
func FuzzParse(f *testing.F) {
	for _, v := range makeTokens().Vectors {
		if len(v.Token) < 2000 && (v.Layer == "jws" || strings.HasPrefix(v.ID, "T0-")) {
			f.Add(v.Token)
		}
	}
	var token jws.Token
	f.Fuzz(func(t *testing.T, text string) {
		if err := token.Parse(text); err != nil {
			return
		}
		if len(text) > jws.MaxToken || !compact.MatchString(text) {
			t.Fatalf("took %q", text)
		}
		parts := strings.Split(text, ".")
		var octets [3][]byte
		for i, part := range parts {
			var err error
			octets[i], err = base64.RawURLEncoding.DecodeString(part)
			if again := base64.RawURLEncoding.EncodeToString(octets[i]); err != nil || again != part {
				t.Fatalf("part %d: %q is %q when encoded again (%v)", i, part, again, err)
			}
		}
		if !bytes.Equal(octets[1], token.Payload) {
			t.Errorf("got payload %q, want %q", token.Payload, octets[1])
		}
		checkHeader(t, octets[0], token.Header)
	})
}

func checkHeader(t *testing.T, text []byte, got jws.Header) {
	t.Helper()
	var h map[string]any
	if err := json.Unmarshal(text, &h); err != nil {
		t.Fatalf("header %q: %v", text, err)
	}
	for _, name := range []string{"jku", "jwk", "x5u", "x5c", "x5t", "x5t#S256", "zip", "enc", "crit", "b64", "cty"} {
		if _, ok := h[name]; ok {
			t.Errorf("took a header with %s", name)
		}
	}
	if h["alg"] != got.Algorithm || h["kid"] != got.KeyID || h["typ"] != got.Type {
		t.Errorf("got %+v of %q", got, text)
	}
	switch got.Algorithm {
	case "ES256", "Ed25519", "EdDSA", "RS256":
	default:
		t.Errorf("took alg %q", got.Algorithm)
	}
	if got.KeyID == "" || got.Type == "" {
		t.Errorf("took %+v", got)
	}
}

// FuzzMembers checks that encoding/json takes every object that Members takes
// and reads the same in it.
func FuzzMembers(f *testing.F) {
	for _, v := range makeTokens().Vectors {
		if parts := strings.Split(v.Token, "."); len(v.Token) < 2000 && v.Layer != "jws" {
			f.Add(unb64(parts[1]))
		}
	}
	f.Fuzz(func(t *testing.T, object []byte) {
		members, err := jws.Members(nil, object)
		if err != nil {
			return
		}
		if !utf8.Valid(object) {
			t.Fatalf("took %q, which is not UTF-8", object)
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal(object, &want); err != nil {
			t.Fatalf("took %q: %v", object, err)
		}
		if len(want) != len(members) {
			t.Fatalf("got %d members of %q, want %d", len(members), object, len(want))
		}
		for _, m := range members {
			if !bytes.Equal(m.Value, want[m.Name]) {
				t.Errorf("%q: got %q, want %q", m.Name, m.Value, want[m.Name])
			}
			checkValue(t, m.Value)
		}
	})
}

func checkValue(t *testing.T, value []byte) {
	t.Helper()
	var v any
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%q: %v", value, err)
	}
	s, isString := v.(string)
	if got, ok := jws.String(value); ok != isString || got != s {
		t.Errorf("String(%q): got %q, %t", value, got, ok)
	}
	a, isArray := v.([]any)
	if got, ok := jws.Elements(nil, value); ok != isArray || len(got) != len(a) {
		t.Errorf("Elements(%q): got %d, %t", value, len(got), ok)
	}
	n, isNumber := v.(json.Number)
	if _, _, ok := jws.NumericDate(value); ok && !isNumber {
		t.Errorf("NumericDate(%q) took it", value)
	}
	if want, err := n.Int64(); isNumber && err == nil && want > -1<<63 {
		if got, ok := jws.Integer(value); !ok || got != want {
			t.Errorf("Integer(%q): got %d, %t, want %d", value, got, ok, want)
		}
	}
	if text, ok := jws.Text(value); ok && isNumber {
		again, ok := jws.Text([]byte(text))
		if !ok || again != text {
			t.Errorf("Text(%q): got %q, of which it is %q", value, text, again)
		}
	}
}
