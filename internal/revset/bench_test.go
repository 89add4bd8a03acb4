package revset_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/quashdev/quash/internal/revset"
)

// keys returns n keys, the same for the same seed.
func keys(n int, seed uint64) []revset.Key {
	rng := rand.New(rand.NewPCG(seed, seed))
	ks := make([]revset.Key, n)
	for i := range ks {
		binary.LittleEndian.PutUint64(ks[i][:8], rng.Uint64())
		binary.LittleEndian.PutUint64(ks[i][8:], rng.Uint64())
	}
	return ks
}

// records numbers the keys from 1.
func records(ks []revset.Key) []revset.Record {
	rs := make([]revset.Record, len(ks))
	for i, k := range ks {
		p := uint64(i + 1)
		rs[i] = revset.Record{Position: p, Key: k, Before: p, Forget: 1_800_000_000 + uint32(i/1000)}
	}
	return rs
}

// lockedMap is what a set is measured against: the map one would write first.
type lockedMap struct {
	mu sync.RWMutex
	m  map[revset.Key]uint64
}

func (l *lockedMap) Apply(rs []revset.Record, _ uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range rs {
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

type lookuper interface {
	Apply([]revset.Record, uint64) error
	Lookup(revset.Key) (uint64, uint32, bool)
}

// eachKind runs f with a set and with a map, both of n entries.
func eachKind(b *testing.B, n int, f func(b *testing.B, s lookuper, present []revset.Key)) {
	present := keys(n, 1)
	for _, kind := range []string{"set", "map"} {
		b.Run(fmt.Sprintf("%s/n=%d", kind, n), func(b *testing.B) {
			var s lookuper = revset.New(0)
			if kind == "map" {
				s = &lockedMap{m: make(map[revset.Key]uint64)}
			}
			if err := s.Apply(records(present), uint64(n)); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			f(b, s, present)
		})
	}
}

var sizes = []int{10_000, 1_000_000}

func BenchmarkHit(b *testing.B) {
	for _, n := range sizes {
		eachKind(b, n, func(b *testing.B, s lookuper, present []revset.Key) {
			for i := range b.N {
				// A large odd stride leaves no order for a prefetcher to find.
				if _, _, ok := s.Lookup(present[i*7_919_777%n]); !ok {
					b.Fatal("entry not found")
				}
			}
		})
	}
}

func BenchmarkMiss(b *testing.B) {
	absent := keys(1<<16, 2)
	for _, n := range sizes {
		eachKind(b, n, func(b *testing.B, s lookuper, _ []revset.Key) {
			for i := range b.N {
				if _, _, ok := s.Lookup(absent[i&(len(absent)-1)]); ok {
					b.Fatal("absent key found")
				}
			}
		})
	}
}

// BenchmarkBesideWriter looks up, half of it in vain, on every core while
// 10,000 records a second come in.
func BenchmarkBesideWriter(b *testing.B) {
	absent := keys(1<<16, 2)
	for _, n := range sizes {
		eachKind(b, n, func(b *testing.B, s lookuper, present []revset.Key) {
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				write10k(s, stop)
			}()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for i := rand.IntN(n); pb.Next(); i++ {
					s.Lookup(present[i*7_919_777%n])
					if pb.Next() {
						s.Lookup(absent[i&(len(absent)-1)])
					}
				}
			})
			b.StopTimer()
			close(stop)
			<-stopped
		})
	}
}

// write10k applies ten new records each millisecond.
func write10k(s lookuper, stop <-chan struct{}) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for seed := uint64(3); ; seed++ {
		select {
		case <-tick.C:
			for _, r := range records(keys(10, seed)) {
				if err := s.Apply([]revset.Record{r}, r.Position); err != nil {
					panic(err)
				}
			}
		case <-stop:
			return
		}
	}
}

// BenchmarkApply fills a set as a snapshot does, with parts of 20,000 records
// in the order of a log and in that of another set.
func BenchmarkApply(b *testing.B) {
	for _, n := range sizes {
		logged := records(keys(n, 1))
		s := revset.New(0)
		if err := s.Apply(logged, uint64(n)); err != nil {
			b.Fatal(err)
		}
		for order, rs := range map[string][]revset.Record{"log": logged, "set": slices.Collect(s.All)} {
			b.Run(fmt.Sprintf("%s/n=%d", order, n), func(b *testing.B) {
				for b.Loop() {
					s := revset.New(0)
					for part := range slices.Chunk(rs, 20_000) {
						if err := s.Apply(part, uint64(n)); err != nil {
							b.Fatal(err)
						}
					}
					b.ReportMetric(float64(s.Bytes())/float64(n), "B/entry")
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/entry")
			})
		}
	}
}
