//go:build linux

package chaos_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/quashdev/quash/client"
)

// outage is a fault, until a revocation that was begun after it is confirmed.
type outage struct {
	what  string
	began int64
}

// struck notes that a fault begins.
func (l *load) struck(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = append(l.open, outage{what, now()})
}

// recovered notes a revocation that was answered confirmed.
func (l *load) recovered(began, read int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = slices.DeleteFunc(l.open, func(o outage) bool {
		if o.began > began {
			return false
		}
		l.healed[o.what] = append(l.healed[o.what], time.Duration(read-o.began))
		return true
	})
}

// ends waits, once nobody begins anything any more, until everything has
// recovered, and judges it.
func (l *load) ends() {
	l.note("it is calm")
	l.confirms()
	l.note("a revocation was confirmed")
	l.settle()
	l.note("every resource server judges as it should")
	l.account()
	l.note("everything is accounted for")
}

// confirms waits until a revocation is confirmed in its answer.
func (l *load) confirms() {
	l.await("a revocation is confirmed in its answer", func() bool {
		l.mu.Lock()
		before := l.tally.atOnce
		l.mu.Unlock()
		if err := l.play(revocations[0], 5*time.Second); err != nil {
			l.wrong(err)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.tally.atOnce > before
	})
}

// account looks, once all has settled, for everything that was answered with
// success: revocations are in the log, whose chain holds, sessions that ended do
// not refresh (P9), the others do.
func (l *load) account() {
	report, err := l.at().private.Admin().VerifyLog(l.watching)
	if err != nil || !report.Whole {
		l.violation("P11: the chain of the log: %+v, %v", report, err)
	}
	l.accountLog()
	queue, workers := make(chan *session), sync.WaitGroup{}
	for range 8 {
		workers.Go(func() {
			for s := range queue {
				l.accountSession(s)
			}
		})
	}
	for _, p := range l.persons {
		for _, s := range p.sessions {
			queue <- s
		}
	}
	close(queue)
	workers.Wait()
}

func (l *load) accountLog() {
	found, after := map[uint64]string{}, uint64(0)
	for {
		page, err := l.at().private.Admin().Revocations(l.watching, client.RevocationQuery{After: after, Limit: 1000})
		if err != nil {
			l.violation("the log cannot be read: %v", err)
			return
		}
		for _, r := range page.Items {
			after = r.Position
			found[r.Position] = r.Claim
		}
		if len(page.Items) < 1000 {
			break
		}
	}
	for position, claim := range l.stands {
		if found[position] != claim {
			l.violation("P1: the revocation of a %s at position %d was answered, and the log has %q there", claim, position, found[position])
		}
	}
}

// accountSession presents a session's refresh token; and where the session goes
// on, the one that was spent long ago, which ends it.
func (l *load) accountSession(s *session) {
	next, refreshed := l.present(s.grant.RefreshToken)
	switch {
	case s.fate == ended && refreshed:
		l.violation("P9: session %s had ended and was refreshed", s.grant.Session)
	case s.fate == alive && !refreshed:
		l.violation("P1: session %s was opened, nobody ended it, and it is not there", s.grant.Session)
	}
	if !refreshed || s.spent == "" {
		return
	}
	if _, again := l.present(s.spent); again {
		l.violation("P10: session %s was refreshed with a token that was spent twice over", s.grant.Session)
	}
	if _, on := l.present(next.RefreshToken); on {
		l.violation("P10: session %s went on after a refresh token was reused", s.grant.Session)
	}
}

// present refreshes with a token, and says whether that succeeded.
func (l *load) present(refreshToken string) (next client.Tokens, refreshed bool) {
	l.await("a node answers to a refresh token", func() bool {
		var err error
		if next, err = l.at().public.Refresh(l.watching, refreshToken, "at the end"); err == nil {
			refreshed = true
			return true
		}
		if p, ok := errors.AsType[*client.Problem](err); ok && p.Code == client.CodeGrant {
			return true
		}
		l.wrong(err)
		return false
	})
	return next, refreshed
}

// stolen says for how long tokens of the signing keys that were withdrawn went on
// being accepted anywhere, since the call.
func (l *load) stolen() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := map[string]time.Duration{}
	for _, t := range l.tokens {
		if t.what != "kid revoked" || t.answered == 0 {
			continue
		}
		kid := claim(t.text, "kid")
		for _, w := range l.witnesses {
			if w.late == 0 {
				last[kid] = max(last[kid], time.Duration(l.board.sight(w.row, t.n).accepted-t.began))
			}
		}
	}
	if len(last) == 0 {
		return "0"
	}
	all := slices.Sorted(maps.Values(last))
	return fmt.Sprintf("%d, and last accepted anywhere %v after the call in the median, %v at most",
		len(all), all[len(all)/2].Round(100*time.Microsecond), all[len(all)-1].Round(100*time.Microsecond))
}

// tell tells what was found, and adds it to the file of results.
func (l *load) tell(more ...any) {
	l.t.Helper()
	table := l.table(more...)
	l.t.Log(table)
	if *resultFile == "" {
		return
	}
	f, err := os.OpenFile(*resultFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err == nil {
		_, err = f.WriteString(l.t.Name() + table + "\n")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		l.t.Error(err)
	}
}

// table is what is told at the end.
func (l *load) table(more ...any) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.tally
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	row := func(what string, figure any) { fmt.Fprintf(w, "%s\t%v\n", what, figure) }
	fmt.Fprintf(w, "\n%d nodes, %d resource servers, lease %v\t%.0f s\n", len(l.nodes), len(l.resources), l.lease, l.since(now()).Seconds())
	row("revokes answered", n.revokes)
	row("  confirmed in the answer", n.atOnce)
	row("  confirmed later", n.later)
	row("  in SQL, besides", n.requests)
	row("  not answered, found, not found", fmt.Sprint(n.unanswered, " ", n.survived, " ", n.undone))
	row("logins, refreshes", fmt.Sprint(len(l.tokens)-int(l.refreshes.Load()), " ", l.refreshes.Load()))
	row("verifies", l.total(asked))
	row("  refused as stale", l.total(refusedStale))
	for i := 0; i+1 < len(more); i += 2 {
		row(fmt.Sprint(more[i]), more[i+1])
	}
	row("answered, and lost", l.lost.Load())
	row("violations", l.violations.Load())
	fmt.Fprintf(w, "\nuntil a revoke begun after it was confirmed\ttimes\tmedian\tmost\n")
	var whats []string
	for what := range l.healed {
		whats = append(whats, what)
	}
	slices.Sort(whats)
	for _, what := range whats {
		took := slices.Sorted(slices.Values(l.healed[what]))
		fmt.Fprintf(w, "%s\t%d\t%v\t%v\n", what, len(took), took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
	}
	_ = w.Flush() // into memory
	return text.String()
}
