package issuer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revset"
)

// TestRandomWalk carries out random operations and compares, after each, which
// sessions are there and which access tokens a verifier accepts with a model
// that knows nothing of positions. With QUASH_SOAK it walks from a hundred
// seeds, others each time; a seed that fails is in the test's name.
func TestRandomWalk(t *testing.T) {
	first, seeds := uint64(0), uint64(6)
	if os.Getenv("QUASH_SOAK") != "" {
		first, seeds = rand.Uint64()>>1, 100
	}
	for seed := first; seed < first+seeds; seed++ {
		t.Run(fmt.Sprint("seed ", seed), bubble(func(t *testing.T) {
			w := newWalk(t, seed)
			for range 120 {
				w.step()
				if t.Failed() {
					t.Fatalf("seed %d, after:\n%s", seed, strings.Join(w.done, "\n"))
				}
			}
		}))
	}
	t.Logf("soak: %d random walks of 120 changes agree with the model", seeds)
}

// walk is the model, beside the house that it is a model of.
type walk struct {
	*house
	*rand.Rand
	people   []*person
	sessions []*session
	tokens   []*token
	done     []string
}

type person struct {
	subject, password, tenant string
	deactivated               bool
}

type session struct {
	of                         *person
	id                         string
	there                      bool // its row is
	refresh                    []string
	retry                      string
	rotated, lastUsed, expires time.Time
}

type token struct {
	access
	of      *session
	dead    bool // a revocation killed it
	counted bool // among the live ones of its session's row
}

const (
	mostSessions = 3
	idle         = 24 * time.Hour
	absolute     = 100 * time.Hour
)

func newWalk(t *testing.T, seed uint64) *walk {
	h := open(t, func(c *issuer.Config) {
		c.MaxSessions, c.IdleTimeout, c.AbsoluteTimeout = mostSessions, idle, absolute
	})
	w := &walk{house: h, Rand: rand.New(rand.NewPCG(seed, 1))}
	for n := range 2 {
		w.people = append(w.people, &person{subject: fmt.Sprint("u_", n)})
		w.create(w.people[n])
	}
	return w
}

func (w *walk) create(p *person) {
	p.password, p.tenant, p.deactivated = password, "", false
	w.account(issuer.NewAccount{Subject: p.subject, Name: "name" + p.subject, Password: password})
}

func (w *walk) step() {
	for pick, ops := w.IntN(100), w.ops(); ; ops = ops[1:] {
		if pick -= ops[0].weight; pick < 0 {
			ops[0].do()
			break
		}
	}
	w.compare()
}

type op struct {
	weight int
	do     func()
}

// ops are what can happen next; the weights add up to 100.
func (w *walk) ops() []op {
	p := w.people[w.IntN(len(w.people))]
	if len(w.sessions) == 0 {
		return []op{{100, func() { w.open(p) }}}
	}
	// Late sessions are where things happen, and early ones must stay dead.
	s := w.sessions[max(w.IntN(len(w.sessions)), w.IntN(len(w.sessions)))]
	return []op{
		{14, func() { w.open(p) }},
		{38, func() { w.refreshOne(s) }},
		{16, func() { w.wait() }},
		{2, func() { w.prune() }},
		{2, func() { w.restart(); w.note("restart") }},
		{5, func() { w.logout(s) }},
		{3, func() { w.logoutOthers(s) }},
		{2, func() { w.all(p, "logout all", w.LogoutAll) }},
		{2, func() { w.deactivate(p) }},
		{4, func() { w.reactivate(p) }},
		{4, func() { w.putTenant(p) }},
		{4, func() { w.revoke(s) }},
		{1, func() { w.withdraw() }},
		{1, func() { w.delete(p) }},
		{2, func() { w.changePassword(s) }},
	}
}

func (w *walk) note(format string, args ...any) {
	w.done = append(w.done, fmt.Sprintf("%v ", time.Now().Format("02 15:04:05.000"))+fmt.Sprintf(format, args...))
}

func (w *walk) wait() {
	d := []time.Duration{time.Second, 4 * time.Second, 10 * time.Second, 10*time.Second + time.Millisecond, 3 * time.Minute, 5 * time.Minute, time.Hour, 20 * time.Hour, 24 * time.Hour}[w.IntN(9)]
	time.Sleep(d)
	w.note("wait %v", d)
}

func (w *walk) open(p *person) {
	g, err := w.OpenSession(w.ctx(), admin, p.subject, issuer.Device{})
	w.note("open a session of %s: %s", p.subject, g.Session)
	if p.deactivated {
		w.refused("deactivated", err, issuer.CodeConflict)
		return
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if there := w.of(p); len(there) == mostSessions {
		oldest := slices.MinFunc(there, func(a, b *session) int {
			if c := a.lastUsed.Compare(b.lastUsed); c != 0 {
				return c
			}
			return strings.Compare(a.id, b.id)
		})
		w.end(func(s *session) bool { return s == oldest }, nil)
	}
	s := &session{of: p, id: g.Session, there: true, rotated: time.Now(), expires: time.Now().Add(absolute)}
	w.sessions = append(w.sessions, s)
	s.refresh = append(s.refresh, g.RefreshToken)
	w.issued(s, g)
}

// of returns the sessions of somebody that are there.
func (w *walk) of(p *person) (all []*session) {
	for _, s := range w.sessions {
		if s.there && s.of == p {
			all = append(all, s)
		}
	}
	return all
}

func (w *walk) issued(s *session, g issuer.Grant) {
	s.lastUsed = time.Now()
	a := parse(w.t, g.AccessToken)
	w.tokens = append(w.tokens, &token{access: a, of: s, counted: true})
	if tenant, _ := a.claims["tenant"].(string); tenant != s.of.tenant {
		w.t.Errorf("tenant %q, want %q", tenant, s.of.tenant)
	}
}

// end ends the sessions for which gone holds, and kills their tokens and those
// for which killed holds, and returns how many of both there were.
func (w *walk) end(gone func(*session) bool, killed func(*token) bool) (sessions, tokens int) {
	for _, t := range w.tokens {
		if t.of.there && gone != nil && gone(t.of) || killed != nil && killed(t) {
			if t.dead = true; t.counted && t.number("exp") > time.Now().Unix() {
				tokens++
			}
			t.counted = false
		}
	}
	for _, s := range w.sessions {
		if s.there && gone != nil && gone(s) {
			s.there = false
			sessions++
		}
	}
	return sessions, tokens
}

// present says what a refresh token of a session deserves.
func (s *session) present(n int, key string) string {
	now, last := time.Now(), len(s.refresh)-1
	switch {
	case !s.there || !now.Before(s.expires) || !now.Before(s.lastUsed.Add(idle)):
		return "dead"
	case n == last:
		return "rotate"
	case n == last-1 && (key != "" && key == s.retry || now.Sub(s.rotated) <= 10*time.Second):
		return "repeat"
	}
	return "reuse"
}

// draw draws one of a session's latest refresh tokens and an Idempotency-Key.
func (w *walk) draw(s *session) (n int, key string) {
	n = len(s.refresh) - 1
	if w.IntN(4) == 0 {
		n = max(0, n-w.IntN(3))
	}
	return n, []string{"", "K", "L"}[w.IntN(3)]
}

func (w *walk) refreshOne(s *session) {
	n, key := w.draw(s)
	verdict := s.present(n, key)
	w.note("refresh %s token %d of %d key=%s: %s", s.id, n, len(s.refresh)-1, key, verdict)
	g, err := w.refresh(s.refresh[n], key)
	w.settle(s, verdict, key, g, err)
}

// settle compares the outcome of a refresh with what the token deserved.
func (w *walk) settle(s *session, verdict, key string, g issuer.Grant, err error) {
	w.t.Helper()
	switch verdict {
	case "dead":
		w.refused(verdict, err, issuer.CodeGrant)
		return
	case "reuse":
		w.refused(verdict, err, issuer.CodeGrant)
		w.end(func(o *session) bool { return o == s }, nil)
		return
	case "rotate":
		s.refresh = append(s.refresh, g.RefreshToken)
		s.rotated, s.retry = time.Now(), key
	}
	if err != nil || g.RefreshToken != s.refresh[len(s.refresh)-1] {
		w.t.Errorf("%s: %v, want the session's one successor", verdict, err)
		return
	}
	w.issued(s, g)
}

// try carries out a change, dry first, and compares its effect with what the
// model says of sessions and tokens.
func (w *walk) try(what string, change func(dry bool) (issuer.Effect, error), gone func(*session) bool, killed func(*token) bool) {
	w.t.Helper()
	dry, err := change(true)
	if err != nil {
		w.t.Fatalf("%s, dry: %v", what, err)
	}
	wet, err := change(false)
	if err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
	sessions, tokens := w.end(gone, killed)
	w.note("%s: %d sessions, %d tokens", what, sessions, tokens)
	dry.DryRun, wet.Position = false, 0
	if dry != wet || wet.Sessions != sessions || wet.Tokens != tokens {
		w.t.Errorf("%s: dry run %+v, real %+v, want %d sessions and %d tokens", what, dry, wet, sessions, tokens)
	}
}

func (w *walk) logout(s *session) {
	w.note("logout %s", s.id)
	var err error
	if w.IntN(2) == 0 {
		_, err = w.Logout(w.ctx(), s.refresh[w.IntN(len(s.refresh))], "")
	} else if t := w.lastOf(s); t != nil && !t.withdrawn(w) {
		_, err = w.LogoutByAccessToken(w.ctx(), t.text, "")
	} else {
		return
	}
	if err != nil {
		w.t.Error(err)
	}
	w.end(func(o *session) bool { return o == s }, nil)
}

// lastOf returns the latest access token of a session, an expired one too.
func (w *walk) lastOf(s *session) *token {
	for _, t := range slices.Backward(w.tokens) {
		if t.of == s {
			return t
		}
	}
	return nil
}

func (t *token) withdrawn(w *walk) bool {
	keys, err := w.PublicKeys(w.ctx())
	if err != nil {
		w.t.Fatal(err)
	}
	_, published := keys.Key(t.kid)
	return !published
}

func (w *walk) logoutOthers(s *session) {
	w.try("logout of the others of "+s.id, func(dry bool) (issuer.Effect, error) {
		return w.LogoutOthers(w.ctx(), admin, issuer.Target{Subject: s.of.subject, Session: s.id, DryRun: dry})
	}, func(o *session) bool { return o.of == s.of && o != s }, nil)
}

type changeSubject = func(ctx context.Context, by issuer.Actor, t issuer.Target) (issuer.Effect, error)

func (w *walk) all(p *person, what string, change changeSubject) {
	w.try(what+" of "+p.subject, func(dry bool) (issuer.Effect, error) {
		return change(w.ctx(), admin, issuer.Target{Subject: p.subject, DryRun: dry})
	}, func(s *session) bool { return s.of == p }, func(t *token) bool { return t.of.of == p })
}

func (w *walk) deactivate(p *person) {
	w.all(p, "deactivation", w.Deactivate)
	p.deactivated = true
}

func (w *walk) reactivate(p *person) {
	w.try("reactivation of "+p.subject, func(dry bool) (issuer.Effect, error) {
		return w.Reactivate(w.ctx(), admin, issuer.Target{Subject: p.subject, DryRun: dry})
	}, nil, nil)
	p.deactivated = false
}

func (w *walk) delete(p *person) {
	w.all(p, "deletion", w.Delete)
	w.create(p)
}

func (w *walk) putTenant(p *person) {
	tenant := []string{"acme", "umbrella"}[w.IntN(2)]
	same := tenant == p.tenant
	w.try(p.subject+" moves to "+tenant, func(dry bool) (issuer.Effect, error) {
		t := issuer.Target{Subject: p.subject, DryRun: dry}
		return w.PutClaims(w.ctx(), admin, t, json.RawMessage(fmt.Sprintf(`{"tenant":%q}`, tenant)))
	}, nil, func(t *token) bool { return !same && t.of.of == p })
	p.tenant = tenant
}

func (w *walk) revoke(s *session) {
	t := w.lastOf(s)
	if t == nil {
		return
	}
	claim := []string{"sub", "sid", "client_id", "aud", "tenant"}[w.IntN(5)]
	value, _ := t.claims[claim].(string)
	if value == "" || value != s.of.tenant && claim == "tenant" {
		return
	}
	end := w.IntN(4) == 0
	w.try(fmt.Sprintf("revocation of %s=%s, end=%v", claim, value, end), func(dry bool) (issuer.Effect, error) {
		return w.Revoke(w.ctx(), admin, issuer.RevokeRequest{Claim: claim, Value: value, End: end, DryRun: dry})
	}, func(o *session) bool {
		switch claim {
		case "sid":
			return o == s
		case "sub":
			return end && o.of == s.of
		case "tenant":
			return end && o.of.tenant == value
		}
		return end
	}, func(o *token) bool { return o.carries(claim, value) })
}

func (w *walk) withdraw() {
	keys, err := w.SigningKeys(w.ctx())
	if err != nil {
		w.t.Fatal(err)
	}
	kid := keys[slices.IndexFunc(keys, func(k issuer.SigningKey) bool { return !k.Withdrawn })+w.IntN(2)].ID
	w.try("withdrawal of the key", func(dry bool) (issuer.Effect, error) {
		return w.Revoke(w.ctx(), admin, issuer.RevokeRequest{Claim: "kid", Value: kid, DryRun: dry})
	}, nil, func(t *token) bool { return t.kid == kid })
}

func (w *walk) changePassword(s *session) {
	time.Sleep(time.Minute) // the limit of attempts is another test's
	n, key := w.draw(s)
	verdict := s.present(n, key)
	p := s.of
	next := fmt.Sprintf("the password that comes at step %d", len(w.done))
	w.note("password change in %s by token %d: %s", s.id, n, verdict)
	g, _, err := w.ChangePassword(w.ctx(), issuer.PasswordChange{
		Refresh: issuer.RefreshRequest{Token: s.refresh[n], IdempotencyKey: key}, Old: p.password, New: next,
	})
	if verdict == "rotate" || verdict == "repeat" {
		w.end(func(o *session) bool { return o.of == p && o != s }, func(t *token) bool { return t.of.of == p })
		p.password = next
	}
	w.settle(s, verdict, key, g, err)
}

func (w *walk) prune() {
	w.note("prune")
	now := time.Now()
	if _, _, err := w.store.Prune(w.ctx(), now, idle, 1000); err != nil {
		w.t.Fatal(err)
	}
	for _, s := range w.sessions {
		if !now.Before(s.expires) || s.lastUsed.Before(now.Add(-idle)) {
			s.there = false
		}
	}
}

// compare compares the house with the model, access tokens by the live records
// that a verifier has and nothing else.
func (w *walk) compare() {
	var log issuer.Log
	live := map[revset.Key]revset.Record{}
	there := map[string]bool{}
	err := w.store.View(w.ctx(), func(rd issuer.Reader) (err error) {
		all, err := rd.Sessions(issuer.Match{}, "", 1000)
		if err != nil {
			return err
		}
		for _, s := range all {
			there[s.ID] = true
		}
		if log, err = rd.Log(); err != nil {
			return err
		}
		return rd.Live(func(r revset.Record) error {
			live[r.Key] = r.Merge(live[r.Key])
			return nil
		})
	})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, s := range w.sessions {
		if there[s.id] != s.there {
			w.t.Errorf("session %s is there = %v, want %v", s.id, there[s.id], s.there)
		}
	}
	for _, t := range w.tokens {
		unexpired := t.number("exp") > time.Now().Unix()
		if got, want := unexpired && !t.killed(log, live), unexpired && !t.dead; got != want {
			w.t.Errorf("a token of %s is alive = %v, want %v", t.of.id, got, want)
		}
	}
}

// killed is what a verifier finds out with its records alone.
func (a access) killed(log issuer.Log, live map[revset.Key]revset.Record) bool {
	kills := func(claim string, value any) bool {
		r, found := live[revset.KeyOf(log.HashSecret, "https://id.example", claim, fmt.Sprint(value))]
		return found && uint64(a.number("rev")) < r.Before
	}
	for claim, value := range a.claims {
		if kills(claim, value) {
			return true
		}
	}
	return kills("kid", a.kid)
}
