package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/quashdev/quash/internal/issuer"
)

// writes is one use of each method that writes, in an order in which all
// succeed and change something.
var writes = map[string]func(issuer.Tx) error{
	"01 PutAccount":         func(tx issuer.Tx) error { return tx.PutAccount(account("u1")) },
	"02 PutAccount other":   func(tx issuer.Tx) error { return tx.PutAccount(account("u2")) },
	"03 PutSession":         func(tx issuer.Tx) error { return tx.PutSession(session("s1", "u1")) },
	"04 PutSession other":   func(tx issuer.Tx) error { return tx.PutSession(session("s2", "u2")) },
	"05 ForgetTokens":       func(tx issuer.Tx) error { return tx.ForgetTokens(issuer.Match{Claim: "sub", Value: "u1"}) },
	"06 AppendRevocation":   appending("sub", "u1"),
	"07 AppendRevocations":  appending("sid", "s1", "s2", "s3"),
	"08 SetMaxLifetime":     func(tx issuer.Tx) error { return tx.SetMaxLifetime(time.Hour) },
	"09 PutSigningKey":      func(tx issuer.Tx) error { return tx.PutSigningKey(issuer.SigningKey{ID: "k", Created: epoch}) },
	"10 PutAPIKey":          func(tx issuer.Tx) error { return tx.PutAPIKey(issuer.APIKey{ID: "a", Name: "ci", Created: epoch}) },
	"11 DeleteAPIKey":       func(tx issuer.Tx) error { return tx.DeleteAPIKey("a") },
	"12 AppendAudit":        func(tx issuer.Tx) error { return tx.AppendAudit(audit("logout", "u1", epoch)) },
	"13 EndSessions":        func(tx issuer.Tx) error { return endAndCompare(tx, issuer.Match{Claim: "sub", Value: "u1"}, "") },
	"14 DeleteAccount":      func(tx issuer.Tx) error { return tx.DeleteAccount("u2") },
	"15 SessionAndRevoking": func(tx issuer.Tx) error { return endSession(tx, "s4") },
	"16 PutNode": func(tx issuer.Tx) error {
		return tx.PutNode(issuer.Node{ID: "n1", Issuer: "i", Counter: 1, Lease: time.Minute})
	},
	"17 PutVerifier":     atHead(func(tx issuer.Tx, head uint64) error { return tx.PutVerifier(verifier("n1", uint32(head))) }),
	"18 PutConfirmation": atHead(func(tx issuer.Tx, head uint64) error { return tx.PutConfirmation(confirmation("n1", head, head+3, 2)) }),
	"19 DeleteNode":      func(tx issuer.Tx) error { return tx.DeleteNode("n1") },
	"20 BeginEpoch":      beginEpoch("a fail-over"),
	"22 PutClient":       func(tx issuer.Tx) error { return tx.PutClient(registered("web")) },
	"23 DeleteClient":    func(tx issuer.Tx) error { return tx.DeleteClient("web") },
	"24 SpendAssertion": atHead(func(tx issuer.Tx, head uint64) error {
		return spend(tx, [32]byte{byte(head), byte(head >> 8)}, epoch.Add(time.Hour))
	}),
	"21 AppendAudit restored": func(tx issuer.Tx) error {
		e := audit("logout", "u1", epoch)
		e.Position = 7
		return errors.Join(appending("sid", "s9")(tx), tx.AppendAudit(e), tx.AppendAudit(audit("logout", "u2", epoch)))
	},
	"25 PutIssuer": func(tx issuer.Tx) error {
		return errors.Join(tx.PutIssuer(foreign("https://idp.example", time.Hour)), foreignRevocation(tx, "https://idp.example"))
	},
}

// atHead gives fn the log's head, which each round of writes raises, so that it
// has something new to put.
func atHead(fn func(tx issuer.Tx, head uint64) error) func(issuer.Tx) error {
	return func(tx issuer.Tx) error {
		l, err := tx.Log()
		if err != nil {
			return err
		}
		return fn(tx, l.Head.Position)
	}
}

// spend spends an assertion and notes it in the audit, because no Reader shows
// which are spent.
func spend(tx issuer.Tx, id [32]byte, until time.Time) error {
	if err := tx.SpendAssertion(id, until); err != nil {
		return err
	}
	return tx.AppendAudit(audit("spent", "", epoch))
}

// beginEpoch begins one whose time is the suite's, so that store and model agree.
func beginEpoch(reason string) func(issuer.Tx) error {
	return func(tx issuer.Tx) error {
		_, err := tx.BeginEpoch("log of "+reason, reason)
		return err
	}
}

// endSession opens a session and ends it with its revocation, as one step.
func endSession(tx issuer.Tx, id string) error {
	if err := tx.PutSession(session(id, "u1")); err != nil {
		return err
	}
	if err := endAndCompare(tx, issuer.Match{Claim: "sid", Value: id}, ""); err != nil {
		return err
	}
	return tx.AppendRevocation(revocation("sid", id))
}

// everyWriteFails runs each write with each way in which its commits can
// fail, and looks whether the state is what was reported.
func everyWriteFails(t *testing.T, h Harness) {
	p := &pair{Harness: h, model: newModel(head(t, h.Store))}
	for _, fail := range faults {
		for _, name := range sortedNames(writes) {
			p.step(t, writes[name], fail)
			if t.Failed() {
				t.Fatalf("%s with faults %+v", name, fail)
			}
			p.step(t, writes[name], nil) // the next must find it done, whatever became of this
		}
		p.clear(t)
	}
	check(t, p.Store)
	p.Store = p.Reopen(t)
	p.step(t, writes["01 PutAccount"], nil)
}

// clear takes out what the next round of writes would find in its way.
func (p *pair) clear(t *testing.T) {
	t.Helper()
	p.step(t, func(tx issuer.Tx) error {
		_, _, err := tx.EndSessions(issuer.Match{}, "", epoch)
		return err
	}, nil)
	p.step(t, func(tx issuer.Tx) error { return tx.DeleteAccount("u1") }, nil)
	check(t, p.Store)
}
