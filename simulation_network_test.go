package quash

import (
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// dice are a source of random choices that may be shared.
type dice struct {
	mu  sync.Mutex
	rnd *rand.Rand
}

// newDice returns the dice of one part of a simulation.
func newDice(seed uint64, part ...uint64) *dice {
	stream := uint64(0x9e3779b97f4a7c15)
	for _, p := range part {
		stream = (stream ^ (p + 1)) * 0xff51afd7ed558ccd
	}
	return &dice{rnd: rand.New(rand.NewPCG(seed, stream))}
}

func (d *dice) float() float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rnd.Float64()
}

// chance is true in p of the cases.
func (d *dice) chance(p float64) bool { return d.float() < p }

// n returns one of 0 to n-1.
func (d *dice) n(n int) int { return int(d.float() * float64(n)) }

// between returns a time from a to b, short ones more often where it may be
// short.
func (d *dice) between(a, b time.Duration) time.Duration {
	f := d.float()
	if a < b/8 {
		f *= f
	}
	return a + time.Duration(f*float64(b-a))
}

// direction of what a wire carries.
type direction int

const (
	up   direction = iota // to the node
	down                  // to the verifier
)

// line is how the network treats a process. Its zero value is a good one.
type line struct {
	mu    sync.Mutex
	away  bool             // nobody connects
	hold  [2]chan struct{} // nothing moves before it is closed; nil: it does
	lets  [2]int           // so much is let through all the same
	slow  time.Duration    // how long at most anything takes
	wires map[*wire]struct{}
}

var errUnreachable = errors.New("simulation: unreachable")

// stall keeps back what goes in a direction, until release.
func (l *line) stall(d direction) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hold[d] == nil {
		l.hold[d] = make(chan struct{})
	}
}

func (l *line) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for d, c := range l.hold {
		if c != nil {
			close(c)
			l.hold[d] = nil
		}
	}
	l.away, l.slow, l.lets = false, 0, [2]int{}
}

func (l *line) set(away bool, slow time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away, l.slow = away, slow
}

func (l *line) pass(d direction) {
	for {
		l.mu.Lock()
		c, let := l.hold[d], l.lets[d] > 0
		if let {
			l.lets[d]--
		}
		l.mu.Unlock()
		if c == nil || let {
			return
		}
		<-c
	}
}

// let lets some of what is kept back through.
func (l *line) let(d direction, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.hold[d]; c != nil {
		close(c)
		l.hold[d], l.lets[d] = make(chan struct{}), n
	}
}

func (l *line) reachable() (slow time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.slow, !l.away
}

func (l *line) keep(w *wire, there bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wires == nil {
		l.wires = map[*wire]struct{}{}
	}
	if there {
		l.wires[w] = struct{}{}
	} else {
		delete(l.wires, w)
	}
}

func (l *line) all() (wires []*wire) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for w := range l.wires {
		wires = append(wires, w)
	}
	return wires
}

// cut ends the connections: with word to both ends, or dropping all that is
// sent from then on.
func (l *line) cut(silently bool) {
	for _, w := range l.all() {
		if silently {
			w.lose(up, down)
		} else {
			w.reset()
		}
	}
}

// wire is one connection through the network.
type wire struct {
	dice  *dice
	lines [2]*line    // of the verifier, and of the node
	from  [2]*machine // by direction
	ends  [2]net.Conn // the network's, of the verifier's side and the node's
	told  func(d direction, b []byte)

	mu   sync.Mutex
	lost [2]bool // what goes in a direction is dropped
}

type chunk struct {
	bytes []byte
	at    time.Time // when it arrives, unless it is kept back
}

// run carries what is sent until both ends are closed.
func (w *wire) run() {
	for _, l := range w.lines {
		l.keep(w, true)
	}
	var pumps sync.WaitGroup
	for _, d := range []direction{up, down} {
		queue := make(chan chunk, 256)
		pumps.Go(func() { w.take(d, queue) })
		pumps.Go(func() { w.bring(d, queue) })
	}
	pumps.Wait()
	for _, l := range w.lines {
		l.keep(w, false)
	}
}

// take takes what is sent in a direction.
func (w *wire) take(d direction, queue chan<- chunk) {
	defer close(queue)
	buf := make([]byte, 4096)
	for {
		n, err := w.ends[d].Read(buf)
		if err != nil {
			return
		}
		b := append([]byte{}, buf[:n]...)
		w.told(d, b)
		queue <- chunk{b, time.Now().Add(w.latency())}
	}
}

func (w *wire) latency() (most time.Duration) {
	most = time.Millisecond
	for _, l := range w.lines {
		slow, _ := l.reachable()
		most = max(most, slow)
	}
	return w.dice.between(0, most)
}

// bring delivers it, in order.
func (w *wire) bring(d direction, queue <-chan chunk) {
	there := w.ends[1-d]
	for c := range queue {
		time.Sleep(time.Until(c.at))
		w.pass(d)
		if w.dropped(d) {
			continue
		}
		if _, err := there.Write(c.bytes); err != nil {
			w.ends[d].Close()
		}
	}
	w.pass(d)
	if !w.dropped(d) {
		there.Close()
	}
}

func (w *wire) pass(d direction) {
	w.from[d].awake()
	for _, l := range w.lines {
		l.pass(d)
	}
	w.from[1-d].awake()
}

// lose drops all that goes in some directions from now on, the end of the
// connection with it.
func (w *wire) lose(directions ...direction) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range directions {
		w.lost[d] = true
	}
}

func (w *wire) dropped(d direction) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost[d]
}

// reset closes both ends at once.
func (w *wire) reset() {
	for _, c := range w.ends {
		c.Close()
	}
}

// shuffled returns s in a random order.
func shuffled[T any](d *dice, s []T) []T {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rnd.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
	return s
}
