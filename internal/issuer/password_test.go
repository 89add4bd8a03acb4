package issuer_test

import (
	"strings"
	"testing"
	"time"

	"github.com/quashdev/quash/internal/issuer"
)

// changing is an account that is about to change its password.
type changing struct {
	*house
	here   issuer.Grant   // the session that it changes it in
	older  string         // the refresh token before
	others []issuer.Grant // its other sessions
}

func newChanging(t *testing.T) *changing {
	h := open(t)
	h.account(issuer.NewAccount{Subject: subject, Name: "ada", Password: password})
	first := h.session(subject)
	return &changing{
		house: h, here: h.mustRefresh(first.RefreshToken, ""), older: first.RefreshToken,
		others: []issuer.Grant{h.session(subject), h.session(subject)},
	}
}

func (c *changing) change(token, old, new string) (issuer.Grant, issuer.Effect, error) {
	return c.ChangePassword(c.ctx(), issuer.PasswordChange{
		Refresh: issuer.RefreshRequest{Token: token, IdempotencyKey: "K"}, Old: old, New: new,
	})
}

// changed fails the test unless the password is the new one, this session
// goes on with g, and all else is dead.
func (c *changing) changed(g issuer.Grant) {
	c.t.Helper()
	c.lives("the new pair's", g.AccessToken, true)
	c.lives("this session's from before", c.here.AccessToken, false)
	for _, o := range c.others {
		c.lives("another session's", o.AccessToken, false)
		_, err := c.refresh(o.RefreshToken, "")
		c.refused("refresh of another session", err, issuer.CodeGrant)
	}
	if g.Session != c.here.Session {
		c.t.Errorf("the pair is of session %s, want %s", g.Session, c.here.Session)
	}
	next := c.mustRefresh(g.RefreshToken, "")
	c.lives("the next", next.AccessToken, true)
	_, err := c.login("ada", password)
	c.refused("login with the old password", err, issuer.CodeCredentials)
	if _, err := c.login("ada", newPassword); err != nil {
		c.t.Errorf("login with the new password: %v", err)
	}
}

func TestPasswordChange(t *testing.T) {
	t.Run("this session goes on and all else ends", bubble(func(t *testing.T) {
		c := newChanging(t)
		g, effect, err := c.change(c.here.RefreshToken, password, newPassword)
		if err != nil {
			t.Fatal(err)
		}
		if want := (issuer.Effect{Event: "password_changed", Sessions: 2, Tokens: 4, Position: c.head()}); effect != want {
			t.Errorf("effect: got %+v, want %+v", effect, want)
		}
		c.changed(g)
	}))
	t.Run("a crash before the new pair leaves the old refresh token usable", bubble(func(t *testing.T) {
		c := newChanging(t)
		c.store.failIssue = errDisk
		_, _, err := c.change(c.here.RefreshToken, password, newPassword)
		c.refused("change", err, issuer.CodeUnavailable)
		c.restart()
		c.changed(c.mustRefresh(c.here.RefreshToken, ""))
	}))
	t.Run("repeating the call completes it", bubble(func(t *testing.T) {
		c := newChanging(t)
		c.store.failIssue = errDisk
		_, _, err := c.change(c.here.RefreshToken, password, newPassword)
		c.refused("change", err, issuer.CodeUnavailable)
		head := c.head()
		g, _, err := c.change(c.here.RefreshToken, password, newPassword)
		if err != nil {
			t.Fatal(err)
		}
		again, _, err := c.change(c.here.RefreshToken, password, newPassword)
		if err != nil || again.RefreshToken != g.RefreshToken {
			t.Errorf("the third call: %v, want the same successor", err)
		}
		if c.head() != head {
			t.Error("repeating the call revoked again")
		}
		c.changed(g)
	}))
	t.Run("a refresh in another tab before it gets the same successor", bubble(func(t *testing.T) {
		c := newChanging(t)
		tab := c.mustRefresh(c.here.RefreshToken, "")
		g, _, err := c.change(c.here.RefreshToken, password, newPassword)
		if err != nil || g.RefreshToken != tab.RefreshToken {
			t.Fatalf("change: %v, want the other tab's successor", err)
		}
		c.lives("the other tab's", tab.AccessToken, false)
		c.changed(g)
	}))
	t.Run("a refresh in another tab after it gets the same successor", bubble(func(t *testing.T) {
		c := newChanging(t)
		g, _, err := c.change(c.here.RefreshToken, password, newPassword)
		if err != nil {
			t.Fatal(err)
		}
		if tab := c.mustRefresh(c.here.RefreshToken, ""); tab.RefreshToken != g.RefreshToken {
			t.Error("the other tab got another successor")
		}
		c.changed(g)
	}))
	t.Run("reuse found in it ends the session and changes nothing else", bubble(func(t *testing.T) {
		c := newChanging(t)
		c.mustRefresh(c.here.RefreshToken, "")
		_, _, err := c.change(c.older, password, newPassword)
		c.refused("change", err, issuer.CodeGrant)
		c.lives("this session's", c.here.AccessToken, false)
		if _, found := c.row(c.here.Session); found {
			t.Error("the session is still there")
		}
		for _, o := range c.others {
			c.lives("another session's", o.AccessToken, true)
		}
		if _, err := c.login("ada", password); err != nil {
			t.Errorf("login with the old password: %v", err)
		}
	}))
}

// slow makes each transaction of a call begin so much later.
func (h *house) slow(d time.Duration) {
	wait := func() { time.Sleep(d) }
	h.store.updating, h.store.issuing = wait, wait
}

func TestP10PasswordChangeJudgesItsTokenOnce(t *testing.T) {
	bubble(func(t *testing.T) {
		c := newChanging(t)
		tab := c.mustRefresh(c.here.RefreshToken, "")
		time.Sleep(10*time.Second - time.Millisecond)
		c.slow(time.Second)
		g, _, err := c.ChangePassword(c.ctx(), issuer.PasswordChange{
			Refresh: issuer.RefreshRequest{Token: c.here.RefreshToken}, Old: password, New: newPassword,
		})
		if err != nil || g.RefreshToken != tab.RefreshToken {
			t.Fatalf("presented at the end of the window: %v, want the other tab's successor", err)
		}
		c.slow(0)
		c.changed(g)
	})(t)
}

func TestP10ReuseIsFoundThoughTheOldPasswordIsWrong(t *testing.T) {
	c := newChanging(t)
	c.mustRefresh(c.here.RefreshToken, "")
	_, _, err := c.change(c.older, "wrong "+password, newPassword)
	c.refused("change", err, issuer.CodeGrant)
	if _, found := c.row(c.here.Session); found {
		t.Error("the session is still there")
	}
	c.lives("this session's", c.here.AccessToken, false)
	c.lives("another session's", c.others[0].AccessToken, true)
}

func TestErrorsSayWhatStands(t *testing.T) {
	c := newChanging(t)
	c.store.failIssue = errDisk
	_, _, err := c.change(c.here.RefreshToken, password, newPassword)
	c.refused("change", err, issuer.CodeUnavailable)
	if err == nil || !strings.Contains(err.Error(), "the password was changed") || strings.Contains(err.Error(), "nothing") {
		t.Errorf("got %v, want it to say what was changed", err)
	}

	h := open(t, func(c *issuer.Config) { c.MaxSessions = 1 })
	h.session(subject)
	h.store.updating = func() { h.store.failIssue = errDisk } // once room was made
	_, err = h.OpenSession(t.Context(), admin, subject, issuer.Device{})
	h.refused("login", err, issuer.CodeUnavailable)
	if err == nil || !strings.Contains(err.Error(), "another session was ended") || strings.Contains(err.Error(), "nothing") {
		t.Errorf("got %v, want it to say what was changed", err)
	}

	h.store.failIssue = errDisk
	_, err = h.OpenSession(t.Context(), admin, subject, issuer.Device{})
	if err == nil || !strings.Contains(err.Error(), "nothing changed") {
		t.Errorf("got %v, want it to say that nothing changed", err)
	}
}

func TestPasswordChangeRefuses(t *testing.T) {
	c := newChanging(t)
	keyless := c.session("u_2")
	ended := c.session(subject)
	if _, err := c.Logout(t.Context(), ended.RefreshToken, ""); err != nil {
		t.Fatal(err)
	}
	before := c.everything()
	for _, tt := range []struct {
		what            string
		token, old, new string
		want            issuer.Code
	}{
		{"the old password is wrong", c.here.RefreshToken, newPassword, "another one that is long", issuer.CodeCredentials},
		{"the old password is missing", c.here.RefreshToken, "", "another one that is long", issuer.CodeCredentials},
		{"the new password is weak", c.here.RefreshToken, password, "passwordpassword", issuer.CodePassword},
		{"the session has ended", ended.RefreshToken, password, newPassword, issuer.CodeGrant},
		{"the account has no password", keyless.RefreshToken, "", newPassword, issuer.CodeConflict},
	} {
		_, _, err := c.change(tt.token, tt.old, tt.new)
		c.refused(tt.what, err, tt.want)
		c.unchanged(tt.what, before)
	}
	_, _, err := c.ChangePassword(t.Context(), issuer.PasswordChange{
		Refresh: issuer.RefreshRequest{Token: c.here.RefreshToken, IdempotencyKey: strings.Repeat("k", 256)}, Old: password, New: newPassword,
	})
	c.refused("the Idempotency-Key is too long", err, issuer.CodeInvalid)
	c.unchanged("a refused change", before)
}

func TestPasswordChangeGivesWayToAnother(t *testing.T) {
	c := newChanging(t)
	var set error
	c.store.updating = func() {
		c.store.updating = nil
		_, set = c.SetPassword(t.Context(), admin, issuer.Target{Subject: subject}, "the administrator's choice")
	}
	_, _, err := c.change(c.here.RefreshToken, password, newPassword)
	c.refused("change", err, issuer.CodeGrant)
	if set != nil {
		t.Fatal(set)
	}
	if _, err := c.login("ada", "the administrator's choice"); err != nil {
		t.Errorf("login with what the administrator set: %v", err)
	}
}

func TestSetPasswordNeedsAName(t *testing.T) {
	h := open(t)
	h.session(subject)
	before := h.everything()
	_, err := h.SetPassword(t.Context(), admin, issuer.Target{Subject: subject}, newPassword)
	h.refused("without a name", err, issuer.CodeConflict)
	h.unchanged("a refused password", before)
}
