package postgres_test

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/pgtest"
	"github.com/quashdev/quash/internal/postgres"
)

// keyNode is a node that can be started again with other secrets.
type keyNode struct {
	*issuer.Issuer
	store *postgres.Store
}

func (n *keyNode) start(t *testing.T, secret, previous []byte) {
	t.Helper()
	var err error
	if n.Issuer, err = issuer.New(issuer.Config{Issuer: "https://issuer.example", Secret: secret, PreviousSecret: previous}, n.store); err != nil {
		t.Fatal(err)
	}
	if err := n.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func keyNodes(t *testing.T, secret []byte) []*keyNode {
	t.Helper()
	url := pgtest.Start(t)
	nodes := []*keyNode{{store: open(t, url)}, {store: open(t, url)}}
	for _, n := range nodes {
		n.start(t, secret, nil)
	}
	return nodes
}

func TestNodesOfOneDatabaseRotateOnce(t *testing.T) {
	t.Parallel()
	nodes := keyNodes(t, make([]byte, 32))
	for round := range 3 {
		_, err := nodes[0].store.Update(t.Context(), func(tx issuer.Tx) error {
			keys, err := tx.SigningKeys()
			if err != nil {
				return err
			}
			for _, k := range keys {
				k.Created = k.Created.Add(-100 * 24 * time.Hour)
				if !k.Retired.IsZero() {
					k.Retired = k.Retired.Add(-100 * 24 * time.Hour)
				}
				if err := tx.PutSigningKey(k); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for n := range 8 {
			wg.Go(func() {
				if err := nodes[n%2].RotateIfDue(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		keys, err := nodes[1].SigningKeys(t.Context())
		if err != nil || len(keys) != 3+round {
			t.Fatalf("round %d: %d keys, %v; want %d, one more", round, len(keys), err, 3+round)
		}
	}
}

// Sessions go from node to node while the secret is changed on one after the
// other, and none of them ends.
func TestSecretIsChangedOnTheNodesOfOneDatabase(t *testing.T) {
	t.Parallel()
	before, after := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	nodes := keyNodes(t, before)
	admin := issuer.Actor{Name: "admin:test"}
	sessions := make([]issuer.Grant, 4)
	for n := range sessions {
		subject := fmt.Sprint("user-", n)
		if _, err := nodes[0].CreateAccount(t.Context(), admin, issuer.NewAccount{Subject: subject}); err != nil {
			t.Fatal(err)
		}
		var err error
		if sessions[n], err = nodes[n%2].OpenSession(t.Context(), admin, subject, issuer.Device{}); err != nil {
			t.Fatal(err)
		}
	}
	for step, s := range [][2][]byte{{before, after}, {after, before}, {after, nil}} {
		for _, n := range nodes {
			n.start(t, s[0], s[1])
			for i, g := range sessions {
				for _, at := range nodes { // the answer of the first is lost, and the other is asked again
					next, err := at.Refresh(t.Context(), issuer.RefreshRequest{Token: g.RefreshToken, IdempotencyKey: "K"})
					if err != nil {
						t.Fatalf("step %d: %v", step, err)
					}
					sessions[i] = next
				}
			}
		}
	}
}
