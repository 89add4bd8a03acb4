package jws_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/jws"
	"github.com/quashdev/quash/internal/revset"
)

// foreignFile is testdata/vectors/foreign.json: tokens of several issuers, the
// revocations that name them, and what a verifier says that trusts them all.
type foreignFile struct {
	Now        int64           `json:"now"` // Unix seconds
	HashSecret string          `json:"hash_secret"`
	Own        ownIssuer       `json:"own"`    // what the node says of its own tokens
	Known      []knownIssuer   `json:"known"`  // what the node's hello says of others
	Claims     []string        `json:"claims"` // claim names in use
	Issuers    []issuerVector  `json:"issuers"`
	Records    []foreignBlow   `json:"records"`
	Vectors    []foreignVector `json:"vectors"`
}

type foreignVector struct {
	ID      string `json:"id"`
	About   string `json:"about"`
	Token   string `json:"token"`
	Verdict string `json:"verdict"` // "valid", "invalid", "expired" or "revoked"
}

type ownIssuer struct {
	Name        string      `json:"name"`
	Audience    string      `json:"audience"`
	MaxLifetime int64       `json:"max_lifetime"`
	Keys        *jws.KeySet `json:"keys"`
}

type knownIssuer struct {
	Name        string `json:"name"`
	MaxLifetime int64  `json:"max_lifetime"` // seconds
}

// issuerVector is an issuer as a verifier is configured with it. What is left
// out takes its default.
type issuerVector struct {
	Name        string          `json:"name"`
	Keys        json.RawMessage `json:"keys,omitempty"`   // a JSON Web Key Set, or else
	Secret      []byte          `json:"secret,omitempty"` // base64
	Until       int64           `json:"until,omitempty"`  // Unix seconds
	Audience    string          `json:"audience,omitempty"`
	Types       []string        `json:"types,omitempty"`
	MaxLifetime int64           `json:"max_lifetime,omitempty"` // seconds
	Skew        int64           `json:"skew,omitempty"`         // seconds
}

type foreignBlow struct {
	Issuer string `json:"issuer"`
	revocationVector
}

const (
	idpName    = "https://idp.example"
	otherName  = "https://other.example"
	appName    = "https://app.example"
	secondName = "https://second.example"
	pastName   = "https://past.example"
)

const (
	appSecret    = "the secret of an application before Quash"
	secondSecret = "the secret of a second application, older"
	pastSecret   = "the secret of an application that has gone"
)

// Keys that stand in no RFC. idpStolen and otherSame have a kid of their own.
var (
	idpStolen = seeded("the identity provider's stolen key")
	otherSame = seeded("another issuer's key with the same kid")
)

func seeded(text string) signer {
	seed := sha256.Sum256([]byte(text))
	return newSigner(ed25519.NewKeyFromSeed(seed[:]))
}

func makeForeign() *foreignFile {
	f := &foreignFile{
		Now: vectorNow, HashSecret: hex.EncodeToString(hashSecret),
		Own: ownIssuer{Name: vectorIssuer, Audience: "orders", MaxLifetime: 300, Keys: must(jws.NewKeySet(es.jws.Public()))},
		Known: []knownIssuer{
			{appName, 30 * 86400},
			{idpName, 86400},
			{otherName, 7200},
			{pastName, 86400},
			{secondName, 86400},
		},
		Claims: []string{"iss", "jti", "kid", "roles", "sid", "sub"},
		Issuers: []issuerVector{
			{Name: idpName, Keys: idpKeys(), Audience: "orders"},
			{Name: otherName, Keys: otherKeys(), Audience: "orders", Types: []string{"JWT", ""}, MaxLifetime: 7200, Skew: 5},
			{Name: appName, Secret: []byte(appSecret), Until: vectorNow + 5000, Types: []string{"JWT"}, Skew: 600},
			{Name: secondName, Secret: []byte(secondSecret), Until: vectorNow + 5000, Audience: "orders", Types: []string{"Application/jwt"}},
			{Name: pastName, Secret: []byte(pastSecret), Until: vectorNow - 1, Types: []string{"JWT"}},
		},
	}
	f.revokeAll()
	f.addSignatures()
	f.addOthersKeys()
	f.addSecrets()
	f.addMade()
	f.addClaims()
	f.addForeignTimes()
	f.addRevoked()
	return f
}

// idpKeys are the keys of the first issuer, by thumbprint, one of them stolen.
func idpKeys() json.RawMessage {
	return must(must(jws.NewKeySet(ed.jws.Public(), idpStolen.jws.Public())).MarshalJSON())
}

// otherKeys has an RSA key without kid and one with a kid of the first issuer's.
func otherKeys() json.RawMessage {
	unnamed := strings.Replace(string(must(rs.jws.Public().MarshalJSON())), fmt.Sprintf(`"kid":%q,`, rs.id()), "", 1)
	same := strings.Replace(string(must(otherSame.jws.Public().MarshalJSON())), otherSame.id(), ed.id(), 1)
	return json.RawMessage(`{"keys":[` + unnamed + `,` + same + `]}`)
}

func (f *foreignFile) revokeAll() {
	const then, forever = vectorNow - 500, revset.Forever
	f.revoke(idpName, "sub", "u_revoked", 0, then)
	f.revoke(idpName, "sid", "s_dead", forever, then)
	f.revoke(idpName, "kid", idpStolen.id(), forever, then)
	f.revoke(otherName, "roles", "admin", 0, then)
	f.revoke(appName, "sub", "u_revoked", 0, then)
	f.revoke(vectorIssuer, "sub", "u_own", 0, 0)
	f.revoke(secondName, "iss", secondName, 0, then)
	f.revoke(idpName, "sub", "u_revoked", 0, then-100)
	f.revoke(otherName, "kid", rs.id(), 0, then)
	f.revoke(idpName, "sub", "u_doubt", 0, 0)
}

func (f *foreignFile) revoke(issuer, claim, value string, before uint64, notBefore uint32) {
	one := revocationFile{Issuer: issuer, Records: make([]revocationVector, len(f.Records))}
	one.revoke(claim, value, before, notBefore)
	f.Records = append(f.Records, foreignBlow{Issuer: issuer, revocationVector: one.Records[len(f.Records)]})
}

func (f *foreignFile) add(verdict, id, about, token string) {
	f.Vectors = append(f.Vectors, foreignVector{ID: id, About: about, Token: token, Verdict: verdict})
}

// bearing returns the claims of a token of iss that is good now, with others set
// to JSON text or, where that is empty, taken out.
func bearing(iss string, set ...string) string {
	claims := [][2]string{{"iss", fmt.Sprintf("%q", iss)}, {"sub", `"u_7"`}, {"aud", `"orders"`}, {"iat", "1800000000"}, {"exp", "1800003600"}}
	if iss == "" {
		claims = claims[1:]
	}
next:
	for i := 0; i < len(set); i += 2 {
		for j := range claims {
			if claims[j][0] == set[i] {
				claims[j][1] = set[i+1]
				continue next
			}
		}
		claims = append(claims, [2]string{set[i], set[i+1]})
	}
	var b strings.Builder
	for _, c := range claims {
		if c[1] != "" {
			fmt.Fprintf(&b, `,%q:%s`, c[0], c[1])
		}
	}
	return "{" + strings.TrimPrefix(b.String(), ",") + "}"
}

// mac signs with HS256.
func mac(secret, header, payload string) string {
	signed := b64(header) + "." + b64(payload)
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(signed))
	return signed + "." + b64(string(h.Sum(nil)))
}

const macHeader = `{"alg":"HS256","typ":"JWT"}`

// ofIDP signs as the first issuer does.
func ofIDP(set ...string) string { return ed.token(ed.header(""), bearing(idpName, set...)) }

// ofApp signs as the first application does.
func ofApp(set ...string) string {
	return mac(appSecret, macHeader, bearing("", append(set, "aud", "")...))
}

func (f *foreignFile) addSignatures() {
	good := bearing(idpName)
	f.add("valid", "S0-own", "Quash's own token beside those of others", es.token(es.header(""), strings.Replace(with("", ""), "u_7", "u_1", 1)))
	f.add("valid", "S0-Ed25519", "as an identity provider signs it", ed.token(ed.header(""), good))
	f.add("valid", "S0-EdDSA", "the older name of Ed25519", ed.token(ed.in(`"alg":"Ed25519"`, `"alg":"EdDSA"`), good))
	f.add("valid", "S0-x5t", "x5t names a certificate and chooses nothing", ed.token(ed.header(`,"x5t":"AAAA"`), good))
	f.add("valid", "S0-typ-application", "typ with application/ in front, in capitals", ed.token(ed.in("at+jwt", "Application/AT+JWT"), good))
	for i, alg := range []string{`"none"`, `"NONE"`, `""`, "null", "1", `["Ed25519"]`, `"HS384"`, `"PS256"`, `"ES256"`, `"RS256"`, `"HS256"`} {
		f.add("invalid", fmt.Sprintf("S1-%d", i), "alg "+alg, ed.token(ed.in(`"Ed25519"`, alg), good))
	}
	f.add("invalid", "S1-unsigned", "alg none without a signature", b64(`{"alg":"none","typ":"at+jwt"}`)+"."+b64(good)+".")
	for form, secret := range []string{string(must(ed.jws.Public().MarshalJSON())), ed.id(), string(ed.key.Public().(ed25519.PublicKey))} {
		f.add("invalid", fmt.Sprintf("S2-%d", form), "HS256 with a public key as the secret", mac(secret, ed.in("Ed25519", "HS256"), good))
	}
	for _, p := range []string{`"jwk":{}`, `"jku":"https://idp.example/jwks"`, `"x5u":"https://idp.example/x"`, `"x5c":["AAAA"]`, `"crit":["x"]`, `"cty":"JWT"`, `"zip":"DEF"`} {
		name, _, _ := strings.Cut(p[1:], `"`)
		f.add("invalid", "S4-"+name, "a header parameter that is never accepted", ed.token(ed.header(","+p), good))
	}
	f.add("invalid", "S6-kid-unknown", "no key has this kid", ed.token(ed.in(ed.id(), "nobody"), good))
	f.add("invalid", "S6-kid-missing", "no kid, and the issuer has two keys of the algorithm", ed.token(`{"alg":"Ed25519","typ":"at+jwt"}`, good))
	f.add("invalid", "S6-kid-empty", "an empty kid", ed.token(ed.in(ed.id(), ""), good))
	f.add("invalid", "S6-kid-number", "a kid that is no string", ed.token(ed.in(`"`+ed.id()+`"`, "1"), good))
	f.add("invalid", "S6-signature", "the signature of other claims", resigned(ed.token(ed.header(""), good), signatureOf(ofIDP("sub", `"u_8"`))))
	f.add("invalid", "S7-typ", "typ JWT was not named for this issuer", ed.token(ed.in("at+jwt", "JWT"), good))
	f.add("invalid", "S7-typ-missing", "no typ", ed.token(ed.in(`,"typ":"at+jwt"`, ""), good))
	f.add("invalid", "S7-typ-empty", "an empty typ is none of those named", ed.token(ed.in("at+jwt", ""), good))
	f.add("invalid", "S7-typ-id", "a typ of its own kind", ed.token(ed.in("at+jwt", "logout+jwt"), good))
}

func (f *foreignFile) addOthersKeys() {
	other := bearing(otherName)
	unnamed := `{"alg":"RS256","typ":"JWT"}`
	f.add("valid", "O0-unnamed", "no kid, and the issuer has one key of the algorithm", rs.token(unnamed, other))
	f.add("valid", "O0-no-typ", "typ may be missing where that was named", rs.token(`{"alg":"RS256"}`, other))
	f.add("valid", "O0-same-kid", "a kid that another issuer has too means this issuer's key", otherSame.token(ed.in("at+jwt", "JWT"), other))
	f.add("invalid", "O1-at+jwt", "where types are named, the default is not among them", rs.token(`{"alg":"RS256","typ":"at+jwt"}`, other))
	f.add("invalid", "O1-key-of-another", "signed with the key that another issuer has by this kid", ed.token(ed.in("at+jwt", "JWT"), other))
	f.add("invalid", "O1-kid-of-another", "the kid is another issuer's only", idpStolen.token(strings.Replace(idpStolen.header(""), "at+jwt", "JWT", 1), other))
	f.add("invalid", "O1-own-key", "signed with Quash's own key", es.token(es.in("at+jwt", "JWT"), other))
	f.add("invalid", "O1-own", "another issuer's key does not sign for Quash", ed.token(ed.header(""), with("", "")))
	f.add("invalid", "O1-own-secret", "a secret does not sign for Quash", mac(appSecret, `{"alg":"HS256","typ":"at+jwt","kid":"`+es.id()+`"}`, with("", "")))
	f.add("invalid", "O1-secret", "a secret of one does not sign for another", mac(appSecret, macHeader, bearing(secondName)))
	f.add("invalid", "O1-secret-idp", "nor for one that has keys", mac(appSecret, ed.in("Ed25519", "HS256"), bearing(idpName)))
	f.add("invalid", "O1-key-for-secret", "a key does not sign for one that has a secret", ed.token(ed.in("at+jwt", "JWT"), bearing(appName, "aud", "")))
	f.add("invalid", "O1-no-iss", "only a secret stands for the issuer", rs.token(unnamed, bearing("")))
	for i, iss := range []string{`"https://idp.example/"`, `"https://IDP.example"`, `"http://idp.example"`, `"https://nobody.example"`, `""`, `["https://idp.example"]`, "null", "1"} {
		f.add("invalid", fmt.Sprintf("O2-%d", i), "iss "+iss, ofIDP("iss", iss))
		f.add("invalid", fmt.Sprintf("O2-%d-secret", i), "iss "+iss, ofApp("iss", iss))
	}
}

func (f *foreignFile) addSecrets() {
	f.add("valid", "H0-no-iss", "a token without iss is of the issuer whose secret made it", ofApp())
	f.add("valid", "H0-iss", "iss is the issuer's name", ofApp("iss", `"`+appName+`"`))
	f.add("valid", "H0-second", "of two secrets the one that made it", mac(secondSecret, macHeader, bearing("")))
	f.add("valid", "H0-second-iss", "and by name", mac(secondSecret, macHeader, bearing(secondName)))
	f.add("valid", "H0-kid", "a kid that names nothing", mac(appSecret, `{"alg":"HS256","typ":"JWT","kid":"v1"}`, bearing("", "aud", "")))
	f.add("invalid", "H1-secret", "made with another secret", mac("a secret that nobody has, of 32 octets", macHeader, bearing("", "aud", "")))
	f.add("invalid", "H1-short", "half of the MAC", ofApp()[:len(ofApp())-22])
	f.add("invalid", "H2-aud", "an audience where tokens must have none", mac(appSecret, macHeader, bearing("")))
	f.add("invalid", "H2-aud-missing", "no audience where one was named", mac(secondSecret, macHeader, bearing("", "aud", "")))
	f.add("invalid", "H2-aud-other", "another audience", mac(secondSecret, macHeader, bearing("", "aud", `"payments"`)))
	f.add("expired", "H3-until", "the secret is accepted no more", mac(pastSecret, macHeader, bearing("", "aud", "")))
	f.add("invalid", "H3-until-wrong", "nor is a wrong one", mac("a secret that nobody has, of 32 octets", macHeader, bearing(pastName, "aud", "")))
}

// addMade adds tokens that were made once with the libraries that applications
// use, as their documentation shows: jsonwebtoken 9.0.3, PyJWT 2.6.0, and
// golang-jwt 5.3.1.
func (f *foreignFile) addMade() {
	const header = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."
	f.add("valid", "L0-jsonwebtoken", "jwt.sign({sub, iat, exp}, secret)", header+"eyJzdWIiOiJ1XzciLCJpYXQiOjE3OTk5OTkwMDAsImV4cCI6MTgwMDAwMzYwMH0.wv7apM7Vcf32YpQDbFUuBM7LfSXtZjhpvI_P_3vccXY")
	f.add("valid", "L0-jsonwebtoken-options", "jwt.sign with expiresIn, issuer and jwtid", header+"eyJzdWIiOiJ1XzciLCJyb2xlcyI6WyJhZG1pbiJdLCJpYXQiOjE3OTk5OTAwMDAsImV4cCI6MTgwMDA3NjQwMCwiaXNzIjoiaHR0cHM6Ly9hcHAuZXhhbXBsZSIsImp0aSI6ImpfMSJ9.3ed7vKrpaDzpHSLN89A2fqgeA-l_yb87cfX3dZF3EXE")
	f.add("valid", "L0-jsonwebtoken-id", "no sub, but a claim of the application's", header+"eyJpZCI6NywiaWF0IjoxNzk5OTk5MDAwLCJleHAiOjE4MDAwMDI2MDB9.VpQzo8eb5OJShWYNjN925Zh1tL952xRokkJEeckVK10")
	f.add("valid", "L0-PyJWT", "jwt.encode without iat", header+"eyJzdWIiOiJ1XzciLCJleHAiOjE4MDAwMDM2MDB9.EqEzn3-NbSRU9px_VJ4jjGwOx4hypZglgVn7AgXlWK0")
	f.add("valid", "L0-PyJWT-iss", "jwt.encode with iat and iss", header+"eyJzdWIiOiJ1XzgiLCJpYXQiOjE3OTk5OTkwMDAsImV4cCI6MTgwMDAwMzYwMCwiaXNzIjoiaHR0cHM6Ly9hcHAuZXhhbXBsZSJ9.qXi_iYKotOlLkUX__GQn5FC7haUD5GZP9x2WQpm2aiA")
	f.add("valid", "L0-golang-jwt", "MapClaims with nbf, without iat", header+"eyJleHAiOjE4MDAwMDM2MDAsIm5iZiI6MTQ0NDQ3ODQwMCwic3ViIjoidV83In0.2vlBismJEdY2x5KVvDoYLJiqT7XGmyFZ8iZrGNruZmU")
	f.add("invalid", "L1-jsonwebtoken", "jwt.sign without exp", header+"eyJzdWIiOiJ1XzciLCJpYXQiOjE3OTk5OTkwMDB9.5kIL-K2bIuQNy5b9s4KxxGb2tHwCeQhEMxjI81W8O_E")
	f.add("invalid", "L1-golang-jwt", "RegisteredClaims with an audience, where tokens must have none", header+"eyJpc3MiOiJodHRwczovL2FwcC5leGFtcGxlIiwic3ViIjoidV84IiwiYXVkIjpbIm9yZGVycyJdLCJleHAiOjE4MDAwMDM2MDAsImlhdCI6MTc5OTk5OTAwMCwianRpIjoial8yIn0.oUXAnpkrnz26q-q6fhWIJkiD4pbicOuHzIecinWjAI0")
	f.add("invalid", "L1-PyJWT-HS512", "jwt.encode with HS512", "eyJhbGciOiJIUzUxMiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJ1XzgiLCJpYXQiOjE3OTk5OTkwMDAsImV4cCI6MTgwMDAwMzYwMH0.jLsQJelwDnHSgM7nEmzYHOBKqoOOsI-_DmMbpy23kAB3ub4Znf3ruttZniB2oXpm0N_rc2kmJ1FkR0S5aWDXbA")
}

func (f *foreignFile) addClaims() {
	f.add("valid", "C0-aud-array", "an array that contains the audience", ofIDP("aud", `["a","orders"]`))
	f.add("valid", "C0-sub-missing", "sub is not required", ofIDP("sub", ""))
	f.add("valid", "C0-number-large", "no revocation names the claim", ofIDP("id", "9007199254740993"))
	for i, aud := range []string{"", `""`, "[]", `"payments"`, `[1]`, "null", "{}", `"order"`} {
		f.add("invalid", fmt.Sprintf("C1-aud-%d", i), "aud "+aud, ofIDP("aud", aud))
	}
	for i, sub := range []string{"7", "null", `["u_7"]`} {
		f.add("invalid", fmt.Sprintf("C2-sub-%d", i), "sub "+sub, ofIDP("sub", sub))
	}
	f.add("invalid", "C2-jti", "jti is no string", ofIDP("jti", "7"))
	f.add("valid", "C2-number-large", "a revocable claim with a number that no revocation can name", ofIDP("roles", "9007199254740992"))
	f.add("revoked", "C2-number-among", "the other members of the array count", otherSame.token(ed.in("at+jwt", "JWT"), bearing(otherName, "roles", `[1e400,"admin"]`, "iat", "1799999000")))
	f.add("invalid", "C3-twice", "two members of one name", ofIDP("iss2", `1,"iss":"https://idp.example"`))
	f.add("invalid", "C3-array", "no object", ed.token(ed.header(""), `["iss"]`))
}

func (f *foreignFile) addForeignTimes() {
	for i, exp := range []string{"", `"1800003600"`, "true", "null", "1e400", "-1", "9223372036854775808", "1e18", "253402300799"} {
		f.add("invalid", fmt.Sprintf("X1-exp-%d", i), "exp "+exp, ofIDP("exp", exp))
	}
	f.add("expired", "X2-zero", "exp 0", ofIDP("exp", "0", "iat", ""))
	f.add("expired", "X2-now", "dead at the second", ofIDP("exp", "1800000000", "iat", "1799999999"))
	f.add("valid", "X2-next", "alive until then", ofIDP("exp", "1800000001"))
	f.add("valid", "X2-fraction", "a fraction of a second", ofIDP("exp", "1800000000.5"))
	f.add("valid", "X3-longest", "as far off as the longest lifetime and a minute more", ofIDP("exp", "1800086460", "iat", "1800000060"))
	f.add("invalid", "X3-longer", "further off", ofIDP("exp", "1800086461", "iat", ""))
	f.add("invalid", "X3-lived", "it lives longer than the longest lifetime, though little is left of it", ofIDP("exp", "1800003600", "iat", "1799917199"))
	f.add("invalid", "X3-lived-fraction", "by a fraction of a second", ofIDP("exp", "1800003600.5", "iat", "1799917200"))
	f.add("valid", "X3-lives", "it lives as long as the longest lifetime", ofIDP("exp", "1800003600", "iat", "1799917200"))
	f.add("invalid", "X3-other", "the longest lifetime is the issuer's", otherSame.token(ed.in("at+jwt", "JWT"), bearing(otherName, "exp", "1800007261", "iat", "")))
	f.add("valid", "X3-other-minute", "a minute is allowed where the skew is less", otherSame.token(ed.in("at+jwt", "JWT"), bearing(otherName, "exp", "1800007260", "iat", "")))
	f.add("valid", "X3-skew", "the skew where it is more", ofApp("exp", "1800087000", "iat", "1800000600"))
	f.add("invalid", "X3-skew-longer", "further off than that", ofApp("exp", "1800087001", "iat", ""))
	for i, iat := range []string{`"1800000000"`, "null", "-1", "true"} {
		f.add("invalid", fmt.Sprintf("X4-iat-%d", i), "iat "+iat, ofIDP("iat", iat))
	}
	f.add("valid", "X4-iat-missing", "iat is not required", ofIDP("iat", ""))
	f.add("valid", "X4-iat-skew", "iat ahead by the skew", ofIDP("iat", "1800000060"))
	f.add("invalid", "X4-iat-ahead", "iat ahead by more", ofIDP("iat", "1800000061"))
	f.add("valid", "X4-iat-other", "the skew is the issuer's", rs.token(`{"alg":"RS256"}`, bearing(otherName, "iat", "1800000005")))
	f.add("invalid", "X4-iat-other-ahead", "iat ahead by more than the issuer's skew", rs.token(`{"alg":"RS256"}`, bearing(otherName, "iat", "1800000006")))
	f.add("valid", "X5-nbf", "nbf ahead by the skew", ofIDP("nbf", "1800000060"))
	f.add("invalid", "X5-nbf-ahead", "nbf ahead by more", ofIDP("nbf", "1800000061"))
	f.add("invalid", "X5-nbf-exp", "nbf after exp", ofIDP("nbf", "1800000003", "exp", "1800000002"))
	f.add("invalid", "X5-nbf-string", "nbf is no number", ofIDP("nbf", `"1"`))
}

func (f *foreignFile) addRevoked() {
	const user = `"u_revoked"`
	f.add("revoked", "R0-before", "issued before the revocation", ofIDP("sub", user, "iat", "1799999000"))
	f.add("revoked", "R0-skew", "issued up to the skew after it", ofIDP("sub", user, "iat", "1799999560"))
	f.add("revoked", "R0-skew-fraction", "fractions of iat do not count", ofIDP("sub", user, "iat", "1799999560.9"))
	f.add("valid", "R0-after", "issued later", ofIDP("sub", user, "iat", "1799999561"))
	f.add("revoked", "R0-no-iat", "there is no telling when it was issued", ofIDP("sub", user, "iat", ""))
	f.add("revoked", "R1-rev", "a rev is not believed", ofIDP("sub", user, "iat", "1799999000", "rev", "9007199254740991"))
	f.add("valid", "R1-rev-zero", "nor does it harm", ofIDP("sub", user, "iat", "1799999561", "rev", "0"))
	f.add("valid", "R1-rev-text", "whatever it is", ofIDP("rev", `"x"`))
	f.add("revoked", "R2-forever", "for ever, whatever iat says", ofIDP("sid", `"s_dead"`))
	f.add("revoked", "R2-kid", "a stolen key", idpStolen.token(idpStolen.header(""), bearing(idpName)))
	f.add("revoked", "R2-kid-unnamed", "a key without kid is named by its thumbprint", rs.token(`{"alg":"RS256"}`, bearing(otherName, "iat", "1799999000")))
	f.add("valid", "R3-own", "a revocation of Quash's own tokens", ofIDP("sub", `"u_own"`, "iat", "1799999000"))
	f.add("valid", "R3-other", "a revocation of another issuer's tokens", rs.token(`{"alg":"RS256"}`, bearing(otherName, "sub", user)))
	f.add("revoked", "R3-array", "a member of the array, by the issuer's skew", otherSame.token(ed.in("at+jwt", "JWT"), bearing(otherName, "roles", `["a","admin"]`, "iat", "1799999505")))
	f.add("valid", "R3-array-after", "issued later than the issuer's skew", otherSame.token(ed.in("at+jwt", "JWT"), bearing(otherName, "roles", `["a","admin"]`, "iat", "1799999506")))
	f.add("revoked", "R4-secret", "a token without iss, by the issuer's name", ofApp("sub", user, "iat", "1799999000"))
	f.add("revoked", "R4-secret-no-iat", "without iat", ofApp("sub", user, "iat", ""))
	f.add("revoked", "R4-doubt", "by a record without a time, whatever iat says", ofIDP("sub", `"u_doubt"`))
	f.add("revoked", "R5-iss", "everything of an issuer", mac(secondSecret, macHeader, bearing(secondName, "iat", "1799999000")))
	f.add("revoked", "R5-no-iss", "with the tokens that have no iss", mac(secondSecret, macHeader, bearing("", "iat", "1799999000")))
}

func TestForeignKeySetsAreBounded(t *testing.T) {
	key := string(must(ed.jws.Public().MarshalJSON()))
	set := func(keys ...string) []byte { return []byte(`{"keys":[` + strings.Join(keys, ",") + `]}`) }
	others := make([]string, 100)
	for i := range others {
		others[i] = `{"kty":"future"}`
	}
	if _, err := jws.ParseForeignKeySet(set(append(others, key)...)); !errors.Is(err, jws.ErrMalformed) {
		t.Errorf("101 keys: got %v, want them refused", err)
	}
	if keys, err := jws.ParseForeignKeySet(set(append(others[1:], key)...)); err != nil || keys.Len() != 1 {
		t.Errorf("100 keys, one of use: got %v, want that one", err)
	}
	pad := strings.Repeat(" ", jws.MaxForeignKeySet-len(set(key)))
	if _, err := jws.ParseForeignKeySet(append(set(key), pad...)); err != nil {
		t.Errorf("as long as can be: got %v, want it taken", err)
	}
	if _, err := jws.ParseForeignKeySet(append(set(key), pad+" "...)); !errors.Is(err, jws.ErrMalformed) {
		t.Errorf("longer: got %v, want it refused", err)
	}
	unnamed := strings.Replace(key, fmt.Sprintf(`"kid":%q,`, ed.id()), "", 1)
	keys, err := jws.ParseForeignKeySet(set(unnamed))
	if err != nil {
		t.Fatal(err)
	}
	if found, ok := keys.For(jws.Header{Algorithm: "EdDSA"}); !ok || found.ID() != ed.id() {
		t.Errorf("a key without kid: got %v, want it by its algorithm, with its thumbprint", ok)
	}
	if _, ok := keys.For(jws.Header{Algorithm: "ES256"}); ok {
		t.Error("a key of another algorithm was found")
	}
	if keys, err := jws.ParseKeySet(set(unnamed)); err != nil || keys.Len() != 0 {
		t.Errorf("a key without kid in the node's set: got %v, want it left out", err)
	}
}

func TestSecretsAreNotShort(t *testing.T) {
	if _, err := jws.NewSecret(make([]byte, jws.MinSecret-1)); err == nil {
		t.Error("31 octets are taken for a secret, want an error")
	}
	var empty jws.Token
	if err := must(jws.NewSecret(make([]byte, jws.MinSecret))).Verify(&empty); err == nil {
		t.Error("a secret takes a token that was not parsed")
	}
}

func TestVectorsOfOtherIssuersAreWritten(t *testing.T) {
	f := makeForeign()
	checkFile(t, "foreign.json", f)
	ids := make(map[string]bool)
	for _, v := range f.Vectors {
		if ids[v.ID] {
			t.Errorf("two vectors are called %s", v.ID)
		}
		ids[v.ID] = true
	}
	var octets []byte
	for _, r := range f.Records {
		octets = append(octets, unhex(r.Hex)...)
	}
	if got, want := len(must(feed.DecodeSnapshot(nil, octets))), len(f.Records); got != want {
		t.Errorf("got %d records, want %d", got, want)
	}
}
