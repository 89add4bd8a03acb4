package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/gobwas/ws"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/api"
	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revlog"
	"github.com/quashdev/quash/internal/sqlite"
)

const (
	password    = "correct horse battery staple"
	newPassword = "another four words entirely"
)

// world is a whole server in memory: store, issuer, log, both listeners and
// the verifier of the public one. It works in a bubble of synctest too.
type world struct {
	t        *testing.T
	store    *sqlite.Store
	source   *source
	issuer   *issuer.Issuer
	log      *revlog.Log
	api      *api.API
	halt     func()
	public   *client.Client
	verifier *quash.Verifier
	private  http.RoundTripper

	publicTransport http.RoundTripper

	spec   *spec
	logged *safeBuffer

	mu      sync.Mutex
	keys    map[string]string // API keys by what they may do
	secrets []string
}

func newWorld(t *testing.T, configure ...func(*api.Config)) *world {
	t.Helper()
	return newWorldOn(t, func(s issuer.Store) issuer.Store { return s }, configure...)
}

// newWorldOn is newWorld with something before the store.
func newWorldOn(t *testing.T, before func(issuer.Store) issuer.Store, configure ...func(*api.Config)) *world {
	t.Helper()
	w := &world{t: t, logged: &safeBuffer{}, keys: map[string]string{}}
	logger := slog.New(slog.NewJSONHandler(w.logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.store = must(sqlite.Open(context.Background(), sqlite.Config{Path: ":memory:", Logger: logger}))(t)
	t.Cleanup(func() { w.store.Close() })
	store := before(w.store)
	w.source = &source{Source: revlog.FromStore(store, func(tx issuer.Tx) (bool, error) { return w.issuer.Drain(tx) })}
	w.issuer = must(issuer.New(issuer.Config{
		Issuer: "https://quash.test", Secret: bytes.Repeat([]byte{7}, 32), Live: func() int { return w.log.Live() }, Logger: logger,
	}, store))(t)
	if err := w.issuer.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.start(configure...)
	t.Cleanup(func() { w.halt() })
	t.Cleanup(w.searchLog)
	w.open()
	return w
}

// start runs a node and its API.
func (w *world) start(configure ...func(*api.Config)) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	logger := slog.New(slog.NewJSONHandler(w.logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	log := revlog.New(revlog.Config{Issuer: "https://quash.test", Logger: logger}, w.source)
	done := make(chan struct{})
	go func() {
		defer close(done)
		log.Run(ctx)
	}()
	w.halt = func() { cancel(); <-done }
	<-log.Ready()
	w.log = log
	c := api.Config{Issuer: w.issuer, Log: log, Logger: logger}
	for _, f := range configure {
		f(&c)
	}
	w.api = must(api.New(c))(w.t)
}

// restart stops the node, forgets all that is in memory, and runs another.
func (w *world) restart() {
	w.t.Helper()
	w.halt()
	w.start()
	w.private = w.transport(w.listen(w.api.Private()))
}

// source is what the log is read from. It can be made to fail, or to have
// something happen before a reading.
type source struct {
	revlog.Source
	before     atomic.Pointer[func(context.Context) error]
	beforeTail atomic.Pointer[func(context.Context) error]
}

func (s *source) View(ctx context.Context, fn func(revlog.Reader) error) error {
	if before := s.before.Load(); before != nil {
		if err := (*before)(ctx); err != nil {
			return err
		}
	}
	return s.Source.View(ctx, fn)
}

func (s *source) Tail(ctx context.Context, after feed.Mark, limit int) (issuer.Tail, error) {
	if before := s.beforeTail.Load(); before != nil {
		if err := (*before)(ctx); err != nil {
			return issuer.Tail{}, err
		}
	}
	return s.Source.Tail(ctx, after, limit)
}

// feed opens a connection to the feed by hand, with what a verifier presents.
func (w *world) feed(key string, present http.Header) (net.Conn, error) {
	conn := must(w.listen(w.api.Private())(w.t.Context(), "", ""))(w.t)
	w.t.Cleanup(func() { conn.Close() })
	h := http.Header{"Authorization": {"Bearer " + key}, feed.HeaderProcess: {"by-hand"}, feed.HeaderName: {"by-hand"}}
	maps.Copy(h, present)
	dialer := ws.Dialer{Protocols: []string{feed.Subprotocol}, Header: ws.HandshakeHeaderHTTP(h)}
	early, _, err := dialer.Upgrade(conn, &url.URL{Scheme: "ws", Host: "localhost", Path: "/v1/feed"})
	if early == nil {
		return conn, err
	}
	return upgraded{conn, early}, err
}

// upgraded is a connection of which something has been read already.
type upgraded struct {
	net.Conn
	r io.Reader
}

func (u upgraded) Read(b []byte) (int, error) { return u.r.Read(b) }

// relying connects a verifier that gets a lease for what there is, and confirms
// nothing more. The function that it returns confirms a position.
func (w *world) relying(name string) (confirm func(position uint64)) {
	w.t.Helper()
	conn := must(w.feed(w.keys["feed"], http.Header{feed.HeaderProcess: {"process-" + name}, feed.HeaderName: {name}}))(w.t)
	confirm = func(position uint64) {
		ping := feed.AppendPing(nil, feed.Ping{Applied: position, Routes: 2, Tolerance: time.Minute})
		_ = ws.WriteFrame(conn, ws.MaskFrame(ws.NewBinaryFrame(ping)))
	}
	for {
		payload := make([]byte, must(ws.ReadHeader(conn))(w.t).Length)
		must(io.ReadFull(conn, payload))(w.t)
		kind, body, err := feed.Split(payload)
		switch {
		case err != nil:
			w.t.Fatal(err)
		case kind == feed.KindMark:
			go confirm(must(feed.DecodeMark(body))(w.t).Position)
		case kind == feed.KindPong && must(feed.DecodePong(body))(w.t).Grant > 0:
			go io.Copy(io.Discard, conn)
			return confirm
		}
	}
}

// open starts the listeners and the verifier.
func (w *world) open() {
	w.t.Helper()
	w.spec = loadSpec(w.t)
	for _, s := range []issuer.Scope{issuer.ScopeFeed, issuer.ScopeRevoke, issuer.ScopeSessions, issuer.ScopeAccounts, issuer.ScopeAudit, issuer.ScopeKeys, issuer.ScopeBackup, issuer.ScopeClients} {
		_, w.keys[string(s)], _ = w.issuer.CreateAPIKey(w.t.Context(), issuer.Actor{Name: "system", Scopes: []issuer.Scope{s}}, "the "+string(s)+" key", []issuer.Scope{s})
	}
	dial := w.listen(w.api.Private())
	w.private = w.transport(dial)
	w.verifier = must(quash.Open(w.t.Context(), quash.Config{URL: "http://localhost", Key: w.keys["feed"], Name: "public", Dial: dial}))(w.t)
	w.t.Cleanup(func() { w.verifier.Close(context.Background()) })
	w.publicTransport = w.transport(w.listen(w.api.Public(w.verifier)))
	w.public = must(client.New(client.Config{URL: "http://localhost", HTTP: &http.Client{Transport: w.publicTransport}}))(w.t)
}

// admin returns a client with the key that has one scope.
func (w *world) admin(scope string) client.Admin {
	w.t.Helper()
	return must(client.New(client.Config{URL: "http://localhost", Key: w.keys[scope], HTTP: &http.Client{Transport: w.private}}))(w.t).Admin()
}

// session makes a subject without a password, if need be, and opens a session.
func (w *world) session(subject string) client.Tokens {
	w.t.Helper()
	_, err := w.admin("accounts").CreateAccount(w.t.Context(), client.NewAccount{Subject: subject})
	if p, ok := errors.AsType[*client.Problem](err); err != nil && (!ok || p.Code != client.CodeConflict) {
		w.t.Fatal(err)
	}
	return must(w.admin("sessions").OpenSession(w.t.Context(), subject, client.Device{Device: "test"}))(w.t)
}

// follows waits until the verifier has applied a position.
func (w *world) follows(position uint64) {
	w.t.Helper()
	if c := w.log.WaitConfirmed(w.t.Context(), position); !c.Confirmed || c.Applied != 1 {
		w.t.Fatalf("position %d: got %+v, want that the one verifier has confirmed it", position, c)
	}
}

type dialer = func(ctx context.Context, network, address string) (net.Conn, error)

// listen serves a handler in memory.
func (w *world) listen(h http.Handler) dialer {
	l := &listener{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{
		Handler: h, MaxHeaderBytes: api.MaxHeader,
		ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Hour, // waits last longer
		ErrorLog: slog.NewLogLogger(slog.NewTextHandler(w.logged, nil), slog.LevelError),
	}
	go server.Serve(l)
	w.t.Cleanup(func() { server.Close() })
	return func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		select {
		case l.conns <- conn{far}:
			return near, nil
		case <-l.closed:
			return nil, net.ErrClosed
		}
	}
}

type listener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *listener) Addr() net.Addr { return address{} }

// conn comes from a documentation address.
type conn struct{ net.Conn }

func (conn) RemoteAddr() net.Addr { return address{} }

type address struct{}

func (address) Network() string { return "memory" }
func (address) String() string  { return "192.0.2.1:1234" }

// transport makes requests, remembers their secrets, and holds every request
// that succeeds and every answer against the description.
func (w *world) transport(dial dialer) http.RoundTripper {
	base := &http.Transport{DialContext: dial}
	w.t.Cleanup(base.CloseIdleConnections)
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		sent := body(&r.Body)
		w.remember(r.Header, sent)
		answer, err := base.RoundTrip(r)
		if err != nil || answer.StatusCode == http.StatusSwitchingProtocols {
			return answer, err
		}
		received := body(&answer.Body)
		w.spec.check(w.t, r, sent, answer, received)
		if answer.StatusCode >= 400 {
			w.search("the answer "+string(received), string(received))
		}
		w.remember(answer.Header, received)
		return answer, nil
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// body reads a body and puts it back, and the error with which it ended.
func body(at *io.ReadCloser) []byte {
	if *at == nil {
		return nil
	}
	text, err := io.ReadAll(*at)
	(*at).Close()
	*at = io.NopCloser(io.MultiReader(bytes.NewReader(text), broken{err}))
	return text
}

// broken ends a body.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	return 0, io.EOF
}

// remember notes what may be neither in the log nor in a refusal.
func (w *world) remember(h http.Header, text []byte) {
	found := h.Values("Idempotency-Key")
	for _, v := range slices.Concat(h.Values("Cookie"), h.Values("Set-Cookie")) {
		_, value, _ := strings.Cut(v, "=")
		value, _, _ = strings.Cut(value, ";")
		found = append(found, strings.Split(value, ".")...)
	}
	for _, v := range h.Values("Authorization") {
		if _, token, ok := strings.Cut(v, " "); ok {
			found = append(found, token)
		}
	}
	members := map[string]any{}
	if json.Unmarshal(text, &members) != nil {
		form, _ := url.ParseQuery(string(text))
		for name := range form {
			members[name] = form.Get(name)
		}
	}
	for _, name := range []string{"access_token", "refresh_token", "password", "old_password", "new_password", "secret", "token", "client_secret", "client_assertion"} {
		if s, ok := members[name].(string); ok {
			found = append(found, s)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range found {
		if len(s) >= 12 && !slices.Contains(w.secrets, s) {
			w.secrets = append(w.secrets, s)
		}
	}
}

func (w *world) search(where, text string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.secrets {
		if strings.Contains(text, s) {
			w.t.Errorf("%s holds the secret %q", where, s)
		}
	}
}

// searchLog runs after every test: whatever was called, the log holds none of
// the secrets that went over the wire.
func (w *world) searchLog() {
	w.search("the log", w.logged.String())
	if text := w.logged.String(); strings.Contains(text, "panicked") && !strings.Contains(w.t.Name(), "Panic") {
		w.t.Errorf("a handler panicked:\n%s", text)
	}
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// must returns a call's value, or ends the test.
func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// spec is the OpenAPI description, loaded once.
type spec struct {
	doc    *openapi3.T
	router routers.Router
}

var loaded = sync.OnceValues(func() (*spec, error) {
	openapi3filter.RegisterBodyDecoder("application/jwk-set+json", openapi3filter.JSONBodyDecoder)
	doc, err := openapi3.NewLoader().LoadFromFile("openapi.json")
	if err != nil {
		return nil, err
	}
	if err := doc.Validate(context.Background()); err != nil {
		return nil, err
	}
	router, err := gorillamux.NewRouter(doc)
	return &spec{doc, router}, err
})

func loadSpec(t *testing.T) *spec {
	t.Helper()
	return must(loaded())(t)
}

// check holds an answer, and the request if it succeeded, against the
// description. What has no route there must be refused.
func (s *spec) check(t *testing.T, r *http.Request, sent []byte, answer *http.Response, received []byte) {
	t.Helper()
	where := r.Method + " " + r.URL.Path
	described := r.Clone(r.Context())
	if r.Method == "HEAD" || r.Method == "OPTIONS" || answer.StatusCode == http.StatusRequestHeaderFieldsTooLarge {
		return // no body, the Fetch Standard's own question, and net/http's own answer
	}
	route, params, err := s.router.FindRoute(described)
	if err != nil {
		if answer.StatusCode < 400 {
			t.Errorf("%s: answered %d, but it is not described", where, answer.StatusCode)
		}
		return
	}
	options := &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true}
	described.Body = io.NopCloser(bytes.NewReader(sent))
	in := &openapi3filter.RequestValidationInput{Request: described, PathParams: params, Route: route, Options: options}
	if answer.StatusCode < 400 {
		if err := openapi3filter.ValidateRequest(r.Context(), in); err != nil {
			t.Errorf("%s: the request that was accepted is not as described: %v", where, err)
		}
	}
	out := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: answer.StatusCode, Header: answer.Header, Options: options,
		Body: io.NopCloser(bytes.NewReader(received)),
	}
	if err := openapi3filter.ValidateResponse(r.Context(), out); err != nil {
		t.Errorf("%s: the answer %d is not as described: %v\n%s", where, answer.StatusCode, err, received)
	}
}
