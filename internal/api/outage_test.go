package api_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/api"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revlog"
)

func TestOutageOfTheStoreIsA503(t *testing.T) {
	w := newWorld(t)
	tokens := w.session("u_1")
	w.store.Close()
	_, err := w.public.Refresh(t.Context(), tokens.RefreshToken, "")
	refused(t, "refresh", err, 503, client.CodeUnavailable)
	_, err = w.public.Logout(t.Context(), tokens.RefreshToken)
	refused(t, "logout", err, 503, client.CodeUnavailable)
	_, err = w.admin("audit").Log(t.Context())
	refused(t, "an API key", err, 503, client.CodeUnavailable)
	refused(t, "readiness", w.public.Ready(t.Context()), 503, client.CodeNotReady)
	if log := w.logged.String(); !strings.Contains(log, `"level":"ERROR","msg":"request"`) {
		t.Errorf("the log does not say what failed:\n%s", log)
	}
	if _, err := w.verifier.Verify(tokens.AccessToken); err != nil {
		t.Errorf("the verifier needs no store, but says %v", err)
	}
}

func TestNotReadyBeforeTheLogWasRead(t *testing.T) {
	w := newWorld(t)
	unread := revlog.New(revlog.Config{Issuer: "https://quash.test"}, revlog.FromStore(w.store))
	a := must(api.New(api.Config{Issuer: w.issuer, Log: unread}))(t)
	answer := httptest.NewRecorder()
	a.Private().ServeHTTP(answer, httptest.NewRequest("GET", "/readyz", nil))
	wrong(t, "readiness", answer.Result(), answer.Body.String(), 503, client.CodeNotReady)
	if err := a.Ready(t.Context()); err == nil {
		t.Error("Ready: got nil, want that the log has not been read")
	}
}

func TestNewNeedsItsParts(t *testing.T) {
	if _, err := api.New(api.Config{}); err == nil {
		t.Error("New without an issuer and a log: got no error")
	}
	if _, err := api.New(api.Config{Issuer: &issuer.Issuer{}, Log: &revlog.Log{}, RequestsPerSecond: -1}); err == nil {
		t.Error("New with a negative limit: got no error")
	}
}
