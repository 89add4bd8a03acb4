package quash_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quashdev/quash"
)

// tolerant is a route that accepts tokens for d after the lease. The contexts
// that its handler would live on go to the channel.
func tolerant(v *quash.Verifier, d time.Duration, living chan<- context.Context) http.Handler {
	return v.Protect(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if living != nil {
			ctx, _ := quash.NotifyContext(context.WithoutCancel(r.Context()))
			living <- ctx
		}
	}), quash.AcceptStale(d))
}

func TestAcceptStaleIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, _ := n.open(n.config(), n.record(1, "sid", "revoked"))
		h, strict := tolerant(v, time.Minute, nil), protected(v)
		synctest.Wait()
		n.cutOff(true)
		lost := time.Now()
		for _, c := range []struct {
			after  time.Duration
			status int
			stale  string
		}{
			{29 * time.Second, 200, ""},
			{30 * time.Second, 200, "0"},
			{30*time.Second + 999*time.Millisecond, 200, "0"},
			{31 * time.Second, 200, "1"},
			{90*time.Second - time.Millisecond, 200, "59"},
			{90 * time.Second, 503, ""},
			{time.Hour, 503, ""},
		} {
			time.Sleep(time.Until(lost.Add(c.after)))
			w := request(h, n.token(nil))
			if got := w.Header().Get("Quash-Stale"); w.Code != c.status || got != c.stale {
				t.Errorf("after %s: got %d, Quash-Stale %q, want %d, %q", c.after, w.Code, got, c.status, c.stale)
			}
			if w := request(h, n.token(claims{"sid": "revoked"})); w.Code != http.StatusUnauthorized {
				t.Errorf("after %s: a revoked token: got %d, want 401", c.after, w.Code)
			}
			if w := request(strict, n.token(nil)); c.stale != "" && w.Code != http.StatusServiceUnavailable {
				t.Errorf("after %s: a route that refuses: got %d, want 503", c.after, w.Code)
			}
			if _, err := v.Verify(n.token(nil)); c.stale != "" && err == nil {
				t.Errorf("after %s: Verify accepts", c.after)
			}
		}
		if got := v.Status().AcceptedStale; got != 4 {
			t.Errorf("status: %d requests accepted while stale, want 4", got)
		}
	})
}

// What Protect does over HTTP, Route does over anything.
func TestRouteAdmitsAsProtectDoes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, _ := n.open(n.config(), n.record(1, "sid", "revoked"))
		admit := v.Route(quash.AcceptStale(time.Minute))
		token := n.token(nil)
		ctx, late, err := admit(t.Context(), token)
		if c := quash.FromContext(ctx); err != nil || late >= 0 || c == nil || c.Subject != "u_7" {
			t.Errorf("in step: got %v, %s late, %v, want the claims, in time", c, late, err)
		}
		if got := v.Status().TolerantRoutes; got != 1 {
			t.Errorf("got %d routes that accept when stale, want 1", got)
		}
		synctest.Wait()
		n.cutOff(true)
		time.Sleep(40 * time.Second)
		ctx, late, err = admit(t.Context(), token)
		if err != nil || late != 10*time.Second || v.Status().AcceptedStale != 1 {
			t.Errorf("10 s after the lease: got %s late, %v, %d accepted stale, want 10 s, counted", late, err, v.Status().AcceptedStale)
		}
		ctx, stop := quash.NotifyContext(ctx)
		defer stop()
		wantCause(t, ctx, nil, "10 s after the lease")
		time.Sleep(50 * time.Second)
		wantCause(t, ctx, quash.ErrStale, "a minute after the lease")
		if _, _, err := admit(t.Context(), token); !errors.Is(err, quash.ErrStale) {
			t.Errorf("a minute after the lease: got %v, want ErrStale", err)
		}
		if ctx, _, err := admit(t.Context(), n.token(claims{"sid": "revoked"})); !errors.Is(err, quash.ErrRevoked) || quash.FromContext(ctx) != nil {
			t.Errorf("revoked: got %v, want ErrRevoked, and no claims", err)
		}
	})
}

func TestNotifyContextLivesAsLongAsItsRouteAccepts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		n.hello.MaxLifetime = 3600
		v, _ := n.open(n.config())
		living := make(chan context.Context, 1)
		long := claims{"exp": time.Now().Unix() + 3600}
		var contexts []context.Context
		tolerances := []time.Duration{10 * time.Second, time.Minute, 10 * time.Minute}
		for _, d := range tolerances {
			request(tolerant(v, d, living), n.token(long))
			contexts = append(contexts, <-living)
		}
		strict, stop := notify(t, v, n.token(long))
		defer stop()
		// A strict route within a tolerant one decides for what is inside.
		inner := v.Protect(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			ctx, _ := quash.NotifyContext(context.WithoutCancel(r.Context()))
			living <- ctx
		}))
		request(v.Protect(inner, quash.AcceptStale(time.Hour)), n.token(long))
		nested := <-living
		n.cutOff(true)
		synctest.Wait()
		ended := v.Status().LeaseUntil
		time.Sleep(time.Until(ended) - time.Millisecond)
		wantCause(t, strict, nil, "before the lease ends")
		time.Sleep(time.Millisecond)
		wantCause(t, strict, quash.ErrStale, "when the lease ends")
		wantCause(t, nested, quash.ErrStale, "when the lease ends, in a strict route within a tolerant one")
		for i, d := range tolerances {
			time.Sleep(time.Until(ended.Add(d - time.Millisecond)))
			wantCause(t, contexts[i], nil, d.String())
			time.Sleep(time.Millisecond)
			wantCause(t, contexts[i], quash.ErrStale, d.String())
		}
	})
}

// A revocation that arrives ends them all the same, and a lease that is granted
// again lets them live on.
func TestNotifyContextOfATolerantRouteRecovers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, _ := n.open(n.config())
		living := make(chan context.Context, 1)
		request(tolerant(v, time.Minute, living), n.token(nil))
		ctx := <-living
		n.cutOff(true)
		time.Sleep(50 * time.Second)
		wantCause(t, ctx, nil, "past the lease")
		n.cutOff(false)
		p := <-n.peers
		p.sendHello(true)
		time.Sleep(2 * time.Minute)
		wantCause(t, ctx, nil, "in touch again")
		p.records(n.record(1, "sub", "u_7"))
		wantCause(t, ctx, quash.ErrRevoked, "revoked")
	})
}

// Only that the verifier is out of touch is borne.
func TestAcceptStaleBearsNoOtherDoubt(t *testing.T) {
	for about, doubt := range map[string]func(n *node, v *quash.Verifier, p *peer){
		"contradiction": func(_ *node, _ *quash.Verifier, p *peer) { p.send([]byte{99}) },
		"full":          func(n *node, _ *quash.Verifier, p *peer) { p.records(n.record(1, "a", "b"), n.record(2, "a", "c")) },
		"clocks apart": func(n *node, _ *quash.Verifier, _ *peer) {
			n.skew.Store(11_000)
			time.Sleep(5 * time.Second)
		},
		"another log": func(n *node, _ *quash.Verifier, p *peer) {
			p.conn.CloseNow()
			n.hello.Log = "log-2"
			(<-n.peers).sendHello(false)
		},
		"closed": func(_ *node, v *quash.Verifier, _ *peer) { v.Close(context.Background()) },
	} {
		t.Run(about, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				n := newNode(t)
				c := n.config()
				c.MaxRevocations = 1
				v, p := n.open(c)
				living := make(chan context.Context, 1)
				h := tolerant(v, time.Hour, living)
				token := n.token(nil)
				request(h, token)
				ctx := <-living
				doubt(n, v, p)
				wantCause(t, ctx, quash.ErrStale, "its context")
				if w := request(h, token); w.Code != http.StatusServiceUnavailable || w.Header().Get("Quash-Stale") != "" {
					t.Errorf("got %d, headers %v, want 503", w.Code, w.Header())
				}
				// Nor once there is no lease either.
				n.cutOff(true)
				time.Sleep(31 * time.Second)
				if w := request(h, token); w.Code != http.StatusServiceUnavailable {
					t.Errorf("past the lease: got %d, want 503", w.Code)
				}
			})
		})
	}
	v := new(quash.Verifier)
	if w := request(tolerant(v, time.Hour, nil), "a.b.c"); w.Code != http.StatusServiceUnavailable {
		t.Errorf("not ready: got %d, want 503", w.Code)
	}
}

// The time that a route bears is told by the clock that says longer.
func TestAcceptStaleCountsTheTimeThatAMachineSlept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		c := n.config()
		m := newMachine(&c)
		v, _ := n.open(c)
		short, long := tolerant(v, time.Second, nil), tolerant(v, time.Minute, nil)
		synctest.Wait()
		n.cutOff(true)
		time.Sleep(time.Second)
		m.wall.Add(int64(8 * time.Second)) // the machine slept; the lease has ended with that
		if w := request(short, n.token(nil)); w.Code != http.StatusServiceUnavailable {
			t.Errorf("got %d, want 503: the machine slept for longer than the route bears", w.Code)
		}
		time.Sleep(time.Second)
		if w := request(long, n.token(nil)); w.Code != http.StatusOK || w.Header().Get("Quash-Stale") == "" {
			t.Errorf("got %d, headers %v, want 200 and Quash-Stale", w.Code, w.Header())
		}
		if w := request(short, n.token(nil)); w.Code != http.StatusServiceUnavailable {
			t.Errorf("got %d a second later, want 503", w.Code)
		}
	})
}

func TestRoutesThatAcceptWhenStaleAreTold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config())
		protected(v)
		synctest.Wait()
		want := func(when string, routes uint16, tolerance time.Duration) {
			t.Helper()
			synctest.Wait()
			if got := p.ping.Load(); got.Routes != routes || got.Tolerance != tolerance {
				t.Errorf("%s: got %d routes, %s, want %d, %s", when, got.Routes, got.Tolerance, routes, tolerance)
			}
			if s := v.Status(); s.TolerantRoutes != int(routes) || s.ToleranceSeconds != tolerance.Seconds() {
				t.Errorf("%s: status: got %+v, want %d routes, %s", when, s, routes, tolerance)
			}
		}
		want("none", 0, 0)
		tolerant(v, time.Minute, nil)
		want("one, at once", 1, time.Minute)
		tolerant(v, time.Hour, nil)
		tolerant(v, time.Minute, nil)
		want("three", 3, time.Hour)
		p.conn.CloseNow()
		p = <-n.peers
		p.sendHello(true)
		want("on another connection", 3, time.Hour)
	})
}

func TestAcceptStalePanicsWhereItsBoundIsNone(t *testing.T) {
	for _, d := range []time.Duration{-1, 0, 24*time.Hour + 1} {
		func() {
			defer func() {
				if r := recover(); r == nil || !strings.Contains(r.(string), "AcceptStale") {
					t.Errorf("%s: got %v, want a panic that says what is wrong", d, r)
				}
			}()
			quash.AcceptStale(d)
		}()
	}
	quash.AcceptStale(24 * time.Hour)
}
