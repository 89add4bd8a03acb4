package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/revset"
)

// measureGrowth measures what becomes dearer as there are more revocations:
// the set beside Go's map, a verification, a snapshot.
func measureGrowth(b *bench) (rows []row, err error) {
	for _, n := range b.entries {
		found, err := b.setOf(n)
		if err != nil {
			return nil, err
		}
		rows = append(rows, found...)
		runtime.GC()
	}
	verified, err := b.verifyBeside(b.logs)
	if err != nil {
		return nil, err
	}
	rows = append(rows, verified...)
	for _, load := range []struct {
		n    int
		most float64 // seconds
	}{{b.revocations, .25}, {10 * b.revocations, 3}} {
		loaded, err := b.loadSnapshot(load.n, load.most)
		if err != nil {
			return nil, err
		}
		rows = append(rows, loaded...)
		runtime.GC()
	}
	return rows, nil
}

const goMap = "map, RWMutex"

// setOf measures a set of n entries that has grown as a feed makes it grow.
func (b *bench) setOf(n int) ([]row, error) {
	b.progress.show("growth: %s entries", thousands(float64(n)))
	present, absent := randomKeys(n, 3), randomKeys(min(n, 1_000_000), 4)
	set, of, err := grow(revset.New(0), present)
	if err != nil {
		return nil, err
	}
	m, ofMap, err := grow(&lockedMap{m: map[revset.Key]uint64{}}, present)
	if err != nil {
		return nil, err
	}
	rand.Shuffle(n, func(i, j int) { present[i], present[j] = present[j], present[i] })
	what := thousands(float64(n)) + " entries"
	samples, err := b.alternate("growth: "+what, b.long,
		b.lookUp(set, present, true), b.lookUp(m, present, true),
		b.lookUp(set, absent, false), b.lookUp(m, absent, false))
	if err != nil {
		return nil, err
	}
	miss := faster(what+": miss", samples[2], goMap, samples[3], bound{})
	if n == 10_000_000 {
		miss.OursTarget = bound{Most: 250e-9}
	}
	memory := times(what+": memory of one", bytesEach, []float64{of.bytes}, goMap, []float64{ofMap.bytes}, bound{})
	if n >= 1_000_000 {
		memory.OursTarget = bound{Most: 30}
	}
	rows := []row{
		faster(what+": hit", samples[0], goMap, samples[1], bound{}), miss, memory,
		faster(what+": slowest ten insertions", []float64{of.worst}, goMap, []float64{ofMap.worst}, bound{}),
	}
	if n == 1_000_000 {
		collection := times(what+": collecting garbage", seconds, []float64{of.collection}, "without them", []float64{of.before}, bound{})
		collection.OursTarget = bound{Most: of.before + 1e-3}
		rows = append(rows, collection)
	}
	return rows, nil
}

// grown is what it took to make a set grow.
type grown struct {
	bytes              float64 // of the heap for each entry
	worst              float64 // seconds that ten entries took, at most
	before, collection float64 // seconds that collecting garbage takes without the set, and with it
}

func grow[S lookuper](s S, keys []revset.Key) (S, grown, error) {
	var g grown
	before := heap()
	g.before = collect()
	part := make([]revset.Record, 0, 10)
	for i, k := range keys {
		part = append(part, recordAt(uint64(i+1), k))
		if len(part) < cap(part) && i < len(keys)-1 {
			continue
		}
		start := time.Now()
		if err := s.Apply(part, uint64(i+1)); err != nil {
			return s, g, err
		}
		g.worst = max(g.worst, time.Since(start).Seconds())
		part = part[:0]
	}
	g.bytes = (float64(heap()) - float64(before)) / float64(len(keys))
	g.collection = collect()
	runtime.KeepAlive(s)
	return s, g, nil
}

// collect returns how long a collection of garbage takes.
func collect() float64 {
	took, _ := medianTime(9, func(int) error {
		runtime.GC()
		return nil
	})
	return took
}

// verifyBeside verifies tokens beside logs of different lengths.
func (b *bench) verifyBeside(lengths []int) (rows []row, err error) {
	var candidates []candidate
	for _, n := range lengths {
		b.progress.show("growth: verify beside %d revocations", n)
		few := *b
		few.revocations, few.hot = n, b.verified
		w, err := few.newWorld()
		if err != nil {
			return nil, err
		}
		defer w.close()
		cold, err := openVerifier(b.ctx, w.address, "uncached", 1, nil)
		if err != nil {
			return nil, err
		}
		defer cold.Close(context.Background())
		some := each(w.tokens, len(w.tokens), ours(w.verifier))
		candidates = append(candidates, func() (float64, error) {
			w.node.log.WaitConfirmed(b.ctx, w.log.append(revset.Key([]byte(random())[:16])))
			return some()
		}, each(w.tokens, b.tokens, ours(cold)))
	}
	samples, err := b.alternate("growth: verify", b.long, candidates...)
	if err != nil {
		return nil, err
	}
	beside := thousands(float64(lengths[0])) + " revocations"
	for i, n := range lengths[1:] {
		what := fmt.Sprintf("verify beside %s revocations", thousands(float64(n)))
		rows = append(rows,
			times(what+", cached", seconds, samples[2*i+2], beside, samples[0], bound{}),
			times(what+", uncached", seconds, samples[2*i+3], beside, samples[1], bound{}))
	}
	return rows, nil
}

// loadSnapshot measures how long a verifier takes to start: it connects, loads
// all of n live revocations, and gets a lease.
func (b *bench) loadSnapshot(n int, most float64) ([]row, error) {
	what := fmt.Sprintf("snapshot of %s until ready", thousands(float64(n)))
	b.progress.show("growth: %s", what)
	log := newMemoryLog(n)
	of, err := startNode(log, nil)
	if err != nil {
		return nil, err
	}
	defer of.stop()
	records, err := log.merged()
	if err != nil {
		return nil, err
	}
	candidates := []candidate{
		func() (float64, error) {
			start := time.Now()
			v, err := openVerifier(b.ctx, of.address, "new", 1, nil)
			took := time.Since(start).Seconds()
			if err == nil {
				err = v.Close(context.Background())
			}
			return took, err
		},
		func() (float64, error) { return fillAlone(records) },
	}
	withJSON := n <= b.revocations // which takes its time
	if withJSON {
		lines := log.jsonLines()
		candidates = append(candidates, func() (float64, error) { return readLines(lines) })
	}
	samples, err := b.alternate("growth: "+what, b.tails, candidates...)
	if err != nil {
		return nil, err
	}
	floor := times(what, seconds, samples[0], "floor: hash, fill the set", samples[1], bound{Most: 2})
	floor.OursTarget = bound{Most: most}
	rows := []row{floor}
	if withJSON {
		rows = append(rows, faster(what, samples[0], "JSON lines into a map", samples[2], bound{Least: 10}))
	}
	return rows, nil
}

// merged returns the records as a snapshot has them.
func (l *memoryLog) merged() ([]revset.Record, error) {
	set := revset.New(0)
	err := set.Apply(l.records, uint64(len(l.records)))
	return slices.Collect(set.All), err
}

// fillAlone hashes as many octets as the records take, and fills a set.
func fillAlone(records []revset.Record) (float64, error) {
	const part = 64 << 10 / feed.RecordSize
	start := time.Now()
	block := make([]byte, part*feed.RecordSize)
	hash, set := sha256.New(), revset.New(0)
	for part := range slices.Chunk(records, part) {
		hash.Write(block[:len(part)*feed.RecordSize])
		if err := set.Apply(part, uint64(len(records))); err != nil {
			return 0, err
		}
	}
	hash.Sum(nil)
	return time.Since(start).Seconds(), nil
}

type jsonRecord struct {
	Key    string `json:"key"`
	Before uint64 `json:"before"`
	Forget uint32 `json:"forget"`
}

func (l *memoryLog) jsonLines() []byte {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	for _, r := range l.records {
		_ = e.Encode(jsonRecord{hex.EncodeToString(r.Key[:]), r.Before, r.Forget})
	}
	return out.Bytes()
}

func readLines(lines []byte) (float64, error) {
	start := time.Now()
	m := make(map[string]jsonRecord)
	for scanner := bufio.NewScanner(bytes.NewReader(lines)); scanner.Scan(); {
		var r jsonRecord
		if err := json.Unmarshal(scanner.Bytes(), &r); err != nil {
			return 0, err
		}
		m[r.Key] = r
	}
	return time.Since(start).Seconds(), nil
}

// measureCache measures how many tokens a cache finds that is too small for
// all, where few of them make up most of the requests: the n-th of them comes
// 1/n as often as the first.
func measureCache(b *bench) ([]row, error) {
	w, err := b.newWorld()
	if err != nil {
		return nil, err
	}
	defer w.close()
	tokens, err := w.signer.tokens(b.population, w.verifier.Status().Position)
	if err != nil {
		return nil, err
	}
	const bytes = 4 << 20
	v, err := openVerifier(b.ctx, w.address, "small", bytes, nil)
	if err != nil {
		return nil, err
	}
	defer v.Close(context.Background())
	found := make([]float64, b.tails)
	ideal := slices.Clone(found)
	for round := range found {
		b.progress.show("cache: round %d of %d", round+1, b.tails)
		rand.Shuffle(len(tokens), func(i, j int) { tokens[i], tokens[j] = tokens[j], tokens[i] })
		fits, err := capacity(v, tokens)
		if err != nil {
			return nil, err
		}
		if found[round], ideal[round], err = drawn(v, tokens, fits); err != nil {
			return nil, err
		}
	}
	what := fmt.Sprintf("found of %s tokens in %d MiB, 1/n", thousands(float64(len(tokens))), bytes>>20)
	return []row{times(what, share, found, "the most frequent that fit", ideal, bound{Least: .8})}, nil
}

// capacity returns how many tokens the cache holds at once, about: it asks for
// few of those that it was given, as each that is not found takes a place.
func capacity(v *quash.Verifier, tokens []string) (held int, err error) {
	const sampled = 20
	seen := make([]*quash.Claims, len(tokens))
	for i, token := range tokens {
		if seen[i], err = v.Verify(token); err != nil {
			return 0, err
		}
	}
	for i := 0; i < len(tokens); i += sampled {
		c, err := v.Verify(tokens[i])
		if err != nil {
			return 0, err
		}
		if c == seen[i] {
			held += sampled
		}
	}
	return held, nil
}

// drawn returns the share of requests whose token was found, and the share of
// those whose token is one of the most frequent that fit.
func drawn(v *quash.Verifier, tokens []string, fits int) (found, ideal float64, err error) {
	seen := make([]*quash.Claims, len(tokens))
	zipf := newZipf(len(tokens))
	n := 5 * len(tokens)
	for range n {
		i := zipf.next()
		c, err := v.Verify(tokens[i])
		if err != nil {
			return 0, 0, err
		}
		if c == seen[i] {
			found++
		}
		if i < fits {
			ideal++
		}
		seen[i] = c
	}
	if fits == 0 {
		return 0, 0, errors.New("the cache holds nothing")
	}
	return found / float64(n), ideal / float64(n), nil
}

// zipf draws numbers from 0: n-1 comes 1/n as often as 0.
type zipf []float64 // sums of frequencies

func newZipf(n int) zipf {
	z := make(zipf, n)
	sum := 0.0
	for i := range z {
		sum += 1 / float64(i+1)
		z[i] = sum
	}
	return z
}

func (z zipf) next() int {
	i, _ := slices.BinarySearch(z, rand.Float64()*z[len(z)-1])
	return min(i, len(z)-1)
}
