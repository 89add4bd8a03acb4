package api_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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
	unread := revlog.New(revlog.Config{Issuer: "https://quash.test"}, revlog.FromStore(w.store, nil))
	a := must(api.New(api.Config{Issuer: w.issuer, Log: unread}))(t)
	answer := httptest.NewRecorder()
	a.Private().ServeHTTP(answer, httptest.NewRequest("GET", "/readyz", nil))
	wrong(t, "readiness", answer.Result(), answer.Body.String(), 503, client.CodeNotReady)
	if err := a.Ready(t.Context()); err == nil {
		t.Error("Ready: got nil, want that the log has not been read")
	}
}

// TestNotReadyWhileTheFeedStandsStill: a node that answers, and revokes, but
// tells no verifier must not be called ready.
func TestNotReadyWhileTheFeedStandsStill(t *testing.T) {
	for name, before := range map[string]func(context.Context) error{
		"reading fails": func(context.Context) error { return errors.New("out of luck") },
		"reading hangs": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				tokens := w.session("u_1")
				synctest.Wait() // no reading is under way
				w.source.beforeTail.Store(&before)
				must(w.public.Logout(t.Context(), tokens.RefreshToken))(t)
				refused(t, "readiness", w.public.Ready(t.Context()), 503, client.CodeNotReady)
				_, text := w.listeners()["private"]("GET", "/metrics", nil, "")
				for _, line := range []string{"quash_log_position 0\n", "quash_store_position 1\n"} {
					if !strings.Contains(text, line) {
						t.Errorf("no %q in the metrics", line)
					}
				}
				w.source.beforeTail.Store(nil)
				time.Sleep(6 * time.Second) // longer than a reading may hang
				if err := w.public.Ready(t.Context()); err != nil {
					t.Errorf("when the log is read again: %v", err)
				}
			})
		})
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
