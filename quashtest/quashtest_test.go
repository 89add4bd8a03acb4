package quashtest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/quashtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func want(t *testing.T, v *quash.Verifier, tok quashtest.Token, want error, when string) {
	t.Helper()
	if _, err := v.Verify(tok.Text); !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", when, err, want)
	}
}

func TestTokensHaveWhatTheTestSays(t *testing.T) {
	iss := quashtest.New(t)
	v := iss.Verifier(t, "")
	tok := iss.Token(t, quashtest.Claims{Subject: "u_7", Client: "web", Private: map[string]any{"roles": []string{"admin"}}})
	c, err := v.Verify(tok.Text)
	if err != nil {
		t.Fatal(err)
	}
	var mine struct{ Roles []string }
	if err := c.Decode(&mine); err != nil || fmt.Sprint(mine.Roles) != "[admin]" {
		t.Errorf("got roles %v, %v, want [admin]", mine.Roles, err)
	}
	if c.Subject != "u_7" || c.Client != "web" || c.Session != tok.Session || c.ID != tok.ID {
		t.Errorf("got %+v, want the claims of %+v", c, tok)
	}
	want(t, v, iss.Token(t, quashtest.Claims{Lifetime: -time.Second}), quash.ErrExpired, "negative lifetime")
	want(t, v, iss.Token(t, quashtest.Claims{Audience: "billing"}), quash.ErrInvalid, "another audience")
	want(t, v, iss.Token(t, quashtest.Claims{Private: map[string]any{"rev": "x"}}), quash.ErrInvalid, "a claim of the wrong type")
}

// Every verifier refuses a token when Revoke has returned, and tokens minted
// after it live.
func TestRevokeReturnsWhenEveryVerifierRefuses(t *testing.T) {
	iss := quashtest.New(t)
	var verifiers []*quash.Verifier
	for range 3 {
		verifiers = append(verifiers, iss.Verifier(t, ""))
	}
	for i := range 50 {
		claim := []string{"sid", "sub", "jti", "client_id", "tenant"}[i%5]
		tok := iss.Token(t, quashtest.Claims{Subject: "u", Client: "c", Private: map[string]any{"tenant": "acme"}})
		for _, v := range verifiers {
			want(t, v, tok, nil, claim+" not revoked")
		}
		iss.Revoke(t, claim, map[string]string{"sid": tok.Session, "sub": "u", "jti": tok.ID, "client_id": "c", "tenant": "acme"}[claim])
		for _, v := range verifiers {
			want(t, v, tok, quash.ErrRevoked, claim+" revoked")
		}
	}
	joined := iss.Verifier(t, "")
	if got := joined.Status().Position; got != 50 {
		t.Errorf("a verifier that joins: got position %d, want 50", got)
	}
}

func TestItWorksWhereTimeStandsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		iss := quashtest.New(t)
		v := iss.Verifier(t, "")
		tok := iss.Token(t, quashtest.Claims{})
		c, err := v.Verify(tok.Text)
		if err != nil {
			t.Fatal(err)
		}
		revoked, stop := quash.NotifyContext(quash.NewContext(t.Context(), c))
		defer stop()
		other := iss.Token(t, quashtest.Claims{})
		time.Sleep(4 * time.Minute)
		iss.Revoke(t, "sid", tok.Session)
		<-revoked.Done()
		if got := context.Cause(revoked); !errors.Is(got, quash.ErrRevoked) {
			t.Errorf("got cause %v, want ErrRevoked", got)
		}
		want(t, v, other, nil, "a second before its exp")
		time.Sleep(time.Minute)
		want(t, v, other, quash.ErrExpired, "at its exp")
		time.Sleep(time.Hour)
		if s := v.Status(); s.Stale != "" || !s.Connected || s.Position != 1 {
			t.Errorf("an hour later: got %+v, want in step at position 1", s)
		}
	})
}

func TestCodeUnderTestMayOpenItsOwnVerifier(t *testing.T) {
	iss := quashtest.New(t)
	config := iss.Config("orders")
	v, err := quash.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	tok := iss.Token(t, quashtest.Claims{Audience: "orders"})
	iss.Revoke(t, "sid", tok.Session)
	want(t, v, tok, quash.ErrRevoked, "revoked")
	if err := v.Close(t.Context()); err != nil {
		t.Error(err)
	}
	config.Key = "wrong"
	if _, err := quash.Open(t.Context(), config); err == nil || !strings.Contains(err.Error(), "key") {
		t.Errorf("wrong key: got %v, want it refused", err)
	}
}
