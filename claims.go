package quash

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Claims are the claims of a token that a [Verifier] accepted. Verify returns
// the same Claims for the same token to everyone: they must not be changed.
//
// Where [Config.Issuers] has others, a subject, a client or a session is one only
// together with its issuer. Of their tokens, what is not there is empty or zero,
// and Revision is 0.
type Claims struct {
	token string // with the claims behind it, in the same memory; first, as each verification compares it

	Issuer   string    // iss, or the [Issuer] Name of a token without one
	Subject  string    // sub
	Client   string    // client_id
	Session  string    // sid; empty in a token that a client has for itself
	ID       string    // jti
	Audience []string  // aud, one member or more
	IssuedAt time.Time // iat
	Expires  time.Time // exp, or Issuer.Until where that is sooner: from this moment on the token is dead
	Revision uint64    // rev: head of the log when the token was issued

	verifier *Verifier
}

// textBytes returns what the claims take that are the token's own.
func (c *Claims) textBytes() int {
	return len(c.token) + len(c.Subject) + len(c.Client) + len(c.Session) + len(c.ID)
}

// Decode stores the whole payload, private claims too, in the value that v
// points to, as [json.Unmarshal] does. No object of the payload has two members
// of one name; but json.Unmarshal, unlike claims, takes names that differ only
// in case for the same field.
func (c *Claims) Decode(v any) error {
	_, rest, _ := strings.Cut(c.token, ".")
	encoded, _, _ := strings.Cut(rest, ".")
	payload, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil || len(payload) == 0 {
		return fmt.Errorf("decode the claims: %w: they are of no token", ErrInvalid)
	}
	if err := json.Unmarshal(payload, v); err != nil {
		return fmt.Errorf("decode the claims: %w", err)
	}
	return nil
}

type contextKey struct{}

// NewContext returns a context that carries the claims, as [Verifier.Protect]
// gives to its handler. It is for those who call Verify themselves.
func NewContext(ctx context.Context, c *Claims) context.Context {
	return context.WithValue(ctx, contextKey{}, c)
}

// FromContext returns the claims that ctx carries, and nil where it carries
// none: outside of [Verifier.Protect] and [NewContext].
func FromContext(ctx context.Context) *Claims {
	c, _ := admitted(ctx)
	return c
}

// tolerated is what the context of a route that accepts tokens while stale
// carries in place of the claims alone.
type tolerated struct {
	claims    *Claims
	tolerance time.Duration
}

// admitted returns the claims that ctx carries, and for how long after the
// lease they are good where they were accepted.
func admitted(ctx context.Context) (*Claims, time.Duration) {
	switch c := ctx.Value(contextKey{}).(type) {
	case *Claims:
		return c, 0
	case *tolerated:
		return c.claims, c.tolerance
	}
	return nil, 0
}
