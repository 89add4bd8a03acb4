package issuer_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash/internal/issuer"
)

const day = 24 * time.Hour

// kids returns the keys that can sign, the current one first.
func (h *house) kids() (able []string) {
	h.t.Helper()
	for _, k := range h.everything().Signing {
		if !k.Withdrawn && k.Retired.IsZero() {
			able = append(able, k.ID)
		}
	}
	return able
}

func (h *house) tend() {
	h.t.Helper()
	if err := h.RotateIfDue(h.ctx()); err != nil {
		h.t.Fatal(err)
	}
}

// rotates fails the test unless a rotation is due now, and was not just before.
func (h *house) rotatesAfter(wait time.Duration) {
	h.t.Helper()
	time.Sleep(wait - time.Millisecond)
	before := h.everything()
	h.tend()
	h.unchanged("a rotation that is not due", before)
	time.Sleep(time.Millisecond)
	pair := h.kids()
	h.tend()
	if got := h.kids(); len(got) != 2 || got[0] != pair[1] || slices.Contains(pair, got[1]) {
		h.t.Errorf("keys %q after a rotation of %q, want the next in its place and another next", got, pair)
	}
}

func (h *house) revokeKey(kid string) {
	h.t.Helper()
	if _, err := h.Revoke(h.ctx(), admin, issuer.RevokeRequest{Claim: "kid", Value: kid}); err != nil {
		h.t.Fatal(err)
	}
}

func TestSigningKeyIsReplacedAfterItsLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		first := h.session(subject)
		h.rotatesAfter(90 * day)
		old := h.everything().Signing[0]
		if old.Retired.IsZero() || old.Withdrawn || len(old.Sealed) != 0 {
			t.Errorf("the key before: %+v, want it retired, and its private half gone", old)
		}
		if !h.published(old.ID) {
			t.Error("the key before is not published any more")
		}
		if audit := h.everything().Audit[0]; audit.Event != "signing_key_rotated" || audit.Actor != "system" || !strings.Contains(string(audit.Detail), old.ID) {
			t.Errorf("the audit says %+v, want the rotation", audit)
		}
		before := h.everything()
		h.tend()
		h.restart()
		h.tend()
		h.unchanged("another look, and another start", before)
		if kid := parse(t, h.session("another").AccessToken).kid; kid != h.kids()[0] || kid == parse(t, first.AccessToken).kid {
			t.Errorf("%s signs, want the key that was next", kid)
		}
		h.rotatesAfter(90 * day) // counted from when it began to sign, not from when it was made
	})
}

// Tokens that the key signed in its last moment live to their end.
func TestRotationEndsNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, func(c *issuer.Config) { c.KeyLifetime = day })
		time.Sleep(day + time.Second) // keys are a millisecond apart, and iat counts seconds
		g := h.session(subject)
		head := h.head()
		h.tend()
		time.Sleep(5*time.Minute - time.Millisecond)
		h.lives("at its end, signed by a key that was retired", g.AccessToken, true)
		if h.head() != head {
			t.Error("a rotation revoked something")
		}
		time.Sleep(time.Minute)
		if !h.published(parse(t, g.AccessToken).kid) {
			t.Error("a retired key is gone while a token of it could be taken for live")
		}
		time.Sleep(time.Millisecond)
		if h.published(parse(t, g.AccessToken).kid) {
			t.Error("a retired key is published although its tokens have expired")
		}
	})
}

func TestNextKeyIsPublishedForADayBeforeItSigns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		time.Sleep(90*day - time.Hour)
		h.revokeKey(h.kids()[1])
		h.rotatesAfter(day)
	})
}

// A key that took the place of a compromised one has its whole time to sign.
func TestLifetimeBeginsWhenTheKeyBeginsToSign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		time.Sleep(50 * day)
		h.revokeKey(h.kids()[0])
		time.Sleep(10 * day)
		h.revokeKey(h.kids()[1]) // of the next, which did not sign
		h.rotatesAfter(80 * day)
	})
}

// Another node rotates between the look and the transaction, and many at once.
func TestNodesRotateOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		other, err := issuer.New(h.cfg, h.store.Store)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(90 * day)
		pair := h.kids()
		h.store.updating = func() {
			if err := other.RotateIfDue(h.ctx()); err != nil {
				t.Error(err)
			}
		}
		h.tend()
		h.store.updating = nil
		if got := h.kids(); got[0] != pair[1] || len(h.everything().Signing) != 3 {
			t.Errorf("%q sign of %d keys, want one rotation", got, len(h.everything().Signing))
		}
		time.Sleep(90 * day)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if err := errors.Join(h.RotateIfDue(h.ctx()), other.RotateIfDue(h.ctx())); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := len(h.everything().Signing); got != 4 {
			t.Errorf("%d keys, want 4: one rotation", got)
		}
	})
}

func TestRotateByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		g := h.session(subject)
		time.Sleep(day - time.Minute)
		before := h.everything()
		_, err := h.RotateSigningKey(h.ctx(), admin, false)
		h.refused("a key that was published for less than a day", err, issuer.CodeConflict)
		h.unchanged("a refused rotation", before)
		time.Sleep(time.Minute + time.Millisecond) // keys are a millisecond apart
		g = h.mustRefresh(g.RefreshToken, "")
		for _, now := range []bool{false, true} {
			next := h.kids()[1]
			key, err := h.RotateSigningKey(h.ctx(), admin, now)
			if err != nil || key.ID != next {
				t.Fatalf("now %v: got %s, %v; want the next key, %s", now, key.ID, err, next)
			}
			if audit := h.everything().Audit[0]; audit.Event != "signing_key_rotated" || audit.Actor != admin.Name || audit.Address != admin.Address {
				t.Errorf("the audit says %+v, want who rotated", audit)
			}
			h.lives("of a key before", g.AccessToken, true)
			if kid := parse(t, h.session("another").AccessToken).kid; kid != next {
				t.Errorf("%s signs, want %s", kid, next)
			}
		}
		_, err = h.RotateSigningKey(h.ctx(), admin, false)
		h.refused("right after a rotation", err, issuer.CodeConflict)
	})
}

// T42: a retired key is good until its tokens have expired, one that was
// withdrawn at no time.
func TestRetiredKeyCanBeWithdrawn(t *testing.T) {
	h := open(t)
	g := h.session(subject)
	kid := parse(t, g.AccessToken).kid
	if _, err := h.RotateSigningKey(h.ctx(), admin, true); err != nil {
		t.Fatal(err)
	}
	h.lives("of a retired key", g.AccessToken, true)
	pair := h.kids()
	h.revokeKey(kid)
	h.lives("of a withdrawn key", g.AccessToken, false)
	if h.published(kid) {
		t.Error("a withdrawn key is published")
	}
	if diff := cmp.Diff(pair, h.kids()); diff != "" {
		t.Errorf("withdrawing a retired key changed the ones that sign (-before +after):\n%s", diff)
	}
}

func TestP2RotationIsWholeOrNotAtAll(t *testing.T) {
	h := open(t)
	before := h.everything()
	failed := true
	for n := 1; failed; n++ {
		h.store.failWrite, h.store.failed = n, false
		_, err := h.RotateSigningKey(h.ctx(), admin, true)
		if failed = h.store.failed; failed == (err == nil) {
			t.Errorf("write %d: failed = %v, and the call says %v", n, failed, err)
		}
		if failed {
			h.unchanged("a rotation that failed", before)
		}
	}
}

// A private half that an older server left beside a key that it retired goes at
// the start.
func TestRetiredKeysLoseTheirPrivateHalves(t *testing.T) {
	h := open(t)
	kid := h.kids()[0]
	sealed := h.everything().Signing[0].Sealed
	if _, err := h.RotateSigningKey(h.ctx(), admin, true); err != nil {
		t.Fatal(err)
	}
	_, err := h.store.Update(h.ctx(), func(tx issuer.Tx) error {
		k := h.everything().Signing[0]
		k.Sealed = sealed
		return tx.PutSigningKey(k)
	})
	if err != nil {
		t.Fatal(err)
	}
	h.restart()
	for _, k := range h.everything().Signing {
		if retired := !k.Retired.IsZero(); retired != (k.ID == kid) || retired == (len(k.Sealed) > 0) {
			t.Errorf("key %s: retired %v, with %d octets of a private half", k.ID, retired, len(k.Sealed))
		}
	}
}
