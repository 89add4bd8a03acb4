//go:build linux

package chaos_test

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// fault is something that happens to a process for some time.
type fault[T any] struct {
	name string
	play func(x T, last func()) error // last returns when it is time to end it
}

// network returns a fault of the network on some paths.
func network[T any](name string, of func(T) paths, begin func(p *proxy)) fault[T] {
	return fault[T]{name, func(x T, last func()) error {
		of(x).each(begin)
		last()
		of(x).clear()
		return nil
	}}
}

// stalls returns a fault in which the network becomes slow, then keeps back what
// goes in some directions, and lets it through piece by piece afterwards.
func stalls[T any](name string, of func(T) paths, ds ...direction) fault[T] {
	return fault[T]{name, func(x T, last func()) error {
		of(x).each(func(p *proxy) { p.slow(between(0, leaseLength/4)) })
		time.Sleep(between(0, leaseLength/2))
		of(x).stall(ds...)
		last()
		of(x).each(func(p *proxy) { p.trickle(64, between(time.Millisecond, 20*time.Millisecond)) })
		time.Sleep(between(0, leaseLength/2))
		of(x).clear()
		return nil
	}}
}

func feeds(r *resource) paths  { return r.paths }
func verifiers(n *node) paths  { return n.paths }
func databaseOf(n *node) paths { return n.database }
func cuts(p *proxy)            { p.cut() }
func refuses(p *proxy)         { p.refuse() }
func vanishesBelow(p *proxy)   { p.vanish(down) }
func vanishesAbove(p *proxy)   { p.vanish(up) }
func slows(p *proxy)           { p.slow(between(10*time.Millisecond, 400*time.Millisecond)) }

var faultsOfNodes = []fault[*node]{
	{"killed", killed},
	{"killed", killed},
	{"killed", killed},
	{"asked to end", func(n *node, _ func()) error {
		n.ended.Add(1)
		if err := n.current().close(patience); err != nil {
			return err
		}
		return n.start()
	}},
	{"stopped", func(n *node, last func()) error {
		n.stopped.Add(1)
		n.current().pause()
		last()
		n.current().resume()
		return nil
	}},
}

func killed(n *node, last func()) error {
	n.ended.Add(1)
	n.current().kill()
	last()
	return n.start()
}

// faultsOfMany are those of nodes that share a database.
var faultsOfMany = append([]fault[*node]{
	network("cut off from the database", databaseOf, refuses),
	network("database connections cut", databaseOf, cuts),
	network("database half open, the node is told", databaseOf, vanishesAbove),
	network("database slow", databaseOf, func(p *proxy) { p.slow(between(time.Millisecond, 50*time.Millisecond)) }),
	stalls("nothing goes to the database", databaseOf, up),
	stalls("nothing comes from the database", databaseOf, down),
	network("cut off from the verifiers", verifiers, refuses),
	stalls("nothing goes to the verifiers", verifiers, down),
	stalls("nothing comes from the verifiers", verifiers, up),
}, faultsOfNodes...)

var faultsOfResources = []fault[*resource]{
	network("slow network", feeds, slows),
	stalls("nothing goes up", feeds, up),
	stalls("nothing comes down", feeds, down),
	stalls("nothing goes either way", feeds, up, down),
	network("connection cut", feeds, cuts),
	network("connections refused", feeds, refuses),
	network("half open, the server is told", feeds, vanishesBelow),
	network("half open, the resource server is told", feeds, vanishesAbove),
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
		r.paths.stall(down)
		err := r.close()
		r.paths.clear()
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

// torment plays faults at resource servers, nodes and their database until it
// is calm.
type torment struct {
	*load
	at     chan struct{} // as many resource servers as may suffer at once
	nodeAt chan struct{} // as many nodes as may
	counts [3]atomic.Int64
}

// What is counted.
const (
	resourcesHit = iota
	resourcesEnded
	databasesEnded
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
	c.struck("resource server: " + f.name)
	if err := f.play(r, func() { sleep(c.calm, d, d) }); err != nil {
		c.violation("%s: %s: %v", r.config.Name, f.name, err)
		return false
	}
	c.counts[resourcesEnded].Add(r.starts.Load() - starts)
	over := now()
	c.note("%s: %s, over", r.config.Name, f.name)
	return c.recovers(r, over)
}

// node torments a node with some of the faults. In the end it runs.
func (c *torment) node(n *node, faults []fault[*node]) {
	for sleep(c.calm, leaseLength/2, max(3, 2*time.Duration(len(c.nodes)))*leaseLength) {
		c.nodeAt <- struct{}{}
		ok := c.calm.Err() == nil && c.strikeAt(n, faults[rand.IntN(len(faults))])
		<-c.nodeAt
		if !ok {
			return
		}
	}
}

func (c *torment) strikeAt(n *node, f fault[*node]) bool {
	d := between(0, leaseLength*3/2)
	c.note("%s: %s, %v", n.name, f.name, d)
	c.struck("node: " + f.name)
	if err := f.play(n, func() { sleep(c.calm, d, d) }); err != nil {
		c.violation("%s: %s: %v", n.name, f.name, err)
		return false
	}
	c.note("%s: %s, over", n.name, f.name)
	return true
}

// crashes has the database crash now and then. In the end it runs.
func (c *torment) crashes() {
	for sleep(c.calm, 2*leaseLength, 4*leaseLength) {
		d := between(0, leaseLength/2)
		c.note("the database crashes, for %v", d)
		c.struck("PostgreSQL crashed")
		c.counts[databasesEnded].Add(1)
		c.shared.cluster.Stop(c.t, "immediate")
		sleep(c.calm, d, d)
		c.shared.cluster.Start(c.t)
		c.note("the database is there again")
	}
}
