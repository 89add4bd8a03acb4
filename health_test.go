package quash_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quashdev/quash"
)

func get(h http.Handler) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	return w
}

func wantHealth(t *testing.T, v *quash.Verifier, status int, when string) {
	t.Helper()
	w := get(v.Health())
	var got, want any
	err := json.Unmarshal(w.Body.Bytes(), &got)
	text, _ := json.Marshal(v.Status())
	json.Unmarshal(text, &want)
	if w.Code != status || err != nil || w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%s: got %d, %v, headers %v, want %d with JSON that is not stored", when, w.Code, err, w.Header(), status)
	}
	if len(got.(map[string]any)) != len(want.(map[string]any)) {
		t.Errorf("%s: got %v, want the status, %v", when, got, want)
	}
}

// P7, P8: health says whether tokens are accepted.
func TestP7P8HealthSaysWhetherTokensAreAccepted(t *testing.T) {
	wantHealth(t, new(quash.Verifier), 503, "not ready")
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, _ := n.open(n.config())
		synctest.Wait()
		wantHealth(t, v, 200, "fresh")
		n.cutOff(true)
		time.Sleep(29 * time.Second)
		wantHealth(t, v, 200, "cut off, within the lease")
		time.Sleep(time.Second)
		wantHealth(t, v, 503, "past the lease")
		tolerant(v, time.Minute, nil)
		wantHealth(t, v, 200, "past the lease, with a route that bears it")
		time.Sleep(time.Minute)
		wantHealth(t, v, 503, "past what that bears")
		n.cutOff(false)
		(<-n.peers).sendHello(true)
		synctest.Wait()
		wantHealth(t, v, 200, "in touch again")
		v.Close(t.Context())
		wantHealth(t, v, 503, "closed")
	})
}

func TestMetrics(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config(), n.record(7, "sub", "x"))
		h := tolerant(v, time.Hour, nil)
		synctest.Wait()
		want := func(when string, lines ...string) {
			t.Helper()
			w := get(v.Metrics())
			if got := w.Header().Get("Content-Type"); got != "text/plain; version=0.0.4; charset=utf-8" {
				t.Errorf("got type %q", got)
			}
			for _, line := range lines {
				if !strings.Contains(w.Body.String(), "\nquash_verifier_"+line+"\n") {
					t.Errorf("%s: want quash_verifier_%s in\n%s", when, line, w.Body)
				}
			}
		}
		want("fresh", "ready 1", "connected 1", "stale 0", "stale_total 0", "lease_seconds 30", "position 7", "revocations 1", "accepted_stale_total 0")
		n.status.Store(-1)
		p.conn.CloseNow()
		time.Sleep(28500 * time.Millisecond)
		want("cut off", "connected 0", "stale 0", "lease_seconds 1.5")
		time.Sleep(10 * time.Second)
		request(h, n.token(nil))
		want("past the lease", "ready 1", "stale 1", "stale_total 1", "lease_seconds 0", "accepted_stale_total 1")
		text := get(v.Metrics()).Body.String()
		if got := strings.Count(text, "# HELP "); got != 11 || strings.Count(text, "# TYPE ") != 11 || !strings.Contains(text, "# TYPE quash_verifier_stale_total counter\n") {
			t.Errorf("want 11 metrics, each with help and type:\n%s", text)
		}
	})
	if text := get(new(quash.Verifier).Metrics()).Body.String(); !strings.Contains(text, "quash_verifier_ready 0\n") {
		t.Errorf("not ready: got\n%s", text)
	}
}
