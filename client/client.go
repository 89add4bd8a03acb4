package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// maxAnswer bounds an answer's body; the longest list has a thousand
	// accounts with four KiB of claims each.
	maxAnswer = 16 << 20
	// maxKey bounds an API key.
	maxKey = 512
	// patience is how long a call may take where the caller brings no
	// http.Client: somewhat longer than the longest wait for revocations.
	patience = 90 * time.Second
)

// Config says which server to call. The zero value of every field but URL is
// the safe default.
type Config struct {
	// URL is the base address of a listener, such as
	// "https://quash.internal:8081": the public one for a [Client]'s own
	// methods, the private one for those of [Client.Admin]. Required.
	URL string
	// Key is the API key that [Client.Admin] presents.
	Key string
	// HTTP makes the calls; its redirect policy is replaced, because no
	// redirect is followed. Nil: one that gives up after 90 seconds.
	HTTP *http.Client
	// Plaintext allows http to other hosts than loopback, for networks that
	// encrypt underneath.
	Plaintext bool
}

// Client calls a server. Make one with [New]. Its methods may be called
// concurrently.
type Client struct {
	base   *url.URL
	key    string
	http   http.Client
	prefer string // of each request; empty: nothing
}

// ErrNotEncrypted is why [New] refuses http to other hosts than loopback where
// Config.Plaintext is not set.
var ErrNotEncrypted = errors.New("not encrypted")

// New returns a client of a server. It makes no connection.
func New(c Config) (*Client, error) {
	base, err := url.Parse(c.URL)
	if err != nil || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, errors.New("client: URL: want the base address of the server, such as https://quash.example")
	}
	switch {
	case base.Scheme != "https" && base.Scheme != "http":
		return nil, fmt.Errorf("client: URL: scheme %q is neither https nor http", base.Scheme)
	case base.Scheme == "http" && !c.Plaintext && !loopback(base.Hostname()):
		return nil, fmt.Errorf("client: URL: http to %s is %w: use https, or set Plaintext where the network encrypts underneath", base.Hostname(), ErrNotEncrypted)
	case len(c.Key) > maxKey || strings.ContainsFunc(c.Key, func(r rune) bool { return r <= ' ' || r > '~' }):
		return nil, errors.New("client: key: want at most 512 visible ASCII characters")
	}
	made := &Client{base: base, key: c.Key, http: http.Client{Timeout: patience}}
	if c.HTTP != nil {
		made.http = *c.HTTP
	}
	made.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return made, nil
}

// WithWait returns a client whose changes wait for their confirmation for d, to
// the second, rounded up, and at most a minute; 0: not at all. Without it they
// wait for a second. The change stands, whatever the wait ends with: see
// [Effect]. A context that ends ends the wait and leaves the outcome unknown.
func (c *Client) WithWait(d time.Duration) *Client {
	with := *c
	with.prefer = "respond-async"
	if d > 0 {
		with.prefer = "wait=" + seconds(min(d, time.Minute))
	}
	return &with
}

// seconds returns d in whole seconds, rounded up.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

// request is one call.
type request struct {
	method string
	path   []string // segments, not yet escaped
	query  url.Values
	bearer string // access token or API key
	retry  string // Idempotency-Key
	body   any    // nil: none
}

// call makes a request and decodes its answer.
func call[T any](ctx context.Context, c *Client, r request) (answer T, err error) {
	where := r.method + " /" + strings.Join(r.path, "/")
	built, err := c.build(ctx, r)
	if err != nil {
		return answer, fmt.Errorf("client: %s: %w", where, err)
	}
	resp, err := c.http.Do(built)
	if err != nil {
		return answer, fmt.Errorf("client: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return answer, fmt.Errorf("client: %s: read the answer: %w", where, err)
	case len(body) > maxAnswer:
		return answer, fmt.Errorf("client: %s: the answer has more than %d octets; ask for fewer entries", where, maxAnswer)
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return answer, problemOf(resp, body)
	case len(body) == 0:
		return answer, nil
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return answer, fmt.Errorf("client: %s: the answer is not what a Quash server sends; check the URL: %w", where, err)
	}
	return answer, nil
}

func (c *Client) build(ctx context.Context, r request) (*http.Request, error) {
	u := c.base.JoinPath(escape(r.path)...)
	u.RawQuery = r.query.Encode()
	var body io.Reader = http.NoBody
	if r.body != nil {
		text, err := json.Marshal(r.body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	}
	built, err := http.NewRequestWithContext(ctx, r.method, u.String(), body)
	if err != nil {
		return nil, err
	}
	built.Header.Set("Accept", "application/json, application/problem+json")
	if r.body != nil {
		built.Header.Set("Content-Type", "application/json")
	}
	if c.prefer != "" {
		built.Header.Set("Prefer", c.prefer)
	}
	if r.bearer != "" {
		built.Header.Set("Authorization", "Bearer "+r.bearer)
	}
	if r.retry != "" {
		quoted, err := quoteString(r.retry)
		if err != nil {
			return nil, err
		}
		built.Header.Set("Idempotency-Key", quoted)
	}
	return built, nil
}

// escape makes path segments of texts, those that a path would lose included.
func escape(segments []string) []string {
	escaped := make([]string, len(segments))
	for i, s := range segments {
		escaped[i] = url.PathEscape(s)
		if s == "." || s == ".." {
			escaped[i] = strings.ReplaceAll(s, ".", "%2E")
		}
	}
	return escaped
}

// quoteString returns s as a string of RFC 9651, section 3.3.3.
func quoteString(s string) (string, error) {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "", errors.New("the idempotency key: want printable ASCII characters")
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`, nil
}

// problemOf reads an answer that is not a success.
func problemOf(resp *http.Response, body []byte) *Problem {
	p := &Problem{}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if kind != "application/problem+json" || json.Unmarshal(body, p) != nil {
		p = &Problem{
			Title:  http.StatusText(resp.StatusCode),
			Detail: "the answer does not come from a Quash server; check the URL and what stands between",
		}
	}
	p.Status = resp.StatusCode
	if seconds, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 31); err == nil {
		p.RetryAfter = time.Duration(seconds) * time.Second
	}
	return p
}
