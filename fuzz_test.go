package quash_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/internal/lease"
)

// fuzzNow is the moment of testdata/vectors/tokens.json. The verifier's clock
// stands there.
const fuzzNow = 1_800_000_000

// FuzzClaims signs whatever text for the claims of a token. One that is accepted
// has by encoding/json what a token must have, and is told as encoding/json reads
// it; every other is invalid or expired.
func FuzzClaims(f *testing.F) {
	n := newNode(f)
	n.skew.Store(fuzzNow*1000 - time.Now().UnixMilli())
	c := n.config()
	quash.SetClock(&c, func() lease.Moment { return lease.Moment{Wall: fuzzNow * int64(time.Second)} })
	v, _ := n.open(c)
	grant := quash.EndLease(v)
	var file struct {
		Vectors []struct{ ID, Token, Layer string }
	}
	readVectors(f, "tokens.json", &file)
	for _, vector := range file.Vectors {
		if vector.Layer != "jws" && len(vector.Token) < 2000 {
			f.Add(must(base64.RawURLEncoding.DecodeString(strings.Split(vector.Token, ".")[1])))
		}
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		token, err := n.key.Sign("at+jwt", payload)
		if err != nil || len(payload) == 0 {
			return
		}
		claims, err := v.Verify(token)
		for errors.Is(err, quash.ErrStale) { // as its clock stands still, unlike the node's
			grant()
			claims, err = v.Verify(token)
		}
		if err == nil {
			checkClaims(t, payload, claims)
		} else if !errors.Is(err, quash.ErrInvalid) && !errors.Is(err, quash.ErrExpired) {
			t.Errorf("%q: got %v, want it invalid or expired", payload, err)
		}
	})
}

func checkClaims(t *testing.T, payload []byte, got *quash.Claims) {
	t.Helper()
	var members map[string]json.RawMessage // whose names, unlike a struct's, keep their case
	if err := json.Unmarshal(payload, &members); err != nil {
		t.Fatalf("took %q: %v", payload, err)
	}
	var audience []string
	if json.Unmarshal(members["aud"], &audience) != nil {
		audience = []string{text(t, members["aud"])}
	}
	if got.Issuer != testIssuer || !slices.Contains(audience, testAudience) || !slices.Equal(got.Audience, audience) {
		t.Errorf("took %q as %+v", payload, got)
	}
	for name, value := range map[string]string{"iss": got.Issuer, "sub": got.Subject, "jti": got.ID, "client_id": got.Client} {
		if want := text(t, members[name]); value == "" || value != want {
			t.Errorf("%q: got %s %q, want %q", payload, name, value, want)
		}
	}
	if exp := between(t, payload, members["exp"], fuzzNow, fuzzNow+300+61); exp.Cmp(big.NewFloat(fuzzNow)) == 0 {
		t.Errorf("took %q, which is dead", payload)
	}
	if sid := members["sid"]; sid != nil && text(t, sid) != got.Session || sid == nil && got.Session != "" {
		t.Errorf("%q: got sid %q, want %s", payload, got.Session, sid)
	}
	between(t, payload, members["iat"], 0, fuzzNow+61)
	if nbf := members["nbf"]; nbf != nil {
		between(t, payload, nbf, 0, fuzzNow+61)
	}
	if rev := between(t, payload, members["rev"], 0, 1<<53-1); !rev.IsInt() || rev.Cmp(new(big.Float).SetUint64(got.Revision)) != 0 {
		t.Errorf("took %q with rev %d", payload, got.Revision)
	}
}

func text(t *testing.T, value json.RawMessage) (s string) {
	t.Helper()
	if err := json.Unmarshal(value, &s); err != nil {
		t.Errorf("%q is no string: %v", value, err)
	}
	return s
}

// between reads a number, exactly, and checks where it lies.
func between(t *testing.T, payload []byte, value json.RawMessage, low, high float64) *big.Float {
	t.Helper()
	const bits = 1 << 15 // more than the digits of any token
	n, _, err := big.ParseFloat(string(value), 10, bits, big.ToNearestEven)
	if err != nil {
		t.Fatalf("took %q, where %q is no number: %v", payload, value, err)
	}
	if n.Cmp(big.NewFloat(low)) < 0 || n.Cmp(big.NewFloat(high)) > 0 {
		t.Errorf("took %q, where %q is not between %v and %v", payload, value, low, high)
	}
	return n
}
