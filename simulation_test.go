package quash

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	oneSeed = flag.Uint64("simulation.seed", 0, "play this simulation alone")
	first   = flag.Uint64("simulation.first", 1, "begin with this seed")
	seeds   = flag.Int("simulation.seeds", 0, "play as many simulations; 0: 2,000, or 250 with the race detector")
	keep    = flag.Bool("simulation.keep", true, "keep the seeds that fail in testdata/simulation/seeds")
	verbose = flag.Bool("simulation.verbose", false, "note what nodes and verifiers log")
)

const seedFile = "testdata/simulation/seeds"

// raced says whether this was built with the race detector, which takes five to
// ten times as long.
var raced bool

// count returns how many simulations are to be played.
func count() int {
	soak := os.Getenv("QUASH_SOAK") != ""
	switch {
	case *seeds > 0:
		return *seeds
	case soak && raced:
		return 5_000
	case soak:
		return 50_000
	case raced:
		return 250
	}
	return 2_000
}

// TestP4Simulation plays the protocol with the code of nodes and verifiers, a
// database, a network, and clocks, under virtual time, while all of them go
// wrong, and judges what was seen: no verify that begins after a revoke was
// answered confirmed accepts (P4), none that begins a lease and its margin
// after the commit does (P5), nothing is refused as revoked that nobody
// revokes (P6), and once nothing goes wrong any more, all of it recovers, and
// the evidence stands (P11).
//
// The seed decides what goes wrong, and when. In which order goroutines run
// that could run at the same time it does not, so that a seed that fails may
// need to be played more than once: -simulation.seed=N -count=100.
func TestP4Simulation(t *testing.T) {
	m, err := newMint()
	if err != nil {
		t.Fatal(err)
	}
	if *oneSeed != 0 {
		play(t, *oneSeed, m)
		return
	}
	kept, err := keptSeeds()
	if err != nil {
		t.Fatal(err)
	}
	for i := range count() {
		kept = append(kept, *first+uint64(i))
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	var next atomic.Int64
	var failed atomic.Bool
	began := time.Now()
	t.Run("seeds", func(t *testing.T) {
		for range runtime.GOMAXPROCS(0) {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for i := next.Add(1) - 1; i < int64(len(kept)) && !failed.Load(); i = next.Add(1) - 1 {
					if !play(t, kept[i], m) {
						failed.Store(true)
					}
				}
			})
		}
	})
	t.Logf("soak: %d simulations in %v: %v", next.Load()-int64(runtime.GOMAXPROCS(0)), time.Since(began).Round(time.Second), &totals)
}

// totals are what all simulations saw.
var totals counts

type counts struct{ revoked, confirmed, accepted, refused, stale, virtual atomic.Int64 }

func (c *counts) String() string {
	return fmt.Sprintf("%d revocations, %d confirmed; %d verifies accepted, %d refused as revoked, %d as stale; %v of virtual time",
		c.revoked.Load(), c.confirmed.Load(), c.accepted.Load(), c.refused.Load(), c.stale.Load(), time.Duration(c.virtual.Load()).Round(time.Second))
}

func (c *counts) add(h *history) {
	for _, s := range h.subjects {
		if s.position != 0 {
			c.revoked.Add(1)
		}
		if s.told != 0 {
			c.confirmed.Add(1)
		}
	}
	c.accepted.Add(h.accepted.Load())
	c.refused.Add(h.refused.Load())
	c.stale.Add(h.stale.Load())
	c.virtual.Add(int64(h.last))
}

// play plays one simulation and reports whether all was well.
func play(t *testing.T, seed uint64, m *mint) bool {
	late := time.AfterFunc(time.Minute, func() { fmt.Fprintf(os.Stderr, "simulation %d has taken a minute\n", seed) })
	defer late.Stop()
	defer func() {
		if p := recover(); p != nil {
			panic(fmt.Sprintf("simulation %d: %v", seed, p))
		}
	}()
	var w *world
	synctest.Test(t, func(t *testing.T) {
		var err error
		if w, err = newWorld(seed, m); err != nil {
			t.Fatal(err)
		}
		w.run()
	})
	if w == nil {
		return false
	}
	h := w.history
	h.judge()
	totals.add(h)
	if len(h.failures) == 0 {
		if *oneSeed != 0 && testing.Verbose() {
			t.Logf("%s", strings.Join(h.notes, "\n"))
		}
		return true
	}
	t.Errorf("simulation %d failed; play it alone with\n\tgo test -race -run TestP4Simulation -simulation.seed=%[1]d -simulation.verbose -count=20 .\n%+v\n%s\n\n%s",
		seed, w.weather, strings.Join(h.notes, "\n"), strings.Join(h.failures, "\n"))
	if err := keepSeed(seed); err != nil {
		t.Errorf("the seed could not be kept: %v", err)
	}
	return false
}

// keptSeeds returns the seeds that failed once.
func keptSeeds() (kept []uint64, err error) {
	f, err := os.Open(seedFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", seedFile, err)
		}
		kept = append(kept, seed)
	}
	return kept, nil
}

func keepSeed(seed uint64) error {
	if !*keep {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(seedFile), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(seedFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, seed)
	return errors.Join(err, f.Close())
}
