package issuer

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// LongestLease is the longest that any node may grant, whatever it is
// configured to.
const LongestLease = 10 * time.Minute

// epochBegun is the event of a log that could not simply go on.
var epochBegun = Event{Name: "epoch_begun"}

// everything names all tokens of the issuer.
func (i *Issuer) everything() Match { return Match{"iss", i.cfg.Issuer} }

// Heal begins a new epoch where the store returns [ErrForked], once, however
// many nodes call it; else it does nothing. Everything issued before is
// revoked, and the sessions end unless Config.KeepSessions has it otherwise,
// because what ended in the part of the log that is lost would live again.
func (i *Issuer) Heal(ctx context.Context) error {
	for {
		var found uint64
		_, err := i.store.Update(ctx, func(tx Tx) error {
			l, err := tx.Log()
			found = l.Epoch
			return err
		})
		if !errors.Is(err, ErrForked) {
			return err
		}
		var begun Epoch
		_, err = i.store.Update(ctx, func(tx Tx) (err error) {
			begun = Epoch{}
			if l, err := tx.Log(); err != nil || l.Epoch != found {
				return err // another node has begun it
			}
			if begun, err = StartEpoch(tx, "the database lost what had been read from it", i.cfg.KeepSessions); err != nil {
				return err
			}
			if err := i.revokeEverything(tx); err != nil {
				return err
			}
			return i.replenish(tx)
		})
		if err == nil && begun.Number != 0 {
			i.epochs.Add(1)
			i.cfg.Logger.Error("alarm: the database lost what this node had read from it: it was restored behind Quash's back, or failed over to a copy that lagged; a new epoch has begun, every token of before is revoked, and nothing is confirmed until every lease of before has ended",
				"epoch", begun.Number, "log", begun.Log, "found", begun.Before.Position, "begin", begun.Begin.Position, "sessions kept", i.cfg.KeepSessions, "wait", LongestLease)
		}
		if err != nil && !errors.Is(err, ErrForked) {
			return err
		}
		// Look again: an epoch of this number may have been among what was
		// lost, and then it takes one with a higher number.
	}
}

// Epochs is how many epochs this process has begun.
func (i *Issuer) Epochs() uint64 { return i.epochs.Load() }

// StartEpoch begins an epoch in a store whose past is not to be relied on. A
// session lives on only if keep has it so, and no token is known of it. Every
// signing key is withdrawn, because one may have been in what is lost, and
// whoever stole it can write any rev. The row of a node that never was stands
// for the leases that are forgotten: it has applied nothing, so nothing is
// confirmed while they may run. Two things are left to [Issuer.Prepare], where
// the caller has no Issuer to do them with: other keys, and the first record of
// the epoch, which revokes everything issued before.
func StartEpoch(tx Tx, reason string, keep bool) (Epoch, error) {
	e, err := tx.BeginEpoch(newID("log_"), reason)
	if err != nil {
		return Epoch{}, err
	}
	ended := 0
	if keep {
		err = tx.ForgetTokens(Match{})
	} else {
		ended, _, err = tx.EndSessions(Match{}, "", tx.Now())
	}
	if err != nil {
		return Epoch{}, err
	}
	if err := withdrawAll(tx); err != nil {
		return Epoch{}, err
	}
	err = tx.PutNode(Node{
		ID: fmt.Sprintf("epoch-%d", e.Number), Lease: LongestLease, Started: tx.Now(),
		Owed: "verifiers that were granted leases before the epoch began, and that nobody knows of",
	})
	if err != nil {
		return Epoch{}, err
	}
	detail, err := compact(map[string]any{"epoch": e.Number, "found": e.Before.Position, "begin": e.Begin.Position, "sessions_ended": ended, "sessions_kept": keep})
	if err != nil {
		return Epoch{}, err
	}
	return e, tx.AppendAudit(AuditEntry{Time: tx.Now(), Event: epochBegun.Name, Actor: system.Name, Reason: reason, Detail: detail})
}

// withdrawAll withdraws every signing key.
func withdrawAll(tx Tx) error {
	keys, err := tx.SigningKeys()
	if err != nil {
		return err
	}
	for _, k := range keys {
		setDefault(&k.Retired, k.Retired.IsZero(), tx.Now())
		k.Withdrawn, k.Sealed = true, nil
		if err := tx.PutSigningKey(k); err != nil {
			return err
		}
	}
	return nil
}

// revokeEverything makes the first records of an epoch.
func (i *Issuer) revokeEverything(tx Tx) error {
	const reason = "everything issued before the epoch began"
	all := i.everything()
	err := tx.AppendRevocation(Revocation{
		Issuer: i.cfg.Issuer, Claim: all.Claim, Value: all.Value,
		Time: tx.Now(), Event: epochBegun.Name, Actor: system.Name, Reason: reason,
	})
	if err != nil {
		return err
	}
	l, err := tx.Log()
	for _, f := range l.Issuers {
		if err == nil {
			err = revokeIssuer(tx, f.Name, epochBegun, system, reason)
		}
	}
	return err
}

// finishEpoch revokes everything issued before the epoch where it has no record
// yet.
func (i *Issuer) finishEpoch(tx Tx) error {
	l, err := tx.Log()
	if err != nil {
		return err
	}
	epochs, err := tx.Epochs()
	if err != nil || len(epochs) == 0 || epochs[len(epochs)-1].Begin != l.Head {
		return err
	}
	return i.revokeEverything(tx)
}

var backupTaken = Event{Name: "backup_taken"}

// NoteBackup notes in the audit that somebody reads all that there is.
func (i *Issuer) NoteBackup(ctx context.Context, by Actor) error {
	_, err := i.store.Update(ctx, func(tx Tx) error {
		return tx.AppendAudit(AuditEntry{Time: tx.Now(), Event: backupTaken.Name, Actor: by.Name, Address: by.Address})
	})
	return explain("audit entry", err)
}

// errUnfinished is why a store is refused whose restoring broke off.
var errUnfinished = errors.New("the restore of a backup into this store broke off, so that only a part is there: restore again, into an empty store")

// checkWhole refuses a store that was filled and never finished. The log is
// restored last, and it says what the longest lifetime of tokens was.
func checkWhole(rd Reader) error {
	l, err := rd.Log()
	if err != nil || l.MaxLifetime != 0 {
		return err
	}
	filled, err := Filled(rd)
	if err == nil && filled {
		err = errUnfinished
	}
	return err
}

// Filled reports whether a store has anything that a server or a restore writes.
func Filled(rd Reader) (bool, error) {
	l, err := rd.Log()
	if err != nil || l.MaxLifetime != 0 || l.Epoch != 1 || l.Head.Position != 0 {
		return true, err
	}
	accounts, err := rd.Accounts("", 1)
	if err != nil || len(accounts) > 0 {
		return true, err
	}
	keys, err := rd.APIKeys()
	if err != nil || len(keys) > 0 {
		return true, err
	}
	clients, err := rd.Clients()
	if err != nil || len(clients) > 0 {
		return true, err
	}
	noted, err := rd.Audit(AuditQuery{Limit: 1})
	return len(noted) > 0, err
}
