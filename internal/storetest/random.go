package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revset"
)

// asTheModel runs random transactions, some of whose commits fail, against
// the store and the model: 150 of them, or with QUASH_SOAK a thousand
// from another seed each time.
func asTheModel(t *testing.T, h Harness) {
	steps, seed := 150, uint64(1)
	if os.Getenv("QUASH_SOAK") != "" {
		steps, seed = 1_000, rand.Uint64()
	}
	t.Logf("seed %d", seed)
	p := &pair{Harness: h, model: newModel(head(t, h.Store))}
	rnd := rand.New(rand.NewPCG(seed, 0))
	for n := range steps {
		switch {
		case rnd.IntN(15) == 0:
			p.prune(t, epoch.Add(time.Duration(rnd.IntN(30))*time.Minute))
		case rnd.IntN(60) == 0:
			p.Store = p.Reopen(t)
		default:
			p.step(t, transaction(rnd), faults[max(0, rnd.IntN(4*len(faults))-3*len(faults))])
		}
		if n%25 == 0 || t.Failed() {
			check(t, p.Store)
		}
		if t.Failed() {
			t.Fatalf("step %d", n)
		}
	}
	check(t, p.Store)
}

// faults are the ways in which the commits of one transaction may fail: the
// first, and the one when it is run again.
var faults = [][]Fault{
	nil,
	{{}},
	{{Persisted: true}},
	{{}, {}},
	{{}, {Persisted: true}},
	{{}, {Unreadable: true}},
	{{Unreadable: true}},
	{{Persisted: true, Unreadable: true}},
}

// pair is a store and the model that it must agree with.
type pair struct {
	Harness
	model *model
}

// step runs fn against both. Whatever the store reports must be so: success
// means that fn was applied once, unknown that it was or was not, and any
// other error that it was not.
func (p *pair) step(t *testing.T, fn func(issuer.Tx) error, fail []Fault) {
	t.Helper()
	p.Fail(fail...)
	var now time.Time
	_, err := p.Store.Update(t.Context(), func(tx issuer.Tx) error {
		now = tx.Now()
		return fn(tx)
	})
	p.Fail()
	after, want := p.model.try(now, fn)
	var got state
	view(t, p.Store, func(r issuer.Reader) (err error) {
		got, err = dump(r)
		return err
	})
	if err := got.checkTail(t.Context(), p.Store); err != nil {
		t.Errorf("faults %+v: %v", fail, err)
	}
	switch {
	case err != nil && want == nil && !same(err, issuer.ErrUnknown):
		t.Errorf("faults %+v: got %v, want success or %v", fail, err, issuer.ErrUnknown)
	case err != nil && want == nil && len(fail) < 2 && (len(fail) == 0 || !fail[0].Unreadable):
		t.Errorf("faults %+v: got %v, want success: the outcome of one failed commit can be found out", fail, err)
	case !same(err, want) && !same(err, issuer.ErrUnknown):
		t.Errorf("faults %+v: got %v, want %v", fail, err, want)
	case same(err, issuer.ErrUnknown) && p.is(p.model, got) == "":
	default:
		p.model = after
		if d := p.is(after, got); d != "" {
			t.Errorf("faults %+v: %v: state (-want +got):\n%s", fail, err, d)
		}
	}
}

func (p *pair) is(m *model, got state) string {
	want, err := dump(m)
	if err != nil {
		return err.Error()
	}
	return diff(want, got)
}

func (p *pair) prune(t *testing.T, now time.Time) {
	t.Helper()
	const idle = 10 * time.Minute
	records, sessions, err := p.Store.Prune(t.Context(), now, idle, some)
	wantRecords, wantSessions := p.model.prune(now, idle)
	if err != nil || records != wantRecords || sessions != wantSessions {
		t.Errorf("Prune: got %d records, %d sessions, %v, want %d, %d", records, sessions, err, wantRecords, wantSessions)
	}
}

// transaction makes up a function of a few operations, the same whenever it
// is run.
func transaction(rnd *rand.Rand) func(issuer.Tx) error {
	var ops []func(issuer.Tx) error
	for range 1 + rnd.IntN(4) {
		ops = append(ops, operation(rnd))
	}
	refuse := rnd.IntN(10) == 0
	return func(tx issuer.Tx) error {
		for _, op := range ops {
			if err := op(tx); err != nil {
				return err
			}
		}
		if refuse {
			return errRefused
		}
		return nil
	}
}

func pick[T any](rnd *rand.Rand, from ...T) T { return from[rnd.IntN(len(from))] }

func operation(rnd *rand.Rand) func(issuer.Tx) error {
	subject, sid := pick(rnd, "u1", "u2", "u3", "u4"), fmt.Sprint("s", rnd.IntN(9))
	at := epoch.Add(time.Duration(rnd.IntN(20)) * time.Minute)
	by := pick(rnd, issuer.Match{Claim: "sub", Value: subject}, issuer.Match{Claim: "sid", Value: sid},
		issuer.Match{Claim: "client_id", Value: "web"}, issuer.Match{Claim: "tenant", Value: "acme"}, issuer.Match{Claim: "roles", Value: "dev"})
	name := fmt.Sprint("k", rnd.IntN(3))
	return pick(rnd,
		func(tx issuer.Tx) error { return tx.DeleteAccount(subject) },
		func(tx issuer.Tx) error { return tx.ForgetTokens(by) },
		func(tx issuer.Tx) error { return tx.SetMaxLifetime(time.Duration(at.Minute()) * time.Minute) },
		func(tx issuer.Tx) error { return tx.PutIssuer(foreign(name, time.Duration(at.Minute())*time.Minute)) },
		func(tx issuer.Tx) error { return tx.DeleteAPIKey(name) },
		func(tx issuer.Tx) error { return tx.AppendAudit(audit("revoked", subject, at)) },
		func(tx issuer.Tx) error {
			return tx.PutSigningKey(issuer.SigningKey{ID: name, Algorithm: "ES256", Public: []byte(`{}`), Sealed: []byte{1}, Created: at})
		},
		func(tx issuer.Tx) error {
			return tx.PutAPIKey(issuer.APIKey{ID: name, Name: sid, Scopes: []issuer.Scope{issuer.ScopeKeys}, Hash: [32]byte{9}, Created: at})
		},
		func(tx issuer.Tx) error { return tx.DeleteClient(name) },
		putRandomClient(rnd, name, at), putRandomClient(rnd, name, at),
		func(tx issuer.Tx) error { return spend(tx, [32]byte{byte(at.Minute())}, at) },
		func(tx issuer.Tx) error { return endAndCompare(tx, by, sid) },
		putRandomNode(rnd, at), putRandomEvidence(rnd, at),
		func(tx issuer.Tx) error { return tx.DeleteNode(nodes[0]) },
		beginEpoch(subject),
		putRandomAccount(rnd, subject), putRandomAccount(rnd, subject),
		putRandomSession(sid, subject, at), putRandomSession(sid, subject, at), putRandomSession(sid, subject, at),
		revokeRandom(rnd, by, at), revokeRandom(rnd, by, at), revokeRandom(rnd, by, at),
	)
}

// endAndCompare ends sessions and notes in the audit how many they were, so
// that store and model differ where their counts do.
func endAndCompare(tx issuer.Tx, by issuer.Match, except string) error {
	sessions, tokens, err := tx.EndSessions(by, except, epoch)
	if err != nil {
		return err
	}
	return tx.AppendAudit(audit(fmt.Sprintf("ended %d %d", sessions, tokens), "", epoch))
}

func audit(event, subject string, at time.Time) issuer.AuditEntry {
	return issuer.AuditEntry{Time: at, Event: event, Actor: "admin:ops", Address: "192.0.2.1", Subject: subject, Reason: "why", Detail: []byte(`{"n":1}`)}
}

func putRandomClient(rnd *rand.Rand, id string, at time.Time) func(issuer.Tx) error {
	c := issuer.Client{ID: id, Name: "client " + id, Method: pick(rnd, issuer.SecretPost, issuer.NoMethod), Created: epoch, LastUsed: at}
	if rnd.IntN(2) == 0 {
		c = registered(id)
		c.PreviousUntil = at
	}
	return func(tx issuer.Tx) error { return tx.PutClient(c) }
}

func putRandomAccount(rnd *rand.Rand, subject string) func(issuer.Tx) error {
	a := account(subject)
	a.Name = pick(rnd, "", "one", "two", "three", "four", "five")
	a.Claims = []byte(pick(rnd, `{}`, `{"tenant":"acme"}`, `{"tenant":"other","roles":["dev","ops"]}`, `{"roles":["dev","dev",1,true]}`, `{"deep":{"x":1},"none":null}`))
	a.Deactivated = rnd.IntN(2) == 0
	return func(tx issuer.Tx) error { return tx.PutAccount(a) }
}

func putRandomSession(id, subject string, at time.Time) func(issuer.Tx) error {
	s := session(id, subject)
	s.LastUsed, s.Expires, s.Counter = at, at.Add(15*time.Minute), uint64(at.Minute())
	s.Client = []string{"web", "phone"}[at.Minute()%2]
	s.RetryKey[3] = byte(at.Minute())
	s.Registered = at.Minute()%3 == 0
	if s.Registered && at.Minute()%2 == 0 {
		s.Scope = "read write"
	}
	s.Tokens = slices.Repeat([]uint32{uint32(at.Unix()) - 300}, at.Minute()%4)
	return func(tx issuer.Tx) error { return tx.PutSession(s) }
}

func putRandomNode(rnd *rand.Rand, at time.Time) func(issuer.Tx) error {
	n := issuer.Node{ID: pick(rnd, nodes...), Issuer: pick(rnd, "", "https://issuer.test"), Counter: rnd.Uint64(), Floor: rnd.Uint64N(revset.MaxPosition), Lease: time.Duration(rnd.Uint32()), Started: at, Owed: pick(rnd, "", "[]")}
	return func(tx issuer.Tx) error { return tx.PutNode(n) }
}

// putRandomEvidence puts what overlaps with what is there, more often than not.
func putRandomEvidence(rnd *rand.Rand, at time.Time) func(issuer.Tx) error {
	v := verifier(pick(rnd, nodes...), uint32(rnd.IntN(maxNumber)))
	v.Name = fmt.Sprint(rnd.IntN(4))
	first := rnd.Uint64N(maxNumber - 8)
	c := confirmation(v.Node, first, first+rnd.Uint64N(8), rnd.IntN(5))
	c.Began = at
	return func(tx issuer.Tx) error { return errors.Join(tx.PutVerifier(v), tx.PutConfirmation(c)) }
}

func revokeRandom(rnd *rand.Rand, by issuer.Match, at time.Time) func(issuer.Tx) error {
	r := revocation(by.Claim, by.Value)
	if rnd.IntN(3) == 0 {
		r.Claim = fmt.Sprint("claim", rnd.IntN(40))
	}
	if rnd.IntN(4) == 0 {
		r.Issuer, r.NotBefore = fmt.Sprint("k", rnd.IntN(3)), rnd.Uint32()
	}
	r.Before, r.Time, r.Keep = pick(rnd, 0, revset.Forever), at, rnd.IntN(20) == 0
	return func(tx issuer.Tx) error { return tx.AppendRevocation(r) }
}
