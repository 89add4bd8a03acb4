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
	f := &floor{usual: int(runtimeMetric("/gc/gogc:percent"))}
	if f.usual >= 0 {
		f.adjust()
	}
	return f.end
}

// floor sets after each collection when the next one begins.
type floor struct {
	usual int // percent of what is live; -1: it is not collected

	mu    sync.Mutex
	ended bool
}

// collected is what a collection finds dead, which tells that there was one.
// What has no pointer could share its place with something that lives.
type collected struct{ _ *int }

func (f *floor) adjust() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return
	}
	debug.SetGCPercent(f.percent(runtimeMetric("/gc/heap/live:bytes"), runtimeMetric("/gc/scan/stack:bytes")+runtimeMetric("/gc/scan/globals:bytes")))
	runtime.AddCleanup(new(collected), (*floor).adjust, f)
}

// percent is by how much a heap may grow that has so many octets live, 0 before
// the first collection, beside so many in stacks and variables. The runtime
// takes it of both; and the same of 4 MiB, at least.
func (f *floor) percent(live, beside uint64) int {
	if live >= heapFloor {
		return f.usual
	}
	percent := uint64(100 * heapFloor / (4 << 20))
	if live+beside > 0 {
		percent = min(percent, 100*(heapFloor-live)/(live+beside))
	}
	return max(f.usual, int(percent))
}

func (f *floor) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended = true; f.usual >= 0 {
		debug.SetGCPercent(f.usual)
	}
}

func runtimeMetric(name string) uint64 {
	sample := []runtimemetrics.Sample{{Name: name}}
	runtimemetrics.Read(sample)
	return sample[0].Value.Uint64()
}
