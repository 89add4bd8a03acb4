package quash

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quashdev/quash/internal/jws"
)

// Verifier checks access tokens. All its methods may be called concurrently.
// The zero Verifier is not ready and accepts nothing; [Open] makes one that is.
type Verifier struct {
	config   Config
	exposed  bool
	follower follower
	cache    *cache
	watches  watches
	borne    atomic.Uint64 // requests accepted while stale

	stop context.CancelFunc // begins the end: the follower says goodbye
	kill context.CancelFunc // ends at once
	done chan struct{}      // closed when everything has ended
}

// Open returns a verifier that follows a node from then on, once it accepts
// tokens: it has all revocations up to the log's head when it connected, a
// lease, and a clock that agrees with the node's. Until then Open tries again
// for as long as ctx lives, also while the node does not know one of
// Config.Issuers, which "quash issuer add" mends; it fails at once where the
// configuration is wrong, a node refuses the key, or serves another issuer. Ctx
// bounds the start only. Open also waits for the first answer
// of each issuer's JWKS, at most 10 seconds; it does not fail where that is bad.
//
// The verifier connects again by itself, to the next of its addresses, whenever
// it loses its node, and goes on verifying meanwhile, until its lease ends. It
// must be closed.
func Open(ctx context.Context, c Config) (*Verifier, error) {
	c, addresses, err := c.complete()
	if err != nil {
		return nil, fmt.Errorf("quash: open: %w", err)
	}
	issuers, err := c.foreignIssuers()
	if err != nil {
		return nil, fmt.Errorf("quash: open: %w", err)
	}
	v := &Verifier{config: c, exposed: c.exposed(addresses), cache: newCache(c.CacheBytes), done: make(chan struct{})}
	v.watches.init()
	v.follower.init(c, addresses, issuers, &v.watches)
	soft, stop := context.WithCancel(context.Background())
	hard, kill := context.WithCancel(context.Background())
	v.stop, v.kill = stop, kill
	go v.run(soft, hard)
	select {
	case err = <-v.follower.started:
	case <-ctx.Done():
		err = v.follower.unready(context.Cause(ctx))
	}
	if err != nil {
		brief, cancel := context.WithTimeout(context.Background(), goodbyeBrief)
		defer cancel()
		_ = v.Close(brief)
		return nil, fmt.Errorf("quash: open %s: %w", c.URL, err)
	}
	for _, o := range issuers {
		o.source.await(ctx)
	}
	return v, nil
}

// goodbyeBrief is how long a start that failed waits for the node to take back
// what it granted.
const goodbyeBrief = time.Second

// run owns every goroutine of the verifier.
func (v *Verifier) run(soft, hard context.Context) {
	defer close(v.done)
	tended := make(chan struct{})
	go func() {
		defer close(tended)
		v.tend(soft)
	}()
	var keys sync.WaitGroup
	client := v.config.keyClient()
	for _, o := range v.follower.issuers() {
		if o.source != nil {
			keys.Go(func() { o.source.follow(soft, client, &v.follower) })
		}
	}
	v.follower.run(soft, hard)
	<-tended
	keys.Wait()
	client.CloseIdleConnections()
	v.recheck()
}

// tend does what must not hold up the feed: comparing the clocks, forgetting,
// and checking watched tokens again.
func (v *Verifier) tend(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			v.follower.check()
			v.follower.forget()
		case <-v.watches.again:
			v.recheck()
		}
	}
}

// Close ends the verifier, and tells the node, so that no revocation waits for
// it: from then on Verify answers ErrStale, and contexts of [NotifyContext] have
// ended. It is called after the server that uses the verifier has drained.
// Where ctx ends first, Close leaves without waiting for the node, and returns
// the cause; what the node granted then ends by itself. Closing again does
// nothing.
func (v *Verifier) Close(ctx context.Context) error {
	if v.stop == nil {
		return nil
	}
	v.follower.close()
	v.stop()
	select {
	case <-v.done:
		return nil
	case <-ctx.Done():
		v.kill()
		<-v.done
		return fmt.Errorf("quash: close: the node did not answer the goodbye: %w", context.Cause(ctx))
	}
}

// Verify returns the claims of a token that is to be accepted now. Otherwise
// the error matches [ErrInvalid], [ErrExpired], [ErrRevoked], [ErrStale] or
// [ErrNotReady]; the package comment says in which order.
//
// A verifier is stale once its lease has ended: [AcceptStale] does not concern
// Verify. It does no input or output, takes no lock, and allocates nothing for a
// token that it has verified before. Every record that the verifier had applied
// when the call began takes part.
func (v *Verifier) Verify(token string) (*Claims, error) {
	e, _, err := v.admit(token, 0)
	if err != nil {
		return nil, err
	}
	return &e.claims, nil
}

// admit accepts a token, with how long ago the lease ended where that is borne;
// [inTime]: it lasts.
//
// Freshness is loaded before all that the token is judged by. Loaded after, it
// could be that of a grant which came in between, with records that the
// judgement had missed.
func (v *Verifier) admit(token string, tolerance time.Duration) (*entry, time.Duration, error) {
	if len(token) > jws.MaxToken {
		return nil, inTime, invalid("it is longer than any token")
	}
	fresh := v.follower.fresh.Load()
	st := v.follower.state.Load()
	if st == nil {
		return nil, inTime, fmt.Errorf("%w: no complete snapshot yet", ErrNotReady)
	}
	now := v.config.clock()
	e, hash := v.cache.get(token)
	if e == nil || e.generation != st.generation {
		var err error
		if e, err = st.verify(token, time.Unix(0, now.Wall)); err != nil {
			if stale := fresh.reason(now); stale != "" && errors.Is(err, errUnknownKey) {
				err = fmt.Errorf("%w: %s, so it may not know every key", ErrStale, stale)
			}
			return nil, inTime, err
		}
		e.hash, e.claims.verifier = hash, v
		if now.Wall < e.expires {
			v.cache.put(e, now.Wall)
		}
	}
	switch {
	case now.Wall >= e.expires:
		return nil, inTime, fmt.Errorf("%w: at %s", ErrExpired, e.claims.Expires.Format(time.RFC3339))
	case st.revoked(e):
		return nil, inTime, fmt.Errorf("%w: known as of position %d of the log", ErrRevoked, st.set.Position())
	}
	if fresh.lasts(now) {
		return e, inTime, nil
	}
	late, err := fresh.bear(now, tolerance)
	if err != nil {
		return nil, late, err
	}
	return e, late, nil
}
