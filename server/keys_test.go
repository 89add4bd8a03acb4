package server_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/jws"
	"github.com/quashdev/quash/server"
)

func kidOf(t *testing.T, token string) string {
	t.Helper()
	var parsed jws.Token
	if err := parsed.Parse(token); err != nil {
		t.Fatal(err)
	}
	return parsed.Header.KeyID
}

// kids returns the keys that can sign, the current one first.
func (r *running) kids(t *testing.T) (able []string) {
	t.Helper()
	keys, err := r.admin.SigningKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if !k.Withdrawn && k.Retired.IsZero() {
			able = append(able, k.ID)
		}
	}
	return able
}

// jwks fetches the keys as verifiers of other people do, who keep them.
func (r *running) jwks(t *testing.T) *jws.KeySet {
	t.Helper()
	answer, err := http.Get("http://" + r.cfg.Public + "/.well-known/jwks.json")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var text json.RawMessage
	if err := json.NewDecoder(answer.Body).Decode(&text); err != nil {
		t.Fatal(err)
	}
	set, err := jws.ParseKeySet(text)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// TestT42KeysThatChange: a token of a retired key is accepted until it expires,
// one of a withdrawn key nowhere, although its JWKS is kept elsewhere; and the
// key that signs next is always there before its first token.
func TestT42KeysThatChange(t *testing.T) {
	r := start(t, config(t))
	v := r.verifier(t)
	r.account(t, "ada")
	tokens := r.login(t, "ada")
	first := tokens.AccessToken
	kept := r.jwks(t)
	if _, err := r.admin.RotateSigningKey(t.Context(), false); !isCode(err, client.CodeConflict) {
		t.Errorf("the next key was published just now: got %v, want conflict", err)
	}
	for range 3 {
		pair := r.kids(t)
		key, err := r.admin.RotateSigningKey(t.Context(), true)
		if err != nil || key.ID != pair[1] {
			t.Fatalf("got %s, %v, want the next key, %s", key.ID, err, pair[1])
		}
		if tokens, err = r.user.Refresh(t.Context(), tokens.RefreshToken, ""); err != nil {
			t.Fatal(err)
		}
		if kid := kidOf(t, tokens.AccessToken); kid != key.ID {
			t.Errorf("%s signs, want %s", kid, key.ID)
		}
		accepted(t, v, tokens.AccessToken)
		accepted(t, v, first)
	}
	out, err := r.admin.Revoke(t.Context(), client.RevokeRequest{Claim: "kid", Value: kidOf(t, first)})
	if err != nil || !out.Confirmation.Confirmed {
		t.Fatalf("got %+v, %v, want it confirmed", out, err)
	}
	refused(t, v, "had it from a withdrawn key", first)
	accepted(t, v, tokens.AccessToken)
	if _, still := kept.Key(kidOf(t, first)); !still {
		t.Error("who keeps the JWKS of before lacks the key: the test shows nothing")
	}
	if _, published := r.jwks(t).Key(kidOf(t, first)); published {
		t.Error("a withdrawn key is published")
	}
}

// TestSigningKeyIsRotatedAtTheStartIfDue: its time came while no server ran.
func TestSigningKeyIsRotatedAtTheStartIfDue(t *testing.T) {
	cfg := config(t)
	cfg.KeyLifetime = 24 * time.Hour
	r := start(t, cfg)
	r.account(t, "ada")
	tokens, pair := r.login(t, "ada"), r.kids(t)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	change(t, cfg, func(tx issuer.Tx) error {
		keys, err := tx.SigningKeys()
		for _, k := range keys {
			k.Created = k.Created.Add(-25 * time.Hour)
			err = errors.Join(err, tx.PutSigningKey(k))
		}
		return err
	})
	r = start(t, cfg)
	v := r.verifier(t)
	for r.kids(t)[0] != pair[1] && t.Context().Err() == nil {
		time.Sleep(time.Millisecond)
	}
	accepted(t, v, tokens.AccessToken)
	if tokens, err := r.user.Refresh(t.Context(), tokens.RefreshToken, ""); err != nil || kidOf(t, tokens.AccessToken) != pair[1] {
		t.Errorf("%v, or another key than the next signs", err)
	}
}

// TestSecretIsChanged plays the steps of docs/operations.md with one server.
func TestSecretIsChanged(t *testing.T) {
	cfg := config(t)
	r := start(t, cfg)
	r.account(t, "ada")
	phone, laptop := r.login(t, "ada"), r.login(t, "ada")
	pair := r.kids(t)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	old, err := server.ParseSecret(readFile(t, filepath.Join(cfg.Data, "secret")))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.Data, "secret"), []byte(base64.StdEncoding.EncodeToString([]byte(rand.Text() + rand.Text())[:32])), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "give that as the previous one") {
		t.Errorf("the new secret alone: got %v, want what to do", err)
	}
	cfg.PreviousSecret = old
	r = start(t, cfg)
	v := r.verifier(t)
	if diff := cmp.Diff(pair, r.kids(t)); diff != "" {
		t.Errorf("other keys sign (-before +after):\n%s", diff)
	}
	if phone, err = r.user.Refresh(t.Context(), phone.RefreshToken, ""); err != nil {
		t.Fatal(err)
	}
	accepted(t, v, phone.AccessToken)
	accepted(t, v, laptop.AccessToken)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	cfg.PreviousSecret = nil
	r = start(t, cfg)
	if _, err := r.user.Refresh(t.Context(), phone.RefreshToken, ""); err != nil {
		t.Errorf("refreshed since: %v", err)
	}
	if _, err := r.user.Refresh(t.Context(), laptop.RefreshToken, ""); !isCode(err, client.CodeGrant) {
		t.Errorf("not refreshed while both secrets were taken: got %v, want invalid_grant", err)
	}
}

// app is a client that uses its token at every service, and refreshes when it is
// refused. It never logs in again.
type app struct {
	id      int
	tokens  client.Tokens
	user    *client.Client
	lastOld atomic.Int64 // when the latest verify began that accepted a token of the key; nanoseconds since the start
	back    atomic.Int64 // when a token of another key was first accepted everywhere
}

// compromise is a signing key that is withdrawn while clients use its tokens.
type compromise struct {
	*running
	t         *testing.T
	kid       string
	began     time.Time
	verifiers []*quash.Verifier
	apps      []*app
}

func (c *compromise) since() int64 { return int64(time.Since(c.began)) }

// run uses an app until ctx ends.
func (c *compromise) run(ctx context.Context, a *app) {
	for ctx.Err() == nil {
		old, refusals := kidOf(c.t, a.tokens.AccessToken) == c.kid, 0
		for _, v := range c.verifiers {
			at := c.since()
			_, err := v.Verify(a.tokens.AccessToken)
			switch {
			case err == nil && old:
				a.lastOld.Store(at)
			case errors.Is(err, quash.ErrRevoked) || errors.Is(err, quash.ErrInvalid):
				refusals++
			case err != nil:
				c.t.Errorf("app %d: %v", a.id, err)
			}
		}
		switch {
		case refusals > 0 && !old:
			c.t.Errorf("app %d: a token of the key in its place is refused", a.id)
			return
		case refusals > 0:
			var err error
			if a.tokens, err = a.user.Refresh(ctx, a.tokens.RefreshToken, ""); err != nil && ctx.Err() == nil {
				c.t.Errorf("app %d has to log in again: %v", a.id, err)
				return
			}
		case !old && a.back.Load() == 0:
			a.back.Store(c.since())
		}
		time.Sleep(time.Millisecond)
	}
}

// TestP4StolenKeyUnderLoad: once the withdrawal is confirmed no verify accepts a
// token of the key, and every client is back by one refresh.
func TestP4StolenKeyUnderLoad(t *testing.T) {
	cfg := config(t)
	cfg.RequestsPerSecond = 10_000
	c := &compromise{running: start(t, cfg), t: t}
	for range 4 {
		c.verifiers = append(c.verifiers, c.verifier(t))
	}
	for id := range 16 {
		account, err := c.admin.CreateAccount(t.Context(), client.NewAccount{Subject: fmt.Sprint("user-", id)})
		if err != nil {
			t.Fatal(err)
		}
		tokens, err := c.admin.OpenSession(t.Context(), account.Subject, client.Device{})
		if err != nil {
			t.Fatal(err)
		}
		c.apps = append(c.apps, &app{id: id, tokens: tokens, user: c.user})
	}
	c.kid = kidOf(t, c.apps[0].tokens.AccessToken)
	c.began = time.Now()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var running sync.WaitGroup
	for _, a := range c.apps {
		running.Go(func() { c.run(ctx, a) })
	}
	for slices.ContainsFunc(c.apps, func(a *app) bool { return a.lastOld.Load() == 0 }) && !t.Failed() {
		time.Sleep(time.Millisecond)
	}
	command := c.since()
	out, err := c.admin.Revoke(t.Context(), client.RevokeRequest{Claim: "kid", Value: c.kid, Reason: "stolen"})
	confirmed := c.since()
	if err != nil || !out.Confirmation.Confirmed {
		t.Fatalf("got %+v, %v, want it confirmed", out, err)
	}
	for slices.ContainsFunc(c.apps, func(a *app) bool { return a.back.Load() == 0 }) && !t.Failed() && t.Context().Err() == nil {
		time.Sleep(time.Millisecond)
	}
	stop()
	running.Wait()
	c.report(command, confirmed)
}

// report prints the figures and fails where one of them must not be.
func (c *compromise) report(command, confirmed int64) {
	var last, back int64
	for _, a := range c.apps {
		last, back = max(last, a.lastOld.Load()), max(back, a.back.Load())
	}
	ms := func(at int64) string { return fmt.Sprintf("%.1f ms", float64(at-command)/1e6) }
	c.t.Logf("stolen key, %d clients at %d verifiers, since the command: last acceptance anywhere %s, confirmed %s, every client back %s",
		len(c.apps), len(c.verifiers), ms(last), ms(confirmed), ms(back))
	if last > confirmed {
		c.t.Errorf("a token of the key was accepted %s after the command, and confirmed %s after it", ms(last), ms(confirmed))
	}
	sessions, err := c.admin.Sessions(c.t.Context(), "user-0")
	if err != nil || len(sessions) != 1 {
		c.t.Errorf("%d sessions, %v, want the one", len(sessions), err)
	}
	audit, err := c.admin.Audit(c.t.Context(), client.AuditQuery{Event: "session_opened", Limit: 1000})
	if err != nil || len(audit.Items) != len(c.apps) {
		c.t.Errorf("%d logins, %v, want one of each client and no other", len(audit.Items), err)
	}
}
