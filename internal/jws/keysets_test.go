package jws_test

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/quashdev/quash/internal/jws"
)

// keySetVector is an entry of testdata/vectors/keysets.json.
type keySetVector struct {
	ID      string   `json:"id"`
	Case    string   `json:"case"`
	About   string   `json:"about"`
	JWKS    string   `json:"jwks"`
	Verdict string   `json:"verdict"` // "accepted" or "refused"
	Usable  []string `json:"usable"`  // kids of the keys that tokens are verified with, in order
}

// member is one of a key's members, as JSON text.
type member struct{ name, value string }

// jwkOf returns a public key as a JSON Web Key, with members replaced, added
// or, where the value is empty, taken out.
func (s signer) jwkOf(kid string, changes ...member) string {
	var key map[string]json.RawMessage
	if err := json.Unmarshal(must(s.jws.Public().MarshalJSON()), &key); err != nil {
		panic(err)
	}
	for _, c := range append([]member{{"kid", quoted(kid)}}, changes...) {
		if key[c.name] = json.RawMessage(c.value); c.value == "" {
			delete(key, c.name)
		}
	}
	return string(must(json.Marshal(key)))
}

func quoted(s string) string { return `"` + s + `"` }

func setOf(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }

type keySets []keySetVector

func (k *keySets) accepted(id, about, jwks string, usable ...string) {
	name, _, _ := strings.Cut(id, "-")
	*k = append(*k, keySetVector{id, name, about, jwks, "accepted", append([]string{}, usable...)})
}

func (k *keySets) refused(id, about, jwks string) {
	name, _, _ := strings.Cut(id, "-")
	*k = append(*k, keySetVector{id, name, about, jwks, "refused", []string{}})
}

func makeKeySets() keySets {
	var k keySets
	a := es.jwkOf("a")
	k.accepted("K0-three", "one key of each kind", setOf(a, ed.jwkOf("b"), rs.jwkOf("c")), "a", "b", "c")
	k.accepted("K0-none", "a set without keys", setOf())
	k.accepted("K0-members", "members that nobody knows", `{"x":1,"keys":[`+es.jwkOf("a", member{"x5t", `"AAAA"`})+`]}`, "a")
	k.accepted("K0-no-alg", "alg may be absent, the key's type says it", setOf(rs.jwkOf("c", member{"alg", ""}), ed.jwkOf("b", member{"alg", ""})), "c", "b")
	k.accepted("K0-EdDSA", "the older name of Ed25519", setOf(ed.jwkOf("b", member{"alg", `"EdDSA"`})), "b")
	k.refused("K0-not-a-set", "no array keys", `{"key":[]}`)
	k.refused("K0-bare-key", "a key alone", a)
	k.refused("K0-array", "an array", "["+a+"]")
	k.refused("K0-html", "a page", "<!doctype html><title>404</title>")
	k.refused("K0-repeated", "a name occurs twice", setOf(strings.Replace(a, "{", `{"kty":"EC",`, 1)))
	k.refused("K0-trailing", "more after the set", setOf(a)+"{}")
	k.refused("K0-large", "longer than 65536 octets", setOf(es.jwkOf("a", member{"x5c", `["` + strings.Repeat("A", 66_000) + `"]`})))
	k.refused("T7-twice", "two keys with one kid", setOf(a, ed.jwkOf("a")))
	k.refused("T7-twice-unused", "two keys with one kid, one of them not for signatures", setOf(a, ed.jwkOf("a", member{"use", `"enc"`})))
	k.use()
	k.values()
	k.notCanonical()
	k.private()
	return k
}

// use: keys that are not for us are left out, and the set stays (RFC 7517, section 5).
func (k *keySets) use() {
	b := ed.jwkOf("b")
	for id, c := range map[string]member{
		"enc": {"use", `"enc"`}, "use-unknown": {"use", `"tls"`}, "ops-sign": {"key_ops", `["sign"]`}, "ops-none": {"key_ops", "[]"},
		"ops-encrypt": {"key_ops", `["encrypt","wrapKey"]`}, "alg-unknown": {"alg", `"ES384"`}, "alg-none": {"alg", `"none"`},
		"crv-unknown": {"crv", `"P-384"`}, "kty-unknown": {"kty", `"AKP"`}, "no-kid": {"kid", ""}, "kid-empty": {"kid", `""`}, "kid-space": {"kid", `"a b"`},
	} {
		k.accepted("T8-"+id, "a key that is not for us is left out: "+c.name+" "+c.value, setOf(es.jwkOf("a", c), b), "b")
	}
	k.accepted("T8-PS256", "RSA for another algorithm", setOf(rs.jwkOf("c", member{"alg", `"PS256"`}), b), "b")
	k.accepted("T8-x25519", "a key for agreement", setOf(ed.jwkOf("x", member{"crv", `"X25519"`}, member{"alg", ""}), b), "b")
	k.accepted("T8-ops-verify", "key_ops with verify", setOf(es.jwkOf("a", member{"key_ops", `["verify"]`})), "a")
	k.accepted("T8-no-use", "use may be absent", setOf(es.jwkOf("a", member{"use", ""})), "a")
	k.refused("T8-ops-string", "key_ops is an array", setOf(es.jwkOf("a", member{"key_ops", `"verify"`})))
	k.refused("T8-kid-number", "kid is a string", setOf(es.jwkOf("a", member{"kid", "1"})))
	k.refused("T8-no-kty", "kty is required", setOf(es.jwkOf("a", member{"kty", ""})))
}

func (k *keySets) values() {
	n := unb64Int(rsaModulus())
	short := new(big.Int).Rsh(n, 1024)
	even := new(big.Int).Sub(n, big.NewInt(1))
	long := new(big.Int).Lsh(n, 6145)
	number := func(i *big.Int) string { return quoted(b64(string(i.Bytes()))) }
	flip := func(text string) string { return strings.ReplaceAll(text, "f83OJ3D2", "f83OJ3D3") }
	for id, jwks := range map[string]string{
		"rsa-1024": rs.jwkOf("c", member{"n", number(short.SetBit(short, 0, 1))}), "rsa-even": rs.jwkOf("c", member{"n", number(even)}),
		"rsa-long": rs.jwkOf("c", member{"n", number(long.SetBit(long, 0, 1))}), "rsa-zeros": rs.jwkOf("c", member{"n", quoted(b64("\x00" + string(n.Bytes())))}),
		"rsa-no-n": rs.jwkOf("c", member{"n", ""}), "e-1": rs.jwkOf("c", member{"e", `"AQ"`}), "e-3": rs.jwkOf("c", member{"e", `"Aw"`}),
		"e-even": rs.jwkOf("c", member{"e", `"AQAC"`}), "e-zeros": rs.jwkOf("c", member{"e", `"AAEAAQ"`}), "e-missing": rs.jwkOf("c", member{"e", ""}),
		"e-zero": rs.jwkOf("c", member{"e", `"AA"`}), "e-large": rs.jwkOf("c", member{"e", `"AQAAAAAAAAAB"`}), "rsa-roca": rs.jwkOf("c", member{"n", number(rocaModulus())}), "e-number": rs.jwkOf("c", member{"e", "65537"}),
		"ec-off-curve": flip(es.jwkOf("a")), "ec-zero": es.jwkOf("a", member{"x", quoted(b64(string(make([]byte, 32))))}, member{"y", quoted(b64(string(make([]byte, 32))))}),
		"ec-short": es.jwkOf("a", member{"x", quoted(b64(string(make([]byte, 31))))}), "ec-long": es.jwkOf("a", member{"y", quoted(b64(string(make([]byte, 33))))}),
		"ec-no-y": es.jwkOf("a", member{"y", ""}), "ec-padding": strings.Replace(es.jwkOf("a"), "HvRVEU", "HvRVEU=", 1), "ec-trailing-bits": strings.Replace(es.jwkOf("a"), "HvRVEU", "HvRVEV", 1),
		"ed-short": ed.jwkOf("b", member{"x", quoted(b64(string(make([]byte, 31))))}), "ed-long": ed.jwkOf("b", member{"x", quoted(b64(string(make([]byte, 33))))}),
		"alg-of-rsa": es.jwkOf("a", member{"alg", `"RS256"`}), "alg-of-ec": rs.jwkOf("c", member{"alg", `"ES256"`}), "alg-of-okp": es.jwkOf("a", member{"alg", `"EdDSA"`}),
	} {
		k.refused("T36-"+id, "a key whose values are wrong", setOf(jwks, ed.jwkOf("z")))
	}
	for _, y := range []string{
		"00", "01", "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"ec" + strings.Repeat("ff", 30) + "7f", "ed" + strings.Repeat("ff", 30) + "7f", "ee" + strings.Repeat("ff", 30) + "7f",
	} {
		x := append(unhex(y), make([]byte, 32)...)[:32]
		k.refused("T35-order-"+y[:2], "a point of small order", setOf(ed.jwkOf("b", member{"x", quoted(b64(string(x)))})))
		x[31] |= 0x80
		k.refused("T35-order-"+y[:2]+"-negative", "a point of small order", setOf(ed.jwkOf("b", member{"x", quoted(b64(string(x)))})))
	}
}

// notCanonical are points whose y is 3 and 5, written as that and the field's
// prime: decoders differ in whether they take them.
func (k *keySets) notCanonical() {
	for _, first := range []byte{0xf0, 0xf2} {
		x := append([]byte{first}, unhex(strings.Repeat("ff", 30)+"7f")...)
		k.refused(fmt.Sprintf("T35-y-%x", first), "a point that is not canonical", setOf(ed.jwkOf("b", member{"x", quoted(b64(string(x)))})))
	}
}

// rocaModulus is a number of 2048 bits that is 65537 modulo the odd primes below
// 168, as the moduli of CVE-2017-15361 are a power of it.
func rocaModulus() *big.Int {
	step := big.NewInt(2)
	for p := int64(3); p < 168; p++ {
		if prime := big.NewInt(p); prime.ProbablyPrime(0) {
			step.Mul(step, prime)
		}
	}
	n := new(big.Int).Lsh(big.NewInt(1), 2047)
	n.Add(n, step).Sub(n, new(big.Int).Mod(n, step))
	return n.Add(n, big.NewInt(65537))
}

func rsaModulus() string {
	var key struct{ N string }
	if err := json.Unmarshal(must(rs.jws.Public().MarshalJSON()), &key); err != nil {
		panic(err)
	}
	return key.N
}

func (k *keySets) private() {
	b := ed.jwkOf("b")
	k.refused("T38-ec", "a private key", setOf(b, es.jwkOf("a", member{"d", `"AQ"`})))
	k.refused("T38-d-unused", "a private key that is not for signatures", setOf(b, es.jwkOf("a", member{"d", `"AQ"`}, member{"use", `"enc"`})))
	for _, name := range []string{"d", "p", "q", "dp", "dq", "qi", "oth"} {
		k.refused("T38-rsa-"+name, "a private member", setOf(b, rs.jwkOf("c", member{name, `"AQ"`})))
	}
	k.refused("T38-oct", "a symmetric key", setOf(b, `{"kty":"oct","kid":"o","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","alg":"HS256"}`))
	k.refused("T38-oct-unknown", "a symmetric member in a key of unknown type", setOf(b, `{"kty":"x","kid":"o","k":""}`))
}

func TestVectorsOfKeySetsAreJudgedAsTheySay(t *testing.T) {
	vectors := makeKeySets()
	slices.SortFunc(vectors, func(a, b keySetVector) int { return strings.Compare(a.ID, b.ID) })
	checkFile(t, "keysets.json", map[string]any{"vectors": vectors})
	for _, v := range vectors {
		set, err := jws.ParseKeySet([]byte(v.JWKS))
		if got, want := err != nil, v.Verdict == "refused"; got != want {
			t.Errorf("%s (%s): got refused = %t (%v), want %t", v.ID, v.About, got, err, want)
		}
		if err != nil {
			if !errors.Is(err, jws.ErrMalformed) {
				t.Errorf("%s: got %v, want ErrMalformed", v.ID, err)
			}
			continue
		}
		if diff := cmp.Diff(v.Usable, kidsOf(set)); diff != "" {
			t.Errorf("%s: usable keys (-want +got):\n%s", v.ID, diff)
		}
	}
}

func kidsOf(set *jws.KeySet) []string {
	var parsed struct{ Keys []struct{ Kid string } }
	if err := json.Unmarshal(must(json.Marshal(set)), &parsed); err != nil {
		panic(err)
	}
	kids := []string{}
	for _, k := range parsed.Keys {
		kids = append(kids, k.Kid)
	}
	return kids
}

func TestKeySetReadsWhatItWrites(t *testing.T) {
	want := must(jws.NewKeySet(rs.jws.Public(), es.jws.Public(), ed.jws.Public()))
	got, err := jws.ParseKeySet(must(json.Marshal(want)))
	if err != nil {
		t.Fatal(err)
	}
	if got.Len() != 3 {
		t.Errorf("got %d keys, want 3", got.Len())
	}
	for _, s := range []signer{es, ed, rs} {
		key, ok := got.Key(s.id())
		if !ok {
			t.Fatalf("no key for %s", s.alg())
		}
		var token jws.Token
		if err := token.Parse(s.token(s.header(""), good)); err != nil {
			t.Fatal(err)
		}
		if err := key.Verify(&token); err != nil {
			t.Errorf("%s: %v", s.alg(), err)
		}
	}
	if _, ok := got.Key("unknown"); ok {
		t.Error("got a key for a kid that the set does not have")
	}
}

func TestKeySetRefusesTwoKeysOfOneKid(t *testing.T) {
	if _, err := jws.NewKeySet(es.jws.Public(), es.jws.Public()); !errors.Is(err, jws.ErrMalformed) {
		t.Errorf("got %v, want ErrMalformed", err)
	}
}

func TestEmptyKeySetIsAnArray(t *testing.T) {
	if got, want := string(must(json.Marshal(new(jws.KeySet)))), `{"keys":[]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestKeyIDIsTheThumbprint(t *testing.T) {
	// RFC 8037, appendix A.3.
	if got, want := ed.id(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for s, members := range map[signer]string{
		es: `{"crv":"P-256","kty":"EC","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`,
		rs: `{"e":"AQAB","kty":"RSA","n":"` + rsaModulus() + `"}`,
	} {
		sum := sha256.Sum256([]byte(members))
		if got, want := s.id(), b64(string(sum[:])); got != want {
			t.Errorf("%s: got %s, want %s", s.alg(), got, want)
		}
	}
}
