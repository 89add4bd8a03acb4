package issuer_test

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash/internal/issuer"
)

var newSecret = bytes.Repeat([]byte{9}, 32)

// secrets has the house start again with others.
func (h *house) secrets(secret, previous []byte) {
	h.t.Helper()
	h.cfg.Secret, h.cfg.PreviousSecret = secret, previous
	h.restart()
}

// node is another issuer over the store of the house.
func (h *house) node(secret, previous []byte) (*house, error) {
	h.t.Helper()
	n := *h
	n.cfg.Secret, n.cfg.PreviousSecret = secret, previous
	var err error
	if n.Issuer, err = issuer.New(n.cfg, n.store); err != nil {
		h.t.Fatal(err)
	}
	return &n, n.Prepare(h.ctx())
}

func (h *house) mustNode(secret, previous []byte) *house {
	h.t.Helper()
	n, err := h.node(secret, previous)
	if err != nil {
		h.t.Fatal(err)
	}
	return n
}

func TestPreviousSecretIsChecked(t *testing.T) {
	for want, previous := range map[string][]byte{"want 32 octets, got 0": {}, "got 31": newSecret[:31], "it is the secret itself": secret} {
		_, err := issuer.New(issuer.Config{Issuer: "https://id.example", Secret: secret, PreviousSecret: previous}, nil)
		if err == nil || !strings.Contains(err.Error(), "previous secret: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// P10: whatever was made with the secret before goes on, as what it was.
func TestP10OneLineageAcrossAChangeOfTheSecret(t *testing.T) {
	t.Run("a session goes on", bubble(func(t *testing.T) {
		h := open(t)
		a := h.session(subject)
		h.secrets(newSecret, secret)
		b := h.mustRefresh(a.RefreshToken, "")
		h.secrets(newSecret, nil)
		h.mustRefresh(b.RefreshToken, "")
	}))
	t.Run("a retry gets the same successor", bubble(func(t *testing.T) {
		h := open(t)
		a := h.session(subject)
		lost := h.mustRefresh(a.RefreshToken, "K")
		h.secrets(newSecret, secret)
		time.Sleep(time.Hour)
		b := h.mustRefresh(a.RefreshToken, "K")
		if again := h.mustRefresh(a.RefreshToken, "K"); again.RefreshToken != b.RefreshToken {
			t.Error("two retries got two successors")
		}
		// The answer that was lost, or reached another tab, is the same successor.
		c := h.mustRefresh(lost.RefreshToken, "")
		if again := h.mustRefresh(b.RefreshToken, ""); again.RefreshToken != c.RefreshToken {
			t.Error("the successor that the old secret made is another than that of the new")
		}
		if s, _ := h.row(a.Session); s.Counter != 3 || len(h.since(0)) != 0 {
			t.Errorf("the counter is %d, and %d revocations; want 3 and none", s.Counter, len(h.since(0)))
		}
	}))
	for name, old := range map[string]bool{"made with the old secret": true, "made with both": false} {
		t.Run("reuse ends the session, "+name, bubble(func(t *testing.T) {
			h := open(t)
			a := h.session(subject)
			if old {
				h.mustRefresh(h.mustRefresh(a.RefreshToken, "").RefreshToken, "")
			}
			h.secrets(newSecret, secret)
			if !old {
				h.mustRefresh(h.mustRefresh(a.RefreshToken, "").RefreshToken, "")
			}
			_, err := h.refresh(a.RefreshToken, "")
			h.refused("reuse", err, issuer.CodeGrant)
			if found := h.since(0); len(found) != 1 || found[0].Event != issuer.RefreshReused.Name {
				t.Errorf("revocations %+v, want the one of reuse", found)
			}
		}))
	}
	t.Run("logout", bubble(func(t *testing.T) {
		h := open(t)
		a := h.session(subject)
		h.secrets(newSecret, secret)
		if out, err := h.Logout(h.ctx(), a.RefreshToken, ""); err != nil || out.Sessions != 1 {
			t.Errorf("got %+v, %v; want the session ended", out, err)
		}
	}))
}

func TestAForgottenSecretMakesNothing(t *testing.T) {
	h := open(t)
	a := h.session(subject)
	h.secrets(newSecret, secret)
	h.secrets(newSecret, nil)
	before := h.everything()
	_, err := h.refresh(a.RefreshToken, "")
	h.refused("a refresh token of the secret before", err, issuer.CodeGrant)
	_, err = h.Logout(h.ctx(), a.RefreshToken, "")
	h.refused("logout by it", err, issuer.CodeGrant)
	h.unchanged("tokens of the secret before", before)
	h.lives("access tokens, which no secret made", a.AccessToken, true)
	if _, err := h.node(secret, nil); err == nil || !strings.Contains(err.Error(), "give that as the previous one") {
		t.Errorf("with the secret before alone: got %v, want it refused", err)
	}
}

func TestSigningKeysAreSealedAnew(t *testing.T) {
	h := open(t)
	g := h.session(subject)
	old := h.everything().Signing
	h.secrets(newSecret, secret)
	fresh := h.everything()
	for n, k := range fresh.Signing {
		if k.ID != old[n].ID || bytes.Equal(k.Sealed, old[n].Sealed) {
			t.Errorf("key %d: want the same, sealed anew", n)
		}
	}
	if audit := fresh.Audit[0]; audit.Event != "secret_changed" || !strings.Contains(string(audit.Detail), old[1].ID) {
		t.Errorf("the audit says %+v, want that the secret was changed", audit)
	}
	h.lives("of before", g.AccessToken, true)
	h.lives("after", h.mustRefresh(g.RefreshToken, "").AccessToken, true)
	again := h.everything()
	h.restart()
	if diff := cmp.Diff(again, h.everything()); diff != "" {
		t.Errorf("another start changed something (-before +after):\n%s", diff)
	}
}

// Each write of the start that changes the secret fails in turn.
func TestP2SigningKeysAreSealedAnewAllOrNone(t *testing.T) {
	h := open(t)
	before := h.everything()
	failed := true
	for n := 1; failed; n++ {
		h.store.failWrite, h.store.failed = n, false
		_, err := h.node(newSecret, secret)
		if failed = h.store.failed; failed == (err == nil) {
			t.Errorf("write %d: failed = %v, and the start says %v", n, failed, err)
		}
		if failed {
			h.unchanged("a start that failed", before)
		}
	}
	h.store.failWrite = 0
	h.secrets(newSecret, nil)
}

// Whoever has the secret and the database can make all tokens; the steps of
// docs/operations.md leave nothing of that.
func TestLeakedSecretAndDatabase(t *testing.T) {
	h := open(t)
	g := h.session(subject)
	h.register("orders", "https://orders.example")
	own := h.sessionOf(subject, "orders").AccessToken
	thief := *h
	thief.restart()
	stolen, _ := h.row(g.Session)
	forged, err := thief.Sign(h.ctx(), "at+jwt", []byte(`{"sub":"root","rev":9007199254740990,"exp":4102444800}`))
	if err != nil {
		t.Fatal(err)
	}
	h.lives("forged with a stolen key", forged, true)
	h.secrets(newSecret, secret)
	pair := h.kids()
	h.revokeKey(pair[1])
	h.revokeKey(pair[0])
	if out, err := h.Revoke(h.ctx(), admin, issuer.RevokeRequest{Claim: "iss", Value: h.cfg.Issuer, End: true}); err != nil || out.Sessions != 2 {
		t.Fatalf("got %+v, %v; want every session ended", out, err)
	}
	h.secrets(newSecret, nil)
	h.lives("forged with a stolen key", forged, false)
	h.lives("of before", g.AccessToken, false)
	h.lives("of a client that has an audience of its own", own, false)
	fresh := h.session(subject)
	h.lives("of a new login", fresh.AccessToken, true)
	current, _ := h.row(fresh.Session)
	for what, token := range map[string]string{"made for the stolen row": thief.RefreshTokenOf(stolen, 1), "made for a row of now": thief.RefreshTokenOf(current, 1)} {
		_, err := h.refresh(token, "")
		h.refused(what, err, issuer.CodeGrant)
	}
	if _, err := thief.Sign(h.ctx(), "at+jwt", []byte(`{}`)); err == nil {
		t.Error("the old secret opens a key that signs")
	}
}

// The order of docs/operations.md: every node takes both, then every node makes
// with the new one, then the old one goes. Clients go from node to node all the
// while, keys are replaced, and nobody logs in again.
func TestSecretIsChangedOnNodesOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		nodes := []*house{h.mustNode(secret, nil), h.mustNode(secret, nil)}
		sessions := []issuer.Grant{h.session("a"), h.session("b"), h.session("c")}
		live := func(step string) {
			t.Helper()
			for round := range 2 {
				for n, g := range sessions {
					at, beside := nodes[(round+n)%2], nodes[(round+n+1)%2]
					sessions[n] = at.mustRefresh(g.RefreshToken, "")
					beside.mustRefresh(g.RefreshToken, "") // a lost answer, repeated elsewhere
					beside.lives(step, sessions[n].AccessToken, true)
				}
				nodes[round].revokeKey(h.kids()[round])
				time.Sleep(time.Minute)
			}
		}
		live("before")
		for _, step := range []struct{ secret, previous []byte }{{secret, newSecret}, {newSecret, secret}, {newSecret, nil}} {
			for n := range nodes {
				nodes[n] = h.mustNode(step.secret, step.previous)
				live("between")
			}
		}
		if got := h.since(0); len(got) != 14 {
			t.Errorf("%d revocations, want the 14 of keys and none of a session", len(got))
		}
	})
}

// Why every node has to know the new secret before the first makes with it.
func TestANodeRefusesWhatASecretMadeThatItDoesNotKnow(t *testing.T) {
	h := open(t)
	g := h.session(subject)
	changed := h.mustNode(newSecret, secret)
	next := changed.mustRefresh(g.RefreshToken, "")
	before := h.everything()
	_, err := h.refresh(next.RefreshToken, "")
	h.refused("at the node that was not started again", err, issuer.CodeGrant)
	h.unchanged("the refusal", before)
	changed.mustRefresh(next.RefreshToken, "")
}
