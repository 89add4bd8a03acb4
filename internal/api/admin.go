package api

import (
	"encoding/json"
	"net/http"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/issuer"
)

func (a *API) accounts(c *call) error {
	limit, err := c.limit()
	if err != nil {
		return err
	}
	if c.query.Has("name") {
		if len(c.query) > 1 {
			return invalid("query parameter name: it stands alone, because one account has it")
		}
		found, err := a.issuer.AccountNamed(c.r.Context(), c.query.Get("name"))
		if err != nil {
			return err
		}
		return c.reply(http.StatusOK, client.Page[client.Account]{Items: []client.Account{account(found)}})
	}
	all, err := a.issuer.Accounts(c.r.Context(), c.query.Get("after"), limit)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, page(all, limit, account, func(a issuer.Account) string { return a.Subject }))
}

func (a *API) createAccount(c *call) error {
	body, err := decode[client.NewAccount](c)
	if err != nil {
		return err
	}
	made, err := a.issuer.CreateAccount(c.r.Context(), c.actor, issuer.NewAccount(body))
	if err != nil {
		return err
	}
	return c.reply(http.StatusCreated, account(made))
}

// importBody is [client.ImportRequest] before its accounts are looked at, one by
// one.
type importBody struct {
	Accounts []json.RawMessage `json:"accounts"`
	Update   bool              `json:"update,omitempty"`
}

func (a *API) importAccounts(c *call) error {
	body, err := decode[importBody](c)
	if err != nil {
		return err
	}
	rows := make([]issuer.ImportedAccount, len(body.Accounts))
	for n, text := range body.Accounts {
		row, err := decodeObject[client.ImportedAccount]("an object", text)
		if err != nil {
			return invalid("accounts[%d]: %v", n, err)
		}
		rows[n] = issuer.ImportedAccount(row)
	}
	out, err := a.issuer.ImportAccounts(c.r.Context(), c.actor, rows, body.Update)
	if err != nil {
		return err
	}
	status, shown := http.StatusOK, imported(out)
	if body.Update {
		// Also where there was nothing to do: it may have been done a moment ago,
		// by a call whose answer was lost.
		var ended client.Effect
		status, ended = a.effect(c, issuer.Effect{Position: out.Position})
		shown.Confirmation = ended.Confirmation
	}
	return c.reply(status, shown)
}

func (a *API) account(c *call) error { return a.replyAccount(c, c.r.PathValue("subject")) }

func (a *API) replyAccount(c *call, subject string) error {
	found, err := a.issuer.Account(c.r.Context(), subject)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, account(found))
}

// target reads what a change is done to from the path and the query.
func (c *call) target() (issuer.Target, error) {
	dry, err := c.dryRun()
	return issuer.Target{Subject: c.r.PathValue("subject"), Session: c.r.PathValue("sid"), Reason: c.query.Get("reason"), DryRun: dry}, err
}

func (a *API) deleteAccount(c *call) error {
	t, err := c.target()
	if err != nil {
		return err
	}
	out, err := a.issuer.Delete(c.r.Context(), c.actor, t)
	return a.replyEffect(c, out, err)
}

func (a *API) putClaims(c *call) error {
	t, err := c.target()
	if err != nil {
		return err
	}
	body, err := decode[client.ClaimsRequest](c)
	if err != nil {
		return err
	}
	out, err := a.issuer.PutClaims(c.r.Context(), c.actor, t, body.Claims)
	return a.replyEffect(c, out, err)
}

func (a *API) setPassword(c *call) error {
	t, err := c.target()
	if err != nil {
		return err
	}
	body, err := decode[client.PasswordRequest](c)
	if err != nil {
		return err
	}
	out, err := a.issuer.SetPassword(c.r.Context(), c.actor, t, body.Password)
	return a.replyEffect(c, out, err)
}

func (a *API) deactivate(c *call) error {
	t, err := c.target()
	if err != nil {
		return err
	}
	out, err := a.issuer.Deactivate(c.r.Context(), c.actor, t)
	return a.replyEffect(c, out, err)
}

func (a *API) reactivate(c *call) error {
	t, err := c.target()
	if err != nil {
		return err
	}
	out, err := a.issuer.Reactivate(c.r.Context(), c.actor, t)
	return a.replyEffect(c, out, err)
}

func (a *API) sessions(c *call) error {
	if _, err := a.issuer.Account(c.r.Context(), c.r.PathValue("subject")); err != nil {
		return err
	}
	return a.replySessions(c, c.r.PathValue("subject"))
}

// maxSessions is more than a subject can have.
const maxSessions = 1000

func (a *API) replySessions(c *call, subject string) error {
	all, err := a.issuer.Sessions(c.r.Context(), issuer.Match{Claim: "sub", Value: subject}, "", maxSessions)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, list(all, func(s issuer.Session) client.Session {
		shown := session(s)
		shown.Current = s.ID == c.actor.Session
		return shown
	}))
}

func (a *API) openSession(c *call) error {
	body, err := decode[client.Device](c)
	if err != nil {
		return err
	}
	if body.Address != "" {
		address, err := hostOf(body.Address)
		if err != nil {
			return invalid("address: want an IP address")
		}
		body.Address = address.String()
	}
	g, err := a.issuer.OpenSession(c.r.Context(), c.actor, c.r.PathValue("subject"), issuer.Device(body))
	if err != nil {
		return err
	}
	return c.reply(http.StatusCreated, tokens(g))
}

func (a *API) endSessions(c *call) error {
	t, err := c.target()
	if err != nil {
		return err
	}
	if _, err := a.issuer.Account(c.r.Context(), t.Subject); err != nil {
		return err
	}
	out, err := a.issuer.LogoutAll(c.r.Context(), c.actor, t)
	return a.replyEffect(c, out, err)
}

func (a *API) endSession(c *call) error {
	t, err := c.target()
	if err != nil {
		return err
	}
	out, err := a.issuer.EndSession(c.r.Context(), c.actor, t)
	return a.replyEffect(c, out, err)
}

func (a *API) revoke(c *call) error {
	dry, err := c.dryRun()
	if err != nil {
		return err
	}
	body, err := decode[client.RevokeRequest](c)
	if err != nil {
		return err
	}
	out, err := a.issuer.Revoke(c.r.Context(), c.actor, issuer.RevokeRequest{
		Issuer: body.Issuer, Claim: body.Claim, Value: body.Value, Reason: body.Reason, End: body.EndSessions, DryRun: dry,
	})
	return a.replyEffect(c, out, err)
}
