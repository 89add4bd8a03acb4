package issuer_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quashdev/quash/internal/issuer"
)

func (h *house) putClaims(doc string) (issuer.Effect, error) {
	return h.PutClaims(h.ctx(), admin, issuer.Target{Subject: subject}, json.RawMessage(doc))
}

func TestAccountsRefuse(t *testing.T) {
	h := open(t)
	h.account(issuer.NewAccount{Subject: subject, Name: "ada"})
	before := h.everything()
	for what, n := range map[string]issuer.NewAccount{
		"a subject with a blank":        {Subject: "u 1"},
		"a subject that is too long":    {Subject: strings.Repeat("u", 129)},
		"a name with a blank":           {Name: "ada lovelace"},
		"a name that is too long":       {Name: strings.Repeat("é", 65)},
		"a name of a megabyte":          {Name: strings.Repeat("a", 1<<20)},
		"a password without a name":     {Password: password},
		"claims that are not an object": {Claims: json.RawMessage(`["a"]`)},
	} {
		_, err := h.CreateAccount(t.Context(), admin, n)
		h.refused(what, err, issuer.CodeInvalid)
	}
	for what, n := range map[string]issuer.NewAccount{
		"a subject that is taken":                  {Subject: subject},
		"a name that is taken, in capital letters": {Name: "ADA"},
	} {
		_, err := h.CreateAccount(t.Context(), admin, n)
		h.refused(what, err, issuer.CodeConflict)
	}
	_, err := h.CreateAccount(t.Context(), admin, issuer.NewAccount{Name: "bob", Password: "short"})
	h.refused("a weak password", err, issuer.CodePassword)
	h.unchanged("a refused account", before)
	for _, change := range []func() error{
		func() error { _, err := h.Account(t.Context(), "u_x"); return err },
		func() error { _, err := h.AccountNamed(t.Context(), "nobody"); return err },
		func() error { _, err := h.Delete(t.Context(), admin, issuer.Target{Subject: "u_x"}); return err },
		func() error { _, err := h.Deactivate(t.Context(), admin, issuer.Target{Subject: "u_x"}); return err },
		func() error { _, err := h.EndSession(t.Context(), admin, issuer.Target{Session: "s_x"}); return err },
	} {
		h.refused("what is not there", change(), issuer.CodeNotFound)
	}
}

func TestDeletedSubjectsStartAnew(t *testing.T) {
	h := open(t)
	old := h.session(subject)
	if _, err := h.Delete(t.Context(), admin, issuer.Target{Subject: subject}); err != nil {
		t.Fatal(err)
	}
	again := h.session(subject)
	h.lives("of before", old.AccessToken, false)
	h.lives("of the subject of the same name", again.AccessToken, true)
	_, err := h.refresh(old.RefreshToken, "")
	h.refused("of before", err, issuer.CodeGrant)
}

func TestClaims(t *testing.T) {
	h := open(t)
	g := h.session(subject)
	before := h.everything()
	bad := map[string]string{
		"an array": `[]`, "a string": `"x"`, "null": `null`, "two objects": `{}{}`, "not closed": `{"a":1`,
		"a name twice": `{"a":1,"a":2}`, "a name twice, spelled otherwise": `{"a":1,"\u0061":2}`, "an empty name": `{"":1}`,
		"a name with a blank": `{"a b":1}`, "a long name": `{"` + strings.Repeat("a", 65) + `":1}`,
		"too large":                       `{"a":"` + strings.Repeat("x", 4<<10) + `"}`,
		"too large once it is in a token": `{"a":"` + strings.Repeat("<", 3<<10) + `"}`,
		"a megabyte":                      `{"a":"` + strings.Repeat("x", 1<<20) + `"}`,
		"a number of 2^53":                `{"a":9007199254740992}`,
		"a number below -2^53":            `{"a":-9007199254740993}`,
		"a number beyond doubles":         `{"a":1e999}`,
		"such a number in an array":       `{"a":["x",9007199254740992]}`,
		"U+0000":                          `{"a":"x\u0000"}`,
		"U+0000 in an array":              `{"a":["x","\u0000"]}`,
	}
	for _, name := range []string{"iss", "sub", "aud", "client_id", "iat", "exp", "nbf", "jti", "sid", "rev", "cnf", "act", "may_act", "kid"} {
		bad[name] = fmt.Sprintf(`{"tenant":"acme",%q:"x"}`, name)
	}
	for what, doc := range bad {
		_, err := h.putClaims(doc)
		h.refused(what, err, issuer.CodeInvalid)
	}
	h.unchanged("refused claims", before)
	h.lives("of before", g.AccessToken, true)

	if _, err := h.putClaims(`{"a":9007199254740991,"b":null,"c":{"d":9007199254740992},"e":[[9007199254740992],-1.5]}`); err != nil {
		t.Errorf("numbers that revocations can name, and what none names: %v", err)
	}
	g = h.mustRefresh(g.RefreshToken, "")
	largest := `{"a":"` + strings.Repeat("x", 4<<10-8) + `"}`
	if _, err := h.putClaims(largest); err != nil {
		t.Fatalf("%d octets: %v", len(largest), err)
	}
	h.lives("of before", g.AccessToken, false)
	h.lives("with the largest document", h.mustRefresh(g.RefreshToken, "").AccessToken, true)
}

func TestPutClaimsThatSayTheSameChangesNothing(t *testing.T) {
	h := open(t)
	g := h.session(subject)
	if _, err := h.putClaims(`{"tenant":"acme","roles":["a","b"],"x":{"y":1,"z":2}}`); err != nil {
		t.Fatal(err)
	}
	g = h.mustRefresh(g.RefreshToken, "")
	if got := fmt.Sprint(parse(t, g.AccessToken).claims["roles"]); got != "[a b]" {
		t.Errorf("roles after a refresh: %s, want [a b]", got)
	}
	before := h.everything()
	for _, same := range []string{
		`{"tenant":"acme","roles":["a","b"],"x":{"y":1,"z":2}}`,
		` { "x":{"z":2, "y":1}, "roles" : ["a","b"], "tenant":"\u0061cme" } `,
	} {
		effect, err := h.putClaims(same)
		if want := (issuer.Effect{Event: "claims_changed"}); err != nil || effect != want {
			t.Errorf("got %+v, %v; want %+v", effect, err, want)
		}
	}
	h.unchanged("the same claims", before)
	if _, err := h.putClaims(`{"tenant":"acme","roles":["b","a"],"x":{"y":1,"z":2}}`); err != nil {
		t.Fatal(err)
	}
	h.lives("with another order of roles", g.AccessToken, false)
}

func TestRevokeByAnyClaim(t *testing.T) {
	h := open(t)
	h.account(issuer.NewAccount{Subject: subject, Claims: json.RawMessage(`{"tenant":"acme","roles":["a","b"],"level":3,"beta":true}`)})
	other := h.session("u_2")
	open := func() (issuer.Grant, access) {
		g, err := h.OpenSession(t.Context(), admin, subject, issuer.Device{Client: "app"})
		if err != nil {
			t.Fatal(err)
		}
		return g, parse(t, g.AccessToken)
	}
	for _, claim := range []string{"sid", "sub", "jti", "client_id", "tenant", "roles", "level", "beta"} {
		for _, end := range []bool{false, true} {
			g, a := open()
			value := fmt.Sprint(a.claims[claim])
			if claim == "roles" {
				value = "b"
			}
			effect, err := h.Revoke(t.Context(), admin, issuer.RevokeRequest{Claim: claim, Value: value, End: end, Reason: "test"})
			if err != nil {
				t.Fatalf("%s: %v", claim, err)
			}
			what := fmt.Sprintf("%s=%s, end %v", claim, value, end)
			if effect.Tokens != 1 || effect.Position != h.head() || effect.Event != "revoked" {
				t.Errorf("%s: effect %+v, want one token at position %d", what, effect, h.head())
			}
			h.lives(what, g.AccessToken, false)
			h.lives(what+": somebody else's", other.AccessToken, true)
			ended := claim == "sid" || end && claim != "jti"
			if (effect.Sessions == 1) != ended {
				t.Errorf("%s: %d sessions ended, want it to be ended = %v", what, effect.Sessions, ended)
			}
			next, err := h.refresh(g.RefreshToken, "")
			if ended {
				h.refused(what+": refresh", err, issuer.CodeGrant)
				continue
			}
			if err != nil {
				t.Fatalf("%s: refresh: %v", what, err)
			}
			h.lives(what+": issued after", next.AccessToken, true)
			if _, err := h.Logout(t.Context(), next.RefreshToken, ""); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := h.Revoke(t.Context(), admin, issuer.RevokeRequest{Claim: "aud", Value: "https://id.example"}); err != nil {
		t.Fatal(err)
	}
	h.lives("somebody else's, after the audience", other.AccessToken, false)
}

func TestRevokeRefuses(t *testing.T) {
	h := open(t)
	h.account(issuer.NewAccount{Subject: subject, Claims: json.RawMessage(`{"tenant":"acme"}`)})
	before := h.everything()
	for _, tt := range []struct {
		what, claim, value string
		want               issuer.Code
	}{
		{"a claim that no token carries", "tenants", "acme", issuer.CodeUnknownClaim},
		{"no claim", "", "acme", issuer.CodeInvalid},
		{"a claim of a megabyte", strings.Repeat("c", 1<<20), "acme", issuer.CodeInvalid},
		{"the iss of another issuer", "iss", "https://other.example", issuer.CodeInvalid},
		{"scope, which tokens of one session have different", "scope", "read", issuer.CodeInvalid},
		{"an empty value", "tenant", "", issuer.CodeInvalid},
		{"a long value", "tenant", strings.Repeat("v", 513), issuer.CodeInvalid},
		{"a value that is not UTF-8", "tenant", "\xff", issuer.CodeInvalid},
		{"a value with U+0000", "tenant", "ac\x00me", issuer.CodeInvalid},
		{"a key that is not there", "kid", "nothing", issuer.CodeNotFound},
	} {
		_, err := h.Revoke(t.Context(), admin, issuer.RevokeRequest{Claim: tt.claim, Value: tt.value})
		h.refused(tt.what, err, tt.want)
		if err != nil && len(err.Error()) > 4096 {
			t.Errorf("%s: an error of %d octets", tt.what, len(err.Error()))
		}
	}
	_, err := h.Revoke(t.Context(), admin, issuer.RevokeRequest{Claim: "tenants", Value: "acme"})
	if err == nil || !strings.Contains(err.Error(), `"tenant"`) {
		t.Errorf("unknown claim: %v, want the claims that tokens carry", err)
	}
	h.unchanged("a refused revocation", before)
}

func TestRevokedSessionIsNamedInTheAudit(t *testing.T) {
	h := open(t)
	g := h.session(subject)
	if _, err := h.Revoke(t.Context(), admin, issuer.RevokeRequest{Claim: "sid", Value: g.Session, Reason: "lost phone"}); err != nil {
		t.Fatal(err)
	}
	entries, err := h.Audit(t.Context(), issuer.AuditQuery{Limit: 1})
	if err != nil || len(entries) != 1 {
		t.Fatal(len(entries), err)
	}
	if e := entries[0]; e.Session != g.Session || e.Reason != "lost phone" || e.Actor != admin.Name || e.Address != admin.Address || e.Position != 1 || string(e.Detail) != `{"claim":"sid","value":"`+g.Session+`"}` {
		t.Errorf("audit: %+v, want who, from where, why, the session, what was named, and the position", e)
	}
}

func TestKillersNameWhatKilledAToken(t *testing.T) {
	h := open(t)
	g := h.session(subject)
	if got, err := h.Killers(t.Context(), g.AccessToken); err != nil || len(got) != 0 {
		t.Errorf("live: got %v, %v; want none", got, err)
	}
	for _, r := range []issuer.RevokeRequest{{Claim: "sub", Value: "u_2"}, {Claim: "sub", Value: subject, Reason: "because"}, {Claim: "sid", Value: g.Session}} {
		if _, err := h.Revoke(t.Context(), admin, r); err != nil {
			t.Fatal(err)
		}
	}
	got, err := h.Killers(t.Context(), g.AccessToken)
	if err != nil || len(got) != 2 || got[0].Claim != "sub" || got[0].Reason != "because" || got[1].Claim != "sid" {
		t.Errorf("got %+v, %v; want the two in the order of the log", got, err)
	}
	after := h.session(subject)
	if got, err := h.Killers(t.Context(), after.AccessToken); err != nil || len(got) != 0 {
		t.Errorf("issued after: got %v, %v; want none", got, err)
	}
	_, err = h.Killers(t.Context(), "nonsense")
	h.refused("nonsense", err, issuer.CodeToken)
}

func TestKillersBelieveNothingThatWasNotSigned(t *testing.T) {
	h := open(t)
	g, other := h.session(subject), h.session("u_2")
	if _, err := h.LogoutAll(t.Context(), admin, issuer.Target{Subject: subject}); err != nil {
		t.Fatal(err)
	}
	dead, live := strings.Split(g.AccessToken, "."), strings.Split(other.AccessToken, ".")
	_, err := h.Killers(t.Context(), dead[0]+"."+dead[1]+"."+live[2])
	h.refused("another token's signature", err, issuer.CodeToken)

	stranger := open(t)
	_, err = h.Killers(t.Context(), stranger.session(subject).AccessToken)
	h.refused("signed by somebody else", err, issuer.CodeToken)

	kid := parse(t, other.AccessToken).kid
	token, err := h.Sign(t.Context(), "at+jwt", []byte(`{"kid":"of the payload","sub":"u_2","rev":0,"exp":`+fmt.Sprint(time.Now().Unix()+60)+`}`))
	if err != nil {
		t.Fatal(err)
	}
	h.append(issuer.Revocation{Issuer: h.cfg.Issuer, Claim: "kid", Value: "of the payload", Time: time.Now()})
	if got, err := h.Killers(t.Context(), token); err != nil || len(got) != 0 {
		t.Errorf("a kid among the claims: got %v, %v; want it to mean nothing", got, err)
	}

	for range 2 { // another key after it, and one before
		h.withdrawCurrent()
	}
	got, err := h.Killers(t.Context(), g.AccessToken)
	if err != nil || len(got) != 1 || got[0].Claim != "kid" || got[0].Value != kid || got[0].Reason != "stolen" {
		t.Errorf("signed with a withdrawn key: got %+v, %v; want the key's revocation alone", got, err)
	}
}

func (h *house) append(r issuer.Revocation) {
	h.t.Helper()
	if _, err := h.store.Update(h.ctx(), func(tx issuer.Tx) error { return tx.AppendRevocation(r) }); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) withdrawCurrent() {
	h.t.Helper()
	kid := parse(h.t, h.session(subject).AccessToken).kid
	if _, err := h.Revoke(h.ctx(), admin, issuer.RevokeRequest{Claim: "kid", Value: kid, Reason: "stolen"}); err != nil {
		h.t.Fatal(err)
	}
}

func TestKillersLookAtATokensLifeAndNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		first := h.session(subject)
		revoke := func(n int) {
			for range n {
				if _, err := h.Revoke(t.Context(), admin, issuer.RevokeRequest{Claim: "sub", Value: subject}); err != nil {
					t.Fatal(err)
				}
			}
		}
		revoke(12)
		g := h.mustRefresh(first.RefreshToken, "")
		revoke(3)
		time.Sleep(time.Hour)
		revoke(3)
		if _, _, err := h.store.Prune(t.Context(), time.Now(), idle, 1000); err != nil {
			t.Fatal(err)
		}
		for token, want := range map[string][2]uint64{first.AccessToken: {1, 10}, g.AccessToken: {13, 15}} {
			got, err := h.Killers(t.Context(), token)
			if err != nil || len(got) == 0 || got[0].Position != want[0] || got[len(got)-1].Position != want[1] {
				t.Errorf("got %v, %v; want those from %d to %d", got, err, want[0], want[1])
			}
		}
	})
}

func TestRevocationsNameABoundedNumberOfClaims(t *testing.T) {
	h := open(t)
	h.account(issuer.NewAccount{Subject: subject, Claims: json.RawMessage(`{"tenant":"acme","named":"x"}`)})
	if _, err := h.store.Update(t.Context(), func(tx issuer.Tx) error {
		for n := range 999 {
			if err := tx.AppendRevocation(issuer.Revocation{Issuer: h.cfg.Issuer, Claim: fmt.Sprint("claim", n), Value: "x", Time: tx.Now()}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	revoke := func(claim string) error {
		_, err := h.Revoke(t.Context(), admin, issuer.RevokeRequest{Claim: claim, Value: "x"})
		return err
	}
	if err := revoke("named"); err != nil {
		t.Fatalf("the thousandth claim: %v", err)
	}
	h.refused("one more", revoke("tenant"), issuer.CodeFull)
	for _, claim := range []string{"named", "sub", "client_id"} {
		if err := revoke(claim); err != nil {
			t.Errorf("%s: %v, want it to go on", claim, err)
		}
	}
}
