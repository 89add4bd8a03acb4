package issuer

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/quashdev/quash/internal/jws"
)

// Config says how an [Issuer] issues. Zero fields take the default.
type Config struct {
	// Issuer is the iss of every token. Required.
	Issuer string
	// Audience is the aud of every token but those of registered clients that
	// have an audience of their own: 1 to 64, which with the issuer take 1000
	// octets of JSON at most. What every token has is iss. Default: the issuer
	// itself.
	Audience []string
	// Algorithm of the keys that sign. Default ES256.
	Algorithm jws.Algorithm
	// TokenLifetime of access tokens, 10 s to 24 h. Default 5 minutes.
	TokenLifetime time.Duration
	// IdleTimeout ends a session that was not refreshed for so long; at least
	// TokenLifetime. Default 14 days.
	IdleTimeout time.Duration
	// AbsoluteTimeout ends a session whatever happens. Default 90 days.
	AbsoluteTimeout time.Duration
	// MaxSessions of one subject, 1 to 1000. One more ends the one that was
	// unused for longest. Default 100.
	MaxSessions int
	// Client is the client_id of sessions that name none. Default "default".
	Client string
	// KeyLifetime is how long a key signs before the next takes its place, 24 h
	// to 365 days. Default 90 days.
	KeyLifetime time.Duration
	// Secret, 32 octets, is the server's half of what refresh tokens and
	// sealed signing keys are made with. Required.
	Secret []byte
	// PreviousSecret, 32 octets, is another secret that refresh tokens and
	// sealed signing keys may have been made with. Nothing new is made with
	// it. Default: none.
	PreviousSecret []byte
	// Live reports how many revocations are live, and MaxLive how many may
	// be: logins that would add to them are refused above nine tenths of it.
	// Default: no report; 10 million.
	Live    func() int
	MaxLive int
	// KeepSessions has sessions outlive a new epoch. One that ended in the part
	// of the log that was lost then lives again.
	KeepSessions bool
	// Logger receives what an operator must see. Default: discarded.
	Logger *slog.Logger
}

// maxNamed bounds the issuer, the audience and the scope in octets of JSON. What remains
// of [jws.MaxToken] holds the longest signature and, in every account, a
// document of [maxClaims] and the longest subject and client.
const maxNamed = 1000

const (
	minTokenLifetime = 10 * time.Second
	maxTokenLifetime = 24 * time.Hour
)

// check fills in defaults and names every mistake.
func (c *Config) check() error {
	setDefault(&c.Audience, c.Audience == nil, []string{c.Issuer})
	setDefault(&c.Algorithm, c.Algorithm == "", jws.ES256)
	setDefault(&c.TokenLifetime, c.TokenLifetime == 0, 5*time.Minute)
	setDefault(&c.IdleTimeout, c.IdleTimeout == 0, 14*24*time.Hour)
	setDefault(&c.AbsoluteTimeout, c.AbsoluteTimeout == 0, 90*24*time.Hour)
	setDefault(&c.KeyLifetime, c.KeyLifetime == 0, 90*24*time.Hour)
	setDefault(&c.MaxSessions, c.MaxSessions == 0, 100)
	setDefault(&c.Client, c.Client == "", "default")
	setDefault(&c.MaxLive, c.MaxLive == 0, 10_000_000)
	setDefault(&c.Live, c.Live == nil, func() int { return 0 })
	setDefault(&c.Logger, c.Logger == nil, slog.New(slog.DiscardHandler))
	var errs []error
	report := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	report(!visible(c.Issuer, 1, 256), "issuer: want 1 to 256 visible ASCII characters, usually the URL that clients reach the server at")
	report(len(c.Audience) == 0 || len(c.Audience) > 64, "audience: want 1 to 64 of them, got %d", len(c.Audience))
	for _, a := range c.Audience {
		report(a != c.Issuer && !visible(a, 1, 256), "audience %q: want 1 to 256 visible ASCII characters", a)
	}
	named, err := compact(append([]string{c.Issuer}, c.Audience...))
	report(err != nil || len(named) > maxNamed, "audience: with the issuer it takes %d octets of every token, and more than %d leave no room for claims; name fewer or shorter ones", len(named), maxNamed)
	report(c.Algorithm != jws.ES256 && c.Algorithm != jws.Ed25519 && c.Algorithm != jws.RS256, "algorithm %q: want ES256, Ed25519 or RS256", c.Algorithm)
	report(c.TokenLifetime < minTokenLifetime || c.TokenLifetime > maxTokenLifetime, "token lifetime %v: want 10s to 24h", c.TokenLifetime)
	report(c.IdleTimeout < c.TokenLifetime, "idle timeout %v: want at least the token lifetime, %v", c.IdleTimeout, c.TokenLifetime)
	report(c.AbsoluteTimeout < c.IdleTimeout, "absolute timeout %v: want at least the idle timeout, %v", c.AbsoluteTimeout, c.IdleTimeout)
	report(c.MaxSessions < 1 || c.MaxSessions > 1000, "sessions of a subject: want 1 to 1000, got %d", c.MaxSessions)
	report(c.MaxLive < 1000, "live revocations: want a bound of 1000 or more, got %d", c.MaxLive)
	report(!visible(c.Client, 1, 128), "client %q: want 1 to 128 visible ASCII characters", c.Client)
	report(c.KeyLifetime < minKeyLifetime || c.KeyLifetime > maxKeyLifetime, "key lifetime %v: want 24h to 8760h", c.KeyLifetime)
	report(len(c.Secret) != 32, "secret: want 32 octets, got %d", len(c.Secret))
	report(c.PreviousSecret != nil && len(c.PreviousSecret) != 32, "previous secret: want 32 octets, got %d", len(c.PreviousSecret))
	report(c.PreviousSecret != nil && bytes.Equal(c.PreviousSecret, c.Secret), "previous secret: it is the secret itself; want the one that was in use before")
	return errors.Join(errs...)
}

func setDefault[T any](field *T, unset bool, value T) {
	if unset {
		*field = value
	}
}

// Issuer carries out logins, refreshes and whatever ends them. Its methods may
// be called concurrently. Those that change something return only after the
// change is durable.
type Issuer struct {
	cfg     Config
	store   Store
	secrets []derived // the first makes
	hashes  *hashGate
	limits  *limits

	current atomic.Pointer[jws.PrivateKey] // that signed last, opened
	epochs  atomic.Uint64                  // begun by this process
}

// New returns an Issuer over a store. [Issuer.Prepare] must come before its
// first token.
func New(cfg Config, store Store) (*Issuer, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	i := &Issuer{cfg: cfg, store: store}
	for _, secret := range [][]byte{cfg.Secret, cfg.PreviousSecret} {
		if secret == nil {
			continue
		}
		d, err := derive(secret)
		if err != nil {
			return nil, err
		}
		i.secrets = append(i.secrets, d)
	}
	i.hashes = newHashGate()
	var err error
	i.limits, err = newLimits()
	return i, err
}

// Prepare notes the lifetime of tokens in the store, retires signing keys of
// another algorithm than the configured one, makes those that are missing, and
// seals with the secret those that the previous one sealed; of those that sign
// no more, no private half stays. After a restore it revokes everything issued
// before. It fails where the keys were sealed with neither, where a restore
// broke off, where another node issues under another name, and where the tokens
// of a registered client could get too long.
func (i *Issuer) Prepare(ctx context.Context) error {
	_, err := i.store.Update(ctx, func(tx Tx) error {
		if err := checkWhole(tx); err != nil {
			return err
		}
		if err := i.sameIssuer(tx); err != nil {
			return err
		}
		if err := i.finishEpoch(tx); err != nil {
			return err
		}
		if err := tx.SetMaxLifetime(i.cfg.TokenLifetime); err != nil {
			return err
		}
		if err := i.checkRooms(tx); err != nil {
			return err
		}
		if err := i.replenish(tx); err != nil {
			return err
		}
		if err := discardRetired(tx); err != nil {
			return err
		}
		return i.reseal(tx)
	})
	return err
}

// Name is the iss of every token.
func (i *Issuer) Name() string { return i.cfg.Issuer }

// sameIssuer refuses to be a second issuer on one database: revocations name the
// issuer, and one that was made here would kill no token of the other node. A
// node that ended in order has taken its row out, or says who is owed.
func (i *Issuer) sameIssuer(rd Reader) error {
	nodes, err := rd.Nodes()
	for _, n := range nodes {
		if n.Issuer != "" && n.Issuer != i.cfg.Issuer && n.Owed == "" {
			return fmt.Errorf("a node on this database issues as %s, and this one would as %s, so that a logout at one would not end tokens of the other: start this one with --issuer %[1]s; or, to change the issuer, end every node in order first (one that crashed is started once more for that)", n.Issuer, i.cfg.Issuer)
		}
	}
	return err
}

// IdleTimeout is how long a session may go without a refresh.
func (i *Issuer) IdleTimeout() time.Duration { return i.cfg.IdleTimeout }

// Actor is who asks for a change.
type Actor struct {
	Name    string // "user", "system", or "admin:" and the name of the API key, or "client:" and the client_id
	Address string
	// Subject and Session of a user who showed an access token. The change is
	// refused with CodeToken where the session has ended meanwhile.
	Subject, Session string
	// Scopes of the API key that was shown. The actor makes keys with no
	// others, but for verifiers.
	Scopes []Scope
}

// User is the actor of what people do to their own account.
func User(address string) Actor { return Actor{Name: "user", Address: address} }

var system = Actor{Name: "system"}

// newID returns a random identifier behind a prefix that says what it names.
func newID(prefix string) string {
	var b [idSize]byte
	rand.Read(b[:])
	return prefix + base64.RawURLEncoding.EncodeToString(b[:])
}

// visible reports whether s is low to high visible ASCII characters.
func visible(s string, low, high int) bool {
	return len(s) >= low && len(s) <= high && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}
