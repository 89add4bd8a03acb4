package quash

import (
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/quashdev/quash/internal/lease"
)

// machine is what a process of the simulation runs on: two clocks that agree
// with nobody's, and a gate that lets nothing in or out while the machine
// sleeps or the process is paused.
//
// Goroutines cannot be stopped from outside. So both clocks jump at the
// beginning of a pause to where they will be at its end, and stand still until
// then: what the process does meanwhile is what it does at the moment in which
// it goes on, and is not seen before.
type machine struct {
	mu      sync.Mutex
	at      time.Time // true time of the reading below
	reading lease.Moment
	mono    float64 // rate of the monotonic clock
	wall    float64 // rate of the wall clock
	frozen  bool
	open    chan struct{} // closed while the machine runs
	falls   time.Duration // a verify is held up for as long when it reads the clock
	after   int           // as many readings by verifies from now
}

func newMachine(mono, wall float64, skew time.Duration) *machine {
	m := &machine{at: time.Now(), mono: mono, wall: wall, open: make(chan struct{})}
	m.reading.Wall = m.at.Add(skew).UnixNano()
	close(m.open)
	return m
}

// advance brings the reading up to date. The caller holds mu.
func (m *machine) advance() {
	now := time.Now()
	if d := float64(now.Sub(m.at)); !m.frozen {
		m.reading.Mono += time.Duration(d * m.mono)
		m.reading.Wall += int64(d * m.wall)
	}
	m.at = now
}

func (m *machine) clock() lease.Moment {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.advance()
	now := m.reading
	if d := m.falls; d > 0 && verifying() {
		if m.after--; m.after >= 0 {
			return now
		}
		m.falls = 0
		m.mu.Unlock()
		time.Sleep(d)
		m.mu.Lock()
		if m.advance(); d%2 == 0 { // either the clock was read after the delay, or before
			now = m.reading
		}
	}
	return now
}

// verifying says whether the clock is read for a verify, which holds no lock.
func verifying() bool {
	pcs := make([]uintptr, 8)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, "(*Verifier).admit") {
			return true
		}
		if !more {
			return false
		}
	}
}

// delay has one verify held up at a reading of the clock, after some others.
func (m *machine) delay(d time.Duration, after int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.falls, m.after = d, after
}

// step sets the wall clock.
func (m *machine) step(by time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.advance()
	m.reading.Wall += int64(by)
}

// set sets the wall clock right.
func (m *machine) set() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.advance()
	m.reading.Wall = m.at.UnixNano()
}

// pause stops the machine for some time. While it sleeps, rather than being
// paused, its monotonic clock stands still.
func (m *machine) pause(d time.Duration, sleeps bool) {
	m.mu.Lock()
	m.advance()
	if !sleeps {
		m.reading.Mono += time.Duration(float64(d) * m.mono)
	}
	m.reading.Wall += int64(float64(d) * m.wall)
	m.frozen, m.open = true, make(chan struct{})
	m.mu.Unlock()
	time.Sleep(d)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.advance()
	m.frozen = false
	close(m.open)
}

// awake returns once the machine runs.
func (m *machine) awake() {
	for {
		m.mu.Lock()
		open := m.open
		m.mu.Unlock()
		select {
		case <-open:
			return
		default:
			<-open
		}
	}
}

func (m *machine) paused() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.frozen
}

// wait waits for some time, or until done, and says whether it waited so long.
func wait(d time.Duration, done <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-done:
		return false
	}
}
