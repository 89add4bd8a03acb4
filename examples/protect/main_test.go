package main

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/quashdev/quash/quashtest"
)

func TestOrdersEndWithTheSession(t *testing.T) {
	iss := quashtest.New(t)
	h := routes(iss.Verifier(t, ""))
	tok := iss.Token(t, quashtest.Claims{Subject: "ada"})
	if got := get(h, tok.Text); got.Code != http.StatusOK || got.Body.String() != "the orders of ada\n" {
		t.Errorf("a live token: got %d %q", got.Code, got.Body)
	}
	iss.Revoke(t, "sub", "ada")
	if got := get(h, tok.Text); got.Code != http.StatusUnauthorized {
		t.Errorf("a dead token: got %d, want 401", got.Code)
	}
}

func get(h http.Handler, token string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, "/orders", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}
