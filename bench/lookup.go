package main

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quashdev/quash/internal/revset"
)

// lookuper is a set of revocations.
type lookuper interface {
	Apply(records []revset.Record, position uint64) error
	Lookup(k revset.Key) (before uint64, notBefore uint32, ok bool)
}

// lockedMap is the set that one would write first.
type lockedMap struct {
	mu sync.RWMutex
	m  map[revset.Key]uint64
}

func (l *lockedMap) Apply(records []revset.Record, _ uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range records {
		l.m[r.Key] = max(l.m[r.Key], r.Before)
	}
	return nil
}

func (l *lockedMap) Lookup(k revset.Key) (uint64, uint32, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	before, ok := l.m[k]
	return before, 0, ok
}

// inserts is how many records a second a writer adds, in batches of a
// millisecond.
const inserts = 10_000

var errLookup = errors.New("the look-up's answer is wrong")

func measureLookup(b *bench) ([]row, error) {
	b.progress.show("lookup: %d revocations", b.revocations)
	present, absent := randomKeys(b.revocations, 3), randomKeys(b.revocations, 4)
	set, setBytes, err := fill(revset.New(0), present)
	if err != nil {
		return nil, err
	}
	m, mapBytes, err := fill(&lockedMap{m: map[revset.Key]uint64{}}, present)
	if err != nil {
		return nil, err
	}
	rand.Shuffle(len(present), func(i, j int) { present[i], present[j] = present[j], present[i] })
	samples, err := b.alternate("lookup", b.rounds,
		b.lookUp(set, present, true), b.lookUp(m, present, true),
		b.lookUp(set, absent, false), b.lookUp(m, absent, false))
	if err != nil {
		return nil, err
	}
	parallel, err := b.alternate("lookup beside a writer", b.long,
		b.besideWriter(set, present, absent), b.besideWriter(m, present, absent))
	if err != nil {
		return nil, err
	}
	of := fmt.Sprintf(" of %s", thousands(float64(b.revocations)))
	miss := faster("miss"+of, samples[2], "map, RWMutex", samples[3], bound{})
	miss.OursTarget = bound{Most: 90e-9}
	entry := times("memory an entry", bytesEach, []float64{setBytes}, "map", []float64{mapBytes}, bound{})
	entry.OursTarget = bound{Most: 30}
	return []row{
		faster("hit"+of, samples[0], "map, RWMutex", samples[1], bound{}),
		miss,
		times(fmt.Sprintf("%d readers, writer at %s/s", readers(), thousands(inserts)), perSecond, parallel[0], "map, RWMutex", parallel[1], bound{Least: 2.5}),
		entry,
	}, nil
}

// fill adds the keys as a feed does, and returns by how much the heap grew for
// each.
func fill[S lookuper](s S, keys []revset.Key) (S, float64, error) {
	before := heap()
	part := make([]revset.Record, 0, 1000)
	for i, k := range keys {
		part = append(part, recordAt(uint64(i+1), k))
		if len(part) == cap(part) || i == len(keys)-1 {
			if err := s.Apply(part, uint64(i+1)); err != nil {
				return s, 0, err
			}
			part = part[:0]
		}
	}
	grown := float64(heap()) - float64(before)
	runtime.KeepAlive(s)
	return s, grown / float64(len(keys)), nil
}

// heap returns how much is in use, once what was left before is gone.
func heap() uint64 {
	var m runtime.MemStats
	for last := uint64(math.MaxUint64); ; last = m.HeapAlloc {
		runtime.GC()
		runtime.ReadMemStats(&m)
		if m.HeapAlloc+1<<16 > last {
			return m.HeapAlloc
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (b *bench) lookUp(s lookuper, keys []revset.Key, found bool) candidate {
	next := 0
	return func() (float64, error) {
		return perCall(b.lookups, func(int) error {
			if next++; next == len(keys) {
				next = 0
			}
			if _, _, ok := s.Lookup(keys[next]); ok != found {
				return errLookup
			}
			return nil
		})
	}
}

func readers() int { return max(2, runtime.GOMAXPROCS(0)) }

// besideWriter returns how many look-ups a second readers make together, half
// of them hits, while a writer inserts.
func (b *bench) besideWriter(s lookuper, present, absent []revset.Key) candidate {
	position := uint64(len(present))
	return func() (float64, error) {
		var over atomic.Bool
		var total atomic.Int64
		var working sync.WaitGroup
		for r := range readers() {
			working.Go(func() {
				start := r * len(present) / readers()
				for i := start; !over.Load(); i += 64 {
					for j := i; j < i+32; j++ {
						s.Lookup(present[j%len(present)])
						s.Lookup(absent[j%len(absent)])
					}
					total.Add(64)
				}
			})
		}
		start := time.Now()
		err := insert(s, &position, start.Add(b.parallel))
		elapsed := time.Since(start)
		over.Store(true)
		working.Wait()
		return float64(total.Load()) / elapsed.Seconds(), err
	}
}

// insert adds new records at their rate until the end.
func insert(s lookuper, position *uint64, end time.Time) error {
	const batch = inserts / 1000
	for next := time.Now(); next.Before(end); next = next.Add(time.Millisecond) {
		time.Sleep(time.Until(next))
		records := make([]revset.Record, 0, batch)
		for _, k := range randomKeys(batch, rand.Uint64()) {
			*position++
			records = append(records, recordAt(*position, k))
		}
		if err := s.Apply(records, *position); err != nil {
			return err
		}
	}
	return nil
}
