package postgres

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revset"
)

const selectRecord = `SELECT position, key, before, not_before, forget, digest FROM quash.revocation `

// scanRecord takes the row of selectRecord.
func scanRecord(row pgx.Rows) (r revset.Record, at feed.Mark, err error) {
	var key, digest []byte
	var position, before int64
	err = row.Scan(&position, &key, &before, &r.NotBefore, &r.Forget, &digest)
	copy(r.Key[:], key)
	r.Position, r.Before = uint64(position), uint64(before)
	return r, mark(position, digest), err
}

// readRecords is the query for the records after a position, and collects them.
func readRecords(after uint64, limit int, list *[]revset.Record, at *feed.Mark) statement {
	return statement{
		query: selectRecord + `WHERE position > $1 ORDER BY position LIMIT $2`, args: []any{int64(after), max(limit, 0)},
		take: func(row pgx.Rows) error {
			r, m, err := scanRecord(row)
			if err == nil && r.Position != after+1+uint64(len(*list)) {
				err = fmt.Errorf("record %d of the log is missing", after+1+uint64(len(*list)))
			}
			*list, *at = append(*list, r), m
			return err
		},
	}
}

// Records implements [issuer.Reader].
func (r *reader) Records(after uint64, limit int) (list []revset.Record, at feed.Mark, err error) {
	if at, err = r.MarkAt(after); err != nil {
		return nil, feed.Mark{}, err
	}
	if err := r.c.ask(readRecords(after, limit, &list, &at)); err != nil {
		return nil, feed.Mark{}, err
	}
	return list, at, nil
}

// MarkAt implements [issuer.Reader].
func (r *reader) MarkAt(position uint64) (feed.Mark, error) {
	err := r.begin()
	l := &r.l.log
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
	at, err := one(r, func(row pgx.Rows) (feed.Mark, error) {
		_, at, err := scanRecord(row)
		return at, err
	}, selectRecord+`WHERE position = $1`, int64(position))
	if errors.Is(err, issuer.ErrNotFound) {
		err = fmt.Errorf("record %d of the log is missing", position)
	}
	return at, err
}

// Live implements [issuer.Reader].
func (r *reader) Live(yield func(revset.Record) error) error {
	return r.each(func(row pgx.Rows) error {
		record, _, err := scanRecord(row)
		if err != nil {
			return err
		}
		return yield(record)
	}, selectRecord+`ORDER BY position`)
}

const revocationColumns = `position, issuer, claim, value, before, not_before, keep, time, event, actor, reason, key, forget, digest`

func scanRevocation(row pgx.Rows) (r issuer.Revocation, err error) {
	var key, digest []byte
	var position, before, at int64
	err = row.Scan(&position, &r.Issuer, &r.Claim, &r.Value, &before, &r.NotBefore, &r.Keep, &at,
		&r.Event, &r.Actor, &r.Reason, &key, &r.Forget, &digest)
	copy(r.Key[:], key)
	copy(r.Digest[:], digest)
	r.Position, r.Before, r.Time = uint64(position), uint64(before), instant(at)
	return r, err
}

// History implements [issuer.Reader].
func (r *reader) History(after uint64, limit int) ([]issuer.Revocation, error) {
	return all(r, scanRevocation, `
		(SELECT `+revocationColumns+` FROM quash.revocation_archive WHERE position > $1 ORDER BY position LIMIT $2)
		UNION ALL (SELECT `+revocationColumns+` FROM quash.revocation WHERE position > $1 ORDER BY position LIMIT $2)
		ORDER BY position LIMIT $2`, int64(after), max(limit, 0))
}

// insertRevocations inserts what columnsOf returns.
func insertRevocations(table string) string {
	return `INSERT INTO quash.` + table + ` (` + revocationColumns + `)
		` + unnest("bigint", "text", "text", "text", "bigint", "bigint", "boolean", "bigint", "text", "text", "text", "bytea", "bigint", "bytea")
}

func columnsOf(list []issuer.Revocation) []any {
	return []any{
		column(list, func(r *issuer.Revocation) int64 { return int64(r.Position) }),
		column(list, func(r *issuer.Revocation) string { return r.Issuer }),
		column(list, func(r *issuer.Revocation) string { return r.Claim }),
		column(list, func(r *issuer.Revocation) string { return r.Value }),
		column(list, func(r *issuer.Revocation) int64 { return int64(r.Before) }),
		column(list, func(r *issuer.Revocation) int64 { return int64(r.NotBefore) }),
		column(list, func(r *issuer.Revocation) bool { return r.Keep }),
		column(list, func(r *issuer.Revocation) int64 { return stamp(r.Time) }),
		column(list, func(r *issuer.Revocation) string { return r.Event }),
		column(list, func(r *issuer.Revocation) string { return r.Actor }),
		column(list, func(r *issuer.Revocation) string { return r.Reason }),
		column(list, func(r *issuer.Revocation) []byte { return r.Key[:] }),
		column(list, func(r *issuer.Revocation) int64 { return int64(r.Forget) }),
		column(list, func(r *issuer.Revocation) []byte { return r.Digest[:] }),
	}
}

func column[R, T any](list []R, value func(*R) T) []T {
	values := make([]T, len(list))
	for i := range list {
		values[i] = value(&list[i])
	}
	return values
}

// AppendRevocation implements [issuer.Tx].
func (t *tx) AppendRevocation(r issuer.Revocation) error {
	if t.u.issuing {
		return fmt.Errorf("append revocation: %w", errIssuing)
	}
	if t.c.rehearsing {
		return nil
	}
	if _, err := t.catalog(); err != nil {
		return fmt.Errorf("append revocation: %w", err)
	}
	l := &t.u.log
	switch {
	case l.Head.Position+1 >= revset.MaxPosition:
		return errors.New("append revocation: the log is full: no position is left")
	case !holdable([]any{r.Issuer, r.Claim, r.Value, r.Event, r.Actor, r.Reason}):
		return fmt.Errorf("append revocation: %w", errText)
	}
	if err := t.dirty(); err != nil {
		return err
	}
	if i, used := slices.BinarySearch(l.Claims, r.Claim); !used {
		l.Claims = slices.Insert(slices.Clone(l.Claims), i, r.Claim)
		t.u.names, t.u.recast = append(t.u.names, r.Claim), true
	}
	l.Head = r.Seal(*l)
	t.u.records, t.u.moved, t.last = append(t.u.records, r), true, r.Position
	if t.first == 0 {
		t.first = r.Position
	}
	return nil
}

// SetMaxLifetime implements [issuer.Tx].
func (t *tx) SetMaxLifetime(d time.Duration) error {
	if err := t.dirty(); err != nil {
		return err
	}
	if d <= t.u.log.MaxLifetime {
		return nil
	}
	t.u.log.MaxLifetime, t.u.moved = d, true
	if t.u.issuing {
		return t.write(`UPDATE quash.meta SET max_lifetime = greatest(max_lifetime, $1)`, int64(d))
	}
	return nil
}

// pruneRecords moves records that nothing needs any more to the archive.
func (t *tx) pruneRecords(now time.Time, limit int) (n int, err error) {
	if err := t.dirty(); err != nil {
		return 0, err
	}
	var last feed.Mark
	err = t.each(func(row pgx.Rows) error {
		var position int64
		var digest []byte
		err := row.Scan(&n, &position, &digest)
		last = mark(position, digest)
		return err
	}, `
		WITH gone AS (
			DELETE FROM quash.revocation WHERE position = ANY(ARRAY(
				SELECT position FROM quash.revocation WHERE forget < $1 ORDER BY forget, position LIMIT $2)) RETURNING `+revocationColumns+`
		), kept AS (
			INSERT INTO quash.revocation_archive (`+revocationColumns+`) SELECT `+revocationColumns+` FROM gone
		)
		SELECT (SELECT count(*) FROM gone), position, digest FROM gone ORDER BY position DESC LIMIT 1`, now.Unix(), max(limit, 0))
	if err != nil || n == 0 {
		return 0, err
	}
	if last.Position > t.u.log.Pruned.Position {
		t.u.log.Pruned = last
	}
	t.u.moved = true
	return n, nil
}

// Epochs implements [issuer.Reader].
func (r *reader) Epochs() ([]issuer.Epoch, error) {
	return all(r, func(row pgx.Rows) (e issuer.Epoch, err error) {
		var number, at, before, begin int64
		var beforeDigest, beginDigest []byte
		err = row.Scan(&number, &e.Log, &at, &e.Reason, &before, &beforeDigest, &begin, &beginDigest)
		e.Number, e.Time, e.Before, e.Begin = uint64(number), instant(at), mark(before, beforeDigest), mark(begin, beginDigest)
		return e, err
	}, `SELECT number, log_id, time, reason, before, before_digest, begin, begin_digest FROM quash.epoch ORDER BY number`)
}

// BeginEpoch implements [issuer.Tx].
func (t *tx) BeginEpoch(id, reason string) (issuer.Epoch, error) {
	if t.u.issuing {
		return issuer.Epoch{}, fmt.Errorf("begin an epoch: %w", errIssuing)
	}
	if _, err := t.catalog(); err != nil {
		return issuer.Epoch{}, fmt.Errorf("begin an epoch: %w", err)
	}
	l := &t.u.log
	if l.Head.Position+issuer.EpochLift >= revset.MaxPosition {
		return issuer.Epoch{}, errors.New("begin an epoch: the log is full: no position is left")
	}
	e := l.Lift(id, reason, t.u.now)
	if err := t.putEpoch(e); err != nil {
		return issuer.Epoch{}, fmt.Errorf("begin an epoch: %w", err)
	}
	l.ID, l.Epoch, l.Head, l.Pruned = e.Log, e.Number, e.Begin, e.Begin
	t.u.moved, t.u.recast, t.lifted = true, true, true
	return e, nil
}

func (t *tx) putEpoch(e issuer.Epoch) error {
	return t.write(`
		INSERT INTO quash.epoch (number, log_id, time, reason, before, before_digest, begin, begin_digest) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		int64(e.Number), e.Log, stamp(e.Time), e.Reason,
		int64(e.Before.Position), e.Before.Digest[:], int64(e.Begin.Position), e.Begin.Digest[:])
}

// Restore implements [issuer.Tx].
func (t *tx) Restore(l issuer.Log, epochs []issuer.Epoch, records iter.Seq2[issuer.Revocation, error]) error {
	if _, err := t.catalog(); err != nil {
		return fmt.Errorf("restore the log: %w", err)
	}
	if now := t.u.log; t.u.issuing || now.Head != (feed.Mark{}) || now.Epoch != 1 {
		return errors.New("restore the log: there are records already, or the transaction issues a token; restore into an empty store")
	}
	for _, e := range epochs {
		if err := t.putEpoch(e); err != nil {
			return fmt.Errorf("restore epoch %d: %w", e.Number, err)
		}
	}
	if err := t.write(`INSERT INTO quash.claim_name SELECT unnest($1::text[])`, slices.Clone(l.Claims)); err != nil {
		return fmt.Errorf("restore the claim names: %w", err)
	}
	for _, f := range l.Issuers {
		if err := t.insertIssuer(f); err != nil {
			return fmt.Errorf("restore issuer %s: %w", f.Name, err)
		}
	}
	if err := t.restoreRecords(&l, records); err != nil {
		return err
	}
	t.u.log, t.u.moved, t.u.recast = l, true, true
	return nil
}

// restoreChunk is how many records are inserted together.
const restoreChunk = 1000

func (t *tx) restoreRecords(l *issuer.Log, records iter.Seq2[issuer.Revocation, error]) error {
	chunks := map[string][]issuer.Revocation{}
	put := func(table string) error {
		if len(chunks[table]) == 0 {
			return nil
		}
		_, err := t.exec(insertRevocations(table), columnsOf(chunks[table])...)
		chunks[table] = chunks[table][:0]
		if err != nil {
			return fmt.Errorf("restore records: %w", err)
		}
		return nil
	}
	for r, err := range records {
		if err != nil {
			return err
		}
		table := "revocation"
		if int64(r.Forget) < t.u.now.Unix() {
			table = "revocation_archive"
			if r.Position > l.Pruned.Position {
				l.Pruned = feed.Mark{Position: r.Position, Digest: r.Digest}
			}
		}
		if chunks[table] = append(chunks[table], r); len(chunks[table]) == restoreChunk {
			if err := put(table); err != nil {
				return err
			}
		}
	}
	return errors.Join(put("revocation"), put("revocation_archive"))
}
