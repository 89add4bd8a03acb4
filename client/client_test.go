package client_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash/client"
)

func TestNewChecksItsConfiguration(t *testing.T) {
	for _, tt := range []struct {
		config client.Config
		want   string // in the error; empty: none
	}{
		{client.Config{URL: "https://quash.example"}, ""},
		{client.Config{URL: "https://quash.example/behind/a/path", Key: "qk_x"}, ""},
		{client.Config{URL: "http://localhost:8080"}, ""},
		{client.Config{URL: "http://127.0.0.2:8080"}, ""},
		{client.Config{URL: "http://[::1]:8080"}, ""},
		{client.Config{URL: "http://quash.example"}, "not encrypted"},
		{client.Config{URL: "http://localhost.example"}, "not encrypted"},
		{client.Config{URL: "http://192.0.2.1"}, "not encrypted"},
		{client.Config{URL: "http://quash.example", Plaintext: true}, ""},
		{client.Config{}, "URL"},
		{client.Config{URL: "quash.example"}, "URL"},
		{client.Config{URL: "ws://quash.example"}, "scheme"},
		{client.Config{URL: "https://user:pass@quash.example"}, "URL"},
		{client.Config{URL: "https://quash.example?x=1"}, "URL"},
		{client.Config{URL: "https://quash.example", Key: "two words"}, "key"},
		{client.Config{URL: "https://quash.example", Key: strings.Repeat("k", 513)}, "key"},
	} {
		_, err := client.New(tt.config)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("New(%+v): got %v, want %q in the error", tt.config, err, tt.want)
		}
	}
}

// against returns a client of a server that answers everything with h.
func against(t *testing.T, h http.HandlerFunc) *client.Client {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	c, err := client.New(client.Config{URL: server.URL + "/base", Key: "qk_secret", HTTP: server.Client()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestProblemsSayWhatToDo(t *testing.T) {
	c := against(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json; charset=utf-8")
		w.Header().Set("Retry-After", "2")
		w.WriteHeader(503)
		w.Write([]byte(`{"type":"urn:quash:problem:busy","title":"Busy","status":503,"detail":"too many passwords","code":"busy","more":1}`))
	})
	_, err := c.Login(t.Context(), client.LoginRequest{Name: "ann"})
	p, ok := errors.AsType[*client.Problem](err)
	want := &client.Problem{Type: "urn:quash:problem:busy", Title: "Busy", Status: 503, Detail: "too many passwords", Code: client.CodeBusy, RetryAfter: 2 * time.Second}
	if diff := cmp.Diff(want, p); !ok || diff != "" {
		t.Fatalf("the problem (-want +got):\n%s", diff)
	}
	if got, want := p.Error(), "too many passwords (busy; try again in 2s)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAnswersOfOthersAreToldApart(t *testing.T) {
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"a proxy's error page": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(502)
			w.Write([]byte("<h1>Bad gateway</h1>"))
		}, "the answer does not come from a Quash server; check the URL and what stands between (HTTP 502)"},
		"a page": {func(w http.ResponseWriter, _ *http.Request) {
			w.Write([]byte("<h1>Welcome</h1>"))
		}, "not what a Quash server sends"},
		"a flood": {func(w http.ResponseWriter, _ *http.Request) {
			w.Write([]byte(`{"x":"`))
			w.Write([]byte(strings.Repeat("x", 17<<20)))
		}, "more than 16777216 octets"},
		"an answer cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.Write([]byte(`{"x":1}`))
		}, "read the answer"},
	} {
		_, err := against(t, tt.answer).Account(t.Context(), "token")
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q in it", name, err, tt.want)
		}
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var asked []string
	c := against(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path)
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	})
	_, err := c.Refresh(t.Context(), "qr_x", "")
	if p, ok := errors.AsType[*client.Problem](err); !ok || p.Status != http.StatusTemporaryRedirect {
		t.Errorf("got %v, want the redirect as a problem", err)
	}
	if diff := cmp.Diff([]string{"/base/v1/refresh"}, asked); diff != "" {
		t.Errorf("what was asked (-want +got):\n%s", diff)
	}
}

func TestRequests(t *testing.T) {
	var got, prefer string
	c := against(t, func(w http.ResponseWriter, r *http.Request) {
		prefer = r.Header.Get("Prefer")
		got = strings.Join([]string{r.Method, r.RequestURI, r.Header.Get("Authorization"), r.Header.Get("Idempotency-Key"), r.Header.Get("Content-Type")}, " | ")
		w.Write([]byte("{}"))
	})
	ctx, admin := t.Context(), c.Admin()
	for want, call := range map[string]func() error{
		`POST | /base/v1/refresh |  | "a \"b\" \\" | application/json`:  func() error { _, err := c.Refresh(ctx, "t", `a "b" \`); return err },
		`POST | /base/v1/logout | Bearer t |  | `:                       func() error { _, err := c.LogoutByAccessToken(ctx, "t"); return err },
		`DELETE | /base/v1/sessions/a%2Fb%3F | Bearer t |  | `:          func() error { _, err := c.EndSession(ctx, "t", "a/b?"); return err },
		`GET | /base/v1/admin/accounts/%2E%2E | Bearer qk_secret |  | `: func() error { _, err := admin.Account(ctx, ".."); return err },
		`DELETE | /base/v1/admin/accounts/u?dry_run=true&reason=a+%26+b | Bearer qk_secret |  | `: func() error {
			_, err := admin.DeleteAccount(ctx, "u", client.Change{Reason: "a & b", DryRun: true})
			return err
		},
		`GET | /base/v1/admin/revocations/7 | Bearer qk_secret |  | `: func() error { _, err := admin.Revocation(ctx, 7); return err },
		`GET | /base/v1/admin/revocations?after=7&limit=5&wait=2 | Bearer qk_secret |  | `: func() error {
			_, err := admin.Revocations(ctx, client.RevocationQuery{After: 7, Limit: 5, Wait: 1500 * time.Millisecond})
			return err
		},
	} {
		if err := call(); err != nil || got != want {
			t.Errorf("got %s, %v\nwant %s", got, err, want)
		}
	}
	for wait, want := range map[time.Duration]string{
		-1: "respond-async", 0: "respond-async", 1: "wait=1", time.Second: "wait=1", 1500 * time.Millisecond: "wait=2", time.Hour: "wait=60", 1<<63 - 1: "wait=60",
	} {
		if _, err := c.WithWait(wait).Logout(ctx, "t"); err != nil || prefer != want {
			t.Errorf("waiting %v: got Prefer %q, %v, want %q", wait, prefer, err, want)
		}
	}
	if _, err := c.Logout(ctx, "t"); err != nil || prefer != "" {
		t.Errorf("got Prefer %q, %v, want none", prefer, err)
	}
	if _, err := c.Refresh(ctx, "t", "ä"); err == nil {
		t.Error("an idempotency key that no header can carry is sent")
	}
}

func TestCallsEndWithTheirContext(t *testing.T) {
	release := make(chan struct{})
	c := against(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Sessions(ctx, "t"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that the context has ended", err)
	}
}
