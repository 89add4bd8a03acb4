package api

import (
	"encoding/json"
	"net/http"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/issuer"
)

// reply answers with a JSON document.
func (c *call) reply(status int, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	if c.Header().Get("Content-Type") == "" {
		c.Header().Set("Content-Type", "application/json")
	}
	c.WriteHeader(status)
	_, _ = c.Write(text)
	return nil
}

func (a *API) login(c *call) error {
	body, err := decode[client.LoginRequest](c)
	if err != nil {
		return err
	}
	if body.Cookie {
		if err := a.checkPage(c.r); err != nil {
			return err
		}
	}
	g, err := a.issuer.Login(c.r.Context(), issuer.LoginRequest{
		Name: body.Name, Password: body.Password,
		Device: issuer.Device{Client: body.Client, Device: body.Device, Address: c.from(), Scope: body.Scope},
	})
	if err != nil {
		return err
	}
	if body.Cookie {
		return c.reply(http.StatusOK, c.inCookie(g, newRetryKey()))
	}
	return c.reply(http.StatusOK, tokens(g))
}

func (a *API) refresh(c *call) error {
	body, err := decode[client.RefreshRequest](c)
	if err != nil {
		return err
	}
	p, err := a.present(c, body.RefreshToken)
	if err != nil {
		return err
	}
	request, err := p.request(c)
	if err != nil {
		return err
	}
	g, err := a.issuer.Refresh(c.r.Context(), request)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, c.renewed(g, p))
}

// logout takes one of two things that show whose session it is. The access
// token is not verified: it may have expired.
func (a *API) logout(c *call) error {
	out, err := issuer.Effect{}, error(nil)
	switch presented := c.r.Header.Get("Authorization") != ""; {
	case !hasBody(c.r):
		out, err = a.logoutByAccessToken(c)
	case presented:
		return invalid("send a refresh token in the body, or an access token in the Authorization header, not both")
	default:
		out, err = a.logoutByRefreshToken(c)
	}
	return a.replyEffect(c, out, err)
}

func (a *API) logoutByAccessToken(c *call) (issuer.Effect, error) {
	token, err := bearer(c.r)
	if err != nil {
		return issuer.Effect{}, err
	}
	return a.issuer.LogoutByAccessToken(c.r.Context(), token, c.from())
}

func (a *API) logoutByRefreshToken(c *call) (issuer.Effect, error) {
	body, err := decode[client.RefreshRequest](c)
	if err != nil {
		return issuer.Effect{}, err
	}
	p, err := a.present(c, body.RefreshToken)
	if err != nil {
		return issuer.Effect{}, err
	}
	out, err := a.issuer.Logout(c.r.Context(), p.token, c.from())
	if p.cookie && (err == nil || issuer.CodeOf(err) == issuer.CodeGrant) {
		c.forget() // also one that is good for nothing any more
	}
	return out, err
}

// own is the session that an access token stands for.
func (c *call) own() issuer.Target {
	return issuer.Target{Subject: c.actor.Subject, Session: c.actor.Session}
}

func (a *API) logoutOthers(c *call) error {
	out, err := a.issuer.LogoutOthers(c.r.Context(), c.actor, c.own())
	return a.replyEffect(c, out, err)
}

func (a *API) logoutAll(c *call) error {
	out, err := a.issuer.LogoutAll(c.r.Context(), c.actor, issuer.Target{Subject: c.actor.Subject})
	return a.replyEffect(c, out, err)
}

func (a *API) ownSessions(c *call) error { return a.replySessions(c, c.actor.Subject) }

func (a *API) endOwnSession(c *call) error {
	out, err := a.issuer.EndSession(c.r.Context(), c.actor, issuer.Target{Subject: c.actor.Subject, Session: c.r.PathValue("sid")})
	return a.replyEffect(c, out, err)
}

func (a *API) changePassword(c *call) error {
	body, err := decode[client.PasswordChange](c)
	if err != nil {
		return err
	}
	p, err := a.present(c, body.RefreshToken)
	if err != nil {
		return err
	}
	request, err := p.request(c)
	if err != nil {
		return err
	}
	g, out, err := a.issuer.ChangePassword(c.r.Context(), issuer.PasswordChange{Refresh: request, Old: body.OldPassword, New: body.NewPassword})
	if err != nil {
		return err
	}
	status, effect := a.effect(c, out)
	return c.reply(status, client.PasswordChanged{Tokens: c.renewed(g, p), Effect: effect})
}

func (a *API) ownAccount(c *call) error { return a.replyAccount(c, c.actor.Subject) }

func (a *API) jwks(c *call) error {
	keys, err := a.issuer.PublicKeys(c.r.Context())
	if err != nil {
		return err
	}
	c.Header().Set("Content-Type", "application/jwk-set+json")
	c.Header().Set("Cache-Control", "no-cache")
	return c.reply(http.StatusOK, keys)
}

// status is the body of /healthz and /readyz.
type status struct {
	Status string `json:"status"`
}

func (a *API) health(c *call) error { return c.reply(http.StatusOK, status{"ok"}) }

func (a *API) ready(c *call) error {
	if err := a.Ready(c.r.Context()); err != nil {
		a.logger.Warn("not ready", "reason", err)
		return quash.ErrNotReady
	}
	return c.reply(http.StatusOK, status{"ready"})
}
