package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/server"
)

// TestPageKeepsNoRefreshToken does what the page does, with a jar for a browser.
func TestPageKeepsNoRefreshToken(t *testing.T) {
	web := httptest.NewUnstartedServer(nil)
	defer web.Close()
	origin := "https://" + web.Listener.Addr().String()
	srv, err := server.Open(t.Context(), server.Config{Data: filepath.Join(t.TempDir(), "data"), Issuer: origin, BrowserOrigins: []string{origin}})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close(t.Context())
	v, err := srv.Verifier(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close(t.Context())
	web.Config.Handler = handler(srv, v)
	web.StartTLS()
	createAccount(t, srv)

	browser := web.Client()
	browser.Jar, _ = cookiejar.New(nil)
	do := func(method, path, access, body string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, origin+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header = http.Header{"Origin": {origin}, "Prefer": {"wait=30"}, "Content-Type": {"application/json"}, "Authorization": {"Bearer " + access}}
		if access == "" {
			r.Header.Del("Authorization")
		}
		answer, err := browser.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(text)
	}
	for _, path := range []string{"/", "/app.js", "/style.css"} {
		if status, text := do("GET", path, "", ""); status != 200 || text == "" {
			t.Errorf("%s: got %d, want the page", path, status)
		}
	}
	_, text := do("POST", "/v1/login", "", `{"name":"ada","password":"the analytical engine","cookie":true}`)
	if strings.Contains(text, "refresh_token") {
		t.Errorf("login: got a refresh token that the page can read: %s", text)
	}
	_, text = do("POST", "/v1/refresh", "", "{}")
	var tokens client.Tokens
	if err := json.Unmarshal([]byte(text), &tokens); err != nil || tokens.AccessToken == "" {
		t.Fatalf("refresh by cookie: got %s, want an access token", text)
	}
	if status, text := do("GET", "/orders", tokens.AccessToken, ""); status != 200 || !strings.Contains(text, tokens.Subject) {
		t.Errorf("orders: got %d %s, want those of %s", status, text, tokens.Subject)
	}
	if status, text := do("POST", "/v1/logout/all", tokens.AccessToken, ""); status != 200 {
		t.Errorf("logout of all: got %d %s, want 200", status, text)
	}
	if status, _ := do("GET", "/orders", tokens.AccessToken, ""); status != 401 {
		t.Errorf("orders after the logout: got %d, want 401", status)
	}
	if status, text := do("POST", "/v1/refresh", "", "{}"); status != 400 || !strings.Contains(text, "invalid_grant") {
		t.Errorf("refresh after the logout: got %d %s, want invalid_grant", status, text)
	}
}

func createAccount(t *testing.T, srv *server.Server) {
	t.Helper()
	private := httptest.NewServer(srv.PrivateHandler())
	defer private.Close()
	admin, err := client.New(client.Config{URL: private.URL, Key: srv.AdminKey()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Admin().CreateAccount(t.Context(), client.NewAccount{Subject: "ada", Name: "ada", Password: "the analytical engine"}); err != nil {
		t.Fatal(err)
	}
}
