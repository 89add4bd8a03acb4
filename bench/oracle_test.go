package main_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
	"github.com/quashdev/quash/internal/jws"
)

// An oracle checks a token's form and signature, and no claims.
type oracle struct {
	name   string
	verify func(token string, keys jose.JSONWebKeySet) error
	// sign makes an access token with the claims, under the name that the
	// library has for the algorithm.
	sign func(key crypto.PrivateKey, alg, kid string, claims map[string]any) (string, error)
}

var oracles = []oracle{
	{"golang-jwt", verifyWithGolangJWT, signWithGolangJWT},
	{"go-jose", verifyWithGoJOSE, signWithGoJOSE},
}

var algorithms = []jws.Algorithm{jws.ES256, jws.Ed25519, jws.RS256}

func TestOraclesTakeWhatWeSign(t *testing.T) {
	for _, a := range algorithms {
		key := must(jws.Generate(a))
		token := must(key.Sign("at+jwt", []byte(`{"iss":"https://issuer.example","sub":"u_7"}`)))
		keys := published(t, must(jws.NewKeySet(key.Public())))
		for _, o := range oracles {
			if err := o.verify(token, keys); err != nil {
				t.Errorf("%s refuses our %s: %v", o.name, a, err)
			}
		}
	}
}

func TestWeTakeWhatOraclesSign(t *testing.T) {
	for _, a := range algorithms {
		key := must(jws.Generate(a))
		private := must(x509.ParsePKCS8PrivateKey(must(key.Marshal())))
		alg := string(a)
		if a == jws.Ed25519 {
			alg = "EdDSA"
		}
		for _, o := range oracles {
			text := must(o.sign(private, alg, key.Public().ID(), map[string]any{"sub": "u_7"}))
			var token jws.Token
			if err := token.Parse(text); err != nil {
				t.Errorf("%s signed with %s: %v", a, o.name, err)
			} else if err := key.Public().Verify(&token); err != nil {
				t.Errorf("%s signed with %s: %v", a, o.name, err)
			}
		}
	}
}

// Tokens as applications made them with a shared secret, before they came to
// Quash.
func TestWeTakeWhatOraclesMakeWithASecret(t *testing.T) {
	secret := []byte("the secret of an application before Quash")
	ours := must(jws.NewSecret(secret))
	claims := jwt.MapClaims{"sub": "u_7", "exp": time.Now().Add(time.Hour).Unix()}
	signer := must(jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: secret}, (&jose.SignerOptions{}).WithType("JWT")))
	for name, text := range map[string]string{
		"golang-jwt": must(jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(secret)),
		"go-jose":    must(must(signer.Sign(must(json.Marshal(claims)))).CompactSerialize()),
	} {
		var token jws.Token
		if err := token.ParseForeign(text); err != nil {
			t.Errorf("made by %s: %v", name, err)
		} else if err := ours.Verify(&token); err != nil {
			t.Errorf("made by %s: %v", name, err)
		}
	}
	longer := must(jwt.NewWithClaims(jwt.SigningMethodHS512, claims).SignedString(secret))
	var token jws.Token
	if err := token.ParseForeign(longer); !errors.Is(err, jws.ErrAlgorithm) {
		t.Errorf("HS512: got %v, want it refused", err)
	}
}

func TestOraclesReadOurKeys(t *testing.T) {
	for _, a := range algorithms {
		key := must(jws.Generate(a)).Public()
		read := published(t, must(jws.NewKeySet(key))).Keys[0]
		thumbprint := must(read.Thumbprint(crypto.SHA256))
		if got, want := key.ID(), base64.RawURLEncoding.EncodeToString(thumbprint); got != want {
			t.Errorf("%s: got kid %s, go-jose's thumbprint is %s", a, got, want)
		}
		if !read.Valid() || !read.IsPublic() || read.Use != "sig" {
			t.Errorf("%s: go-jose reads %+v", a, read)
		}
		var again jose.JSONWebKeySet
		again.Keys = append(again.Keys, read)
		if _, err := jws.ParseKeySet(must(json.Marshal(again))); err != nil {
			t.Errorf("%s: written by go-jose: %v", a, err)
		}
	}
}

// Whatever one of the oracles refuses, we refuse. Of the reverse nothing is
// asked: we are meant to be the strictest.
func TestWeRefuseWhatOraclesRefuse(t *testing.T) {
	file := readVectors(t)
	ours, err := jws.ParseKeySet(file.Keys)
	if err != nil {
		t.Fatal(err)
	}
	var keys jose.JSONWebKeySet
	if err := json.Unmarshal(file.Keys, &keys); err != nil {
		t.Fatal(err)
	}
	stricter := make(map[string]int)
	for _, v := range file.Vectors {
		weTake := take(ours, v.Token)
		for _, o := range oracles {
			err := o.verify(v.Token, keys)
			switch {
			case err == nil && !weTake:
				stricter[o.name]++
			case err != nil && v.Layer == "none":
				t.Errorf("%s is valid; %s refuses it: %v", v.ID, o.name, err)
			case err != nil && weTake && o.name == "go-jose":
				// golang-jwt reads the claims too, which this layer does not judge.
				t.Errorf("%s: we take it, %s refuses it: %v", v.ID, o.name, err)
			}
		}
	}
	t.Logf("of %d vectors we refuse, and they take: %v", len(file.Vectors), stricter)
}

func take(keys *jws.KeySet, text string) bool {
	var token jws.Token
	if token.Parse(text) != nil {
		return false
	}
	key, ok := keys.Key(token.Header.KeyID)
	return ok && key.Verify(&token) == nil
}

type vectorFile struct {
	Keys    json.RawMessage `json:"keys"`
	Vectors []struct{ ID, Token, Layer string }
}

func readVectors(t *testing.T) (f vectorFile) {
	t.Helper()
	text, err := os.ReadFile("../testdata/vectors/tokens.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &f); err != nil {
		t.Fatal(err)
	}
	return f
}

func published(t *testing.T, keys *jws.KeySet) (read jose.JSONWebKeySet) {
	t.Helper()
	if err := json.Unmarshal(must(json.Marshal(keys)), &read); err != nil {
		t.Fatal(err)
	}
	return read
}

func keyOf(keys jose.JSONWebKeySet, kid any) (*jose.JSONWebKey, error) {
	id, _ := kid.(string)
	if found := keys.Key(id); len(found) == 1 {
		return &found[0], nil
	}
	return nil, errors.New("no such key")
}

// golang-jwt knows Ed25519 by its name in RFC 8037 only.
func init() {
	jwt.RegisterSigningMethod("Ed25519", func() jwt.SigningMethod { return jwt.SigningMethodEdDSA })
}

func verifyWithGolangJWT(token string, keys jose.JSONWebKeySet) error {
	parser := jwt.NewParser(jwt.WithStrictDecoding(), jwt.WithoutClaimsValidation(), jwt.WithValidMethods([]string{"ES256", "EdDSA", "RS256"}))
	_, err := parser.Parse(token, func(t *jwt.Token) (any, error) {
		key, err := keyOf(keys, t.Header["kid"])
		if err != nil {
			return nil, err
		}
		return key.Key, nil
	})
	return err
}

func signWithGolangJWT(key crypto.PrivateKey, alg, kid string, claims map[string]any) (string, error) {
	token := jwt.NewWithClaims(jwt.GetSigningMethod(alg), jwt.MapClaims(claims))
	token.Header["typ"], token.Header["kid"] = "at+jwt", kid
	return token.SignedString(key)
}

func verifyWithGoJOSE(token string, keys jose.JSONWebKeySet) error {
	parsed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256, jose.EdDSA, "Ed25519", jose.RS256})
	if err != nil {
		return err
	}
	header := parsed.Signatures[0].Protected
	key, err := keyOf(keys, header.KeyID)
	if err != nil {
		return err
	}
	if public, ok := key.Key.(ed25519.PublicKey); ok && header.Algorithm == "Ed25519" {
		_, err = parsed.Verify(byNewName{public})
		return err
	}
	_, err = parsed.Verify(key.Key)
	return err
}

// byNewName lets go-jose, which knows Ed25519 by its name in RFC 8037 only,
// verify tokens that use the one of RFC 9864.
type byNewName struct{ key ed25519.PublicKey }

func (v byNewName) VerifyPayload(payload, signature []byte, _ jose.SignatureAlgorithm) error {
	if !ed25519.Verify(v.key, payload, signature) {
		return errors.New("wrong signature")
	}
	return nil
}

func signWithGoJOSE(key crypto.PrivateKey, alg, kid string, claims map[string]any) (string, error) {
	options := (&jose.SignerOptions{}).WithType("at+jwt").WithHeader("kid", kid)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(alg), Key: key}, options)
	if err != nil {
		return "", err
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
