package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/quashdev/quash/internal/api"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/jws"
	"github.com/quashdev/quash/internal/lease"
)

// Config says what a server serves. Zero fields take the default. No field
// turns a check off.
type Config struct {
	// Data is the directory of the embedded database, the secret and the first
	// admin key; it is made with mode 0700. Default "quash-data".
	Data string
	// Store is the URL of a PostgreSQL database that several nodes share, such
	// as "postgres://quash@db.internal/quash?sslmode=verify-full"; a number of
	// connections can be set with pool_max_conns. All its nodes need the same
	// secret. Default: the embedded SQLite, for one node.
	Store string

	// Public and Private are the addresses to listen on: the one for users and
	// other people's clients, the other for verifiers, administration and
	// metrics. Empty: there is no such listener; a program that embeds the
	// server mounts the handlers itself.
	Public  string
	Private string

	// TLSCert and TLSKey name PEM files. Given both, both listeners speak TLS
	// only; files that change are taken up without a restart.
	TLSCert string
	TLSKey  string

	// Issuer is the iss of every token, usually the URL that clients reach the
	// public listener at. Default: that URL made from Public. Required where
	// Public is empty or names no host, such as ":8080" or "0.0.0.0:8080".
	Issuer string
	// Audience is the aud of every token but those of registered clients that
	// have an audience of their own. Default: the issuer.
	Audience []string
	// Algorithm of signing keys: ES256, Ed25519 or RS256. Default ES256.
	Algorithm string
	// TokenLifetime of access tokens, 10 s to 24 h. Default 5 minutes.
	TokenLifetime time.Duration
	// IdleTimeout ends a session that was not refreshed for so long. Default 14 days.
	IdleTimeout time.Duration
	// AbsoluteTimeout ends a session whatever happens. Default 90 days.
	AbsoluteTimeout time.Duration
	// MaxSessions of one subject, 1 to 1000; one more ends the one unused for
	// longest. Default 100.
	MaxSessions int
	// MaxRevocations is how many may be live. Above nine tenths of it logins
	// are refused, each of which can end in one more; revocations never are,
	// and beyond it they take more memory. Default 10 million, about 300 MB.
	MaxRevocations int

	// KeepSessions has sessions outlive it when the database loses what was
	// read from it (a fail-over that lost its end, a restore behind Quash's
	// back). The price: a session that ended in the part that was lost lives
	// again, and so does one of which a thief had the refresh token. Default:
	// they end, and everybody logs in again.
	KeepSessions bool

	// Lease is how long a verifier goes on accepting tokens when it is cut off,
	// and with a tenth of it as a margin how long at most a revocation waits
	// until it is confirmed; 1 s to 10 min. Default 30 s.
	Lease time.Duration

	// RequestsPerSecond is how many one address may make to the public
	// listener, four seconds' worth at once. Default 50. Raise it where a
	// backend of yours makes the requests of many users.
	RequestsPerSecond int

	// BrowserOrigins are those of the pages that may use the public listener
	// from a browser and keep the refresh token in a cookie, each as browsers
	// write it, such as "https://app.example". They must be of one site with the
	// public listener. Default: none.
	BrowserOrigins []string

	// TrustedProxies may say in X-Forwarded-For where a request came from.
	// Default: nobody may.
	TrustedProxies []netip.Prefix

	// KeyLifetime is how long a key signs before the next, which has been
	// published for as long, takes its place; 24 h to 365 days. Default 90 days.
	KeyLifetime time.Duration

	// Secret, 32 octets, is what refresh tokens and sealed signing keys are
	// made with. Default: the file "secret" in Data, made at the first start.
	Secret []byte
	// PreviousSecret, 32 octets, is another one that they may have been made
	// with: what was in use before, while the secret is changed. The signing keys
	// are sealed anew with Secret at the start; refresh tokens are as they are
	// used. Default: none.
	PreviousSecret []byte

	// Logger receives one event a request and what an operator must see.
	// Default: discarded.
	Logger *slog.Logger
}

const defaultData = "quash-data"

// Validate names every mistake in c. It reads and writes nothing. [Open] begins
// with it.
func (c Config) Validate() error {
	c.complete()
	errs := []error{checkAddress("public", c.Public), checkAddress("private", c.Private)}
	if c.Public != "" && c.Public == c.Private {
		errs = append(errs, errors.New("public and private address: want two different ones"))
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		errs = append(errs, errors.New("TLS: want both a certificate and a key, or neither"))
	}
	errs = append(errs, lease.Length(c.Lease).Check())
	if c.RequestsPerSecond < 0 {
		errs = append(errs, fmt.Errorf("requests per second: want 1 or more, got %d", c.RequestsPerSecond))
	}
	for _, origin := range c.BrowserOrigins {
		errs = append(errs, api.CheckOrigin(origin))
	}
	issuing := c.issuing(nil)
	if issuing.Secret == nil {
		issuing.Secret = make([]byte, 32) // the true one may not have been made yet
	}
	if c.Issuer == "" && c.Public != "" {
		errs = append(errs, fmt.Errorf("issuer: the public address %q names no host that clients can reach: want the URL that they use", c.Public))
		issuing.Issuer = "reported"
	}
	_, err := issuer.New(issuing, nil)
	return errors.Join(append(errs, err)...)
}

func checkAddress(name, address string) error {
	if address == "" {
		return nil
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return fmt.Errorf("%s address %q: want host:port, such as 127.0.0.1:8080: %w", name, address, err)
	}
	return nil
}

// complete fills in what depends on other fields.
func (c *Config) complete() {
	if c.Data == "" {
		c.Data = defaultData
	}
	if c.Lease == 0 {
		c.Lease = time.Duration(lease.Default)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if host, _, _ := net.SplitHostPort(c.Public); c.Issuer == "" && named(host) {
		c.Issuer = c.scheme() + "://" + c.Public
	}
}

// named says whether host is one that clients can reach.
func named(host string) bool {
	return host != "" && !net.ParseIP(host).IsUnspecified()
}

func (c *Config) scheme() string {
	if c.TLSCert != "" {
		return "https"
	}
	return "http"
}

// issuing returns the part of c that the issuer checks.
func (c *Config) issuing(live func() int) issuer.Config {
	return issuer.Config{
		Issuer:          c.Issuer,
		Audience:        c.Audience,
		Algorithm:       jws.Algorithm(c.Algorithm),
		TokenLifetime:   c.TokenLifetime,
		IdleTimeout:     c.IdleTimeout,
		AbsoluteTimeout: c.AbsoluteTimeout,
		MaxSessions:     c.MaxSessions,
		MaxLive:         c.MaxRevocations,
		KeepSessions:    c.KeepSessions,
		KeyLifetime:     c.KeyLifetime,
		Secret:          c.Secret,
		PreviousSecret:  c.PreviousSecret,
		Live:            live,
		Logger:          c.Logger,
	}
}
