package server

import (
	"runtime"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"sync"
)

// heapFloor is the least that the heap may grow to before it is collected.
const heapFloor = 48 << 20

// FloorHeap lets the heap of this process grow to 48 MiB at least before it is
// collected, until end is called. It is for programs that are a server and
// nothing else, as quash serve is. A node has little to remember and makes much
// garbage: under load it would collect it tens of times a second, on cores that
// its database needs as well. A larger heap is collected as it would be
// anyway, by GOGC and GOMEMLIMIT. It must not be called again before end.
func FloorHeap() (end func()) {
	f := &floor{usual: debug.SetGCPercent(100)}
	debug.SetGCPercent(f.usual)
	if f.usual >= 0 { // it is collected at all
		f.adjust(new(collected))
	}
	return f.end
}

// floor sets after each collection when the next one begins.
type floor struct {
	usual int // percent of what is live

	mu    sync.Mutex
	ended bool
}

// collected is what a collection finds dead, which tells that there was one.
type collected struct{ _ *int }

func (f *floor) adjust(c *collected) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return
	}
	live := []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}}
	runtimemetrics.Read(live)
	debug.SetGCPercent(f.percent(live[0].Value.Uint64()))
	runtime.SetFinalizer(c, f.adjust)
}

// percent is by how much a heap may grow that has so many octets live, none of
// them where it was never collected.
func (f *floor) percent(live uint64) int {
	if live == 0 || live >= heapFloor {
		return f.usual
	}
	return max(f.usual, int(100*(heapFloor-live)/live))
}

func (f *floor) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	debug.SetGCPercent(f.usual)
}
