package jws_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// p1363 turns an ECDSA signature in DER into R and S of 32 octets each.
func p1363(der []byte) []byte {
	var v struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &v); err != nil {
		panic(err)
	}
	return slices.Concat(v.R.FillBytes(make([]byte, 32)), v.S.FillBytes(make([]byte, 32)))
}

// resigned replaces a token's signature.
func resigned(token string, signature []byte) string {
	return token[:strings.LastIndexByte(token, '.')+1] + b64(string(signature))
}

func signatureOf(token string) []byte { return unb64(token[strings.LastIndexByte(token, '.')+1:]) }

func signedPart(token string) string { return token[:strings.LastIndexByte(token, '.')] }

func (f *tokenFile) addValid() {
	for _, s := range []signer{es, ed, rs} {
		f.valid("T0-"+s.alg(), "as the issuer signs it with "+s.alg(), s.token(s.header(""), good))
	}
	f.valid("T0-EdDSA", "EdDSA is the older name of Ed25519", ed.token(ed.in(`"alg":"Ed25519"`, `"alg":"EdDSA"`), good))
	f.valid("T0-order", "members of the header in another order, with white space",
		es.token(fmt.Sprintf("{ \"typ\" : \"at+jwt\",\n\"kid\":%q,\t\"alg\":\"ES256\" }", es.id()), good))
	f.valid("T0-escape", "an escape in the header stands for its character", es.token(es.in(`"at+jwt"`, `"\u0061t+jwt"`), good))
	f.valid("T0-unknown-member", "an unknown header parameter is ignored", es.token(es.header(`,"x":[1,{"y":null}]`), good))
	f.valid("T0-claims", "more claims of every type",
		es.token(es.header(""), also(`,"roles":["a","b"],"tenant":"acme","level":3,"on":true,"none":null,"deep":{"a":{"b":[]}},"name":"\ud83d\ude00 é"`)))
}

func (f *tokenFile) addAlgorithms() {
	signature := b64(string(es.sign("anything")))
	for i, alg := range []string{`"none"`, `"None"`, `"NONE"`, `"nOnE"`, `""`, "", "null", "1", `["ES256"]`} {
		header := es.in(`"ES256"`, alg)
		if alg == "" {
			header = es.in(`"alg":"ES256",`, "")
		}
		unsigned := b64(header) + "." + b64(good) + "."
		f.refused(fmt.Sprintf("T1-%d-unsigned", i), "alg "+alg+" without a signature", unsigned)
		f.refused(fmt.Sprintf("T1-%d-signature", i), "alg "+alg+" with a signature of something else", unsigned+signature)
		f.refused(fmt.Sprintf("T1-%d-signed", i), "alg "+alg+" with a signature that ES256 would take", es.token(header, good))
	}
	for _, s := range []signer{es, ed, rs} {
		f.addMACs(s)
	}
	f.addOtherAlgorithms()
}

// addMACs takes a public key in its several forms for the secret of an HMAC.
func (f *tokenFile) addMACs(s signer) {
	der := must(x509.MarshalPKIXPublicKey(s.key.Public()))
	secrets := map[string][]byte{
		"der": der,
		"pem": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
		"jwk": must(s.jws.Public().MarshalJSON()),
		"kid": []byte(s.id()),
	}
	switch key := s.key.Public().(type) {
	case *ecdsa.PublicKey:
		secrets["raw"] = must(key.Bytes())
	case *rsa.PublicKey:
		secrets["raw"] = key.N.Bytes()
	case ed25519.PublicKey:
		secrets["raw"] = key
	}
	for _, form := range []string{"der", "pem", "jwk", "kid", "raw"} {
		header := s.in(`"alg":"`+s.alg()+`"`, `"alg":"HS256"`)
		signed := b64(header) + "." + b64(good)
		mac := hmac.New(sha256.New, secrets[form])
		mac.Write([]byte(signed))
		f.refused("T2-"+s.alg()+"-"+form, "HS256 with the public key as the secret", signed+"."+b64(string(mac.Sum(nil))))
	}
}

func (f *tokenFile) addOtherAlgorithms() {
	for _, c := range []struct {
		id  string
		s   signer
		alg string
	}{
		{"RS256-as-ES256", rs, "ES256"},
		{"RS256-as-EdDSA", rs, "EdDSA"},
		{"ES256-as-RS256", es, "RS256"},
		{"ES256-as-ES384", es, "ES384"},
		{"ES256-as-EdDSA", es, "EdDSA"},
		{"ES256-as-Ed25519", es, "Ed25519"},
		{"ES256-as-lower", es, "es256"},
		{"ES256-as-ES256K", es, "ES256K"},
		{"Ed25519-as-ES256", ed, "ES256"},
		{"Ed25519-as-RS256", ed, "RS256"},
		{"Ed25519-as-Ed448", ed, "Ed448"},
		{"Ed25519-as-lower", ed, "eddsa"},
	} {
		header := c.s.in(`"alg":"`+c.s.alg()+`"`, `"alg":"`+c.alg+`"`)
		f.refused("T3-"+c.id, "the header's alg is not the key's", c.s.token(header, good))
	}
	key := rs.key.(*rsa.PrivateKey)
	signed := b64(rs.in("RS256", "RS384")) + "." + b64(good)
	digest := sha512.Sum384([]byte(signed))
	f.refused("T3-RS384", "signed with RS384", signed+"."+b64(string(must(rsa.SignPKCS1v15(nil, key, crypto.SHA384, digest[:])))))
	signed = b64(rs.in("RS256", "PS256")) + "." + b64(good)
	f.refused("T3-PS256", "signed with PS256", signed+"."+b64(string(pss(key, signed))))
	signed = b64(rs.header("")) + "." + b64(good)
	f.refused("T3-PS256-as-RS256", "signed with PS256, the header says RS256", signed+"."+b64(string(pss(key, signed))))
}

// pss signs with RSASSA-PSS (RFC 8017, section 8.1.1), SHA-256 and a salt of
// zeros, so that the vectors stay the same.
func pss(key *rsa.PrivateKey, text string) []byte {
	hash := sha256.Sum256([]byte(text))
	salt := make([]byte, 32)
	h := sha256.Sum256(slices.Concat(make([]byte, 8), hash[:], salt))
	db := slices.Concat(make([]byte, 256-32-32-2), []byte{1}, salt)
	var mask []byte
	for i := byte(0); len(mask) < len(db); i++ {
		block := sha256.Sum256(append(slices.Clone(h[:]), 0, 0, 0, i))
		mask = append(mask, block[:]...)
	}
	for i := range db {
		db[i] ^= mask[i]
	}
	db[0] &= 0x7f
	return rawRSA(key, slices.Concat(db, h[:], []byte{0xbc}))
}

func rawRSA(key *rsa.PrivateKey, message []byte) []byte {
	m := new(big.Int).SetBytes(message)
	return m.Exp(m, key.D, key.N).FillBytes(make([]byte, key.Size()))
}

func (f *tokenFile) addHeaders() {
	thief := newSigner(ed25519.NewKeyFromSeed(make([]byte, 32)))
	jwk := string(must(thief.jws.Public().MarshalJSON()))
	f.refused("T4-thief", "a key of the sender's own in jwk", thief.token(thief.header(`,"jwk":`+jwk), good))
	f.refused("T4-our-kid", "a key of the sender's own in jwk, under a kid of ours",
		thief.token(strings.Replace(thief.header(`,"jwk":`+jwk), thief.id(), ed.id(), 1), good))
	f.header("T4-our-key", "the right key in jwk", es.header(`,"jwk":`+string(must(es.jws.Public().MarshalJSON()))))
	for _, name := range []string{"jku", "x5u"} {
		for i, url := range []string{"https://thief.example/keys", "http://127.0.0.1/keys", "http://169.254.169.254/latest", "file:///etc/passwd"} {
			f.header(fmt.Sprintf("T5-%s-%d", name, i), name+" is never fetched", es.header(fmt.Sprintf(`,"%s":"%s"`, name, url)))
		}
	}
	f.header("T5-x5c", "certificates in the header", es.header(`,"x5c":["MIIB"]`))
	f.header("T5-x5t", "thumbprint of a certificate", es.header(`,"x5t":"AAAA"`))
	f.header("T5-x5t-S256", "thumbprint of a certificate", es.header(`,"x5t#S256":"AAAA"`))
	for id, crit := range map[string]string{
		"empty": `[]`, "string": `"exp"`, "null": "null", "object": "{}", "twice": `["x","x"],"x":1`, "registered": `["alg"]`,
		"absent": `["y"]`, "unknown": `["x"],"x":1`, "number": `[1]`, "b64": `["b64"],"b64":true`,
	} {
		f.header("T9-"+id, "crit: no extension is understood", es.header(`,"crit":`+crit))
	}
	f.header("T10-false", "b64 false", es.header(`,"b64":false`))
	f.header("T10-true", "b64 true", es.header(`,"b64":true`))
	signed := b64(es.header(`,"b64":false,"crit":["b64"]`)) + "." + good
	f.refused("T10-detached", "the payload is not encoded (RFC 7797)", signed+"."+b64(string(es.sign(signed))))
	f.header("T17-cty", "a nested token", es.header(`,"cty":"JWT"`))
	f.header("T17-zip", "compressed", es.header(`,"zip":"DEF"`))
	f.header("T17-enc", "parameter of encryption", es.header(`,"enc":"A128GCM"`))
}

func (f *tokenFile) addKeyIDs() {
	for i, kid := range []string{
		"", `""`, "1", "{}", "null", `["a"]`, `"unknown"`, `"../../dev/null"`, `"' OR 1=1 --"`, `"$(id)"`, `"a\u0000b"`, `"a\nb"`, `"é"`,
		`"` + strings.Repeat("k", 128) + `"`, `"` + strings.Repeat("k", 129) + `"`, `"` + strings.Repeat("k", 4000) + `"`,
		`"` + es.id() + ` "`, `"` + strings.ToLower(es.id()) + `"`, `"` + ed.id() + `"`,
	} {
		header := es.in(`"`+es.id()+`"`, kid)
		if kid == "" {
			header = es.in(`"kid":"`+es.id()+`",`, "")
		}
		f.header(fmt.Sprintf("T6-%d", i), "kid "+kid[:min(len(kid), 50)], header)
	}
}

func (f *tokenFile) addEncodings() {
	token := es.token(es.header(""), good)
	parts := strings.Split(token, ".")
	names := []string{"header", "payload", "signature"}
	for i, name := range names {
		for _, c := range []struct{ id, from, to string }{
			{"padding", "$", "="},
			{"padding2", "$", "=="},
			{"space", "^", " "},
			{"tab", "$", "\t"},
			{"cr", "$", "\r"},
			{"lf", "$", "\n"},
			{"crlf", "^", "\r\n"},
			{"lf4", "^", "\n\n\n\n"},
			{"nul", "$", "\x00"},
			{"percent", "$", "%3D"},
			{"utf8", "$", "é"},
		} {
			changed := slices.Clone(parts)
			if changed[i] += c.to; c.from == "^" {
				changed[i] = c.to + parts[i]
			}
			f.refused("T13-"+c.id+"-"+name, "a character outside the alphabet in the "+name, strings.Join(changed, "."))
		}
		middle := slices.Clone(parts)
		middle[i] = parts[i][:8] + "\n" + parts[i][8:]
		f.refused("T13-inside-"+name, "a line break inside the "+name, strings.Join(middle, "."))
	}
	f.addOtherAlphabet()
	f.addTrailingBits()
}

// addOtherAlphabet writes base64 of RFC 4648, section 4, where it differs.
func (f *tokenFile) addOtherAlphabet() {
	for i, c := range []struct{ from, to string }{{"-", "+"}, {"_", "/"}} {
		header, claims := es.header(`,"x":"~~~???>>>"`), also(`,"x":"~~~???>>>","y":"a~b~c~?>?>?>"`)
		signed := strings.ReplaceAll(b64(header), c.from, c.to) + "." + b64(claims)
		f.refused(fmt.Sprintf("T13-standard-header-%d", i), "alphabet of plain base64, signed so", signed+"."+b64(string(es.sign(signed))))
		signed = b64(es.header("")) + "." + strings.ReplaceAll(b64(claims), c.from, c.to)
		f.refused(fmt.Sprintf("T13-standard-payload-%d", i), "alphabet of plain base64, signed so", signed+"."+b64(string(es.sign(signed))))
		token := rs.token(rs.header(""), good)
		dot := strings.LastIndexByte(token, '.')
		f.refused(fmt.Sprintf("T13-standard-signature-%d", i), "alphabet of plain base64", token[:dot]+strings.ReplaceAll(token[dot:], c.from, c.to))
	}
}

// addTrailingBits sets bits of the last character that encode nothing. White
// space gives each part a length that has such bits.
func (f *tokenFile) addTrailingBits() {
	for i, pad := range []string{"", " ", "  "} {
		header, claims := es.header("")+pad, good+pad
		if h := b64(header); len(h)%4 != 0 {
			signed := looseEnd(h) + "." + b64(good)
			f.refused(fmt.Sprintf("T14-header-%d", i), "unused bits set in the header, signed so", signed+"."+b64(string(es.sign(signed))))
		}
		if p := b64(claims); len(p)%4 != 0 {
			signed := b64(es.header("")) + "." + looseEnd(p)
			f.refused(fmt.Sprintf("T14-payload-%d", i), "unused bits set in the payload, signed so", signed+"."+b64(string(es.sign(signed))))
		}
	}
	for _, s := range []signer{es, ed, rs} {
		f.refused("T14-signature-"+s.alg(), "unused bits set in the signature", looseEnd(s.token(s.header(""), good)))
	}
}

func looseEnd(text string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, text[len(text)-1])
	return text[:len(text)-1] + alphabet[last|1:last|1+1]
}

func (f *tokenFile) addShapes() {
	token := es.token(es.header(""), good)
	p := strings.Split(token, ".")
	for id, text := range map[string]string{
		"empty": "", "dots": "..", "many-dots": ".....", "one": p[0], "two": p[0] + "." + p[1], "four": token + "." + p[2],
		"five": token + "." + p[1] + "." + p[2], "no-header": "." + p[1] + "." + p[2], "no-payload": p[0] + ".." + p[2],
		"no-signature": p[0] + "." + p[1] + ".", "dot-before": "." + token, "dot-after": token + ".", "space-before": " " + token,
		"space-after": token + " ", "refresh-token": "qr_" + strings.Repeat("A", 75), "api-key": "qk_" + strings.Repeat("A", 43), "newline-after": token + "\n", "scheme": "Bearer " + token, "quotes": `"` + token + `"`,
	} {
		f.refused("T15-"+id, "not three parts, or more than them", text)
	}
	f.refused("T15-signed-nothing", "an empty payload, signed", es.token(es.header(""), ""))
	f.refused("T16-flattened", "JSON serialization", fmt.Sprintf(`{"payload":"%s","protected":"%s","signature":"%s"}`, p[1], p[0], p[2]))
	f.refused("T16-general", "JSON serialization", fmt.Sprintf(`{"payload":"%s","signatures":[{"protected":"%s","signature":"%s"}]}`, p[1], p[0], p[2]))
	jwe := b64(`{"alg":"dir","enc":"A128GCM"}`)
	f.refused("T17-jwe", "an encrypted token", jwe+"..AAAAAAAAAAAAAAAA.AAAA.AAAAAAAAAAAAAAAAAAAAAA")
	f.refused("T17-jwe-typ", "an encrypted token in three parts", jwe+".AAAA.AAAA")
}

func (f *tokenFile) addSizes() {
	long := func(n int) string {
		claims := also(`,"x":"` + strings.Repeat("x", n) + `"`)
		return es.token(es.header(""), claims)
	}
	n := 0
	for len(long(n)) < 8192 {
		n++
	}
	f.valid("T18-longest", "8192 octets", long(n))
	f.refused("T18-longer", "8194 octets", long(n+1))
	f.refused("T18-much-longer", "20000 octets", long(14_600))
	f.refused("T18-header", "a header of 20000 octets", es.token(es.header(`,"x":"`+strings.Repeat("x", 20_000)+`"`), good))
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	f.header("T18-deep-header", "a header that nests deeply", es.header(`,"x":`+deep(2000)))
	f.badClaims("T18-deep", "claims that nest deeply", with("x", deep(2000)))
	f.claims("valid", "T18-depth-16", "claims that nest as deeply as allowed", with("x", deep(15)))
	f.badClaims("T18-depth-17", "claims that nest deeper than allowed", with("x", deep(16)))
	many := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"x%d":0`, i)
		}
		return b.String()
	}
	f.claims("valid", "T18-members-256", "as many claims as allowed", also(many(256-len(claimOrder))))
	f.badClaims("T18-members-257", "more claims than allowed", also(many(257-len(claimOrder))))
	f.header("T18-members-header", "more header parameters than allowed", es.header(many(257-3)))
}

func (f *tokenFile) addTypes() {
	f.header("T19-missing", "no typ", es.in(`,"typ":"at+jwt"`, ""))
	f.header("T19-empty", "typ is empty", es.in(`"at+jwt"`, `""`))
	f.header("T19-number", "typ is a number", es.in(`"at+jwt"`, "1"))
	for _, typ := range []string{"JWT", "id_token", "logout+jwt", "secevent+jwt", "statuslist+jwt", "dpop+jwt", "at+jwt ", "xat+jwt", "application/jwt", "text/at+jwt", "application/application/at+jwt"} {
		f.add("invalid", "claims", "T19-"+typ, "typ is not that of an access token", es.token(es.in(`"at+jwt"`, `"`+typ+`"`), good))
	}
	for _, typ := range []string{"application/at+jwt", "AT+JWT", "Application/At+Jwt"} {
		f.valid("T20-"+typ, "media types compare without regard to case", es.token(es.in(`"at+jwt"`, `"`+typ+`"`), good))
	}
}

func (f *tokenFile) addSignatures() {
	other := es.token(es.header(""), with("sub", `"u_8"`))
	for _, s := range []signer{es, ed, rs} {
		token := s.token(s.header(""), good)
		sig := signatureOf(token)
		flipped := slices.Clone(sig)
		flipped[len(sig)/2] ^= 1
		f.refused("T31-short-"+s.alg(), "the signature lacks its last octet", resigned(token, sig[:len(sig)-1]))
		f.refused("T31-tail-"+s.alg(), "the signature lacks its first octet", resigned(token, sig[1:]))
		f.refused("T31-long-"+s.alg(), "an octet behind the signature", resigned(token, append(slices.Clone(sig), 0)))
		f.refused("T31-zero-"+s.alg(), "a zero before the signature", resigned(token, append([]byte{0}, sig...)))
		f.refused("T31-bit-"+s.alg(), "one bit of the signature differs", resigned(token, flipped))
		f.refused("T31-zeros-"+s.alg(), "the signature is zero", resigned(token, make([]byte, len(sig))))
		f.refused("T31-payload-"+s.alg(), "another payload under the signature",
			b64(s.header(""))+"."+b64(with("sub", `"u_8"`))+"."+b64(string(sig)))
	}
	f.refused("T31-other", "the signature of another token", resigned(es.token(es.header(""), good), signatureOf(other)))
	f.refused("T31-other-key", "the signature of another key", resigned(es.token(es.header(""), good), signatureOf(ed.token(ed.header(""), good))))
	f.addECDSA()
	f.addEd25519()
}

func (f *tokenFile) addECDSA() {
	token := es.token(es.header(""), good)
	sig := signatureOf(token)
	n := elliptic.P256().Params().N
	r, s := new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])
	f.refused("T32-der", "the signature in DER", resigned(token, must(asn1.Marshal(struct{ R, S *big.Int }{r, s}))))
	wide := slices.Concat(make([]byte, 16), sig[:32], make([]byte, 16), sig[32:])
	f.refused("T32-96", "R and S in 48 octets each", resigned(token, wide))
	one, zero := big.NewInt(1), new(big.Int)
	above := new(big.Int).Add(n, one)
	top := new(big.Int).Sub(new(big.Int).Lsh(one, 256), one)
	for i, c := range [][2]*big.Int{{zero, s}, {r, zero}, {zero, zero}, {n, s}, {r, n}, {n, n}, {above, s}, {r, above}, {top, top}, {zero, one}, {one, zero}} {
		bad := slices.Concat(c[0].FillBytes(make([]byte, 32)), c[1].FillBytes(make([]byte, 32)))
		f.refused(fmt.Sprintf("T33-%d", i), "R or S is 0, or n, or above", resigned(token, bad))
	}
	twin := slices.Concat(sig[:32], new(big.Int).Sub(n, s).FillBytes(make([]byte, 32)))
	f.valid("T34-twin", "the other signature that ECDSA takes (r, n-s): as good, and revoked by the same claims", resigned(token, twin))
}

func (f *tokenFile) addEd25519() {
	token := ed.token(ed.header(""), good)
	sig := signatureOf(token)
	l := must2(new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10))
	little := slices.Clone(sig[32:])
	slices.Reverse(little)
	s := new(big.Int).SetBytes(little)
	big := s.Add(s, l).FillBytes(make([]byte, 32))
	slices.Reverse(big)
	f.refused("T35-S-plus-L", "S is not reduced", resigned(token, slices.Concat(sig[:32], big)))
	p := make([]byte, 32) // p itself, a second encoding of y = 0
	copy(p, []byte{0xed})
	for i := 1; i < 31; i++ {
		p[i] = 0xff
	}
	p[31] = 0x7f
	f.refused("T35-R", "R is not canonical", resigned(token, slices.Concat(p, sig[32:])))
	identity := append([]byte{1}, make([]byte, 63)...)
	f.refused("T35-identity", "R is the neutral point and S is zero", resigned(token, identity))
}

func must2[T any](v T, ok bool) T {
	if !ok {
		panic("not ok")
	}
	return v
}

// addRSASignatures makes signatures over encodings that RFC 8017, section 9.2,
// does not produce; see Bleichenbacher's forgeries.
func (f *tokenFile) addRSASignatures() {
	key := rs.key.(*rsa.PrivateKey)
	token := rs.token(rs.header(""), good)
	digest := sha256.Sum256([]byte(signedPart(token)))
	info := unhex("3031300d060960864801650304020105000420")
	noNull := unhex("302f300b0609608648016503040201" + "0420")
	sha1 := unhex("3021300906052b0e03021a05000414")
	ff := func(n int) []byte { return slices.Repeat([]byte{0xff}, n) }
	fill := func(head []byte, n int) []byte { return append(slices.Clone(head), ff(n)...) }
	for id, em := range map[string][]byte{
		"type-2":   slices.Concat(fill([]byte{0, 2}, 202), []byte{0}, info, digest[:]),
		"type-0":   slices.Concat(make([]byte, 204), []byte{0}, info, digest[:]),
		"no-null":  slices.Concat(fill([]byte{0, 1}, 204), []byte{0}, noNull, digest[:]),
		"bare":     slices.Concat(fill([]byte{0, 1}, 221), []byte{0}, digest[:]),
		"sha1":     slices.Concat(fill([]byte{0, 1}, 218), []byte{0}, sha1, digest[:20]),
		"trailing": slices.Concat(fill([]byte{0, 1}, 8), []byte{0}, info, digest[:], make([]byte, 194)),
		"no-zero":  slices.Concat(fill([]byte{0, 1}, 203), info, digest[:]),
		"padding":  slices.Concat(fill([]byte{0, 1}, 100), []byte{0xfe}, ff(101), []byte{0}, info, digest[:]),
	} {
		f.refused("T37-"+id, "padding that PKCS #1 v1.5 does not make", resigned(token, rawRSA(key, em)))
	}
	f.refused("T37-pss", "padding of PSS", resigned(token, pss(key, signedPart(token))))
	f.refused("T37-modulus", "the signature is the modulus", resigned(token, key.N.Bytes()))
}
