//go:build linux

package chaos_test

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	mathrand "math/rand/v2"
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
	leaseLength = 2 * time.Second // where a plan has no other
	tolerance   = time.Second     // of the one route that accepts when stale
	// patience bounds what must come by itself, on a machine that is busy with
	// other things too.
	patience = time.Minute
)

// plan says what a stage consists of.
type plan struct {
	nodes, resources int
	capacity         int           // tokens
	lease            time.Duration // 0: leaseLength
	shared           *database     // nil: one node's own
}

// stage is nodes and resource servers, each a process of its own, with the
// network between them and those who watch.
type stage struct {
	t         *testing.T
	began     time.Time
	lease     time.Duration
	secret    [32]byte // of the nodes
	shared    *database
	board     *board
	nodes     []*node
	resources []*resource
	http      *http.Client
	witnesses []witness

	watching context.Context // until the processes are ended
	done     sync.WaitGroup

	violations atomic.Int64
	lost       atomic.Int64 // of what was answered: those of P1
	mu         sync.Mutex
	events     []string
}

// witness is who was shown tokens, and its row of the board.
type witness struct {
	name string
	row  int
	late time.Duration // for how long after a lease it may accept; 0: it may not
}

// raise starts what a plan has, and has the resource servers watched until the
// test ends.
func raise(t *testing.T, p plan) *stage {
	t.Helper()
	dir := t.TempDir()
	s := &stage{t: t, began: time.Now(), lease: cmp.Or(p.lease, leaseLength), shared: p.shared, http: &http.Client{
		Timeout: 90 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64},
	}}
	rand.Read(s.secret[:])
	file := filepath.Join(dir, "board")
	var err error
	if s.board, err = openBoard(file, p.capacity); err != nil {
		t.Fatal(err)
	}
	watching, halt := context.WithCancel(context.Background())
	s.watching = watching
	t.Cleanup(func() { s.strike(halt) })
	if err := s.serve(dir, p.nodes); err != nil {
		t.Fatal(err)
	}
	for i := range p.resources {
		if err := s.add(file, i, p.resources); err != nil {
			t.Fatal(err)
		}
	}
	if err := together(s.resources, (*resource).start); err != nil {
		t.Fatal(err)
	}
	return s
}

// together does something to all at once.
func together[T any](all []T, do func(T) error) (err error) {
	failed := make(chan error, len(all))
	for _, x := range all {
		go func() { failed <- do(x) }()
	}
	for range all {
		err = errors.Join(err, <-failed)
	}
	return err
}

// serve starts the nodes: the first alone, because it makes the key for all.
func (s *stage) serve(dir string, nodes int) error {
	for range nodes {
		n, err := s.newNode(dir)
		if err != nil {
			return err
		}
		s.nodes = append(s.nodes, n)
	}
	if err := s.nodes[0].start(); err != nil {
		return err
	}
	key, err := os.ReadFile(filepath.Join(s.nodes[0].config.Data, "admin.key"))
	if err != nil {
		return err
	}
	for _, n := range s.nodes {
		if err := n.takes(strings.TrimSpace(string(key))); err != nil {
			return err
		}
	}
	if s.shared != nil {
		if err := s.shared.connect(s.watching); err != nil {
			return err
		}
	}
	return together(s.nodes[1:], (*node).start)
}

// at returns the node that somebody happens to speak to.
func (s *stage) at() *node { return s.nodes[mathrand.IntN(len(s.nodes))] }

// add prepares a resource server, one of several. The first has a route that
// accepts when stale.
func (s *stage) add(board string, i, of int) error {
	name := fmt.Sprintf("resource-%d", i)
	key, err := s.nodes[0].private.Admin().CreateKey(s.watching, client.NewKey{Name: name, Scopes: []string{"feed"}})
	if err != nil {
		return err
	}
	r := &resource{stage: s}
	var urls []string
	for _, n := range s.nodes {
		p, err := newProxy(n.config.Private)
		if err != nil {
			return err
		}
		r.paths, n.paths = append(r.paths, p), append(n.paths, p)
		urls = append(urls, "http://"+p.address())
	}
	r.config = resourceConfig{
		URL: strings.Join(urls, ","), Key: key.Secret, Name: name,
		Board: board, Capacity: s.board.capacity, Row: s.witness(name+" in its process", 0),
		Leisure: 2 * of, Verbose: *verbose,
	}
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
	var processes []*process
	for _, n := range s.nodes {
		processes = append(processes, n.current())
	}
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
		r.paths.close()
	}
	if s.shared != nil {
		s.shared.close()
	}
	s.http.CloseIdleConnections()
	if err := s.board.close(); err != nil {
		s.t.Error(err)
	}
	s.tell()
}

// tell prints what happened before the test failed, or where somebody wants to
// know.
func (s *stage) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.t.Failed() || *verbose {
		s.t.Logf("what happened:\n%s", strings.Join(s.events, "\n"))
		for _, n := range s.nodes {
			s.t.Logf("what %s said at last:\n%s", n.name, last(n.log.String(), 4000))
		}
	}
}

// last returns the end of a text.
func last(text string, octets int) string { return text[max(0, len(text)-octets):] }

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
	if strings.HasPrefix(format, "P1: ") {
		s.lost.Add(1)
	}
	if s.violations.Add(1) > most {
		s.t.Fail()
		return
	}
	s.note("VIOLATION: "+format, args...)
	s.t.Errorf(format, args...)
}

// ready returns nil where some node answers.
func (s *stage) ready() (err error) {
	for _, n := range s.nodes {
		if err = n.ready(); err == nil {
			return nil
		}
	}
	return err
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
