package issuer

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/throttled/throttled/v2"
	"github.com/throttled/throttled/v2/store/memstore"
)

// limits slows down guessing: by account, so that one cannot be tried from
// everywhere at once, and by address, so that one place cannot try them all.
type limits struct {
	account *throttled.GCRARateLimiterCtx
	address *throttled.GCRARateLimiterCtx
	clients failures // of one client, from one address
	origins failures // of all clients, from one address
}

// failures limits attempts by those of them that failed, because good ones may
// come as often as they like.
type failures struct {
	store throttled.GCRAStoreCtx
	count *throttled.GCRARateLimiterCtx
	burst time.Duration // how far ahead of now the store may be
}

func newFailures(every time.Duration, burst int) (f failures, err error) {
	if f.store, err = memstore.NewCtx(rememberedKeys); err != nil {
		return f, err
	}
	f.burst = every * time.Duration(burst)
	f.count, err = throttled.NewGCRARateLimiterCtx(f.store, throttled.RateQuota{MaxRate: throttled.PerDuration(1, every), MaxBurst: burst})
	return f, err
}

// wait returns how long nobody may try under a key, without counting it.
func (f *failures) wait(ctx context.Context, key string) (time.Duration, error) {
	at, now, err := f.store.GetWithTime(ctx, key)
	return time.Duration(at-now.UnixNano()) - f.burst, err
}

// rememberedKeys bounds the memory of the limits; what was unused for longest
// is forgotten first.
const rememberedKeys = 1 << 16

func newLimits() (*limits, error) {
	limiter := func(q throttled.RateQuota) (*throttled.GCRARateLimiterCtx, error) {
		store, err := memstore.NewCtx(rememberedKeys)
		if err != nil {
			return nil, err
		}
		return throttled.NewGCRARateLimiterCtx(store, q)
	}
	account, err := limiter(throttled.RateQuota{MaxRate: throttled.PerMin(10), MaxBurst: 20})
	if err != nil {
		return nil, fmt.Errorf("limit logins: %w", err)
	}
	address, err := limiter(throttled.RateQuota{MaxRate: throttled.PerMin(120), MaxBurst: 240})
	if err != nil {
		return nil, fmt.Errorf("limit logins: %w", err)
	}
	l := &limits{account: account, address: address}
	if l.clients, err = newFailures(6*time.Second, 20); err != nil {
		return nil, fmt.Errorf("limit clients: %w", err)
	}
	if l.origins, err = newFailures(500*time.Millisecond, 240); err != nil {
		return nil, fmt.Errorf("limit clients: %w", err)
	}
	return l, nil
}

// guessed is the key under which attempts at one client are counted. What is
// longer than any client_id is cut, so that the memory is bounded.
func guessed(p ClientProof) string {
	return Place(p.Address) + " " + p.ID[:min(len(p.ID), maxClientID+1)]
}

// client refuses a client's attempt with CodeLimited after too many that failed.
func (l *limits) client(ctx context.Context, p ClientProof) error {
	one, err := l.clients.wait(ctx, guessed(p))
	if err != nil {
		return fmt.Errorf("limit clients: %w", err)
	}
	all, err := l.origins.wait(ctx, Place(p.Address))
	if err != nil {
		return fmt.Errorf("limit clients: %w", err)
	}
	if wait := max(one, all); wait > 0 {
		return &Error{Code: CodeLimited, Detail: "too many attempts failed; wait before the next", RetryAfter: max(wait, time.Second)}
	}
	return nil
}

// refused counts an attempt that failed and returns why it did.
func (l *limits) refused(ctx context.Context, p ClientProof, why error) error {
	_, _, err := l.clients.count.RateLimitCtx(ctx, guessed(p), 1)
	if err == nil {
		_, _, err = l.origins.count.RateLimitCtx(ctx, Place(p.Address), 1)
	}
	if err != nil {
		return fmt.Errorf("limit clients: %w", err)
	}
	return why
}

// login counts an attempt and refuses it with CodeLimited beyond the limit.
// What is answered does not depend on whether there is such an account.
func (l *limits) login(ctx context.Context, account, address string) error {
	for _, by := range []struct {
		limiter *throttled.GCRARateLimiterCtx
		key     string
	}{{l.address, Place(address)}, {l.account, account}} {
		if by.key == "" {
			continue
		}
		limited, result, err := by.limiter.RateLimitCtx(ctx, by.key, 1)
		if err != nil {
			return fmt.Errorf("limit logins: %w", err)
		}
		if limited {
			return &Error{Code: CodeLimited, Detail: "too many attempts; wait before the next", RetryAfter: max(result.RetryAfter, time.Second)}
		}
	}
	return nil
}

// Place returns what of an address is limited as one: whoever has one IPv6 address has its /64.
func Place(address string) string {
	at, err := netip.ParseAddr(address)
	if err != nil || !at.Is6() || at.Is4In6() {
		return address
	}
	return netip.PrefixFrom(at.WithZone(""), 64).Masked().String()
}
