// Package server is the whole server as one value: what the binary serves, and
// what a Go program embeds when one process is all it wants.
//
//	srv, err := server.Open(ctx, server.Config{Data: "quash-data", Issuer: "https://shop.example"})
//	if err != nil {
//		return err
//	}
//	defer srv.Close(context.Background())
//	v, err := srv.Verifier(ctx, "") // follows the log in this process, without a socket
//	if err != nil {
//		return err
//	}
//	mux.Handle("/v1/", srv.Handler()) // login, refresh, logout …
//	mux.Handle("/orders", v.Protect(orders))
//
// It is wiring only: every rule is in internal/issuer.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/internal/api"
	"github.com/quashdev/quash/internal/backup"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/lease"
	"github.com/quashdev/quash/internal/memnet"
	"github.com/quashdev/quash/internal/postgres"
	"github.com/quashdev/quash/internal/revlog"
	"github.com/quashdev/quash/internal/sqlite"
)

// Server is a running server. Its methods may be called concurrently.
type Server struct {
	cfg      Config
	store    issuer.Store
	issuer   *issuer.Issuer
	log      *revlog.Log
	metrics  *metrics
	memory   *memnet.Listener
	feed     *http.Server // for verifiers in this process
	own      *quash.Verifier
	surface  *api.API
	public   http.Handler
	private  http.Handler
	listens  map[string]net.Listener // by configured address
	cert     *certificate
	adminKey string

	stop    context.CancelFunc // ends what Open started
	stopped sync.WaitGroup
	close   sync.Once
	closed  error
}

// Open listens on the configured addresses, opens the database, makes at the
// first start what is missing (secret, tables, signing keys, admin key), and
// follows the log. Where an address is taken it touches no data. Connections
// are served once [Server.Run] is called. Ctx bounds the opening only. The
// caller must call Run or [Server.Close].
func Open(ctx context.Context, cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	cfg.complete()
	s := &Server{cfg: cfg, memory: memnet.Listen(), metrics: newMetrics(), listens: map[string]net.Listener{}}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.Close(context.WithoutCancel(ctx)))
	}
	return s, nil
}

func (s *Server) open(ctx context.Context) (err error) {
	if s.cfg.TLSCert != "" {
		if s.cert, err = loadCertificate(s.cfg.TLSCert, s.cfg.TLSKey, s.cfg.Logger); err != nil {
			return err
		}
	}
	for _, address := range []string{s.cfg.Public, s.cfg.Private} {
		if err := s.listen(address); err != nil {
			return err
		}
	}
	if err := makeData(s.cfg.Data); err != nil {
		return err
	}
	if s.store, err = s.openStore(ctx); err != nil {
		return err
	}
	if err := s.findSecret(ctx); err != nil {
		return err
	}
	return s.start(ctx)
}

func (s *Server) openStore(ctx context.Context) (issuer.Store, error) {
	if s.cfg.Store == "" {
		store, err := sqlite.Open(ctx, sqlite.Config{
			Path: filepath.Join(s.cfg.Data, databaseFile), Logger: s.cfg.Logger, Committed: s.metrics.committed,
		})
		if err != nil {
			return nil, err
		}
		return store, nil
	}
	store, err := postgres.Open(ctx, postgres.Config{URL: s.cfg.Store, Logger: s.cfg.Logger, Committed: s.metrics.committed})
	if err != nil {
		return nil, err
	}
	s.metrics.pool(store.Stats)
	return store, nil
}

// listen opens the listener of an address, if there is one.
func (s *Server) listen(address string) error {
	if address == "" {
		return nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	s.listens[address] = listener
	if s.cert != nil {
		s.listens[address] = tls.NewListener(listener, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.cert.get, NextProtos: []string{"http/1.1"}})
		return nil
	}
	if host, _, _ := net.SplitHostPort(address); !net.ParseIP(host).IsLoopback() && host != "localhost" {
		s.cfg.Logger.Warn("this listener is not encrypted and not on loopback: put a proxy that speaks TLS in front, or give a certificate", "address", address)
	}
	return nil
}

// start wires the parts together and waits until they are in step.
func (s *Server) start(ctx context.Context) (err error) {
	s.log = revlog.New(revlog.Config{
		Issuer: s.cfg.Issuer, Lease: lease.Length(s.cfg.Lease), Own: own, Confirmed: s.metrics.confirmed, Logger: s.cfg.Logger,
		Heal: func(ctx context.Context) error { return s.issuer.Heal(ctx) },
	}, revlog.FromStore(s.store, func(tx issuer.Tx) (bool, error) { return s.issuer.Drain(tx) }))
	if s.issuer, err = issuer.New(s.cfg.issuing(s.log.Live), s.store); err != nil {
		return err
	}
	if err := s.issuer.Prepare(ctx); err != nil {
		return err
	}
	if err := s.firstAdminKey(ctx); err != nil {
		return err
	}
	s.follow()
	select {
	case <-s.log.Ready():
	case <-ctx.Done():
		return fmt.Errorf("read the log: %w", ctx.Err())
	}
	if s.own, err = s.verifier(ctx, own, s.firstAudience()); err != nil {
		return err
	}
	s.surface, err = api.New(api.Config{
		Issuer: s.issuer, Log: s.log, Logger: s.cfg.Logger, Registry: s.metrics.registry,
		TrustedProxies: s.cfg.TrustedProxies, RequestsPerSecond: s.cfg.RequestsPerSecond,
		BrowserOrigins: s.cfg.BrowserOrigins,
		Backup:         func(ctx context.Context, w io.Writer) error { return backup.Write(ctx, s.store, w, nil) },
	})
	if err != nil {
		return err
	}
	s.public, s.private = s.surface.Public(s.own), s.surface.Private()
	return nil
}

// firstAudience is one that every token has.
func (s *Server) firstAudience() string {
	if len(s.cfg.Audience) > 0 {
		return s.cfg.Audience[0]
	}
	return ""
}

// follow starts what runs until Close: the log, the feed in memory, pruning, the
// rotation of signing keys.
func (s *Server) follow() {
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.feed = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.log.ServeFeed(w, r, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), nil)
	})}
	s.stopped.Go(func() { _ = s.log.Run(ctx) })
	s.stopped.Go(func() { _ = s.feed.Serve(s.memory) })
	s.stopped.Go(func() { s.prune(ctx) })
	s.stopped.Go(func() { s.rotate(ctx) })
}

// The keys, and names, of verifiers in the same process: the server's own, and
// those of a program that embeds it. No other can present them: they are not
// keys of the store.
const (
	own       = "server"
	inProcess = "in-process"
)

const (
	pruneEvery = 10 * time.Second
	pruneBatch = 1000
)

// prune takes out what is over, in small transactions, so that callers wait
// for none of them.
func (s *Server) prune(ctx context.Context) {
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for {
			records, sessions, err := s.store.Prune(ctx, time.Now(), s.issuer.IdleTimeout(), pruneBatch)
			if err != nil && ctx.Err() == nil {
				s.cfg.Logger.Error("pruning failed and will be tried again", "err", err)
			}
			if err != nil || max(records, sessions) < pruneBatch {
				break
			}
		}
	}
}

const rotateEvery = time.Minute

// rotate replaces the signing key when it is time, which may have come while no
// server ran.
func (s *Server) rotate(ctx context.Context) {
	tick := time.NewTicker(rotateEvery)
	defer tick.Stop()
	for {
		if err := s.issuer.RotateIfDue(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Logger.Error("rotating the signing key failed and will be tried again", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Handler returns the public handler, to be mounted at the root of a mux or
// for /v1/, /oauth/ and /.well-known/.
func (s *Server) Handler() http.Handler { return s.public }

// PrivateHandler returns the handler for verifiers and administration. It must
// not be reachable from outside.
func (s *Server) PrivateHandler() http.Handler { return s.private }

// Verifier returns a verifier that follows the log in this process, through
// the same protocol as any other but without a socket. The audience is what a
// token's aud must contain; empty: the issuer. It logs warnings and errors
// only. The caller must close it before the server.
func (s *Server) Verifier(ctx context.Context, audience string) (*quash.Verifier, error) {
	return s.verifier(ctx, inProcess, audience)
}

func (s *Server) verifier(ctx context.Context, key, audience string) (*quash.Verifier, error) {
	return quash.Open(ctx, quash.Config{
		URL: "http://" + inProcess, Key: key, Name: key, Dial: s.memory.Dial,
		Audience: audience, Issuer: s.cfg.Issuer, Logger: slog.New(warnings{s.cfg.Logger.Handler()}),
		MaxRevocations: math.MaxInt, // as many as the log has: what it holds, it must hold here too
	})
}

// Run serves the configured addresses until ctx ends, then stops in order: no
// new connections, requests under way are answered, verifiers are told, the
// database is closed. It returns nil after a stop in order. It may be called
// once.
func (s *Server) Run(ctx context.Context) error {
	s.cfg.Logger.Info("serving", "public", s.cfg.Public, "private", s.cfg.Private, "lease", s.cfg.Lease)
	group, ctx := errgroup.WithContext(ctx)
	handlers := map[string]http.Handler{s.cfg.Public: s.public, s.cfg.Private: s.private}
	for address, listener := range s.listens {
		web := newWeb(handlers[address])
		web.RegisterOnShutdown(s.surface.Stop)
		group.Go(func() error {
			if err := web.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		group.Go(func() error {
			<-ctx.Done()
			return shutDown(web)
		})
	}
	group.Go(func() error { <-ctx.Done(); return nil })
	if err := errors.Join(group.Wait(), s.Close(context.WithoutCancel(ctx))); err != nil {
		return err
	}
	s.cfg.Logger.Info("stopped")
	return nil
}

const drainTime = 10 * time.Second

func newWeb(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      90 * time.Second, // longer than the longest poll
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    api.MaxHeader,
	}
}

// shutDown lets requests under way finish, for a while.
func shutDown(web *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := web.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("some requests took longer than %v and were cut off: %w", drainTime, err), web.Close())
	}
	return nil
}

// Close stops what Open started and closes the database. It may be called
// more than once.
func (s *Server) Close(ctx context.Context) error {
	s.close.Do(func() {
		var errs []error
		for _, listener := range s.listens {
			_ = listener.Close() // again, where Run has served it
		}
		if s.own != nil {
			errs = append(errs, s.own.Close(ctx))
		}
		if s.stop != nil {
			s.stop()
			errs = append(errs, s.memory.Close(), s.feed.Close())
			s.stopped.Wait()
		}
		if s.store != nil {
			errs = append(errs, s.store.Close())
		}
		s.closed = errors.Join(errs...)
	})
	return s.closed
}
