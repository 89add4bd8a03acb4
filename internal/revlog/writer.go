package revlog

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"github.com/gobwas/ws"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revset"
)

// farewell is the error with which a writer ends in order.
type farewell feed.Bye

func (f farewell) Error() string { return "feed: " + f.Code + ": " + f.Detail }

// write is the writer: hello, a snapshot if one is due, then the stream. It
// returns when there is nothing to write; the next call begins where it ended.
func (c *connection) write() {
	var err error
	if !c.opened {
		c.opened = true
		err = c.open()
	}
	for err == nil {
		calls := c.work.Load()
		var wrote bool
		wrote, err = c.next()
		if err == nil && !wrote && c.work.CompareAndSwap(calls, 0) {
			return
		}
	}
	if bye, ok := errors.AsType[farewell](err); !ok || c.part(bye) != nil {
		c.close()
	}
	close(c.written)
}

// open sends hello and the snapshot.
func (c *connection) open() error {
	hello, err := c.hello()
	if err != nil {
		return err
	}
	if err := c.send(appendFrame(nil, ws.OpBinary, hello), nil); err != nil || c.start.reason == "" {
		return err
	}
	c.log.cfg.Logger.Info("verifier gets a snapshot", append(c.attrs(), "reason", c.start.reason)...)
	snap := c.log.current()
	for _, b := range snap.blocks {
		for _, part := range b.parts {
			if bye := c.over(); bye != nil {
				return farewell(*bye)
			}
			if err := c.send(part, nil); err != nil {
				return err
			}
		}
	}
	news := c.stand(snap.mark)
	return c.send(appendFrame(news, ws.OpBinary, feed.AppendMark(nil, snap.mark)), nil)
}

func (c *connection) hello() ([]byte, error) {
	l := c.log
	l.mu.Lock()
	s, head := l.settings, l.ring.head.Position
	c.settled = l.settled
	if c.start.reason == "" {
		l.stats.Resumes++
	} else {
		l.stats.Snapshots++
	}
	l.mu.Unlock()
	return feed.AppendJSON(nil, feed.KindHello, feed.Hello{
		Log:         s.log.ID,
		Epoch:       s.log.Epoch,
		Head:        head,
		Issuer:      l.cfg.Issuer,
		HashSecret:  s.log.HashSecret,
		Claims:      append([]string{}, s.log.Claims...),
		Keys:        s.keys,
		MaxLifetime: int64((s.log.MaxLifetime + time.Second - 1) / time.Second),
		Lease:       time.Duration(l.cfg.Lease).Milliseconds(),
		Resumes:     c.start.reason == "",
		Reason:      c.start.reason,
		Issuers:     foreign(s.log.Issuers),
	})
}

// foreign returns the other issuers as hello names them.
func foreign(list []issuer.Foreign) []feed.Issuer {
	var named []feed.Issuer
	for _, f := range list {
		named = append(named, feed.Issuer{Name: f.Name, MaxLifetime: int64(f.MaxLifetime / time.Second)})
	}
	return named
}

// stand notes, before it is written, that the verifier is sent what m stands
// for. It returns what must be written before that.
func (c *connection) stand(m feed.Mark) (news []byte) {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	c.at = m
	c.verifier.Sent = m.Position
	return c.news()
}

// news returns the messages that bring the verifier's settings up to date, if
// they changed since hello and it does not yet follow the ring, which has them.
// The caller holds mu of the log.
func (c *connection) news() []byte {
	s := c.log.settings
	if c.settled == c.log.settled {
		return nil
	}
	c.settled = c.log.settled
	return appendFrame(appendFrame(nil, ws.OpBinary, claimsMessage(s)), ws.OpBinary, keysMessage(s))
}

// next writes what there is and reports whether there was anything. Pongs
// follow the records that they speak of, in the same write.
func (c *connection) next() (wrote bool, err error) {
	batch, missing, err := c.follow()
	if err == nil && missing > 0 {
		batch, err = c.catchUp(batch, missing)
	}
	if err != nil {
		return false, err
	}
	pongs := c.pongs(len(batch) > 0)
	if len(batch)+len(pongs) == 0 {
		return false, nil
	}
	return true, c.send(batch, pongs)
}

// follow returns what comes next out of the ring. While the ring does not
// reach back to where the verifier stands, it returns how many records are to
// be read from the store, after settings that changed since hello.
func (c *connection) follow() (batch []byte, missing int, err error) {
	l := c.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.bye != nil {
		return nil, 0, farewell(*c.bye)
	}
	if !c.joined {
		batch = c.news()
		if c.cursor, c.joined = l.find(c.at); !c.joined || len(batch) > 0 {
			return batch, c.missing(l.ring.head), nil
		}
	}
	batch, at, ok := l.ring.take(c.cursor)
	if !ok {
		l.stats.Slow++
		return nil, 0, farewell{feed.ByeSlow, "the verifier fell behind what the node keeps; connect again"}
	}
	c.cursor += uint64(len(batch))
	c.at = at
	c.verifier.Sent = at.Position
	return batch, 0, nil
}

// missing returns how many records lie between the verifier and head, where
// the ring begins for it. A node that has read less than another node sent
// has nothing for the verifier yet.
func (c *connection) missing(head feed.Mark) int {
	if c.joined || c.at.Position >= head.Position {
		return 0
	}
	return int(min(head.Position-c.at.Position, pageRecords))
}

// catchUp appends the next records of the store, none beyond the ring's head,
// so that the last page ends where the ring can go on.
func (c *connection) catchUp(batch []byte, missing int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(c.log.life, storeTimeout)
	defer cancel()
	var records []revset.Record
	var m feed.Mark
	err := c.log.source.View(ctx, func(r Reader) error {
		found, err := r.Log()
		switch {
		case err != nil:
			return err
		case found.ID != c.start.log.ID || found.Epoch != c.start.log.Epoch:
			return farewell{feed.ByeChanged, "the log is another; connect again"}
		case found.Pruned.Position > c.at.Position:
			return farewell{feed.ByeSlow, "the verifier fell behind what was pruned; connect again"}
		}
		records, m, err = r.Records(c.at.Position, missing)
		return err
	})
	if err == nil && len(records) == 0 {
		err = fmt.Errorf("no records after %d in the store", c.at.Position)
	}
	if _, ok := errors.AsType[farewell](err); ok {
		return nil, err
	}
	if err != nil {
		c.log.cfg.Logger.Warn("reading the log for a verifier failed", append(c.attrs(), "error", err)...)
		return nil, farewell{feed.ByeStopping, "the node cannot read its store; connect again"}
	}
	return appendRecords(append(batch, c.stand(m)...), m, records), nil
}

// pongs encodes the answers that are due, or all if something is written
// anyway. They speak of c.at, so whatever leads up to it must be written first.
func (c *connection) pongs(anyway bool) []byte {
	c.log.mu.Lock()
	a := c.answers
	if !a.due && !anyway {
		c.log.mu.Unlock()
		return nil
	}
	c.answers = answers{}
	var granted time.Duration
	if a.pinged {
		granted = c.log.grant(c)
	}
	c.log.mu.Unlock()
	c.out = c.out[:0]
	if a.echo != nil {
		c.out = appendFrame(c.out, ws.OpPong, a.echo)
	}
	if a.pinged {
		var pong [128]byte
		p := feed.AppendPong(pong[:0], feed.Pong{Mark: c.at, Stamp: a.stamp, Clock: c.log.cfg.Clock().Wall / int64(time.Millisecond), Grant: granted})
		c.out = appendFrame(c.out, ws.OpBinary, p)
	}
	return c.out
}

// send writes both slices, either of which may be empty.
func (c *connection) send(batch, more []byte) error {
	if err := c.net.SetWriteDeadline(time.Now().Add(c.log.cfg.WriteTimeout)); err != nil {
		return err
	}
	n, err := c.write2(batch, more)
	c.log.bytes.Add(uint64(n))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.log.cfg.Logger.Warn("verifier does not read; closing its connection", c.attrs()...)
		c.log.mu.Lock()
		c.log.stats.Slow++
		c.log.mu.Unlock()
	}
	return err
}

// write2 writes both slices at once. Only a TCP connection takes two without
// making two of them, each with a system call and, under TLS, a record of its own.
func (c *connection) write2(batch, more []byte) (int64, error) {
	if _, plain := c.net.(*net.TCPConn); plain && len(batch) > 0 && len(more) > 0 {
		c.buffers = [2][]byte{batch, more}
		buffers := net.Buffers(c.buffers[:])
		n, err := buffers.WriteTo(c.net)
		clear(c.buffers[:])
		return n, err
	}
	if len(batch) == 0 {
		batch = more
	} else if len(more) > 0 {
		batch = slices.Concat(batch, more)
	}
	n, err := c.net.Write(batch)
	return int64(n), err
}

// part says the node's last words and leaves the verifier a moment to take
// them. A bye without a code is for a verifier that closes by itself.
func (c *connection) part(bye farewell) error {
	out := c.out[:0]
	if bye.Code != "" {
		c.log.cfg.Logger.Debug("closing a feed", append(c.attrs(), "code", bye.Code, "detail", bye.Detail)...)
		// Two strings can always be encoded.
		msg, _ := feed.AppendJSON(nil, feed.KindBye, feed.Bye(bye))
		out = appendFrame(out, ws.OpBinary, msg)
	}
	c.log.mu.Lock()
	stay := c.log.linger
	c.log.mu.Unlock()
	if bye.Code == feed.ByeStopping && stay > linger {
		c.lasting = time.AfterFunc(stay, c.close) // for its goodbye, once it has moved
		return c.send(out, nil)
	}
	out = appendFrame(out, ws.OpClose, ws.NewCloseFrameBody(closeStatus(bye.Code), ""))
	if err := c.send(out, nil); err != nil {
		return err
	}
	if half, ok := c.net.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	c.lasting = time.AfterFunc(linger, c.close)
	return nil
}

func closeStatus(code string) ws.StatusCode {
	switch code {
	case "":
		return ws.StatusNormalClosure
	case feed.ByeProtocol:
		return ws.StatusProtocolError
	case feed.ByeKey:
		return ws.StatusPolicyViolation
	default:
		return ws.StatusGoingAway
	}
}

func (c *connection) attrs() []any {
	v := &c.verifier
	return []any{"verifier", v.Name, "process", v.Process, "key", v.Key, "address", v.Address}
}
