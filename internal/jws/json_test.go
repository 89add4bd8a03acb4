package jws_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/quashdev/quash/internal/jws"
)

func TestMembersKeepsOrderAndText(t *testing.T) {
	got, err := jws.Members(nil, []byte(" { \"a\" : 1.50 , \"\\u0062\":[ 1, 2 ],\"\\ud83d\\ude00\\n\":{\"x\":\"y\"} ,\"\":null}\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []jws.Member{
		{Name: "a", Value: []byte("1.50")},
		{Name: "b", Value: []byte("[ 1, 2 ]")},
		{Name: "😀\n", Value: []byte(`{"x":"y"}`)},
		{Name: "", Value: []byte("null")},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
}

func TestMembersAppends(t *testing.T) {
	kept := []jws.Member{{Name: "kept"}}
	if got, err := jws.Members(kept, []byte(`{"a":1}`)); err != nil || len(got) != 2 || got[0].Name != "kept" {
		t.Errorf("got %v, %v, want the kept member and another", got, err)
	}
	if got, err := jws.Members(kept, []byte(`{"a":1,"a":1}`)); !errors.Is(err, jws.ErrMalformed) || len(got) != 1 {
		t.Errorf("got %v, %v, want the kept member alone and ErrMalformed", got, err)
	}
}

func TestMembersTakesNamesOfOneObjectOnly(t *testing.T) {
	for _, object := range []string{`{"a":{"a":{"a":1}},"b":{"a":1}}`, `{"a":[{"a":1},{"a":1}],"b":1}`} {
		if _, err := jws.Members(nil, []byte(object)); err != nil {
			t.Errorf("%s: %v", object, err)
		}
	}
}

func TestMembersTakesLinearTime(t *testing.T) {
	inner := make([]string, 256)
	for i := range inner {
		inner[i] = fmt.Sprintf(`"%0200d":0`, i)
	}
	object := "{" + strings.Join(inner, ",") + "}"
	large := []byte(`{"x":[` + strings.Repeat(object+",", 20) + `0]}`)
	start := time.Now()
	if _, err := jws.Members(nil, large); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("%d octets took %v", len(large), d)
	}
}

func TestElements(t *testing.T) {
	for _, c := range []struct {
		value string
		want  []string
		ok    bool
	}{
		{"[]", nil, true},
		{"[ ]", nil, true},
		{`[1, "a" ,[2,3],{"b":4}]`, []string{"1", `"a"`, "[2,3]", `{"b":4}`}, true},
		{`"a"`, nil, false},
		{"", nil, false},
		{"[1", nil, false},
		{"[1,]", nil, false},
		{"[1]]", nil, false},
		{"[1] ", nil, false},
		{"[\"\xff\"]", nil, false},
		{strings.Repeat("[", 17) + strings.Repeat("]", 17), nil, false},
	} {
		got, ok := jws.Elements(nil, []byte(c.value))
		var texts []string
		for _, e := range got {
			texts = append(texts, string(e))
		}
		if diff := cmp.Diff(c.want, texts); ok != c.ok || diff != "" {
			t.Errorf("%s: got ok = %t, want %t; elements (-want +got):\n%s", c.value, ok, c.ok, diff)
		}
	}
}

func TestString(t *testing.T) {
	for _, c := range []struct {
		value, want string
		ok          bool
	}{
		{`""`, "", true},
		{`"iss"`, "iss", true},
		{`"\"\\\/\b\f\n\r\t\u00E9\ud83d\ude00é"`, "\"\\/\b\f\n\r\té😀é", true},
		{`"a`, "", false},
		{`"a" `, "", false},
		{`"a""b"`, "", false},
		{`1`, "", false},
		{`null`, "", false},
		{``, "", false},
		{`"`, "", false},
		{`"\`, "", false},
		{`"\u`, "", false},
		{`"\ud800\u"`, "", false},
		{`"\ud800\`, "", false},
		{"\"\xff\"", "", false},
	} {
		if got, ok := jws.String([]byte(c.value)); got != c.want || ok != c.ok {
			t.Errorf("%s: got %q, %t, want %q, %t", c.value, got, ok, c.want, c.ok)
		}
	}
}

func TestInteger(t *testing.T) {
	for _, c := range []struct {
		value string
		want  int64
		ok    bool
	}{
		{"0", 0, true},
		{"-0", 0, true},
		{"-0.0e9", 0, true},
		{"1.0", 1, true},
		{"1e3", 1000, true},
		{"-12.50E1", -125, true},
		{"1000e-3", 1, true},
		{"9007199254740993", 9007199254740993, true},
		{"9223372036854775807", 9223372036854775807, true},
		{"-9223372036854775807", -9223372036854775807, true},
		{"0e999999999999999999999", 0, true},
		{"0." + strings.Repeat("0", 5000) + "1e5001", 1, true},
		{"1" + strings.Repeat("0", 5000) + "e-5000", 1, true},
		{"9223372036854775808", 0, false},
		{"1e19", 0, false},
		{"1e999999999999999999999", 0, false},
		{"1.5", 0, false},
		{"1e-1", 0, false},
		{"1e-999999999999999999999", 0, false},
		{`"1"`, 0, false},
		{"", 0, false},
		{"-", 0, false},
		{"01", 0, false},
		{"+1", 0, false},
		{"1 ", 0, false},
		{"1e", 0, false},
		{"0x1", 0, false},
		{"1_0", 0, false},
		{"Inf", 0, false},
		{"true", 0, false},
	} {
		if got, ok := jws.Integer([]byte(c.value)); got != c.want || ok != c.ok {
			t.Errorf("%.40s: got %d, %t, want %d, %t", c.value, got, ok, c.want, c.ok)
		}
	}
}

func TestNumericDate(t *testing.T) {
	for _, c := range []struct {
		value string
		sec   int64
		frac  bool
		ok    bool
	}{
		{"1800000000", 1800000000, false, true},
		{"1800000000.5", 1800000000, true, true},
		{"1800000000.0", 1800000000, false, true},
		{"1.8e9", 1800000000, false, true},
		{"1799999999.9999999999999999999", 1799999999, true, true},
		{"9007199254740991", 9007199254740991, false, true},
		{"9007199254740991.5", 9007199254740991, true, true},
		{"1e-400", 0, true, true},
		{"0", 0, false, true},
		{"-0", 0, false, true},
		{"-0.5", 0, false, false},
		{"-1", 0, false, false},
		{"9007199254740992", 0, false, false},
		{"1e400", 0, false, false},
		{`"1800000000"`, 0, false, false},
		{"null", 0, false, false},
	} {
		sec, frac, ok := jws.NumericDate([]byte(c.value))
		if sec != c.sec || frac != c.frac || ok != c.ok {
			t.Errorf("%s: got %d, %t, %t, want %d, %t, %t", c.value, sec, frac, ok, c.sec, c.frac, c.ok)
		}
	}
}

func TestTextRefusesWhatIsNotJSON(t *testing.T) {
	for _, value := range []string{"", "tru", "trueish", "fals", "nul", "Inf", "0x1", "1_0", "01", "1 ", `"a`, "NaN", "-"} {
		if got, ok := jws.Text([]byte(value)); ok {
			t.Errorf("%s: got %q, want it refused", value, got)
		}
	}
}
