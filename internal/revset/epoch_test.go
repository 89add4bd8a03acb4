package revset_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/quashdev/quash/internal/revset"
)

// A log's epochs begin far above each other. What was live before one stays so,
// and nothing is rounded.
func TestPositionsOfManyEpochs(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	s := revset.New(1 << 20)
	want := map[revset.Key]revset.Record{}
	position := uint64(0)
	for _, begin := range []uint64{0, 1<<28 + 7, 1<<32 - 100, 1<<33 + 5, 1_796_000_000 << 20, 1_796_000_060 << 20, revset.MaxPosition - 1001} {
		position = begin
		var batch []revset.Record
		for range 1000 {
			position++
			var k revset.Key
			binary.BigEndian.PutUint64(k[:], rnd.Uint64N(3000)*0x9e3779b97f4a7c15)
			binary.BigEndian.PutUint64(k[8:], rnd.Uint64N(2)*0x9e3779b97f4a7c15)
			r := revset.Record{Position: position, Key: k, Before: position, Forget: revset.NeverForget}
			switch rnd.IntN(10) {
			case 0:
				r.Before = revset.Forever
			case 1:
				r.NotBefore = rnd.Uint32()
			}
			batch = append(batch, r)
			w := want[k]
			want[k] = revset.Record{Before: max(w.Before, r.Before), NotBefore: max(w.NotBefore, r.NotBefore)}
		}
		if err := s.Apply(batch, position); err != nil {
			t.Fatal(err)
		}
		for k, w := range want {
			before, notBefore, ok := s.Lookup(k)
			if !ok || before != w.Before || notBefore != w.NotBefore {
				t.Fatalf("after %d: key %x: got %d, %d, %v, want %d, %d", position, k, before, notBefore, ok, w.Before, w.NotBefore)
			}
		}
		if s.Position() != position || s.Len() != len(want) {
			t.Fatalf("at %d with %d entries, want %d with %d", s.Position(), s.Len(), position, len(want))
		}
		s.Forget(1, 1<<20)
	}
}
