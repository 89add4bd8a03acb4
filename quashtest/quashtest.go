// Package quashtest is an issuer in memory, for tests of what stands behind a
// [quash.Verifier]: it mints tokens, revokes them, and serves a real feed,
// without a socket, a file or a database. Time may stand still: everything
// works in a bubble of testing/synctest.
//
//	iss := quashtest.New(t)
//	v := iss.Verifier(t, "orders")
//	tok := iss.Token(t, quashtest.Claims{Audience: "orders"})
//	iss.Revoke(t, "sid", tok.Session)
package quashtest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/jws"
	"github.com/quashdev/quash/internal/memnet"
	"github.com/quashdev/quash/internal/revlog"
	"github.com/quashdev/quash/internal/revset"
)

const (
	// issuerURL is iss of every token.
	issuerURL = "https://issuer.test"
	// maxLifetime is how far off exp may be.
	maxLifetime = 24 * time.Hour
	// patience bounds what waits for verifiers.
	patience = 10 * time.Second
)

// Issuer mints and revokes tokens, and serves the feed to verifiers. Its
// methods may be called concurrently.
type Issuer struct {
	key      *jws.PrivateKey
	source   *source
	log      *revlog.Log
	listener *memnet.Listener
	secret   string // the verifiers' key
	count    atomic.Int64
}

// New returns an issuer that lives until t ends.
func New(t testing.TB) *Issuer {
	t.Helper()
	key, err := jws.Generate(jws.Ed25519)
	if err != nil {
		t.Fatalf("quashtest: %v", err)
	}
	s, err := newSource(key.Public())
	if err != nil {
		t.Fatalf("quashtest: %v", err)
	}
	i := &Issuer{
		key: key, source: s, listener: memnet.Listen(), secret: rand.Text(),
		log: revlog.New(revlog.Config{Issuer: issuerURL}, s),
	}
	i.serve(t)
	return i
}

// serve runs the feed until t ends.
func (i *Issuer) serve(t testing.TB) {
	ctx, cancel := context.WithCancel(context.Background())
	server := &http.Server{Handler: http.HandlerFunc(i.feed), ReadHeaderTimeout: patience}
	ended := make(chan struct{}, 2)
	go func() {
		_ = i.log.Run(ctx)
		ended <- struct{}{}
	}()
	go func() {
		_ = server.Serve(i.listener)
		ended <- struct{}{}
	}()
	t.Cleanup(func() {
		cancel()
		_ = server.Close()
		<-ended
		<-ended
	})
	<-i.log.Ready()
}

func (i *Issuer) feed(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+i.secret {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	i.log.ServeFeed(w, r, "quashtest", nil)
}

// Config returns what [quash.Open] needs to follow the issuer, for code under
// test that opens its verifier itself.
func (i *Issuer) Config(audience string) quash.Config {
	return quash.Config{URL: "http://issuer.test", Key: i.secret, Audience: audience, Dial: i.listener.Dial}
}

// Verifier returns a verifier that follows the issuer until t ends. An empty
// audience is the issuer's own name.
func (i *Issuer) Verifier(t testing.TB, audience string) *quash.Verifier {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	v, err := quash.Open(ctx, i.Config(audience))
	if err != nil {
		t.Fatalf("quashtest: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = v.Close(ctx)
	})
	return v
}

// Claims says what a token is to contain. Zero fields are filled in: names
// that no other token has, and the issuer as the audience.
type Claims struct {
	Subject  string
	Client   string
	Session  string
	ID       string
	Audience string
	Lifetime time.Duration  // 0: 5 minutes; a negative one makes an expired token; 24 hours at most
	Private  map[string]any // further claims; each replaces one of the same name, even of those above
}

// Token is a token with the claims that tests revoke it by.
type Token struct {
	Text    string // what goes behind Bearer
	Subject string
	Client  string
	Session string
	ID      string
}

// Token mints a token: valid now, and issued after every revocation made so
// far.
func (i *Issuer) Token(t testing.TB, c Claims) Token {
	t.Helper()
	n := i.count.Add(1)
	tok := Token{
		Subject: either(c.Subject, "user-%d", n), Client: either(c.Client, "client-%d", n),
		Session: either(c.Session, "session-%d", n), ID: either(c.ID, "token-%d", n),
	}
	if c.Lifetime == 0 {
		c.Lifetime = 5 * time.Minute
	}
	now := time.Now()
	all := map[string]any{
		"iss": issuerURL, "aud": either(c.Audience, issuerURL), "sub": tok.Subject, "client_id": tok.Client,
		"sid": tok.Session, "jti": tok.ID, "iat": now.Unix(), "exp": now.Add(c.Lifetime).Unix(), "rev": i.source.head(),
	}
	maps.Copy(all, c.Private)
	payload, err := json.Marshal(all)
	if err != nil {
		t.Fatalf("quashtest: token: %v", err)
	}
	if tok.Text, err = i.key.Sign("at+jwt", payload); err != nil {
		t.Fatalf("quashtest: token: %v", err)
	}
	return tok
}

// Revoke kills the tokens minted so far that have the value under the claim,
// and returns when every verifier refuses them. Sessions ("sid") and
// single tokens ("jti") are revoked for ever.
func (i *Issuer) Revoke(t testing.TB, claim, value string) {
	t.Helper()
	r := issuer.Revocation{
		Issuer: issuerURL, Claim: claim, Value: value, Time: time.Now(), Event: issuer.ClaimRevoked.Name, Actor: "quashtest",
	}
	if claim == "sid" || claim == "jti" {
		r.Before = revset.Forever
	}
	position := i.source.append(r)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if c := i.log.WaitConfirmed(ctx, position); !c.Confirmed {
		t.Fatalf("quashtest: revoke %s: %d verifiers have not confirmed within %s: %+v", claim, c.Pending, patience, c.Slow)
	}
}

func either(s, format string, args ...any) string {
	if s != "" {
		return s
	}
	return fmt.Sprintf(format, args...)
}
