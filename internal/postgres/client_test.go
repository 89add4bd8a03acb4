package postgres_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/jws"
)

var registrar = issuer.Actor{Name: "admin:tests"}

// An assertion that is shown to two nodes at once is good at one of them.
func TestAssertionsAreSpentOnceOverTwoNodes(t *testing.T) {
	t.Parallel()
	nodes := issuers(t)
	key, err := jws.Generate(jws.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	set, err := jws.NewKeySet(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	keys, err := set.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = nodes[0].CreateClient(t.Context(), registrar, issuer.NewClient{
		ID: "robot", Method: issuer.PrivateKeyJWT, ClientSettings: issuer.ClientSettings{Keys: keys, Grants: []string{issuer.GrantClient}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 10 {
		claims, err := json.Marshal(map[string]any{
			"iss": "robot", "sub": "robot", "aud": "https://issuer.example", "exp": time.Now().Unix() + 60, "jti": fmt.Sprint(round),
		})
		if err != nil {
			t.Fatal(err)
		}
		assertion, err := key.Sign("JWT", claims)
		if err != nil {
			t.Fatal(err)
		}
		var g errgroup.Group
		results := make([]error, 4)
		for n := range results {
			g.Go(func() error {
				_, results[n] = nodes[n%2].AuthenticateClient(t.Context(), issuer.ClientProof{Method: issuer.PrivateKeyJWT, Assertion: assertion})
				return nil
			})
		}
		_ = g.Wait()
		good := 0
		for _, err := range results {
			if err == nil {
				good++
			} else if issuer.CodeOf(err) != issuer.CodeClient {
				t.Errorf("round %d: got %v, want invalid_client", round, err)
			}
		}
		if good != 1 {
			t.Errorf("round %d: good %d times, want once", round, good)
		}
	}
}

// P9: a client is deleted at one node while its sessions are opened and refreshed
// at the other. What was given has a rev below the revocation, and then there
// is nothing more.
func TestP9ADeletedClientHasNothingAtAnyNode(t *testing.T) {
	t.Parallel()
	nodes := issuers(t)
	ctx := t.Context()
	if _, err := nodes[0].CreateAccount(ctx, registrar, issuer.NewAccount{Subject: "u_1"}); err != nil {
		t.Fatal(err)
	}
	for round := range 5 {
		made, _, err := nodes[round%2].CreateClient(ctx, registrar, issuer.NewClient{
			ID: "shop", ClientSettings: issuer.ClientSettings{Grants: []string{issuer.GrantRefresh, issuer.GrantClient}, Scopes: []string{"read"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		begun, given := make(chan struct{}, 100), make(chan issuer.Grant, 10_000)
		var g errgroup.Group
		for n := range 4 {
			g.Go(func() error { return use(t, nodes[n%2], made, begun, given) })
		}
		for range 8 {
			<-begun
		}
		out, err := nodes[0].DeleteClient(ctx, registrar, "shop", issuer.Target{})
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		close(given)
		for grant := range given {
			if rev := revOf(t, grant); rev >= out.Position {
				t.Errorf("round %d: a token with rev %d outlives the revocation at %d", round, rev, out.Position)
			}
		}
		left, err := nodes[1].Sessions(ctx, issuer.Match{Claim: "client_id", Value: "shop"}, "", 10)
		if err != nil || len(left) != 0 {
			t.Errorf("round %d: left are %d sessions, %v", round, len(left), err)
		}
	}
}

// use opens sessions for a client, refreshes them and has tokens of its own, until
// it is no client any more.
func use(t *testing.T, node *issuer.Issuer, c issuer.Client, begun chan<- struct{}, given chan<- issuer.Grant) error {
	for {
		g, err := node.ClientCredentials(t.Context(), c, "")
		if issuer.CodeOf(err) == issuer.CodeClient && err != nil {
			return nil
		}
		if err != nil {
			return err
		}
		given <- g
		opened, err := node.OpenSession(t.Context(), registrar, "u_1", issuer.Device{Client: c.ID, Scope: "read"})
		if refused := (*issuer.Error)(nil); errors.As(err, &refused) && refused.Code == issuer.CodeScope {
			return nil // it is not registered
		}
		if err != nil {
			return err
		}
		given <- opened
		next, err := node.Refresh(t.Context(), issuer.RefreshRequest{Token: opened.RefreshToken, Client: &c})
		if issuer.CodeOf(err) == issuer.CodeGrant && err != nil {
			return nil
		}
		if err != nil {
			return err
		}
		given <- next
		begun <- struct{}{}
	}
}
