package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/throttled/throttled/v2"
	"github.com/throttled/throttled/v2/store/memstore"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revlog"
)

// MaxHeader is what a server that serves an [API] should set as its
// MaxHeaderBytes; net/http answers more with 431.
const MaxHeader = 16 << 10

// Config is what an [API] is made from. Zero fields but the first two take
// the defaults.
type Config struct {
	Issuer *issuer.Issuer // required
	Log    *revlog.Log    // required
	// Logger receives one record a request. Default: none.
	Logger *slog.Logger
	// TrustedProxies are those whose X-Forwarded-For is believed. Default:
	// nobody's, and a request comes from where its connection does.
	TrustedProxies []netip.Prefix
	// Registry receives the collectors and is what /metrics shows. Default:
	// one with nothing else in it.
	Registry *prometheus.Registry
	// Backup writes all that the store holds. Default: nothing does, and
	// there are no backups to be had here.
	Backup func(context.Context, io.Writer) error
	// BrowserOrigins are those of the pages that may use the public listener
	// from a browser, and act by cookie there; each as [CheckOrigin] wants it.
	// Default: none.
	BrowserOrigins []string
	// RequestsPerSecond is how many requests one address may make to the
	// public listener, four seconds' worth at once; an address is a /64 of
	// IPv6. Logins are limited besides, by the issuer. Default 50.
	RequestsPerSecond int
}

// API is the HTTP surface. Its methods, and the handlers that they return, may
// be called concurrently.
type API struct {
	issuer   *issuer.Issuer
	log      *revlog.Log
	logger   *slog.Logger
	trusted  []netip.Prefix
	origins  []string // of pages
	limit    *throttled.GCRARateLimiterCtx
	registry *prometheus.Registry
	requests *prometheus.HistogramVec
	verifier atomic.Pointer[quash.Verifier] // of the public listener, once there is one
	waiting  chan struct{}                  // has a value for each call that waits for a confirmation
	dump     func(context.Context, io.Writer) error
	dumping  chan struct{}   // has a value while a backup is read
	stopping context.Context // ended by Stop
	stop     context.CancelFunc
}

// maxWaiting bounds the calls that wait for a confirmation at once: each costs
// a look at every acknowledgement of a verifier. One more does not wait.
const maxWaiting = 1024

// rememberedAddresses bounds the memory of the limit by address.
const rememberedAddresses = 1 << 16

// New returns an API.
func New(c Config) (*API, error) {
	if c.Issuer == nil || c.Log == nil {
		return nil, errors.New("api: want an issuer and a log")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	if c.RequestsPerSecond == 0 {
		c.RequestsPerSecond = 50
	}
	if c.RequestsPerSecond < 0 {
		return nil, fmt.Errorf("api: requests per second: want 1 or more, got %d", c.RequestsPerSecond)
	}
	for _, origin := range c.BrowserOrigins {
		if err := CheckOrigin(origin); err != nil {
			return nil, fmt.Errorf("api: %w", err)
		}
	}
	store, err := memstore.NewCtx(rememberedAddresses)
	if err != nil {
		return nil, fmt.Errorf("api: limit requests: %w", err)
	}
	quota := throttled.RateQuota{MaxRate: throttled.PerSec(c.RequestsPerSecond), MaxBurst: 4*c.RequestsPerSecond - 1}
	limit, err := throttled.NewGCRARateLimiterCtx(store, quota)
	if err != nil {
		return nil, fmt.Errorf("api: limit requests: %w", err)
	}
	a := &API{
		issuer: c.Issuer, log: c.Log, logger: c.Logger, trusted: c.TrustedProxies, origins: c.BrowserOrigins,
		limit: limit, registry: c.Registry, requests: newHistogram(),
		waiting: make(chan struct{}, maxWaiting),
		dump:    c.Backup, dumping: make(chan struct{}, 1),
	}
	a.stopping, a.stop = context.WithCancel(context.Background())
	for _, collector := range []prometheus.Collector{a.requests, collector{a}} {
		if err := c.Registry.Register(collector); err != nil {
			return nil, fmt.Errorf("api: register metrics: %w", err)
		}
	}
	return a, nil
}

// Private returns the handler of the private listener.
func (a *API) Private() http.Handler { return a.mux(privateRoutes, false) }

// Public returns the handler of the public listener, whose access tokens v
// verifies. It may be called once.
func (a *API) Public(v *quash.Verifier) http.Handler {
	a.verifier.Store(v)
	return a.mux(a.withMetadata(publicRoutes), true)
}

// Stop has calls that wait, for revocations or for their confirmation, answer
// with what there is, so that a server that shuts down need not wait for them;
// from then on none waits. It is what [http.Server.RegisterOnShutdown] should be given.
func (a *API) Stop() { a.stop() }

// standstill is how long the feed may be behind the store before it counts as
// standing still; it looks every second even when nothing tells it to.
const standstill = 2 * time.Second

// Ready returns nil where requests can be served: the log has been read and
// is read on as far as the store has it, the store answers, and the verifier
// of the public listener, if there is one, accepts tokens. It waits up to two
// seconds for a log that is behind.
func (a *API) Ready(ctx context.Context) error {
	select {
	case <-a.log.Ready():
	default:
		return errors.New("the log has not been read yet")
	}
	l, err := a.issuer.Log(ctx)
	if err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	if err := a.log.Err(); err != nil {
		return fmt.Errorf("the feed stands still: %w", err)
	}
	wait, cancel := context.WithTimeout(ctx, standstill)
	defer cancel()
	if !a.reached(wait, l.Head.Position) {
		return fmt.Errorf("the feed stands still at position %d, and the log goes on to %d", a.log.Head().Position, l.Head.Position)
	}
	if v := a.verifier.Load(); v != nil {
		if s := v.Status(); !s.Ready || s.Stale != "" {
			return fmt.Errorf("the verifier accepts no tokens: %s", s.Stale)
		}
	}
	return nil
}
