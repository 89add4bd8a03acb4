package api_test

import (
	"fmt"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/quashdev/quash/internal/api"
)

func TestForwardedAddressIsBelievedFromTrustedProxiesOnly(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:1::/48")}
	w := newWorld(t, func(c *api.Config) { c.TrustedProxies = trusted })
	handler := w.api.Public(w.verifier)
	for _, tt := range []struct {
		remote    string
		forwarded []string
		want      string
	}{
		{"203.0.113.9:1", nil, "203.0.113.9"},
		{"203.0.113.9:1", []string{"198.51.100.7"}, "203.0.113.9"},
		{"10.1.1.1:1", nil, "10.1.1.1"},
		{"10.1.1.1:1", []string{"198.51.100.7"}, "198.51.100.7"},
		{"[::ffff:10.1.1.1]:1", []string{"198.51.100.7"}, "198.51.100.7"},
		{"10.1.1.1:1", []string{"192.0.2.66, 198.51.100.7"}, "198.51.100.7"},
		{"10.1.1.1:1", []string{"198.51.100.7, 10.2.2.2"}, "198.51.100.7"},
		{"10.1.1.1:1", []string{"198.51.100.7", "10.2.2.2"}, "198.51.100.7"},
		{"10.1.1.1:1", []string{"192.0.2.66, 198.51.100.7, 10.2.2.2"}, "198.51.100.7"},
		{"10.1.1.1:1", []string{"10.3.3.3, 10.2.2.2"}, "10.3.3.3"},
		{"10.1.1.1:1", []string{"198.51.100.7:4321"}, "198.51.100.7"},
		{"10.1.1.1:1", []string{"[2001:db8::7]:4321"}, "2001:db8::7"},
		{"[2001:db8:1::1]:1", []string{"2001:db8::7"}, "2001:db8::7"},
		{"10.1.1.1:1", []string{"198.51.100.7, nonsense"}, "10.1.1.1"},
		{"10.1.1.1:1", []string{"nonsense, 10.2.2.2"}, "10.2.2.2"},
		{"10.1.1.1:1", []string{""}, "10.1.1.1"},
		{"nowhere", []string{"198.51.100.7"}, ""},
	} {
		before := len(w.logged.String())
		r := httptest.NewRequest("GET", "/healthz", nil)
		r.RemoteAddr = tt.remote
		r.Header["X-Forwarded-For"] = tt.forwarded
		handler.ServeHTTP(httptest.NewRecorder(), r)
		if line := w.logged.String()[before:]; !strings.Contains(line, fmt.Sprintf(`"address":%q`, tt.want)) {
			t.Errorf("from %s, forwarded for %q: want %q in %s", tt.remote, tt.forwarded, tt.want, line)
		}
	}
}

func TestRequestsAreLimitedByAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *api.Config) { c.RequestsPerSecond = 1 })
		handler := w.api.Public(w.verifier)
		ask := func(address string) *httptest.ResponseRecorder {
			r, answer := httptest.NewRequest("GET", "/healthz", nil), httptest.NewRecorder()
			r.RemoteAddr = address
			handler.ServeHTTP(answer, r)
			return answer
		}
		for n := range 4 {
			if got := ask(fmt.Sprintf("[2001:db8::%d]:1", n)).Code; got != 200 {
				t.Fatalf("request %d: got %d, want 200", n+1, got)
			}
		}
		fifth := ask("[2001:db8::ffff:1]:1")
		if fifth.Code != 429 || fifth.Header().Get("Retry-After") == "" {
			t.Errorf("the fifth request of one /64 within a second: got %d, want 429 with Retry-After", fifth.Code)
		}
		for _, address := range []string{"[2001:db8:0:1::1]:1", "198.51.100.1:1", "198.51.100.2:1"} {
			if got := ask(address).Code; got != 200 {
				t.Errorf("%s: got %d, want 200: another address made the requests", address, got)
			}
		}
	})
}
