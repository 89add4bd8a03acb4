//go:build linux

package chaos_test

import (
	"net"
	"path/filepath"
	"sync"
	"time"
)

// direction of what a connection carries.
type direction int

const (
	up   direction = iota // to who is connected to
	down                  // to who connected
)

// paths are the proxies on the ways between one process and others.
type paths []*proxy

func (ps paths) each(do func(*proxy)) {
	for _, p := range ps {
		do(p)
	}
}

func (ps paths) stall(ds ...direction) { ps.each(func(p *proxy) { p.stall(ds...) }) }
func (ps paths) clear()                { ps.each((*proxy).clear) }
func (ps paths) close()                { ps.each((*proxy).close) }

// proxy stands between two processes and does to their connections what
// networks do. It begins as a good one.
type proxy struct {
	listener net.Listener

	mu      sync.Mutex
	target  string // host and port, or the path of a socket
	links   map[*link]struct{}
	delay   time.Duration
	grain   int              // octets that go at a time; 0: as they come
	held    [2]chan struct{} // nothing goes in a direction before it is closed; nil: it does
	refuses bool             // connections are reset as they come
	hole    bool             // they are taken, and nobody is there
	done    sync.WaitGroup
}

// link is one connection through the proxy.
type link struct {
	ends   [2]net.Conn   // of who connected, and of who was connected to
	gone   [2]bool       // ends that the network took away without a word to the other; guarded by mu
	closed chan struct{} // both are
	once   sync.Once
}

func newProxy(target string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: l, target: target, links: map[*link]struct{}{}}
	p.done.Go(p.accept)
	return p, nil
}

func (p *proxy) address() string { return p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		refuses, hole := p.refuses, p.hole
		p.mu.Unlock()
		switch {
		case refuses:
			reset(conn)
		case hole:
			p.carry(&link{ends: [2]net.Conn{conn, nil}, gone: [2]bool{false, true}, closed: make(chan struct{})})
		default:
			p.done.Go(func() { p.connect(conn) })
		}
	}
}

func (p *proxy) connect(conn net.Conn) {
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	network := "tcp"
	if filepath.IsAbs(target) {
		network = "unix"
	}
	there, err := net.DialTimeout(network, target, 5*time.Second)
	if err != nil {
		reset(conn)
		return
	}
	p.carry(&link{ends: [2]net.Conn{conn, there}, closed: make(chan struct{})})
}

func (p *proxy) carry(l *link) {
	p.mu.Lock()
	p.links[l] = struct{}{}
	refuses := p.refuses
	p.mu.Unlock()
	if refuses {
		p.drop(l)
		return
	}
	for d, from := range l.ends {
		if from != nil {
			p.done.Go(func() { p.pump(l, direction(d)) })
		}
	}
}

// pump carries what is sent in a direction until the link is closed.
func (p *proxy) pump(l *link, d direction) {
	buffer := make([]byte, 16<<10)
	for {
		n, err := l.ends[d].Read(buffer)
		for rest := buffer[:n]; len(rest) > 0; {
			size, ok := p.pass(l, d, len(rest))
			if ok {
				if _, werr := l.ends[1-d].Write(rest[:size]); err == nil {
					err = werr
				}
			}
			rest = rest[size:]
		}
		if err != nil {
			p.ended(l, d)
			return
		}
	}
}

// pass waits until something may go in a direction, and for as long as it then
// takes: what is under way arrives, though nothing else goes meanwhile. It
// returns how much of it went, and whether it arrives.
func (p *proxy) pass(l *link, d direction, size int) (part int, arrives bool) {
	for {
		p.mu.Lock()
		held, gone, grain, delay := p.held[d], l.gone[1-d], p.grain, p.delay
		p.mu.Unlock()
		if held == nil {
			time.Sleep(delay)
			if grain > 0 {
				size = min(size, grain)
			}
			return size, !gone
		}
		select {
		case <-held:
		case <-l.closed:
			return size, false
		}
	}
}

// ended notes that an end is closed. The other is told, unless it was the
// network that closed it.
func (p *proxy) ended(l *link, d direction) {
	p.mu.Lock()
	gone := l.gone[d]
	p.mu.Unlock()
	if !gone {
		p.drop(l)
	}
}

// drop closes a link.
func (p *proxy) drop(l *link) {
	l.once.Do(func() {
		close(l.closed)
		for _, end := range l.ends {
			if end != nil {
				_ = end.Close()
			}
		}
		p.mu.Lock()
		delete(p.links, l)
		p.mu.Unlock()
	})
}

// abort has the closing of a connection be a reset.
func abort(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}

func reset(conn net.Conn) {
	abort(conn)
	_ = conn.Close()
}

func (p *proxy) slow(by time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = by
}

// trickle lets through what was kept back, and all else, in small pieces with
// pauses between them.
func (p *proxy) trickle(grain int, pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.release()
	p.grain, p.delay = grain, pause
}

// release lets through what was kept back. The caller holds mu.
func (p *proxy) release() {
	for d, held := range p.held {
		if held != nil {
			close(held)
			p.held[d] = nil
		}
	}
}

// stall keeps back what goes in the directions, until clear.
func (p *proxy) stall(ds ...direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range ds {
		if p.held[d] == nil {
			p.held[d] = make(chan struct{})
		}
	}
}

// cut ends the connections, with word to both ends. New ones are good.
func (p *proxy) cut() {
	for _, l := range p.all() {
		for _, end := range l.ends {
			abort(end)
		}
		p.drop(l)
	}
}

// refuse ends the connections and takes no others, until clear.
func (p *proxy) refuse() {
	p.mu.Lock()
	p.refuses = true
	p.mu.Unlock()
	p.cut()
}

// vanish takes away one end of every connection, without a word to the other,
// and until clear whoever connects speaks to nobody.
func (p *proxy) vanish(d direction) {
	p.mu.Lock()
	p.hole = true
	p.mu.Unlock()
	for _, l := range p.all() {
		p.mu.Lock()
		l.gone[d] = true
		p.mu.Unlock()
		if end := l.ends[d]; end != nil {
			_ = end.Close()
		}
	}
}

// clear ends all faults. Ends that speak to nobody are told so, as by a network
// that is there again and does not know their connections.
func (p *proxy) clear() {
	p.mu.Lock()
	p.release()
	p.delay, p.grain, p.refuses, p.hole = 0, 0, false, false
	p.mu.Unlock()
	for _, l := range p.all() {
		p.mu.Lock()
		lost := l.gone != [2]bool{}
		p.mu.Unlock()
		if lost {
			p.drop(l)
		}
	}
}

func (p *proxy) all() (links []*link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		links = append(links, l)
	}
	return links
}

// lead has connections go elsewhere, and cuts those that there are.
func (p *proxy) lead(target string) {
	p.mu.Lock()
	p.target = target
	p.mu.Unlock()
	p.cut()
}

func (p *proxy) close() {
	p.clear()
	p.refuse()
	_ = p.listener.Close()
	p.done.Wait()
}
