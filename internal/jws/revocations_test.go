package jws_test

import (
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/jws"
	"github.com/quashdev/quash/internal/revset"
)

// revocationFile is testdata/vectors/revocations.json: a log's records as they
// travel on the feed, and what becomes of tokens. The tokens' other claims, their
// signatures and times are to be taken for good.
type revocationFile struct {
	HashSecret string             `json:"hash_secret"`
	Issuer     string             `json:"issuer"`
	Records    []revocationVector `json:"records"`
	Merged     []string           `json:"merged"` // hex of the records merged by key, in the order of the keys
	Tokens     []revokedVector    `json:"tokens"`
	Values     []valueVector      `json:"values"`
}

type revocationVector struct {
	Position  uint64 `json:"position"`
	Claim     string `json:"claim"`
	Value     string `json:"value"`
	Before    any    `json:"before"` // a position, or "forever"
	NotBefore uint32 `json:"not_before"`
	Forget    uint32 `json:"forget"`
	Key       string `json:"key"`
	Hex       string `json:"hex"` // the record's 40 octets
}

type revokedVector struct {
	ID      string          `json:"id"`
	About   string          `json:"about"`
	Kid     string          `json:"kid"` // of the header
	Claims  json.RawMessage `json:"claims"`
	Verdict string          `json:"verdict"` // "valid", "revoked", or "invalid": a claim that revocations name has a number without text
}

// valueVector says how a claim's value is compared.
type valueVector struct {
	JSON string  `json:"json"`
	Text *string `json:"text"` // null where it cannot be
}

var hashSecret = unhex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")

const vectorIssuer = "https://issuer.example"

func makeRevocations() *revocationFile {
	f := &revocationFile{HashSecret: hex.EncodeToString(hashSecret), Issuer: vectorIssuer}
	const never = revset.Forever
	f.revoke("sub", "u_7", 0, 0)
	f.revoke("sid", "s_81", never, 0)
	f.revoke("jti", "t_1", never, 0)
	f.revoke("client_id", "web", 0, 0)
	f.revoke("kid", "stolen", never, 0)
	f.revoke("tenant", "acme", 0, vectorNow)
	f.revoke("roles", "admin", 0, 0)
	f.revoke("level", "3", 0, 0)
	f.revoke("score", "1.5", 0, 0)
	f.revoke("beta", "true", 0, 0)
	f.revoke("tenant", "Ünïcode \"\\\n\u2028😀", 0, 0)
	f.revoke("tenant", "", 0, 0)
	f.revoke("sid", "s_81", 0, 0)
	f.revoke("sub", "u_7", 0, 0)
	f.revoke("sub", "u_9", 3, 0)
	f.revoke("sub", "u_9", 0, 0)
	f.revoke("sub", "u_9", 5, 0)
	f.Merged = f.merged()
	f.addTokens()
	f.addValues()
	return f
}

// revoke appends a record; before 0 stands for its own position.
func (f *revocationFile) revoke(claim, value string, before uint64, notBefore uint32) {
	position := uint64(len(f.Records) + 1)
	if before == 0 {
		before = position
	}
	r := revset.Record{
		Position: position, Key: revset.KeyOf(hashSecret, f.Issuer, claim, value),
		Before: before, NotBefore: notBefore, Forget: vectorNow + 360 + uint32(position),
	}
	v := revocationVector{
		Position: position, Claim: claim, Value: value, Before: before, NotBefore: notBefore,
		Key: hex.EncodeToString(r.Key[:]),
	}
	if before == revset.Forever {
		v.Before = "forever"
	}
	if claim == "kid" {
		r.Forget = revset.NeverForget
	}
	v.Forget, v.Hex = r.Forget, hex.EncodeToString(feed.AppendRecord(nil, r))
	f.Records = append(f.Records, v)
}

func (f *revocationFile) decoded() []revset.Record {
	var octets []byte
	for _, r := range f.Records {
		octets = append(octets, unhex(r.Hex)...)
	}
	return must(feed.DecodeSnapshot(nil, octets))
}

func (f *revocationFile) merged() []string {
	byKey := make(map[revset.Key]revset.Record)
	for _, r := range f.decoded() {
		if old, ok := byKey[r.Key]; ok {
			r = old.Merge(r)
		}
		byKey[r.Key] = r
	}
	var list []string
	for _, r := range byKey {
		list = append(list, hex.EncodeToString(feed.AppendRecord(nil, r)))
	}
	slices.SortFunc(list, func(a, b string) int { return slices.Compare(unhex(a[16:48]), unhex(b[16:48])) })
	return list
}

func (f *revocationFile) addTokens() {
	add := func(verdict, id, about, claims string) {
		f.Tokens = append(f.Tokens, revokedVector{ID: id, About: about, Kid: "k1", Claims: json.RawMessage(claims), Verdict: verdict})
	}
	add("valid", "nothing", "no revocation names its claims", `{"sub":"u_1","sid":"s_1","rev":0}`)
	add("revoked", "rev-below", "issued before the revocation", `{"sub":"u_7","sid":"s_1","rev":13}`)
	add("valid", "rev-equal", "issued right after the revocation, in whichever second", `{"sub":"u_7","sid":"s_1","rev":14}`)
	add("valid", "rev-above", "issued later", `{"sub":"u_7","sid":"s_1","rev":15}`)
	add("revoked", "rev-first", "revoked twice: the later one counts", `{"sub":"u_7","sid":"s_1","rev":1}`)
	add("revoked", "before-highest", "of several the highest before counts, whatever their order", `{"sub":"u_9","rev":15}`)
	add("valid", "before-reached", "rev has reached the highest before", `{"sub":"u_9","rev":16}`)
	add("revoked", "forever", "for ever: rev does not matter", `{"sub":"u_1","sid":"s_81","rev":9007199254740991}`)
	add("revoked", "forever-jti", "one token", `{"sub":"u_1","jti":"t_1","rev":99}`)
	add("revoked", "client", "an application", `{"sub":"u_1","client_id":"web","rev":3}`)
	add("valid", "other-claim", "the value stands under another claim", `{"sub":"s_81","sid":"u_7","rev":0}`)
	add("valid", "case", "values differ by case", `{"sub":"U_7","sid":"S_81","rev":0}`)
	add("valid", "prefix", "values are compared whole", `{"sub":"u_77","sid":"s_8","rev":0}`)
	add("revoked", "array", "a member of the array", `{"roles":["reader","admin"],"rev":0}`)
	add("revoked", "array-string", "the value alone", `{"roles":"admin","rev":0}`)
	add("valid", "array-other", "other members", `{"roles":["reader","admin2"],"rev":0}`)
	add("valid", "array-empty", "no members", `{"roles":[],"rev":0}`)
	add("revoked", "array-mixed", "members of several types", `{"level":[true,"x",3],"rev":0}`)
	add("revoked", "number", "a number by its canonical text", `{"level":3,"rev":0}`)
	add("revoked", "number-string", "a string and a number of one text are the same", `{"level":"3","rev":0}`)
	add("revoked", "number-exponent", "one number in another notation", `{"level":30e-1,"rev":0}`)
	add("valid", "number-string-other", "strings are not read as numbers", `{"level":"3.0","rev":0}`)
	add("revoked", "number-fraction", "a fraction", `{"score":1.50,"rev":0}`)
	add("revoked", "boolean", "a boolean by its text", `{"beta":true,"rev":0}`)
	add("revoked", "boolean-string", "the same text", `{"beta":"true","rev":0}`)
	add("valid", "boolean-other", "the other boolean", `{"beta":false,"rev":0}`)
	add("revoked", "escapes", "escapes stand for their characters", `{"tenant":"\u00dcn\u00efcode \"\\\n\u2028\ud83d\ude00","rev":0}`)
	add("valid", "normalization", "no Unicode normalization", `{"tenant":"U\u0308n\u00efcode \"\\\n\u2028\ud83d\ude00","rev":0}`)
	add("revoked", "empty", "the empty string is a value", `{"tenant":"","rev":0}`)
	add("valid", "not-before", "not_before plays no part where there is a rev", `{"tenant":"acme","iat":1700000000,"rev":6}`)
	add("revoked", "tenant", "a whole population", `{"tenant":"acme","iat":1800000100,"rev":5}`)
	add("revoked", "strictest", "one revocation that kills is enough", `{"sub":"u_7","roles":"admin","rev":13}`)
	add("valid", "null", "null is no value", `{"tenant":null,"rev":0}`)
	add("valid", "object", "an object is no value, whatever it holds", `{"tenant":{"id":"acme"},"rev":0}`)
	add("valid", "array-nested", "the members of an inner array are not those of the outer", `{"roles":[["admin"]],"rev":0}`)
	add("valid", "array-null", "null as a member is no value", `{"roles":["reader",null],"rev":0}`)
	add("revoked", "array-null-beside", "what is no value protects no other member", `{"roles":[null,{},[],"admin"],"rev":0}`)
	add("revoked", "null-beside", "what is no value protects no other claim", `{"tenant":null,"roles":"admin","rev":0}`)
	add("invalid", "number-large", "doubles do not tell it from its neighbours", `{"level":9007199254740992,"rev":99}`)
	add("invalid", "number-large-member", "nor as a member of an array", `{"level":["x",-1e400],"rev":99}`)
	add("valid", "number-large-nested", "within an object it is no value", `{"level":{"id":9007199254740992},"rev":0}`)
	add("valid", "number-large-not-named", "no revocation names the claim", `{"other":9007199254740992,"rev":0}`)
	add("valid", "object-not-named", "no revocation names the claim", `{"other":{"id":"acme"},"rev":0}`)
	add("revoked", "kid", "a stolen key", `{"sub":"u_1","rev":9007199254740991}`)
	f.Tokens[len(f.Tokens)-1].Kid = "stolen"
	add("valid", "kid-claim", "the key is named by the header and not by a claim", `{"sub":"u_1","kid":"stolen","rev":0}`)
}

func (f *revocationFile) addValues() {
	for _, c := range [][2]string{
		{`"a"`, "a"},
		{`""`, ""},
		{`"\u00e9"`, "é"},
		{`"\/"`, "/"},
		{`"1.0"`, "1.0"},
		{"0", "0"},
		{"-0", "0"},
		{"-0.0", "0"},
		{"1", "1"},
		{"-1", "-1"},
		{"1.0", "1"},
		{"1e3", "1000"},
		{"1E+3", "1000"},
		{"10e-1", "1"},
		{"0.1", "0.1"},
		{"1.50", "1.5"},
		{"1e-6", "0.000001"},
		{"1e-7", "1e-7"},
		{"1.25e-7", "1.25e-7"},
		{"1e-10", "1e-10"},
		{"5e-324", "5e-324"},
		{"1e-400", "0"},
		{"0.30000000000000004", "0.30000000000000004"},
		{"0.1000000000000000055511151231257827", "0.1"},
		{"123456789.125", "123456789.125"},
		{"9007199254740991", "9007199254740991"},
		{"-9007199254740991", "-9007199254740991"},
		{"2251799813685248.5", "2251799813685248.5"},
		{"4503599627370496.5", "4503599627370496"},
		{"true", "true"},
		{"false", "false"},
	} {
		f.Values = append(f.Values, valueVector{JSON: c[0], Text: &c[1]})
	}
	for _, text := range []string{"9007199254740992", "9007199254740991.5", "-9007199254740992", "1e16", "1e21", "1e400", "null", "{}", "[]", `["a"]`} {
		f.Values = append(f.Values, valueVector{JSON: text})
	}
}

func TestVectorsOfRevocationsAreJudgedAsTheySay(t *testing.T) {
	f := makeRevocations()
	checkFile(t, "revocations.json", f)
	records := f.decoded()
	set := revset.New(len(records))
	if err := set.Apply(records, uint64(len(records))); err != nil {
		t.Fatal(err)
	}
	for _, v := range f.Tokens {
		if got := f.judge(t, set, v); got != v.Verdict {
			t.Errorf("%s (%s): got %s, want %s", v.ID, v.About, got, v.Verdict)
		}
	}
	for _, v := range f.Values {
		got, ok := jws.Text([]byte(v.JSON))
		if ok != (v.Text != nil) || ok && got != *v.Text {
			t.Errorf("text of %s: got %q, %t, want %v", v.JSON, got, ok, v.Text)
		}
	}
}

// judge applies the rule of revocation: a token is dead when a revocation names
// one of its claims and came after the token was issued.
func (f *revocationFile) judge(t *testing.T, set *revset.Set, v revokedVector) string {
	t.Helper()
	members, err := jws.Members(nil, v.Claims)
	if err != nil {
		t.Fatalf("%s: %v", v.ID, err)
	}
	members = slices.DeleteFunc(members, func(m jws.Member) bool { return m.Name == "kid" })
	members = append(members, jws.Member{Name: "kid", Value: []byte(strconv.Quote(v.Kid))})
	rev := slices.IndexFunc(members, func(m jws.Member) bool { return m.Name == "rev" })
	issued, _ := jws.Integer(members[rev].Value)
	verdict := "valid"
	for _, m := range members {
		if !slices.ContainsFunc(f.Records, func(r revocationVector) bool { return r.Claim == m.Name }) {
			continue
		}
		values, isArray := jws.Elements(nil, m.Value)
		if !isArray {
			values = [][]byte{m.Value}
		}
		for _, value := range values {
			if strings.IndexByte("n{[", value[0]) >= 0 {
				continue
			}
			text, ok := jws.Text(value)
			if !ok {
				return "invalid"
			}
			before, _, ok := set.Lookup(revset.KeyOf(hashSecret, f.Issuer, m.Name, text))
			if ok && uint64(issued) < before {
				verdict = "revoked"
			}
		}
	}
	return verdict
}
