//go:build linux

package chaos_test

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// fault is something that happens to a resource server for some time.
type fault struct {
	name string
	play func(r *resource, last func()) error // last returns when it is time to end it
}

// network returns a fault of the network.
func network(name string, begin func(p *proxy)) fault {
	return fault{name, func(r *resource, last func()) error {
		begin(r.proxy)
		last()
		r.proxy.clear()
		return nil
	}}
}

// stalls returns a fault in which the network becomes slow, then keeps back what
// goes in some directions, and lets it through piece by piece afterwards.
func stalls(name string, ds ...direction) fault {
	return fault{name, func(r *resource, last func()) error {
		r.proxy.slow(between(0, leaseLength/4))
		time.Sleep(between(0, leaseLength/2))
		r.proxy.stall(ds...)
		last()
		r.proxy.trickle(64, between(time.Millisecond, 20*time.Millisecond))
		time.Sleep(between(0, leaseLength/2))
		r.proxy.clear()
		return nil
	}}
}

var faultsOfResources = []fault{
	network("slow network", func(p *proxy) { p.slow(between(10*time.Millisecond, 400*time.Millisecond)) }),
	stalls("nothing goes up", up),
	stalls("nothing comes down", down),
	stalls("nothing goes either way", up, down),
	network("connection cut", func(p *proxy) { p.cut() }),
	network("connections refused", func(p *proxy) { p.refuse() }),
	network("half open, the server is told", func(p *proxy) { p.vanish(down) }),
	network("half open, the resource server is told", func(p *proxy) { p.vanish(up) }),
	{"stopped", stopped},
	{"stopped", stopped},
	{"killed", func(r *resource, last func()) error {
		r.kill()
		last()
		return r.start()
	}},
	{"closed", func(r *resource, last func()) error {
		if err := r.close(); err != nil {
			return err
		}
		return r.start()
	}},
	{"closed while nothing comes down", func(r *resource, last func()) error {
		r.proxy.stall(down)
		err := r.close()
		r.proxy.clear()
		if err != nil {
			return err
		}
		return r.start()
	}},
}

func stopped(r *resource, last func()) error {
	r.current().pause()
	last()
	r.current().resume()
	return nil
}

// lasting returns a time that is less than a lease, or more.
func lasting() time.Duration {
	if rand.IntN(2) == 0 {
		return between(leaseLength/20, leaseLength*9/10)
	}
	return between(leaseLength*11/10, leaseLength*2)
}

// torment plays faults at resource servers and the server until it is calm.
type torment struct {
	*stage
	calm   context.Context
	at     chan struct{} // as many as may suffer at once
	counts [4]atomic.Int64
}

// What is counted.
const (
	serversEnded = iota
	serversStopped
	resourcesHit
	resourcesEnded
)

// resource torments a resource server. After each fault it comes back by
// itself.
func (c *torment) resource(r *resource) {
	for sleep(c.calm, 0, time.Second) {
		c.at <- struct{}{}
		ok := c.calm.Err() == nil && c.hit(r)
		<-c.at
		if !ok {
			return
		}
	}
}

func (c *torment) hit(r *resource) bool {
	f, d, starts := faultsOfResources[rand.IntN(len(faultsOfResources))], lasting(), r.starts.Load()
	c.note("%s: %s, %v", r.config.Name, f.name, d)
	c.counts[resourcesHit].Add(1)
	if err := f.play(r, func() { sleep(c.calm, d, d) }); err != nil {
		c.violation("%s: %s: %v", r.config.Name, f.name, err)
		return false
	}
	c.counts[resourcesEnded].Add(r.starts.Load() - starts)
	over := now()
	c.note("%s: %s, over", r.config.Name, f.name)
	return c.recovers(r, over)
}

// server torments the server. In the end it runs.
func (c *torment) server() {
	for sleep(c.calm, leaseLength/2, 3*leaseLength) {
		p, down := c.node.current(), between(0, leaseLength*3/2)
		var err error
		switch rand.IntN(5) {
		case 0:
			c.note("the server is asked to end")
			c.counts[serversEnded].Add(1)
			err = p.close(patience)
		case 1:
			c.note("the server is stopped for %v", down)
			c.counts[serversStopped].Add(1)
			p.pause()
			sleep(c.calm, down, down)
			p.resume()
			continue
		default:
			c.note("the server is killed, for %v", down)
			c.counts[serversEnded].Add(1)
			p.kill()
			sleep(c.calm, down, down)
		}
		if err == nil {
			err = c.node.start()
		}
		if err != nil {
			c.violation("%v", err)
			return
		}
		c.note("the server is there again")
	}
}
