package sqlite

import (
	"database/sql"
	"errors"
	"fmt"
	"iter"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revset"
)

// Requested implements [issuer.Reader]. No other program may write the file,
// so there is no outbox that one could put a request into: there are none.
func (r *reader) Requested() (bool, error) { return false, nil }

// Answered implements [issuer.Reader].
func (r *reader) Answered(uint64) (uint64, error) { return 0, issuer.ErrNotFound }

// TakeRequests implements [issuer.Tx].
func (t *tx) TakeRequests(int) ([]issuer.Request, error) { return nil, nil }

// AnswerRequest implements [issuer.Tx].
func (t *tx) AnswerRequest(uint64) error { return issuer.ErrNotFound }

// Epochs implements [issuer.Reader].
func (r *reader) Epochs() ([]issuer.Epoch, error) {
	return all(r.c, func(row scanner) (e issuer.Epoch, err error) {
		var at instant
		var before, begin sql.RawBytes
		err = row.Scan(&e.Number, &e.Log, &at, &e.Reason, &e.Before.Position, &before, &e.Begin.Position, &begin)
		copy(e.Before.Digest[:], before)
		copy(e.Begin.Digest[:], begin)
		e.Time = at.time()
		return e, err
	}, `SELECT number, log_id, time, reason, before, before_digest, begin, begin_digest FROM epoch ORDER BY number`)
}

// BeginEpoch implements [issuer.Tx].
func (t *tx) BeginEpoch(id, reason string) (issuer.Epoch, error) {
	if t.issuing {
		return issuer.Epoch{}, errors.New("begin an epoch: this transaction issues a token; do it in an update of its own")
	}
	l := t.ledger.log
	e := l.Lift(id, reason, t.now)
	if e.Begin.Position >= revset.MaxPosition {
		return issuer.Epoch{}, errors.New("begin an epoch: the log is full: no position is left")
	}
	if err := t.putEpoch(e); err != nil {
		return issuer.Epoch{}, fmt.Errorf("begin an epoch: %w", err)
	}
	l.ID, l.Epoch, l.Head, l.Pruned = e.Log, e.Number, e.Begin, e.Begin
	return e, t.replace(l)
}

func (t *tx) putEpoch(e issuer.Epoch) error {
	_, err := t.c.exec(`
		INSERT INTO epoch (number, log_id, time, reason, before, before_digest, begin, begin_digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		int64(e.Number), e.Log, stamp(e.Time), e.Reason,
		int64(e.Before.Position), e.Before.Digest[:], int64(e.Begin.Position), e.Begin.Digest[:])
	return err
}

// replace makes l what the log says of itself. What is kept in memory of the
// log's end was the end of another.
func (t *tx) replace(l issuer.Log) error {
	if _, err := t.c.exec(`UPDATE meta SET log_id = ?, epoch = ?, hash_secret = ?`, l.ID, int64(l.Epoch), l.HashSecret); err != nil {
		return fmt.Errorf("write what the log is: %w", err)
	}
	t.ledger.log, t.ledger.recent, t.ledger.changed = l, recent{before: l.Head}, true
	return nil
}

// Restore implements [issuer.Tx].
func (t *tx) Restore(l issuer.Log, epochs []issuer.Epoch, records iter.Seq2[issuer.Revocation, error]) error {
	if now := t.ledger.log; t.issuing || now.Head != (feed.Mark{}) || now.Epoch != 1 {
		return errors.New("restore the log: there are records already, or the transaction issues a token; restore into an empty store")
	}
	for _, e := range epochs {
		if err := t.putEpoch(e); err != nil {
			return fmt.Errorf("restore epoch %d: %w", e.Number, err)
		}
	}
	for _, name := range l.Claims {
		if _, err := t.c.exec(`INSERT INTO claim_name VALUES (?)`, name); err != nil {
			return fmt.Errorf("restore the claim name %s: %w", name, err)
		}
	}
	for _, f := range l.Issuers {
		if err := t.insertIssuer(f); err != nil {
			return fmt.Errorf("restore issuer %s: %w", f.Name, err)
		}
	}
	for r, err := range records {
		if err != nil {
			return err
		}
		into := &intoRevocation
		if int64(r.Forget) < t.now.Unix() {
			into = &intoArchive
			if r.Position > l.Pruned.Position {
				l.Pruned = feed.Mark{Position: r.Position, Digest: r.Digest}
			}
		}
		if err := into.write(t.c, appendRow(nil, &r)); err != nil {
			return fmt.Errorf("restore record %d: %w", r.Position, err)
		}
	}
	return t.replace(l)
}
