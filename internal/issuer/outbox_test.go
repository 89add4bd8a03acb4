package issuer_test

import (
	"strings"
	"testing"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/storetest"
)

// openShared opens a house whose store has an outbox.
func openShared(t testing.TB, edit ...func(*issuer.Config)) (*house, *storetest.Shared) {
	t.Helper()
	shared := storetest.Share(openStore(t, ":memory:"))
	h := &house{t: t, store: &flaky{Store: shared}, cfg: issuer.Config{Issuer: "https://id.example", Secret: secret}}
	for _, e := range edit {
		e(&h.cfg)
	}
	h.restart()
	return h, shared
}

// drain empties the outbox as nodes do, and returns how many transactions it took.
func (h *house) drain() (transactions int) {
	h.t.Helper()
	for left := true; left; transactions++ {
		_, err := h.store.Update(h.ctx(), func(tx issuer.Tx) (err error) {
			left, err = h.Drain(tx)
			return err
		})
		if err != nil {
			h.t.Fatal(err)
		}
	}
	return transactions
}

// A request is a revocation like any other, and its maker is in the evidence.
func TestP2RequestsAreCarriedOutInOrder(t *testing.T) {
	h, shared := openShared(t)
	one, two := h.session("u1"), h.session("u2")
	kid := parse(t, one.AccessToken).kid
	before := h.head()
	ids := []uint64{
		shared.Request("sub", "u1", "password changed in the shop"), shared.Request("sid", two.Session, ""),
		shared.Request("client_id", "default", "recalled"), shared.Request("kid", kid, "stolen"),
	}
	if n := h.drain(); n != 1 {
		t.Errorf("it took %d transactions, want 1", n)
	}
	made := h.since(before)
	if len(made) != 4 {
		t.Fatalf("got %d revocations, want 4", len(made))
	}
	for n, want := range []string{"sub", "sid", "client_id", "kid"} {
		if r := made[n]; r.Claim != want || r.Actor != "outbox:shop" || r.Position != before+uint64(n)+1 {
			t.Errorf("revocation %d: got %+v, want %s by outbox:shop", n, r, want)
		}
		if a, err := h.Request(t.Context(), ids[n]); err != nil || a != (issuer.Answer{Position: made[n].Position}) {
			t.Errorf("request %d: got %+v, %v, want position %d", ids[n], a, err, made[n].Position)
		}
		e, err := h.Evidence(t.Context(), made[n].Position)
		if err != nil || e.Audit == nil || e.Audit.Actor != "outbox:shop" {
			t.Errorf("evidence of %d: got %+v, %v, want who asked for it", made[n].Position, e.Audit, err)
		}
	}
	if made[0].Reason != "password changed in the shop" {
		t.Errorf("reason: got %q", made[0].Reason)
	}
	for _, g := range []issuer.Grant{one, two} {
		if _, found := h.row(g.Session); found {
			t.Errorf("session of %s lives on", g.Subject)
		}
		h.lives("token of "+g.Subject, g.AccessToken, false)
	}
	if h.published(kid) {
		t.Error("the stolen key is still published")
	}
	_, err := h.Request(t.Context(), 99)
	h.refused("a request that was never made", err, issuer.CodeNotFound)
}

// What a rule refuses is in nobody's way, and says why.
func TestRefusedRequestsBlockNoOther(t *testing.T) {
	h, shared := openShared(t)
	g := h.session("u1")
	refused := map[uint64]string{
		shared.Request("kid", "nothing", "x"):                      "no such signing key",
		shared.Request("colour", "blue", "x"):                      "no token carries",
		shared.Request("sub", "", "x"):                             "want 1 to 512",
		shared.Request("sub", "u1", strings.Repeat("x", 1000)):     "reason",
		shared.Request("kid", parse(t, g.AccessToken).kid, "\x00"): "reason",
	}
	good := shared.Request("sub", "u1", "good")
	keys, _ := h.SigningKeys(t.Context())
	h.drain()
	if a, err := h.Request(t.Context(), good); err != nil || a.Position != h.head() || a.Waiting {
		t.Errorf("the good one: got %+v, %v, want position %d", a, err, h.head())
	}
	noted := map[string]bool{}
	entries, err := h.Audit(t.Context(), issuer.AuditQuery{Event: "request_refused", Limit: 100})
	if err != nil || len(entries) != len(refused) {
		t.Fatalf("audit: got %d entries, %v, want %d", len(entries), err, len(refused))
	}
	for _, e := range entries {
		noted[e.Reason] = e.Actor == "outbox:shop" && strings.Contains(string(e.Detail), `"request":`)
	}
	for id, why := range refused {
		if a, err := h.Request(t.Context(), id); err != nil || a != (issuer.Answer{}) {
			t.Errorf("request %d: got %+v, %v, want neither a position nor that it waits", id, a, err)
		}
		found := false
		for reason, whole := range noted {
			found = found || whole && strings.Contains(reason, why)
		}
		if !found {
			t.Errorf("no entry of the audit says %q: %v", why, noted)
		}
	}
	if after, _ := h.SigningKeys(t.Context()); len(after) != len(keys) {
		t.Errorf("a refused request left %d signing keys, want %d", len(after), len(keys))
	}
}

// P6 and P9: a request that was committed before a login or refresh begins
// kills nothing that this issues, and what it ended does not refresh.
func TestP9IssuingDrainsTheOutbox(t *testing.T) {
	h, shared := openShared(t)
	h.account(issuer.NewAccount{Subject: "u1", Name: "ada", Password: password})
	old := h.session("u1")
	shared.Request("sub", "u1", "password changed")
	_, err := h.refresh(old.RefreshToken, "")
	h.refused("refresh of a session that was to end", err, issuer.CodeGrant)
	shared.Request("sub", "u1", "again")
	fresh, err := h.login("ada", password)
	if err != nil {
		t.Fatal(err)
	}
	if shared.Waiting() != 0 {
		t.Errorf("%d requests wait after a login", shared.Waiting())
	}
	h.lives("token of before", old.AccessToken, false)
	h.lives("token of the login after the request", fresh.AccessToken, true)
	for range 1200 {
		shared.Request("sub", "u2", "many")
	}
	before := h.head()
	again := h.mustRefresh(fresh.RefreshToken, "")
	h.lives("token of a refresh behind many requests", again.AccessToken, true)
	if got := h.head() - before; got != 1200 {
		t.Errorf("got %d revocations, want 1200", got)
	}
	for range 20 * 500 {
		shared.Request("sub", "u2", "more than one call drains")
	}
	_, err = h.refresh(again.RefreshToken, "")
	h.refused("refresh behind a flood", err, issuer.CodeUnavailable)
	if n := h.drain(); shared.Waiting() != 0 {
		t.Errorf("%d requests wait after %d transactions", shared.Waiting(), n)
	}
	h.mustRefresh(again.RefreshToken, "")
}

// Nothing is issued while the outbox cannot be emptied.
func TestIssuingNeedsTheOutbox(t *testing.T) {
	h, shared := openShared(t)
	g := h.session("u1")
	shared.Request("sub", "u2", "asked")
	h.store.failWrite = 1
	_, err := h.refresh(g.RefreshToken, "")
	h.refused("refresh", err, issuer.CodeUnavailable)
	h.store.failWrite = 0
	h.mustRefresh(g.RefreshToken, "")
}
