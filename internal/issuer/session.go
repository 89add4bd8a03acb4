package issuer

import (
	"context"
	"errors"
)

// maxListed bounds every list.
const maxListed = 1000

// Sessions lists the live sessions that match, in the order of their ids,
// after one of them, at most limit.
func (i *Issuer) Sessions(ctx context.Context, m Match, after string, limit int) (all []Session, err error) {
	err = i.store.View(ctx, func(rd Reader) error {
		all, err = rd.Sessions(m, after, min(limit, maxListed))
		return err
	})
	return all, explain("session", err)
}

// Logout ends the session that a refresh token names. Any refresh token of
// the session will do, an old one too; so will one of a session that has
// ended, and nothing happens then.
func (i *Issuer) Logout(ctx context.Context, token, address string) (Effect, error) {
	t, ok := parseRefreshToken(token)
	if !ok {
		return Effect{}, errGrant
	}
	return i.endByRefreshToken(ctx, User(address), t, nil)
}

// endByRefreshToken ends the session that a refresh token names: for the user,
// or for a registered client, who learns nothing of tokens that were never made
// (RFC 7009, section 2.2).
func (i *Issuer) endByRefreshToken(ctx context.Context, by Actor, t refreshToken, c *Client) (Effect, error) {
	out, err := i.update(ctx, false, func(tx Tx, out *Effect) error {
		out.Event = LoggedOut.Name
		s, err := tx.Session(t.session)
		forgery := err == nil && i.judge(s, t, [32]byte{}, tx.Now()) == forged
		switch {
		case errors.Is(err, ErrNotFound) || forgery && c != nil:
			return nil
		case err != nil:
			return err
		case forgery:
			return errGrant
		case c != nil && !s.of(*c):
			return errOtherClient
		}
		return i.apply(tx, LoggedOut, by, Target{Subject: s.Subject, Session: s.ID}, out)
	})
	return out, explain("session", err)
}

// LogoutByAccessToken ends the session of an access token. An expired one
// will do, as long as its signature is good: to end one's own session must not
// need a live token. Nothing else accepts an expired one.
func (i *Issuer) LogoutByAccessToken(ctx context.Context, token, address string) (Effect, error) {
	subject, session, err := i.sessionOf(ctx, token)
	if err != nil {
		return Effect{}, err
	}
	return i.change(ctx, LoggedOut, User(address), Target{Subject: subject, Session: session})
}

// sessionOf reads whose an access token of this issuer is, whether or not it
// has expired.
func (i *Issuer) sessionOf(ctx context.Context, token string) (subject, session string, err error) {
	a, err := i.accessToken(ctx, token)
	if err == nil && a.texts["sid"] == "" || errors.Is(err, errAccessToken) {
		err = refuse(CodeToken, "the access token was not issued here for a session; log out with the refresh token")
	}
	return a.texts["sub"], a.texts["sid"], err
}

// EndSession ends one session of a subject. A user ends a session of their
// own; an administrator any, and may leave the subject empty.
func (i *Issuer) EndSession(ctx context.Context, by Actor, t Target) (Effect, error) {
	out, err := i.update(ctx, t.DryRun, func(tx Tx, out *Effect) error {
		s, err := tx.Session(t.Session)
		if err != nil {
			return err
		}
		if t.Subject != "" && s.Subject != t.Subject {
			return ErrNotFound
		}
		return i.apply(tx, LoggedOut, by, Target{Subject: s.Subject, Session: s.ID, Reason: t.Reason}, out)
	})
	return out, explain("session", err)
}

// LogoutOthers ends all sessions of a subject but one.
func (i *Issuer) LogoutOthers(ctx context.Context, by Actor, t Target) (Effect, error) {
	return i.change(ctx, LoggedOutOthers, by, t)
}

// LogoutAll ends all sessions of a subject.
func (i *Issuer) LogoutAll(ctx context.Context, by Actor, t Target) (Effect, error) {
	return i.change(ctx, LoggedOutAll, by, t)
}
