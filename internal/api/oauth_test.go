package api_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/api"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/jws"
)

// answer is what an OAuth endpoint said.
type answer struct {
	status int
	header http.Header
	text   string
	body   map[string]any
}

func (a answer) string(name string) string { s, _ := a.body[name].(string); return s }

// post sends a form, with credentials in the header where there are any.
func (w *world) post(path string, f url.Values, authorization ...string) answer {
	w.t.Helper()
	return w.raw("POST", path, http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Authorization": authorization}, f.Encode())
}

func (w *world) raw(method, path string, h http.Header, text string) answer {
	w.t.Helper()
	if len(h["Authorization"]) == 0 {
		h.Del("Authorization")
	}
	got, body := w.listeners()["public"](method, path, h, text)
	a := answer{status: got.StatusCode, header: got.Header, text: body}
	_ = json.Unmarshal([]byte(body), &a.body)
	if cache := got.Header.Get("Cache-Control"); cache != "no-store" {
		w.t.Errorf("%s %s: Cache-Control is %q", method, path, cache)
	}
	return a
}

// refused expects an error of RFC 6749, section 5.2.
func (a answer) refused(t *testing.T, what string, status int, code string) {
	t.Helper()
	if a.status != status || a.string("error") != code {
		t.Errorf("%s: got %d %s, want %d %s", what, a.status, a.text, status, code)
	}
	for name := range a.body {
		if name != "error" && name != "error_description" {
			t.Errorf("%s: the error has a member %q", what, name)
		}
	}
	if strings.ContainsFunc(a.string("error_description"), func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
		t.Errorf("%s: error_description has a character that it may not: %q", what, a.string("error_description"))
	}
	if challenge := a.header.Get("WWW-Authenticate"); (status == 401) != (challenge == `Basic realm="quash"`) {
		t.Errorf("%s: %d with the challenge %q", what, status, challenge)
	}
	if again := a.header.Get("Retry-After"); (status == 429 || status == 503) != (again != "") {
		t.Errorf("%s: %d with Retry-After %q", what, status, again)
	}
}

func basic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(id)+":"+url.QueryEscape(secret)))
}

// register registers a client and returns its secret.
func (w *world) register(n client.NewRegistration) string {
	w.t.Helper()
	if n.Grants == nil {
		n.Grants = []string{"refresh_token"}
		if n.Method != "none" {
			n.Grants = append(n.Grants, "client_credentials")
		}
	}
	return must(w.admin("clients").CreateClient(w.t.Context(), n))(w.t).Secret
}

// opened opens a session for a client.
func (w *world) opened(subject, id string) client.Tokens {
	w.t.Helper()
	_, _ = w.admin("accounts").CreateAccount(w.t.Context(), client.NewAccount{Subject: subject})
	return must(w.admin("sessions").OpenSession(w.t.Context(), subject, client.Device{Client: id}))(w.t)
}

func refreshing(token string) url.Values {
	return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}
}

var ownToken = url.Values{"grant_type": {"client_credentials"}}

func with(f url.Values, pairs ...string) url.Values {
	f = maps.Clone(f)
	for i := 0; i < len(pairs); i += 2 {
		f[pairs[i]] = []string{pairs[i+1]}
	}
	return f
}

func claimsOf(t *testing.T, token string) map[string]any {
	t.Helper()
	var claims map[string]any
	payload := must(base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1]))(t)
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

// R5: a token presented by another client, and public and confidential mixed.
func TestR5WrongClientNeitherConsumesNorReuses(t *testing.T) {
	w := newWorld(t)
	shop, other := w.register(client.NewRegistration{ID: "shop"}), w.register(client.NewRegistration{ID: "other"})
	w.register(client.NewRegistration{ID: "app", Method: "none"})
	first := w.opened("u_1", "shop")
	second := w.post("/oauth/token", refreshing(first.RefreshToken), basic("shop", shop))
	if second.status != 200 {
		t.Fatalf("its own client: got %d %s", second.status, second.text)
	}
	third := w.post("/oauth/token", refreshing(second.string("refresh_token")), basic("shop", shop))
	for what, token := range map[string]string{"current": third.string("refresh_token"), "used": second.string("refresh_token"), "old": first.RefreshToken} {
		w.post("/oauth/token", refreshing(token), basic("other", other)).refused(t, what+" by another confidential client", 400, "invalid_grant")
		w.post("/oauth/token", with(refreshing(token), "client_id", "app")).refused(t, what+" by a public client", 400, "invalid_grant")
		w.post("/oauth/token", with(refreshing(token), "client_id", "shop")).refused(t, what+" by its client without its secret", 401, "invalid_client")
		_, err := w.public.Refresh(t.Context(), token, "")
		refused(t, what+" at /v1/refresh", err, 400, client.CodeGrant)
		if p, ok := errors.AsType[*client.Problem](err); !ok || !strings.Contains(p.Detail, "/oauth/token") {
			t.Errorf("%s at /v1/refresh: got %v, want that it says where to refresh", what, err)
		}
	}
	if got := w.post("/oauth/token", refreshing(third.string("refresh_token")), basic("shop", shop)); got.status != 200 {
		t.Errorf("its own client, after all that: got %d %s, want 200", got.status, got.text)
	}
	label := w.session("u_2")
	w.post("/oauth/token", refreshing(label.RefreshToken), basic("shop", shop)).refused(t, "a session of no registered client", 400, "invalid_grant")
	must(w.public.Refresh(t.Context(), label.RefreshToken, ""))(t)
	public := w.opened("u_3", "app")
	again := must(w.public.Refresh(t.Context(), public.RefreshToken, ""))(t)
	if got := w.post("/oauth/token", with(refreshing(again.RefreshToken), "client_id", "app")); got.status != 200 {
		t.Errorf("a public client at both places: got %d %s", got.status, got.text)
	}
}

// R1 at this endpoint: reuse by its own client ends the session.
func TestReuseByItsOwnClientEndsTheSession(t *testing.T) {
	w := newWorld(t)
	secret := w.register(client.NewRegistration{ID: "shop"})
	first := w.opened("u_1", "shop")
	second := w.post("/oauth/token", refreshing(first.RefreshToken), basic("shop", secret))
	third := w.post("/oauth/token", refreshing(second.string("refresh_token")), basic("shop", secret))
	w.post("/oauth/token", refreshing(first.RefreshToken), basic("shop", secret)).refused(t, "an old token", 400, "invalid_grant")
	w.post("/oauth/token", refreshing(third.string("refresh_token")), basic("shop", secret)).refused(t, "the current one then", 400, "invalid_grant")
	w.follows(must(w.admin("audit").Log(t.Context()))(t).Head.Position)
	if _, err := w.verifier.Verify(third.string("access_token")); !errors.Is(err, quash.ErrRevoked) {
		t.Errorf("its access token: got %v, want revoked", err)
	}
}

// R8: scope wider, narrower, empty.
func TestR8ScopeNarrowsTheAccessTokenOnly(t *testing.T) {
	w := newWorld(t)
	secret := w.register(client.NewRegistration{ID: "shop", Scopes: []string{"read", "write", "admin"}, Audience: []string{"orders", "https://quash.test"}})
	must(w.admin("accounts").CreateAccount(t.Context(), client.NewAccount{Subject: "u_1", Claims: []byte(`{"scope":"root","tenant":"acme"}`)}))(t)
	sessions := w.admin("sessions")
	tokens := must(sessions.OpenSession(t.Context(), "u_1", client.Device{Client: "shop", Scope: "write read"}))(t)
	if got := claimsOf(t, tokens.AccessToken); got["scope"] != "read write" || tokens.Scope != "read write" || got["tenant"] != "acme" ||
		cmp.Diff(got["aud"], []any{"orders", "https://quash.test"}) != "" {
		t.Errorf("opened: got claims %v and scope %q", got, tokens.Scope)
	}
	_, err := sessions.OpenSession(t.Context(), "u_1", client.Device{Client: "shop", Scope: "read root"})
	refused(t, "more than the client may have", err, 400, client.CodeScope)
	_, err = sessions.OpenSession(t.Context(), "u_1", client.Device{Client: "nobody", Scope: "read"})
	refused(t, "a scope for a client that is not registered", err, 400, client.CodeScope)
	plain := must(sessions.OpenSession(t.Context(), "u_1", client.Device{Client: "nobody"}))(t)
	if got := claimsOf(t, plain.AccessToken)["scope"]; got != "root" || plain.Scope != "" {
		t.Errorf("of a client that is not registered: got scope %v, %q, want the document's", got, plain.Scope)
	}
	refresh := tokens.RefreshToken
	for _, asked := range []string{"read admin", "read  write", " read", "read\twrite", "root", "READ"} {
		w.post("/oauth/token", with(refreshing(refresh), "scope", asked), basic("shop", secret)).refused(t, fmt.Sprintf("scope %q", asked), 400, "invalid_scope")
	}
	for _, c := range []struct{ asked, want string }{{"read", "read"}, {"", "read write"}, {"write read write", "read write"}, {"write", "write"}} {
		got := w.post("/oauth/token", with(refreshing(refresh), "scope", c.asked), basic("shop", secret))
		if got.status != 200 || got.string("scope") != c.want || claimsOf(t, got.string("access_token"))["scope"] != c.want {
			t.Fatalf("scope %q: got %d %s, want %q in the answer and in the token", c.asked, got.status, got.text, c.want)
		}
		// The same again, because the answer was lost, gives the same successor, whatever is asked then.
		again := w.post("/oauth/token", with(refreshing(refresh), "scope", "read"), basic("shop", secret))
		if again.string("refresh_token") != got.string("refresh_token") || again.string("scope") != "read" {
			t.Errorf("scope %q, again: got %d %s, want the same successor", c.asked, again.status, again.text)
		}
		refresh = got.string("refresh_token")
	}
	must(w.admin("clients").PutClient(t.Context(), "shop", client.ClientSettings{Grants: []string{"refresh_token"}, Scopes: []string{"read"}}, client.Change{}))(t)
	got := w.post("/oauth/token", refreshing(refresh), basic("shop", secret))
	if got.string("scope") != "read" || claimsOf(t, got.string("access_token"))["aud"] != "https://quash.test" {
		t.Errorf("after the client may have less: got %s", got.text)
	}
	w.post("/oauth/token", ownToken, basic("shop", secret)).refused(t, "a grant that it may not use any more", 400, "unauthorized_client")
}

// R10: an access token as a refresh token and the reverse, garbage, 1 MB, non-ASCII.
func TestR10WhatIsNoRefreshTokenIsInvalidGrant(t *testing.T) {
	w := newWorld(t)
	secret := w.register(client.NewRegistration{ID: "shop"})
	tokens := w.opened("u_1", "shop")
	for what, token := range map[string]string{
		"an access token": tokens.AccessToken, "garbage": "garbage", "not ASCII": "qr_ä", "not a token": strings.Repeat("x", 60_000),
		"changed": tokens.RefreshToken[:len(tokens.RefreshToken)-4] + "AAAA", "line break": tokens.RefreshToken + "\n",
	} {
		w.post("/oauth/token", refreshing(token), basic("shop", secret)).refused(t, what, 400, "invalid_grant")
	}
	w.post("/oauth/token", refreshing("\xff"), basic("shop", secret)).refused(t, "not UTF-8", 400, "invalid_request")
	w.post("/oauth/token", refreshing(strings.Repeat("x", 1<<20)), basic("shop", secret)).refused(t, "1 MB", 413, "invalid_request")
	_, err := w.public.Account(t.Context(), tokens.RefreshToken)
	refused(t, "a refresh token as an access token", err, 401, client.CodeToken)
}

// R11: repeated, in the query, JSON, GET, the wrong case.
func TestR11FormsAreReadStrictly(t *testing.T) {
	w := newWorld(t)
	secret := w.register(client.NewRegistration{ID: "shop"})
	tokens := w.opened("u_1", "shop")
	h := func(kind string) http.Header {
		return http.Header{"Content-Type": {kind}, "Authorization": {basic("shop", secret)}}
	}
	const form = "application/x-www-form-urlencoded"
	text := refreshing(tokens.RefreshToken).Encode()
	for _, path := range []string{"/oauth/token", "/oauth/revoke", "/oauth/introspect"} {
		text := text + "&token=" + tokens.RefreshToken
		w.raw("POST", path, h(form), text+"&refresh_token=x").refused(t, path+": repeated", 400, "invalid_request")
		w.raw("POST", path, h(form), text+"&surprise=1&surprise=1").refused(t, path+": repeated, and unknown", 400, "invalid_request")
		w.raw("POST", path+"?"+text, h(form), "").refused(t, path+": in the query", 400, "invalid_request")
		w.raw("POST", path+"?client_id=shop", h(form), text).refused(t, path+": a part in the query", 400, "invalid_request")
		w.raw("POST", path, h("application/json"), `{"grant_type":"refresh_token"}`).refused(t, path+": JSON", 415, "invalid_request")
		w.raw("POST", path, http.Header{"Authorization": {basic("shop", secret)}}, text).refused(t, path+": no type", 415, "invalid_request")
		w.raw("POST", path, h(form), "a=%zz").refused(t, path+": malformed", 400, "invalid_request")
		w.raw("POST", path, h(form), "").refused(t, path+": empty", 400, "invalid_request")
		got := w.raw("GET", path, http.Header{}, "")
		if got.refused(t, path+": GET", 405, "invalid_request"); got.header.Get("Allow") != "POST" {
			t.Errorf("%s: GET: Allow is %q", path, got.header.Get("Allow"))
		}
	}
	w.raw("POST", "/oauth/token", h(form), strings.Replace(text, "refresh_token&", "Refresh_Token&", 1)).refused(t, "grant_type in another case", 400, "unsupported_grant_type")
	w.post("/oauth/token", url.Values{"grant_type": {"password"}}, basic("shop", secret)).refused(t, "password", 400, "unsupported_grant_type")
	w.post("/oauth/token", url.Values{"grant_type": {""}}, basic("shop", secret)).refused(t, "an empty parameter", 400, "invalid_request")
	w.post("/oauth/token", refreshing(""), basic("shop", secret)).refused(t, "no refresh token", 400, "invalid_request")
	if got := w.raw("POST", "/oauth/token", h(form+"; charset=UTF-8"), text+"&surprise=1&scope="); got.status != 200 {
		t.Errorf("an unknown parameter, and an empty one: got %d %s, want 200", got.status, got.text)
	}
}

// R12: two methods at once, encoded ids and secrets, empty ones, unknown clients.
func TestR12ClientsShowWhoTheyAreByTheirOneMethod(t *testing.T) {
	w := newWorld(t)
	secret := w.register(client.NewRegistration{ID: "a:shop%+/&"})
	posted := w.register(client.NewRegistration{ID: "posted", Method: "client_secret_post"})
	w.register(client.NewRegistration{ID: "app", Method: "none"})
	const id = "a:shop%+/&"
	good := w.post("/oauth/token", ownToken, basic(id, secret))
	if good.status != 200 || good.string("refresh_token") != "" || good.string("token_type") != "Bearer" {
		t.Fatalf("an encoded id: got %d %s, want an access token alone", good.status, good.text)
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(id) + ":" + strings.ReplaceAll(secret, "_", "%5F")))
	if got := w.post("/oauth/token", ownToken, "bASIC  "+encoded); got.status != 200 {
		t.Errorf("an encoded secret: got %d %s, want 200", got.status, got.text)
	}
	if got := w.post("/oauth/token", with(ownToken, "client_id", id), basic(id, secret)); got.status != 200 {
		t.Errorf("the same client_id in the body: got %d %s, want 200", got.status, got.text)
	}
	if got := w.post("/oauth/token", with(ownToken, "client_id", "posted", "client_secret", posted)); got.status != 200 {
		t.Errorf("a secret in the body: got %d %s, want 200", got.status, got.text)
	}
	for what, got := range map[string]answer{
		"header and body":               w.post("/oauth/token", with(ownToken, "client_secret", secret), basic(id, secret)),
		"header and assertion":          w.post("/oauth/token", with(ownToken, "client_assertion", "x"), basic(id, secret)),
		"body and assertion":            w.post("/oauth/token", with(ownToken, "client_id", id, "client_secret", secret, "client_assertion", "x")),
		"another client_id in the body": w.post("/oauth/token", with(ownToken, "client_id", "posted"), basic(id, secret)),
		"an assertion of another type":  w.post("/oauth/token", with(ownToken, "client_assertion", "x", "client_assertion_type", "saml")),
	} {
		got.refused(t, what, 400, "invalid_request")
	}
	for what, got := range map[string]answer{
		"empty secret":               w.post("/oauth/token", ownToken, basic(id, "")),
		"empty secret in the body":   w.post("/oauth/token", with(ownToken, "client_id", "posted", "client_secret", "")),
		"wrong secret":               w.post("/oauth/token", ownToken, basic(id, secret+"x")),
		"unknown client":             w.post("/oauth/token", ownToken, basic("nobody", secret)),
		"unknown public client":      w.post("/oauth/token", with(ownToken, "client_id", "nobody")),
		"nobody":                     w.post("/oauth/token", ownToken),
		"no id":                      w.post("/oauth/token", ownToken, basic("", secret)),
		"not encoded":                w.post("/oauth/token", ownToken, "Basic "+base64.StdEncoding.EncodeToString([]byte(id+":"+secret))),
		"another scheme":             w.post("/oauth/token", ownToken, "Bearer "+secret),
		"two headers":                w.post("/oauth/token", ownToken, basic(id, secret), basic(id, secret)),
		"no base64":                  w.post("/oauth/token", ownToken, "Basic *"),
		"its secret in the body":     w.post("/oauth/token", with(ownToken, "client_id", id, "client_secret", secret)),
		"a posted one in the header": w.post("/oauth/token", ownToken, basic("posted", posted)),
		"a public one with a secret": w.post("/oauth/token", ownToken, basic("app", "x")),
	} {
		got.refused(t, what, 401, "invalid_client")
	}
	w.post("/oauth/token", with(ownToken, "client_id", "app")).refused(t, "a public client for itself", 400, "unauthorized_client")
}

// R13: client assertions.
func TestR13AssertionsAreForThisIssuerOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		key, stranger := must(jws.Generate(jws.ES256))(t), must(jws.Generate(jws.ES256))(t)
		set := must(must(jws.NewKeySet(key.Public()))(t).MarshalJSON())(t)
		w.register(client.NewRegistration{ID: "robot", Method: "private_key_jwt", Keys: set})
		n := 0
		claims := func(pairs ...any) []byte {
			n++
			c := map[string]any{
				"iss": "robot", "sub": "robot", "aud": "https://quash.test", "exp": time.Now().Unix() + 60, "iat": time.Now().Unix(), "jti": fmt.Sprint("j", n),
			}
			for i := 0; i < len(pairs); i += 2 {
				c[pairs[i].(string)] = pairs[i+1]
				if pairs[i+1] == nil {
					delete(c, pairs[i].(string))
				}
			}
			return must(json.Marshal(c))(t)
		}
		show := func(assertion string) answer {
			return w.post("/oauth/token", with(ownToken, "client_assertion", assertion, "client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"))
		}
		sign := func(typ string, claims []byte) string { return must(key.Sign(typ, claims))(t) }
		const typ = "client-authentication+jwt"
		good := sign(typ, claims())
		if got := show(good); got.status != 200 {
			t.Fatalf("a good assertion: got %d %s", got.status, got.text)
		}
		for what, assertion := range map[string]string{
			"typ JWT": sign("JWT", claims()), "typ in full": sign("application/"+typ, claims()), "one audience in an array": sign(typ, claims("aud", []string{"https://quash.test"})),
		} {
			if got := show(assertion); got.status != 200 {
				t.Errorf("%s: got %d %s, want 200", what, got.status, got.text)
			}
		}
		bare := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256"}`)) + "." + base64.RawURLEncoding.EncodeToString(claims()) + "."
		show(bare+base64.RawURLEncoding.EncodeToString(make([]byte, 64))).refused(t, "no kid, and not signed", 401, "invalid_client")
		now := time.Now().Unix()
		for what, assertion := range map[string]string{
			"replayed":             good,
			"the endpoint as aud":  sign(typ, claims("aud", "https://quash.test/oauth/token")),
			"two audiences":        sign(typ, claims("aud", []string{"https://quash.test", "https://other.test"})),
			"no aud":               sign(typ, claims("aud", nil)),
			"no exp":               sign(typ, claims("exp", nil)),
			"expired":              sign(typ, claims("exp", now)),
			"exp too far off":      sign(typ, claims("exp", now+301)),
			"iat in the future":    sign(typ, claims("iat", now+61)),
			"nbf in the future":    sign(typ, claims("nbf", now+61)),
			"no jti":               sign(typ, claims("jti", nil)),
			"empty jti":            sign(typ, claims("jti", "")),
			"long jti":             sign(typ, claims("jti", strings.Repeat("j", 256))),
			"another iss":          sign(typ, claims("iss", "other")),
			"another sub":          sign(typ, claims("sub", "other")),
			"exp a string":         sign(typ, claims("exp", "soon")),
			"typ of access tokens": sign("at+jwt", claims()),
			"typ of logout tokens": sign("logout+jwt", claims()),
			"another key":          must(stranger.Sign(typ, claims()))(t),
			"HS256":                hmacSigned(typ, claims()),
			"none":                 "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString(claims()) + ".",
			"garbage":              "x.y.z",
		} {
			show(assertion).refused(t, what, 401, "invalid_client")
		}
	})
}

// hmacSigned is a token by the algorithm that nobody may use here.
func hmacSigned(typ string, claims []byte) string {
	header := fmt.Sprintf(`{"alg":"HS256","kid":"k","typ":%q}`, typ)
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(header)) + "." + encode(claims) + "." + encode(make([]byte, 32))
}

// P1, P2: whatever the token was, and whatever the hint, the answer is 200 and empty.
func TestP1P2RevokingAnswers200WhateverTheTokenWas(t *testing.T) {
	w := newWorld(t)
	secret := w.register(client.NewRegistration{ID: "shop"})
	revoke := func(what, token, hint string) {
		t.Helper()
		if got := w.post("/oauth/revoke", with(url.Values{}, "token", token, "token_type_hint", hint), basic("shop", secret)); got.status != 200 || got.text != "" {
			t.Errorf("%s: got %d %q, want 200 and nothing", what, got.status, got.text)
		}
	}
	revoke("unknown", "unknown", "")
	revoke("malformed", "qr_x", "refresh_token")
	revoke("malformed", "a.b.c", "access_token")
	for _, hint := range []string{"", "refresh_token", "access_token", "surprise"} {
		for what, pick := range map[string]func(client.Tokens) string{
			"refresh token": func(g client.Tokens) string { return g.RefreshToken }, "access token": func(g client.Tokens) string { return g.AccessToken },
		} {
			g := w.opened("u_1", "shop")
			revoke(what, pick(g), hint)
			w.follows(must(w.admin("audit").Log(t.Context()))(t).Head.Position)
			if _, err := w.verifier.Verify(g.AccessToken); !errors.Is(err, quash.ErrRevoked) {
				t.Errorf("%s with the hint %q: its access token: got %v, want revoked", what, hint, err)
			}
			w.post("/oauth/token", refreshing(g.RefreshToken), basic("shop", secret)).refused(t, what+": refresh", 400, "invalid_grant")
			revoke("again", pick(g), hint)
		}
	}
	own := w.post("/oauth/token", ownToken, basic("shop", secret)).string("access_token")
	other := w.post("/oauth/token", ownToken, basic("shop", secret)).string("access_token")
	revoke("a client's own", own, "")
	if _, err := w.verifier.Verify(own); !errors.Is(err, quash.ErrRevoked) {
		t.Errorf("a client's own token: got %v, want revoked", err)
	}
	if _, err := w.verifier.Verify(other); err != nil {
		t.Errorf("another of the client's own: got %v, want that it lives", err)
	}
}

// P3: another client's token is refused in one shape, and lives.
func TestP3AnotherClientsTokenIsRefusedAndLives(t *testing.T) {
	w := newWorld(t)
	w.register(client.NewRegistration{ID: "shop"})
	other := w.register(client.NewRegistration{ID: "other"})
	g, label := w.opened("u_1", "shop"), w.session("u_2")
	var shape string
	for what, token := range map[string]string{"refresh": g.RefreshToken, "access": g.AccessToken, "label's refresh": label.RefreshToken, "label's access": label.AccessToken} {
		got := w.post("/oauth/revoke", url.Values{"token": {token}}, basic("other", other))
		got.refused(t, what, 400, "invalid_grant")
		if shape == "" {
			shape = got.text
		}
		if got.text != shape {
			t.Errorf("%s: got %s, want the same as for others, %s", what, got.text, shape)
		}
	}
	for _, token := range []string{g.AccessToken, label.AccessToken} {
		if _, err := w.verifier.Verify(token); err != nil {
			t.Errorf("the token: %v, want that it lives", err)
		}
	}
}

// P5: with the store down a revocation is never answered with success.
func TestP5StoreDownIs503(t *testing.T) {
	w := newWorld(t)
	secret := w.register(client.NewRegistration{ID: "shop"})
	g := w.opened("u_1", "shop")
	w.store.Close()
	for _, path := range []string{"/oauth/revoke", "/oauth/introspect", "/oauth/token"} {
		got := w.post(path, with(refreshing(g.RefreshToken), "token", g.RefreshToken), basic("shop", secret))
		got.refused(t, path, 503, "temporarily_unavailable")
	}
}

// P6: of what is not for it a client learns exactly that it is not active.
func TestP6IntrospectionSaysNothingOfWhatIsDeadOrForeign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		secret, other := w.register(client.NewRegistration{ID: "shop", Scopes: []string{"read"}, Audience: []string{"orders"}}), w.register(client.NewRegistration{ID: "other"})
		orders := w.register(client.NewRegistration{ID: "orders"})
		ask := func(token string, as ...string) answer {
			return w.post("/oauth/introspect", url.Values{"token": {token}}, as...)
		}
		inactive := func(what, token string, as ...string) {
			t.Helper()
			if got := ask(token, as...); got.status != 200 || got.text != `{"active":false}` {
				t.Errorf("%s: got %d %s, want exactly that it is not active", what, got.status, got.text)
			}
		}
		g := w.opened("u_1", "shop")
		now := time.Now().Unix()
		got := ask(g.AccessToken, basic("shop", secret))
		want := map[string]any{
			"active": true, "scope": "read", "client_id": "shop", "token_type": "Bearer", "exp": float64(now + 300), "iat": float64(now), "sub": "u_1",
			"aud": []any{"orders"}, "iss": "https://quash.test", "jti": claimsOf(t, g.AccessToken)["jti"], "sid": g.Session,
		}
		if diff := cmp.Diff(want, got.body); diff != "" {
			t.Errorf("an access token (-want +got):\n%s", diff)
		}
		if got := ask(g.AccessToken, basic("orders", orders)); got.body["active"] != true {
			t.Errorf("asked by its audience: got %s, want active", got.text)
		}
		if got := ask(g.RefreshToken, basic("shop", secret)); got.body["active"] != true || got.string("scope") != "read" || got.body["token_type"] != nil {
			t.Errorf("a refresh token: got %s, want active", got.text)
		}
		inactive("another client's access token", g.AccessToken, basic("other", other))
		inactive("another client's refresh token", g.RefreshToken, basic("other", other))
		inactive("a refresh token, asked by its audience", g.RefreshToken, basic("orders", orders))
		inactive("malformed", "x", basic("shop", secret))
		inactive("changed", g.AccessToken[:len(g.AccessToken)-4]+"AAAA", basic("shop", secret))
		next := w.post("/oauth/token", refreshing(g.RefreshToken), basic("shop", secret))
		inactive("a refresh token that was used", g.RefreshToken, basic("shop", secret))
		for what, revoke := range map[string]client.RevokeRequest{
			"by its jti": {Claim: "jti", Value: claimsOf(t, g.AccessToken)["jti"].(string)}, "by its subject": {Claim: "sub", Value: "u_1"},
		} {
			fresh := w.opened("u_1", "shop").AccessToken
			if revoke.Claim == "jti" {
				fresh = g.AccessToken
			}
			must(w.admin("revoke").Revoke(t.Context(), revoke))(t)
			inactive("revoked "+what, fresh, basic("shop", secret))
		}
		must(w.admin("sessions").EndSession(t.Context(), g.Session, client.Change{}))(t)
		inactive("a refresh token whose session ended", next.string("refresh_token"), basic("shop", secret))
		own := w.post("/oauth/token", ownToken, basic("shop", secret)).string("access_token")
		if got := ask(own, basic("shop", secret)); got.body["active"] != true || got.string("sub") != "client:shop" || got.body["sid"] != nil {
			t.Errorf("a client's own: got %s, want active, without a session", got.text)
		}
		time.Sleep(5 * time.Minute)
		inactive("expired", own, basic("shop", secret))
	})
}

// P7: who does not show who it is learns nothing.
func TestP7IntrospectionWithoutAuthenticationIs401(t *testing.T) {
	w := newWorld(t)
	w.register(client.NewRegistration{ID: "app", Method: "none"})
	g := w.opened("u_1", "app")
	w.post("/oauth/introspect", url.Values{"token": {g.AccessToken}}).refused(t, "nobody", 401, "invalid_client")
	w.post("/oauth/introspect", url.Values{"token": {g.AccessToken}, "client_id": {"app"}}).refused(t, "a public client", 401, "invalid_client")
	if got := w.post("/oauth/revoke", url.Values{"token": {g.AccessToken}, "client_id": {"app"}}); got.status != 200 {
		t.Errorf("a public client revokes its own: got %d %s", got.status, got.text)
	}
}

// P17: guessing is limited, by client and address, and only what fails counts.
func TestP17GuessingSecretsIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		secret := w.register(client.NewRegistration{ID: "shop"})
		other := w.register(client.NewRegistration{ID: "other"})
		for range 100 {
			if got := w.post("/oauth/token", ownToken, basic("shop", secret)); got.status != 200 {
				t.Fatalf("good ones: got %d %s", got.status, got.text)
			}
			time.Sleep(20 * time.Millisecond)
		}
		for _, id := range []string{"shop", "nobody"} {
			for n := range 21 {
				w.post("/oauth/token", ownToken, basic(id, fmt.Sprint("guess", n))).refused(t, "a guess", 401, "invalid_client")
			}
			w.post("/oauth/token", ownToken, basic(id, "guess")).refused(t, "one too many", 429, "temporarily_unavailable")
		}
		w.post("/oauth/token", ownToken, basic("shop", secret)).refused(t, "the good one then", 429, "temporarily_unavailable")
		if got := w.post("/oauth/token", ownToken, basic("other", other)); got.status != 200 {
			t.Errorf("another client from there: got %d %s, want 200", got.status, got.text)
		}
		w.post("/oauth/token", ownToken, basic(strings.Repeat("x", 8_000), "guess")).refused(t, "a client_id that nobody can have", 401, "invalid_client")
		time.Sleep(6 * time.Second)
		if got := w.post("/oauth/token", ownToken, basic("shop", secret)); got.status != 200 {
			t.Errorf("after the wait: got %d %s, want 200", got.status, got.text)
		}
	})
}

// A client's own token names a subject that no account has, is of no session,
// and dies by its subject, its client_id and its jti.
func TestClientsOwnTokensAreRevocable(t *testing.T) {
	w := newWorld(t)
	secret := w.register(client.NewRegistration{ID: "shop", Scopes: []string{"read", "write"}})
	fresh := func() string {
		return w.post("/oauth/token", with(ownToken, "scope", "read"), basic("shop", secret)).string("access_token")
	}
	for _, claim := range []string{"sub", "client_id", "jti"} {
		token, bystander := fresh(), ""
		claims := claimsOf(t, token)
		if claims["sub"] != "client:shop" || claims["scope"] != "read" || claims["sid"] != nil || claims["client_id"] != "shop" {
			t.Errorf("claims: got %v", claims)
		}
		if _, err := w.verifier.Verify(token); err != nil {
			t.Fatalf("before: %v", err)
		}
		must(w.admin("revoke").Revoke(t.Context(), client.RevokeRequest{Claim: claim, Value: claims[claim].(string)}))(t)
		if bystander = fresh(); bystander == "" {
			t.Fatal("no token after the revocation")
		}
		if _, err := w.verifier.Verify(token); !errors.Is(err, quash.ErrRevoked) {
			t.Errorf("by %s: got %v, want revoked", claim, err)
		}
		if _, err := w.verifier.Verify(bystander); err != nil {
			t.Errorf("by %s: the next one: %v, want that it lives", claim, err)
		}
	}
	_, err := w.public.LogoutAll(t.Context(), fresh())
	refused(t, "where users are meant", err, 401, client.CodeToken)
	_, err = w.admin("accounts").CreateAccount(t.Context(), client.NewAccount{Subject: "client:shop"})
	refused(t, "an account of that subject", err, 400, client.CodeInvalid)
}

// A login shows nothing of the client that asks for it.
func TestLoginIsNotForClientsThatShowWhoTheyAre(t *testing.T) {
	w := newWorld(t)
	w.register(client.NewRegistration{ID: "shop"})
	w.register(client.NewRegistration{ID: "app", Method: "none", Scopes: []string{"read", "write"}})
	w.account("u_1", "ann")
	_, err := w.public.Login(t.Context(), client.LoginRequest{Name: "ann", Password: password, Client: "shop"})
	refused(t, "a confidential client", err, 400, client.CodeUnauthorizedClient)
	got, err := w.public.Login(t.Context(), client.LoginRequest{Name: "ann", Password: password, Client: "app", Scope: "read"})
	if err != nil || got.Scope != "read" {
		t.Errorf("a public client: got scope %q, %v, want read", got.Scope, err)
	}
}

func TestClientsAreManaged(t *testing.T) {
	w := newWorld(t)
	clients := w.admin("clients")
	ctx := t.Context()
	made := must(clients.CreateClient(ctx, client.NewRegistration{ID: "shop", Grants: []string{"refresh_token", "client_credentials"}, Scopes: []string{"read"}}))(t)
	_, err := clients.CreateClient(ctx, client.NewRegistration{ID: "shop", Grants: []string{"refresh_token"}})
	refused(t, "the same client_id", err, 409, client.CodeConflict)
	w.session("u_1")
	_, err = clients.CreateClient(ctx, client.NewRegistration{ID: "default", Grants: []string{"refresh_token"}})
	refused(t, "a client_id that sessions carry as a label", err, 409, client.CodeConflict)
	if got := must(clients.Client(ctx, "shop"))(t); cmp.Diff(got, made.Registration) != "" {
		t.Errorf("got %+v, want %+v", got, made.Registration)
	}
	next := must(clients.ReplaceClientSecret(ctx, "shop", time.Hour))(t)
	for _, secret := range []string{made.Secret, next.Secret} {
		if got := w.post("/oauth/token", ownToken, basic("shop", secret)); got.status != 200 {
			t.Errorf("in the overlap: got %d %s", got.status, got.text)
		}
	}
	last := must(clients.ReplaceClientSecret(ctx, "shop", 0))(t)
	for _, secret := range []string{made.Secret, next.Secret} {
		w.post("/oauth/token", ownToken, basic("shop", secret)).refused(t, "a secret of before", 401, "invalid_client")
	}
	g := w.opened("u_2", "shop")
	own := w.post("/oauth/token", ownToken, basic("shop", last.Secret)).string("access_token")
	dry := must(clients.DeleteClient(ctx, "shop", client.Change{DryRun: true}))(t)
	out := must(clients.DeleteClient(ctx, "shop", client.Change{Reason: "retired"}))(t)
	if dry.Sessions != 1 || out.Sessions != 1 || out.Event != "client_deleted" || !out.Confirmation.Confirmed {
		t.Errorf("deleted: got %+v, and %+v in the dry run", out, dry)
	}
	for _, token := range []string{g.AccessToken, own} {
		if _, err := w.verifier.Verify(token); !errors.Is(err, quash.ErrRevoked) {
			t.Errorf("a token of a client that was deleted: got %v, want revoked", err)
		}
	}
	w.post("/oauth/token", refreshing(g.RefreshToken), basic("shop", last.Secret)).refused(t, "a client that was deleted", 401, "invalid_client")
	_, err = clients.Client(ctx, "shop")
	refused(t, "a client that was deleted", err, 404, client.CodeNotFound)
	if left := must(clients.Clients(ctx))(t); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// metadataOf returns the status of the metadata of a server with another issuer.
func (w *world) metadataOf(ctx context.Context, name, path string) int {
	w.t.Helper()
	i := must(issuer.New(issuer.Config{Issuer: name, Secret: make([]byte, 32)}, w.store))(w.t)
	a := must(api.New(api.Config{Issuer: i, Log: w.log}))(w.t)
	got := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(ctx, "GET", "/.well-known/oauth-authorization-server"+path, nil)
	a.Public(w.verifier).ServeHTTP(got, r)
	return got.Code
}

// RFC 8414: where it is looked for, and what it says.
func TestMetadata(t *testing.T) {
	w := newWorld(t)
	got, text := w.listeners()["public"]("GET", "/.well-known/oauth-authorization-server", nil, "")
	var m map[string]any
	if err := json.Unmarshal([]byte(text), &m); err != nil || got.StatusCode != 200 {
		t.Fatalf("got %d %s", got.StatusCode, text)
	}
	for name, want := range map[string]any{
		"issuer": "https://quash.test", "token_endpoint": "https://quash.test/oauth/token", "jwks_uri": "https://quash.test/.well-known/jwks.json",
		"revocation_endpoint": "https://quash.test/oauth/revoke", "introspection_endpoint": "https://quash.test/oauth/introspect",
		"response_types_supported": []any{}, "grant_types_supported": []any{"refresh_token", "client_credentials"},
	} {
		if diff := cmp.Diff(want, m[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for _, other := range []struct{ name, path string }{{"https://quash.test/auth/", "/auth"}, {"https://quash.test", ""}, {"https://quash.test/a//b", ""}, {"https://quash.test/a/../b", ""}, {"quash", ""}} {
		want := 200
		if other.name == "quash" {
			want = 404
		}
		for _, path := range []string{"", other.path} {
			if got := w.metadataOf(t.Context(), other.name, path); got != want {
				t.Errorf("issuer %s: metadata with %q behind the well-known path: got %d, want %d", other.name, path, got, want)
			}
		}
	}
}
