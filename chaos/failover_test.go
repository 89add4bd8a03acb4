//go:build linux

package chaos_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/pgtest"
)

// brief is the shortest lease that there is.
const brief = time.Second

// TestP1P4SynchronousStandby crashes the database under load and promotes a
// standby that had all that was committed. Nothing that was answered is lost,
// and the log goes on as it was.
func TestP1P4SynchronousStandby(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	standby := d.cluster.Standby(t, true)
	calm, end := context.WithCancel(t.Context())
	defer end()
	l := newLoad(raise(t, plan{nodes: 3, resources: 3, capacity: 5000, lease: brief, shared: d}), calm)
	var acts sync.WaitGroup
	for range revokers / 2 {
		acts.Go(l.run)
	}
	acts.Go(l.watch)
	l.after("before the crash", 15)
	l.struck("PostgreSQL crashed, a synchronous standby promoted")
	d.cluster.Stop(t, "immediate")
	standby.Promote(t)
	d.moves(standby)
	l.after("after the promotion", 15)
	end()
	acts.Wait()
	l.ends()
	for _, n := range l.nodes {
		if log, err := n.private.Admin().Log(l.watching); err != nil || log.Epoch != 1 {
			t.Errorf("%s: epoch %d, %v, want 1: nothing was lost", n.name, log.Epoch, err)
		}
	}
	l.tell()
}

// after waits for more revokes to be answered.
func (l *load) after(what string, revokes int) {
	answered := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.tally.revokes
	}
	from := answered()
	l.await(fmt.Sprintf("%d revokes %s", revokes, what), func() bool { return answered() >= from+revokes })
}

// TestP4P9LostTail promotes a standby that lacks what was answered last. The
// nodes notice, raise the alarm and begin a new epoch: whatever was issued before
// is refused, so that nothing revives; people sign in again; and nothing is
// confirmed as long as leases may run that nobody remembers.
func TestP4P9LostTail(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	standby := d.cluster.Standby(t, false)
	calm, end := context.WithCancel(t.Context())
	defer end()
	l := newLoad(raise(t, plan{nodes: 3, resources: 3, capacity: 3000, lease: brief, shared: d}), calm)
	var acts sync.WaitGroup
	for range revokers / 4 {
		acts.Go(l.run)
	}
	l.after("before the standby is cut off", 10)
	l.cutOff(standby)
	l.after("that the standby lacks", 10)
	end()
	acts.Wait()
	l.following.Wait()
	l.judge(0)

	crashed := now()
	d.cluster.Stop(t, "immediate")
	standby.Promote(t)
	d.moves(standby)
	l.healed["PostgreSQL crashed, a standby promoted that lacked the end: until every node is in the new epoch"] = []time.Duration{l.newEpoch(crashed)}
	l.alarmed()
	l.nothingRevives()
	l.startsAnew(crashed)
	l.account()
	l.tell()
}

// cutOff ends a standby's replication, once it has something.
func (l *load) cutOff(standby *pgtest.Cluster) {
	written := query[string](l.t, l.shared.cluster, "SELECT pg_current_wal_lsn()::text")
	l.await("the standby has what was written so far", func() bool {
		return query[bool](l.t, standby, "SELECT pg_last_wal_replay_lsn() >= '"+written+"'")
	})
	execute(l.t, standby, "ALTER SYSTEM SET primary_conninfo = ''")
	execute(l.t, standby, "SELECT pg_reload_conf()")
	l.await("the standby receives no more", func() bool {
		return query[int](l.t, standby, "SELECT count(*) FROM pg_stat_wal_receiver") == 0
	})
}

// newEpoch waits until every node serves a new epoch, and returns how long after
// a time that was.
func (l *load) newEpoch(since int64) time.Duration {
	l.await("every node serves a new epoch", func() bool {
		for _, n := range l.nodes {
			if n.metric("quash_epoch") != 2 || n.ready() != nil {
				return false
			}
		}
		return true
	})
	return time.Duration(now() - since)
}

// alarmed checks that an operator was told.
func (l *load) alarmed() {
	alarms := 0
	for _, n := range l.nodes {
		alarms += strings.Count(n.log.String(), "level=ERROR msg=\"alarm: the database lost")
	}
	if alarms != 1 {
		l.t.Errorf("%d nodes raised the alarm, want the one that began the epoch", alarms)
	}
}

// metric returns the value of one that a node shows; -1: it does not.
func (n *node) metric(name string) float64 {
	response, err := n.stage.http.Get("http://" + n.config.Private + "/metrics")
	if err != nil {
		return -1
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	for line := range strings.Lines(string(text)) {
		if figure, ok := strings.CutPrefix(line, name+" "); ok {
			value, err := strconv.ParseFloat(strings.TrimSpace(figure), 64)
			if err == nil {
				return value
			}
		}
	}
	return -1
}

// nothingRevives waits until every resource server refuses all tokens that there
// are, for good. It has every session count as ended.
func (l *load) nothingRevives() {
	read := now()
	l.each(l.tokens, func(t *token) {
		if t.contested = true; t.answered == 0 {
			t.what, t.answered = "epoch", read
		}
	})
	atomic.StoreInt64(l.board.first(), 0)
	for _, r := range l.resources {
		l.await(r.config.Name+" refuses everything issued before the epoch", func() bool {
			return !slices.ContainsFunc(l.tokens, func(t *token) bool {
				saw := l.board.sight(r.config.Row, t.n)
				return saw.refusedSince < read || saw.refusedSince <= saw.accepted
			})
		})
	}
	for _, p := range l.persons {
		for _, s := range p.sessions {
			s.fate = ended
		}
	}
	l.stands = map[uint64]string{} // of what was lost, the effect is there, not the record
}

// startsAnew has people sign in, and one out, which must not be confirmed yet.
func (l *load) startsAnew(crashed int64) {
	var p *person
	for range l.nodes {
		l.await("somebody signs in", func() bool {
			var err error
			if p, err = l.person(); err != nil {
				l.wrong(err)
			}
			return err == nil
		})
		for _, r := range l.resources {
			l.accepts(r, p.sessions[2].grant.AccessToken)
		}
	}
	l.healed["until people signed in and were accepted everywhere"] = []time.Duration{time.Duration(now() - crashed)}
	r := revocations[0](p)
	position := l.revoke(&r, 2*l.lease)
	l.finish(p)
	evidence, err := l.at().private.Admin().Revocation(l.watching, position)
	if c := evidence.Confirmation; err != nil || c.Confirmed || !slices.Contains(c.Nodes, "epoch-2") || time.Until(c.Until) < 9*time.Minute {
		l.t.Errorf("the first logout of the epoch: %+v, %v, want it to wait for the longest lease, ten minutes", c, err)
	}
	l.settle()
}

// TestP8RollingRestart ends the nodes in order, one after the other, and starts
// each again, under load. No resource server refuses anything as stale, and
// whoever logs in gets in, if not at the first node then at another.
func TestP8RollingRestart(t *testing.T) {
	t.Parallel()
	calm, end := context.WithCancel(t.Context())
	defer end()
	l := newLoad(raise(t, plan{nodes: 3, resources: 3, capacity: 8000, lease: 5 * time.Second, shared: newDatabase(t)}), calm)
	var acts sync.WaitGroup
	logins := l.accounts()
	for range revokers / 4 {
		acts.Go(l.run)
	}
	acts.Go(l.watch)
	acts.Go(func() { l.logIn(logins) })
	l.after("before the first restart", 3)
	var took []time.Duration
	for _, n := range l.nodes {
		l.struck("a node asked to end, and started again")
		began := time.Now()
		ends := n.current().close(patience)
		took = append(took, time.Since(began).Round(time.Millisecond))
		if err := errors.Join(ends, n.start()); err != nil {
			t.Error(err)
			break
		}
		took = append(took, time.Since(began).Round(time.Millisecond))
		l.after("before the next restart", 3)
	}
	end()
	acts.Wait()
	l.ends()
	if stale := l.total(refusedStale); stale != 0 {
		t.Errorf("resource servers refused %d times as stale, want none", stale)
	}
	if logins.done == 0 {
		t.Error("nobody logged in")
	}
	l.tell("logins with a password, of these at another node", fmt.Sprint(logins.done, " ", logins.again), "ended after, served again after", took)
}

// logins are people with passwords, and how often they logged in.
type logins struct {
	names       []string
	done, again int // of these, not at the node that was asked first
}

const password = "as long as it has to be"

// accounts makes accounts with passwords.
func (l *load) accounts() *logins {
	made := new(logins)
	for i := range 20 { // a limit guards each
		name := fmt.Sprintf("person-%d", i)
		if _, err := l.at().private.Admin().CreateAccount(l.watching, client.NewAccount{Name: name, Password: password}); err != nil {
			l.t.Fatal(err)
		}
		made.names = append(made.names, name)
	}
	return made
}

// logIn has people log in with their passwords until it is calm.
func (l *load) logIn(people *logins) {
	for i := 0; sleep(l.calm, 50*time.Millisecond, 150*time.Millisecond); i++ {
		request := client.LoginRequest{Name: people.names[i%len(people.names)], Password: password}
		first := rand.IntN(len(l.nodes))
		var failed error
		for j := range l.nodes {
			_, err := l.nodes[(first+j)%len(l.nodes)].public.Login(l.watching, request)
			if err == nil {
				failed = nil
				people.done++
				people.again += min(j, 1)
				break
			}
			failed = errors.Join(failed, err)
		}
		if failed != nil {
			l.violation("a login failed at every node: %v", failed)
		}
	}
}
