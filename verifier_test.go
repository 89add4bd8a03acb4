package quash_test

import (
	"context"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/jws"
	"github.com/quashdev/quash/internal/revset"
)

func TestVerifyReturnsTheClaims(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, _ := n.open(n.config())
		now := time.Now().Truncate(time.Second).UTC()
		token := n.token(claims{"aud": []string{"billing", testAudience}, "rev": 41, "roles": []string{"admin"}})
		got, err := v.Verify(token)
		if err != nil {
			t.Fatal(err)
		}
		want := &quash.Claims{
			Issuer: testIssuer, Subject: "u_7", Client: "web", Session: "s_81", ID: "t_1",
			Audience: []string{"billing", testAudience}, IssuedAt: now, Expires: now.Add(300 * time.Second), Revision: 41,
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(quash.Claims{})); diff != "" {
			t.Errorf("claims differ (-want +got):\n%s", diff)
		}
		var mine struct{ Roles []string }
		if err := got.Decode(&mine); err != nil || !cmp.Equal(mine.Roles, []string{"admin"}) {
			t.Errorf("decode: got %v, %v, want roles [admin]", mine, err)
		}
		if err := new(quash.Claims).Decode(&mine); !errors.Is(err, quash.ErrInvalid) {
			t.Errorf("decode of claims from nowhere: got %v, want ErrInvalid", err)
		}
	})
}

// P6: no live token is refused because another was revoked.
func TestP6Exact(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config(), n.record(9, "sub", "someone"))
		before := n.token(claims{"rev": 9, "jti": "before"})
		after := n.token(claims{"rev": 10, "jti": "after"})
		other := n.token(claims{"rev": 0, "sub": "u_8", "jti": "other"})
		// The same value under another claim is another thing.
		namesake := n.token(claims{"rev": 0, "sub": "u_9", "sid": "u_7", "jti": "namesake"})
		for _, token := range []string{before, after, other, namesake} {
			wantAccepted(t, v, token, "before the revocation")
		}
		p.records(n.record(10, "sub", "u_7"))
		synctest.Wait()
		wantError(t, v, before, quash.ErrRevoked, "issued before the revocation")
		wantAccepted(t, v, after, "issued in the same second, right after the revocation")
		wantAccepted(t, v, other, "of another subject")
		wantAccepted(t, v, namesake, "of another claim with that value")
	})
}

// P6: a value that no revocation can name does not lock its token out once the
// claim's name is in use.
func TestP6ValuesThatCannotBeNamed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config())
		gold := n.token(claims{"plan": "gold"})
		others := map[string]string{
			"null":               n.token(claims{"plan": json.RawMessage("null")}),
			"object":             n.token(claims{"plan": map[string]any{"name": "gold"}}),
			"nested array":       n.token(claims{"plan": []any{[]any{"gold"}}}),
			"null in an array":   n.token(claims{"plan": []any{nil, "silver"}}),
			"object in an array": n.token(claims{"plan": []any{map[string]any{"gold": "gold"}}}),
		}
		beside := n.token(claims{"plan": []any{nil, "gold"}})
		p.sendJSON(feed.KindClaims, append(n.hello.Claims, "plan"))
		p.records(n.record(1, "plan", "gold"))
		synctest.Wait()
		wantError(t, v, gold, quash.ErrRevoked, "gold")
		wantError(t, v, beside, quash.ErrRevoked, "gold beside null")
		for about, token := range others {
			wantAccepted(t, v, token, about)
		}
	})
}

func TestForEverKillsWhateverRevSays(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config())
		thief := n.token(claims{"rev": uint64(1<<53 - 1)})
		wantAccepted(t, v, thief, "before the key was found stolen")
		p.records(n.forever(1, "kid", n.key.Public().ID()))
		synctest.Wait()
		wantError(t, v, thief, quash.ErrRevoked, "signed with a stolen key")
	})
}

// P7: nothing is accepted before the first complete snapshot.
func TestP7NotBeforeReady(t *testing.T) {
	wantError(t, new(quash.Verifier), "a.b.c", quash.ErrNotReady, "a verifier that nobody opened")
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		n.hello.Head = 2
		var ready atomic.Bool
		var v *quash.Verifier
		go func() {
			v = must(quash.Open(t.Context(), n.config()))
			ready.Store(true)
		}()
		step := func(what string) {
			t.Helper()
			synctest.Wait()
			if ready.Load() {
				t.Errorf("%s: the verifier is ready", what)
			}
		}
		p := <-n.peers
		step("connected")
		p.sendHello(false)
		step("after hello")
		p.send(feed.AppendSnapshot(nil, []revset.Record{n.record(1, "sub", "u_8")}))
		step("in the middle of the snapshot")
		p.sendMark(1)
		step("at a mark before the head")
		p.records(n.record(2, "sub", "u_7"))
		synctest.Wait()
		if !ready.Load() {
			t.Fatal("the verifier is not ready at the head")
		}
		defer v.Close(context.Background())
		if s := v.Status(); !s.Ready || s.Stale != "" || s.Position != 2 {
			t.Errorf("status: got %+v, want ready at position 2", s)
		}
		wantError(t, v, n.token(nil), quash.ErrRevoked, "revoked by what came after the snapshot")
	})
}

// P8: a verify does no input or output; with the node gone, it goes on until the
// lease ends.
func TestP8Local(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config(), n.record(3, "sid", "s_1"))
		live, dead, fresh := n.token(nil), n.token(claims{"sid": "s_1"}), n.token(claims{"jti": "never seen before"})
		wantAccepted(t, v, live, "connected")
		n.status.Store(-1)
		p.conn.CloseNow()
		time.Sleep(29 * time.Second)
		if s := v.Status(); s.Connected || s.Stale != "" || !s.Ready {
			t.Errorf("status: got %+v, want ready, not connected, not stale", s)
		}
		dials := n.dials.Load()
		wantAccepted(t, v, live, "node gone")
		wantAccepted(t, v, fresh, "node gone, token not seen before")
		wantError(t, v, dead, quash.ErrRevoked, "node gone")
		if got := n.dials.Load(); got != dials {
			t.Errorf("verifying dialled %d times", got-dials)
		}
		if allocs := testing.AllocsPerRun(100, func() { _, _ = v.Verify(live) }); allocs != 0 {
			t.Errorf("verifying again: got %v allocations, want 0", allocs)
		}
		time.Sleep(2 * time.Second)
		wantError(t, v, live, quash.ErrStale, "node gone for longer than a lease")
		wantError(t, v, dead, quash.ErrRevoked, "node gone for longer than a lease")
	})
}

func TestOrderOfAnswers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, _ := n.open(n.config(), n.record(5, "sid", "revoked"))
		stranger := must(jws.Generate(jws.Ed25519))
		now := time.Now().Unix()
		good := n.token(nil)
		for _, c := range []struct {
			about, token string
			fresh, stale error
		}{
			{"good", good, nil, quash.ErrStale},
			{"revoked", n.token(claims{"sid": "revoked"}), quash.ErrRevoked, quash.ErrRevoked},
			{"expired", n.token(claims{"exp": now}), quash.ErrExpired, quash.ErrExpired},
			{"expired and revoked", n.token(claims{"exp": now, "sid": "revoked"}), quash.ErrExpired, quash.ErrExpired},
			{"expired, of another audience", n.token(claims{"exp": now, "aud": "billing"}), quash.ErrInvalid, quash.ErrInvalid},
			{"of a strange key", n.tokenBy(stranger, nil), quash.ErrInvalid, quash.ErrStale},
			{"oversize", good + strings.Repeat("A", jws.MaxToken), quash.ErrInvalid, quash.ErrInvalid},
			{"empty", "", quash.ErrInvalid, quash.ErrInvalid},
		} {
			if _, err := v.Verify(c.token); !errors.Is(err, c.fresh) {
				t.Errorf("%s, fresh: got %v, want %v", c.about, err, c.fresh)
			}
			n.skew.Store(int64(time.Hour / time.Millisecond))
			time.Sleep(10 * time.Second)
			if _, err := v.Verify(c.token); !errors.Is(err, c.stale) {
				t.Errorf("%s, stale: got %v, want %v", c.about, err, c.stale)
			}
			n.skew.Store(0)
			time.Sleep(10 * time.Second)
		}
	})
}

func TestErrorsHoldNoToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, _ := n.open(n.config(), n.record(1, "sub", "revoked-subject"))
		for _, token := range []string{
			n.token(claims{"sub": "revoked-subject"}), n.token(claims{"aud": "secret-audience"}), n.token(claims{"exp": 1}), "secret.secret.secret",
		} {
			_, err := v.Verify(token)
			if err == nil || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "subject") || strings.Contains(err.Error(), token) {
				t.Errorf("got %v, want an error without anything of the token", err)
			}
		}
	})
}

// A token has no identity but its claims: whoever has one of ES256 can make
// another of the same claims, with the other signature (r, n-s).
func TestTwinOfARevokedTokenIsRevoked(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		key := must(jws.Generate(jws.ES256))
		n.hello.Keys = keySet(key)
		v, p := n.open(n.config())
		token := n.tokenBy(key, nil)
		at := strings.LastIndexByte(token, '.') + 1
		signature := must(base64.RawURLEncoding.DecodeString(token[at:]))
		s := new(big.Int).SetBytes(signature[32:])
		s.Sub(elliptic.P256().Params().N, s).FillBytes(signature[32:])
		twin := token[:at] + base64.RawURLEncoding.EncodeToString(signature)
		wantAccepted(t, v, token, "before the revocation")
		wantAccepted(t, v, twin, "its twin, before the revocation")
		p.records(n.forever(1, "jti", "t_1"))
		synctest.Wait()
		wantError(t, v, token, quash.ErrRevoked, "after it")
		wantError(t, v, twin, quash.ErrRevoked, "its twin, after it")
	})
}

// A cached token dies at its exp, to the moment, and one that the cache has
// never seen at the same.
func TestExpiryIsExact(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, _ := n.open(n.config())
		token := n.token(claims{"exp": float64(time.Now().Unix()) + 30.5})
		wantAccepted(t, v, token, "new")
		time.Sleep(30*time.Second + 499*time.Millisecond)
		wantAccepted(t, v, token, "a millisecond before its exp")
		time.Sleep(time.Millisecond)
		wantError(t, v, token, quash.ErrExpired, "at its exp")
	})
}

// P4, as far as it is the verifier's: what it has acknowledged, it refuses.
func TestNothingAcknowledgedIsAccepted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		c := n.config()
		c.CacheBytes = 32 << 10 // some tokens stay, some do not
		v, p := n.open(c)
		const tokens = 100
		var list [tokens]string
		var dead [tokens]atomic.Bool
		for i := range list {
			list[i] = n.token(claims{"sid": fmt.Sprint("s_", i)})
		}
		ended := make(chan struct{})
		var verifying sync.WaitGroup
		for range 4 {
			verifying.Go(func() {
				for i := 0; ; i = (i + 1) % tokens {
					select {
					case <-ended:
						return
					default:
					}
					killed := dead[i].Load()
					if _, err := v.Verify(list[i]); killed && !errors.Is(err, quash.ErrRevoked) {
						t.Errorf("token %d: got %v after its revocation was acknowledged", i, err)
					}
				}
			})
		}
		for i := range list {
			position := uint64(i + 1)
			p.records(n.record(position, "sid", fmt.Sprint("s_", i)))
			for applied := uint64(0); applied < position; {
				applied = <-p.acked
			}
			dead[i].Store(true)
		}
		close(ended)
		verifying.Wait()
	})
}

func TestVerifyAllocatesNothingForATokenItKnows(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, _ := n.open(n.config(), n.record(3, "sid", "s_1"))
		token := n.token(nil)
		wantAccepted(t, v, token, "new")
		if allocs := testing.AllocsPerRun(1000, func() { _, _ = v.Verify(token) }); allocs != 0 {
			t.Errorf("got %v allocations, want 0", allocs)
		}
	})
}
