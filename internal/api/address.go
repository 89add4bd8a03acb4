package api

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/issuer"
)

// addressOf returns where a request comes from. X-Forwarded-For is read from
// its end, where the nearest proxy writes, and only as far as trusted proxies
// vouch for it.
func (a *API) addressOf(r *http.Request) netip.Addr {
	address, err := hostOf(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		next, err := hostOf(strings.TrimSpace(hop))
		if err != nil || !a.trusts(address) {
			break
		}
		address = next
	}
	return address
}

func (a *API) trusts(address netip.Addr) bool {
	return slices.ContainsFunc(a.trusted, func(p netip.Prefix) bool { return p.Contains(address) })
}

// admit counts a request against the limit of its address.
func (a *API) admit(ctx context.Context, address netip.Addr) error {
	limited, result, err := a.limit.RateLimitCtx(ctx, issuer.Place(address.String()), 1)
	if err != nil {
		return fmt.Errorf("limit requests: %w", err)
	}
	if limited {
		return &refusal{code: client.CodeLimited, detail: "too many requests from this address; slow down", retry: max(result.RetryAfter, time.Second)}
	}
	return nil
}
