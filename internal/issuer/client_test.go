package issuer_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/jws"
)

// client registers a public client that may have sessions.
func (h *house) client(id string) {
	h.t.Helper()
	n := issuer.NewClient{ID: id, Method: issuer.NoMethod, ClientSettings: issuer.ClientSettings{Grants: []string{issuer.GrantRefresh}, Scopes: []string{"read", "write"}}}
	if _, _, err := h.CreateClient(h.ctx(), admin, n); err != nil {
		h.t.Fatal(err)
	}
}

func TestClientsAreChecked(t *testing.T) {
	h := open(t)
	refresh := []string{issuer.GrantRefresh}
	keys := func(a jws.Algorithm) json.RawMessage {
		key, err := jws.Generate(a)
		if err != nil {
			t.Fatal(err)
		}
		set, err := jws.NewKeySet(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		text, err := set.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	good := issuer.NewClient{ID: "good", Method: issuer.PrivateKeyJWT, ClientSettings: issuer.ClientSettings{Grants: refresh, Keys: keys(jws.ES256)}}
	if _, secret, err := h.CreateClient(h.ctx(), admin, good); err != nil || secret != "" {
		t.Fatalf("a client with keys: got secret %q, %v, want none of both", secret, err)
	}
	long := slices.Repeat([]string{"x"}, 65)
	for i := range long {
		long[i] = strings.Repeat("x", i+1)
	}
	for what, n := range map[string]issuer.NewClient{
		"a space in the client_id":       {ID: "a b", ClientSettings: issuer.ClientSettings{Grants: refresh}},
		"a long client_id":               {ID: strings.Repeat("x", 129), ClientSettings: issuer.ClientSettings{Grants: refresh}},
		"an unknown method":              {Method: "tls_client_auth", ClientSettings: issuer.ClientSettings{Grants: refresh}},
		"no grant":                       {},
		"an unknown grant":               {ClientSettings: issuer.ClientSettings{Grants: []string{"password"}}},
		"a grant twice":                  {ClientSettings: issuer.ClientSettings{Grants: []string{issuer.GrantRefresh, issuer.GrantRefresh}}},
		"nobody's own tokens":            {Method: issuer.NoMethod, ClientSettings: issuer.ClientSettings{Grants: []string{issuer.GrantClient}}},
		"a scope with a space":           {ClientSettings: issuer.ClientSettings{Grants: refresh, Scopes: []string{"a b"}}},
		"a scope with a quotation mark":  {ClientSettings: issuer.ClientSettings{Grants: refresh, Scopes: []string{`"`}}},
		"an empty scope":                 {ClientSettings: issuer.ClientSettings{Grants: refresh, Scopes: []string{""}}},
		"a scope twice":                  {ClientSettings: issuer.ClientSettings{Grants: refresh, Scopes: []string{"a", "a"}}},
		"too many scopes":                {ClientSettings: issuer.ClientSettings{Grants: refresh, Scopes: long}},
		"scopes that fit in no token":    {ClientSettings: issuer.ClientSettings{Grants: refresh, Scopes: long[44:64]}},
		"an audience twice":              {ClientSettings: issuer.ClientSettings{Grants: refresh, Audience: []string{"a", "a"}}},
		"an empty audience":              {ClientSettings: issuer.ClientSettings{Grants: refresh, Audience: []string{""}}},
		"a control character in a name":  {ClientSettings: issuer.ClientSettings{Grants: refresh, Name: "\x00"}},
		"keys and a secret":              {ClientSettings: issuer.ClientSettings{Grants: refresh, Keys: keys(jws.Ed25519)}},
		"no keys":                        {Method: issuer.PrivateKeyJWT, ClientSettings: issuer.ClientSettings{Grants: refresh}},
		"an empty set of keys":           {Method: issuer.PrivateKeyJWT, ClientSettings: issuer.ClientSettings{Grants: refresh, Keys: json.RawMessage(`{"keys":[]}`)}},
		"a symmetric key":                {Method: issuer.PrivateKeyJWT, ClientSettings: issuer.ClientSettings{Grants: refresh, Keys: json.RawMessage(`{"keys":[{"kty":"oct","k":"AAAA","kid":"a"}]}`)}},
		"keys of another kind, and none": {Method: issuer.PrivateKeyJWT, ClientSettings: issuer.ClientSettings{Grants: refresh, Keys: json.RawMessage(`{"keys":[{"kty":"EC","crv":"P-521","kid":"a"}]}`)}},
	} {
		_, _, err := h.CreateClient(h.ctx(), admin, n)
		h.refused(what, err, issuer.CodeInvalid)
	}
}

// The longest scope and audience leave room for the longest account: whatever a
// client is registered with, its tokens can be signed.
func TestScopesLeaveRoomForClaims(t *testing.T) {
	h := open(t, func(c *issuer.Config) { c.Algorithm = jws.RS256 })
	var scopes []string
	for i := range 12 {
		scopes = append(scopes, strings.Repeat(string(rune('a'+i)), 64))
	}
	id := strings.Repeat("c", 128)
	n := issuer.NewClient{ID: id, Method: issuer.NoMethod, ClientSettings: issuer.ClientSettings{
		Grants: []string{issuer.GrantRefresh}, Scopes: scopes, Audience: []string{strings.Repeat("a", 150)},
	}}
	for {
		_, _, err := h.CreateClient(h.ctx(), admin, n)
		if err == nil {
			break
		}
		n.Audience[0] = n.Audience[0][1:]
	}
	subject := strings.Repeat("s", 128)
	h.account(issuer.NewAccount{Subject: subject, Claims: json.RawMessage(`{"x":"` + strings.Repeat("x", 4<<10-8) + `"}`)})
	h.sessionOf(subject, id)
}

// P9: what a client had does not come back with its client_id, and an account
// and a client never share a subject.
func TestP9AClientThatWasDeletedIsAnother(t *testing.T) {
	bubble(func(t *testing.T) {
		h := open(t)
		h.account(issuer.NewAccount{Subject: subject})
		h.client("app")
		g := h.sessionOf(subject, "app")
		if _, err := h.DeleteClient(h.ctx(), admin, "app", issuer.Target{}); err != nil {
			t.Fatal(err)
		}
		h.client("app")
		h.lives("a token of the client before", g.AccessToken, false)
		_, err := h.refresh(g.RefreshToken, "")
		h.refused("its refresh token", err, issuer.CodeGrant)
		h.lives("a token of the new client", h.sessionOf(subject, "app").AccessToken, true)
	})(t)
}

// P10: a refresh that is refused for its client or its scope changes nothing,
// and one that comes while the client is deleted gives nothing.
func TestP10RefusedRefreshesLeaveTheLineage(t *testing.T) {
	bubble(func(t *testing.T) {
		h := open(t)
		h.account(issuer.NewAccount{Subject: subject})
		h.client("app")
		h.client("other")
		other, err := h.Client(h.ctx(), "other")
		if err != nil {
			t.Fatal(err)
		}
		app, err := h.Client(h.ctx(), "app")
		if err != nil {
			t.Fatal(err)
		}
		first := h.sessionOf(subject, "app")
		second := h.mustRefresh(first.RefreshToken, "")
		third := h.mustRefresh(second.RefreshToken, "")
		before := h.everything()
		for _, token := range []string{first.RefreshToken, second.RefreshToken, third.RefreshToken} {
			_, err := h.Refresh(h.ctx(), issuer.RefreshRequest{Token: token, Client: &other})
			h.refused("by another client", err, issuer.CodeGrant)
		}
		_, err = h.Refresh(h.ctx(), issuer.RefreshRequest{Token: third.RefreshToken, Client: &app, Scope: "root"})
		h.refused("with too wide a scope", err, issuer.CodeScope)
		h.unchanged("refreshes that were refused", before)
		_, err = h.Refresh(h.ctx(), issuer.RefreshRequest{Token: first.RefreshToken, Client: &app, Scope: "root"})
		h.refused("reuse with too wide a scope", err, issuer.CodeGrant)
		if _, found := h.row(first.Session); found {
			t.Error("a reused token that asks for too much does not end the session")
		}
		h.store.issuing = func() {
			h.store.issuing = nil
			if _, err := h.DeleteClient(h.ctx(), admin, "app", issuer.Target{}); err != nil {
				t.Error(err)
			}
		}
		_, err = h.ClientCredentials(h.ctx(), app, "")
		h.refused("a client that is deleted meanwhile", err, issuer.CodeClient)
	})(t)
}

// A client whose use cannot be noted is let in all the same, and one that is
// used often is noted once a minute.
func TestUseOfAClientIsNotedByTheMinute(t *testing.T) {
	bubble(func(t *testing.T) {
		h := open(t)
		c, secret, err := h.CreateClient(h.ctx(), admin, issuer.NewClient{ID: "shop", ClientSettings: issuer.ClientSettings{Grants: []string{issuer.GrantClient}}})
		if err != nil {
			t.Fatal(err)
		}
		proof := issuer.ClientProof{Method: issuer.SecretBasic, ID: c.ID, Secret: secret}
		updates := 0
		h.store.updating = func() { updates++ }
		for range 3 {
			if _, err := h.AuthenticateClient(h.ctx(), proof); err != nil {
				t.Fatal(err)
			}
		}
		if updates != 1 {
			t.Errorf("noted %d times in a minute, want once", updates)
		}
		time.Sleep(2 * time.Minute)
		h.store.hide = true
		if _, err := h.AuthenticateClient(h.ctx(), proof); err != nil {
			t.Errorf("a use that cannot be noted: got %v, want that the client is let in", err)
		}
	})(t)
}
