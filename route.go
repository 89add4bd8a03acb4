package quash

import (
	"context"
	"fmt"
	"time"
)

// Option is what a route does otherwise than by default.
type Option func(*route)

// route is the policy of one route.
type route struct {
	tolerance time.Duration // for how long after the lease tokens are accepted
}

const maxTolerance = 24 * time.Hour

// AcceptStale has a route accept tokens for d after the verifier's lease has
// ended, by the clock that says longer: for requests that had better be answered
// on what was known d ago than not at all. On such a route a revocation may hold
// as much later. Nodes are told how many such routes there are, and count them in
// their answers to who revokes.
//
// Only that the verifier is out of touch is borne. Where its revocations
// contradict the node's, are too many, or its clock is wrong, and before it is
// ready and after it was closed, the route refuses like any other. The response
// to a request accepted so has the header Quash-Stale, with the whole seconds
// since the lease ended.
//
// AcceptStale panics unless d is more than 0 and at most 24 hours.
func AcceptStale(d time.Duration) Option {
	if d <= 0 || d > maxTolerance {
		panic(fmt.Sprintf("quash: AcceptStale(%s): want more than 0 and at most %s", d, maxTolerance))
	}
	return func(r *route) { r.tolerance = d }
}

// Route does what [Verifier.Protect] does, for other protocols than HTTP: each
// call is one route, with its policy. The function that it returns admits one
// request of the route. It returns a context in which [FromContext] and
// [NotifyContext] find what was accepted, or one of the errors of Verify; and
// for how long the lease had ended then, as only [AcceptStale] bears: less than
// 0 where it lasts. It may be called concurrently.
func (v *Verifier) Route(options ...Option) func(ctx context.Context, token string) (context.Context, time.Duration, error) {
	var policy route
	for _, option := range options {
		option(&policy)
	}
	if policy.tolerance > 0 {
		v.follower.tolerate(policy.tolerance)
	}
	return func(ctx context.Context, token string) (context.Context, time.Duration, error) {
		e, late, err := v.admit(token, policy.tolerance)
		if err != nil {
			return ctx, inTime, err
		}
		if late != inTime {
			v.borne.Add(1)
		}
		return policy.context(ctx, &e.claims), late, nil
	}
}

// context returns a context that carries the claims, and what the route bears
// with them.
func (r *route) context(ctx context.Context, c *Claims) context.Context {
	if r.tolerance == 0 {
		return NewContext(ctx, c)
	}
	return context.WithValue(ctx, contextKey{}, &tolerated{c, r.tolerance})
}
