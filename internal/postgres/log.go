package postgres

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revset"
)

const (
	// batchOctets is how long the records of a row are at most, but for a single
	// one. PostgreSQL moves rows of 2 kB out of the table, in pieces.
	batchOctets = 1800
	// batchRecords is more than the records of any row. It may not fall, as rows
	// stay as they are.
	batchRecords = batchOctets / (feed.RecordSize + sha256.Size)
	// maxLimit is a limit of which a sum is still a number.
	maxLimit = 1 << 48
)

// span collects the records after a position, out of rows in order of which the
// first may have that position.
type span struct {
	after   uint64
	limit   int
	at      feed.Mark // of after, once it was found
	records []revset.Record
	mark    feed.Mark // of the last record
}

// statement reads what the span may want. Above Log.Pruned no position is left out.
func (s *span) statement() statement {
	return statement{
		query: `SELECT records FROM quash.revocation WHERE last BETWEEN $1 AND $2 ORDER BY last`,
		args:  []any{int64(s.after), int64(s.after) + int64(min(s.limit, maxLimit)) + batchRecords}, take: s.take,
	}
}

func (s *span) take(row pgx.Rows) error {
	return eachBatch(row, func(b issuer.Batch) error {
		return b.Records(func(r revset.Record, digest feed.Digest) error {
			next := s.after + 1 + uint64(len(s.records))
			switch {
			case r.Position == s.after:
				s.at = feed.Mark{Position: r.Position, Digest: digest}
			case r.Position < s.after || len(s.records) == s.limit:
			case r.Position != next:
				return missing(next)
			default:
				s.records, s.mark = append(s.records, r), feed.Mark{Position: r.Position, Digest: digest}
			}
			return nil
		})
	})
}

// settle completes the span with what the log knows of its ends.
func (s *span) settle(l issuer.Log) error {
	switch {
	case s.after == l.Head.Position:
		s.at = l.Head
	case s.after == l.Pruned.Position:
		s.at = l.Pruned
	case s.at == feed.Mark{}:
		return missing(s.after)
	}
	if len(s.records) == 0 {
		s.mark = s.at
	}
	if len(s.records) < s.limit && s.mark.Position < l.Head.Position {
		return missing(s.mark.Position + 1)
	}
	return nil
}

func missing(position uint64) error { return fmt.Errorf("record %d of the log is missing", position) }

// eachBatch calls fn for the records of a row. They are the row's memory.
func eachBatch(row pgx.Rows, fn func(issuer.Batch) error) error {
	var records pgtype.DriverBytes
	if err := row.Scan(&records); err != nil {
		return err
	}
	return fn(issuer.Batch(records))
}

// Records implements [issuer.Reader].
func (r *reader) Records(after uint64, limit int) ([]revset.Record, feed.Mark, error) {
	s, err := r.span(after, max(limit, 0))
	return s.records, s.mark, err
}

// MarkAt implements [issuer.Reader].
func (r *reader) MarkAt(position uint64) (feed.Mark, error) {
	s, err := r.span(position, 0)
	return s.at, err
}

func (r *reader) span(after uint64, limit int) (span, error) {
	if err := r.begin(); err != nil {
		return span{}, err
	}
	l, s := &r.l.log, span{after: after, limit: limit}
	if after < l.Pruned.Position || after > l.Head.Position {
		return span{}, fmt.Errorf("position %d: the live log runs from %d to %d", after, l.Pruned.Position, l.Head.Position)
	}
	if limit > 0 || after != l.Pruned.Position && after != l.Head.Position {
		if err := r.c.ask(s.statement()); err != nil {
			return span{}, err
		}
	}
	if err := s.settle(*l); err != nil {
		return span{}, err
	}
	return s, nil
}

// Live implements [issuer.Reader].
func (r *reader) Live(yield func(revset.Record) error) error {
	return r.each(func(row pgx.Rows) error {
		return eachBatch(row, func(b issuer.Batch) error {
			return b.Records(func(r revset.Record, _ feed.Digest) error { return yield(r) })
		})
	}, `SELECT records FROM quash.revocation ORDER BY last`)
}

// History implements [issuer.Reader].
func (r *reader) History(after uint64, limit int) (list []issuer.Revocation, err error) {
	err = r.each(func(row pgx.Rows) error {
		_, found, err := scanBatch(row)
		for _, r := range found {
			if r.Position > after && len(list) < limit {
				list = append(list, r)
			}
		}
		return err
	}, `
		SELECT `+batchColumns+` FROM (
			SELECT *, sum(count) OVER (ORDER BY last) - count AS passed FROM (
				(SELECT * FROM quash.revocation_archive WHERE last > $1 ORDER BY last LIMIT $2)
				UNION ALL (SELECT * FROM quash.revocation WHERE last > $1 ORDER BY last LIMIT $2)) b
			) b
		WHERE passed < $3 ORDER BY last`, int64(after), max(limit, 0), min(max(limit, 0), maxLimit)+batchRecords)
	return list, err
}

// batch is a row of the log: records that follow each other and are forgotten
// at one time. A row ends wherever the log did after a commit, for as long as it
// is kept: what stores remember of the log is looked for there. (A restore puts
// records together otherwise, and an epoch follows it.)
type batch struct {
	last, forget int64
	count        int32
	digest       []byte
	records      issuer.Batch
}

const batchColumns = `last, count, forget, digest, records`

// scanBatch takes a row, and its revocations. It is an error where the columns say
// other than the records, which alone are sealed.
func scanBatch(row pgx.Rows) (b batch, list []issuer.Revocation, err error) {
	if err := row.Scan(&b.last, &b.count, &b.forget, &b.digest, &b.records); err != nil {
		return batch{}, nil, err
	}
	err = b.records.Revocations(func(r issuer.Revocation) error {
		list = append(list, r)
		return nil
	})
	if err != nil {
		return batch{}, nil, err
	}
	n := len(list)
	if n == 0 || n != int(b.count) || list[n-1].Position != uint64(b.last) || !bytes.Equal(list[n-1].Digest[:], b.digest) ||
		slices.ContainsFunc(list, func(r issuer.Revocation) bool { return int64(r.Forget) != b.forget }) {
		return batch{}, nil, fmt.Errorf("the row of the log that ends at %d was changed: its columns do not belong to its records", b.last)
	}
	return b, list, nil
}

// batches puts sealed revocations into rows.
func batches(list []issuer.Revocation) (rows []batch) {
	var record issuer.Batch
	for i := range list {
		r := &list[i]
		record = record[:0].Append(r)
		n := len(rows) - 1
		if n < 0 || rows[n].forget != int64(r.Forget) || rows[n].last+1 != int64(r.Position) || len(rows[n].records)+len(record) > batchOctets {
			n++
			rows = append(rows, batch{forget: int64(r.Forget), records: make(issuer.Batch, 0, max(batchOctets, len(record)))})
		}
		b := &rows[n]
		b.last, b.count, b.digest, b.records = int64(r.Position), b.count+1, r.Digest[:], append(b.records, record...)
	}
	return rows
}

// insertBatches is the statement that inserts rows into a table.
func insertBatches(table string, rows []batch) statement {
	return statement{
		query: `INSERT INTO quash.` + table + ` (` + batchColumns + `) ` + unnest("bigint", "int", "bigint", "bytea", "bytea"),
		args: []any{
			column(rows, func(b *batch) int64 { return b.last }),
			column(rows, func(b *batch) int32 { return b.count }),
			column(rows, func(b *batch) int64 { return b.forget }),
			column(rows, func(b *batch) []byte { return b.digest }),
			column(rows, func(b *batch) []byte { return b.records }),
		},
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
	var gone, left []batch
	err = t.each(func(row pgx.Rows) error {
		b, list, err := scanBatch(row)
		if err != nil {
			return err
		}
		if room := limit - n; len(list) > room {
			b, left = batches(list[:room])[0], batches(list[room:])
		}
		gone, n = append(gone, b), n+int(b.count)
		return nil
	}, `
		WITH gone AS (
			DELETE FROM quash.revocation WHERE last = ANY(ARRAY(
				SELECT last FROM (
					SELECT last, sum(count) OVER (ORDER BY forget, last) - count AS passed
					FROM (SELECT last, count, forget FROM quash.revocation WHERE forget < $1 ORDER BY forget, last LIMIT $2) b
				) b WHERE passed < $2)) RETURNING *
		)
		SELECT `+batchColumns+` FROM gone ORDER BY forget, last`, now.Unix(), max(limit, 0))
	if err != nil || n == 0 {
		return 0, err
	}
	t.c.queue = append(t.c.queue, insertBatches("revocation_archive", gone))
	if len(left) > 0 {
		t.c.queue = append(t.c.queue, insertBatches("revocation", left))
	}
	for _, b := range gone {
		if uint64(b.last) > t.u.log.Pruned.Position {
			t.u.log.Pruned = mark(b.last, b.digest)
		}
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
		err := t.ask(insertBatches(table, batches(chunks[table])))
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
