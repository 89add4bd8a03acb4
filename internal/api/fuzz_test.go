package api_test

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/api"
)

// FuzzBody checks that encoding/json takes every body that is taken and reads
// the same in it, whatever the body is for.
func FuzzBody(f *testing.F) {
	for _, body := range good {
		f.Add(body)
	}
	for _, body := range []string{
		`{"name":"a","name":"b","password":"c"}`, `{"Name":"a","password":"c"}`, `{"name":null,"password":""}`, `{"name":"a","password":"b"}{}`,
		`{"name":"\ud800","password":""}`, "\ufeff{}", `{"overlap_seconds":1e3}`, `{"overlap_seconds":9223372036854775808}`, `{"scopes":[null]}`, `{"claims":[]}`,
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		checkBody[client.LoginRequest](t, body)
		checkBody[client.RefreshRequest](t, body)
		checkBody[client.PasswordChange](t, body)
		checkBody[client.NewAccount](t, body)
		checkBody[client.RevokeRequest](t, body)
		checkBody[client.NewKey](t, body)
		checkBody[client.ReplaceKey](t, body)
		checkBody[client.NewIssuer](t, body)
	})
}

func checkBody[T any](t *testing.T, body string) {
	t.Helper()
	r := httptest.NewRequest("POST", "/", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	got, err := api.Decode[T](r)
	if err != nil {
		return
	}
	var want T
	d := json.NewDecoder(strings.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&want); err != nil {
		t.Fatalf("took %q: %v", body, err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q: (-want +got):\n%s", body, cmp.Diff(want, got))
	}
}

// FuzzForm checks that a form that is taken has each parameter once and none
// that is empty, with the values that net/url reads.
func FuzzForm(f *testing.F) {
	for _, body := range []string{
		"", "grant_type=refresh_token&refresh_token=qr_x", "token=a&token=b", "token=", "token=%zz", "token=%ff", "a;b=c", "=x", "scope=read+write&client_id=%20",
		"client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=e30.e30.AA",
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		r := httptest.NewRequest("POST", "/oauth/token", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		got, err := api.Form(r)
		if err != nil {
			return
		}
		want, err := url.ParseQuery(body)
		if err != nil {
			t.Fatalf("took %q: %v", body, err)
		}
		for name, values := range want {
			if len(values) != 1 || values[0] != got[name] || !utf8.ValidString(name+values[0]) {
				t.Errorf("%q: got %q for %q, want each once, as they are: %q", body, got[name], name, values)
			}
		}
		for name, value := range got {
			if value == "" || want.Get(name) != value {
				t.Errorf("%q: got %q for %q, which the body does not say", body, value, name)
			}
		}
	})
}

// FuzzCookie checks that a refresh token is taken from a cookie header only
// where it is there once, and is what net/http reads.
func FuzzCookie(f *testing.F) {
	const name, key = "__Host-quash", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for _, header := range []string{
		name + "=qr_x." + key, "a=b; " + name + "=qr_x." + key + "; c=d", name + "=qr_x." + key + "; " + name + "=qr_y." + key, "__HOST-quash=qr_x." + key,
		name + `="qr_x.` + key + `"`, name + "=qr_x", name + "=." + key, name, "=" + name, name + "=qr_x." + key + ";" + strings.ToUpper(name), name + " =qr_x." + key,
	} {
		f.Add(header)
	}
	f.Fuzz(func(t *testing.T, header string) {
		const page = "https://app.test"
		r := httptest.NewRequest("POST", "/v1/refresh", nil)
		r.Header.Set("Origin", page)
		r.Header["Cookie"] = []string{header}
		token, retryKey, err := api.Cookie(r, page)
		if err != nil {
			return
		}
		if n := strings.Count(strings.ToLower(header), strings.ToLower(name)+"="); n < 1 || token == "" || len(retryKey) != len(key) {
			t.Errorf("%q: took token %q and key %q", header, token, retryKey)
		}
		if named := r.CookiesNamed(name); len(named) != 1 || named[0].Value != token+"."+retryKey {
			t.Errorf("%q: took %q and %q, where net/http reads %v", header, token, retryKey, named)
		}
	})
}

// FuzzQuery checks that a query string that is taken has each known parameter
// once, no other, and the values that net/url reads.
func FuzzQuery(f *testing.F) {
	for _, query := range []string{"", "limit=10", "limit=1&limit=2", "limit=1;after=2", "a=%zz", "after=%00", "dry_run=true&reason=left+us", "Limit=1", "&&limit=", "=1"} {
		f.Add(query)
	}
	known := []string{"limit", "after", "reason", "dry_run"}
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := api.Query(raw, known)
		if err != nil {
			return
		}
		want, err := url.ParseQuery(raw)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: got %v, want %v (%v)", raw, got, want, err)
		}
		for name, values := range got {
			if !slices.Contains(known, name) || len(values) != 1 {
				t.Errorf("%q: took %q %d times", raw, name, len(values))
			}
		}
	})
}

// FuzzHeaders checks what is read of the headers that callers write: a token
// holds nothing that a header must not, a key is printable, and a preference
// that is found is in the text.
func FuzzHeaders(f *testing.F) {
	for _, value := range []string{
		"Bearer abc", "bearer  abc==", "Bearer a,b", "Basic eDp5", "Bearer", `"key"`, `"a\"b\\"`, `"a\b"`, "bare", `"a"b"`, "wait=10, respond-async",
		`wait="10";x=", y", handling=lenient`, `a="unended`, ";;,,=", "wait = 1 ; p", "Bearer \x00", "wait=99999999999999999999",
	} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		r := &http.Request{Header: http.Header{"Authorization": {value}, "Idempotency-Key": {value}}}
		if token, err := api.Bearer(r); err == nil {
			if !strings.HasSuffix(value, token) || token == "" || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' || c == ',' || c == '"' }) {
				t.Errorf("%q: got the token %q", value, token)
			}
		}
		if key, err := api.IdempotencyKey(r); err == nil {
			if key == "" || len(key) > 255 || strings.ContainsFunc(key, func(c rune) bool { return c < ' ' || c > '~' }) {
				t.Errorf("%q: got the key %q", value, key)
			}
		}
		for name, preference := range api.Preferences([]string{value}) {
			if name == "" || name != strings.ToLower(name) || !strings.Contains(strings.ToLower(value), name) || len(preference) > len(value) {
				t.Errorf("%q: got the preference %q=%q", value, name, preference)
			}
		}
	})
}

// FuzzForwardedFor checks that nobody but a trusted proxy has a say in where a
// request comes from, and that what one says is an address of its header.
func FuzzForwardedFor(f *testing.F) {
	for _, value := range []string{
		"", "198.51.100.7", "198.51.100.7:1", "[2001:db8::7]:1", "2001:db8::7", "fe80::1%eth0", "::ffff:10.1.1.1", "10.2.2.2, 10.3.3.3", "unknown", "_hidden, 10.2.2.2",
		",,,", "198.51.100.7,", "1.2.3.04", "\x00", "10.2.2.2 , 198.51.100.7",
	} {
		f.Add(value)
	}
	trusted := netip.MustParsePrefix("10.0.0.0/8")
	f.Fuzz(func(t *testing.T, value string) {
		r := &http.Request{RemoteAddr: "203.0.113.9:1", Header: http.Header{"X-Forwarded-For": {value}}}
		if got := api.AddressOf(r, trusted); got.String() != "203.0.113.9" {
			t.Fatalf("a stranger who writes %q comes from %v", value, got)
		}
		r.RemoteAddr = "10.1.1.1:1"
		got := api.AddressOf(r, trusted)
		named := func(hop string) bool {
			if host, _, err := net.SplitHostPort(strings.TrimSpace(hop)); err == nil {
				hop = host
			}
			address, err := netip.ParseAddr(strings.TrimSpace(hop))
			return err == nil && address.Unmap().WithZone("") == got
		}
		if got.String() != "10.1.1.1" && !slices.ContainsFunc(strings.Split(value, ","), named) {
			t.Errorf("forwarded for %q: got %v, which it does not name", value, got)
		}
	})
}
