package server

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// wantGoal waits until a collection has set the size of the next to so many MiB.
func wantGoal(t *testing.T, what string, least, most uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		runtime.GC()
		goal := runtimeMetric("/gc/heap/goal:bytes") >> 20
		if least <= goal && goal <= most {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%s: the heap is collected at %d MiB; want %d to %d", what, goal, least, most)
		}
	}
}

func TestFloorHeap(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	wantGoal(t, "without a floor", 1, 24)
	end := FloorHeap()
	wantGoal(t, "next to nothing", 46, 56)
	for _, c := range []struct{ live, least, most uint64 }{{4, 46, 56}, {16, 46, 56}, {40, 80, 120}, {100, 200, 240}, {2, 46, 56}} {
		held := make([]byte, c.live<<20)
		wantGoal(t, "with a floor", c.least, c.most)
		runtime.KeepAlive(held)
	}
	end()
	wantGoal(t, "after it", 1, 24)
}

// TestFloorHeapOff leaves the heap of a program alone that is never collected.
func TestFloorHeapOff(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	FloorHeap()()
	if got := debug.SetGCPercent(-1); got != -1 {
		t.Errorf("GOGC: got %d, want it off", got)
	}
}
