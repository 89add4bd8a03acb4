//go:build linux

package chaos_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quashdev/quash/client"
)

var verbose = flag.Bool("chaos.v", false, "print what every process logs")

const (
	leaseLength = 2 * time.Second
	tolerance   = time.Second // of the one route that accepts when stale
	// patience bounds what must come by itself, on a machine that is busy with
	// other things too.
	patience = time.Minute
)

// stage is a server and its resource servers, each a process of its own, with
// the network between them and those who watch.
type stage struct {
	t         *testing.T
	began     time.Time
	board     *board
	node      *node
	resources []*resource
	http      *http.Client
	private   *client.Client
	public    *client.Client
	witnesses []witness

	watching context.Context // until the processes are ended
	done     sync.WaitGroup

	violations atomic.Int64
	mu         sync.Mutex
	events     []string
}

// witness is who was shown tokens, and its row of the board.
type witness struct {
	name string
	row  int
	late time.Duration // for how long after a lease it may accept; 0: it may not
}

// raise starts a server and resource servers, for a number of tokens, and has
// them watched until the test ends.
func raise(t *testing.T, resources, capacity int) *stage {
	t.Helper()
	dir := t.TempDir()
	s := &stage{t: t, began: time.Now(), http: &http.Client{
		Timeout: 90 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64},
	}}
	file := filepath.Join(dir, "board")
	var err error
	if s.board, err = openBoard(file, capacity); err != nil {
		t.Fatal(err)
	}
	watching, halt := context.WithCancel(context.Background())
	s.watching = watching
	t.Cleanup(func() { s.strike(halt) })
	if err := s.serve(filepath.Join(dir, "data")); err != nil {
		t.Fatal(err)
	}
	for i := range resources {
		if err := s.add(file, i); err != nil {
			t.Fatal(err)
		}
	}
	failed := make(chan error, resources)
	for _, r := range s.resources {
		go func() { failed <- r.start() }()
	}
	for range s.resources {
		err = errors.Join(err, <-failed)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serve starts the server.
func (s *stage) serve(data string) (err error) {
	s.node = &node{stage: s, config: serverConfig{
		Data: data, Public: freeAddress(), Private: freeAddress(), Lease: leaseLength, Verbose: *verbose,
	}}
	if s.public, err = client.New(client.Config{URL: "http://" + s.node.config.Public, HTTP: s.http}); err != nil {
		return err
	}
	if s.private, err = client.New(client.Config{URL: "http://" + s.node.config.Private, HTTP: s.http}); err != nil {
		return err
	}
	if err := s.node.start(); err != nil {
		return err
	}
	key, err := os.ReadFile(filepath.Join(data, "admin.key"))
	if err != nil {
		return err
	}
	s.private, err = client.New(client.Config{
		URL: "http://" + s.node.config.Private, Key: strings.TrimSpace(string(key)), HTTP: s.http,
	})
	return err
}

// add prepares a resource server. The first has a route that accepts when
// stale.
func (s *stage) add(board string, i int) error {
	name := fmt.Sprintf("resource-%d", i)
	key, err := s.private.Admin().CreateKey(s.watching, client.NewKey{Name: name, Scopes: []string{"feed"}})
	if err != nil {
		return err
	}
	p, err := newProxy(s.node.config.Private)
	if err != nil {
		return err
	}
	r := &resource{stage: s, proxy: p, config: resourceConfig{
		URL: "http://" + p.address(), Key: key.Secret, Name: name,
		Board: board, Capacity: s.board.capacity, Row: s.witness(name+" in its process", 0), Verbose: *verbose,
	}}
	r.strict = s.witness(name+" over HTTP", 0)
	probes := []probe{{r, routeStrict, r.strict, -1}}
	if i == 0 {
		r.config.Tolerance = tolerance
		probes = append(probes, probe{r, routeTolerant, s.witness(name+" on its tolerant route", 0), s.witness(name+", late, on its tolerant route", tolerance)})
	}
	for _, p := range probes {
		s.done.Go(func() { p.run(s.watching) })
	}
	s.resources = append(s.resources, r)
	return nil
}

func (s *stage) witness(name string, late time.Duration) (row int) {
	row = len(s.witnesses)
	s.witnesses = append(s.witnesses, witness{name, row, late})
	return row
}

// strike ends all that raise began. Nothing may have ended by itself.
func (s *stage) strike(halt context.CancelFunc) {
	processes := []*process{s.node.current()}
	for _, r := range s.resources {
		processes = append(processes, r.current())
	}
	for _, p := range processes {
		if p == nil {
			continue
		}
		if err := p.fell(); err != nil {
			s.t.Error(err)
		}
		p.kill()
	}
	halt()
	s.done.Wait()
	for _, r := range s.resources {
		r.proxy.close()
	}
	s.http.CloseIdleConnections()
	if err := s.board.close(); err != nil {
		s.t.Error(err)
	}
	s.tell()
}

// tell prints what happened before the test failed.
func (s *stage) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.t.Failed() {
		s.t.Logf("what happened:\n%s", strings.Join(s.events, "\n"))
	}
}

// note keeps what happens for who looks for the cause of a failure.
func (s *stage) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, fmt.Sprintf("%9.3f  ", s.since(now()).Seconds())+fmt.Sprintf(format, args...))
}

// since returns how long after the beginning the shared clock showed a time.
func (s *stage) since(at int64) time.Duration {
	return time.Since(s.began) - time.Duration(now()-at)
}

// most is how many violations are told in full.
const most = 20

func (s *stage) violation(format string, args ...any) {
	if s.violations.Add(1) > most {
		s.t.Fail()
		return
	}
	s.note("VIOLATION: "+format, args...)
	s.t.Errorf(format, args...)
}

// ready returns nil where the server answers on both of its listeners.
func (s *stage) ready() error {
	ctx, cancel := context.WithTimeout(s.watching, time.Second)
	defer cancel()
	return errors.Join(s.private.Ready(ctx), s.public.Ready(ctx))
}

// await waits for something that must come by itself.
func (s *stage) await(what string, ok func() bool) bool {
	for began := time.Now(); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > patience {
			s.violation("%v went by, and not: %s", patience, what)
			return false
		}
	}
	return true
}

// total adds up what all witnesses counted.
func (s *stage) total(t tally) (n int64) {
	for _, w := range s.witnesses {
		n += atomic.LoadInt64(s.board.tally(w.row, t))
	}
	return n
}

// late returns how many requests were accepted on tolerant routes after the
// lease had ended.
func (s *stage) late() (n int64) {
	for _, w := range s.witnesses {
		if w.late > 0 {
			n += atomic.LoadInt64(s.board.tally(w.row, asked))
		}
	}
	return n
}
