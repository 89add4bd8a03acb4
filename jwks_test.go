package quash_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/jws"
	"github.com/quashdev/quash/internal/revset"
)

const idp = "https://idp.example"

// provider answers for the URL of an issuer's keys, in memory.
type provider struct {
	mu     sync.Mutex
	answer http.HandlerFunc
	asked  []time.Time
	urls   []string
}

func (p *provider) set(answer http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
}

func (p *provider) requests() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.asked)
}

func (p *provider) fetched() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.urls)
}

func (p *provider) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	p.asked, p.urls = append(p.asked, time.Now()), append(p.urls, r.URL.String())
	answer := p.answer
	p.mu.Unlock()
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	answer(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

func serveKeys(keys ...*jws.PrivateKey) http.HandlerFunc {
	text := keySet(keys...)
	return func(w http.ResponseWriter, _ *http.Request) { w.Write(text) }
}

// foreignToken is a token of the provider that is good for an hour, with other
// claims set.
func foreignToken(key *jws.PrivateKey, set map[string]any) string {
	now := time.Now().Unix()
	claims := map[string]any{"iss": idp, "aud": "orders", "sub": "u_7", "iat": now, "exp": now + 3600}
	for name, value := range set {
		claims[name] = value
	}
	return must(key.Sign("at+jwt", must(json.Marshal(claims))))
}

// trusting returns a node that knows the provider, and a configuration of a
// verifier that fetches its keys from p.
func trusting(t *testing.T, p *provider) (*node, quash.Config) {
	n := newNode(t)
	n.hello.Issuers = []feed.Issuer{{Name: idp, MaxLifetime: 86400}}
	n.hello.Claims = append(n.hello.Claims, "iss")
	c := n.config()
	c.Issuers = []quash.Issuer{{Name: idp, JWKS: idp + "/keys", Audience: "orders"}}
	quash.SetKeyTransport(&c, p)
	return n, c
}

func foreignRecord(n *node, position uint64, claim, value string) revset.Record {
	return revset.Record{
		Position: position, Key: revset.KeyOf(n.hello.HashSecret, idp, claim, value),
		Before: position, NotBefore: uint32(time.Now().Unix()), Forget: revset.NeverForget,
	}
}

func TestKeysOfAnIssuerAreFollowed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		first, second := must(jws.Generate(jws.ES256)), must(jws.Generate(jws.ES256))
		p := &provider{answer: serveKeys(first)}
		n, c := trusting(t, p)
		v, _ := n.open(c)
		wantAccepted(t, v, foreignToken(first, nil), "from the start")
		p.set(serveKeys(second))
		fresh := foreignToken(second, nil)
		wantError(t, v, fresh, quash.ErrInvalid, "a new key that was not fetched yet")
		time.Sleep(time.Minute + time.Second)
		wantAccepted(t, v, fresh, "fetched because a token named it")
		wantError(t, v, foreignToken(first, nil), quash.ErrInvalid, "the key is gone, for tokens in the cache, too")
		if got := p.requests(); got != 2 {
			t.Errorf("got %d requests, want 2", got)
		}
		time.Sleep(15 * time.Minute)
		if got := p.requests(); got < 3 {
			t.Errorf("got %d requests a quarter of an hour later, want one more", got)
		}
	})
}

func TestUnknownKeysCauseOneFetchAMinute(t *testing.T) {
	bubble(t, func(t *testing.T) {
		key := must(jws.Generate(jws.Ed25519))
		p := &provider{answer: serveKeys(key)}
		n, c := trusting(t, p)
		v, _ := n.open(c)
		before := p.requests()
		for range 600 {
			wantError(t, v, foreignToken(must(jws.Generate(jws.Ed25519)), nil), quash.ErrInvalid, "an unknown key")
			time.Sleep(time.Second)
		}
		if got := p.requests() - before; got < 9 || got > 10 {
			t.Errorf("got %d requests in 10 minutes, want one each minute", got)
		}
	})
}

func TestCacheControlSaysWhenKeysAreFetchedAgain(t *testing.T) {
	for lines, want := range map[string]time.Duration{
		"public\nmax-age=300":           5 * time.Minute,
		"":                              15 * time.Minute,
		"no-store":                      15 * time.Minute,
		"public, max-age=300":           5 * time.Minute,
		`Max-Age="600", immutable`:      10 * time.Minute,
		"max-age=0":                     time.Minute,
		"max-age=31536000":              time.Hour,
		"max-age=99999999999999999999":  15 * time.Minute,
		"max-age=-5, max-age=x, public": 15 * time.Minute,
	} {
		bubble(t, func(t *testing.T) {
			key := must(jws.Generate(jws.Ed25519))
			p := &provider{answer: func(w http.ResponseWriter, r *http.Request) {
				for control := range strings.SplitSeq(lines, "\n") {
					w.Header().Add("Cache-Control", control)
				}
				serveKeys(key)(w, r)
			}}
			n, c := trusting(t, p)
			n.open(c)
			time.Sleep(time.Hour + time.Second)
			p.mu.Lock()
			defer p.mu.Unlock()
			if got := p.asked[1].Sub(p.asked[0]); got != want {
				t.Errorf("Cache-Control %q: fetched again after %s, want %s", lines, got, want)
			}
		})
	}
}

// T39: whatever the server of the keys does, the last good set stays in use, and
// nothing is fetched from elsewhere.
func TestBadAnswersLeaveTheLastGoodKeys(t *testing.T) {
	key := must(jws.Generate(jws.Ed25519))
	private := `{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}`
	public := `{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`
	text := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, s) }
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	to := func(url string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, url, http.StatusFound) }
	}
	for name, answer := range map[string]http.HandlerFunc{
		"404": status(404), "500": status(500), "204": status(204),
		"a page":          text("<!doctype html>"),
		"huge":            text(`{"keys":[` + public + `],"x":"` + strings.Repeat("x", 1<<20) + `"}`),
		"no keys":         text(`{"keys":[]}`),
		"too many":        text(`{"keys":[` + strings.Repeat(`{"kty":"oct-no"},`, 100) + public + `]}`),
		"private":         text(`{"keys":[` + private + `]}`),
		"symmetric":       text(`{"keys":[` + public + `,{"kty":"oct","kid":"b","k":"AAAA"}]}`),
		"one kid twice":   text(`{"keys":[` + public + `,` + public + `]}`),
		"to another host": to("https://evil.example/keys"),
		"to loopback":     to("http://127.0.0.1/keys"),
		"to http":         to("http://idp.example/keys"),
		"round in rings":  to("/keys"),
		"slow": func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		},
	} {
		bubble(t, func(t *testing.T) {
			p := &provider{answer: serveKeys(key)}
			n, c := trusting(t, p)
			v, _ := n.open(c)
			p.set(answer)
			time.Sleep(20 * time.Minute)
			wantAccepted(t, v, foreignToken(key, nil), name)
			if s := v.Status().Issuers[0]; s.Failure == "" || !s.Ready {
				t.Errorf("%s: got status %+v, want a failure, and ready", name, s)
			}
			for _, url := range p.fetched() {
				if url != idp+"/keys" {
					t.Errorf("%s: asked %s", name, url)
				}
			}
		})
	}
}

// P7, for one issuer: until its keys are there, its tokens are to be tried again
// later, and those of others do not suffer.
func TestAnIssuerIsNotReadyBeforeItsFirstKeys(t *testing.T) {
	bubble(t, func(t *testing.T) {
		key := must(jws.Generate(jws.Ed25519))
		p := &provider{answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }}
		n, c := trusting(t, p)
		v, _ := n.open(c)
		wantError(t, v, foreignToken(key, nil), quash.ErrNotReady, "before the keys are there")
		wantAccepted(t, v, n.token(nil), "a token of the node's")
		if s := v.Status().Issuers[0]; s.Ready || s.Failure == "" {
			t.Errorf("got status %+v, want it not ready, with a failure", s)
		}
		p.set(serveKeys(key))
		time.Sleep(time.Minute)
		wantAccepted(t, v, foreignToken(key, nil), "once they are")
	})
}

// An answer without a body is no key set, the first time too.
func TestAnEmptyFirstAnswerIsTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		key := must(jws.Generate(jws.Ed25519))
		p := &provider{answer: func(http.ResponseWriter, *http.Request) {}}
		n, c := trusting(t, p)
		v, _ := n.open(c)
		wantError(t, v, foreignToken(key, nil), quash.ErrNotReady, "after an empty answer")
		if s := v.Status().Issuers[0]; s.Ready || s.Failure == "" || !s.Fetched.IsZero() {
			t.Errorf("got status %+v, want a failure, and nothing fetched", s)
		}
		p.set(serveKeys(key))
		time.Sleep(2 * time.Second)
		wantAccepted(t, v, foreignToken(key, nil), "a second or two later")
	})
}

func TestTypesCompareWithoutCaseAndPrefix(t *testing.T) {
	for _, typ := range []string{"at+jwt", "AT+JWT", "application/at+jwt", "Application/At+Jwt"} {
		bubble(t, func(t *testing.T) {
			key := must(jws.Generate(jws.Ed25519))
			n, c := trusting(t, &provider{answer: serveKeys(key)})
			c.Issuers[0].Types = []string{typ}
			v, _ := n.open(c)
			wantAccepted(t, v, foreignToken(key, nil), "where "+typ+" was named")
			if c.Issuers[0].Types[0] != typ {
				t.Errorf("open changed what it was given to %q", c.Issuers[0].Types[0])
			}
		})
	}
}

func TestOpenDoesNotWaitForASlowIssuer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := &provider{answer: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }}
		n, c := trusting(t, p)
		began := time.Now()
		v, _ := n.open(c)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("open took %s, want at most 10 s", took)
		}
		wantAccepted(t, v, n.token(nil), "a token of the node's")
	})
}

// P4: a revocation that was applied kills the issuer's tokens at once, in the
// cache and under NotifyContext, too.
func TestForeignTokensAreRevoked(t *testing.T) {
	bubble(t, func(t *testing.T) {
		key := must(jws.Generate(jws.Ed25519))
		p := &provider{answer: serveKeys(key)}
		n, c := trusting(t, p)
		v, peer := n.open(c)
		token, other := foreignToken(key, nil), foreignToken(key, map[string]any{"sub": "u_8"})
		claims := must(v.Verify(token))
		wantAccepted(t, v, other, "another user's")
		if got := claims.Issuer; got != idp {
			t.Errorf("got issuer %q, want %q", got, idp)
		}
		ctx, cancel := quash.NotifyContext(quash.NewContext(t.Context(), claims))
		defer cancel()
		peer.records(n.record(1, "sub", "u_7"))
		synctest.Wait()
		wantAccepted(t, v, token, "after a revocation of the node's own tokens")
		peer.records(foreignRecord(n, 2, "sub", "u_7"))
		synctest.Wait()
		wantError(t, v, token, quash.ErrRevoked, "after the revocation")
		if ctx.Err() == nil {
			t.Error("the context of the revoked token lives")
		}
		wantAccepted(t, v, other, "another user's")
		time.Sleep(59 * time.Second)
		wantError(t, v, foreignToken(key, nil), quash.ErrRevoked, "issued within the skew after it")
		time.Sleep(2 * time.Second)
		wantAccepted(t, v, foreignToken(key, nil), "issued later")
		peer.records(foreignRecord(n, 3, "iss", idp))
		synctest.Wait()
		wantError(t, v, other, quash.ErrRevoked, "after everything of the issuer")
		wantAccepted(t, v, n.token(map[string]any{"sub": "u_8"}), "a token of the node's")
	})
}

func TestASecretEndsWithItsMoment(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		n.hello.Issuers = []feed.Issuer{{Name: "before", MaxLifetime: 86400}}
		c := n.config()
		until := time.Now().Add(time.Hour)
		c.Issuers = []quash.Issuer{{Name: "before", Secret: []byte("the secret of an application before Quash"), Until: until, Types: []string{"JWT"}}}
		v, _ := n.open(c)
		claims := fmt.Sprintf(`{"sub":"u_7","iat":%d,"exp":%d}`, time.Now().Unix(), time.Now().Add(12*time.Hour).Unix())
		token := macToken("the secret of an application before Quash", claims)
		got := must(v.Verify(token))
		if got.Issuer != "before" || !got.Expires.Equal(until) || got.Subject != "u_7" {
			t.Errorf("got %+v, want issuer before, subject u_7, and that it expires at %s", got, until)
		}
		time.Sleep(time.Hour - time.Nanosecond)
		wantAccepted(t, v, token, "until then")
		time.Sleep(time.Nanosecond)
		wantError(t, v, token, quash.ErrExpired, "at the moment")
	})
}

// What "quash issuer add" mends a node may be about to read.
func TestOpenRefusesIssuersThatTheNodeKeepsNothingFor(t *testing.T) {
	for name, c := range map[string]struct {
		known []feed.Issuer
		want  string
	}{
		"unknown": {nil, "quash issuer add " + idp + " --max-lifetime 24h0m0s"},
		"shorter": {[]feed.Issuer{{Name: idp, MaxLifetime: 3600}}, "quash issuer add " + idp + " --max-lifetime 24h0m0s"},
		"its own": {[]feed.Issuer{{Name: idp, MaxLifetime: 86400}}, "is the node's own"},
	} {
		bubble(t, func(t *testing.T) {
			n, config := trusting(t, &provider{answer: serveKeys(must(jws.Generate(jws.Ed25519)))})
			n.hello.Issuers = c.known
			if name == "its own" {
				n.hello.Issuer = idp
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			go func() {
				for {
					select {
					case p := <-n.peers:
						p.sendHello(false)
					case <-ctx.Done():
						return
					}
				}
			}()
			began := time.Now()
			_, err := quash.Open(ctx, config)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %v, want it to say %q", name, err, c.want)
			}
			if tried := time.Since(began) >= time.Second; tried == (name == "its own") {
				t.Errorf("%s: open tried until its context ended: %t", name, tried)
			}
		})
	}
}

func TestOpenWaitsForAnIssuerThatIsBeingAdded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		key := must(jws.Generate(jws.Ed25519))
		n, c := trusting(t, &provider{answer: serveKeys(key)})
		known := n.hello.Issuers
		n.hello.Issuers = nil
		go func() {
			(<-n.peers).sendHello(false)
			p := <-n.peers
			n.hello.Issuers = known
			p.sendHello(false)
			p.snapshot()
		}()
		v, err := quash.Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close(context.Background())
		wantAccepted(t, v, foreignToken(key, nil), "once the node knows it")
	})
}

// One that is lost while the verifier runs leaves it in doubt.
func TestANodeThatForgotAnIssuerMakesStale(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n, c := trusting(t, &provider{answer: serveKeys(must(jws.Generate(jws.Ed25519)))})
		v, p := n.open(c)
		known := n.hello.Issuers
		p.conn.CloseNow()
		p = <-n.peers
		n.hello.Issuers = nil
		p.sendHello(true)
		p = <-n.peers
		wantError(t, v, n.token(nil), quash.ErrStale, "after a hello without the issuer")
		n.hello.Issuers = known
		p.sendHello(true)
		synctest.Wait()
		wantAccepted(t, v, n.token(nil), "after one with it")
	})
}

func TestIssuersThatAreRefused(t *testing.T) {
	keys := []byte(keySet(must(jws.Generate(jws.Ed25519))))
	secret, until := bytes.Repeat([]byte("s"), 32), time.Now().Add(time.Hour)
	good := quash.Issuer{Name: idp, Keys: keys, Audience: "orders"}
	with := func(change func(*quash.Issuer)) []quash.Issuer {
		i := good
		change(&i)
		return []quash.Issuer{i}
	}
	for want, issuers := range map[string][]quash.Issuer{
		"name":           with(func(i *quash.Issuer) { i.Name = "" }),
		"got 0":          with(func(i *quash.Issuer) { i.Keys = nil }),
		"got 2":          with(func(i *quash.Issuer) { i.Secret = secret }),
		"https URL":      with(func(i *quash.Issuer) { i.Keys, i.JWKS = nil, "http://idp.example/keys" }),
		"32 octets":      with(func(i *quash.Issuer) { i.Keys, i.Secret, i.Until = nil, secret[1:], until }),
		"until":          with(func(i *quash.Issuer) { i.Keys, i.Secret = nil, secret }),
		"with a secret":  with(func(i *quash.Issuer) { i.Until = until }),
		"audience":       with(func(i *quash.Issuer) { i.Audience = "" }),
		"max lifetime":   with(func(i *quash.Issuer) { i.MaxLifetime = 11 * 365 * 24 * time.Hour }),
		"whole seconds":  with(func(i *quash.Issuer) { i.MaxLifetime = time.Millisecond }),
		"skew":           with(func(i *quash.Issuer) { i.Skew = 11 * time.Minute }),
		"types":          with(func(i *quash.Issuer) { i.Types = []string{} }),
		"its keys":       with(func(i *quash.Issuer) { i.Keys = []byte(`{"keys":[]}`) }),
		"two of this":    {good, good},
		"has the secret": {{Name: "a", Secret: secret, Until: until}, {Name: "b", Secret: secret, Until: until}},
		"at most 16":     make([]quash.Issuer, 17),
	} {
		_, err := quash.Open(t.Context(), quash.Config{URL: "http://127.0.0.1:1", Key: testKey, Issuers: issuers})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to say %q", err, want)
		}
		if err != nil && strings.Contains(err.Error(), string(secret)) {
			t.Errorf("the error tells the secret: %v", err)
		}
	}
}

// The keys come over a real connection, as they do in operation.
func TestKeysAreFetchedOverTheNetwork(t *testing.T) {
	key := must(jws.Generate(jws.Ed25519))
	server := httptest.NewServer(serveKeys(key))
	defer server.Close()
	n, c := trusting(t, nil)
	c.Issuers[0].JWKS = server.URL + "/keys"
	quash.SetKeyTransport(&c, nil)
	v, _ := n.open(c)
	wantAccepted(t, v, foreignToken(key, nil), "with keys from a server")
	if _, err := v.Verify(foreignToken(must(jws.Generate(jws.Ed25519)), nil)); !errors.Is(err, quash.ErrInvalid) {
		t.Errorf("another key: got %v, want it refused", err)
	}
}
