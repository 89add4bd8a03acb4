package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// bench is one run.
type bench struct {
	ctx context.Context
	dir string // for data
	sizes
	progress *progress
	points   []point  // for the plot
	fates    []fate   // of revoked tokens
	notes    []string // what was left out, and why
}

// sizes say how much is measured.
type sizes struct {
	rounds      int           // of a few milliseconds, which a busy machine seldom interrupts
	long        int           // rounds of what takes longer
	revocations int           // that live
	tokens      int           // verified in a round, where each is a cache miss
	hot         int           // tokens in the cache
	verified    int           // of them in a round
	lookups     int           // in a round
	parallel    time.Duration // of a round beside a writer
	single      int           // durable operations in a round by one caller
	grouped     int           // by 64 callers
	fleets      []fleetSize
	warm        int           // revocations before, so that the store's write-ahead log has grown as far as it will
	perSecond   float64       // revocations that come at a rate
	sustain     time.Duration // of a round of them
	tails       int           // rounds of slow calls
	tailFor     time.Duration // of each of them
	entries     []int         // of sets that grow
	logs        []int         // revocations that live, from few to many
	population  int           // tokens that come at a small cache
	life        time.Duration // of tokens beside a store that is restarted
	sessions    []int         // that were there before, from few to many
}

var full = sizes{
	rounds:      31,
	long:        15,
	revocations: 1_000_000,
	tokens:      200,
	hot:         10_000,
	verified:    1_000,
	lookups:     20_000,
	parallel:    200 * time.Millisecond,
	single:      300,
	grouped:     6400,
	fleets: []fleetSize{
		{clients: 10, verifiers: true, visits: 60, series: 5},
		{clients: 100, verifiers: true, visits: 50, series: 4, sustained: 3},
		{clients: 1000, verifiers: true, visits: 70, series: 1, batches: 7, peerToo: true},
		{clients: 5000, visits: 20, series: 1, batches: 5},
	},
	warm:      500,
	perSecond: 5000,
	sustain:   2 * time.Second,
	tails:     5,
	tailFor:   2 * time.Second,

	entries:    []int{10_000, 100_000, 1_000_000, 10_000_000},
	logs:       []int{1000, 10_000, 100_000, 1_000_000},
	population: 20_000,
	life:       time.Minute,
	sessions:   []int{10_000, 100_000, 1_000_000},
}

// candidate does something once a round and returns what it costs or gives.
type candidate func() (float64, error)

// alternate runs every candidate once a round, in an order that changes, and
// returns the samples of each.
func (b *bench) alternate(what string, rounds int, candidates ...candidate) ([][]float64, error) {
	samples := make([][]float64, len(candidates))
	for round := range rounds {
		b.progress.show("%s: round %d of %d", what, round+1, rounds)
		runtime.GC()
		for _, i := range rand.Perm(len(candidates)) {
			if err := b.ctx.Err(); err != nil {
				return nil, err
			}
			v, err := candidates[i]()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", what, err)
			}
			samples[i] = append(samples[i], v)
		}
	}
	return samples, nil
}

// perCall returns the seconds that one of n calls takes.
func perCall(n int, call func(i int) error) (float64, error) {
	start := time.Now()
	for i := range n {
		if err := call(i); err != nil {
			return 0, err
		}
	}
	return time.Since(start).Seconds() / float64(n), nil
}

func median(samples []float64) float64 { return quantile(samples, .5) }

func quantile(samples []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[int(q*float64(len(sorted)-1)+.5)]
}

// quotients divides what was measured in the same round.
func quotients(over, under []float64) []float64 {
	q := make([]float64, len(over))
	for i := range q {
		q[i] = over[i] / under[i]
	}
	return q
}

// progress is one line on a terminal that says what is being measured.
type progress struct {
	out   io.Writer // nil where there is no terminal
	shown int
}

func newProgress(f *os.File) *progress {
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return &progress{}
	}
	return &progress{out: f}
}

func (p *progress) show(format string, args ...any) {
	if p.out == nil {
		return
	}
	line := fmt.Sprintf(format, args...)
	n := utf8.RuneCountInString(line)
	fmt.Fprint(p.out, "\r", line, strings.Repeat(" ", max(0, p.shown-n)))
	p.shown = n
}

func (p *progress) clear() {
	if p.shown > 0 {
		p.show("")
		p.show("")
		fmt.Fprint(p.out, "\r")
	}
}
