package jws_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/quashdev/quash/internal/jws"
)

func TestParseReadsWhatSignWrites(t *testing.T) {
	for _, a := range []jws.Algorithm{jws.ES256, jws.Ed25519, jws.RS256} {
		key, err := jws.Generate(a)
		if err != nil {
			t.Fatal(err)
		}
		text, err := key.Sign("at+jwt", []byte(good))
		if err != nil {
			t.Fatal(err)
		}
		var token jws.Token
		if err := token.Parse(text); err != nil {
			t.Fatal(err)
		}
		public := key.Public()
		want := jws.Header{Algorithm: string(a), KeyID: public.ID(), Type: "at+jwt"}
		if diff := cmp.Diff(want, token.Header); diff != "" {
			t.Errorf("%s: header (-want +got):\n%s", a, diff)
		}
		if got := string(token.Payload); got != good {
			t.Errorf("%s: got payload %s, want %s", a, got, good)
		}
		if err := public.Verify(&token); err != nil {
			t.Errorf("%s: %v", a, err)
		}
		if got := public.Algorithm(); got != a {
			t.Errorf("got algorithm %s, want %s", got, a)
		}
	}
}

func TestSignWritesTheHeaderExactly(t *testing.T) {
	text, err := es.jws.Sign("at+jwt", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	got, _, _ := strings.Cut(text, ".")
	if want := b64(`{"alg":"ES256","kid":"` + es.id() + `","typ":"at+jwt"}`); got != want {
		t.Errorf("got header %s, want %s", unb64(got), unb64(want))
	}
}

func TestSignRefusesWhatParseWould(t *testing.T) {
	if _, err := es.jws.Sign("at+jwt", make([]byte, jws.MaxToken)); err == nil {
		t.Error("got no error for a token that is too long")
	}
	for _, typ := range []string{"", `a"`, `a\`, "a b", "a\n", "é", strings.Repeat("a", 129)} {
		if _, err := es.jws.Sign(typ, []byte(good)); err == nil {
			t.Errorf("got no error for typ %q", typ)
		}
	}
}

func TestVerifyTellsWhyItRefuses(t *testing.T) {
	other := must(jws.Generate(jws.ES256)).Public()
	text := es.token(es.header(""), good)
	for _, c := range []struct {
		name, token string
		key         *jws.PublicKey
		want        error
	}{
		{"another algorithm", text, ed.jws.Public(), jws.ErrAlgorithm},
		{"another key", text, other, jws.ErrSignature},
		{"another signature", resigned(text, make([]byte, 64)), es.jws.Public(), jws.ErrSignature},
		{"nothing", "", es.jws.Public(), jws.ErrAlgorithm},
	} {
		var token jws.Token
		if err := token.Parse(c.token); c.token != "" && err != nil {
			t.Fatal(err)
		}
		if err := c.key.Verify(&token); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

func TestParseTellsWhyItRefuses(t *testing.T) {
	for _, c := range []struct {
		name, token string
		want        error
	}{
		{"no parts", "", jws.ErrMalformed},
		{"unsecured", es.token(es.in("ES256", "none"), good), jws.ErrAlgorithm},
		{"symmetric", es.token(es.in("ES256", "HS256"), good), jws.ErrAlgorithm},
		{"alg is a number", es.token(es.in(`"ES256"`, "1"), good), jws.ErrMalformed},
		{"long", strings.Repeat("A", jws.MaxToken+1), jws.ErrMalformed},
	} {
		var token jws.Token
		if err := token.Parse(c.token); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

func TestTokenHoldsNothingAfterAnError(t *testing.T) {
	text := es.token(es.header(""), good)
	dot := strings.LastIndexByte(text, '.')
	for _, bad := range []string{"", "a.b", strings.Repeat("A", jws.MaxToken+1), text[:dot] + ".=", "x" + text, text[:dot+1] + text} {
		var token jws.Token
		if err := token.Parse(text); err != nil {
			t.Fatal(err)
		}
		if err := token.Parse(bad); err == nil {
			t.Fatalf("Parse(%.20q) took it", bad)
		}
		if token.Header != (jws.Header{}) || token.Payload != nil {
			t.Errorf("after Parse(%.20q): got %+v and %q, want nothing", bad, token.Header, token.Payload)
		}
		if err := es.jws.Public().Verify(&token); err == nil {
			t.Errorf("after Parse(%.20q): the key verified it", bad)
		}
	}
}

func TestErrorsDoNotQuoteTheToken(t *testing.T) {
	var token jws.Token
	for _, v := range makeTokens().Vectors {
		if v.Layer != "jws" || len(v.Token) < 20 {
			continue
		}
		err := token.Parse(v.Token)
		if err == nil {
			err = es.jws.Public().Verify(&token)
		}
		if err != nil && strings.Contains(err.Error(), es.id()) || strings.Contains(err.Error(), v.Token[:20]) {
			t.Errorf("%s: %v", v.ID, err)
		}
	}
}

func TestTokenIsReused(t *testing.T) {
	var token jws.Token
	for _, s := range []signer{es, ed, rs, es, es} {
		claims := with("sub", quoted(s.alg()))
		if err := token.Parse(s.token(s.header(""), claims)); err != nil {
			t.Fatal(err)
		}
		if err := s.jws.Public().Verify(&token); err != nil {
			t.Errorf("%s: %v", s.alg(), err)
		}
		if got := string(token.Payload); got != claims {
			t.Errorf("got %s, want %s", got, claims)
		}
	}
}

func TestPrivateKeyReadsWhatItWrites(t *testing.T) {
	for _, a := range []jws.Algorithm{jws.ES256, jws.Ed25519, jws.RS256} {
		key := must(jws.Generate(a))
		again, err := jws.ParsePrivateKey(must(key.Marshal()))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := again.Public().ID(), key.Public().ID(); got != want {
			t.Errorf("%s: got %s, want %s", a, got, want)
		}
	}
}

func TestPrivateKeysOfOtherKindsAreRefused(t *testing.T) {
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	small := must(rsa.GenerateKey(rand.Reader, 1024))
	for name, key := range map[string]any{"P-384": p384, "RSA 1024": small} {
		if _, err := jws.ParsePrivateKey(must(x509.MarshalPKCS8PrivateKey(key))); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	if _, err := jws.ParsePrivateKey([]byte("secret")); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v, want an error that does not quote the input", err)
	}
	if _, err := jws.Generate("HS256"); !errors.Is(err, jws.ErrAlgorithm) {
		t.Errorf("got %v, want ErrAlgorithm", err)
	}
}

func TestParsingDoesNotAllocate(t *testing.T) {
	text := ed.token(ed.header(""), good)
	var token jws.Token
	got := testing.AllocsPerRun(100, func() {
		if token.Parse(text) != nil || ed.jws.Public().Verify(&token) != nil {
			t.Fatal("refused")
		}
	})
	if got != 0 {
		t.Errorf("got %v allocations, want 0", got)
	}
	members := make([]jws.Member, 0, 16)
	got = testing.AllocsPerRun(100, func() {
		if _, err := jws.Members(members, token.Payload); err != nil {
			t.Fatal(err)
		}
	})
	if got != 0 {
		t.Errorf("Members: got %v allocations, want 0", got)
	}
}

func BenchmarkParse(b *testing.B) {
	text := es.token(es.header(""), good)
	var token jws.Token
	b.ReportAllocs()
	for b.Loop() {
		if err := token.Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMembers(b *testing.B) {
	members := make([]jws.Member, 0, 16)
	object := []byte(good)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := jws.Members(members, object); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	for _, s := range []signer{es, ed, rs} {
		b.Run(s.alg(), func(b *testing.B) {
			var token jws.Token
			if err := token.Parse(s.token(s.header(""), good)); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := s.jws.Public().Verify(&token); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
