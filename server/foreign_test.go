package server_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/client"
)

const oldSecret = "the secret of an application before Quash"

// oldToken is a token as an application made it before it came to Quash.
func oldToken(subject string, issued time.Time) string {
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." +
		encode(fmt.Appendf(nil, `{"sub":%q,"iat":%d,"exp":%d}`, subject, issued.Unix(), issued.Add(time.Hour).Unix()))
	mac := hmac.New(sha256.New, []byte(oldSecret))
	mac.Write([]byte(text))
	return text + "." + encode(mac.Sum(nil))
}

// P4, for an application that moves over: what ends a user's tokens at Quash
// ends those from before, once it is confirmed.
func TestP4TokensFromBeforeAreRevokedWithTheUser(t *testing.T) {
	r := start(t, config(t))
	ctx := t.Context()
	key, err := r.admin.CreateKey(ctx, client.NewKey{Name: "orders", Scopes: []string{"feed"}})
	if err != nil {
		t.Fatal(err)
	}
	c := quash.Config{URL: "http://" + r.cfg.Private, Key: key.Secret, Issuers: []quash.Issuer{
		{Name: "before", Secret: []byte(oldSecret), Until: time.Now().Add(time.Hour), Types: []string{"JWT"}, MaxLifetime: time.Hour},
	}}
	same := true
	if _, err := r.admin.AddIssuer(ctx, client.NewIssuer{Name: "before", MaxLifetime: 3600, SameSubjects: &same}); err != nil {
		t.Fatal(err)
	}
	v, err := quash.Open(ctx, c)
	if err != nil {
		t.Fatalf("right after the issuer was added: %v", err)
	}
	defer v.Close(context.Background())
	if _, err := r.admin.CreateAccount(ctx, client.NewAccount{Subject: "u_7"}); err != nil {
		t.Fatal(err)
	}
	session, err := r.admin.OpenSession(ctx, "u_7", client.Device{})
	if err != nil {
		t.Fatal(err)
	}
	old, other := oldToken("u_7", time.Now().Add(-time.Minute)), oldToken("u_8", time.Now().Add(-time.Minute))
	for what, token := range map[string]string{"one from before": old, "another user's": other, "one of Quash's": session.AccessToken} {
		if _, err := v.Verify(token); err != nil {
			t.Errorf("%s: got %v, want it accepted", what, err)
		}
	}
	e, err := r.admin.EndSessions(ctx, "u_7", client.Change{Reason: "logout everywhere"})
	if err != nil || e.Confirmation == nil || !e.Confirmation.Confirmed {
		t.Fatalf("got %+v, %v, want it confirmed", e, err)
	}
	for what, token := range map[string]string{"one from before": old, "one of Quash's": session.AccessToken} {
		if _, err := v.Verify(token); !errors.Is(err, quash.ErrRevoked) {
			t.Errorf("%s: got %v, want it revoked", what, err)
		}
	}
	if _, err := v.Verify(other); err != nil {
		t.Errorf("another user's: got %v, want it accepted", err)
	}
}
