//go:build linux

package chaos_test

import (
	"context"
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"
)

var (
	lastingFor = flag.Duration("chaos.for", 22*time.Second, "how long TestChaos and TestChaosOfNodes last together")
	resultFile = flag.String("chaos.out", "", "`file` to which the tables of what was found are added")
)

const (
	resourceServers = 4
	suffering       = 2 // of them at a time
	revokers        = 16
)

// TestChaos has people revoke while the server is killed and resource servers
// are stopped, killed and cut off. A revoke that was answered confirmed (P4), or
// answered a lease ago (P5), is refused by whoever is asked after that; nothing
// else is (P6). Everybody comes back by himself.
func TestChaos(t *testing.T) {
	t.Parallel()
	lasting := *lastingFor * 2 / 5
	play(t, raise(t, plan{nodes: 1, resources: resourceServers, capacity: 2000 + 250*int(lasting/time.Second)}), lasting, faultsOfNodes)
}

// TestChaosOfNodes has, besides, several nodes killed, stopped, cut off from
// their database and from the resource servers, and the database crash, and an
// application revoke in it. What was answered is there in the end (P1, P2, P9),
// and nobody was signed out but by somebody (P10).
func TestChaosOfNodes(t *testing.T) {
	t.Parallel()
	lasting := *lastingFor * 3 / 5
	s := raise(t, plan{nodes: 3, resources: 6, capacity: 2000 + 250*int(lasting/time.Second), shared: newDatabase(t)})
	play(t, s, lasting, faultsOfMany)
}

// play torments a stage for some time, while people revoke, and judges.
func play(t *testing.T, s *stage, lasting time.Duration, faults []fault[*node]) {
	calm, end := context.WithTimeout(context.Background(), lasting)
	defer end()
	l := newLoad(s, calm)
	c := &torment{load: l, at: make(chan struct{}, suffering), nodeAt: make(chan struct{}, max(1, len(s.nodes)-1))}
	var acts sync.WaitGroup
	for range revokers {
		acts.Go(l.run)
	}
	acts.Go(l.watch)
	acts.Go(l.withdrawKeys)
	for _, n := range s.nodes {
		acts.Go(func() { c.node(n, faults) })
	}
	if s.shared != nil {
		acts.Go(c.crashes)
	}
	for _, r := range s.resources {
		acts.Go(func() { c.resource(r) })
	}
	acts.Go(func() {
		for sleep(calm, 5*time.Second, 5*time.Second) {
			t.Log(figures(l, c))
		}
	})
	acts.Wait()
	l.ends()
	t.Logf("at the end: %s", figures(l, c))
	l.tell("signing keys withdrawn", l.stolen(), "accepted while stale", l.late(), "times PostgreSQL crashed", c.counts[databasesEnded].Load())
	if l.tally.atOnce+l.tally.later == 0 || s.total(asked) == 0 {
		t.Error("nothing was confirmed or nobody was asked")
	}
}

func figures(l *load, c *torment) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, ended, stopped := l.tally, int64(0), int64(0)
	for _, n := range l.nodes {
		ended, stopped = ended+n.ended.Load(), stopped+n.stopped.Load()
	}
	return fmt.Sprintf("%.0f s: %d revokes answered, %d of them confirmed, %d with 202, %d confirmed later; "+
		"%d not answered, of which %d stand and %d do not; "+
		"%d verifies, %d refused as stale, %d accepted while stale; "+
		"nodes ended %d times and stopped %d times; resource servers hit %d times, %d of them ended; violations: %d",
		time.Since(l.began).Seconds(), n.revokes, n.atOnce, n.accepted, n.later,
		n.unanswered, n.survived, n.undone,
		l.total(asked), l.total(refusedStale), l.late(),
		ended, stopped, c.counts[resourcesHit].Load(), c.counts[resourcesEnded].Load(),
		l.violations.Load())
}
