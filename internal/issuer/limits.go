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
	return &limits{account, address}, nil
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
