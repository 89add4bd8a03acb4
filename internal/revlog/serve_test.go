package revlog_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/jws"
	"github.com/quashdev/quash/internal/lease"
	"github.com/quashdev/quash/internal/revlog"
	"github.com/quashdev/quash/internal/revset"
)

// run plays a test in a bubble of its own.
func run(t *testing.T, config revlog.Config, play func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config)
		defer w.close()
		play(t, w)
	})
}

func TestHandshakeRefused(t *testing.T) {
	digest := feed.Digest{}.String()
	resume := map[string]string{feed.HeaderLog: "log", feed.HeaderEpoch: "1", feed.HeaderPosition: "1", feed.HeaderDigest: digest}
	with := func(name, value string) map[string]string {
		h := map[string]string{name: value}
		for k, v := range resume {
			if k != name {
				h[k] = v
			}
		}
		return h
	}
	tests := []struct {
		name   string
		change map[string]string // headers that differ; empty: absent
		status int
		header string // that the answer must have
		value  string
	}{
		{"no upgrade", map[string]string{"Upgrade": ""}, 426, "Upgrade", "websocket"},
		{"another WebSocket version", map[string]string{"Sec-WebSocket-Version": "12"}, 426, "Sec-WebSocket-Version", "13"},
		{"no subprotocol", map[string]string{"Sec-WebSocket-Protocol": ""}, 400, "Sec-WebSocket-Protocol", feed.Subprotocol},
		{"unknown version of the feed", map[string]string{"Sec-WebSocket-Protocol": "quash.feed.v9"}, 400, "Sec-WebSocket-Protocol", feed.Subprotocol},
		{"no process", map[string]string{feed.HeaderProcess: ""}, 400, "", ""},
		{"no name", map[string]string{feed.HeaderName: ""}, 400, "", ""},
		{"a name too long", map[string]string{feed.HeaderName: strings.Repeat("n", 65)}, 400, "", ""},
		{"a name not visible", map[string]string{feed.HeaderName: "a b"}, 400, "", ""},
		{"a log without a position", map[string]string{feed.HeaderLog: "log"}, 400, "", ""},
		{"a position that is no number", with(feed.HeaderPosition, "-1"), 400, "", ""},
		{"a position too large", with(feed.HeaderPosition, "9007199254740992"), 400, "", ""},
		{"a digest too short", with(feed.HeaderDigest, "00"), 400, "", ""},
		{"a digest not hexadecimal", with(feed.HeaderDigest, strings.Repeat("z", 64)), 400, "", ""},
	}
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		for _, tt := range tests {
			t.Logf("%s", tt.name)
			r := httptest.NewRequest(http.MethodGet, "/v1/feed", nil)
			r.Header = http.Header{
				"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Version": {"13"},
				"Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="}, "Sec-Websocket-Protocol": {feed.Subprotocol},
				feed.HeaderProcess: {"process"}, feed.HeaderName: {"name"},
			}
			for name, value := range tt.change {
				if r.Header.Del(name); value != "" {
					r.Header.Set(name, value)
				}
			}
			answer := httptest.NewRecorder()
			w.log.ServeFeed(answer, r, "key", nil)
			checkProblem(t, answer, tt.status)
			if got := answer.Header().Get(tt.header); tt.header != "" && got != tt.value {
				t.Errorf("header %s = %q, want %q", tt.header, got, tt.value)
			}
		}
	})
}

func checkProblem(t *testing.T, answer *httptest.ResponseRecorder, status int) {
	t.Helper()
	var problem struct {
		Type, Title, Detail string
		Status              int
	}
	if err := json.Unmarshal(answer.Body.Bytes(), &problem); err != nil {
		t.Fatal(err)
	}
	if answer.Code != status || problem.Status != status || !strings.HasPrefix(problem.Type, "urn:quash:problem:") || problem.Detail == "" {
		t.Errorf("answer = %d %+v, want a problem with status %d", answer.Code, problem, status)
	}
	if got, want := answer.Header().Get("Content-Type"), "application/problem+json"; got != want {
		t.Errorf("Content-Type = %q, want %q", got, want)
	}
}

// What a verifier may not send ends its connection with a bye that says so,
// and leaves the others alone.
func TestProtocolBroken(t *testing.T) {
	ping := feed.AppendPing(nil, feed.Ping{})
	masked := func(f ws.Frame) []byte { return ws.MustCompileFrame(ws.MaskFrame(f)) }
	tests := []struct {
		name string
		send []byte
	}{
		{"empty message", masked(ws.NewBinaryFrame(nil))},
		{"unknown kind", masked(ws.NewBinaryFrame([]byte{99, 1, 2}))},
		{"kind of the node's", masked(ws.NewBinaryFrame(feed.AppendMark(nil, feed.Mark{})))},
		{"short ping", masked(ws.NewBinaryFrame(ping[:16]))},
		{"long ping", masked(ws.NewBinaryFrame(append(ping, 0)))},
		{"ping above what was sent", masked(ws.NewBinaryFrame(feed.AppendPing(nil, feed.Ping{Applied: 4})))},
		{"oversize message", masked(ws.NewBinaryFrame(make([]byte, feed.MaxPing+1)))},
		{"enormous message", []byte{0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}},
		{"length with the highest bit", []byte{0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}},
		{"oversize in parts", append(
			masked(ws.NewFrame(ws.OpBinary, false, make([]byte, feed.MaxPing))), masked(ws.NewFrame(ws.OpContinuation, true, make([]byte, 1)))...)},
		{"unmasked", ws.MustCompileFrame(ws.NewBinaryFrame(ping))},
		{"text", masked(ws.NewTextFrame(ping))},
		{"reserved bits", masked(ws.Frame{Header: ws.Header{Fin: true, Rsv: 4, OpCode: ws.OpBinary, Length: 17}, Payload: ping})},
		{"reserved opcode", masked(ws.NewFrame(0x3, true, ping))},
		{"stray continuation", masked(ws.NewFrame(ws.OpContinuation, true, ping))},
		{"control in parts", masked(ws.NewFrame(ws.OpPing, false, nil))},
		{"oversize control", masked(ws.NewFrame(ws.OpPing, true, make([]byte, 126)))},
	}
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		other := connected(w, 1)[0]
		w.revoke("sid", 3)
		for _, tt := range tests {
			v := newRecorder("breaker")
			v.connect(w)
			synctest.Wait()
			_, _ = v.conn.Write(tt.send) // may end early: the bye can come before all is sent
			v.done.Wait()
			if got := v.last(t, feed.KindBye).bye.Code; got != feed.ByeProtocol {
				t.Errorf("%s: bye = %q, want %q", tt.name, got, feed.ByeProtocol)
			}
		}
		c := w.revoke("sid", 1)
		synctest.Wait()
		if got := other.position(); got != c.Last {
			t.Errorf("position of another verifier = %d, want %d", got, c.Last)
		}
	})
}

// A ping may come in parts, with control frames between, and one that the
// WebSocket itself defines is answered too.
func TestPingAnswered(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		conn, r, err := newRecorder("v").dial(w)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for range 2 { // hello and mark
			nextFrame(t, r)
		}
		ping := feed.AppendPing(nil, feed.Ping{Stamp: 7})
		go func() {
			_ = sendFrame(conn, ws.NewFrame(ws.OpBinary, false, ping[:5]))
			_ = sendFrame(conn, ws.NewPingFrame([]byte("hello")))
			_ = sendFrame(conn, ws.NewFrame(ws.OpContinuation, true, ping[5:]))
		}()
		if f := nextFrame(t, r); f.Header.OpCode != ws.OpPong || string(f.Payload) != "hello" {
			t.Errorf("answer to a WebSocket ping = %v %q, want its pong", f.Header.OpCode, f.Payload)
		}
		_, body, _ := feed.Split(nextFrame(t, r).Payload)
		pong, err := feed.DecodePong(body)
		if want := (feed.Pong{Stamp: 7, Clock: time.Now().UnixMilli(), Grant: time.Duration(lease.Default)}); err != nil || pong != want {
			t.Errorf("pong = %+v, %v, want %+v", pong, err, want)
		}
		go func() { _ = sendFrame(conn, ws.NewCloseFrame(nil)) }()
		if f := nextFrame(t, r); f.Header.OpCode != ws.OpClose {
			t.Errorf("answer to close = %v, want close", f.Header.OpCode)
		}
	})
}

func nextFrame(t *testing.T, r io.Reader) ws.Frame {
	t.Helper()
	f, err := readFrame(r)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// A claim name and a key reach verifiers before the records that need them;
// a key that was withdrawn goes with the record that revokes it.
func TestSettingsComeFirst(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		v := connected(w, 1)[0]
		key, published := newKey(t)
		w.update(func(tx issuer.Tx) error { return tx.PutSigningKey(key) })
		synctest.Wait()
		w.revoke("tenant", 1)
		synctest.Wait()
		w.update(func(tx issuer.Tx) error {
			key.Withdrawn = true
			if err := tx.PutSigningKey(key); err != nil {
				return err
			}
			return tx.AppendRevocation(issuer.Revocation{Issuer: testIssuer, Claim: "kid", Value: key.ID, Time: tx.Now(), Event: "revoked", Actor: "test", Keep: true})
		})
		synctest.Wait()
		var got []string
		for _, e := range v.history() {
			switch e.kind {
			case feed.KindClaims:
				got = append(got, "claims "+strings.Join(e.names, " "))
			case feed.KindKeys:
				got = append(got, "keys "+e.keys)
			case feed.KindRecords:
				got = append(got, "records")
			}
		}
		want := []string{"keys " + published, "claims tenant", "records", "claims kid tenant", `keys {"keys":[]}`, "records"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the stream (-want +got):\n%s", diff)
		}
	})
}

// newKey returns a signing key, and the set that has only it.
func newKey(t *testing.T) (k issuer.SigningKey, published string) {
	t.Helper()
	private, err := jws.Generate(jws.ES256)
	if err != nil {
		t.Fatal(err)
	}
	public, err := private.Public().MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	k = issuer.SigningKey{ID: private.Public().ID(), Algorithm: "ES256", Public: public, Created: time.Now()}
	return k, `{"keys":[` + string(public) + `]}`
}

// A retired key is published as long as a token that it signed can live, and
// as the margin for clocks.
func TestRetiredKeyPublished(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		key, want := newKey(t)
		key.Retired = time.Now()
		w.update(func(tx issuer.Tx) error { return tx.PutSigningKey(key) })
		synctest.Wait()
		v := connected(w, 1)[0]
		if got := string(v.last(t, feed.KindHello).hello.Keys); got != want {
			t.Errorf("keys = %s, want %s", got, want)
		}
		keepAlive := time.NewTicker(5 * time.Second)
		defer keepAlive.Stop()
		for start := time.Now(); time.Since(start) < 6*time.Minute-5*time.Second; <-keepAlive.C {
			if err := sendPing(v.conn, v.position()); err != nil {
				t.Fatal(err)
			}
		}
		for _, e := range v.history() {
			if e.kind == feed.KindKeys {
				t.Fatalf("the key went before its last token: %s", e.keys)
			}
		}
		time.Sleep(10 * time.Second)
		if got, want := v.last(t, feed.KindKeys).keys, `{"keys":[]}`; got != want {
			t.Errorf("keys = %s, want %s", got, want)
		}
	})
}

// What a verifier has applied of another log says nothing about this one, and
// to claim it before the mark breaks the protocol.
func TestP4ForeignPositionNotCounted(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		w.revoke("sid", 5)
		synctest.Wait()
		v := newRecorder("v")
		v.at = bookmark{log: "another", epoch: 1, Mark: feed.Mark{Position: 5}}
		conn, r, err := v.dial(w)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		go func() { _ = sendPing(conn, 5) }()
		synctest.Wait() // the node waits for hello to be read
		if vs := w.log.Verifiers(); len(vs) != 1 || vs[0].Applied != 0 || vs[0].Lease != 0 {
			t.Errorf("verifiers = %+v, want one that has applied nothing and may rely on nothing", vs)
		}
		for {
			e, err := decode(nextFrame(t, r).Payload)
			if err != nil {
				t.Fatal(err)
			}
			if e.kind == feed.KindBye {
				if e.bye.Code != feed.ByeProtocol {
					t.Errorf("bye = %q, want %q", e.bye.Code, feed.ByeProtocol)
				}
				return
			}
		}
	})
}

func TestNewerConnectionReplaces(t *testing.T) {
	run(t, revlog.Config{ConnectionsPerKey: 1}, func(t *testing.T, w *world) {
		v := newRecorder("v")
		v.connect(w)
		synctest.Wait()
		newer := newRecorder("v")
		newer.connect(w)
		v.done.Wait()
		if got := v.last(t, feed.KindBye).bye.Code; got != feed.ByeReplaced {
			t.Errorf("bye to the older = %q, want %q", got, feed.ByeReplaced)
		}
		c := w.revoke("sid", 1)
		synctest.Wait()
		if got := newer.position(); got != c.Last {
			t.Errorf("position of the newer = %d, want %d", got, c.Last)
		}
		other := newRecorder("v") // the same process id with another key
		other.key = "another"
		other.connect(w)
		synctest.Wait()
		if got := len(w.log.Verifiers()); got != 2 {
			t.Errorf("%d verifiers, want 2: a key cannot replace another's", got)
		}
	})
}

func TestConnectionsPerKeyBounded(t *testing.T) {
	run(t, revlog.Config{ConnectionsPerKey: 2}, func(t *testing.T, w *world) {
		vs := connected(w, 2)
		_, _, err := newRecorder("third").dial(w)
		if status := ws.StatusError(0); !errors.As(err, &status) || status != 503 {
			t.Errorf("third connection: %v, want status 503", err)
		}
		other := newRecorder("third")
		other.key = "another"
		other.connect(w)
		vs[0].disconnect()
		synctest.Wait()
		newRecorder("fourth").connect(w)
	})
}

func TestKeyWithdrawn(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		v := connected(w, 1)[0]
		other := newRecorder("other")
		other.key = "another"
		other.connect(w)
		synctest.Wait()
		w.log.KeyWithdrawn("key")
		v.done.Wait()
		if got := v.last(t, feed.KindBye).bye.Code; got != feed.ByeKey {
			t.Errorf("bye = %q, want %q", got, feed.ByeKey)
		}
		synctest.Wait()
		for _, v := range w.log.Verifiers() {
			if v.Connected != (v.Name == "other") {
				t.Errorf("verifier %s: connected = %v", v.Name, v.Connected)
			}
		}
	})
}

// A connection whose key was authenticated, and then withdrawn or replaced
// before the connection counted, is refused.
func TestKeyEndsWhileItConnects(t *testing.T) {
	run(t, revlog.Config{ConnectionsPerKey: 1}, func(t *testing.T, w *world) {
		w.good = func() bool { return false }
		_, _, err := newRecorder("v").dial(w)
		if status := ws.StatusError(0); !errors.As(err, &status) || status != 503 {
			t.Errorf("with a key that ended: %v, want status 503", err)
		}
		synctest.Wait()
		if vs := w.log.Verifiers(); len(vs) != 0 {
			t.Errorf("verifiers = %+v, want none", vs)
		}
		// Whatever happens to the key from then on finds the connection.
		w.good = func() bool {
			w.log.KeyReplaced("key", time.Now())
			return true
		}
		v := newRecorder("v")
		v.connect(w)
		v.done.Wait()
		if got := v.last(t, feed.KindBye).bye.Code; got != feed.ByeKey {
			t.Errorf("bye = %q, want %q", got, feed.ByeKey)
		}
	})
}

// A new secret ends the connections of its key at once, and again when the
// old one is over: nobody stays on by a secret that is no good.
func TestKeyReplaced(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		v := connected(w, 1)[0]
		ended := func(when string) {
			t.Helper()
			v.done.Wait()
			if got := v.last(t, feed.KindBye).bye.Code; got != feed.ByeKey {
				t.Errorf("%s: bye = %q, want %q", when, got, feed.ByeKey)
			}
		}
		began := time.Now()
		w.log.KeyReplaced("key", began.Add(10*time.Second))
		ended("with the replacement")
		v.connect(w)
		ended("with the end of the overlap")
		if took := time.Since(began); took < 10*time.Second || took > 11*time.Second {
			t.Errorf("the overlap of 10s ended after %v", took)
		}
		v.connect(w)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if n := len(w.log.Verifiers()); n != 1 {
			t.Errorf("%d verifiers afterwards, want 1", n)
		}
	})
}

// A large snapshot is encoded while the log goes on: whoever joins gets all up
// to its mark, and what comes meanwhile is neither lost nor held up.
func TestLogGoesOnWhileASnapshotIsEncoded(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		w.revoke("sid", 10_000)
		follower := connected(w, 1)[0]
		var joining sync.WaitGroup
		for range 3 {
			joining.Go(func() {
				for range 10 {
					w.log.Encode()
				}
			})
		}
		for range 200 {
			w.revoke("sid", 1)
			w.log.Live()
		}
		joining.Wait()
		late := newRecorder("late")
		late.connect(w)
		synctest.Wait()
		if got, want := follower.position(), uint64(10_200); got != want || late.position() != want {
			t.Errorf("positions = %d and %d, want %d", got, late.position(), want)
		}
	})
}

// Those who join a large log one after the other cost one encoding; where the
// ring no longer goes on from it, only what has changed since is encoded again.
func TestASnapshotIsMadeFromWhatChanged(t *testing.T) {
	run(t, revlog.Config{BufferBytes: 256}, func(t *testing.T, w *world) {
		w.revoke("sid", 10_000)
		synctest.Wait()
		before := w.log.Blocks()
		if again := w.log.Blocks(); len(before) < 8 || !slices.Equal(again, before) {
			t.Errorf("got %d blocks, the same again: %v; want 8 or more, of one encoding", len(before), slices.Equal(again, before))
		}
		for range 3 {
			w.revoke("sid", 1)
			synctest.Wait()
		}
		changed := 0
		for i, b := range w.log.Blocks() {
			if b != before[i] {
				changed++
			}
		}
		if changed < 1 || changed > 3 {
			t.Errorf("after 3 changes %d of %d blocks were encoded, want 1 to 3", changed, len(before))
		}
		late := newRecorder("late")
		late.connect(w)
		synctest.Wait()
		have := map[revset.Key]bool{}
		for _, e := range late.history() {
			for _, r := range e.records {
				have[r.Key] = true
			}
		}
		_, history := w.truth()
		for _, r := range history {
			if !have[r.Key] {
				t.Fatalf("who joined late lacks record %d of %d", r.Position, len(history))
			}
		}
		if late.position() != 10_003 {
			t.Errorf("position = %d, want 10003", late.position())
		}
	})
}

// A verifier that is silent is given up, one that does not read too.
func TestDeadConnectionsEnd(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		connected(w, 1)
		time.Sleep(29 * time.Second)
		if got := w.log.Stats().Connections; got != 1 {
			t.Errorf("%d connections after 29 s of silence, want 1", got)
		}
		time.Sleep(2 * time.Second)
		if got := w.log.Stats().Connections; got != 0 {
			t.Errorf("%d connections after 31 s of silence, want 0", got)
		}
		v := connected(w, 1)[0]
		resume := v.stall()
		w.revoke("sid", 1)
		synctest.Wait()
		w.revoke("sid", 1)
		time.Sleep(11 * time.Second)
		if got := w.log.Stats(); got.Connections != 0 || got.Slow != 1 {
			t.Errorf("stats = %+v, want the stalled connection gone as slow", got)
		}
		resume()
	})
}

// faulty is a source that can fail, or be exchanged.
type faulty struct {
	revlog.Source
	fail  atomic.Bool
	epoch atomic.Uint64
}

func (f *faulty) View(ctx context.Context, fn func(revlog.Reader) error) error {
	if f.fail.Load() {
		return errors.New("disk on fire")
	}
	return f.Source.View(ctx, func(r revlog.Reader) error { return fn(epochReader{r, f.epoch.Load()}) })
}

func (f *faulty) Tail(ctx context.Context, after feed.Mark, limit int) (issuer.Tail, error) {
	if f.fail.Load() {
		return issuer.Tail{}, errors.New("disk on fire")
	}
	t, err := f.Source.Tail(ctx, after, limit)
	t.Log.Epoch += f.epoch.Load()
	return t, err
}

func (f *faulty) Update(ctx context.Context, fn func(revlog.Writer) error) error {
	if f.fail.Load() {
		return errors.New("disk on fire")
	}
	return f.Source.Update(ctx, func(w revlog.Writer) error { return fn(epochWriter{w, f.epoch.Load()}) })
}

type epochWriter struct {
	revlog.Writer
	more uint64
}

func (w epochWriter) Log() (issuer.Log, error) {
	l, err := w.Writer.Log()
	l.Epoch += w.more
	return l, err
}

type epochReader struct {
	revlog.Reader
	more uint64
}

func (r epochReader) Log() (issuer.Log, error) {
	l, err := r.Reader.Log()
	l.Epoch += r.more
	return l, err
}

func TestStoreFails(t *testing.T) {
	var logged bytes.Buffer
	config := revlog.Config{Logger: slog.New(slog.NewTextHandler(&logged, nil))}
	run(t, config, func(t *testing.T, w *world) {
		source := &faulty{Source: w.source}
		w.source = source
		w.restart()
		v := connected(w, 1)[0]
		before := w.revoke("sid", 1)
		synctest.Wait()
		source.fail.Store(true)
		after := w.revoke("sid", 1)
		for range 5 {
			time.Sleep(3 * time.Second)
			if err := sendPing(v.conn, v.position()); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if w.log.Err() == nil {
			t.Error("Err: got nil while the store fails")
		}
		if got := v.last(t, feed.KindPong).mark.Position; got != before.Last {
			t.Errorf("pong speaks of %d while the store fails, want %d", got, before.Last)
		}
		late := newRecorder("late")
		late.at = bookmark{log: v.at.log, epoch: v.at.epoch, Mark: feed.Mark{Position: after.Last}}
		_, _, err := late.dial(w)
		if status := ws.StatusError(0); !errors.As(err, &status) || status != 503 {
			t.Errorf("a position that only the store knows: %v, want status 503", err)
		}
		source.fail.Store(false)
		time.Sleep(time.Second)
		synctest.Wait()
		if got := v.position(); got != after.Last {
			t.Errorf("position = %d when the store works again, want %d", got, after.Last)
		}
		if err := w.log.Err(); err != nil {
			t.Errorf("Err when the store works again: %v", err)
		}
		w.halt()
		if got := strings.Count(logged.String(), "reading the log failed;"); got != 1 {
			t.Errorf("the failure was logged %d times, want once:\n%s", got, &logged)
		}
	})
}

// A log that is not the continuation of what was read is read anew, and every
// verifier gets it as a snapshot.
func TestAnotherEpoch(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		source := &faulty{Source: w.source}
		w.source = source
		w.restart()
		v := connected(w, 1)[0]
		w.revoke("sid", 3)
		synctest.Wait()
		source.epoch.Store(1)
		v.done.Wait()
		if got := v.last(t, feed.KindBye).bye.Code; got != feed.ByeChanged {
			t.Errorf("bye = %q, want %q", got, feed.ByeChanged)
		}
		synctest.Wait()
		v.connect(w)
		w.snapshots(v, "epoch")
		c := w.revoke("sid", 1)
		synctest.Wait()
		if got := v.position(); got != c.Last {
			t.Errorf("position = %d, want %d", got, c.Last)
		}
	})
}

func TestLongestLifetimeChanged(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		v := connected(w, 1)[0]
		w.update(func(tx issuer.Tx) error { return tx.SetMaxLifetime(time.Hour) })
		v.done.Wait()
		if got := v.last(t, feed.KindBye).bye.Code; got != feed.ByeChanged {
			t.Errorf("bye = %q, want %q", got, feed.ByeChanged)
		}
		v.connect(w)
		w.resumes(v)
		if got := v.last(t, feed.KindHello).hello.MaxLifetime; got != 3600 {
			t.Errorf("longest lifetime = %d s, want 3600", got)
		}
	})
}

func TestP7NotBeforeReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := revlog.New(revlog.Config{Issuer: testIssuer}, nil)
		v := newRecorder("v")
		r := httptest.NewRequest(http.MethodGet, "/v1/feed", nil)
		r.Header = v.header()
		r.Header.Set("Upgrade", "websocket")
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Sec-WebSocket-Version", "13")
		r.Header.Set("Sec-WebSocket-Protocol", feed.Subprotocol)
		answer := httptest.NewRecorder()
		log.ServeFeed(answer, r, "key", nil)
		checkProblem(t, answer, http.StatusServiceUnavailable)
		if answer.Header().Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	})
}

// Records that are past their time leave the live set, and so the snapshots.
func TestForgets(t *testing.T) {
	run(t, revlog.Config{}, func(t *testing.T, w *world) {
		w.revoke("sid", 10)
		synctest.Wait()
		if got := w.log.Live(); got != 10 {
			t.Errorf("%d live revocations, want 10", got)
		}
		time.Sleep(6*time.Minute + 5*time.Second)
		if got := w.log.Live(); got != 0 {
			t.Errorf("%d live revocations past their time, want 0", got)
		}
		v := connected(w, 1)[0]
		if e := v.last(t, feed.KindMark); e.mark != w.log.Head() || e.mark.Position != 10 {
			t.Errorf("mark = %+v, want the head at 10", e.mark)
		}
	})
}
