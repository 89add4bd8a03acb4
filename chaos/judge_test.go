//go:build linux

package chaos_test

import (
	"sync/atomic"
	"time"
)

// judge compares what witnesses saw of the tokens from a number on with what
// had been promised. What a witness saw is read first: what it is compared with
// is then at least as old as what had been known.
func (l *load) judge(from int) {
	l.mu.Lock()
	tokens := l.tokens[min(from, len(l.tokens)):]
	l.mu.Unlock()
	for _, w := range l.witnesses {
		for _, t := range tokens {
			saw := l.board.sight(w.row, t.n)
			l.mu.Lock()
			known := *t
			l.mu.Unlock()
			if promise := known.broken(saw, w, l.lease); promise != "" {
				l.report(w, known, saw, promise)
			}
		}
	}
}

// broken names the promise that what a witness saw breaks; empty: none.
func (t *token) broken(saw sight, w witness, lease time.Duration) string {
	switch {
	case w.late == 0 && t.confirmed != 0 && saw.accepted >= t.confirmed:
		return "P4: accepted by a verify that began after the revocation was confirmed"
	case t.answered != 0 && saw.accepted >= t.answered+int64(lease+w.late):
		return "P5: accepted by a verify that began a lease after the revocation was answered"
	case !t.contested && saw.refused != 0 && (t.began == 0 || saw.refused < t.began):
		return "P6: refused for good, though nobody had revoked it"
	}
	return ""
}

func (l *load) report(w witness, t token, saw sight, promise string) {
	l.mu.Lock()
	key := [2]int{w.row, t.n}
	again := l.reported[key]
	l.reported[key] = true
	l.mu.Unlock()
	if again {
		return
	}
	at := func(when int64) string {
		if when == 0 {
			return "never"
		}
		return l.since(when).Round(time.Microsecond).String()
	}
	l.violation("%s\n\t%s, token %d (%s): called %s, answered %s, confirmed %s; last accepted %s, first refused %s",
		promise, w.name, t.n, t.what, at(t.began), at(t.answered), at(t.confirmed), at(saw.accepted), at(saw.refused))
}

// retired is how long a token is asked for all the time after nothing more is
// done with it, in leases: longer than the longest fault.
const retired = 3

// watch judges, and lets tokens retire, until it is calm.
func (l *load) watch() {
	for sleep(l.calm, 500*time.Millisecond, 500*time.Millisecond) {
		first := int(atomic.LoadInt64(l.board.first()))
		l.judge(first)
		l.mu.Lock()
		for first < len(l.tokens)-1 && l.tokens[first].over != 0 && now()-l.tokens[first].over > int64(retired*l.lease) {
			first++
		}
		l.mu.Unlock()
		atomic.StoreInt64(l.board.first(), int64(first))
	}
}

// lastTokens is how many tokens everybody is asked for at the end.
const lastTokens = 600

// settle waits, once nothing goes wrong any more, until every witness in a
// process accepts what lives and refuses what does not, and judges everything.
func (l *load) settle() {
	l.following.Wait()
	calm := now()
	from := max(0, len(l.tokens)-lastTokens)
	atomic.StoreInt64(l.board.first(), int64(from))
	l.await("every resource server judges every token as it should", func() bool {
		for _, r := range l.resources {
			for _, t := range l.tokens[from:] {
				if !t.settled(l.board.sight(r.config.Row, t.n), calm) {
					return false
				}
			}
		}
		return true
	})
	for _, r := range l.resources {
		l.recovers(r, calm)
	}
	l.judge(0)
}

// settled says whether a witness has judged t as it should since a time.
func (t *token) settled(saw sight, since int64) bool {
	switch {
	case t.answered != 0:
		return saw.refusedSince >= since && saw.accepted < since
	case t.began == 0 && !t.contested:
		return saw.accepted >= since
	}
	return true
}

// recovers waits until a resource server accepts tokens over HTTP again.
func (s *stage) recovers(r *resource, since int64) bool {
	return s.await(r.config.Name+" accepts tokens again", func() bool {
		return atomic.LoadInt64(s.board.tally(r.strict, lastAccepted)) >= since
	})
}
