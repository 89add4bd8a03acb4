// Package storetest is what every [issuer.Store] must do: one suite, run by
// each store in its own tests, with commits made to fail.
package storetest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quashdev/quash/internal/issuer"
)

// Harness is a new, empty store under test.
type Harness struct {
	Store issuer.Store
	// Reopen closes the store and opens its data again. The harness closes
	// what it opened when the test ends.
	Reopen func(t *testing.T) issuer.Store
	// Fail makes the next commits fail, one for each fault, in that order.
	Fail func(...Fault)

	// Request puts a request into the outbox as an application does, in a
	// transaction of its own, and returns its id. Nil: the store has no outbox.
	Request func(t *testing.T, claim, value, reason string) uint64
	// Lose runs fn, and then makes the database what it was before, behind the
	// store's back. Nil: no other process may write to the database.
	Lose func(t *testing.T, fn func())

	another func(t *testing.T) Harness // a second one, beside this
}

// Fault is how one commit fails.
type Fault struct {
	Persisted  bool // what it wrote stands all the same
	Unreadable bool // the store cannot find out whether it does
}

// tests are the suite. The first part of a name is what [Run] chooses by.
var tests = map[string]func(*testing.T, Harness){
	"P1Durable/WhatWasAnsweredSurvivesReopening":          reopening,
	"P1Durable/EveryWriteFailsTwice":                      everyWriteFails,
	"P2Together/AnErrorUndoesTheWholeTransaction":         errorUndoes,
	"P2Together/AnErrorUndoesNoOtherTransaction":          errorUndoesNoOther,
	"P2Together/ThoseThatShareACommitReadWhatIsThere":     readTogether,
	"P3Ordered/DenseUniqueAtomicUnderWriters":             denseUnderWriters,
	"P6Exact/IssueReadsOneSnapshot":                       issueReadsOneSnapshot,
	"P4Confirmed/TailHasWhatWasCommittedBefore":           tailHasCommits,
	"P4Confirmed/TailIsOneSnapshot":                       tailIsOneSnapshot,
	"P9Ended/SessionsEndByEveryMatch":                     sessionsEnd,
	"P11Evidence/HistoryIsWholeAfterPruning":              historyAfterPruning,
	"P11Evidence/WhatIsThereStays":                        evidenceStays,
	"P11Evidence/AsManyOutcomesAsAllowed":                 manyOutcomes,
	"Rows/AsTheModel":                                     asTheModel,
	"Rows/AssertionsAreSpentUntilTheyExpire":              assertionsExpire,
	"Rows/EveryExpiredAssertionIsPruned":                  everyAssertionExpires,
	"Rows/ErrorsNameWhatIsWrong":                          rowErrors,
	"Rows/ListingsAreOrderedAndBounded":                   listings,
	"Rows/MatchFindsEveryKindOfClaim":                     matches,
	"Log/StartsEmpty":                                     startsEmpty,
	"Log/RecordsRefuseWhatIsNotLive":                      recordsBounds,
	"Log/MaxLifetimeNeverShrinks":                         maxLifetime,
	"Log/ForeignLifetimesNeverShrink":                     foreignLifetimes,
	"Log/PruneTakesWhatIsForgottenAndNoMoreThanItsLimit":  pruneBoundary,
	"Log/PrunedNeverFalls":                                pruneOutOfOrder,
	"Log/PruneTakesSessionsThatIdledOrEnded":              pruneSessions,
	"Tail/AtEveryPosition":                                tailAtEveryPosition,
	"Tail/StaysAsItWasReturned":                           tailStays,
	"Epoch/LiftsTheHeadAndKeepsWhatIsLive":                epochLifts,
	"Epoch/AnErrorUndoesIt":                               epochUndone,
	"Epoch/NoPositionIsLeft":                              epochFull,
	"Restore/TheLogIsTheOther":                            restoreIsTheOther,
	"Restore/OnlyIntoAnEmptyLog":                          restoreOnlyEmpty,
	"Backup/ARestoredStoreIsTheOther":                     backupRoundTrip,
	"Backup/IsOneSnapshot":                                backupIsOneSnapshot,
	"Backup/ARestoreThatBreaksOffIsRefused":               restoreBreaksOff,
	"Backup/OnlyIntoAnEmptyStore":                         backupIntoEmpty,
	"Outbox/RequestsAreTakenOnceInOrder":                  outboxOrder,
	"Outbox/AnErrorPutsThemBack":                          outboxUndone,
	"Outbox/OneThatWaitsIsSeenByAll":                      outboxSeen,
	"Forked/StandsUntilAnEpochBegins":                     forkedStands,
	"Transactions/ViewsAreSnapshots":                      viewsAreSnapshots,
	"Transactions/IssueCannotRevoke":                      issueCannotRevoke,
	"Transactions/APanicIsItsCallersError":                panics,
	"Transactions/AnEndedContextBeginsNothing":            endedContext,
	"Transactions/ACallerWhoLeavesTheQueueChangesNothing": leavesQueue,
	"Transactions/ChangedHints":                           changedHints,
	"Transactions/ClosedStoresRefuse":                     closedRefuses,
}

// Run runs the suite, or only the parts of it that are named. Open makes a new
// harness.
func Run(t *testing.T, open func(t *testing.T) Harness, only ...string) {
	for name, test := range tests {
		if len(only) > 0 && !slices.Contains(only, strings.Split(name, "/")[0]) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			h := open(t)
			h.another = open
			test(t, h)
		})
	}
}

// epoch is the time at which the suite's rows are made.
var epoch = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

var errRefused = errors.New("refused by the test")

func update(t *testing.T, s issuer.Store, fn func(issuer.Tx) error) issuer.Commit {
	t.Helper()
	c, err := s.Update(t.Context(), fn)
	if err != nil {
		t.Fatalf("Update: %v", err)
	}
	return c
}

func view(t *testing.T, s issuer.Store, fn func(issuer.Reader) error) {
	t.Helper()
	if err := s.View(t.Context(), fn); err != nil {
		t.Fatalf("View: %v", err)
	}
}

func head(t *testing.T, s issuer.Store) (l issuer.Log) {
	t.Helper()
	view(t, s, func(r issuer.Reader) (err error) {
		l, err = r.Log()
		return err
	})
	return l
}

func account(subject string) issuer.Account {
	return issuer.Account{
		Subject: subject, Name: subject + "@example.com", Password: "$argon2id$…", Created: epoch, Changed: epoch,
		Claims: []byte(`{"tenant":"acme","roles":["admin","dev"],"level":3}`),
	}
}

func registered(id string) issuer.Client {
	return issuer.Client{
		ID: id, Name: "a client", Method: issuer.SecretBasic, Hash: [32]byte{4}, Previous: [32]byte{5}, PreviousUntil: epoch.Add(time.Hour),
		Keys: []byte(`{"keys":[]}`), Grants: []string{"client_credentials", "refresh_token"}, Scopes: []string{"read", "write"},
		Audience: []string{"orders"}, Created: epoch, LastUsed: epoch,
	}
}

func session(id, subject string) issuer.Session {
	return issuer.Session{
		ID: id, Subject: subject, Client: "web", Device: "laptop", Address: "192.0.2.7",
		Created: epoch, LastUsed: epoch, Expires: epoch.Add(24 * time.Hour), Counter: 1, Secret: [32]byte{1, 2, 3},
		Rotated: epoch, Tokens: []uint32{uint32(epoch.Unix()) + 60, uint32(epoch.Unix()) + 120},
	}
}

func revocation(claim, value string) issuer.Revocation {
	return issuer.Revocation{
		Issuer: "https://issuer.example", Claim: claim, Value: value, Time: epoch,
		Event: "logout", Actor: "user", Reason: "asked",
	}
}

// appending returns an update that revokes values under one claim.
func appending(claim string, values ...string) func(issuer.Tx) error {
	return func(tx issuer.Tx) error {
		for _, v := range values {
			if err := tx.AppendRevocation(revocation(claim, v)); err != nil {
				return err
			}
		}
		return nil
	}
}

// people puts accounts and, for each, sessions named "<subject>-<n>".
func people(sessions int, subjects ...string) func(issuer.Tx) error {
	return func(tx issuer.Tx) error {
		for _, subject := range subjects {
			if err := tx.PutAccount(account(subject)); err != nil {
				return err
			}
			for n := range sessions {
				if err := tx.PutSession(session(subject+"-"+string(rune('0'+n)), subject)); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// check fails the test where an invariant of the store does not hold.
func check(t *testing.T, s issuer.Store) {
	t.Helper()
	if err := Check(context.WithoutCancel(t.Context()), s); err != nil {
		t.Errorf("invariants: %v", err)
	}
}
