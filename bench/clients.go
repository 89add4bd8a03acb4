package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/gobwas/ws"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/internal/feed"
)

// clientsVariable holds a fleetSpec where this process is to be the clients.
const clientsVariable = "QUASH_BENCH_CLIENTS"

// fleetSpec says how many clients connect to each address.
type fleetSpec struct {
	Number    int
	TCP       string   // bare connections
	Feeds     []string // clients of the feed that only acknowledge
	Verifiers string   // what services use
}

// clients is the child process.
type clients struct {
	process *exec.Cmd
	in      io.Closer
	out     *bufio.Reader
}

func startClients(ctx context.Context, spec fleetSpec) (*clients, error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := exec.CommandContext(ctx, self)
	c.Env = append(os.Environ(), clientsVariable+"="+string(text))
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

// ready waits until all clients are connected.
func (c *clients) ready() error {
	if _, err := c.out.ReadString('\n'); err != nil {
		return fmt.Errorf("the process of the clients ended early: %w", err)
	}
	return nil
}

func (c *clients) stop() {
	c.in.Close()
	_ = c.process.Wait()
}

// runClients connects the clients, says so on the standard output, and returns
// when the standard input ends, as it does with the parent.
func runClients(text string) error {
	var spec fleetSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return fmt.Errorf("%s: %w", clientsVariable, err)
	}
	for i := range spec.Number {
		if err := spec.connect(i); err != nil {
			return err
		}
	}
	if err := spec.openVerifiers(); err != nil {
		return err
	}
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func (s *fleetSpec) connect(i int) error {
	conn, err := net.Dial("tcp", s.TCP)
	if err != nil {
		return err
	}
	go echo(conn)
	for _, address := range s.Feeds {
		conn, r, err := dialFeed(address, fmt.Sprint("v", i))
		if err != nil {
			return err
		}
		go acknowledge(conn, r)
	}
	return nil
}

func (s *fleetSpec) openVerifiers() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	verifiers := make([]*quash.Verifier, s.Number)
	errs := make([]error, s.Number)
	var opening sync.WaitGroup
	limit := make(chan struct{}, 16)
	for i := range verifiers {
		limit <- struct{}{}
		opening.Go(func() {
			verifiers[i], errs[i] = openVerifier(ctx, s.Verifiers, fmt.Sprint("v", i), 1)
			<-limit
		})
	}
	opening.Wait()
	return errors.Join(errs...)
}

// echo answers each event of the floor.
func echo(conn net.Conn) {
	event := make([]byte, eventBytes)
	for {
		if _, err := io.ReadFull(conn, event); err != nil {
			return
		}
		if _, err := conn.Write(event[:ackBytes]); err != nil {
			return
		}
	}
}

func dialFeed(address, name string) (net.Conn, *bufio.Reader, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, nil, err
	}
	h := http.Header{}
	h.Set(feed.HeaderProcess, name)
	h.Set(feed.HeaderName, name)
	dialer := ws.Dialer{Protocols: []string{feed.Subprotocol}, Header: ws.HandshakeHeaderHTTP(h)}
	r, _, err := dialer.Upgrade(conn, &url.URL{Scheme: "ws", Host: address, Path: "/v1/feed"})
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	if r == nil {
		r = bufio.NewReader(conn)
	}
	return conn, r, nil
}

// acknowledge is the least that a verifier can be.
func acknowledge(conn net.Conn, r *bufio.Reader) {
	payload := make([]byte, 4<<10)
	for {
		h, err := ws.ReadHeader(r)
		if err != nil || h.Length > int64(len(payload)) {
			return
		}
		message := payload[:h.Length]
		if _, err := io.ReadFull(r, message); err != nil {
			return
		}
		kind, body, err := feed.Split(message)
		if err != nil || kind != feed.KindRecords && kind != feed.KindMark {
			continue
		}
		m, err := feed.DecodeMark(body[:40])
		if err != nil {
			return
		}
		ping := ws.NewBinaryFrame(feed.AppendPing(nil, feed.Ping{Applied: m.Position}))
		if _, err := conn.Write(ws.MustCompileFrame(ws.MaskFrame(ping))); err != nil {
			return
		}
	}
}
