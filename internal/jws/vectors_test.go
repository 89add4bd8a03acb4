package jws_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/quashdev/quash/internal/jws"
)

// The vectors in testdata/vectors are made here, and read by the tests of every
// verifier. After a change: go test ./internal/jws -run Vectors -update
var update = flag.Bool("update", false, "write testdata/vectors anew")

const vectorNow = 1_800_000_000

// tokenFile is testdata/vectors/tokens.json. Who judges the tokens has these
// keys and settings, and no revocations.
type tokenFile struct {
	Keys        *jws.KeySet   `json:"keys"`
	Issuer      string        `json:"issuer"`
	Audience    string        `json:"audience"`
	Now         int64         `json:"now"`          // Unix seconds
	MaxLifetime int64         `json:"max_lifetime"` // seconds
	Vectors     []tokenVector `json:"vectors"`
}

type tokenVector struct {
	ID      string `json:"id"`
	Case    string `json:"case"`
	About   string `json:"about"`
	Token   string `json:"token"`
	Verdict string `json:"verdict"` // "valid", "invalid" or "expired"
	Layer   string `json:"layer"`   // what refuses it: "jws", "claims" or, of a valid one, "none"
}

func makeTokens() *tokenFile {
	f := &tokenFile{
		Keys:   must(jws.NewKeySet(es.jws.Public(), ed.jws.Public(), rs.jws.Public())),
		Issuer: "https://issuer.example", Audience: "orders", Now: vectorNow, MaxLifetime: 300,
	}
	f.addValid()
	f.addAlgorithms()
	f.addHeaders()
	f.addKeyIDs()
	f.addEncodings()
	f.addShapes()
	f.addSizes()
	f.addTypes()
	f.addSignatures()
	f.addRSASignatures()
	f.addNames()
	f.addTimes()
	f.addIdentity()
	f.addJSON()
	// Several lists above are maps.
	slices.SortFunc(f.Vectors, func(a, b tokenVector) int { return strings.Compare(a.ID, b.ID) })
	return f
}

func (f *tokenFile) add(verdict, layer, id, about, token string) {
	name, _, _ := strings.Cut(id, "-")
	f.Vectors = append(f.Vectors, tokenVector{ID: id, Case: name, About: about, Token: token, Verdict: verdict, Layer: layer})
}

func (f *tokenFile) valid(id, about, token string)      { f.add("valid", "none", id, about, token) }
func (f *tokenFile) refused(id, about, token string)    { f.add("invalid", "jws", id, about, token) }
func (f *tokenFile) badClaims(id, about, claims string) { f.claims("invalid", id, about, claims) }

func (f *tokenFile) claims(verdict, id, about, claims string) {
	layer := "claims"
	if verdict == "valid" {
		layer = "none"
	}
	f.add(verdict, layer, id, about, ed.token(ed.header(""), claims))
}

// header adds a token whose header is refused though its signature is good.
func (f *tokenFile) header(id, about, header string) {
	f.refused(id, about, es.token(header, good))
}

// good are the claims of a valid token; the other vectors differ in one.
var good = with("", "")

var claimOrder = []string{"iss", "sub", "aud", "client_id", "iat", "exp", "jti", "sid", "rev"}

// with returns the good claims with one set to a JSON text or, if that is
// empty, taken out.
func with(name, value string) string {
	claims := map[string]string{
		"iss": `"https://issuer.example"`, "sub": `"u_7"`, "aud": `"orders"`, "client_id": `"web"`,
		"iat": "1800000000", "exp": "1800000300", "jti": `"t_1"`, "sid": `"s_81"`, "rev": "41",
	}
	order := claimOrder
	if name != "" {
		claims[name] = value
	}
	if name != "" && !slices.Contains(order, name) {
		order = append(slices.Clone(order), name)
	}
	var b strings.Builder
	for _, n := range order {
		if claims[n] != "" {
			fmt.Fprintf(&b, `,"%s":%s`, n, claims[n])
		}
	}
	return "{" + b.String()[1:] + "}"
}

// also returns the good claims with more text at their end.
func also(more string) string { return strings.TrimSuffix(good, "}") + more + "}" }

// in returns the header with one part of its text replaced.
func (s signer) in(from, to string) string {
	h := strings.Replace(s.header(""), from, to, 1)
	if h == s.header("") {
		panic("the header does not contain " + from)
	}
	return h
}

func TestVectorsOfTokensAreJudgedAsTheySay(t *testing.T) {
	f := makeTokens()
	checkFile(t, "tokens.json", f)
	ids := make(map[string]bool)
	var token jws.Token
	for _, v := range f.Vectors {
		if ids[v.ID] {
			t.Errorf("two vectors are called %s", v.ID)
		}
		ids[v.ID] = true
		err := judge(&token, f.Keys, v.Token)
		if got, want := err != nil, v.Layer == "jws"; got != want {
			t.Errorf("%s (%s): got refused = %t (%v), want %t", v.ID, v.About, got, err, want)
		}
		if _, err := jws.Members(nil, token.Payload); v.Layer == "none" && err != nil {
			t.Errorf("%s: claims of a valid token: %v", v.ID, err)
		}
	}
}

// judge does what a verifier does before it looks at claims.
func judge(t *jws.Token, keys *jws.KeySet, token string) error {
	if err := t.Parse(token); err != nil {
		return err
	}
	key, ok := keys.Key(t.Header.KeyID)
	if !ok {
		return errors.New("unknown kid")
	}
	return key.Verify(t)
}

// checkFile compares a file of vectors with what is generated.
func checkFile(t *testing.T, name string, want any) {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(want); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("..", "..", "testdata", "vectors", name)
	if *update {
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, b.Bytes()) {
		t.Errorf("%s is not what this test generates; run go test ./internal/jws -run Vectors -update", path)
	}
}
