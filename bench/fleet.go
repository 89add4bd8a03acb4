package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/quashdev/quash/internal/revlog"
	"github.com/quashdev/quash/internal/sqlite"
)

// contestant makes events durable and then tells every client. It returns when
// all of them have acknowledged the last.
type contestant struct {
	store func(events int) (last uint64, err error)
	tell  func(last uint64, events int) error
	rest  time.Duration // until what it does afterwards is done
}

// took is how long both took, in seconds.
type took struct{ stored, told float64 }

func (t took) whole() float64  { return t.stored + t.told }
func (t took) commit() float64 { return t.stored }
func (t took) fanOut() float64 { return t.told }

func (c *contestant) play(events int) (took, error) {
	start := time.Now()
	last, err := c.store(events)
	if err != nil {
		return took{}, err
	}
	stored := time.Since(start)
	err = c.tell(last, events)
	return took{stored.Seconds(), (time.Since(start) - stored).Seconds()}, err
}

// fleet is the same number of clients on each of several servers.
type fleet struct {
	*bench
	n       int
	secure  *tls.Config // nil: plain
	roots   []byte
	file    appendFile
	tcp     *broadcaster
	nats    *broker
	bare    *durableNode // its clients only acknowledge
	real    *durableNode // its clients are verifiers; nil where there are none
	clients *clients
	bytes   map[string]float64 // of memory a connection, by kind of clients
	closers []func()
}

// newFleet connects n clients of each kind, and as many verifiers where that is
// wanted.
func (b *bench) newFleet(n int, overTLS, real bool) (f *fleet, err error) {
	f = &fleet{bench: b, n: n, bytes: map[string]float64{}}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	if overTLS {
		if f.secure, f.roots, err = newCertificate(); err != nil {
			return nil, err
		}
	}
	if f.file, err = newAppendFile(filepath.Join(f.dir, "floor")); err != nil {
		return nil, err
	}
	f.defers(func() { f.file.Close() })
	if f.clients, err = startClients(f.ctx); err != nil {
		return nil, err
	}
	f.defers(f.clients.stop)
	return f, errors.Join(f.openPeers(), f.openNodes(real))
}

func (f *fleet) openPeers() (err error) {
	if f.tcp, err = newBroadcaster(f.secure); err != nil {
		return err
	}
	f.defers(f.tcp.close)
	if err := f.connect(overTCP, f.tcp.address(), f.tcp.connected); err != nil {
		return err
	}
	if f.nats, err = newBroker(f.secure); err != nil {
		return err
	}
	f.defers(f.nats.close)
	f.nats.clients = f.n
	return f.connect(overNATS, f.nats.address(), f.nats.connected)
}

func (f *fleet) openNodes(real bool) (err error) {
	if f.bare, err = f.newDurableNode(); err != nil {
		return err
	}
	if err := f.connect(overFeed, f.bare.address, f.bare.connected); err != nil || !real {
		return err
	}
	if f.real, err = f.newDurableNode(); err != nil {
		return err
	}
	return f.connect(verifiers, f.real.address, f.real.connected)
}

// connect returns when all clients of a kind are connected, and notes what
// memory that took here.
func (f *fleet) connect(kind, address string, connected func() int) error {
	f.progress.show("%s clients of %s connect", thousands(float64(f.n)), kind)
	before := f.settled()
	if err := f.clients.connect(order{Kind: kind, Address: address, Number: f.n, Roots: f.roots}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(f.ctx, patience)
	defer cancel()
	for connected() < f.n {
		if ctx.Err() != nil {
			return fmt.Errorf("%d of %d clients of %s are connected: %w", connected(), f.n, kind, ctx.Err())
		}
		time.Sleep(time.Millisecond)
	}
	f.bytes[kind] = (f.settled() - before) / float64(f.n)
	return nil
}

// settled returns the memory in use once it falls no more: what connections do
// at first, and what others left, is done then.
func (f *fleet) settled() float64 {
	least, lower := memory(), 0
	for still := 0; still < 5 && lower < 50; still++ {
		time.Sleep(100 * time.Millisecond)
		if m := memory(); m < least*.995 {
			least, still = m, 0
			lower++
		}
	}
	return least
}

// memory returns the bytes in use, stacks included.
func memory() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapInuse + m.StackInuse)
}

func (f *fleet) defers(closer func()) { f.closers = append(f.closers, closer) }

func (f *fleet) close() {
	for i := len(f.closers) - 1; i >= 0; i-- {
		f.closers[i]()
	}
}

// publisher tells clients of events, without making them durable.
type publisher interface {
	publish(ctx context.Context, events int) error
}

// append is a contestant that appends to a file and flushes it before it
// publishes.
func (f *fleet) append(p publisher) *contestant {
	return &contestant{
		store: func(events int) (uint64, error) { return 0, f.file.append(events) },
		tell:  func(_ uint64, events int) error { return p.publish(f.ctx, events) },
		rest:  time.Millisecond,
	}
}

// pong is how long a node takes at most to begin with the answers to pings that
// no records go out with, and to write one of them.
const (
	pong    = 55 * time.Millisecond
	pongOne = 30 * time.Microsecond
)

// revoke is a contestant that does what a revoking call does, each event in a
// transaction of its own.
func (f *fleet) revoke(d *durableNode) *contestant {
	return &contestant{
		store: func(events int) (uint64, error) { return d.revoke(f.ctx, events) },
		tell:  func(last uint64, _ int) error { return d.confirmed(f.ctx, last, f.n) },
		rest:  pong + time.Duration(f.n)*pongOne,
	}
}

// durableNode is a node whose log is on the disk.
type durableNode struct {
	*node
	store *sqlite.Store
}

func (f *fleet) newDurableNode() (*durableNode, error) {
	dir, err := os.MkdirTemp(f.dir, "node-*")
	if err != nil {
		return nil, err
	}
	store, _, err := openStore(f.ctx, filepath.Join(dir, "quash.db"))
	if err != nil {
		return nil, err
	}
	f.defers(func() { store.Close() })
	for range f.warm {
		if _, err := revokeOne(f.ctx, store); err != nil {
			return nil, err
		}
	}
	n, err := startNode(revlog.FromStore(store, nil), f.secure)
	if err != nil {
		return nil, err
	}
	f.defers(func() { _ = n.stop() })
	return &durableNode{node: n, store: store}, nil
}

// revoke makes n revocations at once and returns when all are durable.
func (d *durableNode) revoke(ctx context.Context, n int) (last uint64, err error) {
	positions := make([]uint64, n)
	err = concurrently(n, n, func(i int) error {
		c, err := revokeOne(ctx, d.store)
		positions[i] = c.Last
		return err
	})
	for _, p := range positions {
		last = max(last, p)
	}
	return last, err
}

// confirmed waits until each of n verifiers has confirmed a position.
func (d *durableNode) confirmed(ctx context.Context, position uint64, n int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if c := d.log.WaitConfirmed(ctx, position); !c.Confirmed || c.Applied != n {
		return fmt.Errorf("%d of %d verifiers confirmed position %d, %d are waited for", c.Applied, n, position, c.Pending)
	}
	return nil
}
