package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// fleetSize is a number of clients and how often they are told something.
type fleetSize struct {
	clients   int
	verifiers bool // also on verifiers, as services use them
	visits    int  // to each contestant in turn
	series    int  // events in a visit, one after the other
	batches   int  // in a round: events that come at once
	peerToo   bool // NATS takes part in the batches
	sustained int  // rounds of revocations at a rate
}

// files returns how many this process has open, and the clients' as well.
func (s *fleetSize) files() uint64 {
	kinds := 3
	if s.verifiers {
		kinds++
	}
	return uint64(kinds*s.clients) + 200
}

// measureFanOut measures what a revoking call waits for: a revocation made
// durable and confirmed by every verifier, over loopback TCP, plain and with
// TLS. The other ends of all connections are in one child process, on the same
// machine.
//
// The floor appends to a file, flushes it, and writes as many bytes to bare
// connections, each of which acknowledges. The peer is an embedded NATS server
// instead of those connections: core messages, and as many back. All three have
// the same clients, which only acknowledge, so that what differs is the node's
// share; beside them are the verifiers that services use.
func measureFanOut(b *bench) (rows []row, err error) {
	for _, overTLS := range []bool{false, true} {
		for _, size := range b.fleets {
			if err := allowFiles(size.files()); err != nil {
				b.notes = append(b.notes, fmt.Sprintf("%s clients are left out: %v", thousands(float64(size.clients)), err))
				continue
			}
			found, err := b.fanOutTo(size, overTLS)
			if err != nil {
				return nil, fmt.Errorf("%d clients: %w", size.clients, err)
			}
			rows = append(rows, found...)
		}
	}
	return rows, nil
}

const (
	floorName = "floor: append, fsync, TCP"
	natsName  = "append, fsync, NATS"
)

// confirmedMost bounds the 99th percentile of a confirmed revocation.
var confirmedMost = map[int]float64{10: 2e-3, 100: 8e-3, 1000: 50e-3}

func (b *bench) fanOutTo(size fleetSize, overTLS bool) (rows []row, err error) {
	f, err := b.newFleet(size.clients, overTLS, size.verifiers)
	if err != nil {
		return nil, err
	}
	defer f.close()
	t := &trial{fleet: f, size: size, to: " to " + thousands(float64(size.clients))}
	if overTLS {
		t.to += ", TLS"
	}
	for _, measure := range []func() ([]row, error){t.events, t.batches, t.rate, t.memory} {
		found, err := measure()
		if err != nil {
			return nil, err
		}
		rows = append(rows, found...)
	}
	return rows, nil
}

// trial measures one fleet.
type trial struct {
	*fleet
	size fleetSize
	to   string
}

// plain returns a target that holds without TLS, or none.
func (t *trial) plain(target bound) bound {
	if t.secure != nil {
		return bound{}
	}
	return target
}

// events measures one event at a time.
func (t *trial) events() ([]row, error) {
	contestants := []*contestant{t.append(t.tcp), t.append(t.nats), t.revoke(t.bare)}
	if t.real != nil {
		contestants = append(contestants, t.revoke(t.real))
	}
	samples, err := t.inTurn(contestants)
	if err != nil {
		return nil, err
	}
	floor, peer, confirmed := parts(samples[0], took.whole), parts(samples[1], took.whole), parts(samples[2], took.whole)
	t.points = append(t.points, point{
		Clients: t.n, TLS: t.secure != nil,
		Confirmed: quantile(confirmed, .5), Floor: quantile(floor, .5), NATS: quantile(peer, .5),
	})
	what := "confirmed" + t.to
	beside := at(.5, what, confirmed, natsName, peer, bound{})
	beside.Ratio = beside.Theirs / beside.Ours
	if t.n == 1000 {
		beside.RatioTarget.Least = 1.2
	}
	p99 := at(.99, what, confirmed, floorName, floor, bound{Most: 2})
	p99.OursTarget = t.plain(bound{Most: confirmedMost[t.n]})
	rows := []row{
		at(.5, what, confirmed, floorName, floor, bound{Most: 1.5}), beside, p99,
		at(.5, "… its commit", parts(samples[2], took.commit), "floor: append, fsync", parts(samples[0], took.commit), bound{}),
		at(.5, "… then every ack", parts(samples[2], took.fanOut), "floor: TCP", parts(samples[0], took.fanOut), bound{}),
	}
	if t.real == nil {
		return rows, nil
	}
	verifiers := parts(samples[3], took.whole)
	return append(rows,
		at(.5, what+" quash.Verifier", verifiers, floorName, floor, bound{}),
		at(.99, what+" quash.Verifier", verifiers, floorName, floor, bound{})), nil
}

// at is a row of one quantile.
func at(q float64, what string, ours []float64, beside string, theirs []float64, target bound) row {
	o, t := quantile(ours, q), quantile(theirs, q)
	return row{
		What: fmt.Sprintf("%s, p%.0f", what, q*100), Unit: seconds, Ours: o, Beside: beside, Theirs: t,
		Ratio: o / t, RatioTarget: target,
	}
}

func parts(all []took, part func(took) float64) []float64 {
	values := make([]float64, len(all))
	for i, t := range all {
		values[i] = part(t)
	}
	return values
}

// inTurn visits the contestants one after the other, in an order that changes.
func (t *trial) inTurn(contestants []*contestant) ([][]took, error) {
	samples := make([][]took, len(contestants))
	for visit := range t.size.visits {
		t.progress.show("events%s: visit %d of %d", t.to, visit+1, t.size.visits)
		for _, i := range rand.Perm(len(contestants)) {
			for range t.size.series {
				if err := t.ctx.Err(); err != nil {
					return nil, err
				}
				s, err := contestants[i].play(1)
				if err != nil {
					return nil, err
				}
				samples[i] = append(samples[i], s)
			}
			time.Sleep(contestants[i].rest)
		}
	}
	return samples, nil
}

// batch is how many events come at once.
const batch = 200

// deliveriesLeast bounds what a batch delivers in a second.
var deliveriesLeast = map[int]float64{5000: 1_500_000}

// batches measures events that come at once.
func (t *trial) batches() ([]row, error) {
	if t.size.batches == 0 {
		return nil, nil
	}
	candidates := []candidate{t.deliveries(t.append(t.tcp)), t.deliveries(t.revoke(t.bare))}
	if t.size.peerToo {
		candidates = append(candidates, t.deliveries(t.append(t.nats)))
	}
	samples, err := t.alternate("batches"+t.to, t.size.batches, candidates...)
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("%d at once%s, deliveries", batch, t.to)
	floor := times(what, perSecond, samples[1], floorName, samples[0], bound{Least: .7})
	floor.OursTarget = t.plain(bound{Least: deliveriesLeast[t.n]})
	rows := []row{floor}
	if t.size.peerToo {
		rows = append(rows, times(what, perSecond, samples[1], natsName, samples[2], bound{Least: 3}))
	}
	return rows, nil
}

// deliveries returns how many a second a batch makes.
func (t *trial) deliveries(c *contestant) candidate {
	return func() (float64, error) {
		s, err := c.play(batch)
		time.Sleep(c.rest)
		return float64(batch*t.n) / s.whole(), err
	}
}

// rate measures revocations that come at a rate from many callers, each from
// when it was due, so that one that is late is counted.
func (t *trial) rate() ([]row, error) {
	if t.size.sustained == 0 {
		return nil, nil
	}
	g := newGroup(func(events int) error {
		if err := t.file.append(events); err != nil {
			return err
		}
		return t.tcp.publish(t.ctx, events)
	})
	defer g.close()
	calls := []func() error{g.do, func() error {
		c, err := revokeOne(t.ctx, t.bare.store)
		if err != nil {
			return err
		}
		return t.bare.confirmed(t.ctx, c.Last, t.n)
	}}
	samples := make([][]float64, len(calls))
	for round := range t.size.sustained {
		t.progress.show("%s revocations a second%s: round %d of %d", thousands(t.perSecond), t.to, round+1, t.size.sustained)
		for _, i := range rand.Perm(len(calls)) {
			found, err := t.atRate(calls[i])
			if err != nil {
				return nil, err
			}
			samples[i] = append(samples[i], found...)
			time.Sleep(2 * pong)
		}
	}
	what := fmt.Sprintf("%s a second%s", thousands(t.perSecond), t.to)
	const grouped = "floor: group commit, TCP"
	p99 := at(.99, what, samples[1], grouped, samples[0], bound{})
	p99.OursTarget = bound{Most: 50e-3}
	return []row{at(.5, what, samples[1], grouped, samples[0], bound{}), p99}, nil
}

// atRate makes the calls of a round and returns how long each took from when it
// was due.
func (t *trial) atRate(call func() error) ([]float64, error) {
	var mu sync.Mutex
	var took []float64
	every := time.Duration(float64(time.Second) / t.perSecond)
	start := time.Now().Add(time.Millisecond)
	n := int(t.sustain / every)
	err := concurrently(callers, n, func(i int) error {
		due := start.Add(time.Duration(i) * every)
		time.Sleep(time.Until(due))
		if err := call(); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		took = append(took, time.Since(due).Seconds())
		return nil
	})
	return took, err
}

// memory reports what a connection at rest takes, without the kernel's part.
func (t *trial) memory() ([]row, error) {
	if t.n < 1000 {
		return nil, nil // what else happens would be too large a part of it
	}
	found := func(beside, kind string) row {
		return row{
			What: "memory of a connection," + strings.TrimPrefix(t.to, " to"), Unit: bytesEach,
			Ours: t.bytes[overFeed], Beside: beside, Theirs: t.bytes[kind], Ratio: t.bytes[overFeed] / t.bytes[kind],
		}
	}
	ours := found("NATS", overNATS)
	ours.OursTarget = t.plain(bound{Most: 8 << 10})
	if t.bytes[overTCP] < 512 { // less than the runtime gave back meanwhile
		return []row{ours}, nil
	}
	return []row{ours, found("floor: TCP", overTCP)}, nil
}
