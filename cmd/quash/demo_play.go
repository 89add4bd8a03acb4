package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/quashdev/quash/client"
)

// user is somebody with a phone and a laptop.
type user struct {
	*stage
	name          string
	subject       string
	password      string
	phone, laptop client.Tokens
}

// prepare makes the account.
func (u *user) prepare(ctx context.Context) error {
	u.password = rand.Text()
	a, err := u.admin.CreateAccount(ctx, client.NewAccount{Name: u.name, Password: u.password, Claims: json.RawMessage(`{"role":"editor"}`)})
	u.subject = a.Subject
	return err
}

func (u *user) login(ctx context.Context, t *client.Tokens, device string) (err error) {
	*t, err = u.public.Login(ctx, client.LoginRequest{Name: u.name, Password: u.password, Device: device})
	return err
}

// witness has every resource server shown a token while a call ends it, and notes
// what they did. Once the call has answered that it is confirmed, no request
// may be accepted.
func (u *user) witness(ctx context.Context, y *play, token string, call func(context.Context) (*client.Confirmation, error)) (measured, error) {
	m, err := u.measure(ctx, token, func(ctx context.Context) (err error) {
		y.Confirmation, err = call(ctx)
		y.Waited = y.Confirmation != nil
		return err
	})
	y.Answered = m.after(m.answered)
	for i, p := range m.probes {
		o := outcome{Resource: u.resources[i].name, Accepted: p.accepted, Refused: m.after(p.refused), Relapsed: p.relapsed}
		if late := p.last.Sub(m.answered); late > 0 {
			ms := milliseconds(late.Seconds() * 1000)
			o.Late = &ms
			if y.Waited {
				y.expect(false, "%s accepted no request that was sent after the answer", o.Resource)
			}
		}
		y.Resources = append(y.Resources, o)
	}
	return m, err
}

// accepting counts the resource servers that accept a token, and with a role if one
// is given.
func (u *user) accepting(ctx context.Context, token, role string) (n int, err error) {
	for _, rs := range u.resources {
		ok, had, err := rs.get(ctx, token)
		if err != nil {
			return 0, err
		}
		if ok && (role == "" || role == had) {
			n++
		}
	}
	return n, nil
}

// expectAccepted and expectRefused show a token to every resource server.
func (u *user) expectAccepted(ctx context.Context, y *play, token, role, says string) error {
	n, err := u.accepting(ctx, token, role)
	y.expect(n == len(u.resources), "%s", says)
	return err
}

func (u *user) expectRefused(ctx context.Context, y *play, token, says string) error {
	n, err := u.accepting(ctx, token, "")
	y.expect(n == 0, "%s", says)
	return err
}

// refusal says whether an error is the server's refusal of that code. Any
// other error is returned.
func refusal(err error, code client.Code) (bool, error) {
	var p *client.Problem
	if errors.As(err, &p) {
		return p.Code == code, nil
	}
	return false, err
}

// expectNoRefresh expects that a refresh token is worth nothing.
func (u *user) expectNoRefresh(ctx context.Context, y *play, token, says string) error {
	_, err := u.public.Refresh(ctx, token, "")
	refused, err := refusal(err, client.CodeGrant)
	y.expect(refused, "%s", says)
	return err
}

func (u *user) logout(ctx context.Context, y *play) error {
	y.Title, y.Call, y.Token = "Logout on the phone", "POST /v1/logout", "the phone"
	if err := errors.Join(u.login(ctx, &u.phone, "phone"), u.login(ctx, &u.laptop, "laptop")); err != nil {
		return err
	}
	_, err := u.witness(ctx, y, u.phone.AccessToken, func(ctx context.Context) (*client.Confirmation, error) {
		e, err := u.public.Logout(ctx, u.phone.RefreshToken)
		return e.Confirmation, err
	})
	return errors.Join(
		err,
		u.expectAccepted(ctx, y, u.laptop.AccessToken, "", "the laptop goes on at all three services"),
		u.expectNoRefresh(ctx, y, u.phone.RefreshToken, "the phone cannot refresh"),
	)
}

func (u *user) newPassword(ctx context.Context, y *play) error {
	y.Title, y.Call, y.Token = "A new password, set on the laptop", "POST /v1/password", "the phone"
	if err := u.login(ctx, &u.phone, "phone"); err != nil {
		return err
	}
	before, fresh := u.laptop, rand.Text()
	var changed client.PasswordChanged
	nextSecond() // so that the login after it can fit in the same one
	_, err := u.witness(ctx, y, u.phone.AccessToken, func(ctx context.Context) (_ *client.Confirmation, err error) {
		changed, err = u.public.ChangePassword(ctx, client.PasswordChange{RefreshToken: before.RefreshToken, OldPassword: u.password, NewPassword: fresh}, "")
		return changed.Effect.Confirmation, err
	})
	if err != nil {
		return err
	}
	u.laptop, u.password = changed.Tokens, fresh
	if err := u.login(ctx, &u.phone, "phone"); err != nil {
		return err
	}
	says := "a login right after it is accepted"
	switch same, err := u.sameSecond(ctx, changed.Effect.Position, u.phone.AccessToken); {
	case err != nil:
		return err
	case same:
		says = "a login right after it, in the same second of the clock, is accepted"
	}
	return errors.Join(
		u.expectAccepted(ctx, y, u.laptop.AccessToken, "", "the laptop goes on with the tokens that the change gave it"),
		u.expectRefused(ctx, y, before.AccessToken, "the laptop's token from before is refused"),
		u.expectAccepted(ctx, y, u.phone.AccessToken, "", says),
	)
}

// nextSecond waits for the clock's next full second.
func nextSecond() {
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
}

// sameSecond says whether a token's iat is the second of a revocation.
func (u *user) sameSecond(ctx context.Context, position uint64, token string) (bool, error) {
	t, err := decode(token)
	if err != nil {
		return false, err
	}
	var claims struct{ Iat int64 }
	if err := json.Unmarshal(t.Claims, &claims); err != nil {
		return false, err
	}
	page, err := u.admin.Revocations(ctx, client.RevocationQuery{After: position - 1, Limit: 1})
	return err == nil && len(page.Items) == 1 && page.Items[0].Time.Unix() == claims.Iat, err
}

func (u *user) theft(ctx context.Context, y *play) error {
	y.Title, y.Call, y.Token = "A stolen refresh token, used by the thief first", "POST /v1/refresh", "the thief"
	victim, thief := u.phone, u.phone
	// Twice: the same token again, soon after, is what two tabs of a browser
	// send, and gets the same answer.
	for range 2 {
		var err error
		if thief, err = u.public.Refresh(ctx, thief.RefreshToken, ""); err != nil {
			return err
		}
	}
	caught := false
	_, err := u.witness(ctx, y, thief.AccessToken, func(ctx context.Context) (_ *client.Confirmation, err error) {
		_, err = u.public.Refresh(ctx, victim.RefreshToken, "")
		caught, err = refusal(err, client.CodeGrant)
		return nil, err // the thief's session ends, but that is not what was asked for
	})
	if err != nil {
		return err
	}
	if y.Confirmation, err = u.latest(ctx); err != nil {
		return err
	}
	y.expect(caught, "the victim's refresh, later, gives the theft away: invalid_grant")
	return errors.Join(
		u.expectNoRefresh(ctx, y, thief.RefreshToken, "the thief cannot refresh any more"),
		u.expectRefused(ctx, y, victim.AccessToken, "the victim's token is refused too: that session is over for both"),
		u.expectAccepted(ctx, y, u.laptop.AccessToken, "", "the laptop, another session, goes on"),
	)
}

// latest returns the confirmation of the revocation that was made last.
func (u *user) latest(ctx context.Context) (*client.Confirmation, error) {
	l, err := u.admin.Log(ctx)
	if err != nil {
		return nil, err
	}
	e, err := u.admin.Revocation(ctx, l.Head.Position)
	return &e.Confirmation, err
}

func (u *user) newRole(ctx context.Context, y *play) error {
	y.Title, y.Call, y.Token = "Another role: editor becomes reader", "PUT /v1/admin/.../claims", "the laptop"
	if err := u.expectAccepted(ctx, y, u.laptop.AccessToken, "editor", "before it all three services saw an editor"); err != nil {
		return err
	}
	_, err := u.witness(ctx, y, u.laptop.AccessToken, func(ctx context.Context) (*client.Confirmation, error) {
		e, err := u.admin.PutClaims(ctx, u.subject, json.RawMessage(`{"role":"reader"}`), client.Change{Reason: "moved to another team"})
		return e.Confirmation, err
	})
	if err != nil {
		return err
	}
	if u.laptop, err = u.public.Refresh(ctx, u.laptop.RefreshToken, ""); err != nil {
		return err
	}
	return u.expectAccepted(ctx, y, u.laptop.AccessToken, "reader", "the laptop refreshes, without a login, and they see a reader")
}

func (u *user) deactivation(ctx context.Context, y *play) error {
	y.Title, y.Call, y.Token = "The account is deactivated", "POST /v1/admin/.../deactivate", "the phone"
	if err := u.login(ctx, &u.phone, "phone"); err != nil {
		return err
	}
	chat := u.resources[len(u.resources)-1]
	socket, err := chat.holdSocket(ctx, u.phone.AccessToken)
	if err != nil {
		return err
	}
	stream, err := chat.holdStream(ctx, u.phone.AccessToken)
	if err != nil {
		return err
	}
	m, err := u.witness(ctx, y, u.phone.AccessToken, func(ctx context.Context) (*client.Confirmation, error) {
		e, err := u.admin.Deactivate(ctx, u.subject, client.Change{Reason: "left the company"})
		return e.Confirmation, err
	})
	if err != nil {
		return err
	}
	m.expectEnding(y, socket, "the WebSocket at chat was closed")
	m.expectEnding(y, stream, "the event stream at chat ended")
	return errors.Join(
		u.expectRefused(ctx, y, u.laptop.AccessToken, "the laptop's token is refused as well"),
		u.expectNoLogin(ctx, y),
		u.expectStillDead(ctx, y),
	)
}

// expectEnding expects that a connection was ended because its token was
// revoked, and says when.
func (m measured) expectEnding(y *play, ended <-chan ending, says string) {
	select {
	case e := <-ended:
		y.expect(strings.Contains(e.why, "token revoked"), "%s after %s, saying why", says, m.after(e.at))
	case <-time.After(patience):
		y.expect(false, "%s", says)
	}
}

func (u *user) expectNoLogin(ctx context.Context, y *play) error {
	var t client.Tokens
	refused, err := refusal(u.login(ctx, &t, "phone"), client.CodeCredentials)
	y.expect(refused, "a login with the right password is refused")
	return err
}

// expectStillDead reactivates the account: it can log in again, and what had
// ended stays so.
func (u *user) expectStillDead(ctx context.Context, y *play) error {
	if _, err := u.admin.Reactivate(ctx, u.subject, client.Change{}); err != nil {
		return fmt.Errorf("reactivate: %w", err)
	}
	return errors.Join(
		u.expectNoRefresh(ctx, y, u.laptop.RefreshToken, "reactivated, the account can log in, but the laptop cannot refresh"),
		u.expectRefused(ctx, y, u.laptop.AccessToken, "nor does its old token live again"),
	)
}
