package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/quashdev/quash/internal/revlog"
	"github.com/quashdev/quash/internal/sqlite"
)

// measureFeed measures one event at a time until every verifier has
// acknowledged it, over loopback TCP, beside bare connections. The other ends
// of all connections are in one child process, on the same machine.
//
// Delivery is what a node's feed takes alone. Confirmed is a revocation from
// the call of the store, its flush to the disk included, until every verifier
// has applied it; the floor is an append and a flush, then the bare fan-out.
// It is measured with clients that only acknowledge, like those of the floor,
// which leaves the node's share, and with the verifiers that services use.
func measureFeed(b *bench) (rows []row, err error) {
	for _, size := range b.fleets {
		found, err := b.feedTo(size)
		if err != nil {
			return nil, fmt.Errorf("%d verifiers: %w", size.verifiers, err)
		}
		rows = append(rows, found...)
	}
	return rows, nil
}

// confirmedMost bounds the 99th percentile of a confirmed revocation.
var confirmedMost = map[int]float64{10: 2e-3, 100: 8e-3, 1000: 50e-3}

func (b *bench) feedTo(size fleetSize) ([]row, error) {
	b.progress.show("feed to %d verifiers: connecting", size.verifiers)
	f, err := b.newFleets(size.verifiers)
	if err != nil {
		return nil, err
	}
	defer f.close()
	samples, err := b.inTurn(size, f.fanOut, f.deliver, f.floor, f.confirmation(f.bare), f.confirmation(f.real))
	if err != nil {
		return nil, err
	}
	fanOut, delivery, floor, confirmed, toVerifiers := samples[0], samples[1], samples[2], samples[3], samples[4]
	const tcp, both = "floor: bare TCP fan-out", "floor: append, fsync, TCP"
	to := fmt.Sprintf(" to %s", thousands(float64(size.verifiers)))
	p99 := at(.99, "confirmed"+to, confirmed, both, floor, bound{Most: 2})
	p99.OursTarget = bound{Most: confirmedMost[size.verifiers]}
	return []row{
		at(.5, "delivery"+to, delivery, tcp, fanOut, bound{}),
		at(.99, "delivery"+to, delivery, tcp, fanOut, bound{}),
		at(.5, "confirmed"+to, confirmed, both, floor, bound{Most: 1.5}),
		p99,
		at(.5, "confirmed"+to+" quash.Verifier", toVerifiers, both, floor, bound{}),
		at(.99, "confirmed"+to+" quash.Verifier", toVerifiers, both, floor, bound{}),
	}, nil
}

// at is a row of one quantile.
func at(q float64, what string, ours []float64, beside string, theirs []float64, target bound) row {
	o, t := quantile(ours, q), quantile(theirs, q)
	return row{
		What: fmt.Sprintf("%s, p%.0f", what, q*100), Unit: seconds, Ours: o, Beside: beside, Theirs: t,
		Ratio: o / t, RatioTarget: target,
	}
}

// inTurn times the events one after the other, in an order that changes.
// Between two of them the node answers the acknowledgements, which nobody waits
// for.
func (b *bench) inTurn(size fleetSize, events ...func() error) ([][]float64, error) {
	pause := time.Duration(size.verifiers) * 40 * time.Microsecond
	samples := make([][]float64, len(events))
	for n := range size.events {
		if n%10 == 0 {
			b.progress.show("feed to %d verifiers: event %d of %d", size.verifiers, n+1, size.events)
		}
		for _, i := range rand.Perm(len(events)) {
			if err := b.ctx.Err(); err != nil {
				return nil, err
			}
			time.Sleep(pause)
			start := time.Now()
			if err := events[i](); err != nil {
				return nil, err
			}
			samples[i] = append(samples[i], time.Since(start).Seconds())
		}
	}
	return samples, nil
}

// fleets are the same number of clients on each of four servers.
type fleets struct {
	*bench
	n       int
	tcp     *broadcaster
	file    appendFile
	log     *memoryLog
	memory  *node
	bare    *durableNode // its clients only acknowledge
	real    *durableNode // its clients are verifiers
	clients *clients
	closers []func()
}

func (b *bench) newFleets(n int) (*fleets, error) {
	f := &fleets{bench: b, n: n, log: newMemoryLog(0)}
	if err := f.open(); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *fleets) open() (err error) {
	if f.tcp, err = newBroadcaster(); err != nil {
		return err
	}
	f.defers(f.tcp.close)
	if f.file, err = newAppendFile(filepath.Join(f.dir, "floor")); err != nil {
		return err
	}
	f.defers(func() { f.file.Close() })
	if f.memory, err = startNode(f.log); err != nil {
		return err
	}
	f.defers(func() { f.memory.stop() })
	for _, d := range []**durableNode{&f.bare, &f.real} {
		if *d, err = f.newDurableNode(); err != nil {
			return err
		}
		f.defers((*d).close)
	}
	return f.connect()
}

func (f *fleets) connect() (err error) {
	f.clients, err = startClients(f.ctx, fleetSpec{
		Number: f.n, TCP: f.tcp.address(), Verifiers: f.real.address,
		Feeds: []string{f.memory.address, f.bare.address},
	})
	if err != nil {
		return err
	}
	f.defers(f.clients.stop)
	if err := f.tcp.accept(f.n); err != nil {
		return err
	}
	if err := f.clients.ready(); err != nil {
		return err
	}
	for _, n := range []*node{f.memory, f.bare.node, f.real.node} {
		if err := n.connected(f.ctx, f.n); err != nil {
			return err
		}
	}
	return nil
}

func (f *fleets) defers(closer func()) { f.closers = append(f.closers, closer) }

func (f *fleets) close() {
	for i := len(f.closers) - 1; i >= 0; i-- {
		f.closers[i]()
	}
}

func (f *fleets) fanOut() error { return f.tcp.publish() }

func (f *fleets) floor() error {
	if err := f.file.append(); err != nil {
		return err
	}
	return f.tcp.publish()
}

func (f *fleets) deliver() error {
	return f.reached(f.memory, f.log.append(randomKeys(1, uint64(time.Now().UnixNano()))[0]))
}

func (f *fleets) confirmation(d *durableNode) func() error {
	return func() error {
		c, err := revokeOne(f.ctx, d.store)
		if err != nil {
			return err
		}
		return f.reached(d.node, c.Last)
	}
}

func (f *fleets) reached(n *node, position uint64) error {
	if applied, connected := n.log.WaitApplied(f.ctx, position); applied != f.n {
		return fmt.Errorf("%d of %d verifiers applied position %d, %d are connected", applied, f.n, position, connected)
	}
	return nil
}

// durableNode is a node whose log is on the disk.
type durableNode struct {
	*node
	store *sqlite.Store
}

func (b *bench) newDurableNode() (*durableNode, error) {
	dir, err := os.MkdirTemp(b.dir, "node-*")
	if err != nil {
		return nil, err
	}
	store, _, err := openStore(b.ctx, filepath.Join(dir, "quash.db"))
	if err != nil {
		return nil, err
	}
	n, err := startNode(revlog.FromStore(store))
	if err != nil {
		store.Close()
		return nil, err
	}
	return &durableNode{node: n, store: store}, nil
}

func (d *durableNode) close() {
	d.stop()
	d.store.Close()
}

const (
	eventBytes = 83 // of one record on the feed, with the WebSocket's header
	ackBytes   = 23 // of a ping
)

// broadcaster is bare TCP: the publisher writes to every connection itself.
type broadcaster struct {
	listener net.Listener
	conns    []net.Conn
	acks     sync.WaitGroup
}

func newBroadcaster() (*broadcaster, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	return &broadcaster{listener: l}, err
}

func (b *broadcaster) address() string { return b.listener.Addr().String() }

func (b *broadcaster) accept(n int) error {
	for range n {
		conn, err := b.listener.Accept()
		if err != nil {
			return err
		}
		b.conns = append(b.conns, conn)
		go b.collect(conn)
	}
	return nil
}

func (b *broadcaster) collect(conn net.Conn) {
	ack := make([]byte, ackBytes)
	for {
		if _, err := io.ReadFull(conn, ack); err != nil {
			return
		}
		b.acks.Done()
	}
}

func (b *broadcaster) publish() error {
	event := make([]byte, eventBytes)
	b.acks.Add(len(b.conns))
	for _, c := range b.conns {
		if _, err := c.Write(event); err != nil {
			return err
		}
	}
	b.acks.Wait()
	return nil
}

func (b *broadcaster) close() {
	b.listener.Close()
	for _, c := range b.conns {
		c.Close()
	}
}
