package issuer_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/jws"
)

func TestZeroConfigurationWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		h.account(issuer.NewAccount{Subject: subject, Name: "ada", Password: password, Claims: json.RawMessage(`{"roles":["admin"]}`)})
		g, err := h.login("ada", password)
		if err != nil {
			t.Fatal(err)
		}
		if g.ExpiresIn != 5*time.Minute || g.Subject != subject {
			t.Errorf("got %+v, want five minutes for %s", g, subject)
		}
		a := parse(t, g.AccessToken)
		for claim, want := range map[string]string{
			"iss": "https://id.example", "sub": subject, "aud": "https://id.example", "client_id": "default", "sid": g.Session, "rev": "0",
			"iat": fmt.Sprint(time.Now().Unix()), "exp": fmt.Sprint(time.Now().Add(5 * time.Minute).Unix()), "roles": "[admin]",
		} {
			if got := fmt.Sprint(a.claims[claim]); got != want {
				t.Errorf("%s: got %s, want %s", claim, got, want)
			}
		}
		var token jws.Token
		if err := token.Parse(g.AccessToken); err != nil || token.Header.Type != "at+jwt" {
			t.Errorf("typ %q, %v; want at+jwt (RFC 9068, section 2.1)", token.Header.Type, err)
		}
		h.lives("a login's", g.AccessToken, true)
		h.lives("a refresh's", h.mustRefresh(g.RefreshToken, "").AccessToken, true)
		time.Sleep(5 * time.Minute)
		h.lives("an expired", g.AccessToken, false)
	})
}

func TestAccessTokensDiffer(t *testing.T) {
	h := open(t)
	g := h.session(subject)
	next := h.mustRefresh(g.RefreshToken, "")
	if a, b := parse(t, g.AccessToken), parse(t, next.AccessToken); a.claims["jti"] == b.claims["jti"] || a.claims["jti"] == "" {
		t.Errorf("jti %v and %v, want two", a.claims["jti"], b.claims["jti"])
	}
}

func TestSessionsOfASubjectAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, func(c *issuer.Config) { c.MaxSessions = 2 })
		other := h.session("u_2")
		a := h.session(subject)
		time.Sleep(time.Second)
		b := h.session(subject)
		time.Sleep(time.Second)
		a = h.mustRefresh(a.RefreshToken, "")
		time.Sleep(time.Second)
		c := h.session(subject)
		h.lives("unused for longest", b.AccessToken, false)
		_, err := h.refresh(b.RefreshToken, "")
		h.refused("unused for longest", err, issuer.CodeGrant)
		for _, g := range []issuer.Grant{a, c, other} {
			h.lives("used since", g.AccessToken, true)
			h.mustRefresh(g.RefreshToken, "")
		}
	})
}

func TestEvictionLooksAgain(t *testing.T) {
	h := open(t, func(c *issuer.Config) { c.MaxSessions = 1 })
	h.session(subject)
	h.store.updating = func() {
		h.store.updating = nil
		if _, err := h.LogoutAll(t.Context(), admin, issuer.Target{Subject: subject}); err != nil {
			t.Error(err)
		}
	}
	g := h.session(subject)
	h.lives("opened while the other ended", g.AccessToken, true)
	if n := len(h.since(0)); n != 1 {
		t.Errorf("%d revocations, want that of the logout alone", n)
	}
}

func TestSessionsAreNotOpenedNearTheBoundOfTheLiveSet(t *testing.T) {
	live := 900
	h := open(t, func(c *issuer.Config) { c.MaxLive, c.Live = 1000, func() int { return live } })
	g := h.session(subject)
	live = 901
	_, err := h.OpenSession(t.Context(), admin, subject, issuer.Device{})
	h.refused("near the bound", err, issuer.CodeFull)
	h.mustRefresh(g.RefreshToken, "")
	if _, err := h.Logout(t.Context(), g.RefreshToken, ""); err != nil {
		t.Errorf("logout near the bound: %v", err)
	}
}

func TestNoTokenOutlivesItsSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, func(c *issuer.Config) {
			c.TokenLifetime, c.IdleTimeout, c.AbsoluteTimeout = time.Hour, 2*time.Hour, 150*time.Minute
		})
		g := h.session(subject)
		end := time.Now().Add(150 * time.Minute).Unix()
		for range 9 {
			time.Sleep(16 * time.Minute)
			g = h.mustRefresh(g.RefreshToken, "")
			if exp := parse(t, g.AccessToken).number("exp"); exp > end {
				t.Errorf("exp is %d s after the session's end", exp-end)
			}
		}
		if g.ExpiresIn != 6*time.Minute {
			t.Errorf("expires in %v, want the 6m that are left", g.ExpiresIn)
		}
		time.Sleep(6 * time.Minute)
		_, err := h.refresh(g.RefreshToken, "")
		h.refused("at the end", err, issuer.CodeGrant)
	})
}

func TestPrunedSessionsStayDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		g := h.session(subject)
		if _, err := h.LogoutAll(t.Context(), admin, issuer.Target{Subject: "u_x"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * 24 * time.Hour)
		if _, _, err := h.store.Prune(t.Context(), time.Now(), 14*24*time.Hour, 100); err != nil {
			t.Fatal(err)
		}
		_, err := h.refresh(g.RefreshToken, "")
		h.refused("pruned", err, issuer.CodeGrant)
		if got := len(h.since(0)); got != 1 {
			t.Errorf("%d revocations are told of, want 1: the archive keeps the pruned ones", got)
		}
	})
}

// P1. The files are copied while the store has them open, which is what a
// killed process leaves.
func TestRevocationSurvivesRestartRightAfter(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "quash.db")
	h := &house{t: t, store: &flaky{Store: openStore(t, path)}, cfg: issuer.Config{Issuer: "https://id.example", Secret: secret}}
	h.restart()
	g, other := h.session(subject), h.session(subject)
	if _, err := h.Logout(t.Context(), g.RefreshToken, ""); err != nil {
		t.Fatal(err)
	}
	crashed := filepath.Join(t.TempDir(), "quash.db")
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(crashed+suffix, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.store = &flaky{Store: openStore(t, crashed)}
	h.restart()
	h.lives("logged out before the crash", g.AccessToken, false)
	_, err := h.refresh(g.RefreshToken, "")
	h.refused("logged out before the crash", err, issuer.CodeGrant)
	h.lives("another", other.AccessToken, true)
	h.mustRefresh(other.RefreshToken, "")
}

func TestOpenSessionRefuses(t *testing.T) {
	h := open(t)
	h.account(issuer.NewAccount{Subject: subject})
	h.account(issuer.NewAccount{Subject: "u_2"})
	if _, err := h.Deactivate(t.Context(), admin, issuer.Target{Subject: "u_2"}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what, subject string
		device        issuer.Device
		want          issuer.Code
	}{
		{"an unknown subject", "u_x", issuer.Device{}, issuer.CodeNotFound},
		{"a deactivated one", "u_2", issuer.Device{}, issuer.CodeConflict},
		{"a client with a blank", subject, issuer.Device{Client: "my app"}, issuer.CodeInvalid},
		{"a client that is too long", subject, issuer.Device{Client: strings.Repeat("c", 129)}, issuer.CodeInvalid},
		{"a device that is too long", subject, issuer.Device{Device: strings.Repeat("d", 129)}, issuer.CodeInvalid},
		{"a device with a control character", subject, issuer.Device{Device: "tele\x1b[31mphone"}, issuer.CodeInvalid},
	} {
		_, err := h.OpenSession(t.Context(), admin, tt.subject, tt.device)
		h.refused(tt.what, err, tt.want)
	}
	if n := len(h.everything().Sessions); n != 0 {
		t.Errorf("%d sessions, want none", n)
	}
}

func TestLogoutByAccessToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		live, old := h.session(subject), h.session(subject)
		if _, err := h.LogoutByAccessToken(t.Context(), live.AccessToken, ""); err != nil {
			t.Errorf("live: %v", err)
		}
		_, err := h.refresh(live.RefreshToken, "")
		h.refused("its session", err, issuer.CodeGrant)

		time.Sleep(time.Hour)
		if effect, err := h.LogoutByAccessToken(t.Context(), old.AccessToken, ""); err != nil || effect.Sessions != 1 {
			t.Errorf("expired: %+v, %v; want one session ended", effect, err)
		}
		_, err = h.refresh(old.RefreshToken, "")
		h.refused("its session", err, issuer.CodeGrant)

		before := h.everything()
		if effect, err := h.LogoutByAccessToken(t.Context(), old.AccessToken, ""); err != nil || effect.Sessions != 0 {
			t.Errorf("again: %+v, %v; want nothing to end", effect, err)
		}
		h.unchanged("logging out twice", before)
	})
}

func TestLogoutByAccessTokenRefuses(t *testing.T) {
	h := open(t)
	g := h.session(subject)
	sign := func(typ, claims string) string {
		t.Helper()
		token, err := h.Sign(t.Context(), typ, []byte(claims))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	claims := func(issuer string) string {
		return fmt.Sprintf(`{"iss":%q,"sub":%q,"sid":%q,"exp":4102444800}`, issuer, subject, g.Session)
	}
	parts := strings.Split(g.AccessToken, ".")
	foreign := open(t).session(subject).AccessToken
	stolen := open(t)
	stolen.session(subject)
	forged, err := stolen.Sign(t.Context(), "at+jwt", []byte(claims("https://id.example")))
	if err != nil {
		t.Fatal(err)
	}
	before := h.everything()
	for what, token := range map[string]string{
		"another server's":        foreign,
		"another server's key":    forged,
		"another issuer's":        sign("at+jwt", claims("https://other.example")),
		"an ID token":             sign("JWT", claims("https://id.example")),
		"without a session":       sign("at+jwt", `{"iss":"https://id.example","sub":"u_1"}`),
		"claims of another token": parts[0] + "." + strings.Split(sign("at+jwt", claims("https://id.example")), ".")[1] + "." + parts[2],
		"no signature":            parts[0] + "." + parts[1] + ".",
		"a refresh token":         g.RefreshToken,
		"nothing":                 "",
		"a megabyte":              strings.Repeat("a", 1<<20),
	} {
		_, err := h.LogoutByAccessToken(t.Context(), token, "")
		h.refused(what, err, issuer.CodeToken)
	}
	h.unchanged("a token that was refused", before)

	if _, err := h.Revoke(t.Context(), admin, issuer.RevokeRequest{Claim: "kid", Value: parse(t, g.AccessToken).kid}); err != nil {
		t.Fatal(err)
	}
	_, err = h.LogoutByAccessToken(t.Context(), g.AccessToken, "")
	h.refused("signed by a withdrawn key", err, issuer.CodeToken)
}

func TestUsersReachTheirOwnSessionsOnly(t *testing.T) {
	h := open(t)
	mine, other, theirs := h.session(subject), h.session(subject), h.session("u_2")
	user := issuer.Actor{Name: "user", Subject: subject, Session: mine.Session}
	_, err := h.EndSession(t.Context(), user, issuer.Target{Subject: subject, Session: theirs.Session})
	h.refused("somebody else's", err, issuer.CodeNotFound)
	if _, err := h.EndSession(t.Context(), user, issuer.Target{Subject: subject, Session: other.Session}); err != nil {
		t.Errorf("one of one's own: %v", err)
	}
	h.mustRefresh(theirs.RefreshToken, "")
	if _, err := h.Logout(t.Context(), mine.RefreshToken, ""); err != nil {
		t.Fatal(err)
	}
	before := h.everything()
	_, err = h.LogoutAll(t.Context(), user, issuer.Target{Subject: subject})
	h.refused("a change by a session that has ended meanwhile", err, issuer.CodeToken)
	h.unchanged("a refused change", before)
}

func TestLogoutOthersSparesOne(t *testing.T) {
	h := open(t)
	here, there := h.session(subject), h.session(subject)
	if _, err := h.LogoutOthers(t.Context(), admin, issuer.Target{Subject: subject, Session: here.Session}); err != nil {
		t.Fatal(err)
	}
	h.lives("this session's", here.AccessToken, true)
	h.lives("another's", there.AccessToken, false)
	h.mustRefresh(here.RefreshToken, "")
}

func TestSessionsAreListed(t *testing.T) {
	h := open(t)
	h.account(issuer.NewAccount{Subject: subject, Claims: json.RawMessage(`{"roles":["a","b"],"level":3,"beta":true,"address":{"city":"x"}}`)})
	var want []string
	for range 3 {
		want = append(want, h.session(subject).Session)
	}
	slices.Sort(want)
	h.session("u_2")
	for _, m := range []issuer.Match{{"sub", subject}, {"roles", "b"}, {"level", "3"}, {"beta", "true"}} {
		var got []string
		for after := ""; ; after = got[len(got)-1] {
			page, err := h.Sessions(t.Context(), m, after, 2)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range page {
				got = append(got, s.ID)
			}
			if len(page) < 2 {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%v: got %v, want %v", m, got, want)
		}
	}
	for _, m := range []issuer.Match{{"roles", "c"}, {"address", "x"}, {"nothing", ""}} {
		if got, err := h.Sessions(t.Context(), m, "", 10); err != nil || len(got) != 0 {
			t.Errorf("%v: got %d sessions, %v; want none", m, len(got), err)
		}
	}
}

func TestReasonsAreBounded(t *testing.T) {
	h := open(t)
	h.session(subject)
	before := h.everything()
	for what, reason := range map[string]string{
		"too long": strings.Repeat("r", 257), "a line feed": "a\nb", "not UTF-8": "\xff",
	} {
		_, err := h.LogoutAll(t.Context(), admin, issuer.Target{Subject: subject, Reason: reason})
		h.refused(what, err, issuer.CodeInvalid)
	}
	h.unchanged("a refused reason", before)
	if _, err := h.LogoutAll(t.Context(), admin, issuer.Target{Subject: subject, Reason: strings.Repeat("é", 256)}); err != nil {
		t.Errorf("256 characters: %v", err)
	}
}
