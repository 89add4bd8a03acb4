package issuer_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revset"
)

const idp = "https://idp.example"

// add has the house know another issuer.
func (h *house) add(name string, lifetime time.Duration, same bool) issuer.Foreign {
	h.t.Helper()
	return h.put(issuer.IssuerRequest{Name: name, MaxLifetime: lifetime, SameSubjects: &same})
}

func (h *house) put(r issuer.IssuerRequest) issuer.Foreign {
	h.t.Helper()
	f, err := h.AddIssuer(h.ctx(), admin, r)
	if err != nil {
		h.t.Fatal(err)
	}
	return f
}

// after returns the revocations after a position.
func (h *house) after(position uint64) (list []issuer.Revocation) {
	h.t.Helper()
	err := h.store.View(h.ctx(), func(rd issuer.Reader) (err error) {
		list, err = rd.History(position, 100)
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return list
}

func TestForeignTokensAreRevokedByTheirTime(t *testing.T) {
	h := open(t)
	h.add(idp, 24*time.Hour, false)
	for claim, forever := range map[string]bool{"sub": false, "email": false, "sid": true, "jti": true, "kid": true, "iss": false} {
		value := "x"
		if claim == "iss" {
			value = idp
		}
		out, err := h.Revoke(h.ctx(), admin, issuer.RevokeRequest{Issuer: idp, Claim: claim, Value: value, Reason: "asked"})
		if err != nil {
			t.Fatalf("%s: %v", claim, err)
		}
		r := h.after(out.Position - 1)[0]
		if r.Issuer != idp || r.Claim != claim || r.Value != value || r.Reason != "asked" || (r.Before == revset.Forever) != forever {
			t.Errorf("%s: got %+v, want forever %t", claim, r, forever)
		}
		if at := time.Unix(int64(r.NotBefore), 0); at.After(r.Time) || r.Time.Sub(at) >= time.Second {
			t.Errorf("%s: got not before %s, want the second of %s", claim, at, r.Time)
		}
		want := uint32(r.Time.Add(24*time.Hour + 11*time.Minute).Unix())
		if claim == "kid" {
			want = revset.NeverForget
		}
		if r.Forget != want {
			t.Errorf("%s: got forget %d, want %d", claim, r.Forget, want)
		}
	}
	h.whole("after revocations of another issuer's tokens")
}

func TestForeignRevocationsThatAreRefused(t *testing.T) {
	h := open(t)
	h.add(idp, time.Hour, false)
	for what, c := range map[string]struct {
		r    issuer.RevokeRequest
		want issuer.Code
	}{
		"an issuer that is not known": {issuer.RevokeRequest{Issuer: "https://nobody.example", Claim: "sub", Value: "u"}, issuer.CodeNotFound},
		"no value":                    {issuer.RevokeRequest{Issuer: idp, Claim: "sub"}, issuer.CodeInvalid},
		"no claim":                    {issuer.RevokeRequest{Issuer: idp, Value: "u"}, issuer.CodeInvalid},
		"sessions":                    {issuer.RevokeRequest{Issuer: idp, Claim: "sub", Value: "u", End: true}, issuer.CodeInvalid},
		"another iss":                 {issuer.RevokeRequest{Issuer: idp, Claim: "iss", Value: "u"}, issuer.CodeInvalid},
		"a number of 2^53":            {issuer.RevokeRequest{Issuer: idp, Claim: "user_id", Value: "9007199254740992"}, issuer.CodeInvalid},
		"a negative one":              {issuer.RevokeRequest{Issuer: idp, Claim: "user_id", Value: "-9007199254740993"}, issuer.CodeInvalid},
		"one with an exponent":        {issuer.RevokeRequest{Issuer: idp, Claim: "user_id", Value: "1e400"}, issuer.CodeInvalid},
	} {
		_, err := h.Revoke(h.ctx(), admin, c.r)
		h.refused(what, err, c.want)
	}
	for what, f := range map[string]issuer.IssuerRequest{
		"no name":      {MaxLifetime: time.Hour},
		"its own name": {Name: h.cfg.Issuer, MaxLifetime: time.Hour},
		"no lifetime":  {Name: "a"},
		"a fraction":   {Name: "a", MaxLifetime: 1500 * time.Millisecond},
		"too long":     {Name: "a", MaxLifetime: 11 * 365 * 24 * time.Hour},
	} {
		_, err := h.AddIssuer(h.ctx(), admin, f)
		h.refused(what, err, issuer.CodeInvalid)
	}
	if got := h.after(0); len(got) > 0 {
		t.Errorf("got %d revocations of what was refused, want none", len(got))
	}
}

// What is a string in every token is told apart by all of its digits, and what
// is no number, or a small one, by what it is.
func TestForeignValuesThatLookLikeNumbers(t *testing.T) {
	h := open(t)
	h.add(idp, time.Hour, false)
	for claim, value := range map[string]string{
		"sub": "110169484474386276334", "sid": "9007199254740993", "user_id": "9007199254740991", "phone": "+9007199254740993", "email": "9007199254740993@idp.example",
	} {
		if _, err := h.Revoke(h.ctx(), admin, issuer.RevokeRequest{Issuer: idp, Claim: claim, Value: value}); err != nil {
			t.Errorf("%s %s: %v", claim, value, err)
		}
	}
}

// Tokens of others do not carry the claims, and nothing refreshes them.
func TestClaimsThatChangeLeaveOtherIssuersAlone(t *testing.T) {
	h := open(t)
	h.add("before", time.Hour, true)
	h.session("u_1")
	if _, err := h.PutClaims(h.ctx(), admin, issuer.Target{Subject: "u_1"}, []byte(`{"tenant":"acme"}`)); err != nil {
		t.Fatal(err)
	}
	if got := h.after(0); len(got) != 1 || got[0].Issuer != h.cfg.Issuer || got[0].Claim != "sub" {
		t.Errorf("got %+v, want the subject's tokens of this server alone", got)
	}
}

// P2: where the subjects are the same, every event that ends what a subject has
// revokes it there in the same transaction.
func TestP2SharedSubjectsAreRevokedTogether(t *testing.T) {
	for name, happen := range map[string]func(*house, issuer.Target) (issuer.Effect, error){
		"logout of all": func(h *house, t issuer.Target) (issuer.Effect, error) { return h.LogoutAll(h.ctx(), admin, t) },
		"deactivation":  func(h *house, t issuer.Target) (issuer.Effect, error) { return h.Deactivate(h.ctx(), admin, t) },
		"deletion":      func(h *house, t issuer.Target) (issuer.Effect, error) { return h.Delete(h.ctx(), admin, t) },
		"revocation": func(h *house, t issuer.Target) (issuer.Effect, error) {
			return h.Revoke(h.ctx(), admin, issuer.RevokeRequest{Claim: "sub", Value: t.Subject})
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			h.add("before", time.Hour, true)
			h.add(idp, time.Hour, false)
			h.add("legacy", time.Hour, true)
			h.session("u_1")
			out, err := happen(h, issuer.Target{Subject: "u_1"})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range h.after(0) {
				got = append(got, fmt.Sprint(r.Issuer, " ", r.Claim, " ", r.Value, " ", r.NotBefore != 0, " ", r.Event))
			}
			e := out.Event
			want := []string{h.cfg.Issuer + " sub u_1 false " + e, "before sub u_1 true " + e, "legacy sub u_1 true " + e}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("revocations (-want +got):\n%s", d)
			}
			if out.Position != 3 {
				t.Errorf("got position %d, want that of the last: what waits for it waits for all", out.Position)
			}
		})
	}
}

func TestLogoutOfOneSessionLeavesOthersAlone(t *testing.T) {
	h := open(t)
	h.add("before", time.Hour, true)
	g := h.session("u_1")
	if _, err := h.Logout(context.Background(), g.RefreshToken, ""); err != nil {
		t.Fatal(err)
	}
	if got := h.after(0); len(got) != 1 || got[0].Claim != "sid" {
		t.Errorf("got %+v, want the session alone", got)
	}
}

func TestAForeignLifetimeNeverGetsShorter(t *testing.T) {
	h := open(t)
	h.add(idp, time.Hour, true)
	if got, want := h.add(idp, time.Minute, false), (issuer.Foreign{Name: idp, MaxLifetime: time.Hour}); got != want {
		t.Errorf("shortened: got %+v, want %+v", got, want)
	}
	if got := h.after(0); len(got) > 0 {
		t.Errorf("got %d revocations, want none", len(got))
	}
	h.add(idp, 2*time.Hour, false)
	got := h.after(0)
	if len(got) != 1 || got[0].Issuer != idp || got[0].Claim != "iss" || got[0].Value != idp || got[0].NotBefore == 0 {
		t.Errorf("lengthened: got %+v, want that what was made before is revoked", got)
	}
	list, err := h.ForeignIssuers(h.ctx())
	if d := cmp.Diff([]issuer.Foreign{{Name: idp, MaxLifetime: 2 * time.Hour}}, list); d != "" || err != nil {
		t.Errorf("issuers (-want +got):\n%s, %v", d, err)
	}
}

// P2: what revoked a subject here before the subjects were the same did not
// revoke it there.
func TestP2SubjectsThatBecomeTheSame(t *testing.T) {
	h := open(t)
	again := issuer.IssuerRequest{Name: idp, MaxLifetime: time.Hour}
	h.put(again)
	h.session("u_1")
	if _, err := h.LogoutAll(h.ctx(), admin, issuer.Target{Subject: "u_1"}); err != nil {
		t.Fatal(err)
	}
	before := h.head()
	if got := h.add(idp, time.Hour, true); !got.SameSubjects {
		t.Errorf("got %+v, want the same subjects", got)
	}
	got := h.after(before)
	if len(got) != 1 || got[0].Issuer != idp || got[0].Claim != "iss" || got[0].NotBefore == 0 {
		t.Errorf("got %+v, want that what was made before is revoked", got)
	}
	if got := h.put(again); !got.SameSubjects {
		t.Error("where it was left out, the subjects are the same no more")
	}
	if got := h.add(idp, time.Hour, false); got.SameSubjects {
		t.Error("the subjects are still the same")
	}
	if got := h.after(before); len(got) != 1 {
		t.Errorf("got %d revocations, want none more", len(got))
	}
}

// P9: an issuer that was in what was lost is added again, and with it nothing of
// what had revoked its tokens.
func TestP9AnIssuerThatWasLost(t *testing.T) {
	h, shared := openShared(t)
	h.append(issuer.Revocation{Issuer: h.cfg.Issuer, Claim: "sub", Value: "u9", Time: time.Now()})
	shared.Fork()
	if err := h.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := h.head()
	h.add(idp, time.Hour, false)
	got := h.after(before)
	if len(got) != 1 || got[0].Issuer != idp || got[0].Claim != "iss" || got[0].Value != idp || got[0].NotBefore == 0 {
		t.Errorf("got %+v, want that what the issuer made before is revoked", got)
	}
}

// P9: what revoked a token of another issuer may be in what was lost.
func TestP9AnEpochRevokesForeignTokensToo(t *testing.T) {
	h, shared := openShared(t)
	h.add(idp, time.Hour, false)
	h.append(issuer.Revocation{Issuer: h.cfg.Issuer, Claim: "sub", Value: "u9", Time: time.Now()})
	shared.Fork()
	if err := h.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	var found bool
	for _, r := range h.after(0) {
		found = found || r.Issuer == idp && r.Claim == "iss" && r.Value == idp && r.NotBefore != 0
	}
	if !found {
		t.Error("the epoch does not revoke what the other issuer made before")
	}
}
