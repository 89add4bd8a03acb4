package revlog

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
)

const (
	// idleTimeout ends a connection on which nothing was heard; verifiers
	// ping every few seconds.
	idleTimeout = 30 * time.Second
	// maxTolerance bounds for how long a route may accept tokens when stale.
	maxTolerance = 24 * time.Hour
	// linger is how long a verifier has to take the node's last words.
	linger = time.Second
	// pageRecords is how many records a verifier that is far behind gets from
	// the store at once.
	pageRecords = 4096
)

// connection is one verifier's. A reader works for it, and a writer when there
// is something to write; nobody else writes, so that everything keeps its order.
type connection struct {
	log     *Log
	start   start
	work    atomic.Int64  // calls on the writer; it runs while there are any
	written chan struct{} // closed when the writer has ended for good
	lasting *time.Timer   // closes what lingers; set before written is closed

	// Guarded by log.mu.
	id       uint64 // of this connection: what it was granted goes by it
	process  *process
	net      net.Conn // nil until the upgrade
	verifier Verifier
	bye      *feed.Bye
	answers  answers

	// The writer's own.
	opened  bool
	at      feed.Mark // what was sent so far
	cursor  uint64    // in the ring, once joined
	joined  bool
	settled uint64 // up to where it knows the settings
	out     []byte
	buffers [2][]byte
}

// start says how a connection begins.
type start struct {
	generation int
	log        issuer.Log
	at         feed.Mark // what the verifier has, if it resumes
	reason     string    // why it gets a snapshot; empty if it resumes
}

// answers is what the verifier is to be told in return. Of several pings only
// the newest is answered (RFC 6455, section 5.5.3, allows that for its own).
type answers struct {
	due    bool // at once; else with the next records, or at the next pulse
	pinged bool // by a ping of the feed
	stamp  uint64
	echo   []byte // payload of a WebSocket ping; nil where there was none
}

// rouse has the writer look for something to do. At rest there is no writer,
// which saves half of a connection's memory.
func (c *connection) rouse() {
	if c.work.Add(1) == 1 {
		go c.write()
	}
}

// dismiss has the writer say bye and end. The first reason stands. The caller
// holds mu of the log.
func (c *connection) dismiss(bye feed.Bye) {
	if c.bye == nil {
		c.bye = &bye
		c.rouse()
	}
}

// over returns the reason to end, or nil.
func (c *connection) over() *feed.Bye {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	return c.bye
}

// end dismisses c from outside the lock.
func (c *connection) end(code, detail string) {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	c.dismiss(feed.Bye{Code: code, Detail: detail})
}

func (c *connection) close() {
	c.log.mu.Lock()
	conn := c.net
	c.log.mu.Unlock()
	if conn != nil {
		_ = conn.Close()
	}
}

// serve runs the connection until it is closed. What r has left of the
// handshake comes before what the socket brings.
func (c *connection) serve(r io.Reader) {
	defer c.log.release(c)
	go c.write()
	c.read(newFrameReader(r))
	c.close()
	c.end("", "")
	<-c.written
	if c.lasting != nil {
		c.lasting.Stop()
	}
}

// read takes what the verifier sends until the connection is closed. After a
// violation it goes on, deaf: closing at once could lose the bye on its way.
func (c *connection) read(f *frameReader) {
	var extended time.Time
	for {
		// To set a deadline costs as much as to read a ping.
		if now := time.Now(); now.Sub(extended) > idleTimeout/10 {
			extended = now
			_ = c.net.SetReadDeadline(now.Add(idleTimeout))
		}
		op, payload, err := f.next()
		if err == nil {
			err = c.handle(op, payload)
		}
		if errors.Is(err, errFrame) || errors.Is(err, feed.ErrFormat) {
			c.log.cfg.Logger.Warn("verifier broke the protocol", append(c.attrs(), "error", err)...)
			c.end(feed.ByeProtocol, err.Error())
			_, err = io.Copy(io.Discard, c.net)
		}
		if err != nil {
			return
		}
	}
}

func (c *connection) handle(op ws.OpCode, payload []byte) error {
	switch op {
	case ws.OpBinary:
		return c.take(payload)
	case ws.OpPing:
		c.log.mu.Lock()
		defer c.log.mu.Unlock()
		c.answers.due, c.answers.echo = true, append([]byte{}, payload...)
		c.rouse()
	case ws.OpClose:
		c.end("", "")
	}
	return nil
}

// take handles a message of the feed.
func (c *connection) take(message []byte) error {
	kind, body, err := feed.Split(message)
	if err != nil {
		return err
	}
	switch kind {
	case feed.KindPing:
		p, err := feed.DecodePing(body)
		if err != nil {
			return err
		}
		return c.acknowledge(p)
	case feed.KindGoodbye:
		if err := feed.DecodeGoodbye(body); err != nil {
			return err
		}
		c.takeGoodbye()
		return nil
	}
	return fmt.Errorf("%w: kind %d to a node", feed.ErrFormat, kind)
}

// takeGoodbye takes back what was granted on the connection. One that was kept
// open for nothing else is closed.
func (c *connection) takeGoodbye() {
	c.log.mu.Lock()
	c.log.goodbye(c)
	waited := c.bye != nil
	c.dismiss(feed.Bye{})
	c.log.mu.Unlock()
	if waited {
		c.close()
	}
}

// acknowledge notes what the verifier has applied. Nothing counts as sent until
// it stands on this log, so that its position in another is of no account.
func (c *connection) acknowledge(p feed.Ping) error {
	l := c.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.Tolerance > maxTolerance {
		return fmt.Errorf("%w: ping tells of routes that accept for %v when stale, and at most %v is allowed", errFrame, p.Tolerance, maxTolerance)
	}
	if p.Applied > c.verifier.Sent {
		return fmt.Errorf("%w: ping confirms position %d, and %d was sent", errFrame, p.Applied, c.verifier.Sent)
	}
	l.confirm(c, p.Applied)
	c.process.routes, c.process.tolerance = int(p.Routes), p.Tolerance
	first := c.verifier.LastHeard.Equal(c.verifier.Since)
	c.verifier.LastHeard = time.Now()
	c.answers.pinged, c.answers.stamp = true, p.Stamp
	if first {
		c.answers.due = true
		c.rouse()
		return nil
	}
	l.pulse()
	return nil
}
