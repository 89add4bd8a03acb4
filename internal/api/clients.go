package api

import (
	"net/http"
	"time"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/issuer"
)

func (a *API) clients(c *call) error {
	all, err := a.issuer.Clients(c.r.Context())
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, list(all, registration))
}

func (a *API) client(c *call) error {
	found, err := a.issuer.Client(c.r.Context(), c.r.PathValue("client_id"))
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, registration(found))
}

func (a *API) createClient(c *call) error {
	body, err := decode[client.NewRegistration](c)
	if err != nil {
		return err
	}
	made, secret, err := a.issuer.CreateClient(c.r.Context(), c.actor, issuer.NewClient{
		ID: body.ID, Method: issuer.AuthMethod(body.Method),
		ClientSettings: issuer.ClientSettings{Name: body.Name, Keys: body.Keys, Grants: body.Grants, Scopes: body.Scopes, Audience: body.Audience},
	})
	if err != nil {
		return err
	}
	return c.reply(http.StatusCreated, client.NewClientSecret{Registration: registration(made), Secret: secret})
}

func (a *API) putClient(c *call) error {
	t, err := c.target()
	if err != nil {
		return err
	}
	body, err := decode[client.ClientSettings](c)
	if err != nil {
		return err
	}
	out, err := a.issuer.PutClient(c.r.Context(), c.actor, c.r.PathValue("client_id"), issuer.ClientSettings(body), t)
	return a.replyEffect(c, out, err)
}

func (a *API) deleteClient(c *call) error {
	t, err := c.target()
	if err != nil {
		return err
	}
	out, err := a.issuer.DeleteClient(c.r.Context(), c.actor, c.r.PathValue("client_id"), t)
	return a.replyEffect(c, out, err)
}

func (a *API) replaceClientSecret(c *call) error {
	body, err := decode[client.ReplaceKey](c)
	if err != nil {
		return err
	}
	overlap := time.Duration(min(max(body.OverlapSeconds, -1), maxOverlap)) * time.Second
	made, secret, err := a.issuer.ReplaceClientSecret(c.r.Context(), c.actor, c.r.PathValue("client_id"), overlap)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, client.NewClientSecret{Registration: registration(made), Secret: secret})
}
