package api

import (
	"net/http"
	"time"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/issuer"
)

func (a *API) keys(c *call) error {
	all, err := a.issuer.APIKeys(c.r.Context())
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, list(all, key))
}

func (a *API) createKey(c *call) error {
	body, err := decode[client.NewKey](c)
	if err != nil {
		return err
	}
	scopes := make([]issuer.Scope, len(body.Scopes))
	for i, s := range body.Scopes {
		scopes[i] = issuer.Scope(s)
	}
	made, secret, err := a.issuer.CreateAPIKey(c.r.Context(), c.actor, body.Name, scopes)
	if err != nil {
		return err
	}
	return c.reply(http.StatusCreated, client.NewSecret{Key: key(made), Secret: secret})
}

func (a *API) deleteKey(c *call) error {
	id := c.r.PathValue("id")
	if err := a.issuer.DeleteAPIKey(c.r.Context(), c.actor, id); err != nil {
		return err
	}
	a.log.KeyWithdrawn(id)
	c.WriteHeader(http.StatusNoContent)
	return nil
}

// maxOverlap is more than the issuer allows, and less than a Duration holds.
const maxOverlap = 365 * 24 * 60 * 60

func (a *API) replaceKey(c *call) error {
	body, err := decode[client.ReplaceKey](c)
	if err != nil {
		return err
	}
	overlap := time.Duration(min(max(body.OverlapSeconds, -1), maxOverlap)) * time.Second
	made, secret, err := a.issuer.ReplaceAPIKey(c.r.Context(), c.actor, c.r.PathValue("id"), overlap)
	if err != nil {
		return err
	}
	a.log.KeyReplaced(made.ID, made.PreviousUntil)
	return c.reply(http.StatusOK, client.NewSecret{Key: key(made), Secret: secret})
}

func (a *API) issuers(c *call) error {
	all, err := a.issuer.ForeignIssuers(c.r.Context())
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, list(all, foreign))
}

// maxForeignSeconds is more than the issuer allows, and less than a Duration holds.
const maxForeignSeconds = 1 << 32

func (a *API) addIssuer(c *call) error {
	body, err := decode[client.NewIssuer](c)
	if err != nil {
		return err
	}
	made, err := a.issuer.AddIssuer(c.r.Context(), c.actor, issuer.IssuerRequest{
		Name: body.Name, SameSubjects: body.SameSubjects,
		MaxLifetime: time.Duration(min(max(body.MaxLifetime, -1), maxForeignSeconds)) * time.Second,
	})
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, foreign(made))
}

func (a *API) signingKeys(c *call) error {
	all, err := a.issuer.SigningKeys(c.r.Context())
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, list(all, signingKey))
}

func (a *API) rotateSigningKey(c *call) error {
	now, err := c.flag("now")
	if err != nil {
		return err
	}
	key, err := a.issuer.RotateSigningKey(c.r.Context(), c.actor, now)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, signingKey(key))
}
