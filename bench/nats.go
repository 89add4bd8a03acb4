package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	natsEvents = "events"
	natsAcks   = "acks"
	natsBytes  = eventBytes - 2 // NATS has a header of its own
)

// broker is NATS in this process: clients subscribe to the events and publish
// what they acknowledge. Neither is durable.
type broker struct {
	*tally
	server  *server.Server
	conn    *nats.Conn // the publisher's, without a socket
	clients int
}

func newBroker(secure *tls.Config) (*broker, error) {
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true,
		TLSConfig: secure, TLS: secure != nil, TLSHandshakeFirst: secure != nil, TLSTimeout: 30,
	})
	if err != nil {
		return nil, err
	}
	go s.Start()
	b := &broker{tally: newTally(), server: s}
	if err := b.open(); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *broker) open() (err error) {
	if !b.server.ReadyForConnections(10 * time.Second) {
		return errors.New("NATS does not start")
	}
	if b.conn, err = nats.Connect("", nats.InProcessServer(b.server)); err != nil {
		return err
	}
	acks, err := b.conn.Subscribe(natsAcks, func(m *nats.Msg) { b.acknowledged(binary.BigEndian.Uint64(m.Data)) })
	if err != nil {
		return err
	}
	return acks.SetPendingLimits(-1, -1)
}

func (b *broker) address() string { return b.server.Addr().String() }

func (b *broker) connected() int { return b.server.NumClients() - 1 }

func (b *broker) publish(ctx context.Context, events int) error {
	number := b.expect(b.clients, events)
	for i := range events {
		var event [natsBytes]byte
		binary.BigEndian.PutUint64(event[:], number+uint64(i))
		if err := b.conn.Publish(natsEvents, event[:]); err != nil {
			return err
		}
	}
	return b.wait(ctx)
}

func (b *broker) close() {
	if b.conn != nil {
		b.conn.Close()
	}
	b.server.Shutdown()
	b.server.WaitForShutdown()
}
