package quash

import (
	"net/http"
	"time"

	"github.com/quashdev/quash/internal/lease"
	"github.com/quashdev/quash/internal/revset"
)

// CacheBytes returns what the verifier's cache counts, and what is really in
// it: the sum over its entries, and how many they are.
func CacheBytes(v *Verifier) (counted, sum int64, entries int) {
	for i := range v.cache.sets {
		for j := range v.cache.sets[i].entries {
			if e := v.cache.sets[i].entries[j].Load(); e != nil {
				sum += e.bytes()
				entries++
			}
		}
	}
	return v.cache.bytes.Load(), sum, entries
}

// StepNode moves what the verifier takes for the node's clock, as if its own
// wall clock had stepped the other way since the latest pong.
func StepNode(v *Verifier, by time.Duration) {
	v.follower.mu.Lock()
	defer v.follower.mu.Unlock()
	v.follower.clock = v.follower.clock.Add(by)
}

// SetClock gives a verifier of c another clock than the machine's.
func SetClock(c *Config, clock lease.Clock) { c.clock = clock }

// SetKeyTransport has a verifier of c fetch issuers' keys over rt.
func SetKeyTransport(c *Config, rt http.RoundTripper) { c.keyTransport = rt }

// EndLease ends what the verifier was granted, without a node. The function
// that it returns grants it a lease from now.
func EndLease(v *Verifier) (grant func()) {
	f := &v.follower
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.leases)
	now := f.config.clock()
	f.weigh(now)
	next := &freshness{lease: deadline{lease.Default, now, now.Mono + time.Duration(lease.Default)}}
	return func() { f.fresh.Store(next) }
}

// Watches returns how many contexts of NotifyContext the verifier keeps, and
// under how many keys.
func Watches(v *Verifier) (watches, keys int) {
	v.watches.mu.Lock()
	defer v.watches.mu.Unlock()
	return len(v.watches.all), len(v.watches.byKey)
}

// Apply applies records as the follower does, without a node.
func Apply(v *Verifier, position uint64, records ...revset.Record) {
	v.follower.writing.Lock()
	defer v.follower.writing.Unlock()
	_ = v.follower.state.Load().set.Apply(records, position)
	v.watches.applied(records)
}
