package revlog_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"go.uber.org/goleak"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revlog"
	"github.com/quashdev/quash/internal/revset"
	"github.com/quashdev/quash/internal/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testIssuer = "https://issuer.example"

var feedURL = &url.URL{Scheme: "ws", Host: "node.example", Path: "/v1/feed"}

// world is a store and, in front of it, one node at a time.
type world struct {
	t       testing.TB
	config  revlog.Config
	store   *sqlite.Store
	source  revlog.Source
	commits []issuer.Commit
	mu      sync.Mutex
	good    func() bool // whether a key is still good; nil: it is

	log      *revlog.Log
	listener listener
	halt     func()
}

func newWorld(t testing.TB, config revlog.Config) *world {
	t.Helper()
	config.Issuer = testIssuer
	config.Own = "own"
	store, err := sqlite.Open(t.Context(), sqlite.Config{Path: ":memory:"})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, config: config, store: store, source: revlog.FromStore(store, nil)}
	w.update(func(tx issuer.Tx) error { return tx.SetMaxLifetime(5 * time.Minute) })
	w.start(newMemoryListener())
	return w
}

// listener can be dialled.
type listener interface {
	net.Listener
	dial() (net.Conn, error)
}

// start runs a new node.
func (w *world) start(l listener) {
	ctx, cancel := context.WithCancel(context.Background())
	log := revlog.New(w.config, w.source)
	handler := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		log.ServeFeed(rw, r, r.Header.Get("Test-Key"), w.good)
	})
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	var running sync.WaitGroup
	running.Go(func() {
		if err := log.Run(ctx); err != nil {
			w.t.Error(err)
		}
	})
	running.Go(func() { _ = server.Serve(l) })
	<-log.Ready()
	w.log, w.listener = log, l
	w.halt = sync.OnceFunc(func() {
		cancel()
		_ = server.Close()
		running.Wait()
	})
}

func (w *world) restart() {
	w.halt()
	w.start(newMemoryListener())
}

func (w *world) close() {
	w.halt()
	if err := w.store.Close(); err != nil {
		w.t.Error(err)
	}
}

func (w *world) update(fn func(issuer.Tx) error) issuer.Commit {
	w.t.Helper()
	c, err := w.store.Update(w.t.Context(), fn)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// revoke appends n revocations of a claim in one transaction.
func (w *world) revoke(claim string, n int) issuer.Commit {
	w.t.Helper()
	c := w.update(func(tx issuer.Tx) error {
		for i := range n {
			err := tx.AppendRevocation(issuer.Revocation{
				Issuer: testIssuer, Claim: claim, Value: fmt.Sprint(tx.Now().UnixNano(), i), Time: tx.Now(), Event: "revoked", Actor: "test",
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	w.mu.Lock()
	w.commits = append(w.commits, c)
	w.mu.Unlock()
	return c
}

// truth returns the whole log.
func (w *world) truth() (log issuer.Log, history []issuer.Revocation) {
	w.t.Helper()
	err := w.store.View(context.Background(), func(r issuer.Reader) (err error) {
		if log, err = r.Log(); err != nil {
			return err
		}
		history, err = r.History(0, 1<<20)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return log, history
}

// event is something that a verifier saw.
type event struct {
	connection int
	kind       feed.Kind
	presented  bookmark // of a hello
	hello      feed.Hello
	records    []revset.Record
	mark       feed.Mark // of records, mark and pong
	grant      time.Duration
	names      []string
	keys       string
	bye        feed.Bye
}

// bookmark is what a verifier presents.
type bookmark struct {
	log   string
	epoch uint64
	feed.Mark
}

// recorder is a verifier that speaks the bare feed, acknowledges what it gets,
// and remembers everything.
type recorder struct {
	name, key string

	mu          sync.Mutex
	at          bookmark
	events      []event
	connections int

	gate chan struct{} // nothing is read before it is closed; nil: open

	conn net.Conn
	done sync.WaitGroup
}

func newRecorder(name string) *recorder { return &recorder{name: name, key: "key"} }

func (v *recorder) header() http.Header {
	v.mu.Lock()
	defer v.mu.Unlock()
	h := http.Header{}
	h.Set("Test-Key", v.key)
	h.Set(feed.HeaderProcess, "process-"+v.name)
	h.Set(feed.HeaderName, v.name)
	if v.at.log != "" {
		h.Set(feed.HeaderLog, v.at.log)
		h.Set(feed.HeaderEpoch, strconv.FormatUint(v.at.epoch, 10))
		h.Set(feed.HeaderPosition, strconv.FormatUint(v.at.Position, 10))
		h.Set(feed.HeaderDigest, v.at.Digest.String())
	}
	return h
}

// dial opens a connection and leaves it to the caller.
func (v *recorder) dial(w *world) (net.Conn, io.Reader, error) {
	conn, err := w.listener.dial()
	if err != nil {
		return nil, nil, err
	}
	dialer := ws.Dialer{Protocols: []string{feed.Subprotocol}, Header: ws.HandshakeHeaderHTTP(v.header())}
	br, _, err := dialer.Upgrade(conn, feedURL)
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	if br == nil {
		br = bufio.NewReader(conn)
	}
	return conn, br, nil
}

// connect opens a connection and follows the feed until it ends.
func (v *recorder) connect(w *world) {
	w.t.Helper()
	conn, r, err := v.dial(w)
	if err != nil {
		w.t.Fatal(err)
	}
	v.conn = conn
	v.connections++
	wake := make(chan struct{}, 1)
	over := make(chan struct{})
	v.done.Go(func() {
		defer close(over)
		defer conn.Close()
		for v.take(r, wake) == nil {
		}
	})
	v.done.Go(func() { v.ping(conn, wake, over) })
}

// disconnect closes the connection without a word.
func (v *recorder) disconnect() {
	_ = v.conn.Close()
	v.done.Wait()
}

// stall has the verifier read nothing, but for what it waits for already,
// until the function returned is called.
func (v *recorder) stall() (resume func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	gate := make(chan struct{})
	v.gate = gate
	return func() {
		close(gate)
		v.mu.Lock()
		defer v.mu.Unlock()
		v.gate = nil
	}
}

var errOver = errors.New("over")

func (v *recorder) take(r io.Reader, wake chan<- struct{}) error {
	v.mu.Lock()
	gate := v.gate
	v.mu.Unlock()
	if gate != nil {
		<-gate
	}
	frame, err := readFrame(r)
	if err != nil {
		return err
	}
	if frame.Header.OpCode != ws.OpBinary {
		return errOver
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	e, err := decode(frame.Payload)
	if err != nil {
		return err
	}
	e.connection = v.connections
	switch e.kind {
	case feed.KindHello:
		e.presented = v.at
		v.at.log, v.at.epoch = e.hello.Log, e.hello.Epoch
	case feed.KindRecords, feed.KindMark:
		v.at.Mark = e.mark
	}
	v.events = append(v.events, e)
	if e.kind == feed.KindRecords || e.kind == feed.KindMark || e.kind == feed.KindHello && e.hello.Resumes {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	return nil
}

func readFrame(r io.Reader) (f ws.Frame, err error) {
	if f.Header, err = ws.ReadHeader(r); err != nil {
		return f, err
	}
	if f.Header.Masked || f.Header.Length > feed.MaxMessage {
		return f, fmt.Errorf("a node must not send header %+v", f.Header)
	}
	f.Payload = make([]byte, f.Header.Length)
	_, err = io.ReadFull(r, f.Payload)
	return f, err
}

func decode(payload []byte) (e event, err error) {
	kind, body, err := feed.Split(payload)
	if err != nil {
		return e, err
	}
	e.kind = kind
	switch kind {
	case feed.KindHello:
		err = json.Unmarshal(body, &e.hello)
	case feed.KindClaims:
		err = json.Unmarshal(body, &e.names)
	case feed.KindKeys:
		e.keys = string(body)
	case feed.KindRecords:
		e.mark, e.records, err = feed.DecodeRecords(nil, body)
	case feed.KindSnapshot:
		e.records, err = feed.DecodeSnapshot(nil, body)
	case feed.KindMark:
		e.mark, err = feed.DecodeMark(body)
	case feed.KindPong:
		var p feed.Pong
		p, err = feed.DecodePong(body)
		e.mark, e.grant = p.Mark, p.Grant
	case feed.KindBye:
		err = json.Unmarshal(body, &e.bye)
	}
	return e, err
}

func (v *recorder) ping(conn net.Conn, wake, over <-chan struct{}) {
	for {
		select {
		case <-over:
			return
		case <-wake:
		}
		if sendPing(conn, v.position()) != nil {
			return
		}
	}
}

func sendPing(conn net.Conn, applied uint64) error {
	return sendFrame(conn, ws.NewBinaryFrame(feed.AppendPing(nil, feed.Ping{Applied: applied})))
}

func sendFrame(conn net.Conn, f ws.Frame) error {
	_, err := conn.Write(ws.MustCompileFrame(ws.MaskFrame(f)))
	return err
}

func (v *recorder) position() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.at.Position
}

func (v *recorder) history() []event {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.events
}

// last returns the newest event of a kind.
func (v *recorder) last(t testing.TB, kind feed.Kind) event {
	t.Helper()
	events := v.history()
	for i := len(events) - 1; i >= 0; i-- {
		if events[i].kind == kind {
			return events[i]
		}
	}
	t.Fatalf("verifier %s saw no message of kind %d", v.name, kind)
	return event{}
}

// memoryListener accepts pipes: nothing is buffered between the ends, and
// blocking on it is visible to synctest.
type memoryListener struct {
	conns chan net.Conn
	over  chan struct{}
	once  sync.Once
}

func newMemoryListener() *memoryListener {
	return &memoryListener{conns: make(chan net.Conn), over: make(chan struct{})}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.over:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() { close(l.over) })
	return nil
}

func (l *memoryListener) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "pipe"} }

func (l *memoryListener) dial() (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.over:
		return nil, net.ErrClosed
	}
}
