//go:build linux

package chaos_test

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"
)

// accepts waits until a resource server accepts a token.
func (l *load) accepts(r *resource, token string) {
	l.await(r.config.Name+" accepts a live token", func() bool {
		a, err := r.show(l.watching, routeStrict, token)
		return err == nil && a.status == http.StatusOK
	})
}

// signsIn has a person sign in.
func (l *load) signsIn() *person {
	p, err := l.person()
	if err != nil {
		l.t.Fatal(err)
	}
	return p
}

// TestP8FeedBlocked blocks the feed of resource servers, in each direction and
// in both. They go on for as long as their leases last, then refuse with 503,
// never with 401, a token that is issued meanwhile too, and come back by
// themselves. One that is not blocked notices nothing.
func TestP8FeedBlocked(t *testing.T) {
	t.Parallel()
	l := newLoad(raise(t, plan{nodes: 1, resources: 4, capacity: 100}), t.Context())
	before := l.signsIn()
	for _, r := range l.resources {
		l.accepts(r, before.sessions[0].grant.AccessToken)
	}
	blocked := l.resources[:3]
	blocked[0].paths.stall(up)
	blocked[1].paths.stall(down)
	blocked[2].paths.stall(up, down)
	since := now()
	during := l.signsIn()
	tokens := []string{before.sessions[0].grant.AccessToken, during.sessions[0].grant.AccessToken}
	for _, r := range blocked {
		l.refusesInTime(r, tokens, since)
	}
	l.accepts(l.resources[3], during.sessions[0].grant.AccessToken)
	for _, r := range blocked {
		r.paths.clear()
	}
	for _, r := range blocked {
		l.accepts(r, before.sessions[0].grant.AccessToken)
		l.accepts(r, during.sessions[0].grant.AccessToken)
	}
	l.judge(0)
}

// refusesInTime shows live tokens to a resource server that nobody tells
// anything since a time, until it refuses each, and some more.
func (l *load) refusesInTime(r *resource, tokens []string, since int64) {
	refusals := 0
	l.await(r.config.Name+" refuses", func() bool {
		for _, token := range tokens {
			a, err := r.show(l.watching, routeStrict, token)
			switch {
			case err != nil:
				l.violation("%s: %v", r.config.Name, err)
				return true
			case a.status == http.StatusUnauthorized:
				l.violation("%s refuses a live token for good", r.config.Name)
				return true
			case a.status == http.StatusOK && a.began >= since+int64(l.lease):
				l.violation("%s accepts a token %v after it was cut off", r.config.Name, time.Duration(a.began-since))
				return true
			case a.status == http.StatusServiceUnavailable:
				refusals++
			}
		}
		return refusals >= 10
	})
}

// TestP4StoppedProcess stops a resource server for longer than its lease. A
// token that was revoked meanwhile, and confirmed, is refused by its very first
// answer when it goes on, over HTTP and in its process.
func TestP4StoppedProcess(t *testing.T) {
	t.Parallel()
	l := newLoad(raise(t, plan{nodes: 1, resources: 2, capacity: 100}), t.Context())
	sleeper := l.resources[0]
	p := l.signsIn()
	for _, r := range l.resources {
		l.accepts(r, p.sessions[0].grant.AccessToken)
	}
	sleeper.current().pause()
	r := byClaim("jti", claim(p.sessions[0].tokens[0].text, "jti"), p.sessions[0].tokens)
	position := l.revoke(&r, 5*time.Second)
	l.follow(r, position)
	if p.sessions[0].tokens[0].confirmed == 0 {
		t.Fatal("the revocation was not confirmed")
	}
	asked, answers := make(chan struct{}), make(chan answer, 1)
	go func() {
		close(asked)
		a, err := sleeper.show(l.watching, routeStrict, p.sessions[0].grant.AccessToken)
		if err != nil {
			l.violation("%v", err)
		}
		answers <- a
	}()
	<-asked
	sleep(t.Context(), 100*time.Millisecond, 100*time.Millisecond) // the request is there before it wakes
	woken := now()
	sleeper.current().resume()
	if a := <-answers; a.status != http.StatusUnauthorized && a.status != http.StatusServiceUnavailable {
		t.Errorf("the first answer to a revoked token was %d", a.status)
	}
	l.recovers(sleeper, woken)
	l.accepts(sleeper, p.sessions[1].grant.AccessToken)
	l.finish(p)
	l.settle()
}

// TestP1P4KilledServer kills the server while people revoke and one resource
// server hears nothing, so that most wait between commit and answer. Whatever
// was answered stands, and whatever was not stands as a whole or not at all;
// everybody judges the same in the end.
func TestP1P4KilledServer(t *testing.T) {
	t.Parallel()
	calm, end := context.WithCancel(t.Context())
	l := newLoad(raise(t, plan{nodes: 1, resources: 2, capacity: 5000}), calm)
	deaf := l.resources[1]
	var acts sync.WaitGroup
	for range revokers {
		acts.Go(l.run)
	}
	acts.Go(l.watch)
	began := time.Now()
	for kills := 0; kills < 2 || l.survivors() == 0; kills++ {
		if time.Since(began) > patience {
			t.Errorf("in %v no revocation was caught between commit and answer", patience)
			break
		}
		deaf.paths.stall(down)
		sleep(calm, leaseLength/4, leaseLength/2)
		l.nodes[0].current().kill()
		deaf.paths.clear()
		if err := l.nodes[0].start(); err != nil {
			t.Error(err)
			break
		}
		l.recovers(deaf, now())
	}
	end()
	acts.Wait()
	l.settle()
	t.Logf("revokes answered: %d; not answered: %d, of which %d stand", l.tally.revokes, l.tally.unanswered, l.tally.survived)
}

// survivors is how many revocations were not answered, and stand.
func (l *load) survivors() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tally.survived
}
