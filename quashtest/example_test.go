package quashtest_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/quashdev/quash/quashtest"
)

// A protected handler serves a token, and no longer once its session ended.
func TestOrdersNeedALiveSession(t *testing.T) {
	iss := quashtest.New(t)
	h := iss.Verifier(t, "orders").Protect(http.NotFoundHandler()) // the handler under test
	tok := iss.Token(t, quashtest.Claims{Audience: "orders"})
	if got := get(h, tok.Text); got != http.StatusNotFound {
		t.Errorf("before: got %d, want the handler's own answer", got)
	}
	iss.Revoke(t, "sid", tok.Session)
	if got := get(h, tok.Text); got != http.StatusUnauthorized {
		t.Errorf("after: got %d, want 401", got)
	}
}

func get(h http.Handler, token string) int {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code
}
