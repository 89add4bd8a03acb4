package quash_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/internal/feed"
)

// cluster is several nodes of one log, each with an address. They greet by
// themselves.
type cluster struct {
	*node // the first
	nodes []*node
	peers chan arrival
}

type arrival struct {
	node int
	*peer
}

func newCluster(t testing.TB, n int, lease time.Duration) *cluster {
	c := &cluster{peers: make(chan arrival, 1024)}
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	for i := range n {
		node := newNode(t)
		if i > 0 {
			node.key, node.hello = c.nodes[0].key, c.nodes[0].hello
		}
		node.hello.Lease = lease.Milliseconds()
		node.grant.Store(int64(lease))
		c.nodes = append(c.nodes, node)
	}
	for i, node := range c.nodes {
		go c.greet(i, node, over)
	}
	c.node = c.nodes[0]
	return c
}

// greet says hello to whoever connects to a node.
func (c *cluster) greet(i int, n *node, over <-chan struct{}) {
	for {
		select {
		case p := <-n.peers:
			resumes := p.header.Get(feed.HeaderLog) != ""
			p.sendHello(resumes)
			if !resumes {
				p.snapshot()
			}
			c.peers <- arrival{i, p}
		case <-over:
			return
		}
	}
}

var names = []string{"a.example", "b.example", "c.example"}

func (c *cluster) config() quash.Config {
	config := c.node.config()
	var urls []string
	for i := range c.nodes {
		urls = append(urls, "http://"+names[i])
	}
	config.URL = strings.Join(urls, ", ")
	config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		host, _, _ := net.SplitHostPort(address)
		return c.nodes[slices.Index(names, host)].dial(ctx, network, address)
	}
	return config
}

// follow opens some verifiers, and returns their connections by node.
func (c *cluster) follow(t *testing.T, n int) (verifiers []*quash.Verifier, peers [][]*peer) {
	t.Helper()
	for range n {
		v := must(quash.Open(t.Context(), c.config()))
		t.Cleanup(func() { v.Close(context.Background()) })
		verifiers = append(verifiers, v)
	}
	return verifiers, c.arrived()
}

// arrived returns the connections that nodes greeted since they were last
// returned, by node.
func (c *cluster) arrived() [][]*peer {
	synctest.Wait()
	peers := make([][]*peer, len(c.nodes))
	for len(c.peers) > 0 {
		a := <-c.peers
		peers[a.node] = append(peers[a.node], a.peer)
	}
	return peers
}

// wantNeverStale checks that no verifier has been stale since it was opened.
func wantNeverStale(t *testing.T, verifiers []*quash.Verifier, token, when string) {
	t.Helper()
	synctest.Wait()
	for _, v := range verifiers {
		wantAccepted(t, v, token, when)
		if s := v.Status(); s.Spells != 0 || !s.Connected {
			t.Fatalf("%s: got %+v, want connected, and never stale", when, s)
		}
	}
}

var leases = map[string]time.Duration{"the shortest lease": time.Second, "the default lease": 30 * time.Second}

func TestVerifiersSpreadOverTheirAddresses(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 3, 30*time.Second)
		verifiers, peers := c.follow(t, 90)
		for i, p := range peers {
			if len(p) < 9 {
				t.Errorf("node %d: got %d of 90 verifiers, want a third or so", i, len(p))
			}
		}
		c.nodes[0].status.Store(-1)
		for _, p := range peers[0] {
			p.conn.CloseNow()
		}
		time.Sleep(time.Second)
		moved := c.arrived()
		if len(moved[0]) != 0 || len(moved[1]) == 0 || len(moved[2]) == 0 {
			t.Errorf("after the first node ended: got %d, %d, %d, want its verifiers spread over the others", len(moved[0]), len(moved[1]), len(moved[2]))
		}
		wantNeverStale(t, verifiers, c.token(nil), "moved")
	})
}

// P4: a node that stops is left for another address without a gap: the
// connection to it is given up only when there is a lease elsewhere.
func TestP4ANodeThatStopsIsLeftForAnotherAddress(t *testing.T) {
	for about, lease := range leases {
		t.Run(about, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c := newCluster(t, 2, lease)
				verifiers, peers := c.follow(t, 20)
				time.Sleep(3 * lease)
				c.nodes[1].delay.Store(int64(lease / 4)) // it grants late
				for _, p := range peers[0] {
					p.sendJSON(feed.KindBye, feed.Bye{Code: feed.ByeStopping, Detail: "the node stops"})
				}
				time.Sleep(lease/4 - time.Millisecond)
				moved := c.arrived()
				if len(moved[0]) != 0 || len(moved[1]) != len(peers[0]) {
					t.Errorf("got %d and %d connections, want %d to the other node", len(moved[0]), len(moved[1]), len(peers[0]))
				}
				for _, p := range peers[0] {
					select {
					case <-p.goodbye:
						t.Error("goodbye before there was another lease")
					default:
					}
				}
				time.Sleep(lease / 2)
				for _, p := range peers[0] {
					select {
					case <-p.goodbye:
					default:
						t.Error("no goodbye though there is another lease")
					}
				}
				c.nodes[0].status.Store(-1)
				c.nodes[1].delay.Store(0)
				time.Sleep(3 * lease)
				wantNeverStale(t, verifiers, c.token(nil), "three leases later")
			})
		})
	}
}

// P8: a node that is killed is left for another address within the lease, with
// word or without, though a further address is dead, too.
func TestP8ANodeThatIsKilledIsLeftWithinTheLease(t *testing.T) {
	for about, lease := range leases {
		for how, kill := range map[string]func(n *node, peers []*peer){
			"with word": func(n *node, peers []*peer) {
				n.status.Store(-1)
				for _, p := range peers {
					p.conn.CloseNow()
				}
			},
			"silently": func(n *node, _ []*peer) { n.cutOff(true) },
		} {
			t.Run(about+", "+how, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					c := newCluster(t, 3, lease)
					verifiers, peers := c.follow(t, 20)
					time.Sleep(3 * lease)
					token := c.token(nil)
					kill(c.nodes[0], peers[0])
					kill(c.nodes[1], peers[1])
					for range 60 {
						time.Sleep(lease / 10)
						for _, v := range verifiers {
							wantAccepted(t, v, token, "at any time")
						}
					}
					wantNeverStale(t, verifiers, token, "six leases later")
				})
			})
		}
	}
}

// An address that is answered too slowly for the lease is given more time, round
// by round.
func TestASlowNetworkIsReachedInTheEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 2, time.Second)
		for _, n := range c.nodes {
			n.slow.Store(int64(1200 * time.Millisecond))
		}
		verifiers, peers := c.follow(t, 1)
		for _, p := range append(peers[0], peers[1]...) {
			p.conn.CloseNow()
		}
		time.Sleep(10 * time.Second)
		if s := verifiers[0].Status(); s.Spells != 1 || s.Stale != "" {
			t.Errorf("10 s later: got %+v, want it fresh, after it was stale once", s)
		}
	})
}

// While no address answers, they are asked in turn, all of them in each round.
func TestEachRoundAsksEveryAddress(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 3, 30*time.Second)
		for _, n := range c.nodes {
			n.status.Store(503)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := quash.Open(ctx, c.config()); err == nil {
			t.Error("opened a verifier without a node")
		}
		for i, n := range c.nodes {
			if asked := n.asked.Load(); asked < 30 || asked > 70 {
				t.Errorf("node %d: got %d attempts in a minute, want one in 1 to 2 s", i, asked)
			}
		}
	})
}
