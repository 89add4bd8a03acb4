package server

import (
	"runtime"
	"testing"
)

var garbage []byte

// collections counts those of a heap with next to nothing in it, while it makes
// garbage of ten times the floor.
func collections() uint32 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 10 * heapFloor >> 16 {
		garbage = make([]byte, 1<<16)
	}
	runtime.ReadMemStats(&after)
	return after.NumGC - before.NumGC
}

func TestFloorHeap(t *testing.T) {
	before := collections()
	end := FloorHeap()
	with := collections()
	end()
	if after := collections(); with == 0 || before < 4*with || after < 4*with {
		t.Errorf("%d collections, %d with the floor, %d after it", before, with, after)
	}
	f := &floor{usual: 100}
	for live, want := range map[uint64]int{0: 100, 1 << 20: 4700, 12 << 20: 300, heapFloor / 2: 100, heapFloor - 1: 100, heapFloor: 100, 1 << 40: 100} {
		if got := f.percent(live); got != want {
			t.Errorf("a heap of %d may grow by %d%%; want %d", live, got, want)
		}
	}
}
