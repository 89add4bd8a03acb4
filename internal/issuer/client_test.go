package issuer_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/jws"
)

// client registers a public client that may have sessions.
func (h *house) client(id string) { h.t.Helper(); h.register(id) }

// register registers a public client that may have sessions, with an audience
// of its own if there is one.
func (h *house) register(id string, audience ...string) {
	h.t.Helper()
	n := issuer.NewClient{ID: id, Method: issuer.NoMethod, ClientSettings: issuer.ClientSettings{
		Grants: []string{issuer.GrantRefresh}, Scopes: []string{"read", "write"}, Audience: audience,
	}}
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

// P9: what a revocation of an aud ends is what has it in its tokens: those of a
// client with an audience of its own are no others'.
func TestP9RevokingAnAudienceEndsWhatHasIt(t *testing.T) {
	const own, other = "https://id.example", "https://orders.example"
	for _, tt := range []struct {
		what     string
		audience []string // of a client
		value    string
		end      bool
		want     issuer.Effect // but for its position
		code     issuer.Code   // of the refusal
		dies     []bool        // of the client's, of another registered one's, and of nobody's token
	}{
		{"the client's own", []string{other}, other, true, issuer.Effect{Sessions: 1, Tokens: 1}, "", []bool{true, false, false}},
		{"the client's own, and the sessions go on", []string{other}, other, false, issuer.Effect{Tokens: 1}, "", []bool{true, false, false}},
		{"the server's, which the client lacks", []string{other}, own, false, issuer.Effect{Tokens: 2}, "", []bool{false, true, true}},
		{"the server's, which the client lacks, with sessions", []string{other}, own, true, issuer.Effect{}, issuer.CodeInvalid, []bool{false, false, false}},
		{"the server's, which the client has, too", []string{other, own}, own, true, issuer.Effect{Sessions: 3, Tokens: 3}, "", []bool{true, true, true}},
		{"nobody's", []string{other}, "https://nobody.example", true, issuer.Effect{}, "", []bool{false, false, false}},
	} {
		t.Run(tt.what, bubble(func(t *testing.T) {
			h := open(t)
			h.account(issuer.NewAccount{Subject: subject})
			h.register("orders", tt.audience...)
			h.register("app")
			grants := []issuer.Grant{h.sessionOf(subject, "orders"), h.sessionOf(subject, "app"), h.sessionOf(subject, "")}
			before := h.everything()
			got, err := h.Revoke(h.ctx(), admin, issuer.RevokeRequest{Claim: "aud", Value: tt.value, End: tt.end})
			if tt.code != "" {
				h.refused(tt.what, err, tt.code)
				h.unchanged("a refused revocation", before)
			} else if err != nil || got.Sessions != tt.want.Sessions || got.Tokens != tt.want.Tokens {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
			for n, g := range grants {
				h.lives(fmt.Sprint("token ", n), g.AccessToken, !tt.dies[n])
				if _, found := h.row(g.Session); found == (tt.end && tt.dies[n]) {
					t.Errorf("session %d is there = %v", n, found)
				}
			}
		}))
	}
}

// The one claim that every token has ends them all, and can end every session.
func TestRevokingTheIssuerEndsEverything(t *testing.T) {
	for _, end := range []bool{false, true} {
		t.Run(fmt.Sprint("end ", end), bubble(func(t *testing.T) {
			h := open(t)
			h.register("orders", "https://orders.example")
			g := h.session(subject)
			dead := []string{g.AccessToken, h.sessionOf(subject, "orders").AccessToken, h.ownToken("robot")}
			got, err := h.Revoke(h.ctx(), admin, issuer.RevokeRequest{Claim: "iss", Value: h.cfg.Issuer, End: end})
			if want := map[bool]int{true: 2}[end]; err != nil || got.Sessions != want || got.Tokens != 2 {
				t.Errorf("got %+v, %v; want %d sessions and 2 tokens", got, err, want)
			}
			for n, token := range dead {
				h.lives(fmt.Sprint("token ", n), token, false)
			}
			next, err := h.refresh(g.RefreshToken, "")
			if end {
				h.refused("refresh", err, issuer.CodeGrant)
				next = h.session(subject)
			} else if err != nil {
				t.Fatal(err)
			}
			h.lives("issued after", next.AccessToken, true)
		}))
	}
}

// ownToken registers a client and returns a token that it has for itself.
func (h *house) ownToken(id string) string {
	h.t.Helper()
	c, _, err := h.CreateClient(h.ctx(), admin, issuer.NewClient{ID: id, ClientSettings: issuer.ClientSettings{Grants: []string{issuer.GrantClient}}})
	if err != nil {
		h.t.Fatal(err)
	}
	g, err := h.ClientCredentials(h.ctx(), c, "")
	if err != nil {
		h.t.Fatal(err)
	}
	return g.AccessToken
}

func TestAClientsOwnTokenIsRevokedOnce(t *testing.T) {
	bubble(func(t *testing.T) {
		h := open(t)
		token, g := h.ownToken("robot"), h.session(subject)
		c, err := h.Client(h.ctx(), "robot")
		if err != nil {
			t.Fatal(err)
		}
		h.append(issuer.Revocation{Issuer: h.cfg.Issuer, Claim: "sub", Value: "somebody", Time: time.Now()})
		for n := range 3 {
			got, err := h.RevokeToken(h.ctx(), c, token, "")
			if err != nil || got.Event != issuer.ClaimRevoked.Name || (got.Position != 0) != (n == 0) {
				t.Errorf("call %d: got %+v, %v; want a revocation by the first alone", n, got, err)
			}
		}
		if got := h.since(0); len(got) != 2 {
			t.Errorf("%d revocations, want the one and the one before", len(got))
		}
		h.lives("a client's own", token, false)
		h.lives("a session's", g.AccessToken, true)
	})(t)
}

// Assertions that cannot be read count as guesses do, and then none is looked
// at; a client from elsewhere is not kept waiting.
func TestMalformedAssertionsAreLimited(t *testing.T) {
	bubble(func(t *testing.T) {
		h := open(t)
		p := issuer.ClientProof{Method: issuer.PrivateKeyJWT, ID: "robot", Assertion: "x.y.z", Address: "192.0.2.7"}
		limited := 0
		for range 40 {
			_, err := h.AuthenticateClient(h.ctx(), p)
			if issuer.CodeOf(err) == issuer.CodeLimited {
				limited++
				continue
			}
			h.refused("a malformed assertion", err, issuer.CodeClient)
		}
		if limited == 0 {
			t.Error("40 malformed assertions at once, and none was limited")
		}
		p.Address = "192.0.2.8"
		_, err := h.AuthenticateClient(h.ctx(), p)
		h.refused("from elsewhere", err, issuer.CodeClient)
	})(t)
}

// A signature of nobody's costs the check of a signature, and is refused.
func TestAssertionsOfUnknownClientsAreChecked(t *testing.T) {
	for _, algorithm := range []jws.Algorithm{jws.ES256, jws.Ed25519, jws.RS256} {
		if issuer.Decoy(algorithm) == nil {
			t.Errorf("%s: no key stands in for that of an unknown client", algorithm)
		}
		h := open(t)
		key, err := jws.Generate(algorithm)
		if err != nil {
			t.Fatal(err)
		}
		assertion, err := key.Sign("JWT", []byte(`{"iss":"nobody","sub":"nobody"}`))
		if err != nil {
			t.Fatal(err)
		}
		_, err = h.AuthenticateClient(h.ctx(), issuer.ClientProof{Method: issuer.PrivateKeyJWT, Assertion: assertion})
		h.refused("an unknown client", err, issuer.CodeClient)
	}
}

// A server that starts with a longer audience than clients were registered
// under names the client whose tokens it could not sign.
func TestStartRefusesClientsWithoutRoom(t *testing.T) {
	h := open(t)
	n := issuer.NewClient{ID: "wide", Method: issuer.NoMethod, ClientSettings: issuer.ClientSettings{Grants: []string{issuer.GrantRefresh}}}
	for i := range 10 {
		n.Scopes = append(n.Scopes, strings.Repeat(string(rune('a'+i)), 64))
	}
	if _, _, err := h.CreateClient(h.ctx(), admin, n); err != nil {
		t.Fatal(err)
	}
	before := h.everything()
	h.cfg.Audience = []string{strings.Repeat("a", 256), strings.Repeat("b", 256)}
	i, err := issuer.New(h.cfg, h.store)
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Prepare(h.ctx()); err == nil || !strings.Contains(err.Error(), `client "wide"`) {
		t.Errorf("got %v, want that it names the client", err)
	}
	h.unchanged("a start that was refused", before)
}
