package api_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/api"
	"github.com/quashdev/quash/internal/issuer"
)

// doer makes a request as it is, without the client.
type doer func(method, path string, h http.Header, body string) (*http.Response, string)

// listeners returns the two listeners by name.
func (w *world) listeners() map[string]doer {
	do := func(transport http.RoundTripper) doer {
		return func(method, path string, h http.Header, body string) (*http.Response, string) {
			w.t.Helper()
			r := must(http.NewRequestWithContext(w.t.Context(), method, "http://localhost"+path, strings.NewReader(body)))(w.t)
			if h != nil {
				r.Header = h.Clone()
			}
			answer := must(transport.RoundTrip(r))(w.t)
			defer answer.Body.Close()
			return answer, string(must(io.ReadAll(answer.Body))(w.t))
		}
	}
	return map[string]doer{"public": do(w.publicTransport), "private": do(w.private)}
}

// wrong expects a problem.
func wrong(t *testing.T, what string, answer *http.Response, body string, status int, code client.Code) client.Problem {
	t.Helper()
	var p client.Problem
	if err := json.Unmarshal([]byte(body), &p); err != nil || answer.StatusCode != status || p.Code != code {
		t.Errorf("%s: got %d %s, want %d %s", what, answer.StatusCode, body, status, code)
	}
	if answer.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s: the answer may be cached", what)
	}
	challenge := answer.Header.Get("WWW-Authenticate")
	if status == 401 && !strings.HasPrefix(challenge, `Bearer realm="quash"`) {
		t.Errorf("%s: the challenge is %q", what, challenge)
	}
	again := (status == 429 || status == 503) && code != client.CodeOutcomeUnknown
	if got := answer.Header.Get("Retry-After"); (got != "") != again {
		t.Errorf("%s: Retry-After is %q", what, got)
	}
	return p
}

// at fills in the parameters of a path.
var at = strings.NewReplacer("{subject}", "u_1", "{sid}", "s_x", "{id}", "k", "{position}", "7", "{client_id}", "web")

// good bodies, by route, in which one thing is made wrong at a time.
var good = map[string]string{
	"POST /v1/login":                             `{"name":"ann","password":"correct horse battery"}`,
	"POST /v1/refresh":                           `{"refresh_token":"qr_x"}`,
	"POST /v1/logout":                            `{"refresh_token":"qr_x"}`,
	"POST /v1/password":                          `{"refresh_token":"qr_x","old_password":"a","new_password":"b"}`,
	"POST /v1/admin/accounts":                    `{"name":"bob"}`,
	"POST /v1/admin/import":                      `{"accounts":[{"name":"bob"}],"update":true}`,
	"PUT /v1/admin/accounts/{subject}/claims":    `{"claims":{}}`,
	"PUT /v1/admin/accounts/{subject}/password":  `{"password":"correct horse battery"}`,
	"POST /v1/admin/accounts/{subject}/sessions": `{"device":"phone"}`,
	"POST /v1/admin/revocations":                 `{"claim":"sub","value":"u_1"}`,
	"POST /v1/admin/explain":                     `{"token":"x"}`,
	"POST /v1/admin/keys":                        `{"name":"ci","scopes":["audit"]}`,
	"POST /v1/admin/issuers":                     `{"name":"https://idp.example","max_lifetime":60}`,
	"POST /v1/admin/keys/{id}/replace":           `{"overlap_seconds":0}`,
	"POST /v1/admin/clients":                     `{"client_id":"x","grants":["refresh_token"],"scopes":["read"],"audience":["orders"],"keys":{}}`,
	"PUT /v1/admin/clients/{client_id}":          `{"name":"x","grants":["refresh_token"]}`,
	"POST /v1/admin/clients/{client_id}/secret":  `{"overlap_seconds":0}`,
}

// state is what no wrong request may change.
type state struct {
	Head     uint64
	Audit    uint64
	Accounts []client.Account
	Sessions []client.Session
	Keys     int
}

func (w *world) state(subject string) state {
	w.t.Helper()
	ctx := w.t.Context()
	last := must(w.admin("audit").Audit(ctx, client.AuditQuery{Limit: 1}))(w.t)
	return state{
		Head:     must(w.admin("audit").Log(ctx))(w.t).Head.Position,
		Audit:    last.Items[0].ID,
		Accounts: must(w.admin("accounts").Accounts(ctx, "", 0))(w.t).Items,
		Sessions: must(w.admin("sessions").Sessions(ctx, subject))(w.t),
		Keys:     len(must(w.admin("keys").Keys(ctx))(w.t)),
	}
}

// TestWrongRequestsAreRefusedAndChangeNothing makes every kind of mistake with
// every route.
func TestWrongRequestsAreRefusedAndChangeNothing(t *testing.T) {
	w := newWorld(t, func(c *api.Config) { c.RequestsPerSecond = 10_000 })
	tokens := w.session("u_1")
	before := w.state("u_1")
	for _, rt := range api.Routes() {
		if rt.OAuth {
			continue // their refusals have another form, and tests of their own
		}
		x := mistakes{t: t, rt: rt, path: at.Replace(rt.Path), do: w.listeners()["private"], h: http.Header{}}
		if rt.Public {
			x.do = w.listeners()["public"]
		}
		if rt.User {
			x.h.Set("Authorization", "Bearer "+tokens.AccessToken)
		}
		if rt.Scope != "" {
			x.h.Set("Authorization", "Bearer "+w.keys[rt.Scope])
		}
		x.method()
		x.query()
		x.body()
		if rt.User || rt.Scope != "" {
			x.credentials()
		}
		if rt.Scope != "" {
			x.scope(w.keys)
		}
	}
	if diff := cmp.Diff(before, w.state("u_1")); diff != "" {
		t.Errorf("wrong requests changed something (-before +after):\n%s", diff)
	}
}

// mistakes are those that can be made with one route.
type mistakes struct {
	t    *testing.T
	rt   api.Route
	path string
	do   doer
	h    http.Header // good credentials
}

func (x *mistakes) try(what, path string, h http.Header, body string, status int, code client.Code) client.Problem {
	x.t.Helper()
	answer, text := x.do(x.rt.Method, path, h, body)
	return wrong(x.t, x.rt.Method+" "+path+": "+what, answer, text, status, code)
}

func (x *mistakes) method() {
	x.t.Helper()
	answer, text := x.do("PATCH", x.path, x.h, "{}")
	wrong(x.t, "PATCH "+x.path, answer, text, 405, client.CodeMethod)
	if allow := answer.Header.Get("Allow"); !strings.Contains(allow, x.rt.Method) {
		x.t.Errorf("PATCH %s: Allow is %q, want %s in it", x.path, allow, x.rt.Method)
	}
	x.try("unknown path", x.path+"/more/of/it", x.h, "", 404, client.CodeNotFound)
	x.try("unclean path", "/"+x.path, x.h, "", 404, client.CodeNotFound)
}

func (x *mistakes) query() {
	x.t.Helper()
	if x.rt.Path == "/v1/feed" {
		return // it is asked for an upgrade first, by package revlog
	}
	x.try("unknown query parameter", x.path+"?access_token=x", x.h, "", 400, client.CodeInvalid)
	x.try("malformed query", x.path+"?a=%zz", x.h, "", 400, client.CodeInvalid)
	wrongValue := map[string]string{"limit": "1001", "wait": "61", "before": "0", "dry_run": "yes", "now": "yes", "after": "-1"}
	for _, name := range x.rt.Query {
		x.try("query parameter twice", x.path+"?"+name+"=1&"+name+"=1", x.h, "", 400, client.CodeInvalid)
		if value := wrongValue[name]; value != "" && (name != "after" || strings.HasSuffix(x.rt.Path, "/revocations")) {
			p := x.try("bad query value", x.path+"?"+name+"="+value, x.h, "", 400, client.CodeInvalid)
			if !strings.Contains(p.Detail, name) {
				x.t.Errorf("%s ?%s=%s: the detail %q does not say which parameter", x.path, name, value, p.Detail)
			}
		}
	}
}

func (x *mistakes) body() {
	x.t.Helper()
	h := x.h.Clone()
	h.Set("Content-Type", "application/json; charset=utf-8")
	if !x.rt.Body {
		x.try("body where none is read", x.path, h, `{}`, 400, client.CodeInvalid)
		return
	}
	text := good[x.rt.Method+" "+x.rt.Path]
	if text == "" {
		x.t.Fatalf("%s %s: the test has no good body of it", x.rt.Method, x.rt.Path)
	}
	members := map[string]any{}
	if err := json.Unmarshal([]byte(text), &members); err != nil {
		x.t.Fatal(err)
	}
	x.try("wrong content type", x.path, http.Header{"Authorization": x.h["Authorization"], "Content-Type": {"text/plain"}}, text, 415, client.CodeMediaType)
	x.try("no content type", x.path, x.h, text, 415, client.CodeMediaType)
	x.try("too large", x.path, h, `{"x":"`+strings.Repeat("x", 64<<10)+`"}`, 413, client.CodeTooLarge)
	for what, broken := range map[string]string{
		"array": "[" + text + "]", "trailing data": text + text, "cut off": text[:len(text)-1], "text": "name=ann", "not UTF-8": "{\"name\":\"\xff\"}",
		"deep": strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40), "null": "null",
	} {
		x.try(what, x.path, h, broken, 400, client.CodeInvalid)
	}
	x.members(h, text, members)
}

func (x *mistakes) members(h http.Header, text string, members map[string]any) {
	x.t.Helper()
	unknown := x.try("unknown member", x.path, h, strings.Replace(text, "{", `{"surprise":1,`, 1), 400, client.CodeInvalid)
	if !strings.Contains(unknown.Detail, "surprise") {
		x.t.Errorf("%s: the detail %q does not name the unknown member", x.path, unknown.Detail)
	}
	for name := range members {
		x.try("repeated member", x.path, h, strings.Replace(text, "{", fmt.Sprintf(`{%q:"",`, name), 1), 400, client.CodeInvalid)
		x.try("member in another case", x.path, h, strings.Replace(text, name, strings.ToUpper(name), 1), 400, client.CodeInvalid)
		for _, value := range []string{"null", "1.5", "[[]]"} {
			if (name == "claims" || name == "keys") && value != "null" {
				continue // the issuer's own text
			}
			p := x.try("wrong type", x.path, h, fmt.Sprintf(`{%q:%s}`, name, value), 400, client.CodeInvalid)
			if !strings.Contains(p.Detail, name) {
				x.t.Errorf("%s: {%q:%s}: the detail %q does not name the member", x.path, name, value, p.Detail)
			}
		}
	}
	op := loadSpec(x.t).doc.Paths.Value(x.rt.Path).GetOperation(x.rt.Method)
	for _, name := range op.RequestBody.Value.Content["application/json"].Schema.Value.Required {
		rest := map[string]any{}
		for n, v := range members {
			if n != name {
				rest[n] = v
			}
		}
		p := x.try("missing member", x.path, h, string(must(json.Marshal(rest))(x.t)), 400, client.CodeInvalid)
		if !strings.Contains(p.Detail, name+": missing") {
			x.t.Errorf("%s without %s: the detail is %q", x.path, name, p.Detail)
		}
	}
}

func (x *mistakes) credentials() {
	x.t.Helper()
	try := func(what string, values []string, status int, code client.Code, challenge string) {
		x.t.Helper()
		answer, text := x.do(x.rt.Method, x.path, http.Header{"Authorization": values}, "")
		wrong(x.t, x.rt.Method+" "+x.path+": "+what, answer, text, status, code)
		if got := answer.Header.Get("WWW-Authenticate"); !strings.Contains(got, challenge) || challenge == "" && strings.Contains(got, "error") {
			x.t.Errorf("%s %s: %s: the challenge is %q, want %q in it", x.rt.Method, x.path, what, got, challenge)
		}
	}
	valid := x.h.Get("Authorization")
	try("no credentials", nil, 401, client.CodeNoToken, "")
	try("another scheme", []string{"Basic eDp5"}, 401, client.CodeNoToken, "")
	try("no token", []string{"Bearer "}, 400, client.CodeInvalid, `error="invalid_request"`)
	try("two tokens", []string{valid + ", " + valid}, 400, client.CodeInvalid, `error="invalid_request"`)
	try("a character that no token has", []string{valid + ":"}, 400, client.CodeInvalid, `error="invalid_request"`)
	try("two headers", []string{valid, valid}, 400, client.CodeInvalid, `error="invalid_request"`)
	try("garbage", []string{"Bearer garbage"}, 401, client.CodeToken, `error="invalid_token"`)
	changed := valid[:len(valid)-2] + "AA"
	if changed == valid {
		changed = valid[:len(valid)-2] + "BB"
	}
	try("changed", []string{changed}, 401, client.CodeToken, `error="invalid_token"`)
	if answer, _ := x.do(x.rt.Method, x.path+"?x=1", http.Header{"Authorization": {strings.Replace(valid, "Bearer", "bEARER ", 1)}}, ""); answer.StatusCode == 401 {
		x.t.Errorf("%s %s: the scheme in another case, and two spaces, are not accepted", x.rt.Method, x.path)
	}
}

func (x *mistakes) scope(keys map[string]string) {
	x.t.Helper()
	for scope, key := range keys {
		if scope == x.rt.Scope {
			continue
		}
		answer, text := x.do(x.rt.Method, x.path, http.Header{"Authorization": {"Bearer " + key}}, "")
		wrong(x.t, x.rt.Method+" "+x.path+" with scope "+scope, answer, text, 403, client.CodeForbidden)
		if challenge := answer.Header.Get("WWW-Authenticate"); !strings.Contains(challenge, `error="insufficient_scope", scope="`+x.rt.Scope+`"`) {
			x.t.Errorf("%s %s: the challenge is %q", x.rt.Method, x.path, challenge)
		}
	}
}

func TestIdempotencyKeyIsOneString(t *testing.T) {
	w := newWorld(t)
	for _, values := range [][]string{
		{`"a"`, `"b"`}, {`"a`}, {`"a\b"`}, {`"a"b"`}, {`""`}, {``}, {`a b`}, {`"a";p=1`}, {`a,b`}, {"\"" + strings.Repeat("k", 256) + "\""}, {"\"\u00e4\""},
	} {
		h := http.Header{"Content-Type": {"application/json"}, "Idempotency-Key": values}
		answer, text := w.listeners()["public"]("POST", "/v1/refresh", h, `{"refresh_token":"qr_x"}`)
		if p := wrong(t, fmt.Sprintf("Idempotency-Key %.40q", values), answer, text, 400, client.CodeInvalid); !strings.Contains(p.Detail, "Idempotency-Key") {
			t.Errorf("Idempotency-Key %.40q: the detail is %q", values, p.Detail)
		}
	}
}

func TestHeadersAreBounded(t *testing.T) {
	w := newWorld(t)
	answer, _ := w.listeners()["public"]("GET", "/healthz", http.Header{"X-Long": {strings.Repeat("x", 32<<10)}}, "")
	if answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("32 KiB of headers: got %d, want 431", answer.StatusCode)
	}
}

func TestPanicIsA500(t *testing.T) {
	w := newWorld(t)
	broken := w.transport(w.listen(w.api.Broken("out of luck")))
	r := must(http.NewRequestWithContext(t.Context(), "GET", "http://localhost/broken", nil))(t)
	answer := must(broken.RoundTrip(r))(t)
	text := must(io.ReadAll(answer.Body))(t)
	answer.Body.Close()
	wrong(t, "panic", answer, string(text), 500, client.CodeInternal)
	if strings.Contains(string(text), "luck") || !strings.Contains(w.logged.String(), "out of luck") {
		t.Errorf("the panic belongs in the log and not in the answer: %s", text)
	}
}

// TestUnknownOutcomeIsNotTriedAgainBlindly: a change that may stand must not
// be made twice by a client that does what Retry-After says.
func TestUnknownOutcomeIsNotTriedAgainBlindly(t *testing.T) {
	w := newWorld(t)
	answer := httptest.NewRecorder()
	err := &issuer.Error{Code: issuer.CodeOutcomeUnknown, Detail: "the change may or may not have been made; look"}
	w.api.Refusing(err).ServeHTTP(answer, httptest.NewRequest("GET", "/refused", nil))
	wrong(t, "an unknown outcome", answer.Result(), answer.Body.String(), 503, client.CodeOutcomeUnknown)
}

// TestFeedSaysWhatItNeeds: its problems are described like all others.
func TestFeedSaysWhatItNeeds(t *testing.T) {
	w := newWorld(t)
	do := w.listeners()["private"]
	h := http.Header{"Authorization": {"Bearer " + w.keys["feed"]}}
	answer, text := do("GET", "/v1/feed", h, "")
	wrong(t, "no upgrade", answer, text, 426, client.CodeHandshake)
	h["Connection"], h["Upgrade"], h["Sec-Websocket-Version"] = []string{"Upgrade"}, []string{"websocket"}, []string{"13"}
	h.Set("Sec-WebSocket-Protocol", "quash.feed.v0")
	answer, text = do("GET", "/v1/feed", h, "")
	wrong(t, "an unknown version", answer, text, 400, client.CodeVersion)
	h.Set("Sec-WebSocket-Protocol", "quash.feed.v1")
	answer, text = do("GET", "/v1/feed", h, "")
	wrong(t, "no process", answer, text, 400, client.CodeHandshake)
}
