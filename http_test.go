package quash_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quashdev/quash"
)

// protected answers with the subject of the token.
func protected(v *quash.Verifier) http.Handler {
	return v.Protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, quash.FromContext(r.Context()).Subject)
	}))
}

func TestProtectFollowsRFC6750(t *testing.T) {
	const (
		bare    = `Bearer realm="quash"`
		request = `Bearer realm="quash", error="invalid_request", error_description="The request has malformed credentials, or more than one"`
		invalid = `Bearer realm="quash", error="invalid_token", error_description="The access token is invalid, expired or revoked"`
	)
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, _ := n.open(n.config(), n.record(1, "sub", "revoked"))
		h := protected(v)
		good := n.token(claims{"rev": 1})
		for _, c := range []struct {
			about     string
			header    []string
			status    int
			challenge string
			kind      string
		}{
			{"accepted", []string{"Bearer " + good}, 200, "", ""},
			{"lower case", []string{"bearer " + good}, 200, "", ""},
			{"upper case, more spaces", []string{"BEARER   " + good}, 200, "", ""},
			{"no header", nil, 401, bare, "no-token"},
			{"another scheme", []string{"Basic dTpw"}, 401, bare, "no-token"},
			{"scheme that only begins so", []string{"Bearers " + good}, 401, bare, "no-token"},
			{"empty header", []string{""}, 401, bare, "no-token"},
			{"two headers", []string{"Bearer " + good, "Bearer " + good}, 400, request, "invalid-request"},
			{"two schemes", []string{"Bearer " + good, "Basic dTpw"}, 400, request, "invalid-request"},
			{"no token", []string{"Bearer"}, 400, request, "invalid-request"},
			{"only a space", []string{"Bearer "}, 400, request, "invalid-request"},
			{"only padding", []string{"Bearer =="}, 400, request, "invalid-request"},
			{"two tokens", []string{"Bearer " + good + " " + good}, 400, request, "invalid-request"},
			{"list", []string{"Bearer " + good + ", Basic dTpw"}, 400, request, "invalid-request"},
			{"quoted", []string{`Bearer "` + good + `"`}, 400, request, "invalid-request"},
			{"space behind", []string{"Bearer " + good + " "}, 400, request, "invalid-request"},
			{"padding inside", []string{"Bearer a=b"}, 400, request, "invalid-request"},
			{"not a JWT", []string{"Bearer abc"}, 401, invalid, "invalid-token"},
			{"oversize", []string{"Bearer " + strings.Repeat("a", 1<<16)}, 401, invalid, "invalid-token"},
			{"expired", []string{"Bearer " + n.token(claims{"exp": time.Now().Unix()})}, 401, invalid, "invalid-token"},
			{"revoked", []string{"Bearer " + n.token(claims{"sub": "revoked"})}, 401, invalid, "invalid-token"},
		} {
			r := httptest.NewRequest(http.MethodGet, "/orders?access_token="+good, strings.NewReader("access_token="+good))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Header["Authorization"] = c.header
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != c.status || w.Header().Get("WWW-Authenticate") != c.challenge {
				t.Errorf("%s: got %d, challenge %q, want %d, %q", c.about, w.Code, w.Header().Get("WWW-Authenticate"), c.status, c.challenge)
			}
			if c.status == 200 {
				if w.Body.String() != "u_7" {
					t.Errorf("%s: got body %q, want the subject", c.about, w.Body)
				}
				continue
			}
			wantProblem(t, w, c.status, c.kind)
		}
	})
}

func wantProblem(t *testing.T, w *httptest.ResponseRecorder, status int, kind string) {
	t.Helper()
	var p struct {
		Type, Title, Detail string
		Status              int
	}
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Errorf("%s: %v in %q", kind, err, w.Body)
	}
	if p.Type != "urn:quash:problem:"+kind || p.Status != status || p.Title == "" || p.Detail == "" {
		t.Errorf("got problem %+v, want %s with status %d", p, kind, status)
	}
	if h := w.Header(); h.Get("Content-Type") != "application/problem+json" || h.Get("Cache-Control") != "no-store" {
		t.Errorf("%s: got headers %v, want application/problem+json, no-store", kind, h)
	}
}

// A client is not told which of them it was.
func TestInvalidExpiredAndRevokedLookAlike(t *testing.T) {
	answer := func(err error) string {
		w := httptest.NewRecorder()
		quash.WriteError(w, httptest.NewRequest(http.MethodGet, "/", nil), fmt.Errorf("%w: the detail", err))
		return fmt.Sprint(w.Code, w.Header(), w.Body)
	}
	want := answer(quash.ErrInvalid)
	for _, err := range []error{quash.ErrExpired, quash.ErrRevoked} {
		if got := answer(err); got != want || strings.Contains(got, "detail:") {
			t.Errorf("%v: got %s, want %s", err, got, want)
		}
	}
}

func TestStaleAndNotReadyAskToKeepTheToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config())
		h := protected(v)
		token := n.token(nil)
		p.send([]byte{99})
		synctest.Wait()
		for kind, h := range map[string]http.Handler{"stale": h, "not-ready": protected(new(quash.Verifier))} {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header.Set("Authorization", "Bearer "+token)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Header().Get("Retry-After") == "" || w.Header().Get("WWW-Authenticate") != "" {
				t.Errorf("%s: got headers %v, want Retry-After and no challenge", kind, w.Header())
			}
			if !strings.Contains(w.Body.String(), "Keep your tokens") {
				t.Errorf("%s: got %q, want the advice to keep the tokens", kind, w.Body)
			}
			wantProblem(t, w, http.StatusServiceUnavailable, kind)
		}
	})
}

func TestAnyOtherErrorIsTheServersFault(t *testing.T) {
	w := httptest.NewRecorder()
	quash.WriteError(w, httptest.NewRequest(http.MethodGet, "/", nil), errors.New("secret detail"))
	if w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("got %d %q, want 500 without the detail", w.Code, w.Body)
	}
}

func TestTheTokenMaySitElsewhere(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		c := n.config()
		c.Token = func(r *http.Request) (string, error) {
			cookies := r.CookiesNamed("token")
			switch len(cookies) {
			case 0:
				return "", nil
			case 1:
				return cookies[0].Value, nil
			}
			return "", errors.New("two tokens")
		}
		v, _ := n.open(c)
		h := protected(v)
		good := n.token(nil)
		for want, cookies := range map[int][]string{200: {good}, 401: nil, 400: {good, good}} {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header.Set("Authorization", "Bearer "+good)
			for _, value := range cookies {
				r.AddCookie(&http.Cookie{Name: "token", Value: value})
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != want {
				t.Errorf("%d cookies: got %d, want %d", len(cookies), w.Code, want)
			}
		}
	})
}

func TestFromContextWithoutClaimsIsNil(t *testing.T) {
	if c := quash.FromContext(t.Context()); c != nil {
		t.Errorf("got %v, want nil", c)
	}
}
