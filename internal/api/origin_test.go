package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/api"
)

// shared picks the headers that speak to browsers.
func shared(h http.Header) map[string]string {
	got := map[string]string{}
	for name, values := range h {
		if strings.HasPrefix(name, "Access-Control-") || name == "Vary" {
			got[name] = strings.Join(values, ", ")
		}
	}
	return got
}

func TestListedPagesMayReadAnswers(t *testing.T) {
	w := newWorld(t, browsers)
	do := w.listeners()["public"]
	want := map[string]string{
		"Vary": "Origin", "Access-Control-Allow-Origin": app, "Access-Control-Allow-Credentials": "true",
		"Access-Control-Expose-Headers": "Preference-Applied, Retry-After, WWW-Authenticate",
	}
	for _, path := range []string{"/healthz", "/v1/account", "/.well-known/jwks.json", "/nowhere"} {
		answer, _ := do("GET", path, http.Header{"Origin": {app}}, "")
		if diff := cmp.Diff(want, shared(answer.Header)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
		for _, origin := range [][]string{nil, {sibling}, {"null"}, {"*"}, {app + "/"}, {app, app}} {
			answer, _ := do("GET", path, http.Header{"Origin": origin}, "")
			if diff := cmp.Diff(map[string]string{"Vary": "Origin"}, shared(answer.Header)); diff != "" {
				t.Errorf("%s from %q (-want +got):\n%s", path, origin, diff)
			}
		}
	}
	answer, _ := w.listeners()["private"]("GET", "/healthz", http.Header{"Origin": {app}}, "")
	if got := shared(answer.Header); len(got) > 0 {
		t.Errorf("the private listener: got %v, want nothing for pages", got)
	}
}

func TestLimitedPagesMayReadThatTheyAre(t *testing.T) {
	w := newWorld(t, browsers, func(c *api.Config) { c.RequestsPerSecond = 1 })
	for range 5 {
		answer, text := w.listeners()["public"]("GET", "/v1/account", http.Header{"Origin": {app}}, "")
		if answer.StatusCode != 429 {
			continue
		}
		if shared(answer.Header)["Access-Control-Allow-Origin"] != app {
			t.Errorf("got %v with %s, want that the page may read it", answer.Header, text)
		}
		return
	}
	t.Error("five requests at once are not limited")
}

func TestPreflight(t *testing.T) {
	w := newWorld(t, browsers)
	ask := func(listener, path, origin string) (*http.Response, string) {
		h := http.Header{"Origin": {origin}, "Access-Control-Request-Method": {"POST"}, "Access-Control-Request-Headers": {"content-type"}}
		return w.listeners()[listener]("OPTIONS", path, h, "")
	}
	answer, text := ask("public", "/v1/sessions/s_1", app)
	want := map[string]string{
		"Vary": "Origin", "Access-Control-Allow-Origin": app, "Access-Control-Allow-Credentials": "true",
		"Access-Control-Expose-Headers": "Preference-Applied, Retry-After, WWW-Authenticate",
		"Access-Control-Allow-Methods":  "DELETE", "Access-Control-Max-Age": "7200",
		"Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Prefer",
	}
	if diff := cmp.Diff(want, shared(answer.Header)); answer.StatusCode != 204 || diff != "" {
		t.Errorf("got %d %s (-want +got):\n%s", answer.StatusCode, text, diff)
	}
	for what, of := range map[string][3]string{
		"a sibling": {"public", "/v1/login", sibling}, "null": {"public", "/v1/login", "null"},
		"the private listener": {"private", "/v1/admin/keys", app},
	} {
		answer, text := ask(of[0], of[1], of[2])
		wrong(t, what, answer, text, 405, client.CodeMethod)
		if got := shared(answer.Header)["Access-Control-Allow-Origin"]; got != "" {
			t.Errorf("%s: got Access-Control-Allow-Origin %q", what, got)
		}
	}
	answer, text = w.listeners()["public"]("OPTIONS", "/v1/login", http.Header{"Origin": {app}}, "")
	wrong(t, "OPTIONS that is no preflight", answer, text, 405, client.CodeMethod)
}

func TestCheckOrigin(t *testing.T) {
	for _, good := range []string{
		"https://app.example", "https://app.example:8443", "https://xn--bcher-kva.example", "https://192.0.2.1", "https://[2001:db8::1]:8443",
		"http://localhost", "http://localhost:3000", "http://127.0.0.1:3000", "http://[::1]:3000", "http://shop.localhost:3000", "https://a_b.example",
	} {
		if err := api.CheckOrigin(good); err != nil {
			t.Errorf("%s: got %v, want none", good, err)
		}
	}
	for _, bad := range []string{
		"", "*", "null", "https://", "https://*", "https://*.example", "app.example", "//app.example", "https:app.example", "file:///x",
		"https://app.example/", "https://app.example/x", "https://app.example?x", "https://app.example#x", "https://ann@app.example",
		"https://APP.example", "HTTPS://app.example", "https://app.example:443", "http://localhost:80", "https://app.example:", "https://:8443",
		"https://b\u00fccher.example", "https://app.example,https://b.example", " https://app.example", "https://app.example ", "https://app%2eexample",
		"http://app.example", "http://localhost.example", "http://192.0.2.1", "ftp://localhost", "wss://app.example",
	} {
		if err := api.CheckOrigin(bad); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
	w := newWorld(t)
	if _, err := api.New(api.Config{Issuer: w.issuer, Log: w.log, BrowserOrigins: []string{app, "*"}}); err == nil || !strings.Contains(err.Error(), `"*"`) {
		t.Errorf("New with any origin: got %v, want an error that names it", err)
	}
}
