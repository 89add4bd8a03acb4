package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"

	"github.com/quashdev/quash/internal/feed"
)

// clientsVariable is set where this process is to be the clients.
const clientsVariable = "QUASH_BENCH_CLIENTS"

// order has a number of clients of one kind connect to an address.
type order struct {
	Kind    string
	Address string
	Number  int
	Roots   []byte // PEM; not empty: over TLS
}

// The kinds of clients. All but verifiers only acknowledge: when they have read
// all that came, the last of it.
const (
	overTCP   = "tcp"
	overNATS  = "nats"
	overFeed  = "feed"
	verifiers = "verifier" // what services use
)

// clients is the child process.
type clients struct {
	process *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
}

func startClients(ctx context.Context) (*clients, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := exec.CommandContext(ctx, self)
	c.Env = append(os.Environ(), clientsVariable+"=1")
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &clients{c, in, bufio.NewReader(out)}, c.Start()
}

// connect returns when the clients of an order are connected.
func (c *clients) connect(o order) error {
	if err := json.NewEncoder(c.in).Encode(o); err != nil {
		return err
	}
	if _, err := c.out.ReadString('\n'); err != nil {
		return fmt.Errorf("the process of the clients ended early: %w", err)
	}
	return nil
}

func (c *clients) stop() {
	c.in.Close()
	_ = c.process.Wait()
}

// runClients takes orders, and confirms each with a line, until they end, as
// they do with the parent.
func runClients(in io.Reader, out io.Writer) error {
	for orders := json.NewDecoder(in); ; {
		var o order
		if err := orders.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := o.connect(); err != nil {
			return fmt.Errorf("connect clients of %s: %w", o.Kind, err)
		}
		fmt.Fprintln(out, "connected")
	}
}

// connecting is how many clients connect at once.
const connecting = 16

func (o *order) connect() error {
	roots, err := o.tls()
	if err != nil {
		return err
	}
	if o.Kind == verifiers {
		return o.openVerifiers(roots)
	}
	conns := make([]*client, o.Number)
	err = concurrently(connecting, o.Number, func(i int) (err error) {
		conns[i], err = o.dial(i, roots)
		return err
	})
	if o.Kind == overFeed && err == nil {
		go beat(conns)
	}
	return err
}

func (o *order) tls() (*tls.Config, error) {
	if len(o.Roots) == 0 {
		return nil, nil
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(o.Roots) {
		return nil, errors.New("there is no certificate")
	}
	return &tls.Config{RootCAs: roots, ServerName: certificateName}, nil
}

func (o *order) openVerifiers(roots *tls.Config) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return concurrently(connecting, o.Number, func(i int) error {
		_, err := openVerifier(ctx, o.Address, fmt.Sprint("v", i), 1, roots)
		return err
	})
}

// client only acknowledges.
type client struct {
	net.Conn
	r       *bufio.Reader
	applied atomic.Uint64
}

// clientBuffer holds a batch.
const clientBuffer = 16 << 10

func (o *order) dial(i int, roots *tls.Config) (*client, error) {
	conn, err := net.Dial("tcp", o.Address)
	if err != nil {
		return nil, err
	}
	if roots != nil {
		conn = tls.Client(conn, roots)
	}
	c := &client{Conn: conn, r: bufio.NewReaderSize(conn, clientBuffer)}
	switch o.Kind {
	case overTCP:
		go c.answer(c.readTCP, c.acknowledgeTCP)
		if roots != nil {
			err = conn.(*tls.Conn).Handshake()
		}
	case overNATS:
		if err = c.subscribe(); err == nil {
			go c.answer(c.readNATS, c.acknowledgeNATS)
		}
	case overFeed:
		if err = c.upgrade(o.Address, fmt.Sprint("v", i)); err == nil {
			go c.answer(c.readFeed, c.ping)
		}
	}
	return c, err
}

// answer acknowledges the last event of those that came together.
func (c *client) answer(read func() (number uint64, ok bool, err error), acknowledge func() error) {
	for due := false; ; {
		n, ok, err := read()
		if err != nil {
			return
		}
		if ok {
			due = true
			c.applied.Store(n)
		}
		if !due || c.r.Buffered() > 0 {
			continue
		}
		due = false
		if acknowledge() != nil {
			return
		}
	}
}

func (c *client) readTCP() (uint64, bool, error) {
	var event [eventBytes]byte
	_, err := io.ReadFull(c.r, event[:])
	return binary.BigEndian.Uint64(event[:]), true, err
}

func (c *client) acknowledgeTCP() error {
	var ack [ackBytes]byte
	binary.BigEndian.PutUint64(ack[:], c.applied.Load())
	_, err := c.Write(ack[:])
	return err
}

// subscribe returns when the server has the subscription.
func (c *client) subscribe() error {
	const hello = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB " + natsEvents + " 1\r\nPING\r\n"
	if _, err := c.Write([]byte(hello)); err != nil {
		return err
	}
	for {
		line, err := c.r.ReadString('\n')
		if err != nil || line == "PONG\r\n" {
			return err
		}
		if strings.HasPrefix(line, "-ERR") {
			return errors.New(strings.TrimSpace(line))
		}
	}
}

func (c *client) readNATS() (uint64, bool, error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return 0, false, err
	}
	switch {
	case line[0] == 'M': // MSG
		var event [natsBytes + len("\r\n")]byte
		_, err := io.ReadFull(c.r, event[:])
		return binary.BigEndian.Uint64(event[:]), true, err
	case string(line) == "PING\r\n":
		_, err = c.Write([]byte("PONG\r\n"))
	}
	return 0, false, err
}

func (c *client) acknowledgeNATS() error {
	ack := append(make([]byte, 0, 64), "PUB "+natsAcks+" 8\r\n"...)
	ack = binary.BigEndian.AppendUint64(ack, c.applied.Load())
	_, err := c.Write(append(ack, "\r\n"...))
	return err
}

func (c *client) upgrade(address, name string) error {
	h := http.Header{}
	h.Set(feed.HeaderProcess, name)
	h.Set(feed.HeaderName, name)
	dialer := ws.Dialer{ReadBufferSize: clientBuffer, Protocols: []string{feed.Subprotocol}, Header: ws.HandshakeHeaderHTTP(h)}
	r, _, err := dialer.Upgrade(c.Conn, &url.URL{Scheme: "ws", Host: address, Path: "/v1/feed"})
	if r != nil { // it has read more than the handshake
		c.r = r
	}
	return err
}

func (c *client) readFeed() (uint64, bool, error) {
	h, err := ws.ReadHeader(c.r)
	if err != nil {
		return 0, false, err
	}
	var stack [128]byte
	message := slices.Grow(stack[:0], int(h.Length))[:h.Length]
	if _, err := io.ReadFull(c.r, message); err != nil {
		return 0, false, err
	}
	kind, body, err := feed.Split(message)
	if err != nil || kind != feed.KindRecords && kind != feed.KindMark {
		return 0, false, err
	}
	return binary.BigEndian.Uint64(body), true, nil // where both have the position
}

func (c *client) ping() error {
	ping := ws.NewBinaryFrame(feed.AppendPing(nil, feed.Ping{Applied: c.applied.Load()}))
	_, err := c.Write(ws.MustCompileFrame(ws.MaskFrame(ping)))
	return err
}

// beatEvery is often enough for every lease and connection to last.
const beatEvery = 10 * time.Second

// beat has the clients ping, one after the other, for as long as there are any.
func beat(all []*client) {
	for {
		for _, c := range all {
			time.Sleep(beatEvery / time.Duration(len(all)))
			if c.ping() != nil {
				return
			}
		}
	}
}
