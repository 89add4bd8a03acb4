package quash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/quashdev/quash/internal/jws"
)

const (
	fetchWithin  = 10 * time.Second
	refreshEvery = 15 * time.Minute // where the answer does not say otherwise
	refreshLeast = time.Minute      // between two fetches, unless the first ones fail
	refreshMost  = time.Hour
	refetchFirst = time.Second
)

// keySource fetches the keys of one issuer.
type keySource struct {
	issuer string
	url    string
	wanted chan struct{} // holds a value while a token named a key that is not there
	tried  chan struct{} // closed after the first attempt

	mu      sync.Mutex // guards what follows
	fetched time.Time  // when the keys were last fetched
	failure string     // why they could not be the last time; empty: they could
}

func newKeySource(issuer, url string) *keySource {
	return &keySource{issuer: issuer, url: url, wanted: make(chan struct{}, 1), tried: make(chan struct{})}
}

// want asks for the keys to be fetched soon. It never waits. A nil source has
// keys that do not change.
func (k *keySource) want() {
	if k == nil {
		return
	}
	select {
	case k.wanted <- struct{}{}:
	default:
	}
}

// await returns after the first attempt, or when ctx ends.
func (k *keySource) await(ctx context.Context) {
	if k == nil {
		return
	}
	select {
	case <-k.tried:
	case <-ctx.Done():
	}
}

// follow keeps the issuer's keys up to date until ctx ends.
func (k *keySource) follow(ctx context.Context, client *http.Client, f *follower) {
	pause := refetchFirst // after a failure before the first success
	for first := true; ; first = false {
		next, err := k.refresh(ctx, client, f)
		if ctx.Err() != nil {
			return
		}
		k.note(err, f)
		if first {
			close(k.tried)
		}
		switch {
		case err == nil:
			pause = refreshLeast
		case pause < refreshLeast:
			next, pause = pause, min(2*pause, refreshLeast)
		default:
			next = refreshLeast
		}
		if !k.rest(ctx, next) {
			return
		}
	}
}

// rest waits until the next fetch is due, or sooner where a token wants it, and
// reports false where ctx has ended.
func (k *keySource) rest(ctx context.Context, next time.Duration) bool {
	least := time.After(min(next, refreshLeast))
	due := time.After(next)
	select {
	case <-ctx.Done():
		return false
	case <-least:
	}
	select {
	case <-ctx.Done():
		return false
	case <-k.wanted:
	case <-due:
	}
	return true
}

// refresh fetches the keys once and returns when that is to be done again.
func (k *keySource) refresh(ctx context.Context, client *http.Client, f *follower) (time.Duration, error) {
	select { // what is wanted is on its way
	case <-k.wanted:
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, fetchWithin)
	defer cancel()
	text, next, err := fetch(ctx, client, k.url)
	if err == nil {
		err = f.trust(k.issuer, text)
	}
	return next, err
}

func fetch(ctx context.Context, client *http.Client, url string) ([]byte, time.Duration, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, 0, err
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	response, err := client.Do(request)
	if err != nil {
		return nil, 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, 0, fmt.Errorf("the answer has status %d", response.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, jws.MaxForeignKeySet+1))
	return text, freshFor(strings.Join(response.Header.Values("Cache-Control"), ",")), err
}

// freshFor returns for how long an answer is good by its Cache-Control (RFC
// 9111, section 5.2.2.1), within bounds.
func freshFor(control string) time.Duration {
	for directive := range strings.SplitSeq(control, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		if !strings.EqualFold(name, "max-age") {
			continue
		}
		if seconds, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31); err == nil {
			return min(max(time.Duration(seconds)*time.Second, refreshLeast), refreshMost)
		}
	}
	return refreshEvery
}

// note keeps what became of a fetch, and logs it where that is news.
func (k *keySource) note(err error, f *follower) {
	failure := ""
	if err != nil {
		failure = err.Error()
	}
	k.mu.Lock()
	former := k.failure
	k.failure = failure
	if err == nil {
		k.fetched = f.now()
	}
	k.mu.Unlock()
	log := f.log.With(slog.String("issuer", k.issuer))
	switch {
	case failure != "" && failure != former:
		log.Warn("the issuer's keys could not be fetched: trying again; the last good ones stay in use", "error", failure)
	case failure == "" && former != "":
		log.Info("the issuer's keys could be fetched again")
	}
}

// status says how the issuer stands.
func (o *foreignIssuer) status() IssuerStatus {
	s := IssuerStatus{Name: o.Name, Until: o.Until, Ready: o.secret != nil || o.keys != nil}
	if o.keys != nil {
		s.Keys = o.keys.Len()
	}
	if k := o.source; k != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		s.Fetched, s.Failure = k.fetched, k.failure
	}
	return s
}

// keyClient fetches keys. It follows redirects that stay with the host and the
// scheme.
func (c *Config) keyClient() *http.Client {
	transport := c.keyTransport
	if transport == nil {
		transport = &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, DisableCompression: true,
			MaxResponseHeaderBytes: 64 << 10, MaxIdleConns: 1, IdleConnTimeout: fetchWithin,
		}
	}
	return &http.Client{Transport: transport, CheckRedirect: stay}
}

func stay(request *http.Request, via []*http.Request) error {
	from, to := via[0].URL, request.URL
	switch {
	case from.Scheme != to.Scheme || from.Host != to.Host:
		return errors.New("it redirects to another host or scheme, which is not followed: configure the URL where the keys are")
	case len(via) > 3:
		return errors.New("it redirects more than three times")
	}
	return nil
}

// trust puts the keys in the text in the place of those that the issuer had.
func (f *follower) trust(issuer string, text []byte) error {
	f.publishing.Lock()
	defer f.publishing.Unlock()
	list := slices.Clone(f.foreign)
	for i, o := range list {
		if o.Name != issuer || o.keys != nil && bytes.Equal(o.keysText, text) {
			continue
		}
		next := *o
		if err := next.setKeys(text); err != nil {
			return err
		}
		list[i] = &next
		f.foreign = list
		if present := f.state.Load(); present != nil {
			st := *present
			f.replace(&st)
		}
	}
	return nil
}
