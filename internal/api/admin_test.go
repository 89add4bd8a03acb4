package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
)

func TestAccounts(t *testing.T) {
	w := newWorld(t)
	ctx, accounts := t.Context(), w.admin("accounts")
	w.account("u_1", "Ann")
	w.session("a/b?c")
	w.session("..")
	_, err := accounts.CreateAccount(ctx, client.NewAccount{Subject: "u_3", Name: "ANN"})
	refused(t, "a name that is taken", err, 409, client.CodeConflict)
	if a := must(accounts.AccountNamed(ctx, "ANN"))(t); a.Subject != "u_1" || !a.HasPassword || string(a.Claims) != `{"tenant":"acme"}` {
		t.Errorf("by name: got %+v", a)
	}
	_, err = accounts.AccountNamed(ctx, "nobody")
	refused(t, "a name that nobody has", err, 404, client.CodeNotFound)
	for _, subject := range []string{"a/b?c", ".."} {
		if a := must(accounts.Account(ctx, subject))(t); a.Subject != subject || a.HasPassword {
			t.Errorf("by subject %q: got %+v", subject, a)
		}
	}
	var subjects []string
	for after := ""; ; {
		page := must(accounts.Accounts(ctx, after, 2))(t)
		for _, a := range page.Items {
			subjects = append(subjects, a.Subject)
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if diff := cmp.Diff([]string{"..", "a/b?c", "u_1"}, subjects); diff != "" {
		t.Errorf("subjects, by pages of two (-want +got):\n%s", diff)
	}
	out := must(accounts.DeleteAccount(ctx, "a/b?c", client.Change{Reason: "moved & gone"}))(t)
	if out.Sessions != 1 || out.Event != "deleted" {
		t.Errorf("delete: got %+v, want that its session ended", out)
	}
	_, err = accounts.Account(ctx, "a/b?c")
	refused(t, "the deleted account", err, 404, client.CodeNotFound)
	revocations := must(w.admin("audit").Revocations(ctx, client.RevocationQuery{}))(t)
	last := revocations.Items[len(revocations.Items)-1]
	if last.Reason != "moved & gone" || last.Actor != "admin:the accounts key" || last.Value != "a/b?c" {
		t.Errorf("the revocation says %+v", last)
	}
}

func TestImport(t *testing.T) {
	w := newWorld(t)
	ctx, accounts := t.Context(), w.admin("accounts")
	hash := "$2b$04$" + strings.Repeat("a", 53)
	rows := []client.ImportedAccount{
		{Subject: "u_1", Name: "ann", PasswordHash: hash, Claims: json.RawMessage(`{"tenant":"acme"}`)},
		{Name: "bob", PasswordHash: "5f4dcc3b5aa765d61d8327deb882cf99"},
		{Subject: "u_2", Deactivated: new(true)},
	}
	got := must(accounts.ImportAccounts(ctx, client.ImportRequest{Accounts: rows}))(t)
	if got.Created != 2 || len(got.Refused) != 1 || got.Refused[0].Row != 1 || got.Refused[0].Code != client.CodeInvalid || got.Refused[0].Detail == "" {
		t.Errorf("got %+v, want two made and the second row refused", got)
	}
	if a := must(accounts.AccountNamed(ctx, "ann"))(t); a.Subject != "u_1" || !a.HasPassword || string(a.Claims) != `{"tenant":"acme"}` {
		t.Errorf("got %+v", a)
	}
	got = must(accounts.ImportAccounts(ctx, client.ImportRequest{Accounts: []client.ImportedAccount{{Subject: "u_2", Deactivated: new(false)}}, Update: true}))(t)
	if got.Updated != 1 {
		t.Errorf("got %+v, want one updated", got)
	}
	if strings.Contains(w.logged.String(), hash) {
		t.Error("the log holds a hash")
	}
	do, before := w.listeners()["private"], must(accounts.Accounts(ctx, "", 0))(t)
	h := http.Header{"Authorization": {"Bearer " + w.keys["accounts"]}, "Content-Type": {"application/json"}}
	answer, text := do("POST", "/v1/admin/import", h, `{"accounts":[{"name":"x","name":"y"}]}`)
	wrong(t, "a name twice in a row", answer, text, 400, client.CodeInvalid)
	for _, bad := range []string{
		`[]`, `[1]`, `["x"]`, `[null]`, `[{"name":"x","surprise":1}]`, `[{"NAME":"x"}]`, `[{"name":1}]`,
		`[{"name":"x","deactivated":"yes"}]`, `[{"name":"x"},{"name":null}]`, `[` + strings.Repeat(`{"name":"x"},`, 200) + `{"name":"x"}]`,
	} {
		answer, text := do("POST", "/v1/admin/import", h, `{"accounts":`+bad+`}`)
		if p := wrong(t, bad[:min(len(bad), 60)], answer, text, 400, client.CodeInvalid); !strings.HasPrefix(p.Detail, "accounts") {
			t.Errorf("%.60s: the detail %q does not say where", bad, p.Detail)
		}
	}
	if diff := cmp.Diff(before, must(accounts.Accounts(ctx, "", 0))(t)); diff != "" {
		t.Errorf("wrong requests changed something:\n%s", diff)
	}
}

func TestAccountChanges(t *testing.T) {
	w := newWorld(t)
	ctx, accounts := t.Context(), w.admin("accounts")
	w.account("u_1", "ann")
	for _, tt := range []struct {
		event    string
		call     func() (client.Effect, error)
		sessions int
	}{
		{"claims_changed", func() (client.Effect, error) {
			return accounts.PutClaims(ctx, "u_1", json.RawMessage(`{"tenant":"other"}`), client.Change{})
		}, 0},
		{"password_set", func() (client.Effect, error) {
			return accounts.SetPassword(ctx, "u_1", newPassword, client.Change{Reason: "forgotten"})
		}, 1},
		{"deactivated", func() (client.Effect, error) { return accounts.Deactivate(ctx, "u_1", client.Change{}) }, 1},
		{"reactivated", func() (client.Effect, error) { return accounts.Reactivate(ctx, "u_1", client.Change{}) }, 0},
		{"logout_all", func() (client.Effect, error) {
			return w.admin("sessions").EndSessions(ctx, "u_1", client.Change{})
		}, 1},
	} {
		if tt.event != "reactivated" {
			w.session("u_1")
		}
		out := must(tt.call())(t)
		if out.Event != tt.event || out.Sessions < tt.sessions || (tt.event != "reactivated") != (out.Position > 0) {
			t.Errorf("%s: got %+v", tt.event, out)
		}
	}
	_, err := w.admin("sessions").EndSessions(ctx, "nobody", client.Change{})
	refused(t, "sessions of nobody", err, 404, client.CodeNotFound)
	_, err = w.admin("sessions").OpenSession(ctx, "u_1", client.Device{Address: "not an address"})
	refused(t, "an address that is none", err, 400, client.CodeInvalid)
}

func TestSessionsOfSubjects(t *testing.T) {
	w := newWorld(t)
	ctx, sessions := t.Context(), w.admin("sessions")
	w.session("u_1")
	opened := must(sessions.OpenSession(ctx, "u_1", client.Device{Client: "app", Device: "tablet", Address: "2001:DB8::1"}))(t)
	all := must(sessions.Sessions(ctx, "u_1"))(t)
	if len(all) != 2 {
		t.Fatalf("got %d sessions, want 2", len(all))
	}
	for _, s := range all {
		if s.ID == opened.Session && (s.Client != "app" || s.Device != "tablet" || s.Address != "2001:db8::1" || s.Current) {
			t.Errorf("got %+v", s)
		}
	}
	out := must(sessions.EndSession(ctx, opened.Session, client.Change{}))(t)
	if out.Sessions != 1 {
		t.Errorf("got %+v, want that it ended", out)
	}
	_, err := sessions.EndSession(ctx, opened.Session, client.Change{})
	refused(t, "ending it again", err, 404, client.CodeNotFound)
}

func TestRevokeAndExplain(t *testing.T) {
	w := newWorld(t)
	ctx, audit := t.Context(), w.admin("audit")
	w.account("u_1", "ann")
	tokens := w.session("u_1")
	if e := must(audit.Explain(ctx, tokens.AccessToken))(t); e.Verdict != "accepted" || len(e.Revocations) != 0 || !strings.Contains(string(e.Claims), `"acme"`) {
		t.Errorf("before: got %+v", e)
	}
	_, err := w.admin("revoke").Revoke(ctx, client.RevokeRequest{Claim: "tennant", Value: "acme"})
	refused(t, "a claim that no token carries", err, 400, client.CodeUnknownClaim)
	out := must(w.admin("revoke").Revoke(ctx, client.RevokeRequest{Claim: "tenant", Value: "acme", Reason: "stolen laptop"}))(t)
	if out.Sessions != 0 || out.Tokens != 1 {
		t.Errorf("got %+v, want one token and no session", out)
	}
	w.follows(out.Position)
	e := must(audit.Explain(ctx, tokens.AccessToken))(t)
	if e.Verdict != "revoked" || e.Check == "" || e.Position != out.Position || len(e.Revocations) != 1 {
		t.Fatalf("after: got %+v", e)
	}
	if r := e.Revocations[0]; r.Reason != "stolen laptop" || r.Actor != "admin:the revoke key" || r.Claim != "tenant" || r.Before != out.Position || r.Forever {
		t.Errorf("what killed it: got %+v", r)
	}
	for _, text := range []string{"garbage", "e30.e30.AA", ""} {
		if e := must(audit.Explain(ctx, text))(t); e.Verdict != "invalid" || e.Check == "" {
			t.Errorf("%q: got %+v, want invalid and the check that failed", text, e)
		}
	}
	forever := must(w.admin("revoke").Revoke(ctx, client.RevokeRequest{Claim: "sid", Value: tokens.Session}))(t)
	last := must(audit.Revocations(ctx, client.RevocationQuery{After: forever.Position - 1}))(t).Items
	if len(last) != 1 || !last[0].Forever || last[0].Before != 0 || forever.Sessions != 1 {
		t.Errorf("a session: got %+v and %+v, want one for ever", forever, last)
	}
}

func TestEvidence(t *testing.T) {
	w := newWorld(t)
	ctx, audit := t.Context(), w.admin("audit")
	for range 3 {
		tokens := w.session("u_1")
		must(w.public.Logout(ctx, tokens.RefreshToken))(t)
	}
	w.follows(3)
	l := must(audit.Log(ctx))(t)
	if l.Head.Position != 3 || l.Live != 3 || l.MaxLifetime != 300 || !cmp.Equal(l.Claims, []string{"sid"}) {
		t.Errorf("log: got %+v", l)
	}
	report := must(audit.VerifyLog(ctx))(t)
	if want := (client.LogReport{Head: l.Head, Checked: 3, Whole: true}); report != want {
		t.Errorf("verify: got %+v, want %+v", report, want)
	}
	first := must(audit.Revocations(ctx, client.RevocationQuery{Limit: 2}))(t)
	rest := must(audit.Revocations(ctx, client.RevocationQuery{After: first.Items[1].Position, Limit: 2}))(t)
	if len(first.Items) != 2 || first.Next != "2" || len(rest.Items) != 1 || rest.Next != "" || rest.Items[0].Digest != l.Head.Digest {
		t.Errorf("pages of two: got %+v and %+v", first, rest)
	}
	entries := must(audit.Audit(ctx, client.AuditQuery{Subject: "u_1", Event: "logout", Limit: 2}))(t)
	if len(entries.Items) != 2 || entries.Items[0].Position != 3 || entries.Items[0].Address != "192.0.2.1" || entries.Next == "" {
		t.Errorf("audit: got %+v", entries)
	}
	older := must(audit.Audit(ctx, client.AuditQuery{Before: entries.Items[1].ID, Subject: "u_1", Event: "logout"}))(t)
	if len(older.Items) != 1 || older.Items[0].Position != 1 {
		t.Errorf("audit, older: got %+v", older)
	}
	verifiers := must(audit.Verifiers(ctx))(t)
	if len(verifiers) != 1 || verifiers[0].Name != "public" || verifiers[0].Applied != 3 || verifiers[0].Lag != 0 || verifiers[0].Address != "192.0.2.1" {
		t.Errorf("verifiers: got %+v", verifiers)
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	w := newWorld(t)
	ctx, dry := t.Context(), client.Change{Reason: "what if", DryRun: true}
	w.account("u_1", "ann")
	tokens := w.session("u_1")
	kid := must(w.admin("keys").SigningKeys(ctx))(t)[0].ID
	accounts, sessions, revoke := w.admin("accounts"), w.admin("sessions"), w.admin("revoke")
	before := w.state("u_1")
	for what, call := range map[string]func() (client.Effect, error){
		"delete":       func() (client.Effect, error) { return accounts.DeleteAccount(ctx, "u_1", dry) },
		"claims":       func() (client.Effect, error) { return accounts.PutClaims(ctx, "u_1", json.RawMessage(`{"a":1}`), dry) },
		"password":     func() (client.Effect, error) { return accounts.SetPassword(ctx, "u_1", newPassword, dry) },
		"deactivate":   func() (client.Effect, error) { return accounts.Deactivate(ctx, "u_1", dry) },
		"end sessions": func() (client.Effect, error) { return sessions.EndSessions(ctx, "u_1", dry) },
		"end session":  func() (client.Effect, error) { return sessions.EndSession(ctx, tokens.Session, dry) },
		"revoke": func() (client.Effect, error) {
			return revoke.Revoke(ctx, client.RevokeRequest{Claim: "tenant", Value: "acme", EndSessions: true, DryRun: true})
		},
		"withdraw a key": func() (client.Effect, error) {
			return revoke.Revoke(ctx, client.RevokeRequest{Claim: "kid", Value: kid, DryRun: true})
		},
	} {
		out := must(call())(t)
		if !out.DryRun || out.Position != 0 || out.Tokens != 1 {
			t.Errorf("%s: got %+v, want a dry run that reaches one token", what, out)
		}
	}
	if diff := cmp.Diff(before, w.state("u_1")); diff != "" {
		t.Errorf("dry runs changed something (-before +after):\n%s", diff)
	}
	must(w.public.Account(ctx, tokens.AccessToken))(t)
}

func TestWaitingForRevocations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		tokens := w.session("u_1")
		began := time.Now()
		if page := must(w.admin("audit").Revocations(t.Context(), client.RevocationQuery{Wait: 30 * time.Second}))(t); len(page.Items) != 0 || time.Since(began) < 30*time.Second {
			t.Errorf("with none: got %+v after %v, want nothing after 30s", page, time.Since(began))
		}
		came := make(chan client.Page[client.Revocation])
		audit := w.admin("audit")
		go func() {
			page, _ := audit.Revocations(t.Context(), client.RevocationQuery{Wait: time.Minute})
			came <- page
		}()
		time.Sleep(10 * time.Second)
		began = time.Now()
		must(w.public.Logout(t.Context(), tokens.RefreshToken))(t)
		if page := <-came; len(page.Items) != 1 || time.Since(began) > time.Second {
			t.Errorf("got %+v after %v, want the one that was made, at once", page, time.Since(began))
		}
	})
}

// TestStopEndsTheWaits: a server that shuts down waits for requests under way,
// and a client that follows the log has one nearly always.
func TestStopEndsTheWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		audit := w.admin("audit")
		came := make(chan error)
		go func() {
			_, err := audit.Revocations(t.Context(), client.RevocationQuery{Wait: time.Minute})
			came <- err
		}()
		time.Sleep(10 * time.Second)
		began := time.Now()
		w.api.Stop()
		w.api.Stop()
		if err := <-came; err != nil || time.Since(began) > 0 {
			t.Errorf("got %v after %v, want an answer at once", err, time.Since(began))
		}
		if _, err := audit.Revocations(t.Context(), client.RevocationQuery{Wait: time.Minute}); err != nil || time.Since(began) > 0 {
			t.Errorf("got %v after %v, want the next not to wait either", err, time.Since(began))
		}
	})
}

func TestKeys(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	all := []issuer.Scope{issuer.ScopeKeys, issuer.ScopeAudit, issuer.ScopeRevoke}
	_, chief, err := w.issuer.CreateAPIKey(ctx, issuer.Actor{Name: "system", Scopes: all}, "chief", all)
	if err != nil {
		t.Fatal(err)
	}
	w.keys["chief"] = chief
	keys := w.admin("chief")
	for _, scopes := range [][]string{{}, {"feed", "audit"}, {"everything"}, {"audit", "audit"}} {
		_, err := keys.CreateKey(ctx, client.NewKey{Name: "ci", Scopes: scopes})
		refused(t, strings.Join(scopes, "+"), err, 400, client.CodeInvalid)
	}
	made := must(keys.CreateKey(ctx, client.NewKey{Name: "ci", Scopes: []string{"audit", "revoke"}}))(t)
	_, err = keys.CreateKey(ctx, client.NewKey{Name: "ci", Scopes: []string{"audit"}})
	refused(t, "a name that is taken", err, 409, client.CodeConflict)
	_, err = w.admin("keys").CreateKey(ctx, client.NewKey{Name: "more", Scopes: []string{"audit"}})
	refused(t, "a scope that the caller lacks", err, 403, client.CodeForbidden)
	w.keys["ci"] = made.Secret
	must(w.admin("ci").Log(ctx))(t)
	replaced := must(keys.ReplaceKey(ctx, made.ID, time.Hour))(t)
	must(w.admin("ci").Log(ctx))(t)
	w.keys["new"] = replaced.Secret
	must(w.admin("new").Log(ctx))(t)
	for _, overlap := range []time.Duration{-time.Second, 31 * 24 * time.Hour, 1 << 62} {
		_, err = keys.ReplaceKey(ctx, made.ID, overlap)
		refused(t, "overlap "+overlap.String(), err, 400, client.CodeInvalid)
	}
	if err := keys.DeleteKey(ctx, made.ID); err != nil {
		t.Error(err)
	}
	for _, which := range []string{"ci", "new"} {
		_, err = w.admin(which).Log(ctx)
		refused(t, "the deleted key", err, 401, client.CodeToken)
	}
	refused(t, "deleting it again", keys.DeleteKey(ctx, made.ID), 404, client.CodeNotFound)
	for _, k := range must(keys.Keys(ctx))(t) {
		if k.ID == made.ID {
			t.Errorf("the deleted key is listed: %+v", k)
		}
	}
}

func TestVerifierKeyEndsWithItsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		keys := w.admin("keys")
		made := must(keys.CreateKey(t.Context(), client.NewKey{Name: "orders", Scopes: []string{"feed"}}))(t)
		dial := w.listen(w.api.Private())
		connected := func() bool {
			time.Sleep(5 * time.Second) // longer than it takes to connect again
			all := must(w.admin("audit").Verifiers(t.Context()))(t)
			return len(slices.DeleteFunc(all, func(v client.Verifier) bool { return !v.Connected })) == 2
		}
		v := must(quash.Open(t.Context(), quash.Config{URL: "http://localhost", Key: made.Secret, Name: "orders", Dial: dial}))(t)
		defer v.Close(context.Background())
		replaced := must(keys.ReplaceKey(t.Context(), made.ID, time.Minute))(t)
		if !connected() {
			t.Error("during the overlap the old secret is refused")
		}
		time.Sleep(time.Minute)
		if connected() {
			t.Error("after the overlap the old secret's connection goes on")
		}
		again := must(quash.Open(t.Context(), quash.Config{URL: "http://localhost", Key: replaced.Secret, Name: "orders", Dial: dial}))(t)
		defer again.Close(context.Background())
		if !connected() {
			t.Error("the new secret is refused")
		}
		if err := keys.DeleteKey(t.Context(), made.ID); err != nil {
			t.Fatal(err)
		}
		if connected() {
			t.Error("a deleted key's connection goes on")
		}
	})
}

// TestKeyReplacedWhileAVerifierConnects: a connection whose old secret was good
// when it came, and is not when it counts, is refused.
func TestKeyReplacedWhileAVerifierConnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		keys := w.admin("keys")
		made := must(keys.CreateKey(t.Context(), client.NewKey{Name: "orders", Scopes: []string{"feed"}}))(t)
		l := must(w.issuer.Log(t.Context()))(t)
		replace := sync.OnceFunc(func() { must(keys.ReplaceKey(t.Context(), made.ID, 0))(t) })
		before := func(context.Context) error { replace(); return nil }
		w.source.before.Store(&before)
		_, err := w.feed(made.Secret, http.Header{ // a position that the node has to look up
			feed.HeaderLog: {l.ID}, feed.HeaderEpoch: {fmt.Sprint(l.Epoch)},
			feed.HeaderPosition: {"1"}, feed.HeaderDigest: {feed.Digest{}.String()},
		})
		if status := ws.StatusError(0); !errors.As(err, &status) || status != http.StatusServiceUnavailable {
			t.Errorf("got %v, want 503", err)
		}
		if all := must(w.admin("audit").Verifiers(t.Context()))(t); len(all) != 1 {
			t.Errorf("got %+v, want only the server's own", all)
		}
	})
}

func TestSigningKeyWithdrawn(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	tokens := w.session("u_1")
	old := must(w.admin("keys").SigningKeys(ctx))(t)[0]
	out := must(w.admin("revoke").Revoke(ctx, client.RevokeRequest{Claim: "kid", Value: old.ID, Reason: "stolen"}))(t)
	w.follows(out.Position)
	all := must(w.admin("keys").SigningKeys(ctx))(t)
	if len(all) != 3 || !all[0].Withdrawn || all[0].Retired.IsZero() || all[1].Withdrawn || all[2].Withdrawn {
		t.Errorf("got %+v, want the old key withdrawn, the next in its place and a new one after that", all)
	}
	_, err := w.public.Account(ctx, tokens.AccessToken)
	refused(t, "a token of the stolen key", err, 401, client.CodeToken)
	fresh := must(w.public.Refresh(ctx, tokens.RefreshToken, ""))(t)
	must(w.public.Account(ctx, fresh.AccessToken))(t)
}

func TestSigningKeyRotated(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	tokens := w.session("u_1")
	keys := must(w.admin("keys").SigningKeys(ctx))(t)
	_, err := w.admin("keys").RotateSigningKey(ctx, false)
	refused(t, "a key that was published just now", err, 409, client.CodeConflict)
	if got := must(w.admin("keys").SigningKeys(ctx))(t); !cmp.Equal(got, keys) {
		t.Errorf("a refused rotation changed the keys: got %+v", got)
	}
	if got := must(w.admin("keys").RotateSigningKey(ctx, true))(t); !cmp.Equal(got, keys[1]) {
		t.Errorf("got %+v, want the next key, %+v", got, keys[1])
	}
	must(w.public.Account(ctx, tokens.AccessToken))(t)
	fresh := must(w.public.Refresh(ctx, tokens.RefreshToken, ""))(t)
	must(w.public.Account(ctx, fresh.AccessToken))(t)
	all := must(w.admin("keys").SigningKeys(ctx))(t)
	if len(all) != 3 || all[0].Retired.IsZero() || all[0].Withdrawn || !all[1].Retired.IsZero() || !all[2].Retired.IsZero() {
		t.Errorf("got %+v, want the first retired, the next in its place and a new one after that", all)
	}
	noted := must(w.admin("audit").Audit(ctx, client.AuditQuery{Event: "signing_key_rotated"}))(t).Items
	if len(noted) != 1 || noted[0].Actor != "admin:the keys key" {
		t.Errorf("the audit has %+v, want who rotated", noted)
	}
}

func TestMetrics(t *testing.T) {
	w := newWorld(t)
	tokens := w.session("u_1")
	w.follows(must(w.public.Logout(t.Context(), tokens.RefreshToken))(t).Position)
	answer, text := w.listeners()["private"]("GET", "/metrics", nil, "")
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("got %d", answer.StatusCode)
	}
	for _, line := range []string{
		"quash_log_position 1\n", "quash_store_position 1\n", "quash_live_revocations 1\n", "quash_verifiers 1\n", `quash_verifier_lag_positions{name="public"`,
		`quash_http_request_seconds_count{route="POST /v1/logout",status="200"} 1`, "quash_password_hashes_total ", "quash_feed_frames_total 1\n",
		"quash_leases_lost_total 0\n", `quash_verifier_lease_seconds{name="public"`, `quash_verifier_stale_routes{name="public"`,
	} {
		if !strings.Contains(text, line) {
			t.Errorf("no %q in the metrics:\n%s", line, text)
		}
	}
	public := httptest.NewRecorder()
	w.api.Public(w.verifier).ServeHTTP(public, httptest.NewRequest("GET", "/metrics", nil))
	if public.Code != http.StatusNotFound {
		t.Errorf("the public listener answers /metrics with %d, want 404", public.Code)
	}
}

// TestOneRecordARequest: routes, not paths, and no query strings.
func TestOneRecordARequest(t *testing.T) {
	w := newWorld(t)
	before := len(w.logged.String())
	_, err := w.admin("accounts").DeleteAccount(t.Context(), "somebody", client.Change{Reason: "between us"})
	refused(t, "nobody", err, 404, client.CodeNotFound)
	records := slices.Collect(strings.Lines(w.logged.String()[before:]))
	records = slices.DeleteFunc(records, func(r string) bool { return strings.Contains(r, `"/v1/feed"`) }) // the verifier's may come late
	var got map[string]any
	if err := json.Unmarshal([]byte(strings.Join(records, "")), &got); err != nil {
		t.Fatalf("want one record: %v", err)
	}
	for _, name := range []string{"time", "ms", "bytes"} {
		if _, ok := got[name]; !ok {
			t.Errorf("the record lacks %s", name)
		}
		delete(got, name)
	}
	want := map[string]any{
		"level": "INFO", "msg": "request", "method": "DELETE", "route": "/v1/admin/accounts/{subject}", "status": 404.0,
		"address": "192.0.2.1", "actor": "admin:the accounts key", "code": "not_found",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the record of a request (-want +got):\n%s", diff)
	}
}

func TestForeignIssuers(t *testing.T) {
	w := newWorld(t)
	ctx, keys := t.Context(), w.admin("keys")
	if got := must(keys.Issuers(ctx))(t); len(got) != 0 {
		t.Errorf("at first: got %+v, want none", got)
	}
	_, err := w.admin("revoke").Revoke(ctx, client.RevokeRequest{Issuer: "before", Claim: "sub", Value: "u_1"})
	refused(t, "an issuer that was not added", err, 404, client.CodeNotFound)
	same, apart := true, false
	want := client.Issuer{Name: "before", MaxLifetime: 86400, SameSubjects: true}
	for _, again := range []*bool{&same, nil} {
		if got := must(keys.AddIssuer(ctx, client.NewIssuer{Name: "before", MaxLifetime: 86400, SameSubjects: again}))(t); got != want {
			t.Errorf("added: got %+v, want %+v", got, want)
		}
	}
	if got := must(keys.Issuers(ctx))(t); !cmp.Equal(got, []client.Issuer{want}) {
		t.Errorf("listed: got %+v, want %+v", got, want)
	}
	out := must(w.admin("revoke").Revoke(ctx, client.RevokeRequest{Issuer: "before", Claim: "sub", Value: "u_1"}))(t)
	w.follows(out.Position)
	r := must(w.admin("audit").Revocation(ctx, out.Position))(t).Revocation
	if r.Issuer != "before" || r.NotBefore.IsZero() || r.NotBefore.After(r.Time) {
		t.Errorf("the revocation: got %+v, want one of that issuer with its second", r)
	}
	want.SameSubjects = false
	if got := must(keys.AddIssuer(ctx, client.NewIssuer{Name: "before", MaxLifetime: 1, SameSubjects: &apart}))(t); got != want {
		t.Errorf("its subjects are its own again: got %+v, want %+v", got, want)
	}
	_, err = keys.AddIssuer(ctx, client.NewIssuer{Name: "before", MaxLifetime: 1 << 60})
	refused(t, "a lifetime without end", err, 400, client.CodeInvalid)
}
