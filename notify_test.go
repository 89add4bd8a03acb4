package quash_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/internal/feed"
)

// notify returns the context that a handler would live on.
func notify(t *testing.T, v *quash.Verifier, token string) (context.Context, context.CancelFunc) {
	t.Helper()
	c, err := v.Verify(token)
	if err != nil {
		t.Fatal(err)
	}
	return quash.NotifyContext(quash.NewContext(t.Context(), c))
}

func wantCause(t *testing.T, ctx context.Context, want error, when string) {
	t.Helper()
	synctest.Wait()
	if got := context.Cause(ctx); !errors.Is(got, want) || want == nil && got != nil {
		t.Errorf("%s: got cause %v, want %v", when, got, want)
	}
}

func wantWatches(t *testing.T, v *quash.Verifier, want int) {
	t.Helper()
	synctest.Wait()
	if watches, keys := quash.Watches(v); watches != want || (want == 0) != (keys == 0) {
		t.Errorf("the verifier keeps %d contexts under %d keys, want %d", watches, keys, want)
	}
}

func TestNotifyContextEndsWithItsToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config())
		bySession, stop1 := notify(t, v, n.token(claims{"sid": "s_1", "sub": "u_1"}))
		bySubject, stop2 := notify(t, v, n.token(claims{"sid": "s_2", "sub": "u_2", "rev": 1}))
		later, stop3 := notify(t, v, n.token(claims{"sid": "s_3", "sub": "u_2", "rev": 2}))
		defer stop1()
		defer stop2()
		defer stop3()
		wantWatches(t, v, 3)
		p.records(n.forever(1, "sid", "s_1"))
		wantCause(t, bySession, quash.ErrRevoked, "its session revoked")
		wantCause(t, bySubject, nil, "another session revoked")
		p.records(n.record(2, "sub", "u_2"))
		wantCause(t, bySubject, quash.ErrRevoked, "its subject revoked")
		wantCause(t, later, nil, "issued after the revocation of its subject")
		wantWatches(t, v, 1)
		time.Sleep(299 * time.Second)
		wantCause(t, later, nil, "a second before its exp")
		time.Sleep(time.Second)
		wantCause(t, later, quash.ErrExpired, "at its exp")
		wantWatches(t, v, 0)
	})
}

func TestNotifyContextEndsWithTheCallerAndLeavesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, _ := n.open(n.config())
		c := must(v.Verify(n.token(nil)))
		parent, end := context.WithCancel(quash.NewContext(t.Context(), c))
		first, stop := quash.NotifyContext(parent)
		second, stop2 := quash.NotifyContext(parent)
		defer stop2()
		wantWatches(t, v, 2)
		stop()
		wantCause(t, first, context.Canceled, "stopped")
		wantWatches(t, v, 1)
		end()
		wantCause(t, second, context.Canceled, "its parent ended")
		wantWatches(t, v, 0)
	})
}

func TestNotifyContextWithoutClaimsHasEnded(t *testing.T) {
	for about, ctx := range map[string]context.Context{
		"no claims":      t.Context(),
		"claims made up": quash.NewContext(t.Context(), &quash.Claims{Subject: "u_7"}),
	} {
		ctx, stop := quash.NotifyContext(ctx)
		if got := context.Cause(ctx); !errors.Is(got, quash.ErrInvalid) {
			t.Errorf("%s: got cause %v, want ErrInvalid", about, got)
		}
		stop()
	}
}

func TestNotifyContextOfADeadTokenHasEnded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config())
		c := must(v.Verify(n.token(nil)))
		p.records(n.record(1, "sub", "u_7"))
		synctest.Wait()
		ctx, stop := quash.NotifyContext(quash.NewContext(t.Context(), c))
		defer stop()
		if got := context.Cause(ctx); !errors.Is(got, quash.ErrRevoked) {
			t.Errorf("got cause %v, want ErrRevoked at once", got)
		}
		wantWatches(t, v, 0)
	})
}

// What is true of a token may change without a record of its own: then all are
// judged afresh.
func TestNotifyContextIsJudgedAfreshWhenTheStateChanges(t *testing.T) {
	for about, c := range map[string]struct {
		change func(n *node, p *peer)
		want   error
	}{
		"snapshot that revokes it": {func(n *node, p *peer) {
			p.conn.CloseNow()
			p = <-n.peers
			p.sendHello(false)
			p.snapshot(n.record(9, "sub", "u_7"))
		}, quash.ErrRevoked},
		"snapshot that does not": {func(n *node, p *peer) {
			p.conn.CloseNow()
			p = <-n.peers
			p.sendHello(false)
			p.snapshot(n.record(9, "sub", "u_8"))
		}, nil},
		"another log announced": {func(n *node, p *peer) {
			p.conn.CloseNow()
			p = <-n.peers
			n.hello.Log = "log-2"
			p.sendHello(false)
		}, quash.ErrStale},
		"another hash secret, and a record under it": {func(n *node, p *peer) {
			p.conn.CloseNow()
			p = <-n.peers
			n.hello.HashSecret = []byte("another secret of just 32 octets")
			p.sendHello(false)
			p.snapshot()
			synctest.Wait()
			p.records(n.record(1, "sub", "u_7"))
		}, quash.ErrRevoked},
		"new claim name": {func(n *node, p *peer) {
			p.sendJSON(feed.KindClaims, []string{"tenant"})
			p.records(n.record(1, "tenant", "acme"))
		}, quash.ErrRevoked},
		"new claim name, long before": {func(n *node, p *peer) {
			p.sendJSON(feed.KindClaims, []string{"tenant"})
			synctest.Wait()
			p.records(n.record(1, "tenant", "acme"))
		}, quash.ErrRevoked},
		"key withdrawn": {func(_ *node, p *peer) {
			p.send([]byte(string(rune(feed.KindKeys)) + `{"keys":[]}`))
		}, quash.ErrInvalid},
		"stale": {func(_ *node, p *peer) { p.send([]byte{99}) }, quash.ErrStale},
		"connection lost": {func(n *node, p *peer) {
			n.status.Store(-1)
			p.conn.CloseNow()
		}, nil},
	} {
		t.Run(about, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				n := newNode(t)
				v, p := n.open(n.config())
				ctx, stop := notify(t, v, n.token(claims{"tenant": "acme"}))
				defer stop()
				c.change(n, p)
				wantCause(t, ctx, c.want, about)
			})
		})
	}
}

func TestCloseEndsNotifyContexts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, _ := n.open(n.config())
		ctx, stop := notify(t, v, n.token(nil))
		defer stop()
		if err := v.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantCause(t, ctx, quash.ErrStale, "closed")
		wantWatches(t, v, 0)
	})
}

// A record that comes while a context registers is seen by one of the two.
func TestNotifyContextMissesNoRecordWhileItRegisters(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, _ := n.open(n.config())
		synctest.Wait() // for the first ping: later ones would tell the node what it never sent
		for i := range uint64(500) {
			session := fmt.Sprint("s_", i)
			c := must(v.Verify(n.token(claims{"sid": session})))
			record := n.record(i+1, "sid", session)
			var ready atomic.Int32
			meet := func() {
				for ready.Add(1); ready.Load() < 2; {
					runtime.Gosched()
				}
			}
			go func() {
				meet()
				quash.Apply(v, i+1, record)
			}()
			meet()
			ctx, stop := quash.NotifyContext(quash.NewContext(t.Context(), c))
			wantCause(t, ctx, quash.ErrRevoked, "revoked while it registered")
			stop()
		}
		wantWatches(t, v, 0)
	})
}
