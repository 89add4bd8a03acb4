package jws_test

import (
	"encoding/hex"
	"fmt"
	"strings"
)

func unhex(s string) []byte { return must(hex.DecodeString(s)) }

func (f *tokenFile) addNames() {
	for id, more := range map[string]string{
		"alg": `,"alg":"ES256"`, "alg-none": `,"alg":"none"`, "kid": `,"kid":"a"`, "typ": `,"typ":"JWT"`,
		"escaped": `,"\u0061lg":"ES256"`, "unknown": `,"x":1,"x":2`, "nested": `,"x":{"y":1,"y":1}`,
	} {
		f.header("T11-header-"+id, "a name occurs twice in the header", es.header(more))
	}
	for id, more := range map[string]string{
		"exp": `,"exp":1900000000`, "sub": `,"sub":"u_7"`, "aud": `,"aud":"orders"`, "rev": `,"rev":99`,
		"escaped": `,"\u0065xp":1800000300`, "unknown": `,"x":1,"x":1`, "nested": `,"x":{"y":1,"y":1}`, "deep": `,"x":[{"y":{"z":1,"z":1}}]`,
	} {
		f.badClaims("T11-claims-"+id, "a name occurs twice in the claims", also(more))
	}
	f.header("T12-ALG", "ALG is not alg", es.in(`"alg"`, `"ALG"`))
	f.header("T12-Kid", "Kid is not kid", es.in(`"kid"`, `"Kid"`))
	f.valid("T12-ALG-beside", "ALG beside alg is an unknown parameter", es.token(es.header(`,"ALG":"none"`), good))
	for _, name := range []string{"exp", "sub", "iss", "aud", "rev", "jti"} {
		f.badClaims("T12-"+strings.ToUpper(name), "names differ by case", strings.Replace(good, `"`+name+`"`, `"`+strings.ToUpper(name)+`"`, 1))
	}
	f.claims("valid", "T12-SID", "SID is not sid, and a token may be of no session", strings.Replace(good, `"sid"`, `"SID"`, 1))
	f.claims("valid", "T12-beside", "Exp and SUB beside exp and sub are other claims", also(`,"Exp":1,"SUB":"x"`))
}

// A claimCase sets a claim to a JSON text; an empty one takes it out.
type claimCase struct{ value, verdict string }

func (f *tokenFile) addClaim(number, name, about string, cases []claimCase) {
	for i, c := range cases {
		text := name + " " + c.value
		if c.value == "" {
			text = name + " is missing"
		}
		f.claims(c.verdict, fmt.Sprintf("%s-%s-%d", number, name, i), about+": "+text, with(name, c.value))
	}
}

func (f *tokenFile) addTimes() {
	f.addClaim("T24", "exp", "exp is a number of seconds", []claimCase{
		{"", "invalid"},
		{`"1800000300"`, "invalid"},
		{"true", "invalid"},
		{"null", "invalid"},
		{`"NaN"`, "invalid"},
		{"[1800000300]", "invalid"},
		{"{}", "invalid"},
		{"1e400", "invalid"},
		{"-1", "invalid"},
		{"-1800000300", "invalid"},
		{"-1e400", "invalid"},
		{"-0.5", "invalid"},
		{"0", "expired"},
		{"1", "expired"},
		{"1e-400", "expired"},
	})
	f.addClaim("T25", "exp", "dead at the second that it names", []claimCase{
		{"1799999999", "expired"}, {"1800000000", "expired"}, {"1800000000.0", "expired"}, {"1800000001", "valid"}, {"1799999940", "expired"},
	})
	f.addClaim("T26", "exp", "no further off than the longest lifetime and a minute", []claimCase{
		{"1800000360", "valid"},
		{"1800000361", "invalid"},
		{"9223372036854775807", "invalid"},
		{"9223372036854775808", "invalid"},
		{"18446744073709551616", "invalid"},
		{"1e18", "invalid"},
		{"253402300799", "invalid"},
		{"9007199254740991", "invalid"},
		{"9007199254740992", "invalid"},
	})
	f.addClaim("T27", "exp", "fractions and exponents are exact", []claimCase{
		{"1800000000.5", "valid"},
		{"1799999999.5", "expired"},
		{"1799999999.999999999999", "expired"},
		{"1.8000003e9", "valid"},
		{"18000003E+2", "valid"},
		{"180000030000e-2", "valid"},
		{"1.8e9", "expired"},
		{"1800000360.5", "invalid"},
		{"1800000361.5", "invalid"},
	})
	f.addClaim("T28", "iat", "iat is a number, not in the future beyond a minute", []claimCase{
		{"", "invalid"},
		{"-1", "invalid"},
		{`"1800000000"`, "invalid"},
		{"null", "invalid"},
		{"1e400", "invalid"},
		{"9999999999", "invalid"},
		{"1800000061", "invalid"},
		{"1800000060", "valid"},
		{"1799999000", "valid"},
		{"1799999999.25", "valid"},
	})
	f.addClaim("T29", "nbf", "nbf is optional, not in the future beyond a minute", []claimCase{
		{"1800000000", "valid"},
		{"1800000060", "valid"},
		{"1800000061", "invalid"},
		{"9999999999", "invalid"},
		{`"1800000000"`, "invalid"},
		{"null", "invalid"},
		{"-1", "invalid"},
	})
	f.badClaims("T29-after-exp", "nbf is after exp", strings.Replace(with("nbf", "1800000050"), "1800000300", "1800000010", 1))
}

func (f *tokenFile) addIdentity() {
	f.addClaim("T21", "iss", "iss is exactly the issuer's", []claimCase{
		{"", "invalid"},
		{`"https://other.example"`, "invalid"},
		{`"https://issuer.example/"`, "invalid"},
		{`"https://ISSUER.example"`, "invalid"},
		{`"http://issuer.example"`, "invalid"},
		{`"HTTPS://issuer.example"`, "invalid"},
		{`["https://issuer.example"]`, "invalid"},
		{"null", "invalid"},
		{`""`, "invalid"},
		{`" https://issuer.example"`, "invalid"},
		{`"https:\/\/issuer.example"`, "valid"},
	})
	f.addClaim("T22", "aud", "aud names the resource server", []claimCase{
		{"", "invalid"},
		{`""`, "invalid"},
		{"[]", "invalid"},
		{`"other"`, "invalid"},
		{"[1]", "invalid"},
		{"null", "invalid"},
		{"{}", "invalid"},
		{"1", "invalid"},
		{`"order"`, "invalid"},
		{`"orders2"`, "invalid"},
		{`"Orders"`, "invalid"},
		{`"orders "`, "invalid"},
		{`["other"]`, "invalid"},
		{`["orders",1]`, "invalid"},
		{`[null,"orders"]`, "invalid"},
		{`[["orders"]]`, "invalid"},
		{`{"orders":"orders"}`, "invalid"},
		{`"other,orders"`, "invalid"},
	})
	f.addClaim("T23", "aud", "aud may be an array", []claimCase{
		{`["orders"]`, "valid"}, {`["other","orders"]`, "valid"}, {`[ "orders" , "other" ]`, "valid"}, {`["\u006frders"]`, "valid"},
	})
	for _, name := range []string{"sub", "client_id", "jti", "sid"} {
		missing := "invalid"
		if name == "sid" {
			missing = "valid" // a client's own
		}
		f.addClaim("T30", name, "a string with something in it is required", []claimCase{
			{"", missing}, {`""`, "invalid"}, {"1", "invalid"}, {"null", "invalid"}, {"true", "invalid"}, {`["a"]`, "invalid"}, {"{}", "invalid"},
		})
	}
	f.addClaim("T50", "rev", "rev is a whole number from 0 to below 2^53", []claimCase{
		{"", "invalid"},
		{`"41"`, "invalid"},
		{"null", "invalid"},
		{"true", "invalid"},
		{"[41]", "invalid"},
		{"-1", "invalid"},
		{"0.5", "invalid"},
		{"1e400", "invalid"},
		{"9007199254740992", "invalid"},
		{"9007199254740993", "invalid"},
		{"18446744073709551615", "invalid"},
		{"0", "valid"},
		{"9007199254740991", "valid"},
		{"41.0", "valid"},
		{"4.1e1", "valid"},
	})
}

func (f *tokenFile) addJSON() {
	texts := map[string]string{
		"bom": "\ufeff%s", "nul-before": "\x00%s", "nul-after": "%s\x00", "trailing": "%s{}", "trailing-comma": "%s,", "junk": "%s x",
		"array": "[%s]", "string": `"x"`, "number": "1", "null": "null", "comment": "/**/%s", "utf16": "{\x00}\x00", "unclosed": "{", "form-feed": "\f%s",
	}
	for id, text := range texts {
		f.header("T40-header-"+id, "the header is not one JSON object", strings.Replace(text, "%s", es.header(""), 1))
		f.badClaims("T40-claims-"+id, "the claims are not one JSON object", strings.Replace(text, "%s", good, 1))
	}
	for id, more := range map[string]string{
		"utf8": ",\"x\":\"\xff\"", "overlong": ",\"x\":\"\xc0\xaf\"", "surrogate-bytes": ",\"x\":\"\xed\xa0\x80\"", "cut": ",\"x\":\"\xc3\"",
		"lone-high": `,"x":"\ud800"`, "lone-low": `,"x":"\udc00"`, "swapped": `,"x":"\udc00\ud800"`, "high-high": `,"x":"\ud800\ud800"`, "high-text": `,"x":"\ud800x"`,
		"lone-name": `,"\ud800":1`, "control": ",\"x\":\"a\nb\"", "nul": ",\"x\":\"a\x00b\"", "escape": `,"x":"\x41"`, "short-escape": `,"x":"\u41"`,
		"single-quotes": `,'x':1`, "bare-name": `,x:1`, "comma": `,`, "nan": `,"x":NaN`, "infinity": `,"x":-Infinity`, "zero": `,"x":01`, "plus": `,"x":+1`,
		"point": `,"x":.5`, "point-end": `,"x":5.`, "hex": `,"x":0x1`, "exponent": `,"x":1e`, "minus": `,"x":-`, "literal": `,"x":True`, "array-comma": `,"x":[1,]`,
		"array-open": `,"x":[1`, "no-colon": `,"x" 1`, "no-value": `,"x":`, "underscore": `,"x":1_0`,
	} {
		f.header("T40-header-"+id, "strict JSON in the header", es.header(more))
		f.badClaims("T40-claims-"+id, "strict JSON in the claims", also(more))
	}
	f.claims("valid", "T40-white-space", "white space around the claims", " \t\r\n"+good+"\n")
}
