package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// tally waits until every client has acknowledged the last event.
type tally struct {
	last    atomic.Uint64
	missing atomic.Int64
	done    chan struct{}
}

func newTally() *tally { return &tally{done: make(chan struct{}, 1)} }

// expect begins to wait for n clients, for the events after the last.
func (t *tally) expect(n, events int) (first uint64) {
	t.missing.Store(int64(n))
	return t.last.Add(uint64(events)) - uint64(events) + 1
}

func (t *tally) acknowledged(number uint64) {
	if number == t.last.Load() && t.missing.Add(-1) == 0 {
		t.done <- struct{}{}
	}
}

// patience is how long all clients may take at most.
const patience = time.Minute

func (t *tally) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-t.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%d clients have not acknowledged: %w", t.missing.Load(), ctx.Err())
	}
}

const (
	eventBytes = 83 // of one record on the feed, with the WebSocket's header
	ackBytes   = 29 // of a ping, likewise
)

// broadcaster is bare TCP, perhaps with TLS: the publisher writes to every
// connection itself, all that there is at once.
type broadcaster struct {
	*tally
	listener net.Listener
	mu       sync.Mutex
	conns    []net.Conn
}

func newBroadcaster(secure *tls.Config) (*broadcaster, error) {
	l, err := listen(secure)
	if err != nil {
		return nil, err
	}
	b := &broadcaster{tally: newTally(), listener: l}
	go b.accept()
	return b, nil
}

// listen listens on loopback, with TLS unless secure is nil.
func listen(secure *tls.Config) (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil && secure != nil {
		l = tls.NewListener(l, secure)
	}
	return l, err
}

func (b *broadcaster) address() string { return b.listener.Addr().String() }

func (b *broadcaster) accept() {
	for {
		conn, err := b.listener.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		b.conns = append(b.conns, conn)
		b.mu.Unlock()
		go b.collect(conn)
	}
}

func (b *broadcaster) connected() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.conns)
}

func (b *broadcaster) collect(conn net.Conn) {
	var ack [ackBytes]byte
	for {
		if _, err := io.ReadFull(conn, ack[:]); err != nil {
			return
		}
		b.acknowledged(binary.BigEndian.Uint64(ack[:]))
	}
}

func (b *broadcaster) publish(ctx context.Context, events int) error {
	number := b.expect(len(b.conns), events)
	text := make([]byte, events*eventBytes)
	for i := range events {
		binary.BigEndian.PutUint64(text[i*eventBytes:], number+uint64(i))
	}
	for _, c := range b.conns {
		if _, err := c.Write(text); err != nil {
			return err
		}
	}
	return b.wait(ctx)
}

func (b *broadcaster) close() {
	b.listener.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.conns {
		c.Close()
	}
}
