//go:build linux

package chaos_test

import (
	"cmp"
	"context"
	crand "crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/quashdev/quash/client"
)

// token is one that was issued, and what became of it, by the shared clock. The
// mutex of the load guards it.
type token struct {
	n         int // on the board
	text      string
	what      string // what was done to it
	began     int64  // before the call that kills it was made; 0: there was none, or it did nothing
	answered  int64  // when it was known that it is revoked
	confirmed int64  // when it was known that this is confirmed
	contested bool   // several calls may have killed it
	over      int64  // when nothing more was to be done with it
}

// load is people who sign in, and people who revoke.
type load struct {
	*stage
	calm  context.Context // ends when nobody is to begin anything
	cases atomic.Int64
	head  atomic.Uint64 // the highest position that was answered

	following sync.WaitGroup // of what waits for confirmations

	// issuing is held while a token is issued, and alone while a signing key
	// is revoked: which of the two was first would not be known.
	issuing   sync.RWMutex
	withdrawn atomic.Int64 // signing keys so far

	refreshes atomic.Int64

	mu       sync.Mutex // guards what follows
	tokens   []*token   // by their numbers
	persons  []*person
	stands   map[uint64]string // the claims of revocations that were answered, by position
	doubtful map[string]bool   // signing keys of which nobody knows whether they are revoked
	reported map[[2]int]bool
	open     []outage
	healed   map[string][]time.Duration
	tally    struct {
		revokes, atOnce, accepted, later int // answered; confirmed in the answer; not; confirmed after that
		unanswered, survived, undone     int // calls without an answer; those that had been committed; that had not, as far as is known
		requests                         int // revocations in SQL
	}
}

func newLoad(s *stage, calm context.Context) *load {
	return &load{
		stage: s, calm: calm, reported: map[[2]int]bool{}, stands: map[uint64]string{},
		doubtful: map[string]bool{}, healed: map[string][]time.Duration{},
	}
}

// sleep waits for a time between two, and says whether it is not calm yet.
func sleep(calm context.Context, from, to time.Duration) bool {
	t := time.NewTimer(between(from, to))
	defer t.Stop()
	select {
	case <-calm.Done():
		return false
	case <-t.C:
		return true
	}
}

func between(from, to time.Duration) time.Duration { return from + rand.N(to-from+1) }

// person is a subject with sessions that nobody else shares a value with.
type person struct {
	subject, tenant, client string
	withdrawn               int64 // signing keys, before it signed in
	sessions                []*session
}

// session is one of a person, as its device knows it.
type session struct {
	grant  client.Tokens // the latest
	spent  string        // the refresh token of the one before; empty: there was none
	tokens []*token
	fate   fate
}

// fate is what became of a session, as far as was answered.
type fate int

const (
	alive fate = iota
	ended
	unknown
)

func tokensOf(sessions []*session) (tokens []*token) {
	for _, s := range sessions {
		tokens = append(tokens, s.tokens...)
	}
	return tokens
}

// revocation is one call, what it ends, and how to find it in the log if there
// is no answer.
type revocation struct {
	what         string
	claim, value string
	tokens       []*token
	sessions     []*session // that it ends
	withdrawn    int64      // signing keys, before its tokens were issued
	call         call       // nil: it is made in the database
}

type call func(ctx context.Context, admin client.Admin, user *client.Client) (client.Effect, error)

// ending returns a revocation that ends sessions of a person.
func ending(what, claim, value string, p *person, sessions []*session, c call) revocation {
	return revocation{what, claim, value, tokensOf(sessions), sessions, p.withdrawn, c}
}

// revocations of every kind that ends something of one person.
var revocations = []func(p *person) revocation{
	func(p *person) revocation {
		return ending("logout", "sid", p.sessions[0].grant.Session, p, p.sessions[:1], func(ctx context.Context, _ client.Admin, user *client.Client) (client.Effect, error) {
			return user.Logout(ctx, p.sessions[0].grant.RefreshToken)
		})
	},
	func(p *person) revocation {
		return ending("logout others", "sid", p.sessions[1].grant.Session, p, p.sessions[1:], func(ctx context.Context, _ client.Admin, user *client.Client) (client.Effect, error) {
			return user.LogoutOthers(ctx, p.sessions[0].grant.AccessToken)
		})
	},
	func(p *person) revocation {
		return ending("logout all", "sub", p.subject, p, p.sessions, func(ctx context.Context, _ client.Admin, user *client.Client) (client.Effect, error) {
			return user.LogoutAll(ctx, p.sessions[0].grant.AccessToken)
		})
	},
	func(p *person) revocation {
		return ending("end session", "sid", p.sessions[0].grant.Session, p, p.sessions[:1], func(ctx context.Context, admin client.Admin, _ *client.Client) (client.Effect, error) {
			return admin.EndSession(ctx, p.sessions[0].grant.Session, client.Change{})
		})
	},
	func(p *person) revocation {
		return ending("end sessions", "sub", p.subject, p, p.sessions, func(ctx context.Context, admin client.Admin, _ *client.Client) (client.Effect, error) {
			return admin.EndSessions(ctx, p.subject, client.Change{})
		})
	},
	func(p *person) revocation {
		return ending("deactivated", "sub", p.subject, p, p.sessions, func(ctx context.Context, admin client.Admin, _ *client.Client) (client.Effect, error) {
			return admin.Deactivate(ctx, p.subject, client.Change{})
		})
	},
	func(p *person) revocation {
		return ending("deleted", "sub", p.subject, p, p.sessions, func(ctx context.Context, admin client.Admin, _ *client.Client) (client.Effect, error) {
			return admin.DeleteAccount(ctx, p.subject, client.Change{})
		})
	},
	func(p *person) revocation {
		r := byClaim("sid", p.sessions[0].grant.Session, p.sessions[0].tokens)
		r.sessions = p.sessions[:1]
		return r
	},
	func(p *person) revocation {
		r := byClaim("sub", p.subject, tokensOf(p.sessions))
		r.what, r.call = "claims changed", func(ctx context.Context, admin client.Admin, _ *client.Client) (client.Effect, error) {
			return admin.PutClaims(ctx, p.subject, json.RawMessage(`{"tenant":"none"}`), client.Change{})
		}
		return r
	},
	func(p *person) revocation {
		latest := p.sessions[0].tokens[len(p.sessions[0].tokens)-1:]
		return byClaim("jti", claim(latest[0].text, "jti"), latest)
	},
	func(p *person) revocation { return byClaim("tenant", p.tenant, tokensOf(p.sessions)) },
	func(p *person) revocation { return byClaim("client_id", p.client, tokensOf(p.sessions)) },
}

func byClaim(name, value string, tokens []*token) revocation {
	return revocation{name + " revoked", name, value, tokens, nil, 0, func(ctx context.Context, admin client.Admin, _ *client.Client) (client.Effect, error) {
		return admin.Revoke(ctx, client.RevokeRequest{Claim: name, Value: value})
	}}
}

// applied are revocations that an application makes in the database that it
// shares with the nodes.
var applied = []func(p *person) revocation{
	func(p *person) revocation {
		return ending("sid revoked in SQL", "sid", p.sessions[0].grant.Session, p, p.sessions[:1], nil)
	},
	func(p *person) revocation {
		return ending("sub revoked in SQL", "sub", p.subject, p, p.sessions, nil)
	},
	func(p *person) revocation {
		r := byClaim("tenant", p.tenant, tokensOf(p.sessions))
		r.what, r.call = "tenant revoked in SQL", nil
		return r
	},
}

// claim returns a claim of a token, or a member of its header.
func claim(text, name string) string {
	for _, part := range strings.SplitN(text, ".", 3)[:2] {
		decoded, _ := base64.RawURLEncoding.DecodeString(part)
		var members map[string]any
		if json.Unmarshal(decoded, &members) == nil && members[name] != nil {
			return fmt.Sprint(members[name])
		}
	}
	return ""
}

// run plays one case after the other until it is calm.
func (l *load) run() {
	kinds := revocations
	if l.shared != nil {
		kinds = slices.Concat(revocations, applied)
	}
	for sleep(l.calm, 20*time.Millisecond, 300*time.Millisecond) {
		kind := kinds[rand.IntN(len(kinds))]
		if err := l.play(kind, []time.Duration{0, time.Second, 2 * time.Second, 5 * time.Second}[rand.IntN(4)]); err != nil {
			l.wrong(err)
			l.untilReady()
		}
	}
}

// wrong reports an error that is not one of a server that is gone, stale or
// about to start.
func (l *load) wrong(err error) {
	if p, ok := errors.AsType[*client.Problem](err); ok && !passing(p) {
		l.violation("the server refused what it had to do: %d %v", p.Status, p)
	}
}

// passing says whether a problem goes by itself.
func passing(p *client.Problem) bool {
	switch p.Code {
	case client.CodeStale, client.CodeNotReady, client.CodeUnavailable, client.CodeOutcomeUnknown:
		return true
	}
	return false
}

// untilReady waits for the server, and says whether it is there.
func (l *load) untilReady() bool {
	for began := time.Now(); time.Since(began) < patience; time.Sleep(50 * time.Millisecond) {
		if l.ready() == nil {
			return true
		}
	}
	return false
}

// play has a person sign in, refresh, and ends some or all of it.
func (l *load) play(kind func(*person) revocation, wait time.Duration) error {
	p, err := l.person()
	if err != nil {
		return err
	}
	for range rand.IntN(3) {
		if err := l.refresh(p.sessions[rand.IntN(len(p.sessions))]); err != nil {
			l.finish(p)
			return err
		}
	}
	sleep(l.calm, 20*time.Millisecond, 200*time.Millisecond)
	r := kind(p)
	var position uint64
	if r.call == nil {
		position = l.request(&r)
	} else if position = l.revoke(&r, wait); rand.IntN(3) == 0 {
		l.refused(r)
	}
	switch r.what {
	case "end sessions", "logout all": // what is issued after it lives
		if r.sessions[0].fate != unknown {
			err = l.issue(p)
		}
	}
	l.following.Go(func() {
		l.follow(r, position)
		l.finish(p)
	})
	return err
}

// person makes a subject with three sessions.
func (l *load) person() (*person, error) {
	i := l.cases.Add(1)
	p := &person{subject: fmt.Sprintf("u_%d", i), tenant: fmt.Sprintf("t_%d", i), client: fmt.Sprintf("c_%d", i), withdrawn: l.withdrawn.Load()}
	_, err := l.at().private.Admin().CreateAccount(l.watching, client.NewAccount{
		Subject: p.subject, Claims: fmt.Appendf(nil, `{"tenant":%q}`, p.tenant),
	})
	for range 3 {
		if err == nil {
			err = l.issue(p)
		}
	}
	l.mu.Lock()
	l.persons = append(l.persons, p)
	l.mu.Unlock()
	if err != nil {
		l.finish(p)
	}
	return p, err
}

// issue opens a session and puts its token up.
func (l *load) issue(p *person) error {
	l.issuing.RLock()
	defer l.issuing.RUnlock()
	grant, err := l.at().private.Admin().OpenSession(l.watching, p.subject, client.Device{Client: p.client})
	if err != nil {
		return err
	}
	s := &session{grant: grant}
	p.sessions = append(p.sessions, s)
	return l.put(s)
}

var errFull = errors.New("the board is full")

// put puts a session's latest token up.
func (l *load) put(s *session) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, ok := l.board.add(s.grant.AccessToken)
	if !ok {
		return errFull
	}
	t := &token{n: n, text: s.grant.AccessToken, contested: l.doubtful[claim(s.grant.AccessToken, "kid")]}
	l.tokens = append(l.tokens, t)
	s.tokens = append(s.tokens, t)
	return nil
}

// refresh refreshes a session that nobody ends, as a device does that tries
// again until it has an answer. None may sign it out (P10).
func (l *load) refresh(s *session) error {
	l.issuing.RLock()
	defer l.issuing.RUnlock()
	key := crand.Text()
	for began := time.Now(); time.Since(began) < patience; time.Sleep(20 * time.Millisecond) {
		grant, err := l.at().public.Refresh(l.watching, s.grant.RefreshToken, key)
		if err == nil {
			s.spent, s.grant = s.grant.RefreshToken, grant
			l.refreshes.Add(1)
			return l.put(s)
		}
		if p, ok := errors.AsType[*client.Problem](err); ok && p.Code == client.CodeGrant {
			s.fate = unknown
			l.violation("P10: session %s, which nobody had ended, was refused a refresh", s.grant.Session)
			return err
		}
		l.wrong(err)
	}
	return errors.New("no node refreshed")
}

// refused has somebody try to refresh what has just ended (P9).
func (l *load) refused(r revocation) {
	if len(r.sessions) == 0 || r.sessions[0].fate != ended {
		return
	}
	s := r.sessions[rand.IntN(len(r.sessions))]
	if _, err := l.at().public.Refresh(l.watching, s.grant.RefreshToken, ""); err == nil {
		l.violation("P9: session %s was refreshed after the answer to %s", s.grant.Session, r.what)
	} else if p, ok := errors.AsType[*client.Problem](err); ok && p.Code != client.CodeGrant {
		l.wrong(err)
	}
}

func (l *load) finish(p *person) {
	l.each(tokensOf(p.sessions), func(t *token) { t.over = now() })
}

func (l *load) each(tokens []*token, do func(*token)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range tokens {
		do(t)
	}
}

// revoke makes the call and sees to it that its outcome becomes known. It
// returns the position that is yet to be confirmed; 0: there is none.
func (l *load) revoke(r *revocation, wait time.Duration) (pending uint64) {
	after, n := l.head.Load(), l.at()
	servers := n.started.Load()
	r.tokens = l.take(*r)
	admin, user := n.private.WithWait(wait).Admin(), n.public.WithWait(wait)
	began := now()
	effect, err := r.call(l.watching, admin, user)
	read := now()
	problem, refused := errors.AsType[*client.Problem](err)
	switch {
	case err == nil && effect.Confirmation == nil:
		l.violation("%s of %s=%s ended nothing: %+v", r.what, r.claim, r.value, effect)
		return 0
	case err == nil:
		l.answered(*r, effect.Position, read)
		if l.count(effect.Confirmation.Confirmed); !effect.Confirmation.Confirmed {
			return effect.Position
		}
		l.each(r.tokens, func(t *token) { t.confirmed = read })
		l.recovered(began, read)
		return 0
	case refused && problem.Code != client.CodeOutcomeUnknown:
		if problem.Code != client.CodeToken || l.withdrawn.Load() == r.withdrawn { // else the caller's own token died
			l.wrong(err)
		}
		l.spare(*r)
		return 0
	case errors.Is(err, syscall.ECONNREFUSED): // it never arrived
		l.spare(*r)
		return 0
	}
	return l.inquire(*r, after, n, servers)
}

// request asks for a revocation in the database, which stands when that has
// committed, and returns its position in the log.
func (l *load) request(r *revocation) (position uint64) {
	after := l.head.Load()
	r.tokens = l.take(*r)
	_, err := l.shared.pool.Exec(l.watching, "SELECT quash.revoke($1, $2, 'from an application')", r.claim, r.value)
	read := now()
	if _, never := errors.AsType[*pgconn.ConnectError](err); never || err != nil && pgconn.SafeToRetry(err) {
		l.spare(*r)
		return 0
	}
	if err != nil {
		return l.inquire(*r, after, nil, 0)
	}
	l.answered(*r, 0, read)
	l.refused(*r) // a node carries it out first, if none has yet
	l.await(r.what+" is in the log", func() bool {
		if position, err = l.find(*r, after); err != nil {
			l.violation("the log cannot be read: %v", err)
		}
		return position != 0 || err != nil
	})
	l.mu.Lock()
	l.tally.requests++
	l.mu.Unlock()
	return position
}

func (l *load) count(confirmed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally.revokes++
	if confirmed {
		l.tally.atOnce++
	} else {
		l.tally.accepted++
	}
}

// take notes that a call is about to be made, and returns those of its tokens
// that no other was made for.
func (l *load) take(r revocation) (mine []*token) {
	l.each(r.tokens, func(t *token) {
		if t.began != 0 {
			t.contested = true
			return
		}
		t.began, t.what = now(), r.what
		mine = append(mine, t)
	})
	return mine
}

// answered notes that a revocation stands; 0: its position is not known.
func (l *load) answered(r revocation, position uint64, read int64) {
	for _, s := range r.sessions {
		s.fate = ended
	}
	l.each(r.tokens, func(t *token) { t.answered = read })
	if position == 0 {
		return
	}
	l.mu.Lock()
	l.stands[position] = r.claim
	l.mu.Unlock()
	for {
		head := l.head.Load()
		if position <= head || l.head.CompareAndSwap(head, position) {
			return
		}
	}
}

// spare notes that a call did nothing.
func (l *load) spare(r revocation) {
	l.each(r.tokens, func(t *token) { t.began, t.what = 0, "" })
}

// doubt notes that nobody knows whether a call did what it had to.
func (l *load) doubt(r revocation) {
	for _, s := range r.sessions {
		s.fate = unknown
	}
	l.each(r.tokens, func(t *token) { t.contested = true })
	if r.claim == "kid" {
		l.mu.Lock()
		l.doubtful[r.value] = true
		l.mu.Unlock()
	}
}

// follow waits until a position is confirmed; 0: there is none.
func (l *load) follow(r revocation, position uint64) {
	if position == 0 {
		return
	}
	l.await(fmt.Sprintf("confirmation of position %d", position), func() bool {
		evidence, err := l.at().private.WithWait(5*time.Second).Admin().Revocation(l.watching, position)
		read := now()
		if err != nil {
			l.wrong(err)
			l.untilReady()
			return l.watching.Err() != nil
		}
		if !evidence.Confirmation.Confirmed {
			return false
		}
		l.each(r.tokens, func(t *token) { t.confirmed = read })
		l.mu.Lock()
		defer l.mu.Unlock()
		l.tally.later++
		return true
	})
}

// inquire looks into the log for a revocation that was not answered, and
// returns its position; 0: it is not there. Of a node with a database of its own,
// the process that got the call must have ended before that; of others, a
// transaction may live on without them, so that one which is not found may yet
// be. Then, and where nobody ends the process any more, the outcome stays unknown.
func (l *load) inquire(r revocation, after uint64, n *node, servers int64) (position uint64) {
	l.mu.Lock()
	l.tally.unanswered++
	l.mu.Unlock()
	for l.shared == nil && n.started.Load() == servers {
		if !sleep(l.calm, 10*time.Millisecond, 10*time.Millisecond) {
			l.doubt(r)
			return 0
		}
	}
	position, err := l.find(r, after)
	for look := 0; look < 5 && l.shared != nil && err == nil && position == 0; look++ {
		sleep(l.calm, leaseLength/10, leaseLength/5)
		position, err = l.find(r, after)
	}
	switch {
	case err != nil:
		l.violation("the log cannot be read: %v", err)
	case position == 0 && l.shared != nil:
		l.doubt(r)
	case position == 0:
		l.spare(r)
	default:
		l.answered(r, position, now())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if position != 0 {
		l.tally.survived++
	} else {
		l.tally.undone++
	}
	return position
}

// find returns the position of a revocation above another; 0: there is none.
func (l *load) find(r revocation, after uint64) (position uint64, err error) {
	for began := time.Now(); time.Since(began) < patience; {
		page, err := l.at().private.Admin().Revocations(l.watching, client.RevocationQuery{After: after, Limit: 1000})
		if err != nil {
			l.wrong(err)
			l.untilReady()
			continue
		}
		for _, found := range page.Items {
			if after = found.Position; found.Claim == r.claim && found.Value == r.value {
				position = found.Position // the last of those of one call
			}
		}
		if position != 0 || len(page.Items) < 1000 {
			return position, nil
		}
	}
	return 0, errors.New("no server answered")
}

// withdrawKeys revokes the signing key, now and then: every token that there
// is.
func (l *load) withdrawKeys() {
	for sleep(l.calm, 3*time.Second, 4*time.Second) {
		r, position := l.withdrawKey()
		l.follow(r, position)
		if !sleep(l.calm, 15*time.Second, 30*time.Second) {
			return
		}
	}
}

func (l *load) withdrawKey() (r revocation, position uint64) {
	l.issuing.Lock()
	defer l.issuing.Unlock()
	l.mu.Lock()
	var kid string
	for _, t := range slices.Backward(l.tokens) {
		k := claim(t.text, "kid")
		if kid = cmp.Or(kid, k); k != kid {
			break // keys follow one another
		}
		r.tokens = append(r.tokens, t)
	}
	l.mu.Unlock()
	if kid == "" {
		return r, 0
	}
	l.withdrawn.Add(1)
	l.note("the signing key is revoked")
	r = byClaim("kid", kid, r.tokens)
	position = l.revoke(&r, time.Second)
	return r, position
}
