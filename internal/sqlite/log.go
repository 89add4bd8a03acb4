package sqlite

import (
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revset"
)

// loadLedger reads the part of the ledger that is the log's own.
func loadLedger(c *conn) (ledger, error) {
	l, err := one(c, scanLedger,
		`SELECT log_id, epoch, hash_secret, head, digest, pruned, pruned_digest, max_lifetime, group_id FROM meta`)
	if err != nil {
		return ledger{}, err
	}
	if l.log.Claims, err = all(c, text, `SELECT name FROM claim_name ORDER BY name`); err != nil {
		return ledger{}, err
	}
	l.log.Issuers, err = all(c, scanIssuer, `SELECT name, max_lifetime, same_subjects FROM issuer ORDER BY name`)
	return l, err
}

// complete reads the rest of the ledger. It has no record: those from before
// are read where they are asked for.
func (l *ledger) complete(c *conn) (err error) {
	r := reader{c: c}
	if l.keys, err = r.SigningKeys(); err != nil {
		return err
	}
	l.nodes, err = r.Nodes()
	l.recent = recent{before: l.log.Head}
	return err
}

func scanLedger(row scanner) (l ledger, err error) {
	var head, pruned sql.RawBytes
	err = row.Scan(&l.log.ID, &l.log.Epoch, &l.log.HashSecret, &l.log.Head.Position, &head,
		&l.log.Pruned.Position, &pruned, &l.log.MaxLifetime, &l.group)
	copy(l.log.Head.Digest[:], head)
	copy(l.log.Pruned.Digest[:], pruned)
	return l, err
}

// save writes what the group changed of the log as a whole, and its id.
func (l *ledger) save(c *conn) error {
	if err := l.unwritten.flush(c); err != nil {
		return err
	}
	_, err := c.exec(`UPDATE meta SET head = ?, digest = ?, pruned = ?, pruned_digest = ?, max_lifetime = ?, group_id = ?`,
		int64(l.log.Head.Position), l.log.Head.Digest[:], int64(l.log.Pruned.Position), l.log.Pruned.Digest[:],
		int64(l.log.MaxLifetime), int64(l.group))
	return err
}

// Log implements [issuer.Reader].
func (r *reader) Log() (issuer.Log, error) {
	if r.log == nil {
		l, err := loadLedger(r.c)
		if err != nil {
			return issuer.Log{}, fmt.Errorf("read the log's head: %w", err)
		}
		r.log = &l.log
	}
	l := *r.log
	l.HashSecret, l.Claims, l.Issuers = slices.Clone(l.HashSecret), slices.Clone(l.Claims), slices.Clone(l.Issuers)
	return l, nil
}

const selectRecord = `SELECT position, key, before, not_before, forget, digest FROM revocation `

type digested struct {
	revset.Record
	digest feed.Digest
}

func scanRecord(row scanner) (d digested, err error) {
	var key, digest sql.RawBytes
	var before int64
	err = row.Scan(&d.Position, &key, &before, &d.NotBefore, &d.Forget, &digest)
	copy(d.Key[:], key)
	copy(d.digest[:], digest)
	d.Before = uint64(before)
	return d, err
}

// Records implements [issuer.Reader].
func (r *reader) Records(after uint64, limit int) ([]revset.Record, feed.Mark, error) {
	mark, err := r.MarkAt(after)
	if err != nil {
		return nil, feed.Mark{}, err
	}
	if err := r.flush(); err != nil {
		return nil, feed.Mark{}, err
	}
	var list []revset.Record
	err = r.c.each(func(rows *sql.Rows) error {
		d, err := scanRecord(rows)
		if err == nil && d.Position != mark.Position+1 {
			err = fmt.Errorf("record %d of the log is missing", mark.Position+1)
		}
		list = append(list, d.Record)
		mark = feed.Mark{Position: d.Position, Digest: d.digest}
		return err
	}, selectRecord+`WHERE position > ? ORDER BY position LIMIT ?`, int64(after), max(limit, 0))
	if err != nil {
		return nil, feed.Mark{}, err
	}
	return list, mark, nil
}

// MarkAt implements [issuer.Reader].
func (r *reader) MarkAt(position uint64) (feed.Mark, error) {
	l, err := r.Log()
	switch {
	case err != nil:
		return feed.Mark{}, err
	case position == l.Head.Position:
		return l.Head, nil
	case position == l.Pruned.Position:
		return l.Pruned, nil
	case position < l.Pruned.Position || position > l.Head.Position:
		return feed.Mark{}, fmt.Errorf("position %d: the live log runs from %d to %d", position, l.Pruned.Position, l.Head.Position)
	}
	if err := r.flush(); err != nil {
		return feed.Mark{}, err
	}
	d, err := one(r.c, scanRecord, selectRecord+`WHERE position = ?`, int64(position))
	if errors.Is(err, issuer.ErrNotFound) {
		err = fmt.Errorf("record %d of the log is missing", position)
	}
	return feed.Mark{Position: position, Digest: d.digest}, err
}

// Live implements [issuer.Reader].
func (r *reader) Live(yield func(revset.Record) error) error {
	if err := r.flush(); err != nil {
		return err
	}
	return r.c.each(func(rows *sql.Rows) error {
		d, err := scanRecord(rows)
		if err != nil {
			return err
		}
		return yield(d.Record)
	}, selectRecord+`ORDER BY position`)
}

const columns = `position, issuer, claim, value, before, not_before, keep, time, event, actor, reason, key, forget, digest`

func scanRevocation(row scanner) (r issuer.Revocation, err error) {
	var key, digest sql.RawBytes
	var before int64
	var at instant
	err = row.Scan(&r.Position, &r.Issuer, &r.Claim, &r.Value, &before, &r.NotBefore, &r.Keep, &at,
		&r.Event, &r.Actor, &r.Reason, &key, &r.Forget, &digest)
	copy(r.Key[:], key)
	copy(r.Digest[:], digest)
	r.Before, r.Time = uint64(before), at.time()
	return r, err
}

// History implements [issuer.Reader].
func (r *reader) History(after uint64, limit int) ([]issuer.Revocation, error) {
	if err := r.flush(); err != nil {
		return nil, err
	}
	return all(r.c, scanRevocation, `
		SELECT `+columns+` FROM revocation_archive WHERE position > ?1
		UNION ALL SELECT `+columns+` FROM revocation WHERE position > ?1
		ORDER BY position LIMIT ?2`, int64(after), max(limit, 0))
}

// AppendRevocation implements [issuer.Tx].
func (t *tx) AppendRevocation(r issuer.Revocation) error {
	if t.issuing {
		return errors.New("append revocation: this transaction issues a token; revoke in an update of its own")
	}
	l := &t.ledger.log
	if l.Head.Position+1 >= revset.MaxPosition {
		return errors.New("append revocation: the log is full: no position is left")
	}
	mark := r.Seal(*l)
	if i, used := slices.BinarySearch(l.Claims, r.Claim); !used {
		if _, err := t.c.exec(`INSERT INTO claim_name VALUES (?)`, r.Claim); err != nil {
			return fmt.Errorf("append revocation: claim name: %w", err)
		}
		l.Claims = slices.Insert(slices.Clone(l.Claims), i, r.Claim)
	}
	l.Head, t.last, t.ledger.changed = mark, r.Position, true
	t.ledger.recent.append(r.Record(), r.Digest)
	if t.first == 0 {
		t.first = r.Position
	}
	return t.ledger.unwritten.revocation(t.c, &r)
}

// appendRow appends the values of a sealed record to those of other rows.
func appendRow(args []any, r *issuer.Revocation) []any {
	return append(args, int64(r.Position), r.Issuer, r.Claim, r.Value, int64(r.Before), r.NotBefore, r.Keep, stamp(r.Time),
		r.Event, r.Actor, r.Reason, r.Key[:], r.Forget, r.Digest[:])
}

// SetMaxLifetime implements [issuer.Tx].
func (t *tx) SetMaxLifetime(d time.Duration) error {
	if d > t.ledger.log.MaxLifetime {
		t.ledger.log.MaxLifetime = d
		t.ledger.changed, t.c.wrote = true, true
	}
	return nil
}

// pruneRecords moves records that nothing needs any more to the archive.
func (t *tx) pruneRecords(now time.Time, limit int) (int, error) {
	if err := t.flush(); err != nil {
		return 0, err
	}
	const doomed = ` FROM revocation WHERE forget < ? ORDER BY forget, position LIMIT ?`
	args := []any{now.Unix(), max(limit, 0)}
	last, err := one(t.c, scanRevocation, `SELECT `+columns+` FROM (SELECT *`+doomed+`) ORDER BY position DESC LIMIT 1`, args...)
	if errors.Is(err, issuer.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if _, err := t.c.exec(`INSERT INTO revocation_archive (`+columns+`) SELECT `+columns+doomed, args...); err != nil {
		return 0, err
	}
	n, err := t.c.exec(`DELETE FROM revocation WHERE position IN (SELECT position`+doomed+`)`, args...)
	if err != nil {
		return 0, err
	}
	if last.Position > t.ledger.log.Pruned.Position {
		t.ledger.log.Pruned = feed.Mark{Position: last.Position, Digest: last.Digest}
	}
	t.ledger.changed = true
	return n, nil
}
