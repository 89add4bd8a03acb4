package api_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/client"
)

// refused expects a problem from the client.
func refused(t *testing.T, what string, err error, status int, code client.Code) {
	t.Helper()
	p, ok := errors.AsType[*client.Problem](err)
	if !ok || p.Status != status || p.Code != code {
		t.Errorf("%s: got %v, want %d %s", what, err, status, code)
	}
}

func (w *world) account(subject, name string) {
	w.t.Helper()
	must(w.admin("accounts").CreateAccount(w.t.Context(), client.NewAccount{Subject: subject, Name: name, Password: password, Claims: []byte(`{"tenant":"acme"}`)}))(w.t)
}

func TestLoginRefreshLogout(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.account("u_1", "Ann")
	_, err := w.public.Login(ctx, client.LoginRequest{Name: "ann", Password: "not " + password})
	refused(t, "wrong password", err, 401, client.CodeCredentials)
	first := must(w.public.Login(ctx, client.LoginRequest{Name: "ANN", Password: password, Device: "phone"}))(t)
	if first.TokenType != "Bearer" || first.ExpiresIn != 300 || first.Subject != "u_1" {
		t.Errorf("login: got type %s, %d s, subject %s", first.TokenType, first.ExpiresIn, first.Subject)
	}
	second := must(w.public.Refresh(ctx, first.RefreshToken, `a "quoted\" key`))(t)
	again := must(w.public.Refresh(ctx, first.RefreshToken, `a "quoted\" key`))(t)
	if second.RefreshToken != again.RefreshToken || second.Session != first.Session {
		t.Error("the same refresh again gives another successor")
	}
	out := must(w.public.Logout(ctx, again.RefreshToken))(t)
	if want := (client.Effect{Event: "logout", Position: 1, Sessions: 1, Tokens: 3, Confirmation: out.Confirmation}); out != want {
		t.Errorf("logout: got %+v, want %+v", out, want)
	}
	if c := out.Confirmation; c == nil || !c.Confirmed || c.Verifiers != (client.Tally{Applied: 1}) {
		t.Errorf("logout: got %+v, want that the one verifier has confirmed it", c)
	}
	w.follows(out.Position)
	for _, access := range []string{first.AccessToken, second.AccessToken} {
		_, err := w.public.Account(ctx, access)
		refused(t, "an access token after the logout", err, 401, client.CodeToken)
	}
	_, err = w.public.Refresh(ctx, again.RefreshToken, "")
	refused(t, "refresh after the logout", err, 400, client.CodeGrant)
	if out := must(w.public.Logout(ctx, again.RefreshToken))(t); out.Sessions != 0 || out.Position != 0 || !out.Confirmation.Confirmed {
		t.Errorf("second logout: got %+v, want that nothing happened, and what had happened before confirmed", out)
	}
}

func TestBareIdempotencyKey(t *testing.T) {
	w := newWorld(t)
	do := w.listeners()["public"]
	tokens := w.session("u_1")
	var answers []string
	for _, key := range []string{"8e03978e-40d5-43dd-bc93-6894a57f9324", `"8e03978e-40d5-43dd-bc93-6894a57f9324"`} {
		h := http.Header{"Content-Type": {"application/json"}, "Idempotency-Key": {key}}
		answer, text := do("POST", "/v1/refresh", h, `{"refresh_token":"`+tokens.RefreshToken+`"}`)
		if answer.StatusCode != http.StatusOK {
			t.Fatalf("got %d %s, want 200", answer.StatusCode, text)
		}
		_, rest, _ := strings.Cut(text, `"refresh_token"`)
		answers = append(answers, rest)
	}
	if answers[0] != answers[1] {
		t.Error("the same key with and without quotes gives two successors")
	}
}

func TestRefreshRefusesAccessTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		tokens := w.session("u_1")
		_, err := w.public.Refresh(t.Context(), tokens.AccessToken, "")
		refused(t, "refresh with a live access token", err, 400, client.CodeGrant)
		time.Sleep(6 * time.Minute)
		_, err = w.public.Refresh(t.Context(), tokens.AccessToken, "")
		refused(t, "refresh with an expired access token", err, 400, client.CodeGrant)
		h := http.Header{"Authorization": {"Bearer " + tokens.AccessToken}, "Content-Type": {"application/json"}}
		answer, text := w.listeners()["public"]("POST", "/v1/refresh", h, `{}`)
		wrong(t, "refresh with an access token in the header", answer, text, 400, client.CodeInvalid)
		must(w.public.Refresh(t.Context(), tokens.RefreshToken, ""))(t)
	})
}

func TestLogoutTakesExpiredAccessToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx := t.Context()
		tokens := w.session("u_1")
		time.Sleep(6 * time.Minute)
		if _, err := w.verifier.Verify(tokens.AccessToken); !errors.Is(err, quash.ErrExpired) {
			t.Fatalf("Verify: got %v, want that the token expired", err)
		}
		calls := map[string]func() error{
			"logout others": func() error { _, err := w.public.LogoutOthers(ctx, tokens.AccessToken); return err },
			"logout all":    func() error { _, err := w.public.LogoutAll(ctx, tokens.AccessToken); return err },
			"sessions":      func() error { _, err := w.public.Sessions(ctx, tokens.AccessToken); return err },
			"end session":   func() error { _, err := w.public.EndSession(ctx, tokens.AccessToken, tokens.Session); return err },
			"account":       func() error { _, err := w.public.Account(ctx, tokens.AccessToken); return err },
		}
		for what, call := range calls {
			refused(t, what+" with an expired access token", call(), 401, client.CodeToken)
		}
		_, err := w.public.LogoutByAccessToken(ctx, tokens.AccessToken[:len(tokens.AccessToken)-4]+"AAAA")
		refused(t, "logout with a forged access token", err, 401, client.CodeToken)
		if out := must(w.public.LogoutByAccessToken(ctx, tokens.AccessToken))(t); out.Sessions != 1 {
			t.Errorf("logout with an expired access token: got %+v, want that the session ended", out)
		}
		_, err = w.public.Refresh(ctx, tokens.RefreshToken, "")
		refused(t, "refresh afterwards", err, 400, client.CodeGrant)
	})
}

func TestLogoutTakesOneCredential(t *testing.T) {
	w := newWorld(t)
	tokens := w.session("u_1")
	do := w.listeners()["public"]
	h := http.Header{"Authorization": {"Bearer " + tokens.AccessToken}, "Content-Type": {"application/json"}}
	answer, text := do("POST", "/v1/logout", h, `{"refresh_token":"`+tokens.RefreshToken+`"}`)
	wrong(t, "both", answer, text, 400, client.CodeInvalid)
	answer, text = do("POST", "/v1/logout", nil, "")
	wrong(t, "none", answer, text, 401, client.CodeNoToken)
	must(w.public.Account(t.Context(), tokens.AccessToken))(t)
}

func TestOwnSessions(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	mine, other, third, foreign := w.session("u_1"), w.session("u_1"), w.session("u_1"), w.session("u_2")
	current := map[string]bool{}
	for _, s := range must(w.public.Sessions(ctx, mine.AccessToken))(t) {
		current[s.ID] = s.Current
	}
	if diff := cmp.Diff(map[string]bool{mine.Session: true, other.Session: false, third.Session: false}, current); diff != "" {
		t.Errorf("own sessions, and whether each is the current one (-want +got):\n%s", diff)
	}
	_, err := w.public.EndSession(ctx, mine.AccessToken, foreign.Session)
	refused(t, "ending another subject's session", err, 404, client.CodeNotFound)
	if out := must(w.public.EndSession(ctx, mine.AccessToken, other.Session))(t); out.Sessions != 1 {
		t.Errorf("ending one's other session: got %+v", out)
	}
	out := must(w.public.LogoutOthers(ctx, mine.AccessToken))(t)
	if out.Sessions != 1 || out.Event != "logout_others" {
		t.Errorf("logout of the others: got %+v, want that the third ended", out)
	}
	w.follows(out.Position)
	_, err = w.public.Account(ctx, third.AccessToken)
	refused(t, "the third session's access token", err, 401, client.CodeToken)
	out = must(w.public.LogoutAll(ctx, mine.AccessToken))(t)
	w.follows(out.Position)
	_, err = w.public.Account(ctx, mine.AccessToken)
	refused(t, "the access token after the logout of all", err, 401, client.CodeToken)
	must(w.public.Account(ctx, foreign.AccessToken))(t)
}

func TestChangePassword(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.account("u_1", "ann")
	mine, other := w.session("u_1"), w.session("u_1")
	change := client.PasswordChange{RefreshToken: mine.RefreshToken, OldPassword: password, NewPassword: "too short"}
	_, err := w.public.ChangePassword(ctx, change, "")
	refused(t, "a weak password", err, 400, client.CodePassword)
	change.NewPassword = newPassword
	changed := must(w.public.ChangePassword(ctx, change, "a key of the client"))(t)
	if changed.Effect.Sessions != 1 || changed.Effect.Event != "password_changed" || changed.Session != mine.Session {
		t.Errorf("got %+v, want that the other session ended and this one goes on", changed.Effect)
	}
	w.follows(changed.Effect.Position)
	must(w.public.Account(ctx, changed.AccessToken))(t)
	_, err = w.public.Refresh(ctx, other.RefreshToken, "")
	refused(t, "the other session", err, 400, client.CodeGrant)
	must(w.public.Login(ctx, client.LoginRequest{Name: "ann", Password: newPassword}))(t)
	subjectOnly := w.session("u_2")
	_, err = w.public.ChangePassword(ctx, client.PasswordChange{RefreshToken: subjectOnly.RefreshToken, OldPassword: password, NewPassword: newPassword}, "")
	refused(t, "where an application keeps the password", err, 409, client.CodeConflict)
}

func TestPublicKeys(t *testing.T) {
	w := newWorld(t)
	answer, text := w.listeners()["public"]("GET", "/.well-known/jwks.json", nil, "")
	if got := answer.Header.Get("Content-Type"); answer.StatusCode != 200 || got != "application/jwk-set+json" {
		t.Errorf("got %d %s", answer.StatusCode, got)
	}
	if !strings.Contains(text, `"kid"`) || strings.Contains(text, `"d"`) {
		t.Errorf("want public keys and nothing else: %s", text)
	}
	if got := answer.Header.Get("Cache-Control"); got != "no-cache" {
		t.Errorf("Cache-Control: got %q", got)
	}
}

func TestHealth(t *testing.T) {
	w := newWorld(t)
	for name, do := range w.listeners() {
		for _, path := range []string{"/healthz", "/readyz"} {
			if answer, text := do("GET", path, nil, ""); answer.StatusCode != http.StatusOK {
				t.Errorf("%s %s: got %d %s, want 200", name, path, answer.StatusCode, text)
			}
		}
	}
	if err := w.public.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	if err := w.verifier.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	refused(t, "once the verifier is closed", w.public.Ready(t.Context()), 503, client.CodeNotReady)
}

// TestStaleVerifierKeepsTokens: a client must not throw away its tokens because
// the server cannot check them.
func TestStaleVerifierKeepsTokens(t *testing.T) {
	w := newWorld(t)
	tokens := w.session("u_1")
	w.verifier.Close(context.Background())
	_, err := w.public.Account(t.Context(), tokens.AccessToken)
	refused(t, "a good token at a stale verifier", err, 503, client.CodeStale)
	if p, ok := errors.AsType[*client.Problem](err); !ok || p.RetryAfter == 0 {
		t.Errorf("got %v, want a time to try again after", err)
	}
}
