package quash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/lease"
	"github.com/quashdev/quash/internal/memnet"
	"github.com/quashdev/quash/internal/revlog"
)

// world is one simulation: a database, nodes, verifiers, those who revoke and
// those who ask, and what goes wrong. All of it follows from the seed, but for
// the order in which goroutines run that could run at the same time.
type world struct {
	seed    uint64
	weather weather
	db      database
	start   time.Time
	bound   time.Duration // a lease and its margin, the longest of any node
	calm    chan struct{} // closed when nothing goes wrong any more
	over    chan struct{} // closed when nobody asks any more
	actors  sync.WaitGroup
	rest    sync.WaitGroup // of what ends by itself
	dials   atomic.Uint64
	history *history
	idle    string // a token that nobody revokes

	mu        sync.Mutex
	next      int       // of the subjects
	hushed    time.Time // until then nothing is revoked
	favourite *node     // that the load balancer takes verifiers to; nil: any
	nodes     []*node
	verifiers []*verifier
}

// weather says what goes wrong in a simulation, and how large it is.
type weather struct {
	nodes, verifiers, revokers int
	leases                     []lease.Length // of the nodes, in turn
	buffer                     int            // bytes of a node's ring; 0: the default
	file                       bool           // the database is SQLite
	storms                     int            // on a link to the database, at the same time
	faults                     bool           // lines of verifiers
	cuts                       bool           // lines of nodes
	pauses, sleeps, steps      bool           // machines
	skews                      bool           // wall clocks that are off by more than is borne
	crashes, stops             bool           // of nodes
	moves                      bool           // of verifiers: closed or killed, and another takes the place
	upset                      bool           // something goes wrong right after a goodbye
	delays                     bool           // verifies are held up
	quiet                      bool           // there are times in which nothing is revoked
	returns                    bool           // the first verifier loses its lease, time and again
	length                     time.Duration
}

func forecast(seed uint64) weather {
	d := newDice(seed, 0)
	half := func() bool { return d.chance(0.5) }
	w := weather{
		nodes: 1 + d.n(3), verifiers: 2 + d.n(3), revokers: 1 + d.n(3),
		leases: []lease.Length{lease.Min},
		storms: d.n(2) * (1 + d.n(2)), faults: half(), cuts: d.chance(0.25), pauses: half(), sleeps: half(), steps: d.chance(0.25), skews: d.chance(0.1),
		crashes: half(), stops: half(), moves: half(), upset: half(), delays: half(),
		length: d.between(3*time.Second, 8*time.Second),
	}
	if half() {
		w.buffer = 64
	}
	w.quiet = half()
	if d.chance(0.2) {
		w.leases = append(w.leases, lease.Min*3/2)
	}
	switch seed % 8 {
	case 3: // a verifier returns without a lease, time and again, and little else happens
		w = weather{nodes: 1 + d.n(2), verifiers: 2, revokers: 1, leases: w.leases[:1], buffer: 64, returns: true, upset: true, quiet: true, length: 8 * time.Second}
	case 1: // little but the database goes wrong
		w = weather{nodes: 2 + d.n(2), verifiers: 2, revokers: 2, leases: w.leases, storms: 2, moves: half(), length: 8 * time.Second}
	case 5: // nodes hand over, and nothing else goes wrong before that
		w = weather{nodes: 2, verifiers: 1 + d.n(2), revokers: 1, leases: w.leases[:1], stops: true, upset: true, quiet: true, length: 8 * time.Second}
	}
	w.file = seed%32 == 31
	return w
}

func newWorld(seed uint64, mint *mint) (*world, error) {
	w := &world{
		seed: seed, weather: forecast(seed), start: time.Now(), calm: make(chan struct{}), over: make(chan struct{}),
		history: newHistory(mint.tokens), idle: mint.idle,
	}
	w.bound = slices.Max(w.weather.leases).Whole()
	var err error
	if w.weather.file {
		w.db, err = newFile(context.Background(), mint.key.Public(), mintLifetime)
	} else {
		w.db, err = newMemory(mint.key.Public(), mintLifetime)
	}
	return w, err
}

// note keeps what happens for who looks for the cause of a failure.
func (w *world) note(format string, args ...any) {
	w.history.note(time.Since(w.start), format, args...)
}

// run plays the simulation. When it returns, the history is complete, and
// nothing is left of it.
func (w *world) run() {
	for i := range w.weather.nodes {
		w.actors.Go(func() { w.keepNode(i) })
	}
	for i := range w.weather.verifiers {
		w.actors.Go(func() { w.keepVerifier(i) })
	}
	for i := range w.weather.revokers {
		w.actors.Go(func() { w.revokeAll(newDice(w.seed, 1, uint64(i))) })
	}
	w.actors.Go(func() {
		<-w.calm
		time.Sleep(time.Millisecond) // for what has just begun to count itself
	})
	time.Sleep(w.weather.length)
	close(w.calm)
	w.note("calm")
	w.actors.Wait()
	w.recover()
	w.finish()
}

// finish ends everything, verifiers first.
func (w *world) finish() {
	close(w.over)
	var ends sync.WaitGroup
	for _, v := range w.all() {
		ends.Go(func() { v.close(2 * time.Second) })
	}
	ends.Wait()
	for _, v := range w.all() {
		v.line.cut(false)
	}
	for _, n := range w.staying() {
		ends.Go(func() { n.stop("at last") })
	}
	ends.Wait()
	time.Sleep(time.Minute) // an http.Transport dials in goroutines that outlive who asked for it
	w.rest.Wait()
	if err := w.db.close(); err != nil {
		w.history.fail("close the database: %v", err)
	}
}

func (w *world) all() []*verifier {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.verifiers)
}

// running returns the nodes that nobody has begun to stop.
func (w *world) running() []*node {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.nodes)
}

// staying returns the nodes that do not stop.
func (w *world) staying() []*node {
	return slices.DeleteFunc(w.running(), func(n *node) bool { return n.leaving.Load() })
}

// witnesses returns the nodes that follow the log.
func (w *world) witnesses() []*node {
	return slices.DeleteFunc(w.running(), func(n *node) bool {
		select {
		case <-n.log.Ready():
			return false
		default:
			return true
		}
	})
}

// anyNode returns one of them, as a load balancer would.
func (w *world) anyNode(d *dice) *node {
	nodes := w.running()
	if len(nodes) == 0 {
		return nil
	}
	return nodes[d.n(len(nodes))]
}

// balance returns the node that a verifier is taken to.
func (w *world) balance(d *dice) *node {
	w.mu.Lock()
	n := w.favourite
	w.mu.Unlock()
	if n != nil {
		return n
	}
	return w.anyNode(d)
}

func (w *world) favour(n *node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.favourite = n
}

// machine returns a machine whose clocks run within what a margin is for: a
// pair of them parts by less than half of it.
func (w *world) machine(d *dice, skew time.Duration) *machine {
	mono := 0.98 + 0.04*d.float()
	return newMachine(mono, mono*(0.995+0.01*d.float()), skew)
}

func (w *world) calmed() bool {
	select {
	case <-w.calm:
		return true
	default:
		return false
	}
}

// pause waits for a time from a to b, or until it is calm.
func (w *world) pause(d *dice, a, b time.Duration) bool { return wait(d.between(a, b), w.calm) }

// node is one process of the server.
type node struct {
	world   *world
	name    string
	machine *machine
	link    *link
	line    line
	log     *revlog.Log
	lis     *memnet.Listener
	cancel  context.CancelFunc
	leaving atomic.Bool // it stops in order
	crashed atomic.Bool
	anew    atomic.Bool // it started over as another
	ended   chan struct{}
}

func (w *world) startNode(slot, number int) *node {
	d := newDice(w.seed, 2, uint64(slot), uint64(number))
	n := &node{world: w, name: fmt.Sprintf("n%d.%d", slot, number), lis: memnet.Listen(), ended: make(chan struct{})}
	n.machine = w.machine(d, d.between(0, 4*time.Second)-2*time.Second)
	n.link = newLink(w.db, d, n.machine)
	n.log = revlog.New(revlog.Config{
		Issuer: mintIssuer, Lease: w.weather.leases[slot%len(w.weather.leases)], Clock: n.machine.clock,
		BufferBytes: w.weather.buffer, Logger: w.logger(n.name, &n.anew),
	}, n.link)
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	server := &http.Server{
		Handler:           http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { n.log.ServeFeed(rw, r, "key", nil) }),
		ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0),
	}
	var parts sync.WaitGroup
	parts.Go(func() { _ = server.Serve(n.lis) })
	w.rest.Go(func() {
		defer close(n.ended)
		_ = n.log.Run(ctx)
		_ = server.Close()
		if !n.crashed.Load() {
			n.line.cut(false)
		}
		parts.Wait()
	})
	w.note("%s starts", n.name)
	w.mu.Lock()
	w.nodes = append(w.nodes, n)
	w.mu.Unlock()
	return n
}

// leave takes n out of what the load balancer knows.
func (n *node) leave() {
	n.world.mu.Lock()
	defer n.world.mu.Unlock()
	n.world.nodes = slices.DeleteFunc(n.world.nodes, func(o *node) bool { return o == n })
}

// stop ends n in order. It may still answer while it does.
func (n *node) stop(why string) {
	n.world.note("%s stops %s", n.name, why)
	n.leaving.Store(true)
	n.cancel()
	<-n.ended
	n.leave()
	n.world.note("%s has stopped", n.name)
}

// crash ends n at once: nothing that it does from now on is seen.
func (n *node) crash(silently bool) {
	n.world.note("%s crashes, silently: %t", n.name, silently)
	n.crashed.Store(true)
	n.leave()
	n.line.set(true, 0)
	n.line.cut(silently)
	n.link.sever()
	n.cancel()
}

// verifier is one process of a resource server.
type verifier struct {
	world     *world
	name      string
	addresses string // of nodes, as Config.URL
	machine   *machine
	line      line
	dice      *dice
	dead      chan struct{} // closed when it is on its own for good
	ready     atomic.Pointer[Verifier]
	closed    atomic.Bool // or about to be
	eager     atomic.Bool // it is asked more often

	mu    sync.Mutex
	known map[*subject]bool
}

func (w *world) startVerifier(slot, number int) *verifier {
	d := newDice(w.seed, 3, uint64(slot), uint64(number))
	skew := d.between(0, 6*time.Second) - 3*time.Second
	if w.weather.skews && d.chance(0.3) {
		skew += 20 * time.Second
	}
	v := &verifier{world: w, name: fmt.Sprintf("v%d.%d", slot, number), addresses: w.addresses(newDice(w.seed, 5, uint64(slot), uint64(number))), dice: d, machine: w.machine(d, skew), dead: make(chan struct{}), known: map[*subject]bool{}}
	w.note("%s starts, %v off, with %s", v.name, skew, v.addresses)
	w.mu.Lock()
	w.verifiers = append(w.verifiers, v)
	w.mu.Unlock()
	w.rest.Go(func() { v.live(fmt.Sprintf("service-%d", slot)) })
	return v
}

// balanced is the address of a load balancer.
const balanced = "nodes.example"

// addresses returns what a verifier is told: where the load balancer is, or
// where each node is.
func (w *world) addresses(d *dice) string {
	if d.chance(0.7) {
		return "http://" + balanced
	}
	var list []string
	for slot := range w.weather.nodes {
		list = append(list, fmt.Sprintf("http://n%d", slot))
	}
	return strings.Join(list, ",")
}

// at returns the node at an address; nil: none is there.
func (w *world) at(address string, d *dice) *node {
	host, _, _ := net.SplitHostPort(address)
	if host == balanced {
		return w.balance(d)
	}
	here := slices.DeleteFunc(w.running(), func(n *node) bool { return !strings.HasPrefix(n.name, host+".") })
	if len(here) == 0 {
		return nil
	}
	return here[len(here)-1]
}

// live opens the verifier and asks it, again and again.
func (v *verifier) live(name string) {
	c := Config{
		URL: v.addresses, Key: "key", Name: name, Audience: mintIssuer, CacheBytes: 64 << 10,
		Dial: v.dial, Logger: v.world.logger(v.name, nil), clock: v.machine.clock,
	}
	for v.ready.Load() == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		q, err := Open(ctx, c)
		cancel()
		if err == nil {
			v.world.note("%s is ready", v.name)
			v.ready.Store(q)
			break
		}
		if !wait(time.Millisecond, v.dead) || !wait(time.Millisecond, v.world.over) {
			return
		}
	}
	for likely := 0.0; ; {
		v.machine.awake()
		if v.world.weather.delays && v.dice.chance(likely) {
			v.machine.delay(v.dice.between(0, time.Second/2), v.dice.n(2))
		}
		if likely = 0.02; v.ask() {
			likely = 0.2
		}
		interval := v.dice.between(5*time.Millisecond, 100*time.Millisecond)
		if v.eager.Load() {
			interval /= 10
		}
		if !wait(interval, v.world.over) {
			return
		}
	}
}

// ask has the verifier judge every token that matters, and says whether it is
// stale.
func (v *verifier) ask() (stale bool) {
	q := v.ready.Load()
	if q == nil || v.machine.paused() {
		return false
	}
	for _, s := range shuffled(v.dice, v.world.history.due(v.world.bound)) {
		if v.knows(s) && !v.dice.chance(0.1) {
			continue
		}
		call, at := v.world.history.tick(), time.Now()
		_, err := q.Verify(s.token)
		v.world.history.asked(v.name, s, call, err)
		v.learn(s, err)
		if errors.Is(err, ErrStale) {
			return true // so are the others
		}
		if err == nil && !s.lacking(at, v.world.bound) {
			v.world.history.fail("P5: %s accepts %s %v after it was revoked at %d", v.name, s.name, at.Sub(s.when()), s.at())
		}
	}
	return false
}

// knows says whether v has refused the token as revoked before; it is asked
// less often from then on.
func (v *verifier) knows(s *subject) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.known[s]
}

func (v *verifier) learn(s *subject, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.known[s] = errors.Is(err, ErrRevoked)
}

// fresh says whether v accepts a token that nobody revoked, and none that was.
func (v *verifier) fresh() error {
	q := v.ready.Load()
	if q == nil {
		return errors.New("not ready")
	}
	if _, err := q.Verify(v.world.idle); err != nil {
		return err
	}
	for _, s := range v.world.history.revoked() {
		if _, err := q.Verify(s.token); !errors.Is(err, ErrRevoked) {
			return fmt.Errorf("%s: got %v, want it revoked", s.name, err)
		}
	}
	return nil
}

// dial takes the verifier to the node at an address.
func (v *verifier) dial(ctx context.Context, _, address string) (net.Conn, error) {
	v.machine.awake()
	slow, ok := v.line.reachable()
	wait(v.dice.between(0, max(slow, time.Millisecond)), ctx.Done())
	n := v.world.at(address, v.dice)
	if !ok || n == nil {
		return nil, errUnreachable
	}
	n.machine.awake()
	if _, ok := n.line.reachable(); !ok {
		return nil, errUnreachable
	}
	v.ambush(n)
	there, err := n.lis.Dial(ctx, "", "")
	if err != nil {
		return nil, err
	}
	here, end := net.Pipe()
	wi := &wire{
		dice: newDice(v.world.seed, 4, v.world.dials.Add(1)), lines: [2]*line{&v.line, &n.line},
		from: [2]*machine{v.machine, n.machine}, ends: [2]net.Conn{end, there}, told: v.overhear,
	}
	v.world.rest.Go(wi.run)
	return here, nil
}

// ambush has the log run ahead of a verifier without a lease that connects, and
// on while the node reads from the database for it what the ring has no longer.
func (v *verifier) ambush(n *node) {
	w, q := v.world, v.ready.Load()
	if !w.weather.upset || q == nil {
		return
	}
	if _, err := q.Verify(w.idle); !errors.Is(err, ErrStale) || w.calmed() {
		return
	}
	w.note("%s connects to %s, and the log runs ahead", v.name, n.name)
	for range 2 {
		w.actors.Go(func() { w.revokeNow(v.dice) })
		wait(v.dice.between(5*time.Millisecond, 20*time.Millisecond), w.calm)
	}
	n.link.set(mode{slow: 200 * time.Millisecond}, view)
	v.line.set(false, 400*time.Millisecond)
	v.eager.Store(true)
	w.actors.Go(func() {
		for range 5 {
			w.actors.Go(func() { w.revokeNow(v.dice) })
			wait(v.dice.between(30*time.Millisecond, 150*time.Millisecond), w.calm)
		}
		n.link.set(mode{}, view)
		v.line.set(false, 0)
		v.eager.Store(false)
	})
}

// overhear looks at what the verifier and a node say. A goodbye is the moment
// for something to go wrong: what was granted moves, and nobody else notices.
func (v *verifier) overhear(d direction, b []byte) {
	goodbye := d == up && len(b) == 7 && b[0] == 0x82
	if !goodbye || !v.world.weather.upset || v.world.calmed() {
		return
	}
	v.world.note("%s says goodbye on a connection", v.name)
	v.world.actors.Go(func() {
		wait(v.dice.between(0, 50*time.Millisecond), v.world.calm)
		v.line.stall(down)
		v.world.note("%s hears nothing", v.name)
		v.world.actors.Go(func() { v.world.revoke(v.dice) })
		wait(v.dice.between(time.Second, 3*time.Second), v.world.calm)
		v.line.release()
	})
}

// close ends v in order: it says goodbye, if the network lets it.
func (v *verifier) close(within time.Duration) {
	q := v.ready.Load()
	if q == nil {
		return
	}
	v.closed.Store(true)
	v.world.note("%s closes", v.name)
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	_ = q.Close(ctx)
	v.world.note("%s has closed", v.name)
}

// abandon cuts v off for good. It may accept until its lease ends.
func (v *verifier) abandon(silently bool) {
	v.world.note("%s is cut off for good, silently: %t", v.name, silently)
	v.line.set(true, 0)
	v.line.cut(silently)
	select {
	case <-v.dead:
	default:
		close(v.dead)
	}
}

// abandoned says whether v is on its own, or was closed.
func (v *verifier) abandoned() bool {
	select {
	case <-v.dead:
		return true
	default:
		return v.closed.Load()
	}
}

// logger returns where a process tells of itself: all of it where somebody
// wants to know. Anew is set when a node starts over.
func (w *world) logger(name string, anew *atomic.Bool) *slog.Logger {
	return slog.New(&listener{w, name, anew, *verbose})
}

type listener struct {
	world *world
	name  string
	anew  *atomic.Bool
	all   bool
}

func (l *listener) Enabled(_ context.Context, level slog.Level) bool {
	return l.all || l.anew != nil && level >= slog.LevelError
}
func (l *listener) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l *listener) WithGroup(string) slog.Handler      { return l }

func (l *listener) Handle(_ context.Context, r slog.Record) error {
	if l.anew != nil && strings.HasPrefix(r.Message, "this node starts over") {
		l.anew.Store(true)
	}
	var attrs strings.Builder
	for a := range r.Attrs {
		fmt.Fprintf(&attrs, " %v", a)
	}
	l.world.note("%s: %s%s", l.name, r.Message, &attrs)
	return nil
}

// revokeAll revokes one subject after the other.
func (w *world) revokeAll(d *dice) {
	least, most := time.Duration(0), 1500*time.Millisecond
	if w.weather.quiet {
		least, most = w.bound, 3*w.bound
	}
	for w.pause(d, least, most) {
		for range 1 + d.n(3)*d.n(3) { // some in a row
			w.revoke(d)
		}
	}
}

// hush has nothing revoked for a while.
func (w *world) hush(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hushed = time.Now().Add(d)
}

// revoke revokes a subject, unless it is to be quiet, and waits at some node
// until that is confirmed.
func (w *world) revoke(d *dice) {
	w.mu.Lock()
	quiet := time.Now().Before(w.hushed)
	w.mu.Unlock()
	if !quiet {
		w.revokeNow(d)
	}
}

func (w *world) revokeNow(d *dice) {
	w.mu.Lock()
	s := w.history.subject(w.next)
	w.next++
	w.mu.Unlock()
	if s == nil {
		return
	}
	l := newLink(w.db, d, newMachine(1, 1, 0))
	if w.weather.storms > 0 && d.chance(0.3) {
		l.set(mode{slow: d.between(0, 2*time.Second), fail: 0.1}, update)
	}
	w.history.begin(s)
	position, err := l.revoke(context.Background(), issuer.Revocation{
		Issuer: mintIssuer, Claim: "sub", Value: s.name, Time: time.Now(), Event: "revoked", Actor: "simulation",
	}, func(position uint64) { w.history.committed(s, position, w.witnesses()) })
	if err != nil {
		w.note("revoke %s: %v", s.name, err)
		return
	}
	w.hint(d)
	w.note("%s is revoked at %d", s.name, position)
	for range 1 + d.n(3) {
		if w.confirm(d, s, position, d.between(0, 4*time.Second)) {
			return
		}
	}
}

// hint tells the nodes, or some of them, that the log has changed.
func (w *world) hint(d *dice) {
	for _, n := range w.running() {
		if !d.chance(0.2) {
			w.rest.Go(func() {
				time.Sleep(d.between(0, 5*time.Millisecond))
				select {
				case n.link.changed <- struct{}{}:
				default:
				}
			})
		}
	}
}

// confirm asks a node whether a position is confirmed, and once it is, every
// verifier whether it still accepts.
func (w *world) confirm(d *dice, s *subject, position uint64, within time.Duration) bool {
	n := w.anyNode(d)
	if n == nil {
		return false
	}
	n.machine.awake()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	c := n.log.WaitConfirmed(ctx, position)
	n.machine.awake()
	if !c.Confirmed || n.crashed.Load() {
		return false
	}
	w.history.confirmed(s)
	w.note("%s at %d is confirmed by %s, after %v", s.name, position, n.name, c.Took)
	for _, v := range w.all() {
		v.ask()
	}
	return true
}

// recover checks that everything works again once nothing goes wrong. It takes
// longest where a verifier has just begun to connect to a node that does not
// answer: it gives that more time from round to round, up to the patience of the
// default lease.
func (w *world) recover() {
	const within = 18 * time.Second
	began := time.Now()
	for _, n := range w.staying() {
		ctx, cancel := context.WithTimeout(context.Background(), within)
		head := w.history.head()
		if c := n.log.WaitConfirmed(ctx, head); !c.Confirmed {
			w.history.fail("recovery: %s has not confirmed %d within %v: %+v", n.name, head, within, c)
		}
		cancel()
	}
	for _, v := range w.all() {
		var err error
		for !v.abandoned() {
			if err = v.fresh(); err == nil || time.Since(began) > within {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if err != nil {
			w.history.fail("recovery: %s is not fresh within %v: %v", v.name, within, err)
		}
	}
	w.note("recovered after %v", time.Since(began))
	w.prove()
}

// prove checks that the evidence of what nodes sent stands in the database, or
// will soon: a call of theirs may have begun while the database was slow.
func (w *world) prove() {
	for _, s := range w.history.revoked() {
		witnesses := 0
		for _, n := range w.staying() {
			if slices.Contains(s.witnesses, n) && !n.anew.Load() {
				witnesses++
			}
		}
		var found []issuer.Confirmation
		var err error
		for range 20 {
			if found, err = w.db.confirmations(s.at()); err != nil || len(found) >= witnesses {
				break
			}
			time.Sleep(time.Second / 4)
		}
		if err != nil {
			w.history.fail("evidence: %v", err)
		}
		if len(found) < witnesses {
			w.history.fail("P11: %d nodes were there all the time, and %d left evidence of %d: %+v", witnesses, len(found), s.at(), found)
		}
	}
}
