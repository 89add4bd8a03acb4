//go:build linux

package chaos_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quashdev/quash"
)

// resourceConfig is what the process of a resource server gets.
type resourceConfig struct {
	URL, Key, Name string        // addresses of all nodes
	Tolerance      time.Duration // of a route; 0: there is none
	Board          string        // file
	Capacity       int           // of the board
	Row            int           // of this one's loop
	Leisure        int           // how many times as long as it takes the loop rests
	Verbose        bool
}

func playResource(ctx context.Context, text string) error {
	var c resourceConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	b, err := openBoard(c.Board, c.Capacity)
	if err != nil {
		return err
	}
	v, err := quash.Open(ctx, quash.Config{URL: c.URL, Key: c.Key, Name: c.Name, Logger: childLogger(c.Verbose)})
	if err != nil {
		return err
	}
	go (&loop{verifier: v, board: b, row: c.Row, leisure: time.Duration(c.Leisure)}).run() // until the process ends
	return serveResource(ctx, c, v)
}

// serveResource serves until ctx ends, then drains and says goodbye.
func serveResource(ctx context.Context, c resourceConfig, v *quash.Verifier) error {
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux := http.NewServeMux()
	mux.Handle("/", v.Protect(answer))
	if c.Tolerance > 0 {
		mux.Handle("/tolerant", v.Protect(answer, quash.AcceptStale(c.Tolerance)))
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	web := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- web.Serve(listener) }()
	fmt.Println(listener.Addr())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	brief, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if web.Shutdown(brief) != nil {
		_ = web.Close()
	}
	_ = v.Close(brief) // the network may be such that nobody hears it
	return nil
}

// loop verifies tokens without HTTP, as fast as a machine that has other things
// to do allows: those that matter all the time, and others now and then.
type loop struct {
	verifier *quash.Verifier
	board    *board
	row      int
	leisure  time.Duration // without a unit
	tokens   []string
}

// others is how many of the tokens before the first one are asked for at a
// time.
const others = 8

func (l *loop) run() {
	for {
		began := time.Now()
		first, count := int(atomic.LoadInt64(l.board.first())), int(atomic.LoadInt64(l.board.count()))
		for len(l.tokens) < count {
			l.tokens = append(l.tokens, l.board.token(len(l.tokens)))
		}
		for range min(others, first) {
			l.ask(rand.IntN(first))
		}
		for n := first; n < count; n++ {
			l.ask(n)
		}
		time.Sleep(min(max(l.leisure*time.Since(began), time.Millisecond), 50*time.Millisecond))
	}
}

func (l *loop) ask(n int) {
	began := now()
	_, err := l.verifier.Verify(l.tokens[n])
	l.board.bump(l.row, asked)
	switch {
	case err == nil:
		l.board.accepted(l.row, n, began)
	case errors.Is(err, quash.ErrRevoked), errors.Is(err, quash.ErrInvalid), errors.Is(err, quash.ErrExpired):
		l.board.refused(l.row, n, began, now())
	case errors.Is(err, quash.ErrStale):
		l.board.bump(l.row, refusedStale)
	default:
		l.board.bump(l.row, faults)
	}
}

// resource is a resource server: one process at a time, which reaches each node
// over a proxy, for the feed.
type resource struct {
	stage  *stage
	config resourceConfig
	paths  paths                  // to the nodes, in their order
	url    atomic.Pointer[string] // nil while there is no process
	starts atomic.Int64
	strict int // row of those who ask over HTTP

	mu      sync.Mutex
	process *process
}

// start starts a process and waits until it is ready.
func (r *resource) start() error {
	p, err := launch(r.config.Name, "resource", r.config, os.Stderr)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.process = p
	r.mu.Unlock()
	r.starts.Add(1)
	address, err := p.line(patience)
	if err != nil {
		return err
	}
	url := "http://" + address
	r.url.Store(&url)
	return nil
}

func (r *resource) current() *process {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.process
}

// kill ends the process without order.
func (r *resource) kill() {
	r.url.Store(nil)
	r.current().kill()
}

// close ends the process in order.
func (r *resource) close() error {
	r.url.Store(nil)
	return r.current().close(patience)
}

// answer is what a resource server says to a token.
type answer struct {
	began, ended int64 // by the shared clock
	status       int
	late         bool // it says that it accepted though its lease had ended
}

const (
	routeStrict   = "/"
	routeTolerant = "/tolerant"
)

var errDown = errors.New("the resource server is down")

// show shows a token to a route. An answer that there must not be is an error
// that matches errWrong.
func (r *resource) show(ctx context.Context, route, token string) (a answer, err error) {
	url := r.url.Load()
	if url == nil {
		return a, errDown
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, *url+route, http.NoBody)
	if err != nil {
		return a, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	a.began = now()
	response, err := r.stage.http.Do(request)
	if err != nil {
		return a, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return a, err
	}
	a.ended, a.status, a.late = now(), response.StatusCode, response.Header.Get("Quash-Stale") != ""
	return a, check(response, body)
}

var errWrong = errors.New("an answer that there must not be")

// check says whether an answer is one of those that a client can act upon.
func check(r *http.Response, body []byte) error {
	var problem struct{ Type string }
	switch r.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusUnauthorized:
		if json.Unmarshal(body, &problem) == nil && problem.Type == "urn:quash:problem:invalid-token" && r.Header.Get("WWW-Authenticate") != "" {
			return nil
		}
	case http.StatusServiceUnavailable:
		if json.Unmarshal(body, &problem) == nil && problem.Type == "urn:quash:problem:stale" && r.Header.Get("Retry-After") != "" {
			return nil
		}
	}
	return fmt.Errorf("%w: %s, Retry-After %q: %s", errWrong, r.Status, r.Header.Get("Retry-After"), body)
}

// probe shows tokens to a route until ctx ends, and notes the answers in a row,
// those accepted late in another.
type probe struct {
	resource *resource
	route    string
	row      int
	late     int // row; -1: there must be none
}

const (
	probeRest    = 5 * time.Millisecond   // for each node that takes its share of the machine
	probeTimeout = 500 * time.Millisecond // so that one who wakes is asked again soon
)

func (p *probe) run(ctx context.Context) {
	b := p.resource.stage.board
	rest := probeRest * time.Duration(len(p.resource.paths))
	for n := 0; ctx.Err() == nil; n++ {
		first, count := int(atomic.LoadInt64(b.first())), int(atomic.LoadInt64(b.count()))
		switch {
		case first >= count:
		case first > 0 && n%10 == 0:
			p.ask(ctx, rand.IntN(first))
		default:
			p.ask(ctx, first+n%(count-first))
		}
		time.Sleep(rest)
	}
}

func (p *probe) ask(ctx context.Context, n int) {
	b := p.resource.stage.board
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	a, err := p.resource.show(ctx, p.route, b.token(n))
	switch {
	case errors.Is(err, errWrong), err == nil && a.late && p.late < 0:
		b.bump(p.row, faults)
		p.resource.stage.violation("%s at %s: %+v, %v", p.resource.config.Name, p.route, a, err)
		return
	case err != nil:
		return
	}
	row := p.row
	if a.late {
		row = p.late
	}
	b.bump(row, asked)
	switch a.status {
	case http.StatusOK:
		b.accepted(row, n, a.began)
	case http.StatusUnauthorized:
		b.refused(row, n, a.began, a.ended)
	default:
		b.bump(row, refusedStale)
	}
}
