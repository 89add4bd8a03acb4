package postgres_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/pgtest"
	"github.com/quashdev/quash/internal/postgres"
	"github.com/quashdev/quash/internal/storetest"
)

// appendOne revokes one session by its id.
func appendOne(value string) func(issuer.Tx) error {
	return func(tx issuer.Tx) error {
		return tx.AppendRevocation(issuer.Revocation{Issuer: "i", Claim: "sid", Value: value, Time: tx.Now(), Event: "logout", Actor: "user"})
	}
}

// follow reads a store's tail until it ends at a position. Whatever it is shown
// continues what it was shown before.
func follow(ctx context.Context, s *postgres.Store, end uint64) error {
	for at := (feed.Mark{}); at.Position < end; {
		got, err := s.Tail(ctx, at, 50)
		if err != nil {
			return err
		}
		if got.At != at {
			return fmt.Errorf("asked for what follows %v: got it from %v", at, got.At)
		}
		for i, r := range got.Records {
			if want := at.Position + 1 + uint64(i); r.Position != want {
				return fmt.Errorf("record %d stands where %d belongs", r.Position, want)
			}
		}
		at = got.Mark
	}
	return nil
}

// One of the nodes is behind a pooler in transaction mode.
func TestP3OrderedUniqueAtomicOverTwoNodes(t *testing.T) {
	t.Parallel()
	const writers, each = 64, 8
	cluster := pgtest.New(t, pgtest.Options{})
	direct := cluster.Database(t)
	stores := []*postgres.Store{open(t, direct), open(t, cluster.Bouncer(t, databaseOf(direct)))}
	g, ctx := errgroup.WithContext(t.Context())
	var mu sync.Mutex
	owner := map[uint64]string{}
	for w := range writers {
		g.Go(func() error {
			for n := range each {
				value := fmt.Sprint(w, "-", n)
				c, err := stores[w%2].Update(ctx, appendOne(value))
				if err != nil {
					return err
				}
				mu.Lock()
				if other, taken := owner[c.First]; taken || c.First != c.Last {
					err = fmt.Errorf("position %d was given to %s and to %s", c.First, other, value)
				}
				owner[c.First] = value
				mu.Unlock()
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	for n := range 4 {
		g.Go(func() error { return follow(ctx, stores[n%2], writers*each) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, s := range stores {
		if err := storetest.Check(t.Context(), s); err != nil {
			t.Error(err)
		}
	}
}

func databaseOf(url string) string {
	_, rest, _ := strings.Cut(url, ":///")
	name, _, _ := strings.Cut(rest, "?")
	return name
}

// issuers returns an issuer over each of two nodes of one database.
func issuers(t *testing.T) []*issuer.Issuer {
	t.Helper()
	url := pgtest.Start(t)
	var list []*issuer.Issuer
	for range 2 {
		i, err := issuer.New(issuer.Config{Issuer: "https://issuer.example", Secret: make([]byte, 32)}, open(t, url))
		if err != nil {
			t.Fatal(err)
		}
		if err := i.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		list = append(list, i)
	}
	return list
}

func revOf(t *testing.T, g issuer.Grant) uint64 {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(g.AccessToken, ".")[1])
	var claims struct{ Rev uint64 }
	if err := errors.Join(err, json.Unmarshal(payload, &claims)); err != nil {
		t.Fatal(err)
	}
	return claims.Rev
}

// Whatever is opened or refreshed while all is ended either came before, and
// then it is dead, or after, and then it lives.
func TestP9EndedIsEndedOverTwoNodes(t *testing.T) {
	t.Parallel()
	nodes := issuers(t)
	admin := issuer.Actor{Name: "admin:test"}
	ends := map[string]func(i *issuer.Issuer, target issuer.Target) (issuer.Effect, error){
		"logout all": func(i *issuer.Issuer, to issuer.Target) (issuer.Effect, error) {
			return i.LogoutAll(t.Context(), admin, to)
		},
		"deactivate": func(i *issuer.Issuer, to issuer.Target) (issuer.Effect, error) {
			return i.Deactivate(t.Context(), admin, to)
		},
		"revoke a tenant": func(i *issuer.Issuer, _ issuer.Target) (issuer.Effect, error) {
			return i.Revoke(t.Context(), admin, issuer.RevokeRequest{Claim: "tenant", Value: "acme", End: true})
		},
	}
	for name, end := range ends {
		for round := range 5 {
			subject := fmt.Sprint(strings.ReplaceAll(name, " ", "-"), round)
			if _, err := nodes[0].CreateAccount(t.Context(), admin, issuer.NewAccount{Subject: subject, Claims: []byte(`{"tenant":"acme"}`)}); err != nil {
				t.Fatal(err)
			}
			checkEnd(t, nodes, subject, func() (issuer.Effect, error) { return end(nodes[round%2], issuer.Target{Subject: subject}) })
		}
	}
}

func checkEnd(t *testing.T, nodes []*issuer.Issuer, subject string, end func() (issuer.Effect, error)) {
	t.Helper()
	var mu sync.Mutex
	var grants []issuer.Grant
	device := issuer.Device{Client: "web"}
	first, err := nodes[0].OpenSession(t.Context(), issuer.Actor{Name: "admin:test"}, subject, device)
	if err != nil {
		t.Fatal(err)
	}
	var g sync.WaitGroup
	for n := range 4 {
		g.Go(func() {
			token := first.RefreshToken
			for range 6 {
				opened, err := nodes[n%2].OpenSession(t.Context(), issuer.Actor{Name: "admin:test"}, subject, device)
				refreshed, err2 := nodes[(n+1)%2].Refresh(t.Context(), issuer.RefreshRequest{Token: token, IdempotencyKey: fmt.Sprint(n)})
				mu.Lock()
				for grant, err := range map[*issuer.Grant]error{&opened: err, &refreshed: err2} {
					if err == nil {
						grants = append(grants, *grant)
					} else if refusal := (*issuer.Error)(nil); !errors.As(err, &refusal) || refusal.Code == issuer.CodeUnavailable {
						t.Error(err)
					}
				}
				mu.Unlock()
				if err == nil {
					token = opened.RefreshToken
				}
			}
		})
	}
	effect, err := end()
	g.Wait()
	if err != nil {
		t.Fatal(err)
	}
	live := map[string]bool{}
	sessions, err := nodes[1].Sessions(t.Context(), issuer.Match{Claim: "sub", Value: subject}, "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sessions {
		live[s.ID] = true
	}
	for _, grant := range grants {
		if rev := revOf(t, grant); live[grant.Session] != (rev >= effect.Position) {
			t.Errorf("%s: a token with rev %d, ended at %d: its session lives: %v", subject, rev, effect.Position, live[grant.Session])
		}
	}
}

// Everything that locks is done at once: nothing waits for ever, and nothing
// fails but for want of what it needs.
func TestNothingWaitsForEver(t *testing.T) {
	t.Parallel()
	nodes := issuers(t)
	admin := issuer.Actor{Name: "admin:test"}
	for n := range 4 {
		if _, err := nodes[0].CreateAccount(t.Context(), admin, issuer.NewAccount{Subject: fmt.Sprint("u", n), Claims: []byte(`{"tenant":"acme"}`)}); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	var g errgroup.Group
	for w := range 16 {
		i, subject := nodes[w%2], fmt.Sprint("u", w%4)
		g.Go(func() error {
			for range 5 {
				grant, err := i.OpenSession(t.Context(), admin, subject, issuer.Device{})
				if err != nil {
					return err
				}
				if w%4 == 0 {
					_, err = i.Revoke(t.Context(), admin, issuer.RevokeRequest{Claim: "tenant", Value: "acme", End: true})
				} else {
					_, err = i.Logout(t.Context(), grant.RefreshToken, "")
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestP2TogetherWhenAnEpochBeginsOnAnotherNode(t *testing.T) {
	t.Parallel()
	url := pgtest.Start(t)
	a, b := open(t, url), open(t, url)
	if _, err := a.Update(t.Context(), appendOne("1")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Update(t.Context(), func(tx issuer.Tx) error { _, err := tx.BeginEpoch("another", "a test"); return err }); err != nil {
		t.Fatal(err)
	}
	got, err := a.Tail(t.Context(), feed.Mark{}, 10)
	if err != nil || got.Log.Epoch != 2 || got.Log.ID != "another" {
		t.Errorf("got %+v, %v, want the epoch that the other began", got.Log, err)
	}
	if _, err := a.Update(t.Context(), appendOne("2")); err != nil {
		t.Error(err)
	}
}
