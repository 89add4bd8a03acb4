package api

import (
	"encoding/json"
	"time"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revset"
)

// list returns a whole list as one page.
func list[From, To any](all []From, show func(From) To) client.Page[To] {
	shown := client.Page[To]{Items: make([]To, len(all))}
	for i, one := range all {
		shown.Items[i] = show(one)
	}
	return shown
}

// page returns a part of a list; a full one says where the next begins.
func page[From, To any](all []From, limit int, show func(From) To, place func(From) string) client.Page[To] {
	shown := list(all, show)
	if len(all) == limit {
		shown.Next = place(all[limit-1])
	}
	return shown
}

func tokens(g issuer.Grant) client.Tokens {
	return client.Tokens{
		AccessToken: g.AccessToken, TokenType: "Bearer", ExpiresIn: int64(g.ExpiresIn / time.Second),
		RefreshToken: g.RefreshToken, Scope: g.Scope, Session: g.Session, Subject: g.Subject,
	}
}

func account(a issuer.Account) client.Account {
	return client.Account{
		Subject: a.Subject, Name: a.Name, HasPassword: a.Password != "", Claims: a.Claims,
		Deactivated: a.Deactivated, Created: a.Created, Changed: a.Changed,
	}
}

func imported(out issuer.Imported) client.Imported {
	shown := client.Imported{Created: out.Created, Updated: out.Updated, Same: out.Same, Position: out.Position}
	for _, r := range out.Refused {
		shown.Refused = append(shown.Refused, client.RefusedRow{Row: r.Row, Code: client.Code(r.Reason.Code), Detail: r.Reason.Detail})
	}
	return shown
}

func session(s issuer.Session) client.Session {
	return client.Session{
		ID: s.ID, Subject: s.Subject, Client: s.Client, Scope: s.Scope, Device: s.Device, Address: s.Address,
		Created: s.Created, LastUsed: s.LastUsed, Expires: s.Expires,
	}
}

func revocation(r issuer.Revocation) client.Revocation {
	shown := client.Revocation{
		Position: r.Position, Issuer: r.Issuer, Claim: r.Claim, Value: r.Value, Before: r.Before,
		Time: r.Time, Event: r.Event, Actor: r.Actor, Reason: r.Reason, Digest: r.Digest.String(),
	}
	if r.Before == revset.Forever {
		shown.Before, shown.Forever = 0, true
	}
	if r.NotBefore != 0 {
		shown.NotBefore = time.Unix(int64(r.NotBefore), 0).UTC()
	}
	if r.Forget != revset.NeverForget {
		shown.Forget = time.Unix(int64(r.Forget), 0).UTC()
	}
	return shown
}

func auditEntry(e issuer.AuditEntry) client.AuditEntry {
	return client.AuditEntry{
		ID: e.ID, Time: e.Time, Event: e.Event, Actor: e.Actor, Address: e.Address, Subject: e.Subject, Session: e.Session,
		Position: e.Position, Reason: e.Reason, Detail: e.Detail,
	}
}

func key(k issuer.APIKey) client.Key {
	shown := client.Key{ID: k.ID, Name: k.Name, Created: k.Created, LastUsed: k.LastUsed, PreviousUntil: k.PreviousUntil}
	for _, s := range k.Scopes {
		shown.Scopes = append(shown.Scopes, string(s))
	}
	return shown
}

func registration(c issuer.Client) client.Registration {
	return client.Registration{
		ID: c.ID, Method: string(c.Method), Created: c.Created, LastUsed: c.LastUsed, PreviousUntil: c.PreviousUntil,
		ClientSettings: client.ClientSettings(settingsOf(c)),
	}
}

func settingsOf(c issuer.Client) issuer.ClientSettings {
	return issuer.ClientSettings{Name: c.Name, Keys: c.Keys, Grants: c.Grants, Scopes: c.Scopes, Audience: c.Audience}
}

func foreign(f issuer.Foreign) client.Issuer {
	return client.Issuer{Name: f.Name, MaxLifetime: int64(f.MaxLifetime / time.Second), SameSubjects: f.SameSubjects}
}

func signingKey(k issuer.SigningKey) client.SigningKey {
	return client.SigningKey{
		ID: k.ID, Algorithm: k.Algorithm, Public: json.RawMessage(k.Public),
		Created: k.Created, Retired: k.Retired, Withdrawn: k.Withdrawn,
	}
}
