package quash

import (
	"context"
	"fmt"
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

	stop context.CancelFunc // begins the end: the follower says goodbye
	kill context.CancelFunc // ends at once
	done chan struct{}      // closed when everything has ended
}

// Open returns a verifier that follows the node from then on, once it is
// ready: it has all revocations up to the log's head when it connected, and
// knows the node's clock; where the two clocks are too far apart, it is stale
// until they are not. While it is not ready, Open tries again for as long as
// ctx lives; it fails at once where the configuration is wrong, the node
// refuses the key, or the node serves another issuer. Ctx bounds the start
// only.
//
// The verifier connects again by itself whenever it loses the node, and goes
// on verifying meanwhile. It must be closed.
func Open(ctx context.Context, c Config) (*Verifier, error) {
	c, address, err := c.complete()
	if err != nil {
		return nil, fmt.Errorf("quash: open: %w", err)
	}
	v := &Verifier{config: c, exposed: c.exposed(address), cache: newCache(c.CacheBytes), done: make(chan struct{})}
	v.watches.init()
	v.follower.init(c, address, &v.watches)
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
		kill()
		stop()
		<-v.done
		return nil, fmt.Errorf("quash: open %s: %w", c.URL, err)
	}
	return v, nil
}

// run owns every goroutine of the verifier.
func (v *Verifier) run(soft, hard context.Context) {
	defer close(v.done)
	tended := make(chan struct{})
	go func() {
		defer close(tended)
		v.tend(soft)
	}()
	v.follower.run(soft, hard)
	<-tended
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
			v.follower.compare()
			v.follower.forget()
		case <-v.watches.again:
			v.recheck()
		}
	}
}

// Close says goodbye to the node and ends the verifier: from then on Verify
// answers ErrStale, and contexts of [NotifyContext] have ended. It is called
// after the server that uses the verifier has drained. Where ctx ends first,
// Close leaves without waiting for the node, and returns the cause. Closing
// again does nothing.
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
// It does no input or output, takes no lock, and allocates nothing for a token
// that it has verified before. Every record that the verifier had applied when
// the call began takes part.
func (v *Verifier) Verify(token string) (*Claims, error) {
	e, err := v.admit(token)
	if err != nil {
		return nil, err
	}
	return &e.claims, nil
}

func (v *Verifier) admit(token string) (*entry, error) {
	if len(token) > jws.MaxToken {
		return nil, invalid("it is longer than any token")
	}
	st := v.follower.state.Load()
	if st == nil {
		return nil, fmt.Errorf("%w: no complete snapshot yet", ErrNotReady)
	}
	now := time.Now()
	e, hash := v.cache.get(token)
	if e == nil || e.generation != st.generation {
		var err error
		if e, err = st.verify(token, now); err != nil {
			return nil, err
		}
		e.hash, e.claims.verifier = hash, v
		if now.UnixNano() < e.expires {
			v.cache.put(e, now.UnixNano())
		}
	}
	switch {
	case now.UnixNano() >= e.expires:
		return nil, fmt.Errorf("%w: at %s", ErrExpired, e.claims.Expires.Format(time.RFC3339))
	case st.revoked(e):
		return nil, fmt.Errorf("%w: known as of position %d of the log", ErrRevoked, st.set.Position())
	}
	if reason := v.follower.stale.Load(); reason != nil {
		return nil, fmt.Errorf("%w: %s", ErrStale, *reason)
	}
	return e, nil
}

// Status says how a verifier stands, for health checks and people.
type Status struct {
	Ready       bool      `json:"ready"`               // it has had a complete snapshot
	Connected   bool      `json:"connected"`           // to a node, that has said hello
	Stale       string    `json:"stale,omitempty"`     // why it refuses every token; empty: it does not
	Issuer      string    `json:"issuer"`              // whose tokens it accepts
	Audience    string    `json:"audience"`            // what their aud must contain
	Log         string    `json:"log"`                 // id of the log that it follows
	Epoch       uint64    `json:"epoch"`               // of the log
	Position    uint64    `json:"position"`            // up to which it has applied the log
	Revocations int       `json:"revocations"`         // that live
	Keys        int       `json:"keys"`                // of the issuer
	Plaintext   bool      `json:"plaintext"`           // it speaks to the node unencrypted, as Config.Plaintext allows
	Since       time.Time `json:"since"`               // when Connected last changed
	LastHeard   time.Time `json:"last_heard,omitzero"` // when the node last answered that this verifier is in step
}

// Status returns how the verifier stands now.
func (v *Verifier) Status() Status {
	s := v.follower.status()
	s.Plaintext = v.exposed
	if reason := v.follower.stale.Load(); reason != nil {
		s.Stale = *reason
	}
	st := v.follower.state.Load()
	if st == nil {
		return s
	}
	s.Ready = true
	s.Issuer, s.Audience = st.issuer, st.audience
	s.Position, s.Revocations, s.Keys = st.set.Position(), st.set.Len(), st.keys.Len()
	return s
}
