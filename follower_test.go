package quash_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/jws"
	"github.com/quashdev/quash/internal/revset"
)

func TestOpenRefusesAWrongConfig(t *testing.T) {
	for about, edit := range map[string]func(*quash.Config){
		"no URL":                      func(c *quash.Config) { c.URL = "" },
		"URL without a host":          func(c *quash.Config) { c.URL = "https:///x" },
		"URL with a password":         func(c *quash.Config) { c.URL = "https://a:b@quash.example" },
		"URL with a query":            func(c *quash.Config) { c.URL = "https://quash.example?key=1" },
		"URL of another scheme":       func(c *quash.Config) { c.URL = "ftp://quash.example" },
		"plain http to elsewhere":     func(c *quash.Config) { c.URL = "http://quash.example" },
		"second URL missing":          func(c *quash.Config) { c.URL = "https://quash.example," },
		"second URL without a scheme": func(c *quash.Config) { c.URL = "https://quash.example,quash.example" },
		"second URL in clear":         func(c *quash.Config) { c.URL = "https://quash.example,http://quash.example" },
		"too many URLs":               func(c *quash.Config) { c.URL = strings.Repeat("https://quash.example,", 32) + "https://quash.example" },
		"plain ws to elsewhere":       func(c *quash.Config) { c.URL = "ws://10.0.0.1" },
		"no key":                      func(c *quash.Config) { c.Key = "" },
		"key with a line break":       func(c *quash.Config) { c.Key = "a\nb" },
		"name with a space":           func(c *quash.Config) { c.Name = "a b" },
		"negative cache":              func(c *quash.Config) { c.CacheBytes = -1 },
		"negative revocations":        func(c *quash.Config) { c.MaxRevocations = -1 },
		"TLS that trusts just anyone": func(c *quash.Config) { c.TLS = &tls.Config{InsecureSkipVerify: true} },
	} {
		c := quash.Config{URL: "https://quash.example", Key: "key"}
		edit(&c)
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // one that gets past the check ends here
		v, err := quash.Open(ctx, c)
		if v != nil || err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want it refused before any connection", about, err)
		}
		if err != nil && c.Key != "" && strings.Contains(err.Error(), c.Key) {
			t.Errorf("%s: the error holds the key: %v", about, err)
		}
	}
}

func TestOpenFailsAtOnceWhereTryingAgainIsPointless(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		c := n.config()
		c.Key = "wrong"
		if _, err := quash.Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "refused the verifier's key") {
			t.Errorf("wrong key: got %v", err)
		}
		c = n.config()
		c.Issuer = "https://another.example"
		go func() { (<-n.peers).sendHello(false) }()
		if _, err := quash.Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), testIssuer) {
			t.Errorf("wrong issuer: got %v, want an error that names both", err)
		}
		if got := n.dials.Load(); got != 2 {
			t.Errorf("got %d connections, want one each", got)
		}
	})
}

func TestOpenTriesAgainWhileItsContextLives(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		n.status.Store(http.StatusServiceUnavailable)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := quash.Open(ctx, n.config())
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "503") {
			t.Errorf("got %v, want the deadline and the latest failure", err)
		}
		if asked := n.asked.Load(); asked < 30 || asked > 70 {
			t.Errorf("got %d attempts in a minute, want one in 1 to 2 s", asked)
		}
	})
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		n.status.Store(http.StatusTemporaryRedirect)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		if _, err := quash.Open(ctx, n.config()); err == nil || n.asked.Load() != 1 {
			t.Errorf("got %v and %d connections, want an error and 1", err, n.asked.Load())
		}
	})
}

// Over real sockets: TLS is checked, and no TLS shows in the status.
func TestTransport(t *testing.T) {
	n := newNode(t)
	secure, plain := httptest.NewUnstartedServer(n), httptest.NewServer(n)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // of the handshake that fails on purpose
	secure.StartTLS()
	defer secure.Close()
	defer plain.Close()
	c := n.config()
	c.Dial, c.URL = nil, secure.URL
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := quash.Open(ctx, c); err == nil || n.asked.Load() != 0 {
		t.Errorf("a certificate of nobody: got %v, and %d requests", err, n.asked.Load())
	}
	c.TLS = &tls.Config{RootCAs: secure.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	v, _ := n.open(c)
	wantAccepted(t, v, n.token(nil), "over TLS")
	if v.Status().Plaintext {
		t.Error("over TLS: the status says plaintext")
	}
	// Every address of this machine, which loopback is one of, but not only.
	c.URL, c.Plaintext = strings.Replace(plain.URL, "127.0.0.1", "0.0.0.0", 1), true
	v, _ = n.open(c)
	wantAccepted(t, v, n.token(nil), "in clear")
	if !v.Status().Plaintext {
		t.Error("in clear: the status does not say so")
	}
}

func TestTheVerifierIntroducesItself(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		_, p := n.open(n.config(), n.record(7, "sub", "u_1"))
		process := p.header.Get(feed.HeaderProcess)
		if p.header.Get(feed.HeaderName) != "test" || process == "" || p.header.Values(feed.HeaderLog) != nil {
			t.Errorf("at first: got %v, want name, process, and no log", p.header)
		}
		p.conn.CloseNow()
		p = <-n.peers
		got := []string{
			p.header.Get(feed.HeaderProcess), p.header.Get(feed.HeaderLog), p.header.Get(feed.HeaderEpoch),
			p.header.Get(feed.HeaderPosition), p.header.Get(feed.HeaderDigest),
		}
		want := []string{process, "log-1", "1", "7", markAt(7).Digest.String()}
		if !slices.Equal(got, want) {
			t.Errorf("the second time: got %v, want %v", got, want)
		}
	})
}

// P3, Resumable: after a loss of connection it goes on where it was.
func TestP3Resumes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config(), n.record(1, "sub", "u_1"))
		first, second := n.token(claims{"sub": "u_1"}), n.token(claims{"sub": "u_2"})
		p.sendJSON(feed.KindBye, feed.Bye{Code: feed.ByeStopping, Detail: "the node stops"})
		p.conn.CloseNow()
		p = <-n.peers
		p.sendHello(true)
		p.records(n.record(2, "sub", "u_2"))
		synctest.Wait()
		wantError(t, v, first, quash.ErrRevoked, "revoked before")
		wantError(t, v, second, quash.ErrRevoked, "revoked while away")
		if s := v.Status(); s.Position != 2 || !s.Connected || s.Stale != "" {
			t.Errorf("status: got %+v, want connected, fresh, at 2", s)
		}
	})
}

// What a node may not send leaves the verifier stale, and a connection on
// which it comes in step makes it fresh again.
func TestWhatIsNotUnderstoodMakesStale(t *testing.T) {
	records := func(n *node, rs ...revset.Record) []byte {
		return feed.AppendRecords(nil, markAt(rs[len(rs)-1].Position), rs)
	}
	pong := func(m feed.Mark) []byte {
		return feed.AppendPong(nil, feed.Pong{Mark: m, Clock: time.Now().UnixMilli()})
	}
	for about, message := range map[string]func(n *node) []byte{
		"unknown kind":          func(*node) []byte { return []byte{99, 1, 2} },
		"a verifier's kind":     func(*node) []byte { return feed.AppendPing(nil, feed.Ping{}) },
		"empty message":         func(*node) []byte { return nil },
		"gap":                   func(n *node) []byte { return records(n, n.record(7, "sub", "u_1")) },
		"record applied before": func(n *node) []byte { return records(n, n.record(5, "sub", "u_1")) },
		"overlap":               func(n *node) []byte { return records(n, n.record(5, "sub", "u_1"), n.record(6, "sub", "u_2")) },
		"records out of order": func(n *node) []byte {
			return feed.AppendRecords(nil, markAt(7), []revset.Record{n.record(7, "a", "b"), n.record(6, "a", "b")})
		},
		"part of a record":      func(n *node) []byte { b := records(n, n.record(6, "sub", "u_1")); return b[:len(b)-1] },
		"records without one":   func(*node) []byte { return feed.AppendRecords(nil, markAt(5), nil) },
		"second hello":          func(n *node) []byte { return must(feed.AppendJSON(nil, feed.KindHello, n.hello)) },
		"snapshot unannounced":  func(n *node) []byte { return feed.AppendSnapshot(nil, []revset.Record{n.record(6, "sub", "u_1")}) },
		"mark unannounced":      func(*node) []byte { return feed.AppendMark(nil, markAt(6)) },
		"pong ahead":            func(*node) []byte { return pong(markAt(6)) },
		"pong of other history": func(*node) []byte { return pong(feed.Mark{Position: 5}) },
		"pong of too much": func(*node) []byte {
			return feed.AppendPong(nil, feed.Pong{Mark: markAt(5), Stamp: 1, Clock: time.Now().UnixMilli(), Grant: 30*time.Second + time.Millisecond})
		},
		"short pong":           func(*node) []byte { return []byte{byte(feed.KindPong), 0} },
		"claims not JSON":      func(*node) []byte { return []byte{byte(feed.KindClaims), '{'} },
		"claim without a name": func(*node) []byte { return must(feed.AppendJSON(nil, feed.KindClaims, []string{"sub", ""})) },
		"keys not a set":       func(*node) []byte { return must(feed.AppendJSON(nil, feed.KindKeys, "x")) },
		"oversize message":     func(*node) []byte { return make([]byte, feed.MaxMessage+1) },
	} {
		t.Run(about, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				n := newNode(t)
				v, p := n.open(n.config(), n.record(5, "sub", "u_0"))
				token := n.token(nil)
				wantAccepted(t, v, token, "in step")
				go p.send(message(n))
				p = <-n.peers
				wantError(t, v, token, quash.ErrStale, "after the message")
				if s := v.Status(); s.Stale == "" || s.Position != 5 {
					t.Errorf("status: got %+v, want a reason to be stale, and position 5", s)
				}
				p.sendHello(true)
				synctest.Wait()
				wantAccepted(t, v, token, "in step again")
			})
		})
	}
}

func TestATextMessageMakesStale(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config())
		p.conn.Write(t.Context(), websocket.MessageText, []byte("hello"))
		<-n.peers
		wantError(t, v, n.token(nil), quash.ErrStale, "after a text message")
	})
}

func TestAWrongHelloMakesStale(t *testing.T) {
	for about, edit := range map[string]func(*feed.Hello){
		"another issuer":       func(h *feed.Hello) { h.Issuer = "https://another.example" },
		"short secret":         func(h *feed.Hello) { h.HashSecret = h.HashSecret[1:] },
		"no keys":              func(h *feed.Hello) { h.Keys = nil },
		"no lifetime":          func(h *feed.Hello) { h.MaxLifetime = 0 },
		"lifetime without end": func(h *feed.Hello) { h.MaxLifetime = 1 << 62 },
		"no lease":             func(h *feed.Hello) { h.Lease = 0 },
		"a lease too short":    func(h *feed.Hello) { h.Lease = 999 },
		"a lease too long":     func(h *feed.Hello) { h.Lease = 600_001 },
		"a lease that wraps":   func(h *feed.Hello) { h.Lease = 1<<63 - 1 },
		"no log":               func(h *feed.Hello) { h.Log = "" },
		"resumes another log":  func(h *feed.Hello) { h.Log, h.Resumes = "log-2", true },
		"resumes other epoch":  func(h *feed.Hello) { h.Epoch, h.Resumes = 2, true },
	} {
		t.Run(about, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				n := newNode(t)
				c := n.config()
				c.Issuer = testIssuer
				v, p := n.open(c)
				p.conn.CloseNow()
				p = <-n.peers
				h := n.hello
				edit(&h)
				p.sendJSON(feed.KindHello, h)
				p = <-n.peers
				wantError(t, v, n.token(nil), quash.ErrStale, "after the hello")
				p.sendHello(true)
				synctest.Wait()
				wantAccepted(t, v, n.token(nil), "after a right one")
			})
		})
	}
}

func TestASnapshotIsBuiltAsideAndTakesThePlaceOfWhatWas(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config(), n.record(5, "sub", "u_0"))
		first, second := n.token(claims{"sub": "u_1"}), n.token(claims{"sub": "u_2"})
		wantAccepted(t, v, first, "before")
		p.conn.CloseNow()
		p = <-n.peers
		n.hello.Head = 9
		p.sendHello(false)
		p.send(feed.AppendSnapshot(nil, []revset.Record{n.record(9, "sub", "u_1")}))
		p.sendJSON(feed.KindClaims, []string{"sub", "tenant"})
		p.send(feed.AppendSnapshot(nil, []revset.Record{n.record(8, "sub", "u_2")}))
		synctest.Wait()
		wantAccepted(t, v, first, "while the snapshot is on its way")
		if len(p.acked) != 0 {
			t.Errorf("acknowledged %d before the mark", <-p.acked)
		}
		p.sendMark(9)
		synctest.Wait()
		wantError(t, v, first, quash.ErrRevoked, "after the mark")
		wantError(t, v, second, quash.ErrRevoked, "after the mark")
		if got := <-p.acked; got != 9 {
			t.Errorf("acknowledged %d, want 9", got)
		}
		if got := v.Status().Revocations; got != 2 {
			t.Errorf("got %d revocations, want the 2 of the snapshot", got)
		}
	})
}

func TestAMarkBelowItsOwnPositionIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config(), n.record(5, "sub", "u_1"))
		dead := n.token(claims{"sub": "u_1"})
		p.conn.CloseNow()
		p = <-n.peers
		p.sendHello(false)
		p.sendMark(4)
		p = <-n.peers
		wantError(t, v, dead, quash.ErrRevoked, "after a snapshot of an older log")
		wantError(t, v, n.token(nil), quash.ErrStale, "after a snapshot of an older log")
		if got := p.header.Get(feed.HeaderPosition); got != "5" {
			t.Errorf("next it offers position %s, want 5", got)
		}
	})
}

// Another log, or another epoch, is followed wherever it ends, and until it
// has come whole nothing is accepted.
func TestAnotherLogIsTakenWithAWarning(t *testing.T) {
	for about, edit := range map[string]func(*feed.Hello){
		"log":   func(h *feed.Hello) { h.Log = "log-2" },
		"epoch": func(h *feed.Hello) { h.Epoch = 2 },
	} {
		t.Run(about, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				n := newNode(t)
				var text bytes.Buffer
				c := n.config()
				c.Logger = slog.New(slog.NewTextHandler(&text, nil))
				v, p := n.open(c, n.record(50, "sub", "u_1"))
				p.conn.CloseNow()
				p = <-n.peers
				edit(&n.hello)
				p.sendHello(false)
				synctest.Wait()
				wantError(t, v, n.token(nil), quash.ErrStale, "before the mark")
				p.sendMark(4)
				synctest.Wait()
				wantAccepted(t, v, n.token(claims{"sub": "u_1"}), "after the mark")
				if s := v.Status(); s.Position != 4 || s.Log != n.hello.Log || s.Epoch != n.hello.Epoch {
					t.Errorf("status: got %+v, want position 4 of the other log", s)
				}
				v.Close(context.Background())
				if !strings.Contains(text.String(), "following another log") {
					t.Errorf("no warning in the log:\n%s", &text)
				}
			})
		})
	}
}

func TestANewClaimNameComesBeforeItsRecord(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config())
		acme := n.token(claims{"tenant": "acme"})
		many := n.token(claims{"tenant": []any{"other", 7, true}})
		large := n.token(claims{"tenant": uint64(1 << 53)})
		for _, token := range []string{acme, many, large} {
			wantAccepted(t, v, token, "while tenants are not revocable")
		}
		p.sendJSON(feed.KindClaims, []string{"tenant", "sid", "sub", "jti", "kid"})
		synctest.Wait()
		wantAccepted(t, v, acme, "once tenants are revocable")
		wantError(t, v, large, quash.ErrInvalid, "a number that cannot be compared")
		p.records(n.record(1, "tenant", "acme"))
		synctest.Wait()
		wantError(t, v, acme, quash.ErrRevoked, "its tenant revoked")
		wantAccepted(t, v, many, "another tenant revoked")
		p.records(n.record(2, "tenant", "7"))
		synctest.Wait()
		wantError(t, v, many, quash.ErrRevoked, "one member of the array revoked")
	})
}

func TestKeysComeAndGo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config())
		next := must(jws.Generate(jws.ES256))
		old, young := n.token(nil), n.tokenBy(next, nil)
		wantAccepted(t, v, old, "its key published")
		wantError(t, v, young, quash.ErrInvalid, "its key not published yet")
		p.send(append([]byte{byte(feed.KindKeys)}, keySet(n.key, next)...))
		synctest.Wait()
		wantAccepted(t, v, old, "a key added")
		wantAccepted(t, v, young, "its key added")
		p.send(append([]byte{byte(feed.KindKeys)}, keySet(next)...))
		synctest.Wait()
		wantError(t, v, old, quash.ErrInvalid, "its key gone, although it was cached")
		wantAccepted(t, v, young, "another key gone")
	})
}

func TestAClockThatIsOffMakesStale(t *testing.T) {
	for about, skew := range map[string]time.Duration{"ahead": -11 * time.Second, "behind": 11 * time.Second} {
		t.Run(about, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				n := newNode(t)
				v, _ := n.open(n.config())
				token := n.token(nil)
				n.skew.Store(skew.Milliseconds())
				time.Sleep(6 * time.Second)
				wantError(t, v, token, quash.ErrStale, "clocks 11 s apart")
				if s := v.Status(); !strings.Contains(s.Stale, "clock") || !s.Connected {
					t.Errorf("status: got %+v, want stale by its clock, and connected", s)
				}
				n.skew.Store(skew.Milliseconds() * 9 / 11)
				time.Sleep(6 * time.Second)
				wantAccepted(t, v, token, "clocks 9 s apart")
			})
		})
	}
}

// Open returns no verifier that does not know the node's clock, and one that
// knows it accepts nothing while the clocks are too far apart.
func TestFreshOnlyOnceTheNodesClockIsKnown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		n.mute.Store(true)
		var text bytes.Buffer
		c := n.config()
		c.Logger = slog.New(slog.NewTextHandler(&text, nil))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		go func() {
			p := <-n.peers
			p.sendHello(false)
			p.snapshot()
		}()
		_, err := quash.Open(ctx, c)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "clock is not known") {
			t.Errorf("mute node: got %v, want the deadline and the reason", err)
		}
		if log := text.String(); !strings.Contains(log, "in step") || strings.Contains(log, "fresh") || strings.Contains(log, "WARN") {
			t.Errorf("mute node: want in step, never fresh, and no warning, in the log:\n%s", log)
		}
	})
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		n.skew.Store(time.Hour.Milliseconds())
		time.AfterFunc(7*time.Second, func() { n.skew.Store(0) })
		start := time.Now()
		v, _ := n.open(n.config())
		if got := time.Since(start); got != 10*time.Second {
			t.Errorf("clocks apart at first: open after %s, want the first pong after they were set, at 10 s", got)
		}
		wantAccepted(t, v, n.token(nil), "clocks set")
	})
}

// A record that was forgotten in its time must not be missed because the wall
// clock steps back to when it was needed, while no node is there to ask.
func TestAWallClockThatStepsMakesStaleWhileCutOff(t *testing.T) {
	for about, step := range map[string]time.Duration{"back": -time.Hour, "ahead": time.Hour} {
		t.Run(about, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				n := newNode(t)
				n.hello.Lease = (10 * time.Minute).Milliseconds()
				n.grant.Store(int64(10 * time.Minute))
				r := n.record(1, "sub", "u_7")
				r.Forget = uint32(time.Now().Add(time.Minute).Unix())
				v, p := n.open(n.config(), r)
				n.status.Store(-1)
				p.conn.CloseNow()
				time.Sleep(2 * time.Minute)
				if got := v.Status().Revocations; got != 0 {
					t.Errorf("after its time: got %d revocations, want 0", got)
				}
				other, revived := n.token(claims{"sub": "u_8"}), n.token(nil)
				wantAccepted(t, v, other, "cut off")
				quash.StepNode(v, -step)
				time.Sleep(2 * time.Second)
				wantError(t, v, revived, quash.ErrStale, "after the step")
				if s := v.Status(); !strings.Contains(s.Stale, "clock") {
					t.Errorf("status: got %+v, want stale by its clock", s)
				}
				quash.StepNode(v, step)
				time.Sleep(2 * time.Second)
				wantAccepted(t, v, other, "after the clock was set right")
			})
		})
	}
}

func TestASetThatIsFullMakesStale(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		c := n.config()
		c.MaxRevocations = 1
		v, p := n.open(c, n.record(1, "sub", "u_1"))
		p.records(n.record(2, "sub", "u_2"))
		<-n.peers
		wantError(t, v, n.token(nil), quash.ErrStale, "beyond its bound")
		wantError(t, v, n.token(claims{"sub": "u_1"}), quash.ErrRevoked, "beyond its bound")
		if s := v.Status(); !strings.Contains(s.Stale, "limit") || s.Position != 1 {
			t.Errorf("status: got %+v, want the reason, and position 1", s)
		}
	})
}

func TestEveryRecordIsAcknowledgedAndIdleConnectionsArePinged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config())
		for i := uint64(1); i <= 10; i++ {
			p.records(n.record(i, "sub", "x"))
		}
		synctest.Wait()
		last, pings := uint64(0), 0
		for len(p.acked) > 0 {
			last, pings = <-p.acked, pings+1
		}
		if last != 10 || pings > 11 {
			t.Errorf("got %d pings up to %d, want 11 at most, up to 10", pings, last)
		}
		time.Sleep(time.Minute)
		if got := len(p.acked); got < 11 || got > 13 {
			t.Errorf("got %d pings in an idle minute, want 12", got)
		}
		if s := v.Status(); time.Since(s.LastHeard) > 6*time.Second {
			t.Errorf("last heard %s ago, want 5 s at most", time.Since(s.LastHeard))
		}
	})
}

func TestASilentNodeIsLeft(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, _ := n.open(n.config())
		synctest.Wait()
		n.mute.Store(true)
		start := time.Now()
		<-n.peers
		if got := time.Since(start); got < 14*time.Second || got > 17*time.Second {
			t.Errorf("left after %s, want 15 s", got)
		}
		wantAccepted(t, v, n.token(nil), "the node is silent")
		// One that says nothing at all is left too.
		start = time.Now()
		<-n.peers
		if got := time.Since(start); got < 14*time.Second || got > 17*time.Second {
			t.Errorf("left after %s without hello, want 15 s", got)
		}
	})
}

func TestRecordsAreForgottenByTheSlowerClock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		r := n.record(1, "sub", "u_1")
		r.Forget = uint32(time.Now().Add(time.Minute).Unix())
		v, _ := n.open(n.config(), r)
		synctest.Wait()
		n.skew.Store((9 * time.Hour).Milliseconds())
		time.Sleep(50 * time.Second)
		if got := v.Status().Revocations; got != 1 {
			t.Errorf("before its time, the node's clock ahead: got %d revocations, want 1", got)
		}
		n.skew.Store(-(5 * time.Second).Milliseconds())
		time.Sleep(14 * time.Second)
		if got := v.Status().Revocations; got != 1 {
			t.Errorf("by the node's clock before its time: got %d revocations, want 1", got)
		}
		time.Sleep(10 * time.Second)
		if got := v.Status().Revocations; got != 0 {
			t.Errorf("after its time: got %d revocations, want 0", got)
		}
	})
}

func TestCloseSaysGoodbyeAndEndsAcceptance(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config())
		token := n.token(nil)
		wantAccepted(t, v, token, "open")
		if err := v.Close(t.Context()); err != nil {
			t.Errorf("close: %v", err)
		}
		for range p.acked { // closed when the connection has ended
		}
		wantError(t, v, token, quash.ErrStale, "closed")
		if s := v.Status(); s.Connected || s.Stale == "" {
			t.Errorf("status: got %+v, want neither connected nor fresh", s)
		}
		if err := v.Close(t.Context()); err != nil {
			t.Errorf("close again: %v", err)
		}
	})
}

func TestCloseDoesNotWaitForeverForTheNode(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, p := n.open(n.config())
		synctest.Wait()
		p.stuck.Store(true)
		p.records(n.record(1, "sub", "u_1")) // whose acknowledgement is never answered
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if err := v.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("got %v after %s, want the deadline after 1 s", err, time.Since(start))
		}
		close(p.free)
	})
}
