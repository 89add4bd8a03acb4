package api_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/api"
)

const (
	app     = "https://app.quash.test"
	sibling = "https://other.quash.test"
)

// browsers has a server admit the pages of app.
func browsers(c *api.Config) { c.BrowserOrigins = []string{app} }

// page is a tab: it calls as a page of an origin, and shares its cookie with
// the tabs that it is copied to.
type page struct {
	w      *world
	origin string
	cookie string // what a browser would send
}

// call posts a body as the page, and keeps the cookie that is set.
func (p *page) call(path, body string) (*http.Response, string) {
	p.w.t.Helper()
	h := http.Header{"Content-Type": {"application/json"}, "Origin": {p.origin}, "Sec-Fetch-Site": {"same-site"}}
	if p.cookie != "" {
		h.Set("Cookie", "theme=\"dark; __Host-quash="+p.cookie)
	}
	answer, text := p.w.listeners()["public"]("POST", path, h, body)
	for _, c := range answer.Cookies() {
		p.cookie = c.Value
	}
	return answer, text
}

// tokens posts a body and expects tokens.
func (p *page) tokens(path, body string) client.Tokens {
	p.w.t.Helper()
	answer, text := p.call(path, body)
	var got client.Tokens
	if err := json.Unmarshal([]byte(text), &got); err != nil || answer.StatusCode >= 300 {
		p.w.t.Fatalf("%s: got %d %s, want tokens", path, answer.StatusCode, text)
	}
	return got
}

// refreshToken is the part of the cookie that rotates.
func (p *page) refreshToken() string {
	token, _, _ := strings.Cut(p.cookie, ".")
	return token
}

// aTurn is longer than a refresh token of a cookie stays after it was current.
const aTurn = 11 * time.Second

const loginByCookie = `{"name":"ann","password":"` + password + `","cookie":true}`

// loggedIn returns a page with a session of the account ann.
func (w *world) loggedIn() (*page, client.Tokens) {
	w.t.Helper()
	w.account("u_1", "ann")
	p := &page{w: w, origin: app}
	return p, p.tokens("/v1/login", loginByCookie)
}

func TestCookieKeepsTheRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, browsers)
		w.account("u_1", "ann")
		p := &page{w: w, origin: app}
		answer, text := p.call("/v1/login", loginByCookie)
		if answer.StatusCode != 200 || strings.Contains(text, "refresh_token") || strings.Contains(text, "qr_") {
			t.Fatalf("login: got %d %s, want tokens without the refresh token", answer.StatusCode, text)
		}
		want := "__Host-quash=" + p.cookie + "; Path=/; Max-Age=1209600; HttpOnly; Secure; SameSite=Strict"
		if got := answer.Header.Values("Set-Cookie"); !cmp.Equal(got, []string{want}) {
			t.Errorf("login: got Set-Cookie %q, want %q", got, want)
		}
		first := p.refreshToken()
		time.Sleep(aTurn)
		tokens := p.tokens("/v1/refresh", "{}")
		if p.refreshToken() == first || tokens.RefreshToken != "" {
			t.Errorf("refresh: got the cookie %q and in the body %q, want the successor in the cookie alone", p.cookie, tokens.RefreshToken)
		}
		must(w.public.Account(t.Context(), tokens.AccessToken))(t)
	})
}

func TestLogoutByCookieDeletesIt(t *testing.T) {
	w := newWorld(t, browsers)
	p, tokens := w.loggedIn()
	old := *p
	answer, text := p.call("/v1/logout", "{}")
	var out client.Effect
	if err := json.Unmarshal([]byte(text), &out); err != nil || out.Sessions != 1 {
		t.Fatalf("got %d %s, want one session ended", answer.StatusCode, text)
	}
	if got, want := answer.Header.Get("Set-Cookie"), "__Host-quash=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Strict"; got != want {
		t.Errorf("got Set-Cookie %q, want %q", got, want)
	}
	if got := answer.Header.Get("Clear-Site-Data"); got != `"storage"` {
		t.Errorf("got Clear-Site-Data %s, want the storage alone", got)
	}
	w.follows(out.Position)
	_, err := w.public.Account(t.Context(), tokens.AccessToken)
	refused(t, "the access token afterwards", err, 401, client.CodeToken)
	answer, text = old.call("/v1/refresh", "{}")
	wrong(t, "a cookie that was kept", answer, text, 400, client.CodeGrant)
	answer, text = old.call("/v1/logout", "{}")
	if answer.StatusCode >= 300 {
		t.Errorf("logout again: got %d %s, want success", answer.StatusCode, text)
	}
}

// A logout by a cookie that is good for nothing clears it all the same; a refresh
// may be one that another tab is ahead of, and so leaves it.
func TestLogoutByADeadCookieDeletesIt(t *testing.T) {
	w := newWorld(t, browsers)
	p, _ := w.loggedIn()
	const at = 40 // a character of the MAC
	other := "A"
	if p.cookie[at:at+1] == other {
		other = "B"
	}
	dead := page{w: w, origin: app, cookie: p.cookie[:at] + other + p.cookie[at+1:]}
	answer, text := dead.call("/v1/refresh", "{}")
	wrong(t, "refresh", answer, text, 400, client.CodeGrant)
	if got := answer.Header.Get("Set-Cookie"); got != "" {
		t.Errorf("refresh: sets the cookie %q", got)
	}
	answer, text = dead.call("/v1/logout", "{}")
	wrong(t, "logout", answer, text, 400, client.CodeGrant)
	if got, want := answer.Header.Get("Set-Cookie"), "__Host-quash=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Strict"; got != want {
		t.Errorf("logout: got Set-Cookie %q, want %q", got, want)
	}
	p.tokens("/v1/refresh", "{}")
}

func TestPasswordChangeByCookie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, browsers)
		p, tokens := w.loggedIn()
		other := w.session("u_1")
		before := p.refreshToken()
		time.Sleep(aTurn)
		changed := p.tokens("/v1/password", byCookie["/v1/password"])
		if changed.Session != tokens.Session || changed.RefreshToken != "" || p.refreshToken() == before {
			t.Errorf("got %+v and the cookie %q, want this session to go on with the successor in the cookie", changed, p.cookie)
		}
		p.tokens("/v1/refresh", "{}")
		_, err := w.public.Refresh(t.Context(), other.RefreshToken, "")
		refused(t, "the other session", err, 400, client.CodeGrant)
	})
}

func TestP10TabsThatRefreshByCookieAtOnceStaySignedIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, browsers)
		p, _ := w.loggedIn()
		time.Sleep(aTurn)
		late, successors := *p, map[string]bool{}
		for i := range 5 {
			tab := *p
			if i > 2 {
				tab = late // sent before the others' answers, and arrives after
			}
			path := "/v1/refresh"
			if i == 1 {
				path = "/v1/password"
			}
			tab.tokens(path, byCookie[path])
			p.cookie = tab.cookie
			successors[tab.refreshToken()] = true
		}
		if len(successors) != 1 || successors[late.refreshToken()] {
			t.Errorf("got %d successors, want one", len(successors))
		}
		time.Sleep(aTurn)
		p.tokens("/v1/refresh", "{}")
		if successors[p.refreshToken()] {
			t.Error("the successor has none")
		}
	})
}

// The answer that gives the current token again may arrive when another tab has
// rotated it already, and puts the cookie back to what it was.
func TestP10LateAnswerByCookieSignsNobodyOut(t *testing.T) {
	for _, path := range []string{"/v1/refresh", "/v1/password"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, browsers)
			p, _ := w.loggedIn()
			time.Sleep(aTurn)
			p.tokens("/v1/refresh", "{}")
			time.Sleep(9900 * time.Millisecond)
			late, other := *p, *p
			late.tokens(path, byCookie[path])
			if late.cookie != p.cookie {
				t.Errorf("%s: got the cookie %q, want the one that was presented, %q", path, late.cookie, p.cookie)
			}
			time.Sleep(200 * time.Millisecond)
			other.tokens("/v1/refresh", "{}")
			if other.refreshToken() == p.refreshToken() {
				t.Error("the other tab's refresh does not rotate the token")
			}
			time.Sleep(aTurn)
			late.tokens("/v1/refresh", "{}") // with the cookie that the late answer set
			if late.refreshToken() != other.refreshToken() {
				t.Error("got another successor than the other tab")
			}
			time.Sleep(aTurn)
			late.tokens("/v1/refresh", "{}")
		})
	}
}

func TestP10LostAnswerByCookieCanBeHadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, browsers)
		p, _ := w.loggedIn()
		time.Sleep(aTurn)
		thief, lost := *p, *p
		lost.tokens("/v1/refresh", "{}")
		time.Sleep(aTurn)
		p.tokens("/v1/refresh", "{}")
		if p.refreshToken() != lost.refreshToken() {
			t.Error("the refresh again gives another successor")
		}
		p.tokens("/v1/refresh", "{}")
		time.Sleep(aTurn)
		answer, text := thief.call("/v1/refresh", "{}")
		wrong(t, "the cookie before the last", answer, text, 400, client.CodeGrant)
		answer, text = p.call("/v1/refresh", "{}")
		wrong(t, "the session after reuse", answer, text, 400, client.CodeGrant)
	})
}

// A successor that was set twice has two keys, so that who has only copied the
// cookie does not follow along.
func TestCopiedCookieIsReuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, browsers)
		p, _ := w.loggedIn()
		time.Sleep(aTurn)
		thief := *p
		p.tokens("/v1/refresh", "{}")
		thief.tokens("/v1/refresh", "{}") // at once, as another tab would
		time.Sleep(aTurn)
		p.tokens("/v1/refresh", "{}")
		time.Sleep(aTurn)
		answer, text := thief.call("/v1/refresh", "{}")
		wrong(t, "the copy", answer, text, 400, client.CodeGrant)
		answer, text = p.call("/v1/refresh", "{}")
		wrong(t, "the session after reuse", answer, text, 400, client.CodeGrant)
	})
}

// byCookie are the calls that act by cookie, or set one.
var byCookie = map[string]string{
	"/v1/login": loginByCookie, "/v1/refresh": "{}", "/v1/logout": "{}",
	"/v1/password": `{"old_password":"` + password + `","new_password":"` + newPassword + `"}`,
}

func TestOnlyListedPagesActByCookie(t *testing.T) {
	w := newWorld(t, browsers)
	p, tokens := w.loggedIn()
	before := w.state("u_1")
	for what, from := range map[string]http.Header{
		"no headers":                  {},
		"no origin, same-origin":      {"Sec-Fetch-Site": {"same-origin"}},
		"no origin, same-site":        {"Sec-Fetch-Site": {"same-site"}},
		"origin null":                 {"Origin": {"null"}, "Sec-Fetch-Site": {"same-site"}},
		"empty origin":                {"Origin": {""}},
		"a sibling":                   {"Origin": {sibling}, "Sec-Fetch-Site": {"same-site"}},
		"a subdomain":                 {"Origin": {"https://x.app.quash.test"}, "Sec-Fetch-Site": {"same-site"}},
		"without TLS":                 {"Origin": {"http://app.quash.test"}, "Sec-Fetch-Site": {"cross-site"}},
		"another port":                {"Origin": {app + ":8443"}, "Sec-Fetch-Site": {"same-site"}},
		"another case":                {"Origin": {"https://APP.quash.test"}},
		"a suffix":                    {"Origin": {app + ".evil.test"}, "Sec-Fetch-Site": {"cross-site"}},
		"two origins":                 {"Origin": {app, app}},
		"another site":                {"Origin": {"https://evil.test"}, "Sec-Fetch-Site": {"cross-site"}},
		"listed, but of another site": {"Origin": {app}, "Sec-Fetch-Site": {"cross-site"}},
		"listed, typed by the user":   {"Origin": {app}, "Sec-Fetch-Site": {"none"}},
	} {
		for path, body := range byCookie {
			h := http.Header{"Content-Type": {"application/json"}, "Cookie": {"__Host-quash=" + p.cookie}}
			maps.Copy(h, from)
			answer, text := w.listeners()["public"]("POST", path, h, body)
			wrong(t, path+" from "+what, answer, text, 403, client.CodeForbidden)
			if got := answer.Header.Get("Set-Cookie"); got != "" {
				t.Errorf("%s from %s: sets the cookie %q", path, what, got)
			}
		}
	}
	if diff := cmp.Diff(before, w.state("u_1")); diff != "" {
		t.Errorf("something changed (-before +after):\n%s", diff)
	}
	must(w.public.Account(t.Context(), tokens.AccessToken))(t)
	p.tokens("/v1/refresh", "{}")
}

// A page learns that it has to log in by the one code that says so.
func TestPageWithoutCookieHasToLogIn(t *testing.T) {
	w := newWorld(t, browsers)
	for _, path := range []string{"/v1/refresh", "/v1/logout", "/v1/password"} {
		answer, text := (&page{w: w, origin: app}).call(path, byCookie[path])
		wrong(t, path, answer, text, 400, client.CodeGrant)
		answer, text = (&page{w: w, origin: sibling}).call(path, byCookie[path])
		wrong(t, path+" from a sibling", answer, text, 400, client.CodeInvalid)
	}
}

func TestPagesSendJSON(t *testing.T) {
	w := newWorld(t, browsers)
	p, _ := w.loggedIn()
	for _, kind := range []string{"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"} {
		for path, body := range byCookie {
			h := http.Header{"Origin": {app}, "Cookie": {"__Host-quash=" + p.cookie}, "Content-Type": {kind}}
			answer, text := w.listeners()["public"]("POST", path, h, body)
			wrong(t, path+" as "+kind, answer, text, 415, client.CodeMediaType)
		}
	}
	answer, text := w.listeners()["public"]("POST", "/v1/logout", http.Header{"Origin": {app}, "Cookie": {"__Host-quash=" + p.cookie}}, "")
	wrong(t, "a logout without a body", answer, text, 401, client.CodeNoToken)
	p.tokens("/v1/refresh", "{}")
}

func TestOddCookiesAreRefused(t *testing.T) {
	w := newWorld(t, browsers)
	p, _ := w.loggedIn()
	token, key, _ := strings.Cut(p.cookie, ".")
	mine := "__Host-quash=" + p.cookie
	for what, lines := range map[string][]string{
		"two":                      {mine + "; " + mine},
		"two, one empty":           {mine + "; __Host-quash="},
		"two, one without value":   {"__Host-quash; " + mine},
		"two, one malformed":       {mine + `; __Host-quash="`},
		"two lines":                {mine, mine},
		"two, another spelling":    {mine + "; __HOST-quash=" + p.cookie},
		"another spelling":         {"__HOST-quash=" + p.cookie},
		"another case":             {"__Host-Quash=" + p.cookie},
		"quoted":                   {`__Host-quash="` + p.cookie + `"`},
		"empty":                    {"__Host-quash="},
		"without a key":            {"__Host-quash=" + token},
		"with an empty key":        {"__Host-quash=" + token + "."},
		"with a key that is short": {"__Host-quash=" + token + "." + key[1:]},
		"with another part":        {mine + ".x"},
		"without a token":          {"__Host-quash=." + key},
		"with a space":             {"__Host-quash=" + token + " ." + key},
	} {
		for _, path := range []string{"/v1/refresh", "/v1/logout", "/v1/password"} {
			h := http.Header{"Content-Type": {"application/json"}, "Origin": {app}, "Cookie": lines}
			answer, text := w.listeners()["public"]("POST", path, h, byCookie[path])
			wrong(t, path+" with a cookie: "+what, answer, text, 400, client.CodeInvalid)
		}
	}
	for _, name := range []string{"quash", "Host-quash", "__Secure-quash", "__Host-quash2", " __Host-quash\u00a0"} {
		h := http.Header{"Content-Type": {"application/json"}, "Origin": {app}, "Cookie": {name + "=" + p.cookie}}
		answer, text := w.listeners()["public"]("POST", "/v1/refresh", h, "{}")
		wrong(t, "a cookie "+name, answer, text, 400, client.CodeGrant)
	}
	p.tokens("/v1/refresh", "{}")
}

// A program that presents its refresh token is served as ever, whatever cookie
// and origin come with it.
func TestTokenInTheBodyIsMeant(t *testing.T) {
	w := newWorld(t, browsers)
	p, _ := w.loggedIn()
	other := w.session("u_2")
	h := http.Header{"Content-Type": {"application/json"}, "Origin": {sibling}, "Cookie": {"__Host-quash=" + p.cookie}}
	answer, text := w.listeners()["public"]("POST", "/v1/refresh", h, `{"refresh_token":"`+other.RefreshToken+`"}`)
	var got client.Tokens
	if err := json.Unmarshal([]byte(text), &got); err != nil || got.Session != other.Session || got.RefreshToken == "" || answer.Header.Get("Set-Cookie") != "" {
		t.Errorf("refresh: got %d %s, want tokens of the session in the body, and no cookie", answer.StatusCode, text)
	}
	answer, text = w.listeners()["public"]("POST", "/v1/logout", h, `{"refresh_token":"`+got.RefreshToken+`"}`)
	if answer.StatusCode >= 300 || answer.Header.Get("Set-Cookie") != "" || answer.Header.Get("Clear-Site-Data") != "" {
		t.Errorf("logout: got %d %s, %v, want success and the cookie left alone", answer.StatusCode, text, answer.Header)
	}
	p.tokens("/v1/refresh", "{}")
}

func TestWithoutOriginsThereAreNoCookies(t *testing.T) {
	w := newWorld(t)
	w.account("u_1", "ann")
	for what, p := range map[string]*page{"a page": {w: w, origin: app}, "none": {w: w}} {
		answer, text := p.call("/v1/login", loginByCookie)
		problem := wrong(t, "login from "+what, answer, text, 403, client.CodeForbidden)
		if !strings.Contains(problem.Detail, "--browser-origin") {
			t.Errorf("the detail %q does not say what to do", problem.Detail)
		}
		if len(answer.Header.Values("Vary")) > 0 || answer.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("the answer speaks to pages: %v", answer.Header)
		}
	}
}
