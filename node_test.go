package quash_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/jws"
	"github.com/quashdev/quash/internal/revset"
)

const (
	testIssuer   = "https://issuer.example"
	testAudience = "orders"
	testKey      = "verifier-key"
)

// node speaks the wire format of a node, over connections in memory. A test
// says what it sends, right or wrong; it answers pings by itself.
type node struct {
	t      testing.TB
	key    *jws.PrivateKey
	hello  feed.Hello
	skew   atomic.Int64 // milliseconds that its clock is ahead
	mute   atomic.Bool  // it answers no pings
	grant  atomic.Int64 // what its pongs grant, as a duration
	delay  atomic.Int64 // of its pongs, as a duration
	hang   atomic.Bool  // connecting takes for ever
	slow   atomic.Int64 // how long it takes to answer a request, as a duration
	status atomic.Int64 // answer to every request, unless it is 0
	dials  atomic.Int64
	asked  atomic.Int64 // requests

	connections chan net.Conn
	peers       chan *peer
	server      *http.Server
}

func newNode(t testing.TB) *node {
	key := must(jws.Generate(jws.Ed25519))
	n := &node{t: t, key: key, connections: make(chan net.Conn), peers: make(chan *peer, 16)}
	n.hello = feed.Hello{
		Log: "log-1", Epoch: 1, Issuer: testIssuer, HashSecret: make([]byte, 32), MaxLifetime: 300, Lease: 30_000,
		Claims: []string{"jti", "kid", "sid", "sub"}, Keys: keySet(key),
	}
	n.grant.Store(int64(30 * time.Second))
	n.server = &http.Server{Handler: n}
	go n.server.Serve(n)
	t.Cleanup(func() { n.server.Close() })
	return n
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func keySet(keys ...*jws.PrivateKey) json.RawMessage {
	public := make([]*jws.PublicKey, len(keys))
	for i, k := range keys {
		public[i] = k.Public()
	}
	return must(json.Marshal(must(jws.NewKeySet(public...))))
}

func (n *node) Accept() (net.Conn, error) {
	c, ok := <-n.connections
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (n *node) Close() error   { close(n.connections); return nil }
func (n *node) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }

func (n *node) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	n.dials.Add(1)
	if n.status.Load() < 0 {
		return nil, errors.New("connection refused")
	}
	if n.hang.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	ours, theirs := net.Pipe()
	select {
	case n.connections <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.asked.Add(1)
	time.Sleep(time.Duration(n.slow.Load()))
	if status := n.status.Load(); status != 0 {
		w.Header().Set("Location", "http://elsewhere.example/v1/feed")
		w.WriteHeader(int(status))
		return
	}
	if r.URL.Path != "/v1/feed" || r.Header.Get("Authorization") != "Bearer "+testKey {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{feed.Subprotocol}})
	if err != nil {
		n.t.Errorf("accept: %v", err)
		return
	}
	conn.SetReadLimit(feed.MaxPing)
	p := &peer{
		node: n, conn: conn, header: r.Header.Clone(), acked: make(chan uint64, 1<<16), order: make(chan struct{}, 1),
		free: make(chan struct{}), goodbye: make(chan struct{}),
	}
	n.peers <- p
	p.answer()
}

// config is what a verifier of n needs.
func (n *node) config() quash.Config {
	return quash.Config{URL: "http://node.example", Key: testKey, Audience: testAudience, Name: "test", Dial: n.dial}
}

// open returns a verifier that has the records, and its connection.
func (n *node) open(c quash.Config, records ...revset.Record) (*quash.Verifier, *peer) {
	n.t.Helper()
	opened := make(chan *quash.Verifier, 1)
	go func() {
		v, err := quash.Open(n.t.Context(), c)
		if err != nil {
			n.t.Errorf("open: %v", err)
		}
		opened <- v
	}()
	p := <-n.peers
	p.sendHello(false)
	p.snapshot(records...)
	v := <-opened
	if v == nil {
		n.t.FailNow()
	}
	n.t.Cleanup(func() { v.Close(context.Background()) })
	return v, p
}

// peer is a verifier's connection as the node sees it.
type peer struct {
	*node
	conn   *websocket.Conn
	header http.Header
	acked  chan uint64               // Applied of each ping
	ping   atomic.Pointer[feed.Ping] // the latest
	stuck  atomic.Bool               // it reads no more, until
	free   chan struct{}             // is closed

	goodbye chan struct{} // closed when the verifier has said it

	order chan struct{} // held while sending what moves or tells the mark
	mark  feed.Mark     // of what was sent
}

// answer answers pings until the connection ends.
func (p *peer) answer() {
	for {
		_, message, err := p.conn.Read(context.Background())
		if err != nil {
			close(p.acked)
			return
		}
		if p.stuck.Load() {
			<-p.free
		}
		kind, body, _ := feed.Split(message)
		if kind == feed.KindGoodbye {
			close(p.goodbye)
			continue
		}
		ping, err := feed.DecodePing(body)
		if kind != feed.KindPing || err != nil {
			p.t.Errorf("the verifier sent kind %d: %v", kind, err)
		}
		select {
		case <-p.goodbye:
			p.t.Error("the verifier pings after its goodbye")
		default:
		}
		p.ping.Store(&ping)
		p.acked <- ping.Applied
		time.Sleep(time.Duration(p.delay.Load()))
		p.order <- struct{}{}
		if ping.Applied > p.mark.Position {
			p.t.Errorf("ping acknowledges %d, above %d, which was sent", ping.Applied, p.mark.Position)
		}
		pong := feed.Pong{Mark: p.mark, Stamp: ping.Stamp, Clock: time.Now().UnixMilli() + p.skew.Load(), Grant: time.Duration(p.grant.Load())}
		if !p.mute.Load() {
			p.send(feed.AppendPong(nil, pong))
		}
		<-p.order
	}
}

// send sends one message. A connection that has ended takes none.
func (p *peer) send(message []byte) {
	_ = p.conn.Write(context.Background(), websocket.MessageBinary, message)
}

func (p *peer) sendJSON(k feed.Kind, v any) { p.send(must(feed.AppendJSON(nil, k, v))) }

func (p *peer) sendHello(resumes bool) {
	h := p.hello
	h.Resumes = resumes
	if resumes {
		var position uint64
		fmt.Sscan(p.header.Get(feed.HeaderPosition), &position)
		p.mark = markAt(position)
	}
	p.sendJSON(feed.KindHello, h)
}

// markAt is the mark of a position in the log that the tests pretend to have.
func markAt(position uint64) feed.Mark {
	return feed.Mark{Position: position, Digest: feed.Digest{0: byte(position), 1: byte(position >> 8)}}
}

// snapshot sends the records and their mark.
func (p *peer) snapshot(records ...revset.Record) {
	last := uint64(0)
	for _, r := range records {
		last = max(last, r.Position)
	}
	if len(records) > 0 {
		p.send(feed.AppendSnapshot(nil, records))
	}
	p.sendMark(last)
}

func (p *peer) sendMark(position uint64) {
	p.order <- struct{}{}
	p.mark = markAt(position)
	p.send(feed.AppendMark(nil, p.mark))
	<-p.order
}

func (p *peer) records(records ...revset.Record) {
	p.order <- struct{}{}
	p.mark = markAt(records[len(records)-1].Position)
	p.send(feed.AppendRecords(nil, p.mark, records))
	<-p.order
}

// record is the record at a position that ends what the claim's value names
// and was issued before.
func (n *node) record(position uint64, claim, value string) revset.Record {
	return revset.Record{
		Position: position, Key: revset.KeyOf(n.hello.HashSecret, testIssuer, claim, value),
		Before: position, Forget: revset.NeverForget,
	}
}

func (n *node) forever(position uint64, claim, value string) revset.Record {
	r := n.record(position, claim, value)
	r.Before = revset.Forever
	return r
}

type claims map[string]any

// token signs a token that is good unless more says otherwise.
func (n *node) token(more claims) string { return n.tokenBy(n.key, more) }

func (n *node) tokenBy(key *jws.PrivateKey, more claims) string {
	now := time.Now().Unix()
	c := claims{
		"iss": testIssuer, "sub": "u_7", "aud": testAudience, "client_id": "web", "iat": now, "exp": now + 300,
		"jti": "t_1", "sid": "s_81", "rev": 0,
	}
	for name, value := range more {
		if c[name] = value; value == nil {
			delete(c, name)
		}
	}
	return must(key.Sign("at+jwt", must(json.Marshal(c))))
}

// bubble runs f where time stands still unless everything waits for it.
func bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t) })
}

func wantAccepted(t testing.TB, v *quash.Verifier, token, when string) {
	t.Helper()
	if _, err := v.Verify(token); err != nil {
		t.Errorf("%s: got %v, want it accepted", when, err)
	}
}

func wantError(t testing.TB, v *quash.Verifier, token string, want error, when string) {
	t.Helper()
	if c, err := v.Verify(token); !errors.Is(err, want) || c != nil {
		t.Errorf("%s: got %v, %v, want %v", when, c, err, want)
	}
}
