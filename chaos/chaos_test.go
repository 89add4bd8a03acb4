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

var lastingFor = flag.Duration("chaos.for", 10*time.Second, "how long TestChaos lasts")

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
	s := raise(t, resourceServers, 2000+250*int(*lastingFor/time.Second))
	calm, end := context.WithTimeout(context.Background(), *lastingFor)
	defer end()
	l := newLoad(s, calm)
	c := &torment{stage: s, calm: calm, at: make(chan struct{}, suffering)}
	var acts sync.WaitGroup
	for range revokers {
		acts.Go(l.run)
	}
	acts.Go(l.watch)
	acts.Go(l.withdrawKeys)
	acts.Go(c.server)
	for _, r := range s.resources {
		acts.Go(func() { c.resource(r) })
	}
	acts.Go(func() {
		for sleep(calm, 5*time.Second, 5*time.Second) {
			t.Log(figures(l, c))
		}
	})
	acts.Wait()
	l.settle()
	if report, err := s.private.Admin().VerifyLog(s.watching); err != nil || !report.Whole {
		s.violation("the chain of the log: %+v, %v", report, err)
	}
	t.Logf("at the end: %s", figures(l, c))
	if l.tally.atOnce+l.tally.later == 0 || s.total(asked) == 0 {
		t.Error("nothing was confirmed or nobody was asked")
	}
}

func figures(l *load, c *torment) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.tally
	return fmt.Sprintf("%.0f s: %d revokes answered, %d of them confirmed, %d with 202, %d confirmed later; "+
		"%d not answered, of which %d stand and %d do not; "+
		"%d verifies, %d refused as stale, %d accepted while stale; "+
		"the server ended %d times and stopped %d times; resource servers hit %d times, %d of them ended; violations: %d",
		time.Since(l.began).Seconds(), n.revokes, n.atOnce, n.accepted, n.later,
		n.unanswered, n.survived, n.undone,
		l.total(asked), l.total(refusedStale), l.late(),
		c.counts[serversEnded].Load(), c.counts[serversStopped].Load(), c.counts[resourcesHit].Load(), c.counts[resourcesEnded].Load(),
		l.violations.Load())
}
