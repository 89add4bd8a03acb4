package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/issuer"
)

// TestPreferences shows what is taken up of a Prefer header (RFC 7240).
func TestPreferences(t *testing.T) {
	w := newWorld(t)
	must(w.admin("revoke").Revoke(t.Context(), client.RevokeRequest{Claim: "sub", Value: "u_1"}))(t)
	for _, tt := range []struct {
		lines []string
		want  string // Preference-Applied
	}{
		{nil, ""},
		{[]string{","}, ""},
		{[]string{"wait=5"}, "wait=5"},
		{[]string{"wait=0"}, "wait=0"},
		{[]string{"wait=60"}, "wait=60"},
		{[]string{"wait=61"}, "wait=60"},
		{[]string{"wait=99999999999999999999999"}, "wait=60"},
		{[]string{"Wait = 5"}, "wait=5"},
		{[]string{`wait="5"`}, "wait=5"},
		{[]string{`wait="\5"`}, "wait=5"},
		{[]string{"wait=5; why=none"}, "wait=5"},
		{[]string{"respond-async"}, "respond-async"},
		{[]string{`RESPOND-ASYNC=""`}, "respond-async"},
		{[]string{"respond-async, wait=10"}, "respond-async, wait=10"},
		{[]string{"wait=10", "respond-async"}, "respond-async, wait=10"},
		{[]string{",, wait=3 ,"}, "wait=3"},
		{[]string{"return=minimal; foo=\"a, wait=9; \\\" wait=8\" ; bar;; baz=, wait=3"}, "wait=3"},
		{[]string{"handling=lenient, wait=3, wait=4", "wait=5"}, "wait=3"},
		{[]string{"wait=soon, wait=4"}, ""},
		{[]string{"wait, respond-async"}, "respond-async"},
		{[]string{"wait="}, ""},
		{[]string{"wait=-1"}, ""},
		{[]string{"wait=1.5"}, ""},
		{[]string{"wait=+5"}, ""},
		{[]string{"respond-async=yes"}, ""},
		{[]string{`wait="5`}, ""},
		{[]string{`wait="5\`}, ""},
		{[]string{`wait="5"x`}, ""},
		{[]string{"wait=5 respond-async"}, ""},
		{[]string{"=5, wait=4"}, ""},
		{[]string{"wait=5; =x"}, ""},
		{[]string{"(nonsense)", "wait=4"}, "wait=4"},
		{[]string{"respond-async, (nonsense), wait=4"}, "respond-async"},
	} {
		h := http.Header{"Authorization": {"Bearer " + w.keys["audit"]}}
		for _, line := range tt.lines {
			h.Add("Prefer", line)
		}
		answer, text := w.listeners()["private"]("GET", "/v1/admin/revocations/1", h, "")
		if got := answer.Header.Get("Preference-Applied"); answer.StatusCode != 200 || got != tt.want {
			t.Errorf("Prefer %q: got %d with Preference-Applied %q, want 200 with %q\n%s", tt.lines, answer.StatusCode, got, tt.want, text)
		}
	}
}

// revoke makes a revocation by hand.
func (w *world) revoke(value, prefer string) (*http.Response, client.Effect, string) {
	w.t.Helper()
	h := http.Header{"Authorization": {"Bearer " + w.keys["revoke"]}, "Content-Type": {"application/json"}}
	if prefer != "" {
		h.Set("Prefer", prefer)
	}
	answer, text := w.listeners()["private"]("POST", "/v1/admin/revocations", h, fmt.Sprintf(`{"claim":"sub","value":%q}`, value))
	var e client.Effect
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		w.t.Fatal(err)
	}
	return answer, e, text
}

// TestP4ChangesWaitUntilTheyAreConfirmed: where all verifiers answer, the
// caller waits for no more than that.
func TestP4ChangesWaitUntilTheyAreConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		tokens := w.session("u_1")
		began := time.Now()
		answer, e, _ := w.revoke("u_1", "")
		if c := e.Confirmation; answer.StatusCode != 200 || !c.Confirmed || !c.Until.IsZero() || c.Verifiers != (client.Tally{Applied: 1}) || answer.Header.Get("Location") != "" {
			t.Errorf("got %d with %+v, want 200 and that it is confirmed", answer.StatusCode, c)
		}
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		if _, err := w.verifier.Verify(tokens.AccessToken); err == nil {
			t.Error("the token is accepted after the answer")
		}
	})
}

// TestP5AVerifierThatDoesNotConfirm holds up the confirmation for as long as the
// caller waits, and for a lease at most.
func TestP5AVerifierThatDoesNotConfirm(t *testing.T) {
	for prefer, waits := range map[string]time.Duration{
		"": time.Second, "wait=5": 5 * time.Second, "wait=0": 10 * time.Millisecond, "respond-async": 10 * time.Millisecond, "respond-async, wait=2": 2 * time.Second,
		"wait=60": -1, // until it is confirmed
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.relying("payments")
			time.Sleep(2 * time.Second)
			began := time.Now()
			answer, e, _ := w.revoke("u_1", prefer)
			c, took := *e.Confirmation, time.Since(began)
			if waits < 0 {
				if answer.StatusCode != 200 || !c.Confirmed || took < 28*time.Second || took > 33*time.Second || c.Verifiers != (client.Tally{Applied: 1, Lost: 1}) || c.Accepting != 2 {
					t.Errorf("Prefer %q: got %d after %v: %+v, want 200 when the lease has ended, and that its routes may accept", prefer, answer.StatusCode, took, c)
				}
				return
			}
			if answer.StatusCode != 202 || c.Confirmed || took != waits || c.Verifiers != (client.Tally{Applied: 1, Pending: 1}) || c.StaleRoutes != 2 || c.Accepting != 0 {
				t.Errorf("Prefer %q: got %d after %v: %+v, want 202 after %v, and one pending", prefer, answer.StatusCode, took, c, waits)
			}
			if late := c.Until.Sub(began); late < 28*time.Second || late > 33*time.Second {
				t.Errorf("Prefer %q: confirmed %v after the call at the latest, want a lease and its margin", prefer, late)
			}
			until := c.Pending[0].Until
			want := []client.Pending{{Name: "payments", Process: "process-payments", Key: c.Pending[0].Key, Applied: 0, Until: until}}
			if diff := cmp.Diff(want, c.Pending); diff != "" || until.Before(began.Add(28*time.Second)) || until.After(c.Until) {
				t.Errorf("Prefer %q: who is pending (-want +got):\n%s", prefer, diff)
			}
			if got := answer.Header.Get("Location"); got != "/v1/admin/revocations/1" {
				t.Errorf("Prefer %q: Location is %q", prefer, got)
			}
		})
	}
}

// TestPublicAnswersNameNobody: what runs where is no business of users.
func TestPublicAnswersNameNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.account("u_1", "ann")
		w.relying("payments")
		h := http.Header{"Content-Type": {"application/json"}, "Prefer": {"respond-async"}}
		for path, body := range map[string]string{
			"/v1/logout":   fmt.Sprintf(`{"refresh_token":%q}`, w.session("u_1").RefreshToken),
			"/v1/password": fmt.Sprintf(`{"refresh_token":%q,"old_password":%q,"new_password":%q}`, w.session("u_1").RefreshToken, password, newPassword),
		} {
			answer, text := w.listeners()["public"]("POST", path, h, body)
			if answer.StatusCode != 202 || !strings.Contains(text, `"verifiers":{"applied":1,"pending":1,"lost":0,"left":0}`) {
				t.Errorf("%s: got %d %s, want 202 and the numbers", path, answer.StatusCode, text)
			}
			if strings.Contains(text, "payments") || strings.Contains(text, "nodes") || answer.Header.Get("Location") != "" {
				t.Errorf("%s: the answer names a verifier, a node or a private path: %v %s", path, answer.Header, text)
			}
		}
	})
}

// An import that updates revokes, and so answers as any other change; also when it
// is repeated because its answer was lost.
func TestImportWithUpdateWaitsForItsConfirmation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.account("u_1", "ann")
		w.relying("payments")
		time.Sleep(2 * time.Second)
		call := func(prefer, more string) (*http.Response, client.Imported) {
			h := http.Header{"Authorization": {"Bearer " + w.keys["accounts"]}, "Content-Type": {"application/json"}, "Prefer": {prefer}}
			answer, text := w.listeners()["private"]("POST", "/v1/admin/import", h, `{"accounts":[{"name":"ann","deactivated":true}`+more)
			var got client.Imported
			if err := json.Unmarshal([]byte(text), &got); err != nil {
				t.Fatalf("got %d %s: %v", answer.StatusCode, text, err)
			}
			return answer, got
		}
		began := time.Now()
		answer, got := call("wait=2", `],"update":true}`)
		c := got.Confirmation
		if answer.StatusCode != 202 || got.Updated != 1 || got.Position == 0 || c == nil || c.Confirmed || c.Verifiers.Pending != 1 || time.Since(began) != 2*time.Second {
			t.Errorf("got %d after %v: %+v, want 202 after 2s, and one pending", answer.StatusCode, time.Since(began), got)
		}
		if at, want := answer.Header.Get("Location"), "/v1/admin/revocations/"+strconv.FormatUint(got.Position, 10); at != want || answer.Header.Get("Preference-Applied") != "wait=2" {
			t.Errorf("got %v, want the Location %s and the preference", answer.Header, want)
		}
		if answer, got := call("respond-async", `],"update":true}`); answer.StatusCode != 202 || got.Same != 1 || got.Confirmation == nil || got.Confirmation.Confirmed {
			t.Errorf("again: got %d, %+v, want that it is not confirmed", answer.StatusCode, got)
		}
		if answer, got := call("wait=60", `],"update":true}`); answer.StatusCode != 200 || got.Same != 1 || got.Confirmation == nil || !got.Confirmation.Confirmed {
			t.Errorf("once the lease has ended: got %d, %+v, want 200 and that it is confirmed", answer.StatusCode, got)
		}
		if answer, got := call("", `,{"name":"bob"}]}`); answer.StatusCode != 200 || got.Created != 1 || got.Confirmation != nil {
			t.Errorf("without updates: got %d, %+v, want 200 and nothing to confirm", answer.StatusCode, got)
		}
	})
}

func TestNothingToConfirm(t *testing.T) {
	w := newWorld(t)
	w.session("u_1")
	for what, call := range map[string]func() (client.Effect, error){
		"a dry run": func() (client.Effect, error) {
			return w.admin("sessions").EndSessions(t.Context(), "u_1", client.Change{DryRun: true})
		},
		"what revokes nothing": func() (client.Effect, error) {
			return w.admin("accounts").Reactivate(t.Context(), "u_1", client.Change{})
		},
	} {
		if e := must(call())(t); e.Confirmation != nil {
			t.Errorf("%s: got %+v, want no confirmation", what, e.Confirmation)
		}
	}
}

// TestStopEndsTheWaitsForConfirmations: the revocation stands.
func TestStopEndsTheWaitsForConfirmations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.relying("payments")
		time.AfterFunc(3*time.Second, w.api.Stop)
		began := time.Now()
		answer, e, _ := w.revoke("u_1", "wait=60")
		if took := time.Since(began); answer.StatusCode != 202 || e.Position != 1 || took != 3*time.Second {
			t.Errorf("got %d after %v, want 202 after 3s", answer.StatusCode, took)
		}
		if answer, _, _ := w.revoke("u_2", "wait=60"); answer.StatusCode != 202 || time.Since(began) > 4*time.Second {
			t.Errorf("got %d after %v, want the next not to wait", answer.StatusCode, time.Since(began))
		}
	})
}

// TestWaitsAreBounded: beyond so many at once a change is answered without.
func TestWaitsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.relying("payments")
		w.api.Crowd()
		began := time.Now()
		if answer, e, _ := w.revoke("u_1", "wait=60"); answer.StatusCode != 202 || e.Position != 1 || time.Since(began) > 100*time.Millisecond {
			t.Errorf("got %d after %v, want 202 at once", answer.StatusCode, time.Since(began))
		}
	})
}

// TestACrashedNodeIsWaitedFor until its leases must have ended.
func TestACrashedNodeIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		crashed := issuer.Node{ID: "crashed", Counter: 1, Lease: 30 * time.Second, Started: time.Now()}
		must(w.store.Update(t.Context(), func(tx issuer.Tx) error { return tx.PutNode(crashed) }))(t)
		tokens := w.session("u_1")
		answer, e, _ := w.revoke("u_1", "")
		if diff := cmp.Diff([]string{"crashed"}, e.Confirmation.Nodes); answer.StatusCode != 202 || diff != "" {
			t.Errorf("got %d, and waits for nodes (-want +got):\n%s", answer.StatusCode, diff)
		}
		if out := must(w.public.Logout(t.Context(), tokens.RefreshToken))(t); out.Confirmation.Confirmed || out.Confirmation.Nodes != nil {
			t.Errorf("got %+v, want that users do not learn of nodes", out.Confirmation)
		}
		if answer, e, _ := w.revoke("u_2", "wait=60"); answer.StatusCode != 200 || e.Confirmation.Nodes != nil {
			t.Errorf("after a lease: got %d %+v, want that it is confirmed", answer.StatusCode, e.Confirmation)
		}
	})
}

// TestACallerThatHangsUpEndsOnlyItsWait: the revocation stands, and goes on to
// be confirmed.
func TestACallerThatHangsUpEndsOnlyItsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		confirm := w.relying("payments")
		ctx, hangUp := context.WithTimeout(t.Context(), 2*time.Second)
		defer hangUp()
		c := must(client.New(client.Config{URL: "http://localhost", Key: w.keys["revoke"], HTTP: &http.Client{Transport: w.private}}))(t)
		if _, err := c.WithWait(time.Minute).Admin().Revoke(ctx, client.RevokeRequest{Claim: "sub", Value: "u_1"}); err == nil {
			t.Error("got an answer, want that the caller has left")
		}
		confirm(1)
		e := must(w.admin("audit").Revocation(t.Context(), 1))(t)
		if !e.Confirmation.Confirmed || e.Revocation.Value != "u_1" {
			t.Errorf("got %+v, want that it stands and is confirmed", e)
		}
	})
}

// TestP11EvidenceOfAConfirmation: who revoked what, why and when, and how it
// ended with each verifier, from memory and from the store, across a restart.
func TestP11EvidenceOfAConfirmation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		tokens := w.session("u_1")
		w.relying("payments")
		confirm := w.relying("orders")
		began := time.Now()
		out := must(w.admin("sessions").EndSession(t.Context(), tokens.Session, client.Change{Reason: "lost phone"}))(t)
		time.Sleep(500 * time.Millisecond)
		confirm(1)
		synctest.Wait()

		read := func() client.Evidence { return must(w.admin("audit").Revocation(t.Context(), out.Position))(t) }
		ends := func(e client.Evidence) map[string]string {
			if len(e.Confirmations) != 1 {
				t.Fatalf("got %+v, want what one node saw", e.Confirmations)
			}
			all := map[string]string{}
			for _, v := range e.Confirmations[0].Verifiers {
				all[v.Name] = fmt.Sprintf("%s, %s, after %v", v.End, v.Process[:min(7, len(v.Process))], v.At.Sub(began).Round(time.Second))
			}
			return all
		}
		early := read()
		if early.Confirmation.Confirmed || early.Confirmation.Pending[0].Name != "payments" || ends(early)["orders"] == "" || ends(early)["payments"] != "" {
			t.Errorf("while one is pending: got %+v", early)
		}
		if early.Revocation.Reason != "lost phone" || early.Audit == nil || early.Audit.Address != "192.0.2.1" || early.Audit.Actor != "admin:the sessions key" {
			t.Errorf("who and why: got %+v and %+v", early.Revocation, early.Audit)
		}

		time.Sleep(35 * time.Second)
		late := read()
		if !late.Confirmation.Confirmed || late.Confirmation.Milliseconds < 30_000 || late.Slowest == nil || late.Slowest.Name != "orders" || late.Slowest.Milliseconds < 1500 {
			t.Errorf("in the end: got %+v, the slowest %+v, want orders", late.Confirmation, late.Slowest)
		}
		n := late.Confirmations[0]
		if n.Confirmed != 2 || n.Lost != 1 || n.Left != 0 || n.First != 1 || n.Last != 1 || n.Verifiers[0].Name != "payments" {
			t.Errorf("in the end: got %+v, want two that confirmed, and the one that lost its lease first", n)
		}
		got := ends(late)
		if !strings.HasPrefix(got["public"], "confirmed") {
			t.Errorf("in the end: got %v, want that the server's own confirmed", got)
		}
		delete(got, "public")
		if diff := cmp.Diff(map[string]string{"orders": "confirmed, process, after 2s", "payments": "lease_lost, process, after 33s"}, got); diff != "" {
			t.Errorf("how it ended (-want +got):\n%s", diff)
		}

		w.restart()
		if diff := cmp.Diff(late.Confirmations, read().Confirmations); diff != "" {
			t.Errorf("after a restart (-before +after):\n%s", diff)
		}
	})
}

func TestEvidenceOfNothing(t *testing.T) {
	w := newWorld(t)
	must(w.admin("revoke").Revoke(t.Context(), client.RevokeRequest{Claim: "sub", Value: "u_1"}))(t)
	h := http.Header{"Authorization": {"Bearer " + w.keys["audit"]}, "Prefer": {"wait=60"}}
	for position, want := range map[string]client.Code{
		"0": client.CodeInvalid, "-1": client.CodeInvalid, "one": client.CodeInvalid, "9007199254740992": client.CodeInvalid,
		"2": client.CodeNotFound, "9007199254740991": client.CodeNotFound,
	} {
		answer, text := w.listeners()["private"]("GET", "/v1/admin/revocations/"+position, h, "")
		wrong(t, "position "+position, answer, text, map[client.Code]int{client.CodeInvalid: 400, client.CodeNotFound: 404}[want], want)
	}
}
