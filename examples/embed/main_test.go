package main

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/pgtest"
	"github.com/quashdev/quash/server"
)

// TestOneProcessIsEnough logs in, uses and logs out at one handler, in one
// process.
func TestOneProcessIsEnough(t *testing.T) {
	for store, url := range map[string]string{"SQLite": "", "PostgreSQL": pgtest.Start(t)} {
		t.Run(store, func(t *testing.T) {
			oneProcess(t, server.Config{Data: filepath.Join(t.TempDir(), "data"), Store: url, Issuer: "http://shop.example"})
		})
	}
}

func oneProcess(t *testing.T, cfg server.Config) {
	ctx := t.Context()
	app, err := open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer app.srv.Close(ctx)
	defer app.verifier.Close(ctx)
	web := httptest.NewServer(app.mux)
	defer web.Close()
	private := httptest.NewServer(app.srv.PrivateHandler())
	defer private.Close()

	admin, err := client.New(client.Config{URL: private.URL, Key: app.srv.AdminKey()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Admin().CreateAccount(ctx, client.NewAccount{Name: "ada", Password: "the analytical engine"}); err != nil {
		t.Fatal(err)
	}
	user, err := client.New(client.Config{URL: web.URL})
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := user.Login(ctx, client.LoginRequest{Name: "ada", Password: "the analytical engine"})
	if err != nil {
		t.Fatal(err)
	}
	if got := get(t, web.URL+"/orders", tokens.AccessToken); got != http.StatusOK {
		t.Fatalf("before the logout: got %d, want 200", got)
	}
	out, err := user.Logout(ctx, tokens.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	for v := app.verifier; v.Status().Position < out.Position; {
		if t.Context().Err() != nil {
			t.Fatal("the verifier did not apply the logout")
		}
	}
	if got := get(t, web.URL+"/orders", tokens.AccessToken); got != http.StatusUnauthorized {
		t.Errorf("after the logout: got %d, want 401", got)
	}
}

func get(t *testing.T, url, token string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}
