package main

import (
	"context"
	"errors"
	"math/bits"
	"net"
	"runtime"
	"runtime/metrics"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/internal/revset"
)

// measureTail measures how long the slowest calls take, at many callers, while
// revocations come in and a new snapshot is loaded beside the old one, which
// goes on serving.
func measureTail(b *bench) (rows []row, err error) {
	w, err := b.newWorld()
	if err != nil {
		return nil, err
	}
	defer w.close()
	m, err := b.newMover(w)
	if err != nil {
		return nil, err
	}
	defer m.close()
	read := golangJWT(w.keys, w.signer.alg)
	golang := func(i int) error { _, err := read(w.tokens[i%len(w.tokens)]); return err }
	cached, cold := m.ask(0), m.ask(1)
	var quiet, busy, uncached, theirs []float64
	var quiet3, busy3, uncached3, theirs3, gc []float64
	for range b.tails {
		for _, c := range []struct {
			ask       asker
			busy      bool
			p99, p999 *[]float64
			gc        *[]float64
		}{
			{cached, false, &quiet, &quiet3, nil},
			{golang, false, &theirs, &theirs3, nil},
			{cached, true, &busy, &busy3, &gc},
			{cold, true, &uncached, &uncached3, nil},
		} {
			h, share, err := m.during(c.busy, c.ask)
			if err != nil {
				return nil, err
			}
			*c.p99, *c.p999 = append(*c.p99, h.quantile(.99)), append(*c.p999, h.quantile(.999))
			if c.gc != nil {
				*c.gc = append(*c.gc, share)
			}
		}
	}
	const peer = "golang-jwt alone, at rest"
	rowOf := func(what string, ours, theirs []float64, most, ratio float64) row {
		r := times(what, seconds, ours, peer, theirs, bound{Most: ratio})
		r.OursTarget = bound{Most: most}
		return r
	}
	return []row{
		rowOf("cached, 64 callers, p99", quiet, theirs, 5e-6, 0),
		rowOf("cached, 64 callers, p99.9", quiet3, theirs3, 0, 0),
		rowOf("… 10,000 revocations/s and a snapshot, p99", busy, theirs, 5e-6, 0),
		rowOf("… 10,000 revocations/s and a snapshot, p99.9", busy3, theirs3, 0, 0),
		rowOf("… uncached, p99", uncached, theirs, 0, 1.5),
		rowOf("… uncached, p99.9", uncached3, theirs3, 0, 0),
		times("… the collector's share of CPU time", share, gc, "all of it", slices.Repeat([]float64{1}, len(gc)), bound{}),
	}, nil
}

// mover has verifiers whose node can be replaced by another that keeps too
// little of the log for them to go on, so that they load a snapshot.
type mover struct {
	*bench
	log       *memoryLog
	address   atomic.Value // of the node
	node      *node
	tokens    []string
	verifiers [2]*quash.Verifier // with a cache, and without one
}

func (b *bench) newMover(w *world) (*mover, error) {
	m := &mover{bench: b, log: newMemoryLog(b.revocations), tokens: w.tokens}
	m.log.keys, m.log.secret = w.log.keys, w.log.secret
	if err := m.move(); err != nil {
		return nil, err
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", m.address.Load().(string))
	}
	for i, cache := range []int{0, 1} {
		v, err := quash.Open(b.ctx, quash.Config{URL: "http://moving", Key: "bench", Name: "moved", Audience: audience, CacheBytes: cache, Dial: dial})
		if err != nil {
			m.close()
			return nil, err
		}
		m.verifiers[i] = v
	}
	return m, nil
}

func (m *mover) ask(verifier int) asker {
	return func(i int) error {
		_, err := m.verifiers[verifier].Verify(m.tokens[i%len(m.tokens)])
		return err
	}
}

// move ends the node and starts another, by which time what the verifiers would
// have read next is pruned.
func (m *mover) move() error {
	if m.node != nil {
		if err := m.node.stop(); err != nil {
			return err
		}
		pruned := m.log.append(revset.Key([]byte(random())[:16]))
		m.log.mu.Lock()
		m.log.node, m.log.pruned = nil, pruned
		m.log.mu.Unlock()
	}
	n, err := startNode(m.log, nil)
	if err == nil {
		m.node = n
		m.address.Store(n.address)
	}
	return err
}

func (m *mover) close() {
	for _, v := range m.verifiers {
		if v != nil {
			_ = v.Close(context.Background())
		}
	}
	if m.node != nil {
		_ = m.node.stop()
	}
}

var errNotMoved = errors.New("the verifiers did not take the new snapshot")

// during returns how long calls took, and the collector's share of the CPU time
// that was used meanwhile.
func (m *mover) during(busy bool, ask asker) (*histogram, float64, error) {
	for i := range m.tokens {
		if err := ask(i); err != nil {
			return nil, 0, err
		}
	}
	var over atomic.Bool
	var sum histogram
	var mu sync.Mutex
	var working sync.WaitGroup
	errs := make([]error, callers+1)
	before := cpu()
	for c := range callers {
		working.Go(func() {
			var h histogram
			for i := c * 7919; !over.Load() && errs[c] == nil; i++ {
				start := time.Now()
				errs[c] = ask(i)
				h.add(time.Since(start))
				runtime.Gosched() // as one does that waits for its next request
			}
			mu.Lock()
			defer mu.Unlock()
			sum.merge(&h)
		})
	}
	if busy {
		errs[callers] = m.disturb(m.tailFor)
	} else {
		time.Sleep(m.tailFor)
	}
	over.Store(true)
	working.Wait()
	after := cpu()
	return &sum, (after[0] - before[0]) / max(after[1]-before[1], 1e-9), errors.Join(errs...)
}

// disturb makes revocations at their rate, and has a snapshot loaded.
func (m *mover) disturb(d time.Duration) error {
	end := time.Now().Add(d)
	if err := m.revokeUntil(time.Now().Add(d / 4)); err != nil {
		return err
	}
	if err := m.move(); err != nil {
		return err
	}
	if err := m.revokeUntil(end); err != nil {
		return err
	}
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(10 * time.Millisecond) {
		if min(m.verifiers[0].Status().Position, m.verifiers[1].Status().Position) >= m.log.pruned {
			return nil
		}
		if time.Now().After(deadline) {
			return errNotMoved
		}
	}
}

func (m *mover) revokeUntil(end time.Time) error {
	for next := time.Now(); next.Before(end); next = next.Add(time.Millisecond) {
		time.Sleep(time.Until(next))
		for range inserts / 1000 {
			m.log.append(revset.Key([]byte(random())[:16]))
		}
	}
	return m.ctx.Err()
}

// cpu returns the seconds of CPU that the collector has used, and all.
func cpu() [2]float64 {
	s := []metrics.Sample{{Name: "/cpu/classes/gc/total:cpu-seconds"}, {Name: "/cpu/classes/total:cpu-seconds"}, {Name: "/cpu/classes/idle:cpu-seconds"}}
	metrics.Read(s)
	return [2]float64{s[0].Value.Float64(), s[1].Value.Float64() - s[2].Value.Float64()}
}

// histogram counts durations in steps of an eighth.
type histogram struct {
	counts [64 * 8]int64
	total  int64
}

func (h *histogram) add(d time.Duration) {
	n := uint64(max(d, 8))
	shift := bits.Len64(n) - 4
	h.counts[shift*8+int(n>>shift)-8]++
	h.total++
}

func (h *histogram) merge(o *histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.total += o.total
}

// quantile returns the upper end of the step that holds it, in seconds.
func (h *histogram) quantile(q float64) float64 {
	left := int64(q * float64(h.total))
	for i, n := range h.counts {
		if left -= n; left < 0 {
			return float64(uint64(i%8+9)<<(i/8)) * 1e-9
		}
	}
	return 0
}
