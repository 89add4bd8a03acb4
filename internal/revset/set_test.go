package revset_test

import (
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/quashdev/quash/internal/revset"
)

// tester is what *testing.T and *rapid.T have in common.
type tester interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

func apply(t tester, s *revset.Set, position uint64, rs ...revset.Record) {
	t.Helper()
	if err := s.Apply(rs, position); err != nil {
		t.Fatalf("Apply(%d records): %v", len(rs), err)
	}
}

func wantLookup(t tester, s *revset.Set, k revset.Key, before uint64, notBefore uint32) {
	t.Helper()
	gotBefore, gotNotBefore, ok := s.Lookup(k)
	if !ok || gotBefore != before || gotNotBefore != notBefore {
		t.Errorf("Lookup(%x) = %d, %d, %t, want %d, %d, true", k, gotBefore, gotNotBefore, ok, before, notBefore)
	}
}

func content(s *revset.Set) map[revset.Key]revset.Record {
	m := make(map[revset.Key]revset.Record)
	for r := range s.All {
		m[r.Key] = r
	}
	return m
}

// A set behaves as a map of merged records, whatever comes in which order.
func TestP6SetIsAMapOfMergedRecords(t *testing.T) {
	universe := append(keys(500, 7), revset.Key{15: 1}, revset.Key{0: 0x80}, revset.Key{0: 0xff})
	for i := range byte(50) { // keys to be mistaken for one another, or for nothing
		universe = append(universe, revset.Key{7: i}, revset.Key{7: 0x80 + i})
	}
	befores := rapid.OneOf(
		rapid.Uint64Range(1, 1000),
		rapid.Uint64Range(1, revset.MaxPosition-1),
		rapid.Just(revset.Forever),
	)
	forgets := rapid.OneOf(rapid.Uint32Range(1, 100), rapid.Just(revset.NeverForget))
	records := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) revset.Record {
		return revset.Record{
			Position:  1,
			Key:       rapid.SampledFrom(universe).Draw(t, "key"),
			Before:    befores.Draw(t, "before"),
			NotBefore: rapid.OneOf(rapid.Just[uint32](0), rapid.Uint32()).Draw(t, "not before"),
			Forget:    forgets.Draw(t, "forget"),
		}
	}), 0, 60)

	rapid.Check(t, func(t *rapid.T) {
		s, model := revset.New(0), make(map[revset.Key]revset.Record)
		t.Repeat(map[string]func(*rapid.T){
			"apply": func(t *rapid.T) {
				rs := records.Draw(t, "records")
				position := rapid.Uint64().Draw(t, "position")
				apply(t, s, position, rs...)
				for _, r := range rs {
					if was, ok := model[r.Key]; ok {
						r = was.Merge(r)
					}
					model[r.Key] = r
				}
				if got := s.Position(); got != position {
					t.Fatalf("Position() = %d, want %d", got, position)
				}
			},
			"forget": func(t *rapid.T) {
				now := rapid.Uint32Range(0, 101).Draw(t, "now")
				budget := rapid.IntRange(1, 10_000).Draw(t, "budget")
				want := len(model)
				maps.DeleteFunc(model, func(_ revset.Key, r revset.Record) bool { return r.Forget < now })
				want -= len(model)
				dropped := 0
				for range 200 {
					dropped += s.Forget(now, budget)
				}
				if dropped != want {
					t.Fatalf("Forget(%d) dropped %d entries, want %d", now, dropped, want)
				}
			},
			"": func(t *rapid.T) {
				if got, want := s.Len(), len(model); got != want {
					t.Fatalf("Len() = %d, want %d", got, want)
				}
				if diff := cmp.Diff(model, content(s)); diff != "" {
					t.Fatalf("All (-want +got):\n%s", diff)
				}
				for _, k := range universe {
					want, in := model[k]
					before, notBefore, ok := s.Lookup(k)
					if ok != in || before != want.Before || notBefore != want.NotBefore {
						t.Fatalf("Lookup(%x) = %d, %d, %t, want %d, %d, %t", k, before, notBefore, ok, want.Before, want.NotBefore, in)
					}
				}
			},
		})
	})
}

func TestMergeKeepsTheStrictest(t *testing.T) {
	k := keys(1, 1)[0]
	s := revset.New(0)
	apply(t, s, 1, revset.Record{Position: 1, Key: k, Before: 10, Forget: 50})
	wantLookup(t, s, k, 10, 0)
	apply(t, s, 2, revset.Record{Position: 2, Key: k, Before: 5, NotBefore: 1_700_000_000, Forget: 40})
	wantLookup(t, s, k, 10, 1_700_000_000)
	apply(t, s, 3, revset.Record{Position: 3, Key: k, Before: revset.Forever, Forget: 30})
	wantLookup(t, s, k, revset.Forever, 1_700_000_000)
	if s.Len() != 1 {
		t.Errorf("Len() = %d, want 1", s.Len())
	}
	if n := s.Forget(50, 1000); n != 0 {
		t.Errorf("Forget dropped %d entries at the second of the greatest Forget, want 0", n)
	}
	if n := s.Forget(51, 1000); n != 1 {
		t.Errorf("Forget dropped %d entries after the greatest Forget, want 1", n)
	}
}

func TestForeverOutlastsEveryForget(t *testing.T) {
	k := keys(1, 1)[0]
	s := revset.New(0)
	apply(t, s, 1, revset.Record{Position: 1, Key: k, Before: revset.Forever, Forget: revset.NeverForget})
	apply(t, s, 2, revset.Record{Position: 2, Key: k, Before: 2, Forget: 1})
	s.Forget(math.MaxUint32, 1_000_000)
	wantLookup(t, s, k, revset.Forever, 0)
}

// Entries stay exact however far the log has come since they were made.
func TestP6PositionsFarApart(t *testing.T) {
	ks := keys(10_000, 1)
	s := revset.New(0)
	want := func(i int) uint64 { return uint64(i)*(revset.MaxPosition/uint64(len(ks))) + 1 }
	for i, k := range ks {
		apply(t, s, want(i), revset.Record{Position: want(i), Key: k, Before: want(i), Forget: revset.NeverForget})
	}
	for i, k := range ks {
		wantLookup(t, s, k, want(i), 0)
	}
}

func TestFullSetKeepsItsPosition(t *testing.T) {
	rs := records(keys(101, 1))
	s := revset.New(100)
	apply(t, s, 100, rs[:100]...)
	apply(t, s, 101, rs[:100]...) // nothing new
	if err := s.Apply(rs[100:], 102); !errors.Is(err, revset.ErrFull) {
		t.Fatalf("Apply of one entry too many: %v, want ErrFull", err)
	}
	if s.Position() != 101 || s.Len() != 100 {
		t.Errorf("position %d with %d entries, want 101 with 100", s.Position(), s.Len())
	}
	if n := s.Forget(rs[0].Forget+1, 1000); n != 100 {
		t.Fatalf("Forget dropped %d entries, want 100", n)
	}
	apply(t, s, 102, rs[100:]...)
	wantLookup(t, s, rs[100].Key, 101, 0)
}

func TestForgetBoundsItsWork(t *testing.T) {
	const n, budget = 100_000, 1000
	rs := records(keys(n, 1))
	s := revset.New(0)
	apply(t, s, n, rs...)
	calls, dropped := 0, 0
	for dropped < n {
		// Shards hold some 800 entries, so that a call ends within a second one.
		got := s.Forget(revset.NeverForget, budget)
		if got == 0 || got > 2*budget+budget/2 {
			t.Fatalf("call %d dropped %d entries with a budget of %d", calls, got, budget)
		}
		calls, dropped = calls+1, dropped+got
	}
	if s.Len() != 0 || s.Forget(revset.NeverForget, n) != 0 {
		t.Errorf("entries left after %d calls: %d", calls, s.Len())
	}
	if got := s.Forget(revset.NeverForget, 0); got != 0 {
		t.Errorf("Forget without a budget dropped %d", got)
	}
	if got := s.Bytes(); got > 100_000 {
		t.Errorf("an emptied set takes %d bytes", got)
	}
}

func TestAllStopsWhenTold(t *testing.T) {
	s := revset.New(0)
	apply(t, s, 1000, records(keys(1000, 1))...)
	n := 0
	for range s.All {
		if n++; n == 10 {
			break
		}
	}
	if n != 10 {
		t.Errorf("%d records after the break, want 10", n)
	}
}

// The order of one set must not crowd another that is filled from it, nor
// must the order of keys.
func TestOrderDoesNotCrowdASet(t *testing.T) {
	const n = 200_000
	logged := records(keys(n, 1))
	first := revset.New(0)
	apply(t, first, n, logged...)
	sorted := slices.SortedFunc(slices.Values(logged), func(a, b revset.Record) int { return slices.Compare(a.Key[:], b.Key[:]) })
	for name, rs := range map[string][]revset.Record{"log": logged, "set": slices.Collect(first.All), "keys": sorted} {
		s, worst := revset.New(0), 0.0
		for part := range slices.Chunk(rs, 100) {
			apply(t, s, n, part...)
			if s.Len()%5000 == 0 {
				worst = max(worst, s.SearchLength())
			}
		}
		if worst > 45 {
			t.Errorf("in the order of the %s a search takes %.1f groups, want at most 45", name, worst)
		}
	}
}

// Who has loaded a position finds every entry up to it, whole, and none that
// was never there, while the writer adds, merges, forgets and grows.
func TestP4ReadersSeeAllUpToThePosition(t *testing.T) {
	const last = 30_000
	ks, absent := keys(last+1, 1), keys(1000, 2)
	s := revset.New(0)
	var done atomic.Bool
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for i := uint64(1); !done.Load(); i++ {
				readOnce(t, s, ks, absent, i)
			}
		})
	}
	readers.Go(func() {
		for !done.Load() {
			readAll(t, s, ks)
		}
	})
	write(t, s, ks)
	done.Store(true)
	readers.Wait()
}

// hot is the one key that write changes all the time, to befores that are
// hotRatio times their notBefore.
const hotRatio = 1 << 20

// write revokes the key of each position, to be forgotten soon where the
// position is odd, and at the same time the key of position 0 anew.
func write(t *testing.T, s *revset.Set, ks []revset.Key) {
	for p := uint64(1); p < uint64(len(ks)); p++ {
		forget := revset.NeverForget
		if p%2 == 1 {
			forget = uint32(p)
		}
		apply(
			t, s, p,
			revset.Record{Position: p, Key: ks[p], Before: p, Forget: forget},
			revset.Record{Position: p, Key: ks[0], Before: p * hotRatio, NotBefore: uint32(p), Forget: revset.NeverForget},
		)
		if p%100 == 0 {
			s.Forget(uint32(p-50), 1000)
		}
	}
}

// readAll checks that a walk through the set misses nothing that was there
// when it began.
func readAll(t *testing.T, s *revset.Set, ks []revset.Key) {
	position := s.Position()
	all := content(s)
	for p := uint64(2); p <= position; p += 2 { // an even one is never forgotten
		if r := all[ks[p]]; r.Before != p {
			t.Errorf("from position %d on, All yields %+v for %d", position, r, p)
		}
	}
	if r := all[ks[0]]; r.Before != uint64(r.NotBefore)*hotRatio || uint64(r.NotBefore) < position {
		t.Errorf("from position %d on, All yields %+v for a changing entry", position, r)
	}
}

func readOnce(t *testing.T, s *revset.Set, ks, absent []revset.Key, i uint64) {
	position := s.Position()
	if position < 2 {
		return
	}
	p := (i*7919%position + 1) &^ 1 // an even one is never forgotten
	if before, _, ok := s.Lookup(ks[max(p, 2)]); !ok || before != max(p, 2) {
		t.Errorf("at position %d, Lookup of %d = %d, %t", position, p, before, ok)
	}
	before, notBefore, ok := s.Lookup(ks[0])
	if !ok || before != uint64(notBefore)*hotRatio || uint64(notBefore) < position {
		t.Errorf("at position %d, a changing entry = %d, %d, %t", position, before, notBefore, ok)
	}
	if _, _, ok := s.Lookup(absent[i%uint64(len(absent))]); ok {
		t.Error("absent key found")
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	ks := keys(1001, 1)
	s := revset.New(0)
	apply(t, s, 1000, records(ks[:1000])...)
	i := 0
	if n := testing.AllocsPerRun(2000, func() {
		s.Lookup(ks[i%len(ks)])
		i++
	}); n != 0 {
		t.Errorf("Lookup allocates %v times", n)
	}
}

// A set takes 30 bytes an entry in use and 60 at the peak of its growth, with
// the old tables that the collector has not come to.
func TestMemory(t *testing.T) {
	// By default the collector lets any heap double, which would hide growth.
	defer debug.SetGCPercent(debug.SetGCPercent(50))
	n := 1_000_000
	if os.Getenv("QUASH_SOAK") != "" {
		n = 10_000_000
	}
	rng := rand.New(rand.NewPCG(1, 1))
	rs := records(keys(1000, 1))
	s := revset.New(0)
	runtime.GC()
	base, peak := heap(), 0.0
	for s.Len() < n {
		for i := range rs {
			binary.LittleEndian.PutUint64(rs[i].Key[:8], rng.Uint64())
			binary.LittleEndian.PutUint64(rs[i].Key[8:], rng.Uint64())
		}
		apply(t, s, 1, rs...)
		peak = max(peak, heap()-base)
		if used := float64(s.Bytes()) / float64(s.Len()); s.Len() >= n/2 && used > 30 {
			t.Fatalf("tables take %.2f bytes an entry at %d, want at most 30", used, s.Len())
		}
	}
	runtime.GC()
	used := (heap() - base) / float64(n)
	peak /= float64(n)
	t.Logf("soak: %d entries, %.2f bytes each in use, %.2f at the peak", n, used, peak)
	if used > 30 || peak > 60 {
		t.Errorf("%.2f bytes an entry in use and %.2f at the peak, want at most 30 and 60", used, peak)
	}
	runtime.KeepAlive(s)
}

func heap() float64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return float64(sample[0].Value.Uint64())
}
