package quash

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/quashdev/quash/internal/lease"
)

const (
	defaultCacheBytes = 32 << 20
	maxAddresses      = 32
)

// Config says which nodes a verifier follows and what it accepts. URL and Key
// are required; the zero value of every other field is the safe default, and
// none of them turns a check off.
type Config struct {
	// URL is the base of a node's private listener, such as
	// "https://quash.internal:8081". Where there are several nodes it may hold
	// up to 32 such addresses, separated by commas: verifiers spread over them,
	// and one that loses its node, or is told that it stops, turns to another.
	URL string
	// Key is the verifier's key: an API key whose only scope is the feed.
	Key string
	// Audience is what a token's aud must contain. Empty: the issuer.
	Audience string
	// Issuer, if set, is the only issuer that the node may serve: where it
	// serves another, Open fails. Empty: the node's, whichever it is.
	Issuer string
	// Issuers are others whose tokens are accepted too, at most 16. Their
	// tokens have an audience of their own; Claims.Issuer tells whose one is.
	Issuers []Issuer
	// Name is what people call this verifier, 1 to 64 visible ASCII
	// characters. Empty: the host's name.
	Name string

	// TLS is used for connections to nodes. Nil: the system's roots. One
	// that skips verification must bring a verification of its own.
	TLS *tls.Config
	// Plaintext allows http and ws to other hosts than loopback, for networks
	// that encrypt underneath. It shows in Status.
	Plaintext bool
	// Dial opens connections to nodes, as http.Transport's DialContext.
	// It is trusted like loopback: plain http over it needs no Plaintext.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Token finds the token in a request for Protect: empty where there is
	// none, an error where the request is malformed. Nil: [Bearer]. Browsers
	// cannot set a header on a WebSocket; this is where its handler reads a
	// cookie or a subprotocol instead.
	Token func(*http.Request) (string, error)

	// CacheBytes bounds the memory for tokens already verified. 0: 32 MiB. The
	// places where they are found take a sixteenth to an eighth of it besides.
	CacheBytes int
	// MaxRevocations bounds the live revocations, at about 30 bytes each.
	// Beyond it the verifier is stale. 0: 16 million.
	MaxRevocations int
	// Logger gets a record at each change of state. Nil: none.
	Logger *slog.Logger

	clock        lease.Clock       // nil: the machine's
	keyTransport http.RoundTripper // to fetch issuers' keys; nil: the network
}

// complete checks c, fills in the defaults, and returns the feed's addresses
// beside it.
func (c Config) complete() (Config, []*url.URL, error) {
	if !visible(c.Key, 512) {
		return c, nil, errors.New("key: want the verifier's key, 1 to 512 visible ASCII characters; quash key create NAME --verifier makes one")
	}
	if c.CacheBytes < 0 || c.MaxRevocations < 0 {
		return c, nil, errors.New("cache bytes and max revocations must not be negative")
	}
	if c.Name == "" {
		c.Name = hostName()
	}
	if !visible(c.Name, 64) {
		return c, nil, errors.New("name: want 1 to 64 visible ASCII characters")
	}
	if t := c.TLS; t != nil && t.InsecureSkipVerify && t.VerifyConnection == nil && t.VerifyPeerCertificate == nil {
		return c, nil, errors.New("TLS: InsecureSkipVerify alone would trust anyone: add the node's certificate to RootCAs")
	}
	if c.CacheBytes == 0 {
		c.CacheBytes = defaultCacheBytes
	}
	if c.Token == nil {
		c.Token = Bearer
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.clock == nil {
		c.clock = lease.System()
	}
	addresses, err := c.feedURLs()
	return c, addresses, err
}

func (c *Config) feedURLs() ([]*url.URL, error) {
	list := strings.Split(c.URL, ",")
	if len(list) > maxAddresses {
		return nil, fmt.Errorf("URL: %d addresses, want at most %d", len(list), maxAddresses)
	}
	addresses := make([]*url.URL, len(list))
	for i, text := range list {
		u, err := c.feedURL(strings.TrimSpace(text))
		if err != nil {
			return nil, err
		}
		addresses[i] = u
	}
	return addresses, nil
}

func (c *Config) feedURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("URL: want the base address of a node's private listener, such as https://quash.internal:8081, or several separated by commas")
	}
	switch u.Scheme {
	case "https", "wss":
	case "http", "ws":
		if !c.Plaintext && c.Dial == nil && !loopback(u.Hostname()) {
			return nil, fmt.Errorf("URL: %s to %s is not encrypted: use https, or set Plaintext where the network encrypts underneath", u.Scheme, u.Hostname())
		}
	default:
		return nil, fmt.Errorf("URL: scheme %q is not https, wss, http or ws", u.Scheme)
	}
	return u.JoinPath("v1", "feed"), nil
}

// exposed says whether what is sent to one of the nodes leaves this machine
// unencrypted, as far as one can tell from here.
func (c *Config) exposed(addresses []*url.URL) bool {
	return c.Dial == nil && slices.ContainsFunc(addresses, func(u *url.URL) bool {
		return (u.Scheme == "http" || u.Scheme == "ws") && !loopback(u.Hostname())
	})
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

func visible(s string, most int) bool {
	return s != "" && len(s) <= most && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil || !visible(name, 64) {
		return "verifier"
	}
	return name
}
